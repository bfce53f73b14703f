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
use crate::arguments::Global;
use crate::failure::{Failure, Outcome, exit};
use crate::manifest::Manifest;
use crate::output;
use crate::session::{Session, curl};
use crate::settings::Settings;

/// Editors write a file in several steps; what follows within this belongs together.
const SETTLE: Duration = Duration::from_millis(100);

/// The platform switches within a second, unless it is configured otherwise.
const SWITCH: Duration = Duration::from_secs(3);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

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
    // A folder that is no function needs no platform.
    Manifest::read(&arguments.folder)?;
    serve::runtime()?.block_on(async {
        let asked = serve::asked_to_stop()?;
        let (session, platform) = platform(global, || arguments.settings()).await?;
        let outcome = tokio::select! {
            biased;
            () = asked => Err(Failure::interrupted()),
            outcome = develop(&session, arguments) => outcome,
        };
        if let Some(platform) = platform {
            let stopped = platform.stopped(std::future::ready(())).await;
            stopped.map_err(|text| Failure::new(exit::REFUSED, text))?;
        }
        outcome
    })
}

impl Arguments {
    /// How a platform for this folder alone is started.
    fn settings(&self) -> Outcome<Settings> {
        let mut settings = self.settings.clone();
        if settings.code_root.is_empty() {
            let root = self.folder.canonicalize();
            let root = root.map_err(|error| Failure::file(&self.folder, &error))?;
            settings.code_root.push(root);
        }
        Ok(settings)
    }
}

/// The platform that runs, or one that is started here.
pub(super) async fn platform(
    global: &Global,
    settings: impl FnOnce() -> Outcome<Settings>,
) -> Outcome<(Session, Option<Running>)> {
    let session = Session::new(global)?;
    match session.control.info().send().await {
        Ok(_) => return Ok((session, None)),
        Err(Error::Connect { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut settings = settings()?;
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
    let (saves, mut news) = mpsc::channel(NEWS);
    // Before the folder is read, so that no save is missed.
    let _watcher = watch(&arguments.folder, saves)?;
    let name = first(session, arguments).await?;
    if arguments.once {
        return call(session, arguments, &name).await;
    }
    // Before the first call, which may have something to say.
    let log = session.control.logs(&name, 0, None, true).open().await?;
    let follow = async {
        logs::read(log, |entry| {
            output::note(&logs::line(entry));
            Ok(())
        })
        .await?;
        Err(logs::stopped())
    };
    let work = async {
        if let Err(failure) = call(session, arguments, &name).await {
            failure.print();
        }
        session.note("watching; save a file to deploy it again, Ctrl-C to stop");
        redeploy(session, arguments, &name, &mut news).await
    };
    tokio::select! {
        outcome = follow => outcome,
        outcome = work => outcome,
    }
}

/// Calls the function with the event of the command line, if there is one.
async fn call(session: &Session, arguments: &Arguments, name: &str) -> Outcome {
    match &arguments.invoke {
        Some(event) => invoke::call(session, name, event).await,
        None => Ok(()),
    }
}

/// Deploys the function and says how to call it. Gives its name.
async fn first(session: &Session, arguments: &Arguments) -> Outcome<String> {
    let deployed = deploy::deploy(session, &arguments.folder, deploy::Way::Nearest).await?;
    let function = deployed.function;
    let gateway = session.gateway().await?;
    let event = arguments.invoke.as_deref();
    let request = invoke::event_call(session, &function.name, event)?;
    session.note(&format!("deployed {}", function.function_version_urn));
    session.note(&curl(gateway, &request, None));
    Ok(function.name)
}

async fn redeploy(
    session: &Session,
    arguments: &Arguments,
    name: &str,
    news: &mut mpsc::Receiver<()>,
) -> Outcome {
    while news.recv().await.is_some() {
        tokio::time::sleep(SETTLE).await;
        // What came meanwhile is in the folder already.
        while news.try_recv().is_ok() {}
        let before = taking_calls(session, name).await;
        match deploy::deploy(session, &arguments.folder, deploy::Way::Nearest).await {
            Ok(deployed) => {
                switch(session, name, &before).await;
                session.note(&format!(
                    "deployed again, revision {}",
                    deployed.function.revision_id
                ));
                if let Err(failure) = call(session, arguments, &deployed.function.name).await {
                    failure.print();
                }
            }
            // The next save may mend it.
            Err(failure) => failure.print(),
        }
    }
    Ok(())
}

/// The instances that new calls may go to.
async fn taking_calls(session: &Session, name: &str) -> Vec<String> {
    let status = session.control.status(name, None).send().await;
    let instances = status.map_or_else(|_| Vec::new(), |status| status.instances);
    let ready = instances
        .into_iter()
        .filter(|instance| instance.state == "ready");
    ready.map(|instance| instance.id).collect()
}

/// Waits until no call goes to the instances of the code before: who is told that the new code is
/// there may rely on it.
async fn switch(session: &Session, name: &str, before: &[String]) {
    let switched = async {
        while taking_calls(session, name)
            .await
            .iter()
            .any(|instance| before.contains(instance))
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    // With a longer `scheduler.switch_millis` it is announced early.
    let _ = tokio::time::timeout(SWITCH, switched).await;
}

/// Reports saves below `folder` as long as the watcher lives.
fn watch(folder: &Path, saves: mpsc::Sender<()>) -> Outcome<notify::RecommendedWatcher> {
    let failed = |error: notify::Error| {
        Failure::new(
            exit::REFUSED,
            format!("the folder cannot be watched: {error}"),
        )
    };
    // Paths are reported in full, and where the folder lies says nothing about what is in it.
    let root = folder
        .canonicalize()
        .map_err(|error| Failure::file(folder, &error))?;
    let within = root.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let is_save = event.is_ok_and(|event| {
            let changes =
                event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove();
            changes
                && event
                    .paths
                    .iter()
                    .any(|path| path.strip_prefix(&within).is_ok_and(is_source))
        });
        if is_save {
            // Full means that a deployment is due already.
            let _ = saves.try_send(());
        }
    })
    .map_err(failed)?;
    watcher
        .watch(&root, RecursiveMode::Recursive)
        .map_err(failed)?;
    Ok(watcher)
}

/// Whether a change of this file of the folder changes the function: not what Python or an editor leaves behind.
fn is_source(path: &Path) -> bool {
    !path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part == "__pycache__" || part.ends_with('~') || part.starts_with('.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_editors_and_of_python_are_no_saves() {
        assert!(is_source(Path::new("handler.py")));
        assert!(is_source(Path::new("lib/function.toml")));
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
