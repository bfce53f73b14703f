//! A driver that starts each instance on the node that [`Placement`] chooses.
//!
//! The scheduler sees one [`Driver`]; behind it are the drivers of the nodes. A start that finds no
//! room waits for some, in the hope that an instance ends or a node joins, and then fails with the
//! reason. What an instance takes is given back when the last handle to it is dropped.

mod placed;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    BoxFuture, Driver, ExitCause, Instance, InstanceId, StartError, StartRequest, Started,
};
use bugle_types::pool::PoolId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use placed::Hold;
use waiting::Waiting;

use crate::placement::{
    Health, NoPlace, NodeId, NodeStatus, NodeView, Others, Placement, PoolRule, Request, Tenancy,
};

/// How often a start is tried on another node when the one that was chosen went away meanwhile.
const ATTEMPTS: u32 = 3;

/// The pause after a node refused an instance: what it has more than is known here is about to end, or
/// its word about that is on the way.
const PAUSE: Duration = Duration::from_millis(20);

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
    /// Nodes that get nothing more because they were idle, and what they are if that is taken back.
    closed: BTreeMap<NodeId, Health>,
    /// What is counted has a number of its own: an instance that is taken in again after its node was
    /// lost must not be given back by those that still hold it as lost.
    next: u128,
}

impl State {
    fn number(&mut self) -> InstanceId {
        self.next += 1;
        InstanceId(self.next)
    }

    fn close(&mut self, id: &NodeId) {
        if let Some(node) = self.placement.find(id)
            && !self.closed.contains_key(id)
        {
            let health = node.view.health;
            self.closed.insert(id.clone(), health);
            self.placement.set_health(id, Health::Draining);
        }
    }

    /// Remembers since when a node has had no instance.
    fn look_at(&mut self, id: &NodeId) {
        match self.placement.find(id) {
            Some(node) if is_empty(&node) => {
                self.idle.entry(id.clone()).or_insert_with(Instant::now);
            }
            _ => {
                self.idle.remove(id);
            }
        }
    }
}

/// Whether nobody has an instance on a node.
fn is_empty(node: &NodeStatus<'_>) -> bool {
    node.instances == 0 && node.others.is_none_or(|others| others.instances == 0)
}

/// A node, for people.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// What it says of itself.
    pub view: NodeView,
    /// Instances on it, whoever placed them.
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
            closed: BTreeMap::new(),
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
        state.closed.remove(&id);
        state.look_at(&id);
        drop(state);
        self.0.made_room();
    }

    /// Whether a node has instances of one tenant only.
    pub fn keeps_tenants_apart(&self) -> bool {
        self.0.config.tenancy == Tenancy::Isolated
    }

    /// Counts what a node has that was not placed here.
    pub fn set_others(&self, id: &NodeId, others: Others) {
        let mut state = self.0.state.lock();
        state.placement.set_others(id, others);
        state.look_at(id);
        drop(state);
        self.0.made_room();
    }

    /// Says whether a node gets instances. One that is closed gets none before it is opened again.
    pub fn set_health(&self, id: &NodeId, health: Health) {
        let mut state = self.0.state.lock();
        if let Some(later) = state.closed.get_mut(id) {
            *later = health;
            return;
        }
        state.placement.set_health(id, health);
        drop(state);
        self.0.made_room();
    }

    /// Forgets a node. Its instances must have ended.
    pub fn leave(&self, id: &NodeId) {
        let mut state = self.0.state.lock();
        state.placement.leave(id);
        state.drivers.remove(id);
        state.closed.remove(id);
        state.look_at(id);
    }

    /// Closes a node if it is here and has no instance; whether it has.
    pub fn retire(&self, id: &NodeId) -> bool {
        let mut state = self.0.state.lock();
        let idle = state.placement.find(id).is_some_and(|node| is_empty(&node));
        if idle {
            state.close(id);
        }
        idle
    }

    /// Lets a node have no further instance; those it has stay.
    pub fn close(&self, id: &NodeId) {
        self.0.state.lock().close(id);
    }

    /// Lets a node that was closed have instances again.
    pub fn open(&self, id: &NodeId) {
        let mut state = self.0.state.lock();
        if let Some(health) = state.closed.remove(id) {
            state.placement.set_health(id, health);
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
        let nodes = state.placement.nodes().map(|node| {
            let others = node.others.cloned().unwrap_or_default();
            NodeInfo {
                view: node.view.clone(),
                instances: node.instances + others.instances,
                cpu_used: node.cpu_used + others.cpu,
                memory_used: node.memory_used + others.memory,
                idle_since: state.idle.get(&node.view.id).copied(),
            }
        });
        nodes.collect()
    }

    async fn start(&self, request: StartRequest) -> Result<Started, StartError> {
        let mut waiting = Waiting::new(&self.0, &request);
        let mut attempt = 1;
        loop {
            let (hold, driver) = self.room_for(&request, &mut waiting).await?;
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
                // Others were faster. What they have is known by now.
                Err(StartError::NoRoom(_)) if hold.is_shared() && waiting.goes_on() => {
                    drop(hold);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for room. The pool that the function names is asked to grow meanwhile.
    async fn room_for(
        &self,
        request: &StartRequest,
        waiting: &mut Waiting<'_>,
    ) -> Result<(Hold, Arc<dyn Driver>), StartError> {
        let mut room = self.0.room.subscribe();
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
