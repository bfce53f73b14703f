//! A driver that starts each instance on the node that [`Placement`] chooses.
//!
//! The scheduler sees one [`Driver`]; behind it are the drivers of the nodes. A start that finds no
//! room waits for some, in the hope that an instance ends or a node joins, and then fails with the
//! reason. What an instance takes is given back when the last handle to it is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, HttpExchange, HttpReply, Instance,
    InstanceId, NoReply, Reply, StartError, StartRequest, Started,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::placement::{Health, NoPlace, NodeId, NodeView, Placement, Request, Tenancy};

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

/// Makes a pool grow. Told at most once for each start that found no room.
pub trait Growth: Send + Sync {
    /// An instance of a function of this pool found no node. Must not block.
    fn grow(&self, pool: &str, instance: InstanceId, why: &NoPlace);
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
    /// What is counted has a number of its own: an instance that is taken in again after its node was
    /// lost must not be given back by those that still hold it as lost.
    next: u128,
}

impl State {
    fn number(&mut self) -> InstanceId {
        self.next += 1;
        InstanceId(self.next)
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
}

impl Fleet {
    /// Without nodes.
    pub fn new(config: FleetConfig, growth: Option<Arc<dyn Growth>>) -> Self {
        let state = State {
            placement: Placement::new(config.tenancy),
            drivers: BTreeMap::new(),
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
        state.drivers.insert(view.id.clone(), driver);
        state.placement.join(view);
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
        let taken = state.placement.adopt(node, &wish(number, request));
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

    /// Waits for room.
    async fn room_for(
        &self,
        request: &StartRequest,
    ) -> Result<(Hold, Arc<dyn Driver>), StartError> {
        let mut room = self.0.room.subscribe();
        let mut deadline = None;
        loop {
            room.mark_unchanged();
            let why = match self.0.place(request) {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            let until = *deadline.get_or_insert_with(|| self.be_patient(request, &why));
            let changed = tokio::time::timeout_at(until, room.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(StartError::NoRoom(why.to_string()));
            }
        }
    }

    /// Until when a start waits that finds no room; its pool is told.
    fn be_patient(&self, request: &StartRequest, why: &NoPlace) -> Instant {
        let Shared { config, growth, .. } = &*self.0;
        let wait = match (&request.spec.pool.pool, growth) {
            (Some(pool), Some(growth)) => {
                growth.grow(pool.as_str(), request.id, why);
                config.pool_patience
            }
            _ => config.patience,
        };
        Instant::now() + wait
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

fn wish(number: InstanceId, request: &StartRequest) -> Request<'_> {
    Request {
        instance: number,
        tenant: &request.spec.id.tenant,
        resources: &request.resources,
        choice: &request.spec.pool,
    }
}

impl Shared {
    fn place(self: &Arc<Self>, request: &StartRequest) -> Result<(Hold, Arc<dyn Driver>), NoPlace> {
        let mut state = self.state.lock();
        let number = state.number();
        let node = state.placement.place(&wish(number, request))?;
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
        self.fleet.state.lock().placement.release(self.instance);
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Growth for Counted {
        fn grow(&self, pool: &str, _: InstanceId, _: &NoPlace) {
            assert_eq!(pool, "pool1");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_without_room_makes_its_pool_grow_once_and_waits_two_minutes() {
        let growth = Arc::new(Counted::default());
        let fleet = Fleet::new(FleetConfig::default(), Some(Arc::clone(&growth) as _));
        fleet.join(node("a", 500), driver());
        let begin = Instant::now();
        let nudges = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                fleet.set_health(&"a".parse().unwrap(), Health::Live);
            }
        };
        let (error, ()) = tokio::join!(fleet.start(request(1, Some("pool1"))), nudges);
        assert!(matches!(error, Err(StartError::NoRoom(_))));
        assert_eq!(begin.elapsed(), Duration::from_mins(2));
        assert_eq!(growth.0.load(Ordering::Relaxed), 1);
    }
}
