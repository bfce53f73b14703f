//! The runtime of the data plane: gateway, scheduler and instances live on it, apart from the
//! control plane.
//!
//! On small machines it is one thread, so that a call is read, handed to its instance and answered
//! without a hop between threads.

use std::io;
use std::num::NonZeroUsize;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// A runtime on a thread of its own; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct DataPlane {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl DataPlane {
    /// Starts the runtime with `threads` threads; 0 takes half of the cores.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let threads = if threads == 0 {
            half_of_the_cores()
        } else {
            threads
        };
        let runtime = if threads == 1 {
            Builder::new_current_thread().enable_all().build()?
        } else {
            let mut builder = Builder::new_multi_thread();
            builder
                .worker_threads(threads)
                .thread_name("data")
                .enable_all()
                .build()?
        };
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("data".to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self {
            handle,
            stop,
            thread: Some(thread),
        })
    }

    /// Runs tasks on it.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there was a bug in the runtime itself; the platform is ending anyway.
            let _ = thread.join();
        }
    }
}

fn half_of_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / 2).max(1)
}
