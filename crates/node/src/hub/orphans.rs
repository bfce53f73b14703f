//! Instances on nodes that lost their gateway, and how they come to another.
//!
//! Every gateway hears of every orphan. The one that has its function takes it, and it is the node that
//! says who was first. Until it is taken in or gone it counts against the function's bounds, so nothing
//! is started in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bugle_instances::{Instance, InstanceId, StartRequest};
use bugle_scheduler::{Adopted, Census};
use bugle_types::FunctionId;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Keeper, Shared, UNWANTED_GRACE};
use crate::link::{Link, TAKE};
use crate::parts::Garbage;
use crate::remote::RemoteInstance;
use crate::wire::{Found, StartOrder};

/// Orphans of one node; one that has more is not what it says.
const MOST: usize = 1 << 16;

/// How far it is with an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It can be taken.
    Idle,
    /// It runs a call still.
    Busy,
    /// It is being looked at or taken.
    Wanted,
    /// It ends, or is somebody else's; the node says which.
    Settled,
}

/// One of them.
#[derive(Debug)]
struct Orphan {
    link: Arc<Link>,
    order: StartOrder,
    pid: Option<u32>,
    state: State,
}

type OfFunction = BTreeMap<InstanceId, Orphan>;

/// Those that are known here.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    by_function: Mutex<BTreeMap<FunctionId, OfFunction>>,
    /// Told when one of them is settled.
    settled: Notify,
}

fn census(orphans: Option<&OfFunction>) -> Census {
    let mut census = Census::new();
    for orphan in orphans.into_iter().flat_map(BTreeMap::values) {
        *census.entry(orphan.order.label.clone()).or_default() += 1;
    }
    census
}

impl Orphans {
    /// Changes those of one function, and tells the scheduler what there are then.
    fn change<T>(
        &self,
        keeper: &dyn Keeper,
        function: &FunctionId,
        change: impl FnOnce(&mut OfFunction) -> T,
    ) -> T {
        let mut all = self.by_function.lock();
        let of_function = all.entry(function.clone()).or_default();
        let changed = change(of_function);
        if of_function.is_empty() {
            all.remove(function);
        }
        // Under the lock: of two changes the later is told last.
        keeper.count(function, census(all.get(function)));
        drop(all);
        self.settled.notify_waiters();
        changed
    }

    /// Begins to take one, if it can be taken.
    fn want(&self, function: &FunctionId, id: InstanceId) -> bool {
        let mut all = self.by_function.lock();
        let orphan = all.get_mut(function).and_then(|of| of.get_mut(&id));
        let idle = orphan.filter(|orphan| orphan.state == State::Idle);
        idle.map(|orphan| orphan.state = State::Wanted).is_some()
    }

    /// Says how far it is with one.
    fn set(&self, function: &FunctionId, id: InstanceId, state: State) {
        let mut all = self.by_function.lock();
        if let Some(orphan) = all.get_mut(function).and_then(|of| of.get_mut(&id))
            && orphan.state == State::Wanted
        {
            orphan.state = state;
        }
        drop(all);
        self.settled.notify_waiters();
    }

    fn functions(&self) -> Vec<FunctionId> {
        self.by_function.lock().keys().cloned().collect()
    }

    fn idle(&self, function: &FunctionId) -> Vec<InstanceId> {
        let all = self.by_function.lock();
        let of = all.get(function).into_iter().flatten();
        of.filter(|(_, orphan)| orphan.state == State::Idle)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Tells the scheduler what there is of a function.
    pub(super) fn recount(&self, keeper: &dyn Keeper, function: &FunctionId) {
        self.change(keeper, function, |_| ());
    }

    /// Waits until each of a function is taken, runs a call or is nobody's. Cancel safe.
    pub(super) async fn until_settled(&self, function: &FunctionId) {
        loop {
            let settled = self.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            let open = {
                let all = self.by_function.lock();
                let mut of = all.get(function).into_iter().flat_map(BTreeMap::values);
                of.any(|orphan| matches!(orphan.state, State::Idle | State::Wanted))
            };
            if !open {
                return;
            }
            settled.await;
        }
    }
}

impl Shared {
    /// A node has an instance that is nobody's.
    pub(super) fn found(self: &Arc<Self>, link: &Arc<Link>, found: Found) -> Result<(), Garbage> {
        let Found { order, pid, busy } = found;
        if !link.has_ordered(&order) {
            return Err(Garbage("an instance that was never ordered"));
        }
        if self.closing.is_cancelled() {
            return Ok(());
        }
        let (function, id) = (order.spec.id.clone(), order.id);
        link.take_lines_of(id, &function);
        let orphan = Orphan {
            link: Arc::clone(link),
            order,
            pid,
            state: if busy { State::Busy } else { State::Idle },
        };
        let before = self
            .orphans
            .change(&*self.keeper, &function, |of| of.insert(id, orphan));
        let is_new = before.is_none_or(|before| !Arc::ptr_eq(&before.link, link));
        if is_new && link.orphans.fetch_add(1, Ordering::Relaxed) >= MOST {
            return Err(Garbage("more instances than a node can have"));
        }
        if self.keeper.has(&function) {
            self.tasks.spawn(Arc::clone(self).settle(function, id));
        }
        Ok(())
    }

    /// It is not any more.
    pub(super) fn not_orphan(&self, link: &Arc<Link>, function: &FunctionId, id: InstanceId) {
        let is_of_link = |orphan: &Orphan| Arc::ptr_eq(&orphan.link, link);
        let removed = self.orphans.change(&*self.keeper, function, |of| {
            let known = of.get(&id).is_some_and(is_of_link);
            known.then(|| of.remove(&id))
        });
        if removed.is_some() {
            link.over(id);
            link.orphans.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The connection to a node is gone, and with it what was known over it.
    pub(super) fn forget_orphans(&self, link: &Arc<Link>) {
        for function in self.orphans.functions() {
            self.orphans.change(&*self.keeper, &function, |of| {
                of.retain(|_, orphan| !Arc::ptr_eq(&orphan.link, link));
            });
        }
    }

    /// Other functions are this gateway's now: their orphans are taken.
    pub(super) fn look_after_orphans(self: &Arc<Self>) {
        for function in self.orphans.functions() {
            if !self.keeper.has(&function) {
                continue;
            }
            self.orphans.recount(&*self.keeper, &function);
            for id in self.orphans.idle(&function) {
                let settle = Arc::clone(self).settle(function.clone(), id);
                self.tasks.spawn(settle);
            }
        }
    }

    /// Takes an orphan in, or ends it if its function has no use for it.
    async fn settle(self: Arc<Self>, function: FunctionId, id: InstanceId) {
        let is_idle = self.orphans.want(&function, id);
        let is_here = self.keeper.ready(function.clone()).await;
        // The function may be known only now.
        self.orphans.recount(&*self.keeper, &function);
        if !is_idle {
            return;
        }
        if !is_here {
            return self.orphans.set(&function, id, State::Idle);
        }
        let known = {
            let all = self.orphans.by_function.lock();
            let orphan = all.get(&function).and_then(|of| of.get(&id));
            orphan.map(|orphan| (Arc::clone(&orphan.link), orphan.order.clone(), orphan.pid))
        };
        let Some((link, order, pid)) = known else {
            return;
        };
        let question = Bytes::copy_from_slice(&id.0.to_le_bytes());
        // A node that does not answer is about to be lost, with all that is known of it.
        let taken = link.ask_small(TAKE, question).await;
        if taken.is_ok_and(|answer| *answer == [1]) {
            self.take_in(&link, &order, pid);
        }
        self.orphans.set(&function, id, State::Settled);
    }

    /// An instance is this gateway's now.
    fn take_in(self: &Arc<Self>, link: &Arc<Link>, order: &StartOrder, pid: Option<u32>) {
        let (function, id) = (&order.spec.id, order.id);
        let remote = Arc::new(RemoteInstance::new(link, function, id, pid));
        let request = StartRequest {
            id,
            spec: Arc::new(order.spec.clone()),
            resources: order.resources.clone(),
            label: order.label.clone(),
        };
        let placed = self
            .fleet
            .adopt(&link.node, &request, Arc::clone(&remote) as _);
        let instance: Arc<dyn Instance> = placed.unwrap_or(remote);
        let adopted = Adopted {
            instance: Arc::clone(&instance),
            generation: order.spec.generation.clone(),
            resources: order.resources.clone(),
            label: order.label.clone(),
            place: order.spec.pool.clone(),
        };
        if !link.is_draining() && self.keeper.adopt(function, adopted) {
            self.not_orphan(link, function, id);
            return;
        }
        let (shared, link, function) = (Arc::clone(self), Arc::clone(link), function.clone());
        self.tasks.spawn(async move {
            if !shared.keeper.has(&function) {
                // It moved on in this moment. If another can have it, it is heard of again.
                shared.not_orphan(&link, &function, id);
                if instance.hand_over().await {
                    return;
                }
            }
            // It counts until it is gone.
            instance.stop(UNWANTED_GRACE).await;
            shared.not_orphan(&link, &function, id);
        });
    }
}
