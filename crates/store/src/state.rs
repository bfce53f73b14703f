//! What both stores are at heart: current values, recent history, and what a transaction does to
//! them. No locks and no I/O.
//!
//! Transactions are planned first ([`Plan::add`], which changes nothing here) and published later
//! ([`State::publish`]): in between the embedded store puts them on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::history::{History, Limits};
use crate::{Batch, Change, Compare, Error, KeyValue, Op, Range, Revision, Txn, TxnOutcome};

/// What one transaction may write, as in etcd.
const TXN_BYTES: usize = 3 << 19;

/// Where a change is in the log: every change ever made has a number, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) row: u64,
    pub(crate) revision: Revision,
}

/// A current value and the number of the change that wrote it.
#[derive(Clone, Debug)]
struct Entry {
    value: KeyValue,
    row: u64,
}

impl Entry {
    fn place(&self) -> Place {
        Place {
            row: self.row,
            revision: self.value.mod_revision,
        }
    }
}

/// A planned change.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) change: Change,
    /// The change that this one makes superfluous, but for the history.
    pub(crate) supersedes: Option<Place>,
}

/// The planned changes of one revision.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) revision: Revision,
    pub(crate) rows: Vec<Row>,
}

/// The current values and the recent history.
#[derive(Debug)]
pub(crate) struct State {
    current: BTreeMap<Bytes, Entry>,
    revision: Revision,
    /// The number of the newest change.
    row: u64,
    pub(crate) history: History,
}

impl State {
    /// A state without keys whose history begins after `compacted`.
    pub(crate) fn new(compacted: Revision, limits: Limits) -> Self {
        Self {
            current: BTreeMap::new(),
            revision: compacted,
            row: 0,
            history: History::new(compacted, limits),
        }
    }

    /// The revision of the last write.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The current value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.current.get(key).map(|entry| &entry.value)
    }

    /// At most `limit` keys with `prefix`, after the key `after` if given.
    pub(crate) fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Range {
        let mut found = with_prefix(&self.current, prefix, after);
        let items = found
            .by_ref()
            .take(limit)
            .map(|(_, entry)| entry.value.clone())
            .collect();
        Range {
            items,
            more: found.next().is_some(),
            revision: self.revision,
        }
    }

    /// Makes planned changes current.
    pub(crate) fn publish(&mut self, planned: Rows) {
        let Rows { revision, rows } = planned;
        debug_assert!(revision > self.revision, "revisions only grow");
        let mut changes = Vec::with_capacity(rows.len());
        for Row { number, change, .. } in rows {
            self.enter(number, &change);
            changes.push(change);
        }
        self.revision = revision;
        self.history.push(Batch { revision, changes });
    }

    /// Takes over a change that was read from the log, in its order, and says which change it makes
    /// superfluous.
    ///
    /// # Errors
    ///
    /// What is wrong with the log, in words.
    pub(crate) fn restore(&mut self, number: u64, change: Change) -> Result<Option<Place>, String> {
        let revision = change.revision();
        if revision < self.revision && revision > self.history.compacted() {
            return Err(format!(
                "revision {} follows {}",
                revision.0, self.revision.0
            ));
        }
        let superseded = self.enter(number, &change);
        self.revision = self.revision.max(revision);
        if revision > self.history.compacted() && !self.history.restore(change) {
            return Err(format!("a change before revision {} is gone", revision.0));
        }
        Ok(superseded.map(|entry| entry.place()))
    }

    fn enter(&mut self, row: u64, change: &Change) -> Option<Entry> {
        self.row = row;
        match change {
            Change::Put(value) => {
                let value = value.clone();
                self.current.insert(value.key.clone(), Entry { value, row })
            }
            Change::Delete { key, .. } => self.current.remove(key),
        }
    }
}

/// Transactions that build on each other and are not published yet.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    state: &'a State,
    /// What the planned transactions wrote; none means deleted.
    staged: BTreeMap<Bytes, Option<Entry>>,
    revision: Revision,
    row: u64,
    planned: Vec<Rows>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        Self {
            state,
            staged: BTreeMap::new(),
            revision: state.revision,
            row: state.row,
            planned: Vec::new(),
        }
    }

    /// The revision after the planned transactions.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// What was planned, to be written and then published in this order.
    pub(crate) fn finish(self) -> Vec<Rows> {
        self.planned
    }

    /// Plans `txn` on top of those before. One that changes nothing gets no revision.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] and [`Error::WrittenTwice`]; nothing of it is planned.
    pub(crate) fn add(&mut self, txn: &Txn) -> Result<TxnOutcome, Error> {
        check(txn)?;
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        if succeeded {
            let revision = Revision(self.revision.0 + 1);
            let mut rows = Vec::with_capacity(txn.then.len());
            for op in &txn.then {
                self.apply(revision, op, &mut rows);
            }
            if !rows.is_empty() {
                self.revision = revision;
                self.planned.push(Rows { revision, rows });
            }
        }
        Ok(TxnOutcome {
            succeeded,
            revision: self.revision,
        })
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        match self.staged.get(key) {
            Some(staged) => staged.as_ref(),
            None => self.state.current.get(key),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, wanted) => {
                let found = self.entry(key).map(|entry| entry.value.mod_revision);
                found.unwrap_or_default() == *wanted
            }
            Compare::Value(key, wanted) => self
                .entry(key)
                .is_some_and(|entry| entry.value.value == *wanted),
        }
    }

    fn apply(&mut self, revision: Revision, op: &Op, rows: &mut Vec<Row>) {
        match op {
            Op::Put(key, value) => {
                let before = self.entry(key).map(|entry| &entry.value);
                let value = KeyValue {
                    create_revision: before.map_or(revision, |before| before.create_revision),
                    mod_revision: revision,
                    version: before.map_or(1, |before| before.version + 1),
                    key: key.clone(),
                    value: value.clone(),
                };
                self.stage(Change::Put(value), rows);
            }
            Op::Delete(key) => self.delete(revision, key.clone(), rows),
            Op::DeletePrefix(prefix) => {
                for key in self.keys(prefix) {
                    self.delete(revision, key, rows);
                }
            }
        }
    }

    fn delete(&mut self, revision: Revision, key: Bytes, rows: &mut Vec<Row>) {
        if self.entry(&key).is_some() {
            self.stage(Change::Delete { key, revision }, rows);
        }
    }

    fn stage(&mut self, change: Change, rows: &mut Vec<Row>) {
        self.row += 1;
        let supersedes = self.entry(change.key()).map(Entry::place);
        let entry = match &change {
            Change::Put(value) => Some(Entry {
                value: value.clone(),
                row: self.row,
            }),
            Change::Delete { .. } => None,
        };
        self.staged.insert(change.key().clone(), entry);
        rows.push(Row {
            number: self.row,
            change,
            supersedes,
        });
    }

    fn keys(&self, prefix: &[u8]) -> Vec<Bytes> {
        let published = with_prefix(&self.state.current, prefix, None)
            .filter(|(key, _)| !self.staged.contains_key(*key))
            .map(|(key, _)| key);
        let staged = with_prefix(&self.staged, prefix, None)
            .filter(|(_, entry)| entry.is_some())
            .map(|(key, _)| key);
        let mut keys: Vec<Bytes> = published.chain(staged).cloned().collect();
        keys.sort_unstable();
        keys
    }
}

/// Refuses what no store takes: too much, or a put of a key that is written twice. Deleting twice,
/// say by a key and by its prefix, is deleting.
fn check(txn: &Txn) -> Result<(), Error> {
    let bytes = size(txn);
    if bytes > TXN_BYTES {
        return Err(Error::TooLarge {
            bytes,
            limit: TXN_BYTES,
        });
    }
    let mut puts = BTreeSet::new();
    for op in &txn.then {
        if let Op::Put(key, _) = op
            && !puts.insert(key)
        {
            return Err(Error::WrittenTwice(key.clone()));
        }
    }
    for op in &txn.then {
        let deleted = match op {
            Op::Put(..) => None,
            Op::Delete(key) => puts.get(key),
            Op::DeletePrefix(prefix) => puts
                .range::<Bytes, _>(prefix..)
                .next()
                .filter(|key| key.starts_with(prefix)),
        };
        if let Some(key) = deleted {
            return Err(Error::WrittenTwice(Bytes::clone(key)));
        }
    }
    Ok(())
}

/// What a transaction takes, in bytes.
pub(crate) fn size(txn: &Txn) -> usize {
    let ops = txn.then.iter().map(|op| match op {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    });
    ops.sum()
}

/// The entries whose key has `prefix`, after the key `after` if given.
fn with_prefix<'a, V>(
    map: &'a BTreeMap<Bytes, V>,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
) -> impl Iterator<Item = (&'a Bytes, &'a V)> {
    let begin = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    map.range::<[u8], _>((begin, Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}
