//! Instances on workers: a driver before the drivers.

use std::fmt;
use std::sync::Arc;

use bugle_instances::{BoxFuture, Driver, Instance, InstanceId, StartError, StartRequest, Started};
use tokio::time::Instant;

use super::Machine;
use super::core::Placing;
use super::workers::WorkerId;

/// Places each instance on a worker before it starts. Instances of functions that name neither pool
/// nor group pass through, and so do those whose pools are not this machine's.
#[derive(Clone)]
pub struct PooledDriver {
    machine: Arc<Machine>,
    /// Starts what has a worker, and what has none if there are no others.
    here: Arc<dyn Driver>,
    /// Starts what has no worker, where there are other machines.
    others: Option<Arc<dyn Driver>>,
}

impl fmt::Debug for PooledDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledDriver").finish_non_exhaustive()
    }
}

impl Driver for PooledDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        if request.spec.pool.is_empty() {
            return self.without_worker().start(request);
        }
        Box::pin(self.start_on_worker(request))
    }
}

impl PooledDriver {
    pub(super) fn new(machine: Arc<Machine>, here: Arc<dyn Driver>) -> Self {
        Self {
            machine,
            here,
            others: None,
        }
    }

    /// Has what gets no worker of this machine started by `others`, which have other machines.
    #[must_use]
    pub fn before(self, others: Arc<dyn Driver>) -> Self {
        Self {
            others: Some(others),
            ..self
        }
    }

    /// Starts what has no worker.
    fn without_worker(&self) -> &dyn Driver {
        &**self.others.as_ref().unwrap_or(&self.here)
    }

    /// Whether an instance may run on other machines than this one because of its groups.
    fn names_others(&self, request: &StartRequest) -> bool {
        !request.spec.pool.groups.is_empty() && self.others.is_some()
    }

    async fn start_on_worker(&self, request: StartRequest) -> Result<Started, StartError> {
        let seated = match self.machine.seat(&request).await {
            // Groups are of other machines, too.
            Err(StartError::NoRoom(_)) if self.names_others(&request) => None,
            seated => seated?,
        };
        let Some((worker, seat)) = seated else {
            return self.without_worker().start(request).await;
        };
        let lent = self.machine.lend(worker, &request);
        let started = self.here.start(request).await;
        drop(lent);
        let started = started?;
        self.machine.occupy(seat, &started.instance);
        Ok(started)
    }
}

/// The share of a worker that an instance has; given back when dropped.
#[derive(Debug)]
struct Seat {
    machine: Arc<Machine>,
    instance: InstanceId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.machine.state.lock();
        state.instances.remove(&self.instance);
        state.core.gone(self.instance, Instant::now());
        drop(state);
        self.machine.announce();
    }
}

/// A worker that gave its process away; when dropped it gets another. That waits until the start is
/// over, which needs the processor more.
struct Lent {
    machine: Arc<Machine>,
    worker: WorkerId,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.machine.state.lock().core.spent(self.worker);
        self.machine.announce();
    }
}

impl Machine {
    /// Waits for a worker with room; none if no pool has to do with the instance. Dropping the
    /// future gives up the wait.
    async fn seat(
        self: &Arc<Self>,
        request: &StartRequest,
    ) -> Result<Option<(WorkerId, Seat)>, StartError> {
        let mut news = self.news.subscribe();
        let (mut asked, until) = (false, Instant::now().checked_add(self.config.wait()));
        loop {
            news.mark_unchanged();
            let asked_before = asked;
            let placing = self.state.lock().core.place(
                request.id,
                &request.spec.pool,
                &request.resources,
                &mut asked,
                Instant::now(),
            );
            match placing {
                Placing::Free => return Ok(None),
                Placing::Here(worker) => {
                    let seat = Seat {
                        machine: Arc::clone(self),
                        instance: request.id,
                    };
                    return Ok(Some((worker, seat)));
                }
                Placing::Refused(reason) => return Err(StartError::NoRoom(reason)),
                Placing::Wait if asked != asked_before => self.announce(),
                Placing::Wait => {}
            }
            let late = tokio::select! {
                _ = news.changed() => false,
                () = super::until(until) => true,
            };
            if late {
                return Err(StartError::NoRoom(format!(
                    "no worker of its pool came up within {} s (pools.wait_seconds)",
                    self.config.wait_seconds
                )));
            }
        }
    }

    /// Lets the instance become the worker's process, if it can.
    fn lend(self: &Arc<Self>, worker: WorkerId, request: &StartRequest) -> Option<Lent> {
        let mut state = self.state.lock();
        let waiting = state.prepared.get(&worker)?;
        if !waiting.process.lend(&request.spec.runtime) {
            return None;
        }
        state.prepared.remove(&worker);
        Some(Lent {
            machine: Arc::clone(self),
            worker,
        })
    }

    /// Keeps the share until the instance is gone.
    fn occupy(self: &Arc<Self>, seat: Seat, instance: &Arc<dyn Instance>) {
        let instance = Arc::clone(instance);
        let mut state = self.state.lock();
        state.instances.insert(seat.instance, Arc::clone(&instance));
        drop(state);
        self.runtime.spawn(async move {
            instance.exited().await;
            drop(seat);
        });
    }
}
