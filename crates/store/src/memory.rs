//! A store without a disk, for tests of what is built on the store.

use std::sync::Arc;

use crate::core::Core;
use crate::history::Limits;
use crate::state::{Plan, State};
use crate::{BoxFuture, Error, KeyValue, Range, Revision, Store, Txn, TxnOutcome, Watch};

/// What a new store keeps for watches; tests that want it to forget ask for less.
const HISTORY: Limits = Limits {
    revisions: 10_000,
    bytes: 64 << 20,
};

/// A store that forgets everything when it is dropped.
#[derive(Debug)]
pub struct MemoryStore {
    core: Arc<Core>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_history(HISTORY.revisions)
    }

    /// An empty store that keeps the last `revisions` for watches.
    pub fn with_history(revisions: usize) -> Self {
        let limits = Limits {
            revisions,
            ..HISTORY
        };
        Self {
            core: Core::new(State::new(Revision(0), limits)),
        }
    }

    fn run(&self, txn: &Txn) -> Result<TxnOutcome, Error> {
        self.core.write(|state| {
            let mut plan = Plan::new(state);
            let outcome = plan.add(txn)?;
            let planned = plan.finish();
            state.publish(planned);
            Ok(outcome)
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<KeyValue>, Error>> {
        Box::pin(async move { self.core.get(key) })
    }

    fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range, Error>> {
        Box::pin(async move { self.core.range(prefix, after, limit) })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, Error>> {
        Box::pin(async move { self.run(&txn) })
    }

    fn watch<'a>(
        &'a self,
        prefixes: &'a [&'a [u8]],
        from: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, Error>> {
        Box::pin(async move { Ok(self.core.watch(prefixes, from)) })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move { Ok(self.core.revision()) })
    }

    fn compact(&self, at: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.core.write(|state| state.history.forget(at));
            Ok(())
        })
    }
}
