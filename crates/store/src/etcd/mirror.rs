//! The copy of our keys: read once, then kept up by a watch.
//!
//! The watch begins after the last revision that is held, whatever ended the one before, so that no
//! change is missed or seen twice. Only when etcd has forgotten that revision is everything read
//! again. Changes of one transaction become visible at once, as they did in etcd.
//!
//! What this platform wrote itself is in the copy with etcd's answer already, if nothing is missing
//! before it ([`write`](super::write)), and is passed over here. So the copy is exact at its revision,
//! whoever brought it there, and while that is much the watch rests ([`rest`](super::rest)).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use super::alone::Claim;
use super::client::{Again, Client};
use super::keys::{Between, Part};
use super::wire::{
    DELETED, Event, Header, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    WatchResponse, path,
};
use super::{Failure, Shared, signed, unsigned};
use crate::Revision;
use crate::core::Core;
use crate::history::Limits;
use crate::leaf::{Entry, Stored};
use crate::pack::{Packer, Shapes};
use crate::state::{Place, Plan, Received, State};
use crate::table::Leaves;

/// Keys that are read at once. More would be faster by little, and held twice while it is unpacked.
const PAGE: i64 = 2000;

/// The pauses between attempts to watch: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The copy, while it is kept up.
pub(super) struct Mirror {
    core: Arc<Core>,
    shared: Arc<Shared>,
    limits: Limits,
    cluster: u64,
}

/// Why a watch ended.
enum End {
    /// It broke.
    Broken(Failure),
    /// What comes next is forgotten.
    Forgotten,
    /// It would bring nothing new.
    Needless,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure)
    }
}

/// Everything that was read, and of which etcd.
struct Loaded {
    state: State,
    cluster: u64,
}

impl Mirror {
    /// Reads everything; tries again for as long as `patience` says.
    pub(super) async fn begin(
        shared: Arc<Shared>,
        limits: Limits,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        let mut pause = PAUSE;
        loop {
            match load(&shared.client, &shared.part, limits).await {
                Ok(Loaded { state, cluster }) => {
                    shared.metrics.revision.set(state.revision().0);
                    let core = Core::new(state);
                    return Ok(Self {
                        core,
                        shared,
                        limits,
                        cluster,
                    });
                }
                Err(failure) if !failure.is_transient() || Instant::now() + pause > deadline => {
                    return Err(failure);
                }
                Err(failure) => {
                    shared.status.lost(failure);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// What those need who use it.
    pub(super) fn handles(&self) -> (Arc<Core>, Arc<Shared>) {
        (Arc::clone(&self.core), Arc::clone(&self.shared))
    }

    /// Keeps the copy, and the claim if there is one, up until it is told to stop; then ends its
    /// watches.
    pub(super) async fn run(mut self, stopped: oneshot::Receiver<()>, claim: Option<Claim>) {
        let shared = Arc::clone(&self.shared);
        let mut claim = claim;
        tokio::select! {
            biased;
            _ = stopped => {}
            never = self.follow() => match never {},
            never = shared.status.follow_alarm(&shared.client) => match never {},
            never = keep(&shared, claim.as_mut()) => match never {},
        }
        self.core.close();
        if let Some(claim) = claim {
            claim.give_up(&shared).await;
        }
    }

    /// Keeps the copy up. May be dropped and called again.
    pub(super) async fn follow(&mut self) -> Infallible {
        let mut pause = PAUSE;
        loop {
            let begun = Instant::now();
            let end = match self.watch().await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            // One that worked for a while was in order: the next may begin at once.
            if begun.elapsed() > LONGEST_PAUSE {
                pause = PAUSE;
            }
            match end {
                End::Broken(failure @ Failure::Rewound { .. }) => {
                    self.shared.status.end(failure);
                    std::future::pending::<()>().await;
                }
                End::Broken(failure) => {
                    self.shared.metrics.reconnects.inc();
                    self.shared.status.lost(failure);
                    self.shared.client.move_on();
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                End::Needless => {
                    self.shared.metrics.rests.inc();
                    self.shared.rest.ends().await;
                }
                End::Forgotten => {
                    if let Err(failure) = self.read_again().await {
                        self.shared.status.lost(failure);
                        sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Reads everything anew. Those who watch are told that they fell behind.
    async fn read_again(&self) -> Result<(), Failure> {
        tracing::warn!("etcd has forgotten what happened meanwhile; everything is read again");
        self.shared.metrics.relists.inc();
        let Loaded { state, .. } =
            load(&self.shared.client, &self.shared.part, self.limits).await?;
        self.core.write(|old| {
            // What was written here meanwhile may have gone further, without a gap.
            if state.revision() > old.revision() {
                *old = state;
            }
        });
        Ok(())
    }

    /// Follows one watch to its end.
    async fn watch(&self) -> Result<Infallible, End> {
        let known = self.core.revision();
        let Between(key, range_end) = self.shared.part.watched();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: signed(Revision(known.0 + 1)),
            progress_notify: true,
            fragment: true,
        };
        let create = WatchRequest {
            create: Some(create),
        };
        // The end of the requests would be the end of the watch.
        let requests = stream::once(async { create }).chain(stream::pending());
        let mut answers: Streaming<WatchResponse> =
            self.shared.client.stream(path::WATCH, requests).await?;
        let mut events = Vec::new();
        loop {
            let answer = tokio::select! {
                biased;
                answer = answers.message() => answer,
                () = self.shared.rest.begins() => return Err(End::Needless),
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.broken("it ended the watch").into()),
                Err(status) => return Err(self.shared.client.lost(&status).into()),
            };
            if answer.compact_revision > 0 {
                return Err(End::Forgotten);
            }
            if answer.canceled {
                let reason = format!("it cancelled the watch: {}", answer.cancel_reason);
                return Err(self.broken(&reason).into());
            }
            if answer.created {
                self.check(answer.header.as_ref(), known).await?;
                self.shared.status.follows();
            }
            events.extend(answer.events);
            if !answer.fragment {
                let upto = answer.header.map_or(0, |header| unsigned(header.revision));
                self.take(&events, Revision(upto), answer.created)?;
                events.clear();
            }
        }
    }

    fn broken(&self, reason: &str) -> Failure {
        self.shared.client.unreachable(reason.to_owned())
    }

    /// Whether it is still the etcd that was read. A watch on another one would wait for a revision
    /// that has nothing to do with ours.
    async fn check(&self, header: Option<&Header>, known: Revision) -> Result<(), End> {
        let Some(header) = header else {
            return Ok(());
        };
        if self.is_at(header, known) {
            return Ok(());
        }
        // A member that lags says what it has itself. A read is of what all agreed on.
        let watched = self.shared.part.watched();
        let read = page(&self.shared.client, &watched, 1, 0).await?;
        let header = read.header.unwrap_or_default();
        if self.is_at(&header, known) {
            return Ok(());
        }
        let (found, known) = (unsigned(header.revision), known.0);
        Err(Failure::Rewound { found, known }.into())
    }

    fn is_at(&self, header: &Header, known: Revision) -> bool {
        header.cluster_id == self.cluster && unsigned(header.revision) >= known.0
    }

    /// Makes the events visible that are not yet. None of them is of a later revision than the answer
    /// they came with, and one that has none and does not only say that the watch was made tells how
    /// far it has come.
    fn take(&self, events: &[Bytes], upto: Revision, is_first: bool) -> Result<(), Failure> {
        if events.is_empty() && is_first {
            return Ok(());
        }
        if upto > self.core.revision() {
            let read = |event: &Bytes| Event::decode(event.clone());
            let events: Result<Vec<Event>, _> = events.iter().map(read).collect();
            self.show(
                &events.map_err(|error| self.broken(&error.to_string()))?,
                upto,
            );
        }
        self.shared.metrics.revision.set(self.core.revision().0);
        Ok(())
    }

    /// Makes the events visible, one revision after the other.
    fn show(&self, events: &[Event], upto: Revision) {
        let part = &self.shared.part;
        self.core.write(|state| {
            let known = state.revision();
            let mut plan = Plan::new(state);
            if events.is_empty() && upto > known {
                plan.receive(upto, std::iter::empty());
            }
            let revision = |event: &Event| {
                let kv = event.kv.as_ref();
                Revision(kv.map_or(0, |kv| unsigned(kv.mod_revision)))
            };
            for batch in events.chunk_by(|one, other| revision(one) == revision(other)) {
                let at = batch.first().map(revision).unwrap_or_default();
                if at > known {
                    plan.receive(at, batch.iter().filter_map(|event| received(part, event)));
                }
            }
            let planned = plan.finish();
            state.publish(planned);
        });
    }
}

async fn keep(shared: &Shared, claim: Option<&mut Claim>) -> Infallible {
    if let Some(claim) = claim {
        let failure = claim.keep(shared).await;
        shared.status.end(failure);
    }
    std::future::pending().await
}

fn received(part: &Part, event: &Event) -> Option<Received> {
    let kv = event.kv.as_ref()?;
    let key = part.inner(&kv.key)?;
    let value = (event.kind != DELETED).then(|| {
        let created = Revision(unsigned(kv.create_revision));
        (kv.value.clone(), created, unsigned(kv.version))
    });
    Some(Received { key, value })
}

/// Whether our keys can be read; the first one of each part is.
///
/// # Errors
///
/// [`Failure`].
pub(super) async fn look(client: &Client, part: &Part) -> Result<(), Failure> {
    for between in part.parts() {
        page(client, &between, 1, 0).await?;
    }
    Ok(())
}

async fn page(
    client: &Client,
    between: &Between,
    limit: i64,
    revision: i64,
) -> Result<RangeResponse, Failure> {
    let Between(key, range_end) = between.clone();
    let request = RangeRequest {
        key,
        range_end,
        limit,
        revision,
        keys_only: false,
    };
    client.ask(path::RANGE, request, Again::Harmless).await
}

/// Reads all our keys as they are at one moment.
async fn load(client: &Client, part: &Part, limits: Limits) -> Result<Loaded, Failure> {
    let newest = page(client, &part.watched(), 1, 0).await?;
    let header = newest.header.unwrap_or_default();
    let revision = Revision(unsigned(header.revision));
    let no_shapes = Shapes::default();
    let mut loading = Loading {
        packer: Packer::new(&no_shapes),
        leaves: Leaves::default(),
        row: 0,
    };
    for mut between in part.parts() {
        loop {
            let mut found = page(client, &between, PAGE, header.revision).await?;
            let last = found.kvs.last().map(|kv| kv.key.clone());
            let more = found.more;
            for kv in found.kvs.drain(..) {
                if let Some(key) = part.inner(&kv.key) {
                    loading.add(&key, &kv);
                }
            }
            match last {
                Some(last) if more => between.0 = following(&last),
                _ => break,
            }
        }
    }
    Ok(Loaded {
        state: loading.finish(revision, limits),
        cluster: header.cluster_id,
    })
}

/// The least key after this one.
fn following(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

struct Loading<'a> {
    packer: Packer<'a>,
    leaves: Leaves,
    row: u64,
}

impl Loading<'_> {
    fn add(&mut self, key: &[u8], kv: &super::wire::KeyValue) {
        self.row += 1;
        let packed = self.packer.pack(key, &kv.value);
        let entry = Entry {
            place: Place {
                row: self.row,
                revision: Revision(unsigned(kv.mod_revision)),
            },
            value: Some(Stored {
                shape: packed.shape,
                bytes: &packed.bytes,
                create_revision: Revision(unsigned(kv.create_revision)),
                version: unsigned(kv.version),
            }),
        };
        self.leaves.push(key, &entry);
    }

    fn finish(self, revision: Revision, limits: Limits) -> State {
        let mut state = State::new(revision, limits);
        state.take_over(self.packer.finish(), self.leaves.into_table(), self.row);
        state
    }
}
