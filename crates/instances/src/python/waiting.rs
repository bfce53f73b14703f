//! Processes that somebody outside keeps ready: forked, and waiting for a function.
//!
//! They are what the driver parks for itself, in other hands. Whoever has one knows when it ends,
//! and gives it back when the next instance is to become it.

use std::sync::Arc;

use bugle_types::{PythonVersion, Runtime};
use parking_lot::Mutex;

use super::PythonDriver;
use super::zygote::{Forked, Zygote};
use crate::child::Child;
use crate::{BoxFuture, StartError};

/// A forked process that waits to become an instance. It is killed when this is dropped.
#[derive(Debug)]
pub struct WaitingProcess {
    version: PythonVersion,
    zygote: Arc<Zygote>,
    child: Arc<Child>,
    /// None once it was given back.
    forked: Mutex<Option<Forked>>,
}

impl PythonDriver {
    /// Forks a process that waits for a function of this runtime.
    ///
    /// # Errors
    ///
    /// There is no such interpreter, or the system gives no process.
    pub async fn fork_waiting(&self, version: PythonVersion) -> Result<WaitingProcess, StartError> {
        let zygote = self.shared.parents.base(version).await?;
        let forked = zygote
            .fork()
            .map_err(|error| StartError::Platform(format!("a socket for a process: {error}")))?;
        Ok(WaitingProcess {
            version,
            child: Arc::clone(&forked.child),
            forked: Mutex::new(Some(forked)),
            zygote,
        })
    }

    /// How many processes the driver has parked for itself, at most, for each parent.
    fn parked(&self) -> usize {
        self.shared.config.parked
    }

    /// Lets the next instance of this runtime be the process; false if it cannot be one. Where
    /// enough processes wait already, it ends.
    pub fn take_back(&self, process: &WaitingProcess, runtime: &Runtime) -> bool {
        if *runtime != Runtime::Python(process.version) || process.child.has_ended() {
            return false;
        }
        let Some(forked) = process.forked.lock().take() else {
            return false;
        };
        process.zygote.give(forked, self.parked() + 1);
        true
    }
}

impl WaitingProcess {
    /// Waits until it has ended; does not keep it from being dropped.
    pub fn ended(&self) -> BoxFuture<'static, ()> {
        let child = Arc::clone(&self.child);
        Box::pin(async move {
            child.ended().await;
        })
    }
}

impl Drop for WaitingProcess {
    fn drop(&mut self) {
        if let Some(forked) = self.forked.get_mut().take() {
            forked.child.kill();
        }
    }
}
