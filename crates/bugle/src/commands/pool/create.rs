//! `bugle pool create`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bugle_api::{CreatePoolsRequest, PoolInfo, PoolRequest, ResourceAmounts};
use clap::Args;

use super::{Wait, file, wait};
use crate::failure::{Failure, Outcome, exit};
use crate::output;
use crate::session::Session;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the pool.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    id: Option<String>,
    /// A YAML or JSON file with pools; - reads standard input. `bugle pool schema` describes it.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    /// Waits until the pools have the workers they ask for.
    #[arg(long)]
    wait: bool,
    /// Prints the Kubernetes objects that the pools would become, by this machine's configuration, and creates nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

/// A pool, as flags say it.
#[derive(Args, Debug)]
struct Flags {
    /// How many workers it keeps.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "file")]
    size: u32,
    /// How many workers it grows to on demand; as many as it keeps when it is not given.
    #[arg(long, value_name = "N", conflicts_with = "file")]
    max_size: Option<u32>,
    /// The group, which functions choose by.
    #[arg(long, value_name = "GROUP", conflicts_with = "file")]
    group: Option<String>,
    /// CPU of a worker, requested and as limit.
    #[arg(
        long,
        value_name = "QUANTITY",
        default_value = "500m",
        conflicts_with = "file"
    )]
    cpu: String,
    /// Memory of a worker, requested and as limit.
    #[arg(
        long,
        value_name = "QUANTITY",
        default_value = "512Mi",
        conflicts_with = "file"
    )]
    memory: String,
    /// The image of the workers, on Kubernetes.
    #[arg(long, value_name = "IMAGE", conflicts_with = "file")]
    image: Option<String>,
    /// A label of the workers; may be given more than once.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "file")]
    labels: Vec<(String, String)>,
    /// A variable of the workers, on Kubernetes; may be given more than once.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "file")]
    environment: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Flags {
    fn pool(&self, id: &str) -> PoolRequest {
        let amounts = [("cpu", &self.cpu), ("memory", &self.memory)];
        let amounts: BTreeMap<_, _> = amounts
            .map(|(name, amount)| (name.to_owned(), amount.clone()))
            .into();
        PoolRequest {
            id: id.to_owned(),
            group: self.group.clone().unwrap_or_default(),
            size: self.size.into(),
            max_size: self.max_size.map(i64::from).unwrap_or_default(),
            image: self.image.clone().unwrap_or_default(),
            labels: Some(self.labels.iter().cloned().collect()),
            environment: Some(self.environment.iter().cloned().collect()),
            resources: ResourceAmounts {
                limits: Some(amounts.clone()),
                requests: Some(amounts),
            },
            ..PoolRequest::default()
        }
    }
}

pub(super) async fn run(session: &Session, arguments: &Create) -> Outcome {
    let pools = match (&arguments.file, &arguments.id) {
        (Some(path), _) => file::read(path)?,
        (None, Some(id)) => vec![arguments.flags.pool(id)],
        (None, None) => return Err(Failure::usage("a pool has a name")),
    };
    if arguments.dry_run {
        return show_manifests(&pools);
    }
    let request = CreatePoolsRequest { pools };
    let create = session.control.create_pools(&request);
    let answer = session.perform(create).await?;
    let failed = answer.result.failed_pools.clone().unwrap_or_default();
    let stored = stored(&request.pools, &failed);
    if !failed.is_empty() {
        if !stored.is_empty() {
            session.note(&format!("created {}", stored.join(", ")));
        }
        return Err(Failure::new(exit::REFUSED, answer.message));
    }
    if !arguments.wait {
        return output::show(session.format, &answer.result, || {
            format!("created {}", stored.join(", "))
        });
    }
    for id in stored {
        let until = Wait {
            id: id.to_owned(),
            deleted: false,
            timeout: PATIENCE,
        };
        wait(session, &until).await?;
    }
    Ok(())
}

/// The names of the pools that did not fail. One that was asked for twice may have failed once.
fn stored<'a>(asked: &'a [PoolRequest], failed: &[String]) -> Vec<&'a str> {
    let mut failed: Vec<&str> = failed.iter().map(String::as_str).collect();
    // From behind, as of two with the same name the first one is stored.
    let mut stored: Vec<&str> = Vec::new();
    for pool in asked.iter().rev() {
        match failed.iter().rposition(|failed| *failed == pool.id) {
            Some(at) => _ = failed.remove(at),
            None => stored.push(&pool.id),
        }
    }
    stored.reverse();
    stored
}

/// Prints what the pools would become, as a stream of YAML documents.
fn show_manifests(pools: &[PoolRequest]) -> Outcome {
    let config = Settings::default().load()?.config;
    let mut text = String::new();
    for pool in pools {
        let refused = |why: String| Failure::new(exit::REFUSED, format!("pool {}: {why}", pool.id));
        let spec = PoolInfo::from(pool.clone()).spec();
        let spec = spec.map_err(|mistakes| refused(mistakes.join("; ")))?;
        for ignored in &spec.ignored {
            output::note(&format!("pool {}: ignored: {ignored}", pool.id));
        }
        for manifest in bugle_server::pool_manifests(&config, &spec).map_err(refused)? {
            let manifest = serde_yaml_ng::to_string(&manifest);
            let manifest =
                manifest.map_err(|error| Failure::new(exit::REFUSED, error.to_string()))?;
            text.extend(["---\n", &manifest]);
        }
    }
    output::line(text.trim_end())
}

/// How long `--wait` waits for each pool, in seconds.
const PATIENCE: u64 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pool_that_was_asked_for_twice_the_one_that_was_stored_is_named() {
        let asked = ["a", "b", "a"].map(|id| PoolRequest {
            id: id.to_owned(),
            ..PoolRequest::default()
        });
        let stored = |failed: &[&str]| {
            let failed: Vec<String> = failed.iter().map(|id| (*id).to_owned()).collect();
            super::stored(&asked, &failed).join(", ")
        };
        assert_eq!(stored(&[]), "a, b, a");
        assert_eq!(stored(&["a"]), "a, b");
        assert_eq!(stored(&["a", "a"]), "b");
        assert_eq!(stored(&["a", "b", "a"]), "");
    }
}
