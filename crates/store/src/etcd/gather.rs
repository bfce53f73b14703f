//! Transactions that wait at the same time go to etcd together.
//!
//! etcd puts one request on its disks after the other, and a request costs it about as much as ten
//! transactions in it. So while one is under way the next ones gather, and are sent as one
//! transaction, each with its own conditions and its own outcome ([`mod@write`]). Those who were
//! just answered often come back at once, and the next request waits a moment for them; a second
//! one goes beside the first only once many wait. They only go together where none touches what
//! another touches, so that it is as if they were run one after the other.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::{Shared, write};
use crate::core::Core;
use crate::{Compare, Error, Op, Txn, TxnOutcome};

/// Requests that may be under way at once: one on etcd's disks, one on the way.
const SENDERS: usize = 2;
/// So many must wait for a request to go while another is under way. A request costs etcd about as
/// much as ten registrations in it, so fewer are better sent with what comes next.
const WORTHWHILE: usize = TOGETHER / 2;
/// How long a request waits for those who were just answered: a fraction of what it takes itself.
const MOMENT: Duration = Duration::from_millis(1);
/// Transactions in one request.
const TOGETHER: usize = 32;
/// Operations, or conditions, of one request, as many as etcd takes.
const OPERATIONS: usize = 128;
/// Operations or conditions of one that goes with others.
const SMALL: usize = 64;
/// Bytes of one request beyond which no more are added; etcd takes 1.5 MiB.
const BYTES: usize = 256 * 1024;

/// A transaction that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) txn: Txn,
    /// Its conditions and writes, as etcd takes them.
    pub(super) encoded: Vec<u8>,
    /// Hashes of the keys that it looks at or writes; none for one that goes alone.
    touched: Option<Vec<u64>>,
    done: oneshot::Sender<Told>,
}

/// What became of a transaction. It comes back, in both its forms, to be freed where it was made:
/// freeing it elsewhere holds up whoever allocates there meanwhile.
pub(super) type Told = (Result<TxnOutcome, Error>, (Txn, Vec<u8>));

impl Waiting {
    /// All that is to be done for a transaction alone is done here, where many are submitted at once,
    /// and not by the one who sends.
    pub(super) fn new(txn: Txn, encoded: Vec<u8>, done: oneshot::Sender<Told>) -> Self {
        let touched = touched(&txn);
        Self {
            txn,
            encoded,
            touched,
            done,
        }
    }

    /// Tells what there is to tell. Nobody may wait any more.
    pub(super) fn tell(self, outcome: Result<TxnOutcome, Error>) {
        let _ = self.done.send((outcome, (self.txn, self.encoded)));
    }
}

/// The transactions that wait.
#[derive(Debug, Default)]
pub(super) struct Gather {
    queue: Mutex<Queue>,
    /// As many wait as were expected.
    all_are_there: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    senders: usize,
    /// How many a sender waits for before it goes on; none if none waits.
    expected: Option<usize>,
}

impl Queue {
    /// Whether one more request may be on its way now.
    fn is_worth_a_request(&self) -> bool {
        match self.senders {
            0 => !self.waiting.is_empty(),
            1..SENDERS => self.waiting.len() >= WORTHWHILE,
            _ => false,
        }
    }
}

impl Gather {
    /// Runs a transaction, with others if there are any.
    ///
    /// Dropping the future does not keep it from being run.
    ///
    /// # Errors
    ///
    /// [`Error::Etcd`], or [`Error::Closed`] if the runtime ends.
    pub(super) async fn run(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        core: &Arc<Core>,
        txn: Txn,
    ) -> Result<TxnOutcome, Error> {
        let (done, outcome) = oneshot::channel();
        let encoded = write::encoded(shared, &txn);
        if let Some(sender) = self.push(Waiting::new(txn, encoded, done)) {
            let run = sender.run(Arc::clone(shared), Arc::clone(core));
            shared.runtime.spawn(run);
        }
        let (outcome, _) = outcome.await.map_err(|_| Error::Closed)?;
        outcome
    }

    /// Adds one; a sender if there are not enough of them.
    fn push(self: &Arc<Self>, waiting: Waiting) -> Option<Sender> {
        let mut queue = self.queue.lock();
        queue.waiting.push_back(waiting);
        if let Some(expected) = queue.expected {
            if queue.waiting.len() >= expected {
                queue.expected = None;
                self.all_are_there.notify_one();
            }
            return None;
        }
        queue.is_worth_a_request().then(|| {
            queue.senders += 1;
            Sender(Some(Arc::clone(self)))
        })
    }
}

/// Sends until nothing waits any more; counted for as long as it lives.
struct Sender(Option<Arc<Gather>>);

impl Sender {
    async fn run(mut self, shared: Arc<Shared>, core: Arc<Core>) {
        while let Some(together) = self.next() {
            let answered = together.len();
            write::run(&shared, &core, together).await;
            self.expect_back(answered).await;
        }
    }

    /// Waits a moment for those who were answered, so that what they send next goes with what waits
    /// already. Who is alone is not held up: the next one is all that is waited for.
    async fn expect_back(&self, answered: usize) {
        let Some(gather) = &self.0 else { return };
        {
            let mut queue = gather.queue.lock();
            let expected = TOGETHER.min(queue.waiting.len() + answered);
            if queue.expected.is_some() || queue.senders > 1 || queue.waiting.len() >= expected {
                return;
            }
            queue.expected = Some(expected);
        }
        let _ = timeout(MOMENT, gather.all_are_there.notified()).await;
        // However it ended, be it by the late news of an earlier wait: who comes now must not rely
        // on this one.
        gather.queue.lock().expected = None;
    }

    /// What goes next. When there is nothing, or too little while another sender is under way, this
    /// one ends, in the same step, so that whoever comes now starts another.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let gather = self.0.as_ref()?;
        let mut queue = gather.queue.lock();
        queue.senders -= 1;
        if queue.is_worth_a_request() {
            queue.senders += 1;
            return Some(take(&mut queue.waiting));
        }
        drop(queue);
        self.0 = None;
        None
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Only when it was dropped in the middle, because the runtime ends.
        if let Some(gather) = &self.0 {
            let mut queue = gather.queue.lock();
            queue.senders -= 1;
            queue.expected = None;
        }
    }
}

/// The first ones that can go together.
fn take(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut together = Vec::new();
    let (mut touched, mut bytes, mut operations) = (HashSet::<u64>::new(), 0, 0);
    while let Some(next) = waiting.front() {
        bytes += size(&next.txn);
        operations += next.txn.when.len().max(next.txn.then.len());
        let has_room = together.len() < TOGETHER && operations <= OPERATIONS && bytes <= BYTES;
        let is_apart = |keys: &Vec<u64>| keys.iter().all(|key| !touched.contains(key));
        let fits = has_room
            && next.touched.as_ref().is_some_and(is_apart)
            && !expects_the_absence_of_what_is_written(&next.txn, &together);
        if !fits && !together.is_empty() {
            break;
        }
        let goes_alone = next.touched.is_none();
        touched.extend(next.touched.iter().flatten());
        together.extend(waiting.pop_front());
        if goes_alone {
            break;
        }
    }
    together
}

/// Whether a condition is that no key has a prefix which one has that is written before it. Whatever
/// deletes by prefix goes alone.
fn expects_the_absence_of_what_is_written(txn: &Txn, before: &[Waiting]) -> bool {
    let mut prefixes = txn.when.iter().filter_map(|compare| match compare {
        Compare::Absent(prefix) => Some(prefix),
        Compare::ModRevision(..) | Compare::Value(..) => None,
    });
    prefixes.any(|prefix| {
        let mut written = before.iter().flat_map(|one| &one.txn.then);
        written.any(|write| match write {
            Op::Put(key, _) | Op::Delete(key) | Op::DeletePrefix(key) => key.starts_with(prefix),
        })
    })
}

/// Hashes of the keys that a transaction looks at or writes; none for one that goes alone. Two that
/// have one in common by chance go one after the other.
fn touched(txn: &Txn) -> Option<Vec<u64>> {
    if txn.when.len().max(txn.then.len()) > SMALL {
        return None;
    }
    let compared = txn.when.iter().map(|compare| match compare {
        Compare::ModRevision(key, _) | Compare::Value(key, _) => Some(key),
        // What is below it is looked at in `take`.
        Compare::Absent(prefix) => Some(prefix),
    });
    let written = txn.then.iter().map(|write| match write {
        Op::Put(key, _) | Op::Delete(key) => Some(key),
        Op::DeletePrefix(_) => None,
    });
    let hash = |key: &Bytes| {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        hasher.finish()
    };
    compared.chain(written).map(|key| key.map(hash)).collect()
}

fn size(txn: &Txn) -> usize {
    let written = txn.then.iter().map(|write| match write {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    });
    let compared = txn.when.iter().map(|compare| match compare {
        Compare::ModRevision(key, _) | Compare::Absent(key) => key.len(),
        Compare::Value(key, value) => key.len() + value.len(),
    });
    written.sum::<usize>() + compared.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::Instant;

    use super::*;
    use crate::Revision;

    fn put(key: &str, size: usize) -> Txn {
        let absent = Compare::ModRevision(key.to_owned().into(), Revision(0));
        Txn {
            when: vec![absent],
            then: vec![Op::Put(key.to_owned().into(), vec![0; size].into())],
        }
    }

    /// Adds one; the sender that goes for it, if one does.
    fn push(gather: &Arc<Gather>, number: usize) -> Option<Sender> {
        let txn = put(&format!("k{number}"), 1);
        gather.push(Waiting::new(txn, Vec::new(), oneshot::channel().0))
    }

    #[test]
    fn a_second_request_goes_beside_the_first_once_many_wait() {
        let gather = Arc::new(Gather::default());
        let push = |number| push(&gather, number);
        let mut first = push(0).expect("nothing is under way");
        assert_eq!(first.next().map(|sent| sent.len()), Some(1));
        for number in 1..WORTHWHILE {
            assert!(push(number).is_none(), "{number} wait");
        }
        let mut second = push(WORTHWHILE).expect("enough wait");
        assert_eq!(second.next().map(|sent| sent.len()), Some(WORTHWHILE));
        assert!(push(99).is_none(), "two are under way");
        // The first to be answered leaves what is too little to the other one.
        assert!(first.next().is_none());
        assert_eq!(second.next().map(|sent| sent.len()), Some(1));
        assert!(second.next().is_none());
        assert!(push(100).is_some(), "nothing is under way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_waits_a_moment_for_those_it_has_answered() {
        let gather = Arc::new(Gather::default());
        let push = |number| push(&gather, number);
        let mut sender = push(0).expect("nothing is under way");
        assert_eq!(sender.next().map(|sent| sent.len()), Some(1));
        assert!(push(1).is_none());
        assert!(push(2).is_none());
        {
            // The one that was answered, beside the two that wait.
            let mut back = pin!(sender.expect_back(1));
            let look = timeout(Duration::ZERO, &mut back);
            assert!(look.await.is_err(), "one is missing");
            assert!(push(3).is_none(), "the sender that waits takes it");
            let look = timeout(Duration::ZERO, &mut back);
            assert!(look.await.is_ok(), "all are there");
        }
        assert_eq!(sender.next().map(|sent| sent.len()), Some(3));
        // None of these comes back.
        let begun = Instant::now();
        sender.expect_back(3).await;
        assert!(begun.elapsed() >= MOMENT);
        assert!(sender.next().is_none());
        // News that came too late for that ends the next wait early, and leaves nothing behind.
        let mut sender = push(4).expect("nothing is under way");
        assert_eq!(sender.next().map(|sent| sent.len()), Some(1));
        gather.all_are_there.notify_one();
        sender.expect_back(1).await;
        assert!(sender.next().is_none());
        assert!(push(5).is_some(), "nobody is left who would take it");
    }

    /// How many go with each request.
    fn shares(txns: Vec<Txn>) -> Vec<usize> {
        let waiting = |txn| Waiting::new(txn, Vec::new(), oneshot::channel().0);
        let mut queue: VecDeque<_> = txns.into_iter().map(waiting).collect();
        let mut shares = Vec::new();
        while !queue.is_empty() {
            shares.push(take(&mut queue).len());
        }
        shares
    }

    #[test]
    fn those_that_touch_the_same_go_one_after_the_other() {
        let names = ["a", "b", "c", "b", "d", "d", "d"];
        let txns = names.map(|name| put(name, 1)).to_vec();
        assert_eq!(shares(txns), [3, 2, 1, 1]);
    }

    #[test]
    fn what_expects_an_absence_goes_after_what_is_written_there() {
        let absent = |prefix: &'static str| Txn {
            when: vec![Compare::Absent(prefix.into())],
            ..put(&format!("{prefix}new"), 1)
        };
        let txns = vec![put("/a/1", 1), absent("/b/"), absent("/a/"), put("/a/2", 1)];
        assert_eq!(shares(txns), [2, 2]);
        assert_eq!(shares(vec![absent("/a/"), absent("/a/")]), [1, 1]);
    }

    #[test]
    fn a_request_has_a_largest_count_and_size() {
        let many = (0..100).map(|n| put(&format!("k{n}"), 1)).collect();
        assert_eq!(shares(many), [32, 32, 32, 4]);
        let several = |n| Txn {
            when: Vec::new(),
            then: (0..50)
                .map(|m| Op::Delete(format!("k{n}-{m}").into()))
                .collect(),
        };
        assert_eq!(shares((0..5).map(several).collect()), [2, 2, 1]);
        let large = (0..5).map(|n| put(&format!("k{n}"), 100_000)).collect();
        assert_eq!(shares(large), [2, 2, 1]);
        let huge = vec![put("a", 1), put("b", 1_000_000), put("c", 1)];
        assert_eq!(shares(huge), [1, 1, 1]);
    }

    #[test]
    fn what_deletes_by_prefix_or_does_much_goes_alone() {
        let prefix = Txn {
            when: Vec::new(),
            then: vec![Op::DeletePrefix(Bytes::from_static(b"k"))],
        };
        let much = Txn {
            when: Vec::new(),
            then: (0..65)
                .map(|n| Op::Delete(format!("m{n}").into()))
                .collect(),
        };
        let txns = vec![put("a", 1), prefix, put("b", 1), much, put("c", 1)];
        assert_eq!(shares(txns), [1, 1, 1, 1, 1]);
    }
}
