//! The controllers of a cluster, as far as a test needs them: one step looks at everything there is and
//! does what is due. Time is given; nothing here sleeps.

mod deployment;
mod garbage;
pub(crate) mod kubelet;
mod nodes;
mod scheduler;

use std::time::Instant;

use crate::store::Store;

use kubelet::Kubelet;

/// How often one step may go round before it leaves the rest to the next.
const ROUNDS: usize = 50;

/// Does everything that is due, and tells when the next thing will be.
pub(crate) fn step(store: &mut Store, kubelet: &mut Kubelet, now: Instant) -> Option<Instant> {
    let mut next = None;
    for _ in 0..ROUNDS {
        let before = store.revision();
        deployment::step(store);
        garbage::step(store);
        nodes::step(store, kubelet, now);
        scheduler::step(store);
        next = kubelet.step(store, now);
        if store.revision() == before {
            break;
        }
    }
    next
}
