//! `bugle pool`: pools of workers.

mod create;
mod file;

use std::path::PathBuf;
use std::time::Duration;

use bugle_api::{IdleRecycleTime, PoolInfo, Texts, UpdatePoolRequest};
use bugle_types::pool::PoolStatus;
use clap::{Args, Subcommand};
use tokio::time::Instant;

use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::numbers;
use crate::output;
use crate::session::Session;

/// Pools of one page of a list.
const PAGE: usize = 1000;

/// How often `wait` looks.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  bugle pool create small --size 2 --cpu 500m --memory 256Mi --wait
  bugle pool create -f pools.yaml
  bugle pool resize small --size 3")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Pool,
}

#[derive(Subcommand, Debug)]
enum Pool {
    /// Creates pools, one from flags or all of a file.
    Create(Box<create::Create>),
    /// Lists the pools, the one changed last first.
    List {
        /// Only those of this group.
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
    },
    /// Shows everything about a pool.
    Describe {
        /// Name of the pool.
        #[arg(value_parser = names::given)]
        id: String,
    },
    /// Changes how many workers a pool has, or what its autoscaler is to do.
    Resize(Resize),
    /// Deletes a pool, or all pools of a group.
    Delete(Delete),
    /// Waits until a pool has the workers it asks for, or until it is gone.
    Wait(Wait),
    /// Prints the JSON Schema of the file that `create -f` reads.
    Schema,
}

#[derive(Args, Debug)]
struct Resize {
    /// Name of the pool.
    #[arg(value_parser = names::given)]
    id: String,
    /// How many workers it keeps.
    #[arg(long, value_name = "N", required_unless_present_any = ["max_size", "autoscaler"])]
    size: Option<u32>,
    /// How many workers it grows to; only of a pool that was made to grow.
    #[arg(long, value_name = "N")]
    max_size: Option<u32>,
    /// A YAML or JSON file with a `HorizontalPodAutoscalerSpec`; - reads standard input. Not of a pool that
    /// was made to grow.
    #[arg(long, value_name = "FILE")]
    autoscaler: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Delete {
    /// Name of the pool.
    #[arg(required_unless_present = "group", value_parser = names::given)]
    id: Option<String>,
    /// All pools of this group; with a name, that pool if it is of the group.
    #[arg(long, value_name = "GROUP", value_parser = names::given)]
    group: Option<String>,
}

#[derive(Args, Debug)]
struct Wait {
    /// Name of the pool.
    #[arg(value_parser = names::given)]
    id: String,
    /// Until it is gone.
    #[arg(long)]
    deleted: bool,
    /// The longest to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = numbers::from::<0, u64>)]
    timeout: u64,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Pool::Create(arguments) => create::run(session, arguments).await,
        Pool::List { group } => list(session, group.as_deref()).await,
        Pool::Describe { id } => {
            let pool = find(session, id).await?.ok_or_else(|| unknown(id))?;
            output::show(session.format, &pool, || described(&pool))
        }
        Pool::Resize(Resize {
            id,
            size,
            max_size,
            autoscaler,
        }) => {
            let autoscaler = autoscaler.as_deref().map(file::autoscaler);
            let request = UpdatePoolRequest {
                size: size.map(i64::from),
                max_size: max_size.map(i64::from),
                horizontal_pod_autoscaler_spec: autoscaler.transpose()?,
            };
            let resize = session.control.update_pool(id, &request);
            session.perform(resize).await?;
            if max_size.is_some() && find(session, id).await?.is_some_and(|pool| !pool.scalable) {
                session.note(&format!(
                    "--max-size is ignored: {id} was not made to grow, which is decided when a pool is created"
                ));
            }
            session.note("accepted; `bugle pool wait` waits until it is done");
            Ok(())
        }
        Pool::Delete(Delete { id, group }) => {
            let delete = session
                .control
                .delete_pools(id.as_deref(), group.as_deref());
            session.perform(delete).await?;
            session.note("accepted; `bugle pool wait --deleted` waits until it is done");
            Ok(())
        }
        Pool::Wait(arguments) => wait(session, arguments).await,
        Pool::Schema => output::line(file::SCHEMA.trim_end()),
    }
}

async fn list(session: &Session, group: Option<&str>) -> Outcome {
    let list = session.control.pools(None, group, 1, PAGE);
    let list = session.perform(list).await?;
    let pools = list.pools.clone().unwrap_or_default();
    output::show(session.format, &list, || {
        let rows = pools.iter().map(|pool| {
            [
                pool.id.clone(),
                pool.group.clone(),
                format!("{}/{}", pool.ready_count, pool.size),
                pool.max_size.to_string(),
                status(pool),
                pool.msg.clone(),
            ]
        });
        output::table(["POOL", "GROUP", "READY", "MAX", "STATUS", "MESSAGE"], rows)
    })?;
    if list.count > pools.len() {
        session.note(&format!("{} of {} pools", pools.len(), list.count));
    }
    if list.count == 0 {
        session.note("no pool; `bugle pool create NAME --size 1` makes one");
    }
    Ok(())
}

async fn find(session: &Session, id: &str) -> Outcome<Option<PoolInfo>> {
    let list = session.control.pools(Some(id), None, 1, 1);
    let list = session.perform(list).await?;
    Ok(list.pools.unwrap_or_default().into_iter().next())
}

fn unknown(id: &str) -> Failure {
    Failure::new(exit::NOT_FOUND, format!("there is no pool {id}"))
        .hint("`bugle pool list` shows the pools")
}

fn status(pool: &PoolInfo) -> String {
    match PoolStatus::from_number(pool.status) {
        Some(status) => status.to_string(),
        None => pool.status.to_string(),
    }
}

/// What is known of a pool, a line each; what is not set is left out.
fn described(pool: &PoolInfo) -> String {
    let pairs = |texts: &Texts| {
        let texts = texts.iter().flatten();
        let texts: Vec<_> = texts
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        texts.join(" ")
    };
    let time = |seconds: i64| match seconds {
        -1 => "never".to_owned(),
        0 => String::new(),
        seconds => format!("{seconds} s"),
    };
    let IdleRecycleTime { reserved, scaled } = pool.idle_recycle_time;
    let idle = [("kept", reserved), ("made on demand", scaled)];
    let idle = idle.into_iter().filter(|(_, seconds)| *seconds != 0);
    let idle: Vec<_> = idle
        .map(|(which, seconds)| format!("{which}: {}", time(seconds)))
        .collect();
    let lines = [
        ("pool", pool.id.clone()),
        ("group", pool.group.clone()),
        ("status", status(pool)),
        ("message", pool.msg.clone()),
        ("ready", format!("{} of {}", pool.ready_count, pool.size)),
        ("grows to", pool.max_size.to_string()),
        ("reuse", if pool.reuse { "yes" } else { "" }.to_owned()),
        ("idle ones go", idle.join(", ")),
        ("pending alarm", time(pool.pod_pending_duration_threshold)),
        ("requests", pairs(&pool.resources.requests)),
        ("limits", pairs(&pool.resources.limits)),
        ("labels", pairs(&pool.labels)),
        ("variables", pairs(&pool.environment)),
        ("node selector", pairs(&pool.node_selector)),
        ("image", pool.image.clone()),
        ("init image", pool.init_image.clone()),
        ("runtime class", pool.runtime_class_name.clone()),
        ("volumes", pool.volumes.clone()),
        ("mounts", pool.volume_mounts.clone()),
        ("affinities", pool.affinities.clone()),
        ("tolerations", pool.tolerations.clone()),
        ("autoscaler", pool.horizontal_pod_autoscaler_spec.clone()),
        ("spread", pool.topology_spread_constraints.clone()),
    ];
    let shown = lines.into_iter().filter(|(_, text)| !text.is_empty());
    let shown: Vec<_> = shown
        .map(|(name, text)| format!("{name:<14}{text}"))
        .collect();
    shown.join("\n")
}

async fn wait(session: &Session, arguments: &Wait) -> Outcome {
    let Wait {
        id,
        deleted,
        timeout,
    } = arguments;
    // A time beyond all clocks never comes.
    let until = Instant::now().checked_add(Duration::from_secs(*timeout));
    loop {
        let found = find(session, id).await?;
        let said = match (&found, deleted) {
            (None, true) => return Ok(()),
            (None, false) => return Err(unknown(id)),
            (Some(pool), true) => told(pool),
            (Some(pool), false) if is_complete(pool) => {
                return output::show(session.format, pool, || {
                    format!(
                        "{id}: {} of {} workers are ready",
                        pool.ready_count, pool.size
                    )
                });
            }
            (Some(pool), false) if pool.status == i64::from(PoolStatus::Failed.number()) => {
                return Err(Failure::new(exit::REFUSED, format!("{id}: {}", pool.msg)));
            }
            (Some(pool), false) => told(pool),
        };
        if until.is_some_and(|until| Instant::now() + LOOK > until) {
            let what = if *deleted {
                "is still there"
            } else {
                "has not all of its workers"
            };
            let text = format!("{id} {what} after {timeout} s; {said}");
            return Err(Failure::new(exit::TIMEOUT, text));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How a pool is, in words; its message mostly begins with its status.
fn told(pool: &PoolInfo) -> String {
    let status = status(pool);
    match pool.msg.as_str() {
        "" => status,
        msg if msg.starts_with(&status) => msg.to_owned(),
        msg => format!("{status}: {msg}"),
    }
}

fn is_complete(pool: &PoolInfo) -> bool {
    pool.status == i64::from(PoolStatus::Running.number()) && pool.ready_count >= pool.size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_once() {
        let pool = |status, msg: &str| PoolInfo {
            status,
            msg: msg.to_owned(),
            ..PoolInfo::default()
        };
        for (pool, text) in [
            (pool(0, ""), "Pending"),
            (pool(1, "Creating: 0 of 1"), "Creating: 0 of 1"),
            (pool(6, "Deleting"), "Pending Deletion: Deleting"),
        ] {
            assert_eq!(told(&pool), text);
        }
    }

    #[test]
    fn a_description_has_what_is_set() {
        let pool = PoolInfo {
            reuse: true,
            pod_pending_duration_threshold: 30,
            idle_recycle_time: IdleRecycleTime {
                reserved: -1,
                scaled: 60,
            },
            ..PoolInfo::default()
        };
        let text = described(&pool);
        for line in [
            "reuse         yes",
            "idle ones go  kept: never, made on demand: 60 s",
            "pending alarm 30 s",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!described(&PoolInfo::default()).contains("idle"));
    }
}
