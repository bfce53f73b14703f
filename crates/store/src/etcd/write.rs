//! Transactions in etcd, and how the copy comes to hold them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message as _;
use prost::encoding::{self, WireType};
use tokio::time::{Instant, sleep, timeout};

use super::client::Again;
use super::gather::Waiting;
use super::keys::{Between, Part};
use super::wire::{
    CompactionRequest, DeleteRangeRequest, Empty, PutRequest, RangeRequest, RangeResponse, Request,
    RequestOp, Response, TxnRequest, TxnResponse, Wanted, path, target,
};
use super::{ARRIVAL, Failure, Shared, signed, unsigned};
use crate::core::Core;
use crate::state::State;
use crate::{Compare, Error, Op, Revision, Txn, TxnOutcome};

/// The pause between looks for what became of a write that was not confirmed.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// Room for what is in a request beside keys and values: conditions, and lengths.
const USUAL: usize = 256;

/// Runs transactions that touch nothing of each other, and tells each what became of it once the copy
/// holds what it did, or what kept it from being done.
///
/// Returns when etcd has answered: what waits meanwhile can go while the copy is waited for.
pub(super) async fn run(shared: &Arc<Shared>, core: &Arc<Core>, together: Vec<Waiting>) {
    let sent = Sent {
        shared: Arc::clone(shared),
        core: Arc::clone(core),
        begun: Instant::now(),
        before: core.revision(),
    };
    let answer = sent.ask(&together).await;
    tokio::spawn(async move { sent.tell(together, answer).await });
}

/// A request that was sent, for one transaction or several.
struct Sent {
    shared: Arc<Shared>,
    core: Arc<Core>,
    begun: Instant,
    /// What the copy held before.
    before: Revision,
}

/// What etcd says of each transaction, and the revision it was at.
struct Answered {
    newest: Revision,
    parts: Vec<TxnResponse>,
}

impl Sent {
    /// Sends the transactions as one, and where a condition of any of them does not hold, which is
    /// rare, as the parts of one, each with an outcome of its own. The former is about a tenth less
    /// work for etcd, and a smaller request and answer.
    async fn ask(&self, together: &[Waiting]) -> Result<Answered, Failure> {
        if let Some(failure) = self.shared.status.refusal() {
            return Err(failure);
        }
        let txns: Vec<&Txn> = together.iter().map(|one| &one.txn).collect();
        // In protobuf, messages one behind the other are one that has the lists of all.
        let parts: Vec<&[u8]> = together.iter().map(|one| &one.encoded[..]).collect();
        let mut request = parts.concat();
        if let [txn] = txns[..] {
            request.extend_from_slice(&otherwise(&self.shared, txn).encode_to_vec());
            let answer = self.send(&txns, request).await?;
            return Ok(Answered {
                newest: newest(&answer),
                parts: vec![answer],
            });
        }
        let answer = self.send(&txns, request).await?;
        if answer.succeeded {
            return Ok(split(&txns, answer));
        }
        let parts = txns.iter().map(|txn| TxnRequest {
            failure: otherwise(&self.shared, txn).failure,
            ..request_of(&self.shared, txn)
        });
        let request = TxnRequest {
            success: parts.map(|part| op(Request::Txn(part))).collect(),
            ..TxnRequest::default()
        };
        let answer = self.send(&txns, request.encode_to_vec()).await?;
        let newest = newest(&answer);
        let parts = answer
            .responses
            .into_iter()
            .map(|part| match part.response {
                Some(Response::Txn(part)) => Some(part),
                _ => None,
            });
        let parts: Option<Vec<_>> = parts.collect();
        match parts.filter(|parts| parts.len() == txns.len()) {
            Some(parts) => Ok(Answered { newest, parts }),
            None => Err(Failure::Unsure {
                reason: "its answer lacks a part".to_owned(),
            }),
        }
    }

    async fn send(&self, txns: &[&Txn], request: Vec<u8>) -> Result<TxnResponse, Failure> {
        let client = &self.shared.client;
        let answer = client.ask_encoded(path::TXN, request.into(), again(txns));
        answer.await
    }

    /// Tells those who wait.
    async fn tell(&self, together: Vec<Waiting>, answer: Result<Answered, Failure>) {
        match answer {
            // It did not happen. Perhaps it was one of them, so each gets an answer of its own.
            Err(failure) if together.len() > 1 && !matches!(failure, Failure::Unsure { .. }) => {
                let told = together.into_iter().map(async |one| {
                    let alone = vec![one];
                    let answer = self.ask(&alone).await;
                    self.conclude(alone, answer).await;
                });
                join_all(told).await;
            }
            answer => self.conclude(together, answer).await,
        }
    }

    /// Tells those who wait what there is to tell.
    async fn conclude(&self, together: Vec<Waiting>, answer: Result<Answered, Failure>) {
        match answer {
            Ok(answer) => self.settle(together, answer).await,
            Err(Failure::Unsure { reason }) => {
                let told = together.into_iter().map(async |one| {
                    let (reason, before) = (reason.clone(), self.before);
                    let outcome = find(&self.shared, &self.core, &one.txn, before, reason).await;
                    self.count(&outcome);
                    one.tell(outcome);
                });
                join_all(told).await;
            }
            Err(failure) => {
                if failure == Failure::NoSpace {
                    self.shared.status.set_full(true);
                }
                for one in together {
                    self.shared.metrics.failed.inc();
                    one.tell(Err(failure.clone().into()));
                }
            }
        }
    }

    async fn settle(&self, together: Vec<Waiting>, answer: Answered) {
        let Answered { newest, parts } = answer;
        if parts.iter().all(|part| part.succeeded && has_changed(part)) {
            if self.publish(&together, newest) {
                self.shared.metrics.revision.set(self.core.revision().0);
                self.shared.rest.wrote();
            } else {
                self.shared.rest.miss();
            }
            // All arrive with the same revision, so one wait does for all.
            let arrived = self.core.until(|state| state.revision() >= newest);
            let is_seen = timeout(ARRIVAL, arrived).await.is_ok();
            let outcome = TxnOutcome {
                succeeded: true,
                revision: newest,
            };
            for one in together {
                let outcome = is_seen.then_some(outcome).ok_or_else(not_seen);
                self.count(&outcome);
                one.tell(outcome);
            }
            return;
        }
        let told = together.into_iter().zip(parts).map(async |(one, part)| {
            let outcome = settle(&self.shared, &self.core, &one.txn, newest, &part).await;
            self.count(&outcome);
            one.tell(outcome);
        });
        join_all(told).await;
    }

    /// Takes puts that were done into the copy, if nothing is missing before them; else, and for
    /// what deletes, the watch does it. The watch is no slower than the answer, but each wait for
    /// another thread costs a registration some of its time. Whether the copy holds them.
    fn publish(&self, together: &[Waiting], newest: Revision) -> bool {
        let writes = || together.iter().flat_map(|one| &one.txn.then);
        if !writes().all(|write| matches!(write, Op::Put(..))) {
            return false;
        }
        let puts = writes().filter_map(|write| match write {
            Op::Put(key, value) => Some((&key[..], &value[..])),
            Op::Delete(_) | Op::DeletePrefix(_) => None,
        });
        self.core.write(|state| {
            if state.revision().0 + 1 == newest.0 {
                state.put_all(newest, puts);
            }
            // The watch may have brought them.
            state.revision() >= newest
        })
    }

    fn count(&self, outcome: &Result<TxnOutcome, Error>) {
        if outcome.as_ref().is_ok_and(|outcome| outcome.succeeded) {
            let metrics = &self.shared.metrics;
            metrics.committed(self.begun.elapsed().as_secs_f64(), 1);
        }
    }
}

/// Without a condition, doing it twice is doing it once.
fn again(txns: &[&Txn]) -> Again {
    if txns.iter().all(|txn| txn.when.is_empty()) {
        Again::Harmless
    } else {
        Again::OnlyUndone
    }
}

/// Compacts etcd up to a revision that it has.
///
/// # Errors
///
/// [`Error::Etcd`].
pub(super) async fn compact(shared: &Shared, core: &Core, at: Revision) -> Result<(), Error> {
    let at = at.min(core.revision());
    let request = CompactionRequest {
        revision: signed(at),
    };
    let answer: Result<Empty, Failure> = shared
        .client
        .ask(path::COMPACT, request, Again::Harmless)
        .await;
    match answer {
        // It was compacted further already.
        Err(Failure::Refused { reason }) if reason.contains("has been compacted") => {}
        Err(failure) => return Err(failure.into()),
        Ok(Empty {}) => {}
    }
    core.write(|state| state.history.forget(at));
    Ok(())
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// The conditions and the writes, and nothing for when the conditions do not hold.
fn request_of(shared: &Shared, txn: &Txn) -> TxnRequest {
    let part = &shared.part;
    TxnRequest {
        compare: txn.when.iter().map(|one| condition(part, one)).collect(),
        success: txn.then.iter().map(|one| writing(part, one)).collect(),
        failure: Vec::new(),
    }
}

fn condition(part: &Part, compare: &Compare) -> super::wire::Compare {
    let (target, wanted) = match compare {
        Compare::ModRevision(_, revision) => (target::MOD, Wanted::ModRevision(signed(*revision))),
        Compare::Value(_, value) => (target::VALUE, Wanted::Value(value.clone())),
        // Every key that there is has a revision.
        Compare::Absent(_) => (target::MOD, Wanted::ModRevision(0)),
    };
    let Between(key, range_end) = subject(part, compare);
    super::wire::Compare {
        range_end,
        target,
        key,
        wanted: Some(wanted),
    }
}

fn writing(part: &Part, write: &Op) -> RequestOp {
    match write {
        Op::Put(key, value) => op(Request::Put(PutRequest {
            key: part.outer(key),
            value: value.clone(),
            lease: 0,
        })),
        Op::Delete(key) => op(Request::DeleteRange(DeleteRangeRequest {
            key: part.outer(key),
            range_end: Bytes::new(),
        })),
        Op::DeletePrefix(prefix) => {
            let Between(key, range_end) = Between::prefix(&part.outer(prefix));
            op(Request::DeleteRange(DeleteRangeRequest { key, range_end }))
        }
    }
}

/// The same as bytes, which are a part of a request. Puts are nearly all of it, and their keys and
/// values are copied once.
pub(super) fn encoded(shared: &Shared, txn: &Txn) -> Vec<u8> {
    let part = &shared.part;
    let mut request = Vec::with_capacity(crate::state::size(txn) + USUAL);
    for compare in &txn.when {
        encoding::message::encode(1, &condition(part, compare), &mut request);
    }
    for write in &txn.then {
        match write {
            Op::Put(key, value) => {
                let parts = [(1, [part.prefix().as_bytes(), key]), (2, [&value[..], &[]])];
                encode_put(&parts, &mut request);
            }
            other => encoding::message::encode(2, &writing(part, other), &mut request),
        }
    }
    request
}

/// Writes a put, as one of the writes of a request: its fields, each of two parts.
fn encode_put(fields: &[(u32, [&[u8]; 2]); 2], request: &mut Vec<u8>) {
    let length_of = |length: usize| {
        let number = encoding::encoded_len_varint(length as u64);
        // A tag of one byte.
        1 + number + length
    };
    let length = |parts: &[&[u8]; 2]| parts[0].len() + parts[1].len();
    let put: usize = fields.iter().map(|(_, of)| length_of(length(of))).sum();
    let begin = |tag, length: usize, request: &mut Vec<u8>| {
        encoding::encode_key(tag, WireType::LengthDelimited, request);
        encoding::encode_varint(length as u64, request);
    };
    begin(2, length_of(put), request);
    begin(2, put, request);
    for (tag, parts) in fields {
        begin(*tag, length(parts), request);
        request.extend_from_slice(parts[0]);
        request.extend_from_slice(parts[1]);
    }
}

/// What is done where the conditions do not hold: what kept it from being done is what the caller must
/// be able to read next.
fn otherwise(shared: &Shared, txn: &Txn) -> TxnRequest {
    let part = &shared.part;
    let failure = txn.when.iter().map(|compare| {
        let Between(key, range_end) = subject(part, compare);
        op(Request::Range(RangeRequest {
            key,
            range_end,
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        }))
    });
    TxnRequest {
        failure: failure.collect(),
        ..TxnRequest::default()
    }
}

/// The answer to transactions that were sent as one and done, as one to each.
fn split(txns: &[&Txn], answer: TxnResponse) -> Answered {
    let newest = newest(&answer);
    let mut responses = answer.responses.into_iter();
    let parts = txns.iter().map(|txn| TxnResponse {
        header: None,
        succeeded: true,
        responses: responses.by_ref().take(txn.then.len()).collect(),
    });
    Answered {
        newest,
        parts: parts.collect(),
    }
}

/// What a condition is about, as etcd takes it.
fn subject(part: &Part, compare: &Compare) -> Between {
    match compare {
        Compare::ModRevision(key, _) | Compare::Value(key, _) => {
            Between(part.outer(key), Bytes::new())
        }
        Compare::Absent(prefix) => Between::prefix(&part.outer(prefix)),
    }
}

/// The revision of etcd when it answered.
fn newest(answer: &TxnResponse) -> Revision {
    let header = answer.header.as_ref();
    Revision(header.map_or(0, |header| unsigned(header.revision)))
}

/// Waits until the copy holds what etcd has answered.
async fn settle(
    shared: &Shared,
    core: &Core,
    txn: &Txn,
    newest: Revision,
    answer: &TxnResponse,
) -> Result<TxnOutcome, Error> {
    let succeeded = answer.succeeded;
    let arrived = async {
        if succeeded && has_changed(answer) {
            core.until(|state| state.revision() >= newest).await;
        } else {
            // The newest revision may be of keys that are not ours, and then never arrives. What
            // was seen of ours does.
            core.until(|state| state.revision() >= newest || holds(state, txn, answer))
                .await;
        }
    };
    shared.rest.miss();
    if timeout(ARRIVAL, arrived).await.is_err() {
        return Err(not_seen());
    }
    Ok(TxnOutcome {
        succeeded,
        revision: core.revision(),
    })
}

fn not_seen() -> Error {
    let reason = "it was done, but etcd's watch does not bring it".to_owned();
    Failure::Unsure { reason }.into()
}

fn has_changed(answer: &TxnResponse) -> bool {
    let changed = |response: &Response| match response {
        Response::Put(_) => true,
        Response::DeleteRange(deletion) => deletion.deleted > 0,
        Response::Range(_) | Response::Txn(_) => false,
    };
    let mut responses = answer.responses.iter();
    responses.any(|response| response.response.as_ref().is_some_and(changed))
}

/// Whether the copy has come to where etcd saw the keys of a transaction that changed nothing.
fn holds(state: &State, txn: &Txn, answer: &TxnResponse) -> bool {
    if answer.succeeded {
        return txn.then.iter().all(|write| match write {
            Op::Put(..) => true,
            Op::Delete(key) => !state.holds(key),
            Op::DeletePrefix(prefix) => !state.holds_any(prefix),
        });
    }
    let seen = answer.responses.iter().map(|response| {
        let Some(Response::Range(RangeResponse { kvs, .. })) = &response.response else {
            return Revision(0);
        };
        Revision(kvs.first().map_or(0, |kv| unsigned(kv.mod_revision)))
    });
    txn.when.iter().zip(seen).all(|(compare, seen)| {
        let held = match compare {
            Compare::ModRevision(key, _) | Compare::Value(key, _) => state.written_at(key),
            Compare::Absent(prefix) => state.first_written_at(prefix),
        };
        if seen == Revision(0) {
            held.is_none()
        } else {
            held.is_some_and(|held| held >= seen)
        }
    })
}

/// Looks whether a write happened that etcd did not confirm. That it is there is certain; that it is
/// not, may still change, and is reported as unsure.
async fn find(
    shared: &Shared,
    core: &Core,
    txn: &Txn,
    before: Revision,
    reason: String,
) -> Result<TxnOutcome, Error> {
    let unsure = Failure::Unsure { reason };
    let put = txn.then.iter().find_map(|write| match write {
        Op::Put(key, value) => Some((key, value)),
        Op::Delete(_) | Op::DeletePrefix(_) => None,
    });
    let Some((key, value)) = put else {
        return Err(unsure.into());
    };
    let deadline = Instant::now() + shared.client.timeout();
    while Instant::now() < deadline {
        let request = RangeRequest {
            key: shared.part.outer(key),
            ..RangeRequest::default()
        };
        let found: Result<RangeResponse, Failure> = shared
            .client
            .ask(path::RANGE, request, Again::Harmless)
            .await;
        if let Ok(found) = found
            && let Some(kv) = found.kvs.first()
            && unsigned(kv.mod_revision) > before.0
            && kv.value == *value
        {
            let revision = Revision(unsigned(kv.mod_revision));
            shared.rest.miss();
            let arrived = core.until(|state| state.revision() >= revision);
            if timeout(ARRIVAL, arrived).await.is_ok() {
                return Ok(TxnOutcome {
                    succeeded: true,
                    revision: core.revision(),
                });
            }
        }
        sleep(LOOK).await;
    }
    Err(unsure.into())
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;
    use tokio::sync::oneshot;

    use super::super::client::Client;
    use super::super::keys::Part;
    use super::super::rest::Rest;
    use super::super::status::Status;
    use super::super::wire::{Empty, ResponseOp};
    use super::*;
    use crate::history::Limits;
    use crate::{EtcdConfig, Metrics};

    const LIMITS: Limits = Limits {
        revisions: 10,
        bytes: 1000,
    };

    /// An etcd that nobody asks here.
    fn shared(prefix: &str) -> Shared {
        let metrics = Metrics::default();
        Shared {
            client: Client::new(&EtcdConfig::default()).expect("a client"),
            part: Part::whole(prefix.to_owned()),
            status: Status::new(metrics.clone()),
            metrics,
            rest: Rest::default(),
            runtime: Handle::current(),
        }
    }

    /// A request to it; the copy is at revision 5.
    fn sent() -> Sent {
        Sent {
            shared: Arc::new(shared("/")),
            core: Core::new(State::new(Revision(5), LIMITS)),
            begun: Instant::now(),
            before: Revision(5),
        }
    }

    /// Tells of a write that etcd did at `revision`; whether it is answered without the watch.
    async fn is_answered(sent: &Sent, write: Op, revision: u64) -> bool {
        let (done, mut outcome) = oneshot::channel();
        let then = vec![write];
        let when = Vec::new();
        let txn = Txn { when, then };
        let part = TxnResponse {
            header: None,
            succeeded: true,
            responses: vec![ResponseOp {
                response: Some(Response::Put(Empty {})),
            }],
        };
        let answered = Answered {
            newest: Revision(revision),
            parts: vec![part],
        };
        let settled = sent.settle(vec![Waiting::new(txn, Vec::new(), done)], answered);
        tokio::select! {
            biased;
            () = settled => {}
            () = tokio::task::yield_now() => {}
        }
        matches!(outcome.try_recv(), Ok((Ok(outcome), _)) if outcome.revision.0 == revision)
    }

    #[tokio::test]
    async fn what_was_put_right_after_the_copy_is_in_it_with_the_answer() {
        let sent = sent();
        let put = |value: &'static str| Op::Put("/a".into(), value.into());
        assert!(is_answered(&sent, put("first"), 6).await);
        assert!(is_answered(&sent, put("second"), 7).await);
        let held = sent.core.get(b"/a").expect("readable").expect("held");
        assert_eq!(held.value, "second");
        let revisions = (held.create_revision, held.mod_revision, held.version);
        assert_eq!(revisions, (Revision(6), Revision(7), 2));
    }

    #[tokio::test]
    async fn a_request_is_encoded_as_its_message_is() {
        let long = "x".repeat(20_000);
        let txn = Txn {
            when: vec![
                Compare::ModRevision("/a".into(), Revision(300)),
                Compare::Value("/b".into(), "value".into()),
                Compare::Absent("/e/".into()),
            ],
            then: vec![
                Op::Put("/a".into(), Bytes::new()),
                Op::Put("/b".into(), "short".into()),
                Op::Put(long.clone().into(), long.into()),
                Op::Delete("/c".into()),
                Op::DeletePrefix("/d/".into()),
            ],
        };
        for prefix in ["/prefix", ""] {
            let shared = shared(prefix);
            let read = TxnRequest::decode(&encoded(&shared, &txn)[..]).unwrap();
            assert_eq!(read, request_of(&shared, &txn));
        }
    }

    #[tokio::test]
    async fn where_something_may_be_missing_the_watch_is_waited_for() {
        let sent = sent();
        let put = Op::Put("/a".into(), "after somebody's".into());
        assert!(!is_answered(&sent, put, 7).await);
        assert!(!is_answered(&sent, Op::Delete("/a".into()), 6).await);
        assert_eq!(sent.core.revision(), Revision(5));
    }
}
