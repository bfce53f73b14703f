//! A disk that loses power: what was synced is there, of the rest anything may be.

use std::collections::BTreeMap;
use std::path::Path;

use crate::trace::Event;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The files of a folder.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<String, File>,
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

impl Disk {
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Write {
                file,
                offset,
                bytes,
            } => {
                let (offset, bytes) = (*offset, bytes.clone());
                self.file(file)
                    .pending
                    .push(Pending::Write { offset, bytes });
            }
            Event::Truncate { file, length } => {
                self.file(file).pending.push(Pending::Truncate(*length));
            }
            Event::Sync(file) => {
                let file = self.file(file);
                for pending in std::mem::take(&mut file.pending) {
                    pending.apply(&mut file.synced, |_| true);
                }
            }
            Event::Remove(file) => {
                self.files.remove(file);
            }
            Event::Said(_) => {}
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        self.files.entry(name.to_owned()).or_default()
    }

    /// Puts into `folder` what is found after the power came back: of what was not synced, some
    /// writes, some not, and some in part.
    pub(crate) fn cut_power(&self, random: &mut Random, folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        for (name, file) in &self.files {
            if name.is_empty() {
                // The folder itself was synced.
                continue;
            }
            let mut found = file.synced.clone();
            // Mostly all or nothing, or else torn writes would hide the rest.
            let mood = random.below(4);
            for pending in &file.pending {
                let fate = if mood == 3 { random.below(3) } else { mood };
                match fate {
                    0 => {}
                    1 => pending.apply(&mut found, |_| true),
                    _ => pending.apply(&mut found, |_| random.below(2) == 0),
                }
            }
            std::fs::write(folder.join(name), found).unwrap();
        }
    }
}

impl Pending {
    /// Does it, as far as `reaches` says of each sector.
    fn apply(&self, content: &mut Vec<u8>, mut reaches: impl FnMut(usize) -> bool) {
        match self {
            Self::Truncate(length) => {
                if reaches(0) {
                    content.resize(*length, 0);
                }
            }
            Self::Write { offset, bytes } => {
                let mut at = 0;
                while at < bytes.len() {
                    let sector = (offset + at) / SECTOR;
                    let end = ((sector + 1) * SECTOR - offset).min(bytes.len());
                    if reaches(sector) {
                        if content.len() < offset + end {
                            content.resize(offset + end, 0);
                        }
                        content[offset + at..offset + end].copy_from_slice(&bytes[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

/// The same numbers in every run (xorshift).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(u64::try_from(count.max(1)).unwrap()) == 0
    }
}
