//! Streams of changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;
use crate::request::{Path, Query};
use crate::selector::Selector;
use crate::server::Shared;
use crate::store::{Change, Store};
use crate::views;

/// One client that watches.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    path: Path,
    selector: Selector,
    /// What the client has seen.
    revision: u64,
    /// Lines that are still to be sent.
    ready: Vec<Value>,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Option<Instant>,
    changed: watch::Receiver<u64>,
    cut: watch::Receiver<u64>,
    over: bool,
}

impl Watch {
    /// Begins a stream.
    ///
    /// # Errors
    /// For selectors that cannot be read. That the revision is too old is told inside the stream.
    pub(crate) fn begin(shared: &Arc<Shared>, path: Path, query: &Query) -> Result<Self, Failure> {
        let selector = Selector::parse(
            path.resource,
            query.get("labelSelector"),
            query.get("fieldSelector"),
        )?;
        let store = shared.state.lock();
        let store = &store.store;
        let mut begun = Self {
            shared: Arc::clone(shared),
            selector,
            revision: store.revision(),
            ready: Vec::new(),
            bookmarks: query.is("allowWatchBookmarks"),
            next_bookmark: Instant::now() + shared.options.bookmark_every,
            end: query
                .number("timeoutSeconds")
                .map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            changed: store.subscribe(),
            cut: shared.cut.subscribe(),
            over: false,
            path,
        };
        let from = query.get("resourceVersion");
        let initial = query.is("sendInitialEvents") && !query.get("sendInitialEvents").is_empty();
        if initial || from.is_empty() || from == "0" {
            begun.send_all(store);
            if initial {
                let mut end = begun.bookmark();
                end["object"]["metadata"]["annotations"] =
                    json!({"k8s.io/initial-events-end": "true"});
                begun.ready.push(end);
            }
        } else {
            let from = from.parse().map_err(|_| {
                Failure::bad_request(format!(
                    "Invalid value: \"{from}\": strconv.ParseUint: parsing"
                ))
            })?;
            begun.revision = from;
            if from < store.compacted() {
                begun.expire(store);
            }
        }
        Ok(begun)
    }

    fn send_all(&mut self, store: &Store) {
        for (_, object) in store.list(self.path.resource, self.path.namespace.as_deref()) {
            if self.selector.matches(object) {
                let object = views::versioned(&self.path, object);
                self.ready.push(json!({"type": "ADDED", "object": object}));
            }
        }
    }

    fn expire(&mut self, store: &Store) {
        let message = format!(
            "too old resource version: {} ({})",
            self.revision,
            store.compacted()
        );
        self.ready
            .push(json!({"type": "ERROR", "object": Failure::expired(message).status()}));
        self.over = true;
    }

    fn bookmark(&self) -> Value {
        let resource = self.path.resource;
        let mut object = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string()},
        });
        if resource.plural == "pods" {
            object["spec"] = json!({"containers": null});
        }
        if resource.has_status() {
            object["status"] = json!({});
        }
        json!({"type": "BOOKMARK", "object": object})
    }

    /// The next lines; nothing at the end of the stream. An error is a connection that breaks.
    ///
    /// Dropping the future loses nothing that a later call would not give.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        loop {
            if !self.ready.is_empty() {
                let mut text = String::new();
                for line in self.ready.drain(..) {
                    text.push_str(&line.to_string());
                    text.push('\n');
                }
                return Some(Ok(Bytes::from(text)));
            }
            if self.over {
                return None;
            }
            self.collect();
            if self.ready.is_empty()
                && let Err(broken) = self.wait().await
            {
                self.over = true;
                return Some(Err(broken));
            }
        }
    }

    /// Until there may be something to send.
    async fn wait(&mut self) -> std::io::Result<()> {
        let end = self
            .end
            .unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
        tokio::select! {
            biased;
            _ = self.cut.changed() => return Err(std::io::Error::other("cut by the test")),
            changed = self.changed.changed() => self.over = changed.is_err(),
            () = sleep_until(end) => self.over = true,
            () = sleep_until(self.next_bookmark), if self.bookmarks => {
                self.next_bookmark = Instant::now() + self.shared.options.bookmark_every;
                let bookmark = self.bookmark();
                self.ready.push(bookmark);
            }
        }
        Ok(())
    }

    /// Takes up what has happened since the last time.
    fn collect(&mut self) {
        let shared = Arc::clone(&self.shared);
        let state = shared.state.lock();
        self.changed.mark_unchanged();
        let Some(changes) = state.store.since(self.revision) else {
            self.expire(&state.store);
            return;
        };
        for change in changes {
            self.revision = change.revision;
            if let Some(line) = self.line(change) {
                self.ready.push(line);
            }
        }
    }

    /// How a change looks to this client.
    fn line(&self, change: &Change) -> Option<Value> {
        let elsewhere = self
            .path
            .namespace
            .as_ref()
            .is_some_and(|namespace| *namespace != change.key.namespace);
        let other = self
            .path
            .name
            .as_ref()
            .is_some_and(|name| *name != change.key.name);
        if change.key.plural != self.path.resource.plural || elsewhere || other {
            return None;
        }
        let before = change
            .before
            .as_ref()
            .is_some_and(|object| self.selector.matches(object));
        let after = !change.deleted && self.selector.matches(&change.after);
        let kind = match (before, after) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(json!({"type": kind, "object": views::versioned(&self.path, &change.after)}))
    }
}
