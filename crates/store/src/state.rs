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
use crate::leaf::{Entry, Stored};
use crate::pack::{Packed, Packer, Shape, Shapes, Unpackable};
use crate::table::{Found, Table};
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

impl Value {
    pub(crate) fn stored(&self) -> Stored<'_> {
        Stored {
            shape: self.packed.shape,
            bytes: &self.packed.bytes,
            create_revision: self.create_revision,
            version: self.version,
        }
    }
}

/// A planned value and the change that will write it.
#[derive(Clone, Debug)]
struct Staged {
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

/// A change that another store made: the key, and the value with when it was created and how often
/// it was written; none if it was deleted.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) key: Bytes,
    pub(crate) value: Option<(Bytes, Revision, u64)>,
}

/// The current values and the recent history.
#[derive(Debug)]
pub(crate) struct State {
    current: Table,
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
            current: Table::default(),
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
        let found = self.current.get(key);
        let show = |found| self.show(Bytes::copy_from_slice(key), found);
        found.map(show).transpose()
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
        let mut found = self.current.with_prefix(prefix, after);
        let items: Result<Vec<_>, _> = found
            .by_ref()
            .take(limit)
            .map(|(key, found)| self.show(key, found))
            .collect();
        Ok(Range {
            items: items?,
            more: found.next().is_some(),
            revision: self.revision,
        })
    }

    fn show(&self, key: Bytes, found: Found<'_>) -> Result<KeyValue, Error> {
        let Found { place, value } = found;
        let bytes = self.shapes.unpack(value.shape, value.bytes);
        Ok(KeyValue {
            value: bytes.map_err(|error| unreadable(&key, &error))?,
            key,
            create_revision: value.create_revision,
            mod_revision: place.revision,
            version: value.version,
        })
    }

    /// A change as others see it.
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`].
    pub(crate) fn change(&self, key: &[u8], entry: &Entry<'_>) -> Result<Change, Error> {
        let key = Bytes::copy_from_slice(key);
        let place = entry.place;
        Ok(match entry.value {
            Some(value) => Change::Put(self.show(key, Found { place, value })?),
            None => Change::Delete {
                key,
                revision: place.revision,
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
            let entries = rows.iter().map(|row| {
                let entry = Entry::of(row.number, &row.change);
                (&row.change.key[..], entry)
            });
            for (key, entry) in entries.clone() {
                self.current.put(key, &entry);
                self.row = entry.place.row;
            }
            self.revision = revision;
            self.history.push(revision, entries);
        }
    }

    /// Takes over the changes of a revision that were read from the log, the last of which is at
    /// `place`, into the history. The current values come with [`Self::fill`].
    pub(crate) fn restore<'a>(
        &mut self,
        place: Place,
        changes: impl Iterator<Item = (&'a [u8], Entry<'a>)>,
    ) {
        self.row = place.row;
        self.revision = self.revision.max(place.revision);
        if place.revision > self.history.compacted() {
            self.history.push(place.revision, changes);
        }
    }

    /// Whether there is a value of `key`.
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.current.get(key).is_some()
    }

    /// Whether there is a key with `prefix`.
    pub(crate) fn holds_any(&self, prefix: &[u8]) -> bool {
        self.current.with_prefix(prefix, None).next().is_some()
    }

    /// Makes puts current that another store has done together at `revision`, the one after this.
    pub(crate) fn put_all<'a>(
        &mut self,
        revision: Revision,
        puts: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) {
        debug_assert!(revision > self.revision, "revisions only grow");
        let (mut packed, mut blocks) = (Vec::new(), Vec::new());
        let mut packer = Packer::new(&self.shapes);
        for (key, value) in puts {
            let begin = blocks.len();
            let shape = packer.pack_onto(key, value, &mut blocks);
            packed.push((key, shape, begin..blocks.len()));
        }
        for shape in packer.finish() {
            self.shapes.add(shape);
        }
        let Self { current, row, .. } = self;
        let entries = packed.into_iter().map(|(key, shape, block)| {
            *row += 1;
            let place = Place {
                row: *row,
                revision,
            };
            let entry = current.put_with(key, |before| {
                let (create_revision, version) = written_on(before, revision);
                Entry {
                    place,
                    value: Some(Stored {
                        shape,
                        bytes: &blocks[block],
                        create_revision,
                        version,
                    }),
                }
            });
            (key, entry)
        });
        self.history.push(revision, entries);
        self.revision = revision;
    }

    /// When `key` was last written, if it has a value.
    pub(crate) fn written_at(&self, key: &[u8]) -> Option<Revision> {
        self.current.get(key).map(|found| found.place.revision)
    }

    /// When the first key with `prefix` was last written, if there is one.
    pub(crate) fn first_written_at(&self, prefix: &[u8]) -> Option<Revision> {
        let first = self.current.with_prefix(prefix, None).next();
        first.map(|(_, found)| found.place.revision)
    }

    /// Takes over what was read of another store: the shapes of its values, in the order of their
    /// numbers, and as many values as `rows` says.
    pub(crate) fn take_over(&mut self, shapes: Vec<Shape>, current: Table, rows: u64) {
        for shape in shapes {
            self.shapes.add(shape);
        }
        self.current = current;
        self.row = rows;
    }

    /// Takes over the current values that were read from the log.
    pub(crate) fn fill(&mut self, current: Table) {
        self.current = current;
    }
}

/// When a value that is written at `revision` was created, and how often it was written, counting
/// this.
fn written_on(before: Option<Stored<'_>>, revision: Revision) -> (Revision, u64) {
    before.map_or((revision, 1), |before| {
        (before.create_revision, before.version + 1)
    })
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
    staged: BTreeMap<Key, Option<Staged>>,
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

    /// Plans what another store did at `revision`, whatever was there before. Nothing can be planned
    /// on top of it but more of the same.
    pub(crate) fn receive(&mut self, revision: Revision, changes: impl Iterator<Item = Received>) {
        let mut rows = Vec::new();
        for Received { key, value } in changes {
            self.row += 1;
            let value = value.map(|(bytes, create_revision, version)| Value {
                packed: self.packer.pack(&key, &bytes),
                create_revision,
                version,
            });
            rows.push(Row {
                number: self.row,
                change: Kept {
                    key: key[..].into(),
                    revision,
                    value,
                },
                supersedes: None,
            });
        }
        self.revision = revision;
        self.planned.push(Rows { revision, rows });
    }

    fn entry(&self, key: &[u8]) -> Option<Found<'_>> {
        match self.staged.get(key) {
            Some(staged) => staged.as_ref().map(|staged| Found {
                place: staged.place,
                value: staged.value.stored(),
            }),
            None => self.state.current.get(key),
        }
    }

    fn holds(&self, compare: &Compare) -> Result<bool, Error> {
        Ok(match compare {
            Compare::ModRevision(key, wanted) => {
                let found = self.entry(key).map(|entry| entry.place.revision);
                found.unwrap_or_default() == *wanted
            }
            Compare::Absent(prefix) => self.keys(prefix).is_empty(),
            Compare::Value(key, wanted) => match self.entry(key) {
                Some(entry) => {
                    let value = self.packer.unpack(entry.value.shape, entry.value.bytes);
                    value.map_err(|error| unreadable(key, &error))? == *wanted
                }
                None => false,
            },
        })
    }

    fn apply(&mut self, revision: Revision, op: &Op, rows: &mut Vec<Row>) {
        match op {
            Op::Put(key, value) => {
                let before = self.entry(key).map(|entry| entry.value);
                let (create_revision, version) = written_on(before, revision);
                let value = Value {
                    packed: self.packer.pack(key, value),
                    create_revision,
                    version,
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
        let entry = value.clone().map(|value| Staged { value, place });
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
        let published = self.state.current.with_prefix(prefix, None);
        let published = published
            .filter(|(key, _)| !self.staged.contains_key(&key[..]))
            .map(|(key, _)| Key::from(&key[..]));
        let staged = self
            .staged
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let staged = staged
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, entry)| entry.is_some())
            .map(|(key, _)| Key::clone(key));
        let mut keys: Vec<Key> = published.chain(staged).collect();
        keys.sort_unstable();
        keys
    }
}

/// Refuses what no store takes: too much, or a put of a key that is written twice. Deleting twice,
/// say by a key and by its prefix, is deleting.
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
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
