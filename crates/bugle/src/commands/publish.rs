//! `bugle publish`: makes a version of the draft that never changes.

use bugle_api::PublishRequest;
use clap::Args;

use crate::failure::Outcome;
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle publish hello v1 --description 'first release'")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// The version's label; made from the time when it is missing.
    label: Option<String>,
    /// What the version is.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let name = names::full(&arguments.name);
    let draft = session.control.function(&name, None).send().await?;
    let request = PublishRequest {
        revision_id: Some(draft.revision_id),
        version_number: arguments.label.clone(),
        version_desc: arguments.description.clone(),
        kind: Some(draft.kind),
    };
    let version = session
        .perform(session.control.publish(&name, &request))
        .await?;
    session.note(&format!(
        "published {} {}",
        version.name, version.version_number
    ));
    output::show(session.format, &version, || {
        version.function_version_urn.clone()
    })
}
