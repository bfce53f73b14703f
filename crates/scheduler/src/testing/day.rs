//! A day of bursty traffic over thousands of nodes, from a seed, with the real cores.
//!
//! Every function has its own core and all share one [`Placement`](crate::Placement), as in the
//! platform; the world around them is simulated event by event. Few functions are hot, the long tail
//! is mostly cold, and an instance goes after 60 s without a call; by night there is little traffic.
//! Nodes die, drain and come back. The world keeps books of its own, and panics with the seed when a
//! rule is broken:
//!
//! - a node never has more than it has room for, and a node that drains or is dead gets nothing;
//! - a function never has more instances than its maximum, and an instance never more calls than it
//!   runs at once;
//! - each call is answered once: by its instance, with a reason, or with the loss of its node;
//! - a drain fails no call and ends with an empty node;
//! - what a dead node took from a minimum is replaced within three seconds.

mod nodes;
mod times;
mod traffic;
mod world;

pub use times::Times;
use world::World;

/// How much is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes, of 16 cores and 32 GiB.
    pub nodes: u32,
    /// Functions, each hundredth of which is hot.
    pub functions: u32,
    /// Instances that each hot function keeps. Its maximum is 20 more than twice as many.
    pub minimum: u32,
    /// Seconds of traffic.
    pub seconds: u32,
    /// Calls in a second of the busiest time of day, beside the bursts.
    pub rate: u32,
    /// Where the numbers come from.
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Calls that were made.
    pub calls: u64,
    /// Calls that got an answer from an instance.
    pub served: u64,
    /// Calls that were refused with a reason.
    pub refused: u64,
    /// Calls that were answered with the loss of their node.
    pub lost: u64,
    /// Instances that were started.
    pub starts: u64,
    /// The most that there were at once.
    pub most_instances: usize,
    /// The fewest that there were in a second of traffic, the first minute aside.
    pub fewest_instances: Option<usize>,
    /// Nodes that died.
    pub deaths: u32,
    /// Nodes that were drained.
    pub drains: u32,
    /// What each placement took.
    pub placements: Times,
    /// What each call took from its arrival to the end of the decision, starts included.
    pub decisions: Times,
}

/// Simulates it.
///
/// # Panics
///
/// If a rule is broken; the text names the seed.
pub fn run(size: Size) -> Report {
    let mut world = World::new(size);
    world.run();
    world.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_while_of_traffic_over_two_hundred_nodes_breaks_no_rule() {
        for seed in 1..3 {
            let report = run(Size {
                nodes: 200,
                functions: 2000,
                minimum: 40,
                seconds: 800,
                rate: 25,
                seed,
            });
            assert!(report.deaths > 3 && report.drains > 3);
            assert!(report.served > report.calls * 9 / 10, "{report:?}");
        }
    }

    #[test]
    fn nodes_that_are_too_small_for_all_break_no_rule_either() {
        let report = run(Size {
            nodes: 30,
            functions: 3000,
            minimum: 4,
            seconds: 600,
            rate: 100,
            seed: 7,
        });
        assert!(report.most_instances > 200);
    }
}
