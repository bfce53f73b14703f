//! Requests for Pods where another gateway makes those: one of all holds the Lease, and it is told.
//!
//! Nothing is kept: whoever waits for a Pod asks again every second, and each is told again, also to another one that
//! holds the Lease by then.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bugle_types::pool::PoolId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::sharing::Sharing;

/// Requests that are told at once; more wait for the next time that they are asked.
const MOST: usize = 4096;

/// What a pool says while nobody can be told.
const NOBODY: &str = "no gateway makes Pods of pools at the moment";

/// A request for a Pod of a pool.
pub(crate) type Wish = (PoolId, String);

/// The way to the gateway that makes Pods.
#[derive(Debug)]
pub(super) struct Elsewhere {
    sharing: Sharing,
    wishes: Mutex<BTreeSet<Wish>>,
    more: Notify,
    /// Whether nobody took the last ones.
    in_vain: AtomicBool,
}

impl Elsewhere {
    pub(super) fn new(sharing: Sharing) -> Self {
        Self {
            sharing,
            wishes: Mutex::default(),
            more: Notify::new(),
            in_vain: AtomicBool::new(false),
        }
    }

    /// Has a request told.
    pub(super) fn tell(&self, pool: &PoolId, request: &str) {
        let mut wishes = self.wishes.lock();
        if wishes.len() < MOST {
            wishes.insert((pool.clone(), request.to_owned()));
            self.more.notify_one();
        }
    }

    /// Why requests may be in vain, for people.
    pub(super) fn trouble(&self) -> Option<String> {
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        in_vain.then(|| NOBODY.to_owned())
    }

    /// Tells the others, for ever.
    pub(super) async fn run(&self) {
        loop {
            self.more.notified().await;
            let wishes = std::mem::take(&mut *self.wishes.lock());
            let taken = wishes.is_empty() || self.sharing.grow(&wishes).await;
            self.in_vain.store(!taken, Ordering::Relaxed);
        }
    }
}
