//! `bugle dev`: a folder as a running function, deployed again on each save.
//!
//! It talks to the platform that runs, or runs one itself for as long as it lasts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bugle_client::Error;
use bugle_server::Running;
use clap::Args;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::{deploy, invoke, logs, serve};
use crate::arguments::{Format, Global};
use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::output;
use crate::session::Session;
use crate::settings::Settings;

/// Editors write a file in several steps; what follows within this belongs together.
const SETTLE: Duration = Duration::from_millis(100);

/// News of saves that nobody has taken yet; one says as much as many.
const NEWS: usize = 1;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle dev hello
  bugle dev examples/hello --once --invoke '{\"name\": \"world\"}'")]
pub(crate) struct Arguments {
    /// The function's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Calls the function with this event after it was deployed, and prints the answer.
    #[arg(long, value_name = "EVENT")]
    invoke: Option<String>,
    /// Stops after the first deployment and call instead of watching.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    serve::runtime()?.block_on(async {
        let asked = serve::asked_to_stop()?;
        let (session, platform) = platform(arguments, global).await?;
        let outcome = tokio::select! {
            biased;
            () = asked => Err(Failure::new(exit::INTERRUPTED, "")),
            outcome = develop(&session, arguments) => outcome,
        };
        if let Some(platform) = platform {
            let stopped = platform.stopped(std::future::ready(())).await;
            stopped.map_err(|text| Failure::new(exit::REFUSED, text))?;
        }
        outcome
    })
}

/// The platform that runs, or one that is started here.
async fn platform(arguments: &Arguments, global: &Global) -> Outcome<(Session, Option<Running>)> {
    let session = Session::new(global)?;
    match session.control.info().await {
        Ok(_) => return Ok((session, None)),
        Err(Error::Connect { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut settings = arguments.settings.clone();
    if settings.code_root.is_empty() {
        let folder = &arguments.folder;
        let root = folder
            .canonicalize()
            .map_err(|error| Failure::file(folder, &error))?;
        settings.code_root.push(root);
    }
    if settings.log_level.is_none() {
        // The function's lines are what is wanted here.
        settings.log_level = Some("warn".to_owned());
    }
    let config = settings.load()?.config;
    serve::log(&config)?;
    session.note("no platform answers; starting one for this session");
    let running = bugle_server::start(config)
        .await
        .map_err(|error| serve::not_started(&error))?;
    let global = Global {
        server: format!("http://{}", running.control),
        gateway: Some(format!("http://{}", running.gateway)),
        ..global.clone()
    };
    Ok((Session::new(&global)?, Some(running)))
}

async fn develop(session: &Session, arguments: &Arguments) -> Outcome {
    let name = first(session, arguments).await?;
    if arguments.once {
        return Ok(());
    }
    let (saves, mut news) = mpsc::channel(NEWS);
    let _watcher = watch(&arguments.folder, saves)?;
    session.note("watching; save a file to deploy it again, Ctrl-C to stop");
    let print = |entry: &bugle_api::operator::LogEntry| {
        output::note(&logs::text(entry, Format::Table));
        Ok(())
    };
    let follow = logs::read(session, &name, 0, None, true, print);
    tokio::select! {
        outcome = follow => outcome,
        outcome = redeploy(session, arguments, &mut news) => outcome,
    }
}

/// Deploys the function, says how to call it, and calls it if that is wanted. Gives its name.
async fn first(session: &Session, arguments: &Arguments) -> Outcome<String> {
    let deployed = deploy::deploy(session, &arguments.folder).await?;
    let function = deployed.function;
    let gateway = session.gateway().await?;
    let urn = names::urn(&function.name, &session.tenant, None);
    session.note(&format!("deployed {}", function.function_version_urn));
    session.note(&format!(
        "curl -X POST {gateway}/serverless/v1/functions/{urn}/invocations -d '{{}}'"
    ));
    if let Some(event) = &arguments.invoke {
        invoke::call(session, &function.name, event).await?;
    }
    Ok(function.name)
}

async fn redeploy(
    session: &Session,
    arguments: &Arguments,
    news: &mut mpsc::Receiver<()>,
) -> Outcome {
    while news.recv().await.is_some() {
        tokio::time::sleep(SETTLE).await;
        // What came meanwhile is in the folder already.
        while news.try_recv().is_ok() {}
        match deploy::deploy(session, &arguments.folder).await {
            Ok(deployed) => {
                session.note(&format!(
                    "deployed again, revision {}",
                    deployed.function.revision_id
                ));
                if let Some(event) = &arguments.invoke
                    && let Err(failure) =
                        invoke::call(session, &deployed.function.name, event).await
                {
                    failure.print();
                }
            }
            // The next save may mend it.
            Err(failure) => failure.print(),
        }
    }
    Ok(())
}

/// Reports saves below `folder` as long as the watcher lives.
fn watch(folder: &Path, saves: mpsc::Sender<()>) -> Outcome<notify::RecommendedWatcher> {
    let failed = |error: notify::Error| {
        Failure::new(
            exit::REFUSED,
            format!("the folder cannot be watched: {error}"),
        )
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let is_save = event.is_ok_and(|event| {
            let changes =
                event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove();
            changes && event.paths.iter().any(|path| is_source(path))
        });
        if is_save {
            // Full means that a deployment is due already.
            let _ = saves.try_send(());
        }
    })
    .map_err(failed)?;
    watcher
        .watch(folder, RecursiveMode::Recursive)
        .map_err(failed)?;
    Ok(watcher)
}

/// Whether a change of this file changes the function: not what Python or an editor leaves behind.
fn is_source(path: &Path) -> bool {
    !path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part == "__pycache__" || part.ends_with('~') || (part.starts_with('.') && part.len() > 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_editors_and_of_python_are_no_saves() {
        assert!(is_source(Path::new("./handler.py")));
        assert!(is_source(Path::new("../f/function.toml")));
        for path in [
            "__pycache__/handler.pyc",
            ".handler.py.swp",
            "handler.py~",
            ".git/index",
        ] {
            assert!(!is_source(Path::new(path)), "{path}");
        }
    }
}
