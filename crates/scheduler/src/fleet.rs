//! A driver that starts each instance on the node that [`Placement`] chooses.
//!
//! The scheduler sees one [`Driver`]; behind it are the drivers of the nodes. A start that finds no
//! room waits for some, in the hope that an instance ends or a node joins, and then fails with the
//! reason. What an instance takes is given back when the last handle to it is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, HttpExchange, HttpReply, Instance,
    InstanceId, NoReply, Reply, StartError, StartRequest, Started,
};
use bugle_types::pool::PoolId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::placement::{Health, NoPlace, NodeId, NodeView, Placement, PoolRule, Request, Tenancy};

/// How often a start is tried on another node when the one that was chosen went away meanwhile.
const ATTEMPTS: u32 = 3;

/// How instances are placed on nodes.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Whether tenants meet on a node.
    pub tenancy: Tenancy,
    /// How long a start waits for room.
    pub patience: Duration,
    /// How long it waits if its function has a pool, which grows meanwhile.
    pub pool_patience: Duration,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            tenancy: Tenancy::Shared,
            patience: Duration::from_secs(5),
            pool_patience: Duration::from_mins(2),
        }
    }
}

/// How often a pool is asked again whether there is hope for an instance.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Makes pools grow. None of its functions may block.
pub trait Growth: Send + Sync {
    /// Whether there is such a pool. Its nodes alone host functions that name it and no group.
    fn has(&self, pool: &PoolId) -> bool;

    /// An instance of a function of this pool found no node. The pool gets at most one more for it, however often this
    /// is asked.
    ///
    /// # Errors
    ///
    /// Why no node of the pool is to be expected, for people.
    fn grow(&self, pool: &PoolId, instance: InstanceId) -> Result<(), String>;

    /// What is wrong with the pool, for people.
    fn trouble(&self, pool: &PoolId) -> Option<String>;
}

/// The nodes of this platform; clones are the same fleet.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    config: FleetConfig,
    growth: Option<Arc<dyn Growth>>,
    state: Mutex<State>,
    /// Counts what may make room: ends of instances, nodes that join.
    room: watch::Sender<u64>,
}

struct State {
    placement: Placement,
    drivers: BTreeMap<NodeId, Arc<dyn Driver>>,
    /// Since when nodes have had no instance.
    idle: BTreeMap<NodeId, Instant>,
    /// Nodes that get nothing more because they were idle.
    retired: BTreeSet<NodeId>,
    /// What is counted has a number of its own: an instance that is taken in again after its node was
    /// lost must not be given back by those that still hold it as lost.
    next: u128,
}

impl State {
    fn number(&mut self) -> InstanceId {
        self.next += 1;
        InstanceId(self.next)
    }

    /// Remembers since when a node has had no instance.
    fn look_at(&mut self, id: &NodeId) {
        match self.placement.find(id) {
            Some(node) if node.instances == 0 => {
                self.idle.entry(id.clone()).or_insert_with(Instant::now);
            }
            _ => {
                self.idle.remove(id);
            }
        }
    }
}

/// A node, for people.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// What it says of itself.
    pub view: NodeView,
    /// Instances on it.
    pub instances: usize,
    /// Thousandths of a core that they may use.
    pub cpu_used: u64,
    /// MiB that they may use.
    pub memory_used: u64,
    /// Since when it has had no instance, if it has none.
    pub idle_since: Option<Instant>,
}

impl Fleet {
    /// Without nodes.
    pub fn new(config: FleetConfig, growth: Option<Arc<dyn Growth>>) -> Self {
        let state = State {
            placement: Placement::new(config.tenancy),
            drivers: BTreeMap::new(),
            idle: BTreeMap::new(),
            retired: BTreeSet::new(),
            next: 0,
        };
        Self(Arc::new(Shared {
            config,
            growth,
            state: Mutex::new(state),
            room: watch::Sender::new(0),
        }))
    }

    /// Adds a node, or takes what it says of itself now, and what starts instances on it.
    pub fn join(&self, view: NodeView, driver: Arc<dyn Driver>) {
        let mut state = self.0.state.lock();
        let id = view.id.clone();
        state.drivers.insert(id.clone(), driver);
        state.placement.join(view);
        state.retired.remove(&id);
        state.look_at(&id);
        drop(state);
        self.0.made_room();
    }

    /// Says whether a node gets instances.
    pub fn set_health(&self, id: &NodeId, health: Health) {
        self.0.state.lock().placement.set_health(id, health);
        self.0.made_room();
    }

    /// Forgets a node. Its instances must have ended.
    pub fn leave(&self, id: &NodeId) {
        let mut state = self.0.state.lock();
        state.placement.leave(id);
        state.drivers.remove(id);
        state.retired.remove(id);
        state.look_at(id);
    }

    /// Lets a node have no further instance if it has none; false if it has one. A node that is not here has none.
    pub fn retire(&self, id: &NodeId) -> bool {
        let mut state = self.0.state.lock();
        let health = match state.placement.find(id) {
            None => return true,
            Some(node) if node.instances > 0 => return false,
            Some(node) => node.view.health,
        };
        if health == Health::Live {
            state.retired.insert(id.clone());
            state.placement.set_health(id, Health::Draining);
        }
        true
    }

    /// Takes [`Fleet::retire`] back.
    pub fn restore(&self, id: &NodeId) {
        let mut state = self.0.state.lock();
        if state.retired.remove(id) {
            state.placement.set_health(id, Health::Live);
            drop(state);
            self.0.made_room();
        }
    }

    /// Counts an instance that a node runs already, and gives it back as one of the fleet.
    pub fn adopt(
        &self,
        node: &NodeId,
        request: &StartRequest,
        instance: Arc<dyn Instance>,
    ) -> Option<Arc<dyn Instance>> {
        let mut state = self.0.state.lock();
        let number = state.number();
        let wish = self.0.wish(number, request);
        let taken = state.placement.adopt(node, &wish);
        state.look_at(node);
        drop(state);
        taken.then(|| self.0.hold(number).around(instance))
    }

    /// The nodes, in order of name.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let state = self.0.state.lock();
        let nodes = state.placement.nodes().map(|node| NodeInfo {
            view: node.view.clone(),
            instances: node.instances,
            cpu_used: node.cpu_used,
            memory_used: node.memory_used,
            idle_since: state.idle.get(&node.view.id).copied(),
        });
        nodes.collect()
    }

    async fn start(&self, request: StartRequest) -> Result<Started, StartError> {
        let mut attempt = 1;
        loop {
            let (hold, driver) = self.room_for(&request).await?;
            let started = driver.start(request.clone()).await;
            match started {
                Ok(Started { instance, phases }) => {
                    return Ok(Started {
                        instance: hold.around(instance),
                        phases,
                    });
                }
                // It did not come up because of the node; another will do as well.
                Err(StartError::Exited(ExitCause::NodeLost { .. })) if attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for room. The pool that the function names is asked to grow meanwhile.
    async fn room_for(
        &self,
        request: &StartRequest,
    ) -> Result<(Hold, Arc<dyn Driver>), StartError> {
        let mut room = self.0.room.subscribe();
        let mut waiting = Waiting::new(&self.0, request);
        loop {
            room.mark_unchanged();
            let why = match self.0.place(request) {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            let (next, until) = waiting.ask(&why);
            let changed = tokio::time::timeout_at(next.min(until), room.changed()).await;
            if changed.is_err() && Instant::now() >= until {
                return Err(StartError::NoRoom(waiting.reason(&why)));
            }
        }
    }
}

/// A start that waits for room.
struct Waiting<'a> {
    config: &'a FleetConfig,
    /// The pool that may grow for it.
    pool: Option<(&'a PoolId, &'a dyn Growth)>,
    instance: InstanceId,
    /// When it began, and for how long it goes on.
    since: Option<Instant>,
    patience: Duration,
    asked: Option<Instant>,
    /// Why the pool does not grow.
    refusal: Option<String>,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, request: &'a StartRequest) -> Self {
        let named = request.spec.pool.pool.as_ref();
        let pool = named.and_then(|pool| {
            let growth = shared.growth.as_deref()?;
            growth.has(pool).then_some((pool, growth))
        });
        Self {
            config: &shared.config,
            pool,
            instance: request.id,
            since: None,
            patience: shared.config.patience,
            asked: None,
            refusal: None,
        }
    }

    /// Asks the pool, now and then; when to look again and until when at all.
    fn ask(&mut self, why: &NoPlace) -> (Instant, Instant) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        // One that is too large would not fit on one more node of the pool either.
        let pool = self
            .pool
            .filter(|_| !matches!(why, NoPlace::TooLarge { .. }));
        let Some((pool, growth)) = pool else {
            return (since + self.patience, since + self.patience);
        };
        if self.asked.is_none_or(|asked| now >= asked + ASK_EVERY) {
            self.asked = Some(now);
            self.refusal = growth.grow(pool, self.instance).err();
            if self.refusal.is_none() {
                self.patience = self.patience.max(self.config.pool_patience);
            }
        }
        (now + ASK_EVERY, since + self.patience)
    }

    /// The scheduler's reason, why the pool did not grow, and what is wrong with it.
    fn reason(&self, why: &NoPlace) -> String {
        let trouble = self.pool.and_then(|(pool, growth)| {
            let trouble = growth.trouble(pool)?;
            Some(format!("pool {pool}: {trouble}"))
        });
        let parts = [Some(why.to_string()), self.refusal.clone(), trouble];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("; ")
    }
}

impl Driver for Fleet {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(Self::start(self, request))
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn wish<'a>(&self, number: InstanceId, request: &'a StartRequest) -> Request<'a> {
        let choice = &request.spec.pool;
        let has = |pool: &PoolId| self.growth.as_ref().is_some_and(|growth| growth.has(pool));
        // Who names groups has said where else it may run.
        let alone = choice.groups.is_empty() && choice.pool.as_ref().is_some_and(has);
        Request {
            instance: number,
            tenant: &request.spec.id.tenant,
            resources: &request.resources,
            choice,
            pool: if alone {
                PoolRule::Only
            } else {
                PoolRule::First
            },
        }
    }

    fn place(self: &Arc<Self>, request: &StartRequest) -> Result<(Hold, Arc<dyn Driver>), NoPlace> {
        let mut state = self.state.lock();
        let number = state.number();
        let node = state.placement.place(&self.wish(number, request))?;
        state.look_at(&node);
        let driver = state.drivers.get(&node).map(Arc::clone);
        drop(state);
        let hold = self.hold(number);
        driver.map(|driver| (hold, driver)).ok_or(NoPlace::NoNodes)
    }

    fn hold(self: &Arc<Self>, instance: InstanceId) -> Hold {
        Hold {
            fleet: Arc::clone(self),
            instance,
        }
    }

    fn made_room(&self) {
        self.room
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// What an instance takes of its node, until this is dropped.
struct Hold {
    fleet: Arc<Shared>,
    instance: InstanceId,
}

impl Hold {
    fn around(self, instance: Arc<dyn Instance>) -> Arc<dyn Instance> {
        Arc::new(Placed {
            instance,
            _hold: self,
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.fleet.state.lock();
        let node = state.placement.node_of(self.instance).cloned();
        state.placement.release(self.instance);
        if let Some(node) = node {
            state.look_at(&node);
        }
        drop(state);
        self.fleet.made_room();
    }
}

/// An instance that takes room on a node.
struct Placed {
    instance: Arc<dyn Instance>,
    _hold: Hold,
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instance.fmt(f)
    }
}

impl Instance for Placed {
    fn id(&self) -> InstanceId {
        self.instance.id()
    }

    fn pid(&self) -> Option<u32> {
        self.instance.pid()
    }

    fn node(&self) -> Option<&str> {
        self.instance.node()
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        self.instance.call(request)
    }

    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        self.instance.exchange(exchange)
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit> {
        self.instance.stop(grace)
    }

    fn kill(&self) {
        self.instance.kill();
    }

    fn leaving(&self) -> BoxFuture<'_, ()> {
        self.instance.leaving()
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        self.instance.exited()
    }
}

#[cfg(test)]
mod tests {
    use bugle_types::{CpuMillis, MemoryMib, Resources};

    use super::*;
    use crate::placement::Capacity;
    use crate::testing::{SimDriver, spec};

    fn node(name: &str, cpu: u64) -> NodeView {
        NodeView {
            id: name.parse().unwrap(),
            capacity: Capacity {
                cpu,
                memory: 65_536,
                custom: BTreeMap::new(),
            },
            labels: BTreeMap::new(),
            pool: None,
            group: None,
            health: Health::Live,
        }
    }

    fn driver() -> Arc<SimDriver> {
        SimDriver::new(
            Duration::ZERO,
            Arc::new(|_| (Duration::ZERO, "1".to_owned())),
        )
    }

    fn request(id: u128, pool: Option<&str>) -> StartRequest {
        let mut spec = spec("f", "1", 1, 0, 9);
        spec.pool = bugle_types::pool::PoolChoice::new(pool.unwrap_or_default(), "");
        StartRequest {
            id: InstanceId(id),
            spec: Arc::new(spec),
            resources: Resources {
                cpu: CpuMillis(1000),
                memory: MemoryMib(128),
                custom: Vec::new(),
            },
            label: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_room_and_then_says_why_there_is_none() {
        let fleet = Fleet::new(FleetConfig::default(), None);
        fleet.join(node("a", 1000), driver());
        let first = fleet.start(request(1, None)).await.unwrap();
        let begin = Instant::now();
        let error = fleet.start(request(2, None)).await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
        let expected = "none of 1 nodes has room for an instance with 1000m CPU and 128 MiB";
        assert_eq!(error, StartError::NoRoom(expected.to_owned()));
        let third = fleet.start(request(3, None));
        let release = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        };
        let (third, ()) = tokio::join!(third, release);
        assert!(third.is_ok(), "the end of the first makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_joins_takes_what_waits_for_room() {
        let fleet = Fleet::new(FleetConfig::default(), None);
        let joins = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            fleet.join(node("a", 1000), driver());
        };
        let (started, ()) = tokio::join!(fleet.start(request(1, None)), joins);
        assert!(started.is_ok());
        assert_eq!(fleet.nodes()[0].instances, 1);
    }

    /// A pool that grows, or does not.
    #[derive(Default)]
    struct Pool {
        asked: Mutex<Vec<InstanceId>>,
        refuses: bool,
    }

    impl Growth for Pool {
        fn has(&self, pool: &PoolId) -> bool {
            pool.as_str() == "pool1"
        }

        fn grow(&self, pool: &PoolId, instance: InstanceId) -> Result<(), String> {
            assert_eq!(pool.as_str(), "pool1");
            self.asked.lock().push(instance);
            if self.refuses {
                return Err("failed to scale up pod: it is full".to_owned());
            }
            Ok(())
        }

        fn trouble(&self, _: &PoolId) -> Option<String> {
            Some("ErrImagePull".to_owned())
        }
    }

    fn of_pool(name: &str, pool: &str) -> NodeView {
        NodeView {
            pool: Some(pool.to_owned()),
            ..node(name, 1000)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_without_room_makes_its_pool_grow_and_waits_two_minutes() {
        let growth = Arc::new(Pool::default());
        let fleet = Fleet::new(FleetConfig::default(), Some(Arc::clone(&growth) as _));
        let begin = Instant::now();
        let error = fleet.start(request(1, Some("pool1"))).await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::from_mins(2));
        let StartError::NoRoom(reason) = error else {
            panic!("{error:?}");
        };
        assert!(reason.contains("no node takes instances"), "{reason}");
        assert!(reason.ends_with("; pool pool1: ErrImagePull"), "{reason}");
        let asked = growth.asked.lock();
        assert!(asked.iter().all(|instance| *instance == InstanceId(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_whose_pool_does_not_grow_fails_soon_and_says_so() {
        let growth = Arc::new(Pool {
            refuses: true,
            ..Pool::default()
        });
        let fleet = Fleet::new(FleetConfig::default(), Some(growth));
        fleet.join(of_pool("a", "pool1"), driver());
        let _first = fleet.start(request(1, Some("pool1"))).await.unwrap();
        let begin = Instant::now();
        let error = fleet.start(request(2, Some("pool1"))).await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
        let StartError::NoRoom(reason) = error else {
            panic!("{error:?}");
        };
        assert!(
            reason.contains("has room") && reason.contains("; failed to scale up pod"),
            "{reason}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_function_that_names_a_pool_runs_on_its_nodes_alone() {
        let fleet = Fleet::new(FleetConfig::default(), Some(Arc::new(Pool::default())));
        fleet.join(of_pool("other", "pool2"), driver());
        let joins = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            fleet.join(of_pool("own", "pool1"), driver());
        };
        let (started, ()) = tokio::join!(fleet.start(request(1, Some("pool1"))), joins);
        let _held = started.unwrap();
        assert_eq!(fleet.nodes()[1].instances, 1, "{:?}", fleet.nodes());
        // Of a pool that nobody knows there is nothing to wait for.
        let started = fleet.start(request(2, Some("unknown"))).await;
        assert!(started.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_node_is_known_since_when_and_can_be_retired_while_it_is() {
        let fleet = Fleet::new(FleetConfig::default(), None);
        let id: NodeId = "a".parse().unwrap();
        fleet.join(node("a", 1000), driver());
        let joined = Instant::now();
        assert_eq!(fleet.nodes()[0].idle_since, Some(joined));
        let first = fleet.start(request(1, None)).await.unwrap();
        assert_eq!(fleet.nodes()[0].idle_since, None);
        assert!(!fleet.retire(&id), "it is busy");
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(first);
        assert_eq!(fleet.nodes()[0].idle_since, Some(Instant::now()));
        assert!(fleet.retire(&id));
        assert!(
            fleet.start(request(2, None)).await.is_err(),
            "it is retired"
        );
        fleet.restore(&id);
        assert!(fleet.start(request(3, None)).await.is_ok());
    }
}
