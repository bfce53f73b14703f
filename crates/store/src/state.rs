//! What both stores are at heart: current values, recent history, and what a transaction does to
//! them. No locks and no I/O.
//!
//! Transactions are planned first ([`Plan::add`], which changes nothing here) and published later
//! ([`State::publish`]): in between the embedded store puts them on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::history::{History, Limits};
use crate::pack::{Packed, Packer, Shape, Shapes, Unpackable};
use crate::{Change, Compare, Error, KeyValue, Op, Range, Revision, Txn, TxnOutcome};

/// What one transaction may write, as in etcd.
const TXN_BYTES: usize = 3 << 19;

/// A key as it is kept.
pub(crate) type Key = Arc<[u8]>;

/// Where a change is in the log: every change ever made has a number, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) row: u64,
    pub(crate) revision: Revision,
}

/// A change as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    /// What was written; none if the key was deleted.
    pub(crate) value: Option<Value>,
}

/// A value as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) packed: Packed,
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
}

/// A current value and the change that wrote it.
#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    place: Place,
}

/// A planned change.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) change: Kept,
    /// The change that this one makes superfluous, but for the history.
    pub(crate) supersedes: Option<Place>,
}

/// The planned changes of one revision.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) revision: Revision,
    pub(crate) rows: Vec<Row>,
}

/// Planned transactions, in their order, and the shapes that their values need.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub(crate) shapes: Vec<Shape>,
    pub(crate) rows: Vec<Rows>,
}

/// The current values and the recent history.
#[derive(Debug)]
pub(crate) struct State {
    current: BTreeMap<Key, Entry>,
    shapes: Shapes,
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
            shapes: Shapes::default(),
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
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`].
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        let found = self.current.get_key_value(key);
        found.map(|(key, entry)| self.show(key, entry)).transpose()
    }

    /// At most `limit` keys with `prefix`, after the key `after` if given.
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`].
    pub(crate) fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Range, Error> {
        let mut found = with_prefix(&self.current, prefix, after);
        let items: Result<Vec<_>, _> = found
            .by_ref()
            .take(limit)
            .map(|(key, entry)| self.show(key, entry))
            .collect();
        Ok(Range {
            items: items?,
            more: found.next().is_some(),
            revision: self.revision,
        })
    }

    fn show(&self, key: &Key, entry: &Entry) -> Result<KeyValue, Error> {
        self.unpack(key, &entry.value, entry.place.revision)
    }

    fn unpack(&self, key: &Key, value: &Value, at: Revision) -> Result<KeyValue, Error> {
        let bytes = self.shapes.unpack(&value.packed);
        Ok(KeyValue {
            key: Bytes::copy_from_slice(key),
            value: bytes.map_err(|error| unreadable(key, &error))?,
            create_revision: value.create_revision,
            mod_revision: at,
            version: value.version,
        })
    }

    /// A change as others see it.
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`].
    pub(crate) fn change(&self, kept: &Kept) -> Result<Change, Error> {
        let revision = kept.revision;
        Ok(match &kept.value {
            Some(value) => Change::Put(self.unpack(&kept.key, value, revision)?),
            None => Change::Delete {
                key: Bytes::copy_from_slice(&kept.key),
                revision,
            },
        })
    }

    /// Takes over a shape that was read from the log, in the order of their numbers.
    pub(crate) fn restore_shape(&mut self, shape: Shape) -> Result<(), String> {
        if usize::from(shape.number) != self.shapes.len() + 1 {
            return Err(format!(
                "shape {} follows {}",
                shape.number,
                self.shapes.len()
            ));
        }
        self.shapes.add(shape);
        Ok(())
    }

    /// Makes planned changes current.
    pub(crate) fn publish(&mut self, planned: Planned) {
        planned
            .shapes
            .into_iter()
            .for_each(|shape| self.shapes.add(shape));
        for Rows { revision, rows } in planned.rows {
            debug_assert!(revision > self.revision, "revisions only grow");
            let mut changes = Vec::with_capacity(rows.len());
            for Row { number, change, .. } in rows {
                self.enter(number, &change);
                changes.push(change);
            }
            self.revision = revision;
            self.history.push(revision, changes);
        }
    }

    /// Takes over a change that was read from the log, in its order, and says which change it makes
    /// superfluous.
    ///
    /// # Errors
    ///
    /// What is wrong with the log, in words.
    pub(crate) fn restore(&mut self, number: u64, change: Kept) -> Result<Option<Place>, String> {
        let revision = change.revision;
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
        Ok(superseded.map(|entry| entry.place))
    }

    fn enter(&mut self, row: u64, change: &Kept) -> Option<Entry> {
        self.row = row;
        let revision = change.revision;
        match change.value.clone() {
            Some(value) => {
                let place = Place { row, revision };
                self.current
                    .insert(Arc::clone(&change.key), Entry { value, place })
            }
            None => self.current.remove(&change.key),
        }
    }
}

fn unreadable(key: &[u8], _: &Unpackable) -> Error {
    Error::Unreadable {
        key: Bytes::copy_from_slice(key),
    }
}

/// Transactions that build on each other and are not published yet.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    state: &'a State,
    /// What the planned transactions wrote; none means deleted.
    staged: BTreeMap<Key, Option<Entry>>,
    packer: Packer<'a>,
    revision: Revision,
    row: u64,
    planned: Vec<Rows>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        Self {
            state,
            staged: BTreeMap::new(),
            packer: Packer::new(&state.shapes),
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
    pub(crate) fn finish(self) -> Planned {
        Planned {
            shapes: self.packer.finish(),
            rows: self.planned,
        }
    }

    /// Plans `txn` on top of those before. One that changes nothing gets no revision.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::WrittenTwice`] and [`Error::Unreadable`]; nothing of it is
    /// planned.
    pub(crate) fn add(&mut self, txn: &Txn) -> Result<TxnOutcome, Error> {
        check(txn)?;
        let mut succeeded = true;
        for compare in &txn.when {
            succeeded = succeeded && self.holds(compare)?;
        }
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

    fn holds(&self, compare: &Compare) -> Result<bool, Error> {
        Ok(match compare {
            Compare::ModRevision(key, wanted) => {
                let found = self.entry(key).map(|entry| entry.place.revision);
                found.unwrap_or_default() == *wanted
            }
            Compare::Value(key, wanted) => match self.entry(key) {
                Some(entry) => {
                    let value = self.packer.unpack(&entry.value.packed);
                    value.map_err(|error| unreadable(key, &error))? == *wanted
                }
                None => false,
            },
        })
    }

    fn apply(&mut self, revision: Revision, op: &Op, rows: &mut Vec<Row>) {
        match op {
            Op::Put(key, value) => {
                let before = self.entry(key).map(|entry| &entry.value);
                let (create_revision, version) = before.map_or((revision, 0), |before| {
                    (before.create_revision, before.version)
                });
                let value = Value {
                    packed: self.packer.pack(key, value),
                    create_revision,
                    version: version + 1,
                };
                self.stage(key[..].into(), revision, Some(value), rows);
            }
            Op::Delete(key) => self.delete(revision, key[..].into(), rows),
            Op::DeletePrefix(prefix) => {
                for key in self.keys(prefix) {
                    self.delete(revision, key, rows);
                }
            }
        }
    }

    fn delete(&mut self, revision: Revision, key: Key, rows: &mut Vec<Row>) {
        if self.entry(&key).is_some() {
            self.stage(key, revision, None, rows);
        }
    }

    fn stage(&mut self, key: Key, revision: Revision, value: Option<Value>, rows: &mut Vec<Row>) {
        self.row += 1;
        let row = self.row;
        let supersedes = self.entry(&key).map(|entry| entry.place);
        let place = Place { row, revision };
        let entry = value.clone().map(|value| Entry { value, place });
        self.staged.insert(Arc::clone(&key), entry);
        rows.push(Row {
            number: row,
            change: Kept {
                key,
                revision,
                value,
            },
            supersedes,
        });
    }

    fn keys(&self, prefix: &[u8]) -> Vec<Key> {
        let published = with_prefix(&self.state.current, prefix, None)
            .filter(|(key, _)| !self.staged.contains_key(*key))
            .map(|(key, _)| key);
        let staged = with_prefix(&self.staged, prefix, None)
            .filter(|(_, entry)| entry.is_some())
            .map(|(key, _)| key);
        let mut keys: Vec<Key> = published.chain(staged).cloned().collect();
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
    map: &'a BTreeMap<Key, V>,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
) -> impl Iterator<Item = (&'a Key, &'a V)> {
    let begin = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    map.range::<[u8], _>((begin, Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}
