//! From a process that was just started to an instance that is watched over.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::instance::ProgramInstance;
use super::output::Output;
use super::process::{Process, Spawned};
use super::request::Requests;
use super::shown::Shown;
use super::wire::Pool;
use crate::child::{Blame, Child, Parent};
use crate::output::Lines;
use crate::{Exit, InstanceId};

/// A process, and what makes an instance of it.
pub(crate) struct Served {
    pub(crate) id: InstanceId,
    pub(crate) spawned: Spawned,
    /// Where it listens, or will.
    pub(crate) address: SocketAddrV4,
    pub(crate) requests: Requests,
    pub(crate) lines: Lines,
    /// How long a connection without a call is kept.
    pub(crate) keep: Duration,
    /// What it was given, in MiB.
    pub(crate) memory_mib: u64,
    pub(crate) blame: Blame,
    /// Whether what is sent and received goes to the log.
    pub(crate) shows: bool,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Served {
    /// Makes an instance of the process, and watches over it on `runtime`. The process ends when
    /// the instance is dropped; `held` is dropped when the process is gone.
    ///
    /// # Errors
    ///
    /// The system's limit of watched descriptors.
    pub(crate) fn watch(
        self,
        runtime: &Handle,
        held: impl Send + 'static,
    ) -> io::Result<ProgramInstance> {
        let Spawned {
            process,
            pidfd,
            stdout,
            stderr,
            group,
            network,
        } = self.spawned;
        let output = Arc::new(Output::new(stdout, stderr, self.lines)?);
        let parent: Weak<dyn Parent> = Arc::downgrade(&process) as _;
        let child = Arc::new(Child::new(0, parent));
        child.set_pid(process.pid());
        if let Some(group) = group {
            child.set_limits(group, self.memory_mib, self.blame);
        }
        let shown = self.shows.then(|| Shown::new(&output));
        let pool = Pool::new(self.address, network, self.keep).shown(shown);
        let exit = watch::Sender::new(None);
        let instance = ProgramInstance {
            id: self.id,
            process: Arc::clone(&process),
            child: Arc::clone(&child),
            pool: Arc::new(pool),
            requests: self.requests,
            output: Arc::clone(&output),
            exit: exit.subscribe(),
        };
        let watched = Watched {
            process,
            child,
            output,
            exit,
            held,
        };
        let pidfd = watch_descriptor(pidfd)?;
        runtime.spawn(watched.run(pidfd));
        Ok(instance)
    }
}

/// What lives as long as the process.
struct Watched<H> {
    process: Arc<Process>,
    child: Arc<Child>,
    output: Arc<Output>,
    /// Told once, at the end.
    exit: watch::Sender<Option<Exit>>,
    /// Nobody else's before the program is gone.
    held: H,
}

impl<H> Watched<H> {
    async fn run(self, pidfd: AsyncFd<OwnedFd>) {
        let reading = async {
            self.output.read().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            // A descriptor that cannot be watched any more is as one that tells the end: `reap`
            // kills the group first.
            _ = pidfd.readable() => {}
            () = reading => {}
        }
        self.child.set_ended(self.process.reap());
        self.output.finish();
        let (cause, peak_memory) = self.child.ended().await;
        drop(self.held);
        self.exit.send_replace(Some(Exit { cause, peak_memory }));
    }
}

#[expect(
    deprecated,
    reason = "unsound for a type that changes its descriptor; an OwnedFd keeps the one it has"
)]
pub(crate) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, tokio::io::Interest::READABLE)
}
