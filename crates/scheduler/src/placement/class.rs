//! Nodes that are alike for whoever chooses by label, pool or kind of device.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Node, NodeView, device_matches};
use super::tree::{Bounds, Tree};

/// Labels that every node has with a value of its own: they tell nodes apart and choose nothing.
const OF_ONE_NODE: [&str; 4] = ["NODE_ID", "HOST_IP", "hostname", "kubernetes.io/hostname"];

/// What the nodes of a class have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    keys: BTreeSet<String>,
    pool: Option<String>,
    devices: Vec<String>,
}

impl Shape {
    fn of(view: &NodeView) -> Self {
        let labels = view.labels.keys();
        let keys = labels
            .filter(|key| !OF_ONE_NODE.contains(&key.as_str()))
            .chain(&view.group)
            .cloned()
            .collect();
        Self {
            keys,
            pool: view.pool.clone(),
            devices: view.capacity.custom.keys().cloned().collect(),
        }
    }
}

/// Where a node is among the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    class: usize,
    leaf: usize,
}

/// The nodes of one shape.
#[derive(Debug)]
pub(super) struct Class {
    shape: Shape,
    tree: Tree,
    /// The number of the node at each leaf.
    members: Vec<usize>,
    unused: Vec<usize>,
}

impl Class {
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The number of the node at a leaf.
    pub(super) fn member(&self, leaf: usize) -> usize {
        self.members[leaf]
    }

    /// Whether its nodes have every kind of device that is asked for.
    pub(super) fn has_devices(&self, wanted: &[(String, i64)]) -> bool {
        wanted.iter().all(|(name, amount)| {
            let mut devices = self.shape.devices.iter();
            *amount <= 0 || devices.any(|device| device_matches(name, device))
        })
    }
}

/// All classes.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// By number; numbers of classes without a node are used again.
    all: Vec<Option<Class>>,
    unused: Vec<usize>,
    by_shape: BTreeMap<Shape, usize>,
    /// The classes whose nodes have a label key.
    by_key: BTreeMap<String, BTreeSet<usize>>,
}

impl Classes {
    /// Gives a node its place; [`Classes::set`] says what it has.
    pub(super) fn add(&mut self, number: usize, view: &NodeView) -> Place {
        let shape = Shape::of(view);
        let class = match self.by_shape.get(&shape) {
            Some(&class) => class,
            None => self.found(shape),
        };
        let Some(found) = &mut self.all[class] else {
            unreachable!("a class that is known by its shape exists")
        };
        let leaf = if let Some(leaf) = found.unused.pop() {
            found.members[leaf] = number;
            leaf
        } else {
            found.members.push(number);
            found.members.len() - 1
        };
        Place { class, leaf }
    }

    fn found(&mut self, shape: Shape) -> usize {
        let class = self.unused.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        for key in &shape.keys {
            self.by_key.entry(key.clone()).or_default().insert(class);
        }
        self.by_shape.insert(shape.clone(), class);
        self.all[class] = Some(Class {
            shape,
            tree: Tree::default(),
            members: Vec::new(),
            unused: Vec::new(),
        });
        class
    }

    pub(super) fn remove(&mut self, node: &Node) {
        let Place { class, leaf } = node.place;
        let Some(found) = &mut self.all[class] else {
            return;
        };
        found.tree.set(leaf, Bounds::NOTHING);
        found.unused.push(leaf);
        if found.unused.len() < found.members.len() {
            return;
        }
        let Some(gone) = self.all[class].take() else {
            return;
        };
        self.by_shape.remove(&gone.shape);
        for key in &gone.shape.keys {
            if let Some(classes) = self.by_key.get_mut(key) {
                classes.remove(&class);
                if classes.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        self.unused.push(class);
    }

    /// Brings the tree up to date with what a node has free.
    pub(super) fn set(&mut self, node: &Node) {
        if let Some(class) = &mut self.all[node.place.class] {
            class.tree.set(node.place.leaf, node.bounds());
        }
    }

    /// The classes whose nodes have a label key (all without one), and are of a pool (any without
    /// one).
    pub(super) fn with<'a>(
        &'a self,
        key: Option<&str>,
        pool: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Class> {
        let all = key.is_none().then(|| self.all.iter().flatten());
        let keyed = key.and_then(|key| self.by_key.get(key));
        let keyed = keyed.into_iter().flatten();
        let keyed = keyed.filter_map(|&class| self.all[class].as_ref());
        all.into_iter()
            .flatten()
            .chain(keyed)
            .filter(move |class| pool.is_none() || class.shape.pool.as_deref() == pool)
    }
}
