//! Functions that several schedulers share: each has those that are its own, and they change hands.
//!
//! Who has which is decided elsewhere. Here it is made so that at no time two of them start
//! instances of a function beyond its bounds: one that takes a function over starts nothing until
//! it was told what the others still have ([`Function::set_elsewhere`]), and one that lets go of a
//! function knows what is left of it until it is gone ([`Scheduler::census`]).

use std::sync::Arc;

use bugle_types::{FunctionId, FunctionSpec};

use crate::core::{Census, Event};
use crate::function::{Function, Inner};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Adds a function that others may have instances of, or changes it. If it was added, it is given
    /// back: then it starts nothing before [`Function::set_elsewhere`].
    pub fn take_over(&self, spec: Arc<FunctionSpec>) -> Option<Function> {
        let mut shard = self.functions.shard(&spec.id).write();
        if let Some(known) = shard.get(&spec.id).cloned() {
            drop(shard);
            known.0.change(spec);
            return None;
        }
        let left = self.functions.moved.lock().remove(&spec.id);
        let function = left.unwrap_or_else(|| {
            let inner = Inner::new(Arc::clone(&spec), Arc::clone(&self.shared));
            Function(inner)
        });
        // Before anybody finds it.
        function.0.open(Arc::clone(&spec));
        shard.insert(spec.id.clone(), function.clone());
        Some(function)
    }

    /// Lets go of every function that is not to be kept: calls that wait are told, calls that run
    /// finish, instances go. How many were let go.
    pub fn release(&self, keep: impl Fn(&FunctionId) -> bool) -> usize {
        self.let_go(keep, &Event::Moved)
    }

    /// The same with all functions, and with calls that run: this scheduler may not use its instances
    /// any more.
    pub fn abandon(&self) {
        self.let_go(|_| false, &Event::Fenced);
        let left: Vec<Function> = self.functions.moved.lock().values().cloned().collect();
        for Function(inner) in left {
            inner.on(Event::Fenced);
        }
    }

    fn let_go(&self, keep: impl Fn(&FunctionId) -> bool, event: &Event) -> usize {
        let mut gone = Vec::new();
        for shard in &self.functions.shards {
            let mut shard = shard.write();
            // Under both locks: at every moment it is in one of the two.
            let mut moved = self.functions.moved.lock();
            for (id, function) in shard.extract_if(|id, _| !keep(id)) {
                gone.push(function.clone());
                moved.insert(id, function);
            }
        }
        for Function(inner) in &gone {
            inner.on(event.clone());
        }
        self.forget_departed();
        gone.len()
    }

    /// The instances of a function that are here and not gone, whoever schedules it.
    pub fn census(&self, id: &FunctionId) -> Census {
        let shard = self.functions.shard(id).read();
        // Under both locks, in the order of those who move it from one to the other.
        let moved = self.functions.moved.lock();
        let function = shard.get(id).or_else(|| moved.get(id));
        function.map_or_else(Census::default, Function::census)
    }

    /// Waits until the census of a function that was let go of is another than `seen`. Cancel safe.
    pub async fn census_changed(&self, id: &FunctionId, seen: &Census) -> Census {
        loop {
            let departed = self.shared.departed.notified();
            let mut departed = std::pin::pin!(departed);
            departed.as_mut().enable();
            let census = self.census(id);
            if census != *seen {
                return census;
            }
            departed.await;
        }
    }

    /// How many functions are scheduled here, and how many were let go of and have instances left.
    pub fn held(&self) -> (usize, usize) {
        self.forget_departed();
        let shards = self.functions.shards.iter();
        let here = shards.map(|shard| shard.read().len()).sum();
        (here, self.functions.moved.lock().len())
    }

    fn forget_departed(&self) {
        let mut moved = self.functions.moved.lock();
        moved.retain(|_, function| !function.census().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;
    use crate::testing::{SimDriver, spec};
    use crate::{AcquireError, Config, Demand, Lease, Metrics};

    fn scheduler() -> Scheduler {
        let driver = SimDriver::new(
            Duration::from_millis(5),
            Arc::new(|_| (Duration::ZERO, String::new())),
        );
        Scheduler::new(Config::default(), driver, Metrics::default())
    }

    async fn acquire(function: &Function) -> Result<Lease, AcquireError> {
        let demand = Demand {
            resources: None,
            label: None,
            place: None,
            deadline: Instant::now() + Duration::from_secs(10),
        };
        function.acquire(demand).await
    }

    fn one() -> Arc<FunctionSpec> {
        Arc::new(spec("f", "1", 1, 0, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_function_that_was_taken_over_starts_nothing_before_the_others_have_told() {
        let scheduler = scheduler();
        let function = scheduler.take_over(one()).expect("it is new");
        let early = timeout(Duration::from_secs(5), acquire(&function)).await;
        assert!(early.is_err(), "nobody knows how many there are");
        let mut waiting = std::pin::pin!(acquire(&function));
        let census = Census::from([(None, 1)]);
        function.set_elsewhere(census);
        let full = timeout(Duration::from_secs(3), &mut waiting).await;
        assert!(full.is_err(), "there is one elsewhere, and one may be");
        function.set_elsewhere(Census::new());
        waiting.await.expect("the place is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_function_that_moves_finishes_its_calls_and_counts_until_its_instances_are_gone() {
        let scheduler = scheduler();
        let id = one().id.clone();
        let function = scheduler.take_over(one()).expect("it is new");
        function.set_elsewhere(Census::new());
        let running = acquire(&function).await.expect("it starts");
        let waiting = acquire(&function);
        let moving = async {
            sleep(Duration::from_millis(1)).await;
            assert_eq!(scheduler.release(|_| false), 1);
        };
        let (waited, ()) = tokio::join!(waiting, moving);
        assert_eq!(waited.err(), Some(AcquireError::Moved));
        assert!(scheduler.find(&id).is_none());
        let seen = Census::from([(None, 1)]);
        assert_eq!(scheduler.census(&id), seen, "it has a call");
        let changed = scheduler.census_changed(&id, &seen);
        let ending = async {
            sleep(Duration::from_millis(1)).await;
            drop(running);
        };
        let (census, ()) = tokio::join!(changed, ending);
        assert!(census.is_empty());
        assert_eq!(scheduler.held(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_function_that_comes_back_counts_what_was_left_of_it() {
        let scheduler = scheduler();
        let function = scheduler.take_over(one()).expect("it is new");
        function.set_elsewhere(Census::new());
        let running = acquire(&function).await.expect("it starts");
        scheduler.release(|_| false);
        let again = scheduler.take_over(one()).expect("it is back");
        again.set_elsewhere(Census::new());
        let full = timeout(Duration::from_secs(3), acquire(&again)).await;
        assert!(full.is_err(), "the one that runs a call is still there");
        drop(running);
        acquire(&again).await.expect("now there is room");
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_schedule_any_more_kills_what_it_has() {
        let scheduler = scheduler();
        let id = one().id.clone();
        let function = scheduler.take_over(one()).expect("it is new");
        function.set_elsewhere(Census::new());
        let running = acquire(&function).await.expect("it starts");
        let seen = scheduler.census(&id);
        scheduler.abandon();
        let census = scheduler.census_changed(&id, &seen).await;
        assert!(census.is_empty(), "although a call runs");
        drop(running);
        assert_eq!(acquire(&function).await.err(), Some(AcquireError::Moved));
    }
}
