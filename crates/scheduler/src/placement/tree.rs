//! A tree over the nodes of a class that finds the least loaded ones with enough room.
//!
//! Each inner node holds the most free CPU, the most free memory and the least load below it: a
//! search leaves out halves that are too full or more loaded than what it has found. A change of one
//! node costs the height of the tree.

/// What is known of one node, or of all below an inner node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Free thousandths of a core; the most below.
    pub(super) cpu: u64,
    /// Free MiB; the most below.
    pub(super) memory: u64,
    /// The load; the least below. The largest number is a place without a node.
    pub(super) load: u32,
}

impl Bounds {
    /// Of a place without a node.
    pub(super) const NOTHING: Self = Self {
        cpu: 0,
        memory: 0,
        load: u32::MAX,
    };

    fn of_both(left: Self, right: Self) -> Self {
        Self {
            cpu: left.cpu.max(right.cpu),
            memory: left.memory.max(right.memory),
            load: left.load.min(right.load),
        }
    }
}

/// The tree, as a heap: the children of `n` are `2n` and `2n + 1`, the root is 1.
#[derive(Debug)]
pub(super) struct Tree {
    /// A power of two.
    leaves: usize,
    bounds: Vec<Bounds>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            leaves: 1,
            bounds: vec![Bounds::NOTHING; 2],
        }
    }
}

impl Tree {
    /// Sets one leaf; the tree grows to hold it.
    pub(super) fn set(&mut self, leaf: usize, bounds: Bounds) {
        while leaf >= self.leaves {
            self.grow();
        }
        let mut at = self.leaves + leaf;
        self.bounds[at] = bounds;
        while at > 1 {
            at /= 2;
            let both = Bounds::of_both(self.bounds[2 * at], self.bounds[2 * at + 1]);
            if self.bounds[at] == both {
                return;
            }
            self.bounds[at] = both;
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(self);
        self.leaves = old.leaves * 2;
        self.bounds = vec![Bounds::NOTHING; 2 * self.leaves];
        for leaf in 0..old.leaves {
            self.bounds[self.leaves + leaf] = old.bounds[old.leaves + leaf];
        }
        for at in (1..self.leaves).rev() {
            self.bounds[at] = Bounds::of_both(self.bounds[2 * at], self.bounds[2 * at + 1]);
        }
    }

    /// Shows leaves with at least this much free, of less load than `limit`, roughly the least loaded
    /// first. `accept` may answer with a new limit.
    pub(super) fn search(
        &self,
        cpu: u64,
        memory: u64,
        limit: u32,
        mut accept: impl FnMut(usize, u32) -> Option<u32>,
    ) {
        let mut limit = limit;
        self.descend(1, (cpu, memory), &mut limit, &mut accept);
    }

    fn descend(
        &self,
        at: usize,
        need: (u64, u64),
        limit: &mut u32,
        accept: &mut impl FnMut(usize, u32) -> Option<u32>,
    ) {
        let Bounds { cpu, memory, load } = self.bounds[at];
        if load >= *limit || cpu < need.0 || memory < need.1 {
            return;
        }
        if at >= self.leaves {
            if let Some(lower) = accept(at - self.leaves, load) {
                *limit = lower;
            }
            return;
        }
        let (left, right) = (2 * at, 2 * at + 1);
        let (first, second) = if self.bounds[right].load < self.bounds[left].load {
            (right, left)
        } else {
            (left, right)
        };
        self.descend(first, need, limit, accept);
        self.descend(second, need, limit, accept);
    }
}
