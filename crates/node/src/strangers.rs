//! Connections whose other end has not said yet who it is.
//!
//! There are only so many at once. When one more comes, the oldest of the address that has the most makes
//! room, so whoever floods a port is in nobody's way but its own. Nothing here knows what is spoken.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Those that there may be at once.
const MOST: usize = 256;

/// Who has connected and is not known; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Strangers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// The older ones first.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// One of them, until dropped.
pub struct Stranger {
    all: Strangers,
    number: u64,
    sent_away: CancellationToken,
}

impl fmt::Debug for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stranger")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Strangers {
    /// Takes one in, and sends another away if there are too many.
    pub fn admit(&self, address: IpAddr) -> Stranger {
        let sent_away = CancellationToken::new();
        let mut state = self.0.lock();
        if state.waiting.len() >= MOST {
            state.make_room();
        }
        state.next += 1;
        let number = state.next;
        let one = (network(address), sent_away.clone());
        state.waiting.insert(number, one);
        drop(state);
        Stranger {
            all: self.clone(),
            number,
            sent_away,
        }
    }
}

impl State {
    fn make_room(&mut self) {
        let mut counts: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (number, (address, _)) in &self.waiting {
            counts.entry(*address).or_insert((0, *number)).0 += 1;
        }
        let oldest_of_most = counts.values().max_by_key(|(count, _)| *count);
        let oldest = oldest_of_most.map(|(_, number)| *number);
        if let Some((_, sent_away)) = oldest.and_then(|number| self.waiting.remove(&number)) {
            sent_away.cancel();
        }
    }
}

/// What one party can have many addresses of counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Stranger {
    /// What `work` comes to; none if this one has to make room for others before that. As cancel safe as `work`.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.sent_away.run_until_cancelled(work).await
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.0.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(stranger: &Stranger) -> bool {
        stranger.sent_away.is_cancelled()
    }

    #[test]
    fn a_flood_from_one_address_pushes_out_its_own_connections() {
        let strangers = Strangers::default();
        let friend = strangers.admit([10, 0, 0, 1].into());
        let flood: Vec<Stranger> = (0..3 * MOST)
            .map(|_| strangers.admit([10, 0, 0, 2].into()))
            .collect();
        let late = strangers.admit([10, 0, 0, 3].into());
        assert!(!away(&friend) && !away(&late));
        let left = flood.iter().filter(|one| !away(one)).count();
        assert_eq!(left, MOST - 2, "as many as fit beside the others");
        assert!(!away(&flood[flood.len() - 1]), "the oldest go first");
    }

    #[test]
    fn who_has_said_who_it_is_counts_no_more() {
        let strangers = Strangers::default();
        let first = strangers.admit([10, 0, 0, 1].into());
        for _ in 0..2 * MOST {
            drop(strangers.admit([10, 0, 0, 1].into()));
        }
        assert!(!away(&first));
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one() {
        let (one, other) = ("2001:db8::1", "2001:db8::ffff:2");
        let network = |text: &str| super::network(text.parse().unwrap());
        assert_eq!(network(one), network(other));
        assert_ne!(network(one), network("2001:db8:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
    }
}
