//! `bugle reserve`: instances that are kept for calls with a label.

use bugle_api::{InstanceConfig, ReservationRequest};
use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle reserve set hello gold --min 1 --max 4")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

impl Arguments {
    pub(crate) fn name(&self) -> &str {
        match &self.action {
            Action::Set { name, .. } | Action::List { name, .. } | Action::Delete { name, .. } => {
                name
            }
        }
    }
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Sets how many instances a label has.
    Set {
        /// Name of the function.
        name: String,
        /// The label; calls name it in the header X-Instance-Label.
        label: String,
        /// Instances that are kept.
        #[arg(long, value_name = "N", default_value_t = 0)]
        min: u32,
        /// The most instances.
        #[arg(long, value_name = "N")]
        max: u32,
        /// The version.
        #[arg(long, value_name = "VERSION", default_value = "latest")]
        version: String,
    },
    /// Lists the labels of a function.
    List {
        /// Name of the function.
        name: String,
        /// The version.
        #[arg(long, value_name = "VERSION", default_value = "latest")]
        version: String,
    },
    /// Removes a label.
    Delete {
        /// Name of the function.
        name: String,
        /// The label; all of them when it is missing.
        label: Option<String>,
        /// The version.
        #[arg(long, value_name = "VERSION", default_value = "latest")]
        version: String,
    },
}

fn request(name: &str, version: &str, label: &str) -> ReservationRequest {
    ReservationRequest {
        func_name: names::full(name),
        version: version.to_owned(),
        instance_label: label.to_owned(),
        instance_config_infos: Vec::new(),
    }
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    match &arguments.action {
        Action::Set {
            name,
            label,
            min,
            max,
            version,
        } => {
            let mut request = request(name, version, label);
            request.instance_config_infos.push(InstanceConfig {
                min_instance: i64::from(*min),
                max_instance: i64::from(*max),
                ..InstanceConfig::default()
            });
            let stored = session.perform(session.control.reserve(&request)).await?;
            let shown = format!("{label}: {min} to {max} instances");
            output::show(session.format, &stored, || shown)
        }
        Action::List { name, version } => {
            let wanted = request(name, version, "");
            let list = session
                .perform(session.control.reservations(&wanted))
                .await?;
            output::show(session.format, &list, || {
                let rows = list.results.iter().flat_map(|label| {
                    label.instance_config_infos.iter().map(|bounds| {
                        [
                            label.instance_label.clone(),
                            bounds.cluster_id.clone(),
                            bounds.min_instance.to_string(),
                            bounds.max_instance.to_string(),
                        ]
                    })
                });
                output::table(["LABEL", "CLUSTER", "MIN", "MAX"], rows)
            })
        }
        Action::Delete {
            name,
            label,
            version,
        } => {
            let label = label.as_deref().unwrap_or_default();
            let which = request(name, version, label);
            session
                .perform(session.control.delete_reservation(&which))
                .await?;
            session.note("removed");
            Ok(())
        }
    }
}
