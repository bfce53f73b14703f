//! The process of one instance, as its parent reports it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ExitCause;
use crate::confinement::{Cgroup, Counted};

/// Whoever can end processes, because it is their parent.
pub(crate) trait Parent: Send + Sync + std::fmt::Debug {
    /// Kills the child with this number, and its process group. Does nothing when it is gone.
    fn kill(&self, number: u64);
}

/// A child of a parent process.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) number: u64,
    parent: Weak<dyn Parent>,
    pid: AtomicU32,
    killed: AtomicBool,
    /// Why the platform ended it, if not because it was to stop.
    verdict: Mutex<Option<ExitCause>>,
    limits: Mutex<Option<Limits>>,
    ended: watch::Sender<Option<Ended>>,
}

/// The group that a child is in, and how much memory it was given.
#[derive(Debug)]
struct Limits {
    group: Cgroup,
    memory_mib: u64,
    blame: Blame,
}

/// Whose death for want of memory is that of the whole group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// That of the child itself.
    Leader,
    /// That of any process in the group: a child that ends after it, however, ended of it.
    Anybody,
}

/// How a child ended, as far as the parent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The status that `wait` gave, and the most memory used, in bytes.
    Status { status: i32, peak_memory: u64 },
    /// The kernel killed it because it used more than it was given, in MiB.
    OutOfMemory { limit_mib: u64, peak_memory: u64 },
    /// It never began: the error number of `fork`.
    NotForked(i32),
    /// The parent is gone, and the kernel has killed the child.
    Orphaned,
}

impl Ended {
    /// The same with what the group of the child has counted.
    fn counted(self, counted: Counted, limit_mib: u64, blame: Blame) -> Self {
        let Self::Status {
            status,
            peak_memory,
        } = self
        else {
            return self;
        };
        let killed = ExitStatus::from_raw(status).signal() == Some(SIGKILL);
        if (killed || blame == Blame::Anybody) && counted.killed > 0 {
            return Self::OutOfMemory {
                limit_mib,
                // Without what the process shares with its parent, which its limit does not count.
                peak_memory: counted.peak_memory,
            };
        }
        Self::Status {
            status,
            peak_memory: peak_memory.max(counted.peak_memory),
        }
    }
}

impl Child {
    pub(crate) fn new(number: u64, parent: Weak<dyn Parent>) -> Self {
        Self {
            number,
            parent,
            pid: AtomicU32::new(0),
            killed: AtomicBool::new(false),
            verdict: Mutex::new(None),
            limits: Mutex::new(None),
            ended: watch::Sender::new(None),
        }
    }

    pub(crate) fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// The process id, once it is known.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self.pid.load(Ordering::Relaxed) {
            0 => None,
            pid => Some(pid),
        }
    }

    /// Ends the process at once, with its process group.
    pub(crate) fn kill(&self) {
        self.expect_end();
        if let Some(parent) = self.parent.upgrade() {
            parent.kill(self.number);
        }
    }

    /// Ends the process at once, for a reason of its own making. The first reason stays.
    pub(crate) fn condemn(&self, cause: ExitCause) {
        self.verdict.lock().get_or_insert(cause);
        if let Some(parent) = self.parent.upgrade() {
            parent.kill(self.number);
        }
    }

    /// From now on an end is the platform's doing.
    pub(crate) fn expect_end(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// Takes the group that the child is in, until the child has ended.
    pub(crate) fn set_limits(&self, group: Cgroup, memory_mib: u64, blame: Blame) {
        *self.limits.lock() = Some(Limits {
            group,
            memory_mib,
            blame,
        });
        if self.has_ended() {
            self.limits.lock().take();
        }
    }

    /// Does something with the group that the child is in.
    pub(crate) fn with_group<T>(&self, act: impl FnOnce(&Cgroup) -> T) -> Option<T> {
        self.limits.lock().as_ref().map(|limits| act(&limits.group))
    }

    /// Tells everybody who waits, and gives up the child's group.
    pub(crate) fn set_ended(&self, ended: Ended) {
        let limits = self.limits.lock().take();
        let ended = match &limits {
            Some(limits) => ended.counted(limits.group.counted(), limits.memory_mib, limits.blame),
            None => ended,
        };
        self.ended.send_replace(Some(ended));
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// The error number of `fork`, if that is why there is no process.
    pub(crate) fn fork_error(&self) -> Option<i32> {
        match *self.ended.borrow() {
            Some(Ended::NotForked(errno)) => Some(errno),
            _ => None,
        }
    }

    /// Waits for the end: its cause, and the most memory used. Cancel safe.
    pub(crate) async fn ended(&self) -> (ExitCause, u64) {
        let mut receiver = self.ended.subscribe();
        let ended = receiver.wait_for(Option::is_some).await;
        let ended = ended
            .ok()
            .and_then(|ended| *ended)
            .unwrap_or(Ended::Orphaned);
        self.explain(ended)
    }

    fn explain(&self, ended: Ended) -> (ExitCause, u64) {
        let peak_memory = match ended {
            Ended::Status { peak_memory, .. } | Ended::OutOfMemory { peak_memory, .. } => {
                peak_memory
            }
            Ended::NotForked(_) | Ended::Orphaned => 0,
        };
        if let Some(cause) = self.verdict.lock().clone() {
            return (cause, peak_memory);
        }
        let cause = match ended {
            _ if self.killed.load(Ordering::Relaxed) => ExitCause::Stopped,
            Ended::OutOfMemory { limit_mib, .. } => ExitCause::OutOfMemory {
                limit_mib,
                used_bytes: peak_memory,
            },
            Ended::Status { status, .. } => cause(ExitStatus::from_raw(status)),
            Ended::NotForked(_) | Ended::Orphaned => ExitCause::Signal(SIGKILL),
        };
        (cause, peak_memory)
    }
}

/// The signal that a child gets when its parent ends.
const SIGKILL: i32 = 9;

fn cause(status: ExitStatus) -> ExitCause {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCause::Code(code),
        (None, Some(signal)) => ExitCause::Signal(signal),
        // `wait` reports ends only: neither stops nor continuations were asked for.
        (None, None) => ExitCause::Signal(SIGKILL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct NoParent;

    impl Parent for NoParent {
        fn kill(&self, _number: u64) {}
    }

    fn child() -> Child {
        let parent: Weak<dyn Parent> = Weak::<NoParent>::new();
        Child::new(1, parent)
    }

    #[tokio::test]
    async fn an_end_of_its_own_is_told_by_code_or_signal() {
        for (status, cause) in [(3 << 8, ExitCause::Code(3)), (11, ExitCause::Signal(11))] {
            let child = child();
            child.set_ended(Ended::Status {
                status,
                peak_memory: 5,
            });
            assert_eq!(child.ended().await, (cause, 5));
        }
    }

    #[tokio::test]
    async fn an_end_that_the_platform_wanted_is_a_stop() {
        let child = child();
        child.kill();
        child.set_ended(Ended::Status {
            status: 9,
            peak_memory: 0,
        });
        assert_eq!(child.ended().await.0, ExitCause::Stopped);
    }

    #[test]
    fn only_a_child_that_was_killed_for_memory_is_out_of_memory() {
        let counted = |status, killed, blame| {
            let counted = Counted {
                peak_memory: 70,
                killed,
            };
            let peak_memory = 5;
            Ended::Status {
                status,
                peak_memory,
            }
            .counted(counted, 64, blame)
        };
        let out_of_memory = Ended::OutOfMemory {
            limit_mib: 64,
            peak_memory: 70,
        };
        assert_eq!(counted(9, 1, Blame::Leader), out_of_memory);
        assert_eq!(counted(3 << 8, 1, Blame::Anybody), out_of_memory);
        for (status, killed) in [(9, 0), (3 << 8, 1), (11, 1)] {
            let expected = Ended::Status {
                status,
                peak_memory: 70,
            };
            assert_eq!(counted(status, killed, Blame::Leader), expected);
        }
    }
}
