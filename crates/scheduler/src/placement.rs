//! Which node an instance runs on, without I/O.
//!
//! [`Placement`] knows the nodes, what each has and what runs there, and [`Placement::place`] says
//! where one more instance goes, or why nowhere. Rules that hold after every call:
//!
//! - a node never gets more than it has: CPU, memory and every custom resource are hard, arithmetic
//!   limits. Only what a node says runs there already ([`Placement::adopt`]) is counted beyond them;
//! - what others have placed on a node counts like what was placed here ([`Placement::set_others`]);
//! - a node that drains or is dead gets nothing;
//! - an instance that asks for groups runs on a node of one of them, the first that has room, unless
//!   it says that any will do ([`PoolChoice`](bugle_types::pool::PoolChoice));
//! - where nodes are not shared, a node has instances of one tenant only;
//! - among what is left, nodes of the function's own pool come first, then the least loaded ones; of
//!   those that are about equally loaded the one with the fewest instances of the same tenant, so
//!   that a node that dies takes as little of each tenant as possible.
//!
//! Nodes that are alike (labels, group, pool, kinds of devices) form a class. A class keeps a tree
//! over its nodes with the most free CPU, the most free memory and the least load of each half, so
//! that a search looks at a few nodes, however many there are ([`tree`](self)).
//!
//! Nothing here is stored: nodes say what runs on them, and a picture that was lost is made again
//! from what they say.

mod class;
mod node;
mod request;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bugle_instances::InstanceId;
use bugle_types::pool::PoolId;
use bugle_types::{Resources, TenantId};

use class::Classes;
use node::Node;
use request::Best;

pub use node::{Capacity, Health, NodeId, NodeStatus, NodeView, Others};
pub use request::{NoPlace, PoolRule, Request};

/// Whether tenants meet on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tenancy {
    /// They do; each tenant's instances are spread.
    #[default]
    Shared,
    /// A node that has an instance of one tenant gets none of another.
    Isolated,
}

/// Where an instance is.
#[derive(Clone, Debug)]
struct Placed {
    node: usize,
    tenant: TenantId,
    resources: Resources,
    /// For each custom resource the name under which the node has it.
    devices: Vec<(String, i64)>,
}

/// The nodes and what runs on them.
#[derive(Debug, Default)]
pub struct Placement {
    tenancy: Tenancy,
    /// By number; numbers of nodes that have left are used again.
    nodes: Vec<Option<Node>>,
    unused: Vec<usize>,
    by_id: BTreeMap<NodeId, usize>,
    classes: Classes,
    /// Only looked up, never gone through: its order decides nothing.
    instances: HashMap<InstanceId, Placed>,
}

impl Placement {
    /// No nodes yet.
    pub fn new(tenancy: Tenancy) -> Self {
        Self {
            tenancy,
            ..Self::default()
        }
    }

    /// Adds a node, or takes what it says of itself now. What runs on it stays.
    pub fn join(&mut self, view: NodeView) {
        if let Some(&number) = self.by_id.get(&view.id) {
            if let Some(node) = &mut self.nodes[number] {
                self.classes.remove(node);
                node.view = view;
                node.place = self.classes.add(number, &node.view);
            }
            self.refresh(number);
            return;
        }
        let number = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        let place = self.classes.add(number, &view);
        self.by_id.insert(view.id.clone(), number);
        self.nodes[number] = Some(Node::new(view, place));
        self.refresh(number);
    }

    /// Says whether a node gets instances. Unknown nodes are ignored.
    pub fn set_health(&mut self, id: &NodeId, health: Health) {
        let Some(&number) = self.by_id.get(id) else {
            return;
        };
        if let Some(node) = &mut self.nodes[number] {
            node.view.health = health;
        }
        self.refresh(number);
    }

    /// Counts what a node has that was not placed here, in place of what it said before. Unknown nodes
    /// are ignored.
    pub fn set_others(&mut self, id: &NodeId, others: Others) {
        let Some(&number) = self.by_id.get(id) else {
            return;
        };
        if let Some(node) = &mut self.nodes[number] {
            node.others = Some(others);
        }
        self.refresh(number);
    }

    /// The resources beside CPU and memory that an instance has, by the names of its node.
    pub fn devices_of(&self, instance: InstanceId) -> &[(String, i64)] {
        let placed = self.instances.get(&instance);
        placed.map_or(&[], |placed| &placed.devices)
    }

    /// Forgets a node; the instances that were on it.
    pub fn leave(&mut self, id: &NodeId) -> BTreeSet<InstanceId> {
        let Some(number) = self.by_id.remove(id) else {
            return BTreeSet::new();
        };
        let Some(node) = self.nodes[number].take() else {
            return BTreeSet::new();
        };
        self.classes.remove(&node);
        self.unused.push(number);
        for instance in &node.instances {
            self.instances.remove(instance);
        }
        node.instances
    }

    /// Chooses a node and counts the instance there, until [`Placement::release`].
    ///
    /// # Errors
    ///
    /// [`NoPlace`] says which rule left no node. Nothing has changed then.
    pub fn place(&mut self, request: &Request<'_>) -> Result<NodeId, NoPlace> {
        let number = self.choose(request).ok_or_else(|| self.why_not(request))?;
        let devices = self
            .node(number)
            .and_then(|node| node.devices(&request.resources.custom))
            .unwrap_or_default();
        self.count(number, request, devices);
        self.node(number)
            .map(|node| node.view.id.clone())
            .ok_or(NoPlace::NoNodes)
    }

    /// Counts an instance that runs on a node already, even if that is more than the node has.
    /// False if the node or the instance is not what the caller thinks: the node is unknown, or the
    /// instance is counted elsewhere.
    pub fn adopt(&mut self, node: &NodeId, request: &Request<'_>) -> bool {
        let Some(&number) = self.by_id.get(node) else {
            return false;
        };
        if self.instances.contains_key(&request.instance) {
            return false;
        }
        let devices = request.resources.custom.clone();
        self.count(number, request, devices);
        true
    }

    /// The instance is gone. It may be told more than once.
    pub fn release(&mut self, instance: InstanceId) {
        let Some(placed) = self.instances.remove(&instance) else {
            return;
        };
        if let Some(node) = &mut self.nodes[placed.node] {
            node.instances.remove(&instance);
            node.give_back(&placed);
        }
        self.refresh(placed.node);
    }

    /// The node of an instance.
    pub fn node_of(&self, instance: InstanceId) -> Option<&NodeId> {
        let placed = self.instances.get(&instance)?;
        self.node(placed.node).map(|node| &node.view.id)
    }

    /// Every node, in order of identity.
    pub fn nodes(&self) -> impl Iterator<Item = NodeStatus<'_>> {
        self.by_id
            .values()
            .filter_map(|&number| self.node(number).map(Node::status))
    }

    /// One node.
    pub fn find(&self, id: &NodeId) -> Option<NodeStatus<'_>> {
        let number = *self.by_id.get(id)?;
        self.node(number).map(Node::status)
    }

    /// Instances that are counted.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether no instance is counted.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    fn node(&self, number: usize) -> Option<&Node> {
        self.nodes.get(number)?.as_ref()
    }

    fn count(&mut self, number: usize, request: &Request<'_>, devices: Vec<(String, i64)>) {
        let placed = Placed {
            node: number,
            tenant: request.tenant.clone(),
            resources: request.resources.clone(),
            devices,
        };
        if let Some(node) = &mut self.nodes[number] {
            node.instances.insert(request.instance);
            node.take(&placed);
        }
        self.instances.insert(request.instance, placed);
        self.refresh(number);
    }

    /// Brings the tree of its class up to date with a node.
    fn refresh(&mut self, number: usize) {
        if let Some(node) = self.nodes.get(number).and_then(Option::as_ref) {
            self.classes.set(node);
        }
    }

    /// The node for a request: tier by tier, the first that has room.
    fn choose(&self, request: &Request<'_>) -> Option<usize> {
        let keyed = request.choice.groups.iter().map(Some);
        let any = request.choice.takes_any().then_some(None);
        for key in keyed.chain(any) {
            let key = key.map(String::as_str);
            let pool = request.choice.pool.as_ref().map(PoolId::as_str);
            if pool.is_some()
                && let Some(number) = self.search(request, key, pool)
            {
                return Some(number);
            }
            if request.pool == PoolRule::First
                && let Some(number) = self.search(request, key, None)
            {
                return Some(number);
            }
        }
        None
    }

    /// The best node of the classes with this label key, and of this pool.
    fn search(
        &self,
        request: &Request<'_>,
        key: Option<&str>,
        pool: Option<&str>,
    ) -> Option<usize> {
        let mut best = Best::default();
        for class in self.classes.with(key, pool) {
            if !class.has_devices(&request.resources.custom) {
                continue;
            }
            class.tree().search(
                u64::from(request.resources.cpu.0),
                request.resources.memory.0,
                best.limit(),
                |leaf, load| {
                    let number = class.member(leaf);
                    let node = self.node(number)?;
                    if !self.accepts(node, request) {
                        return None;
                    }
                    Some(best.offer(number, load, node.count_of(request.tenant)))
                },
            );
        }
        best.choice()
    }

    /// What the tree does not know of.
    fn accepts(&self, node: &Node, request: &Request<'_>) -> bool {
        let tenancy = match self.tenancy {
            Tenancy::Shared => true,
            Tenancy::Isolated => node.belongs_to(request.tenant),
        };
        let custom = &request.resources.custom;
        tenancy && (custom.is_empty() || node.devices(custom).is_some())
    }

    /// Which rule left no node, the first that did.
    fn why_not(&self, request: &Request<'_>) -> NoPlace {
        let live: Vec<&Node> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| node.view.health == Health::Live)
            .collect();
        if live.is_empty() {
            return NoPlace::NoNodes;
        }
        let choice = request.choice;
        let only = choice
            .pool
            .as_ref()
            .filter(|_| request.pool == PoolRule::Only);
        let of_pool =
            |node: &&Node| only.is_none_or(|pool| node.view.pool.as_deref() == Some(pool.as_str()));
        let of_group = |node: &&Node| {
            choice.takes_any() || choice.groups.iter().any(|key| node.view.has_key(key))
        };
        let right: Vec<&Node> = live.into_iter().filter(of_pool).filter(of_group).collect();
        if let Some(pool) = only.filter(|_| right.is_empty()) {
            return NoPlace::NoWorkers {
                pool: pool.to_string(),
            };
        }
        if right.is_empty() {
            return NoPlace::NoGroup {
                keys: choice.groups.join(", "),
            };
        }
        if !right.iter().any(|node| node.could_hold(request.resources)) {
            return NoPlace::TooLarge {
                wanted: request::shown(request.resources),
                nodes: right.len(),
            };
        }
        NoPlace::Full {
            wanted: request::shown(request.resources),
            nodes: right.len(),
        }
    }
}
