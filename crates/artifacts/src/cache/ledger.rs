//! Who uses which entry, and which one goes next. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Key;
use super::disk::Marker;

#[derive(Debug)]
struct Entry {
    bytes: u64,
    holds: usize,
    /// The turn in which it was used last.
    used: u64,
    /// When its use was last written down.
    touched: Option<Instant>,
    synced: bool,
    /// What it has been compiled for.
    compiled: BTreeSet<String>,
    /// What somebody has taken on to compile it for.
    claimed: BTreeSet<String>,
}

/// All entries.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<Key, Entry>,
    bytes: u64,
    turn: u64,
}

impl Ledger {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A new entry, held once and used last.
    pub(super) fn insert(&mut self, key: &Key, bytes: u64, compiled: BTreeSet<String>) {
        self.turn += 1;
        let entry = Entry {
            bytes,
            holds: 1,
            used: self.turn,
            touched: None,
            synced: false,
            claimed: compiled.clone(),
            compiled,
        };
        self.bytes += bytes;
        if let Some(before) = self.entries.insert(key.clone(), entry) {
            self.bytes -= before.bytes;
        }
    }

    /// Holds an entry once more, if it is there. Says whether its use should be written down.
    pub(super) fn hold(&mut self, key: &Key, now: Instant, every: Duration) -> Option<bool> {
        let entry = self.entries.get_mut(key)?;
        self.turn += 1;
        entry.used = self.turn;
        entry.holds += 1;
        let due = entry
            .touched
            .is_none_or(|touched| now.duration_since(touched) >= every);
        if due {
            entry.touched = Some(now);
        }
        Some(due)
    }

    pub(super) fn release(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.holds -= 1;
        }
    }

    /// Takes out what was used longest ago and is not held, until there are no more than so many
    /// bytes. The second part says whether that was reached.
    pub(super) fn evict(&mut self, most: u64) -> (Vec<Key>, bool) {
        let mut free: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.holds == 0)
            .map(|(key, entry)| (entry.used, key.clone()))
            .collect();
        free.sort();
        let mut victims = Vec::new();
        for (_, key) in free {
            if self.bytes <= most {
                break;
            }
            if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= entry.bytes;
                victims.push(key);
            }
        }
        (victims, self.bytes <= most)
    }

    pub(super) fn synced(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.synced = true;
        }
    }

    /// Whether the entry is not compiled for `tag`, and nobody has taken it on before.
    pub(super) fn claim(&mut self, key: &Key, tag: &str) -> bool {
        let entry = self.entries.get_mut(key);
        entry.is_some_and(|entry| entry.claimed.insert(tag.to_owned()))
    }

    /// The entry has been compiled for `tag` and is so much larger for it.
    pub(super) fn compiled(&mut self, key: &Key, tag: &str, bytes: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.compiled.insert(tag.to_owned());
            entry.bytes += bytes;
            // What was compiled is not known to be on the disk.
            entry.synced = false;
            self.bytes += bytes;
        }
    }

    /// What is written down of an entry.
    pub(super) fn marker(&self, key: &Key) -> Option<Marker> {
        let entry = self.entries.get(key)?;
        let mut marker = Marker::new(entry.bytes);
        marker.synced = entry.synced;
        marker.compiled.clone_from(&entry.compiled);
        Some(marker)
    }
}
