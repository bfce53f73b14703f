//! A store without a disk, for tests of what is built on the store.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::{Core, Staged, State};
use crate::{BoxFuture, Error, KeyValue, Range, Revision, Store, Txn, TxnOutcome, Watch};

/// A store that forgets everything when it is dropped.
#[derive(Debug)]
pub struct MemoryStore {
    core: Arc<Core>,
    /// One transaction at a time.
    writer: Mutex<()>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            core: Core::new(State::default()),
            writer: Mutex::new(()),
        }
    }

    fn run(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        let _writer = self.writer.lock();
        let planned = self.core.read(|state| {
            let plan = state.plan(&mut Staged::new(), state.revision, txn)?;
            Ok::<_, Error>((plan, state.revision))
        })?;
        Ok(match planned {
            (None, revision) => TxnOutcome {
                succeeded: false,
                revision,
            },
            (Some(batch), _) => {
                let revision = batch.revision;
                if !batch.changes.is_empty() {
                    self.core.publish([batch]);
                }
                TxnOutcome {
                    succeeded: true,
                    revision,
                }
            }
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<KeyValue>, Error>> {
        Box::pin(async move { Ok(self.core.get(key)) })
    }

    fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range, Error>> {
        Box::pin(async move { Ok(self.core.range(prefix, after, limit)) })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, Error>> {
        Box::pin(async move { self.run(txn) })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        from: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, Error>> {
        Box::pin(async move { Ok(self.core.watch(prefix, from)) })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move { Ok(self.core.read(|state| state.revision)) })
    }

    fn compact(&self, at: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.core.compact(at);
            Ok(())
        })
    }
}
