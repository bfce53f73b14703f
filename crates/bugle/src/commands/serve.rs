//! `bugle serve`: runs the platform.

use std::future::Future;

use bugle_server::config::Config;
use bugle_types::report;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Outcome, exit};
use crate::settings::Settings;

/// Threads of the control plane. Calls are served on threads of their own.
const CONTROL_THREADS: usize = 2;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle serve
  bugle serve --data-dir /var/lib/bugle --code-root /srv/functions
  bugle serve --control-listen 127.0.0.1:0 --set scheduler.idle_seconds=5")]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let config = arguments.settings.load()?.config;
    log(&config)?;
    runtime()?.block_on(async {
        // Before anything is started, so that no signal is missed.
        let asked = asked_to_stop()?;
        let running = bugle_server::start(config)
            .await
            .map_err(|error| not_started(&error))?;
        running
            .stopped(asked)
            .await
            .map_err(|text| Failure::new(exit::REFUSED, text))
    })
}

/// Starts the platform's own log.
pub(crate) fn log(config: &Config) -> Outcome {
    bugle_server::telemetry::start(&config.telemetry)
        .map_err(|text| Failure::new(exit::CONFIGURATION, text))
}

/// The runtime of the control plane.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::REFUSED, format!("no runtime: {error}")))
}

pub(crate) fn not_started(error: &bugle_server::StartError) -> Failure {
    Failure::new(exit::REFUSED, report(error))
}

/// Ready when SIGTERM or Ctrl-C asks to stop; a second one ends the process at once.
pub(crate) fn asked_to_stop() -> Outcome<impl Future<Output = ()>> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::new(exit::REFUSED, format!("signals: {error}")))
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            #[expect(clippy::exit, reason = "whoever asks twice wants no more waiting")]
            std::process::exit(i32::from(exit::INTERRUPTED));
        });
    })
}
