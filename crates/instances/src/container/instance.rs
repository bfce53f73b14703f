//! A running container, to the scheduler.
//!
//! It is served as any program that speaks HTTP (`program`); what is its own is how it ends, and
//! that somebody watches what it writes, how well it is and whether memory runs out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::HealthCheck;
use rustix::process::Signal;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::folder::Folder;
use crate::program::instance::{NoAnswer, ProgramInstance};
use crate::program::watch::watch_descriptor;
use crate::{
    BoxFuture, CallError, CallRequest, Exit, ExitCause, HttpExchange, HttpReply, Instance,
    InstanceId, NoReply, Reply, ReplyBody,
};

/// How often a container is asked again to shut down (`container-image` contract 9.5).
const SHUTDOWN_AGAIN: Duration = Duration::from_secs(5);

/// How long an end takes at most, whatever a function says: a clock has an end.
const LONGEST_END: Duration = Duration::from_hours(24);

/// How long a container has between its stop signal and `SIGKILL`.
const TERMINATE: Duration = Duration::from_secs(10);

/// A container. It is killed when this is dropped.
pub(super) struct ContainerInstance {
    pub(super) program: Arc<ProgramInstance>,
    /// What happens before its end.
    pub(super) ending: Ending,
    /// Ends what watches it and closes its way to the outside.
    pub(super) _held: (DropGuard, Option<DropGuard>, Option<DropGuard>),
}

/// How a container ends that nobody wants any more (`container-image` contract 9.5).
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// How long `POST /pre-stop` may take, where it is asked; nothing leaves it the whole grace
    /// period.
    pub(super) pre_stop: Option<Duration>,
    /// How long all of it may take, where `GET /shutdown` is asked.
    pub(super) shutdown: Option<Duration>,
    /// The signal that the image wants to be stopped by.
    pub(super) signal: Signal,
}

impl Ending {
    /// How long all of it may take. What the scheduler gives has the time of `POST /pre-stop` in it.
    fn within(&self, grace: Duration) -> Duration {
        let before = self.pre_stop.unwrap_or_default();
        let asked = |shutdown: Duration| shutdown.saturating_add(before);
        self.shutdown.map_or(grace, asked).min(LONGEST_END)
    }
}

impl ContainerInstance {
    /// The order of an end that was planned: no calls, a word with the server, a signal, force.
    async fn end_in_order(&self, grace: Duration) -> Exit {
        let deadline = Instant::now() + self.ending.within(grace);
        self.program.child.expect_end();
        let orderly = async {
            self.program.output.until_idle().await;
            if let Some(limit) = self.ending.pre_stop {
                self.prepare_to_stop(limit).await;
            }
            if self.ending.shutdown.is_some() {
                self.shut_down().await;
            }
        };
        if tokio::time::timeout_at(deadline, orderly).await.is_ok() {
            self.program.process.ask_leader(self.ending.signal);
            let last = deadline.min(Instant::now() + TERMINATE);
            if let Ok(exit) = tokio::time::timeout_at(last, self.program.end()).await {
                return exit;
            }
        }
        self.program.child.kill();
        self.program.end().await
    }

    /// Runs the function's last word. Whatever comes of it, the end goes on.
    async fn prepare_to_stop(&self, limit: Duration) {
        let message = self.program.requests.pre_stop(&self.program.id.to_string());
        let asking = self.program.exchange(message, None);
        if limit.is_zero() {
            _ = asking.await;
        } else if tokio::time::timeout(limit, asking).await.is_err() {
            let seconds = limit.as_secs_f64();
            let text = format!("POST /pre-stop took longer than {seconds} s; the end goes on");
            self.program.output.say(text);
        }
    }

    /// Asks the server to prepare for its end, until it says that it has, or that it does not know
    /// what that means.
    async fn shut_down(&self) {
        loop {
            let asking = self.program.get("/shutdown");
            match tokio::time::timeout(SHUTDOWN_AGAIN, asking).await {
                Ok(
                    Ok(ReplyBody::Http {
                        status: 200 | 404, ..
                    })
                    | Err(NoAnswer::NotSent(_) | NoAnswer::Exited(_)),
                ) => return,
                Ok(_) => tokio::time::sleep(SHUTDOWN_AGAIN).await,
                Err(_) => {}
            }
        }
    }
}

impl Instance for ContainerInstance {
    fn id(&self) -> InstanceId {
        self.program.id()
    }

    fn pid(&self) -> Option<u32> {
        self.program.pid()
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async move {
            let mut answered = self.program.call(request).await;
            if let Ok(reply) = &mut answered {
                let counted = self
                    .program
                    .child
                    .with_group(crate::confinement::Cgroup::counted);
                reply.peak_memory = counted.map_or(0, |counted| counted.peak_memory);
            }
            answered
        })
    }

    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        Instance::exchange(&*self.program, exchange)
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit> {
        Box::pin(self.end_in_order(grace))
    }

    fn kill(&self) {
        self.program.kill();
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        self.program.exited()
    }
}

impl Drop for ContainerInstance {
    fn drop(&mut self) {
        self.program.kill();
    }
}

impl fmt::Debug for ContainerInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerInstance")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// What is watched of a container while it lives.
pub(super) struct Watch {
    pub(super) program: Arc<ProgramInstance>,
    pub(super) folder: Arc<Folder>,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
    /// How often it is looked at how much it has written.
    pub(super) disk_period: Duration,
}

impl Watch {
    /// Ends the container when it leaves its bounds. Ends with it.
    pub(super) async fn run(self) {
        let cause = tokio::select! {
            biased;
            _ = self.program.end() => return,
            cause = self.memory() => cause,
            cause = self.disk() => cause,
        };
        self.program.child.condemn(cause);
    }

    /// Waits until the kernel has no memory to give. Where it then ends the whole group by itself,
    /// there is nothing to wait for.
    async fn memory(&self) -> ExitCause {
        let event = self
            .program
            .child
            .with_group(crate::confinement::Cgroup::out_of_memory);
        match event {
            Some(Ok(Some(event))) => {
                if let Ok(event) = watch_descriptor(event)
                    && event.readable().await.is_ok()
                {
                    let counted = self
                        .program
                        .child
                        .with_group(crate::confinement::Cgroup::counted);
                    return ExitCause::OutOfMemory {
                        limit_mib: self.memory_mib,
                        used_bytes: counted.map_or(0, |counted| counted.peak_memory),
                    };
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "processes that lack memory are not seen");
            }
            Some(Ok(None)) | None => {}
        }
        std::future::pending().await
    }

    async fn disk(&self) -> ExitCause {
        let limit = self.disk_mib * 1024 * 1024;
        loop {
            tokio::time::sleep(self.disk_period).await;
            let folder = Arc::clone(&self.folder);
            let written = tokio::task::spawn_blocking(move || folder.written(limit)).await;
            if written.is_ok_and(|written| written > limit) {
                return ExitCause::OutOfDisk {
                    limit_mib: self.disk_mib,
                };
            }
        }
    }
}

/// Asks a container how it is, and ends it when it is not well.
pub(super) async fn check_health(program: Arc<ProgramInstance>, check: HealthCheck) {
    let mut failures = 0;
    while failures < check.failures.get() {
        tokio::time::sleep(check.period).await;
        failures = if is_well(&program, check.timeout).await {
            0
        } else {
            failures + 1
        };
    }
    program.child.condemn(ExitCause::Unhealthy { failures });
}

/// Whether `GET /healthz` is answered by 200 in time.
pub(super) async fn is_well(program: &ProgramInstance, timeout: Duration) -> bool {
    let asked = tokio::time::timeout(timeout, program.get("/healthz")).await;
    matches!(asked, Ok(Ok(ReplyBody::Http { status: 200, .. })))
}
