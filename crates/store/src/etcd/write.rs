//! Transactions in etcd, and the wait until the copy holds them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::client::Again;
use super::gather::Waiting;
use super::keys::Between;
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

/// Runs a transaction, and waits until the copy holds what it did, or what kept it from being done.
///
/// # Errors
///
/// [`Error::Etcd`].
pub(super) async fn run(shared: &Shared, core: &Core, txn: Txn) -> Result<TxnOutcome, Error> {
    if let Some(failure) = shared.status.refusal() {
        return Err(failure.into());
    }
    let begun = Instant::now();
    let before = core.revision();
    let request = encode(shared, &txn);
    let again = again(&[&txn]);
    let answer: Result<TxnResponse, Failure> = shared.client.ask(path::TXN, request, again).await;
    let outcome = match answer {
        Ok(answer) => settle(core, &txn, newest(&answer), &answer).await?,
        Err(Failure::Unsure { reason }) => find(shared, core, &txn, before, reason).await?,
        Err(failure) => {
            if failure == Failure::NoSpace {
                shared.status.set_full(true);
            }
            shared.metrics.failed.inc();
            return Err(failure.into());
        }
    };
    if outcome.succeeded {
        shared.metrics.committed(begun.elapsed().as_secs_f64(), 1);
    }
    Ok(outcome)
}

/// The same for several that touch nothing of each other, in one request.
pub(super) async fn run_all(shared: &Arc<Shared>, core: &Arc<Core>, mut together: Vec<Waiting>) {
    if together.len() == 1
        && let Some(Waiting { txn, done }) = together.pop()
    {
        // Nobody may wait any more.
        let _ = done.send(run(shared, core, txn).await);
        return;
    }
    let begun = Instant::now();
    let before = core.revision();
    let parts = together.iter().map(|one| encode(shared, &one.txn));
    let request = TxnRequest {
        success: parts.map(|part| op(Request::Txn(part))).collect(),
        ..TxnRequest::default()
    };
    let again = again(&together.iter().map(|one| &one.txn).collect::<Vec<_>>());
    let answer: Result<TxnResponse, Failure> = match shared.status.refusal() {
        Some(failure) => Err(failure),
        None => shared.client.ask(path::TXN, request, again).await,
    };
    let (shared, core) = (Arc::clone(shared), Arc::clone(core));
    // The copy is waited for elsewhere: what waits meanwhile can go.
    tokio::spawn(async move {
        let (shared, core) = (&*shared, &*core);
        match answer {
            Ok(answer) => {
                let newest = newest(&answer);
                let parts = together.into_iter().zip(answer.responses);
                let told = parts.map(async |(one, part)| {
                    let outcome = match part.response {
                        Some(Response::Txn(part)) => settle(core, &one.txn, newest, &part).await,
                        _ => Err(Failure::Unsure {
                            reason: "its answer lacks a part".to_owned(),
                        }
                        .into()),
                    };
                    if outcome.as_ref().is_ok_and(|outcome| outcome.succeeded) {
                        shared.metrics.committed(begun.elapsed().as_secs_f64(), 1);
                    }
                    // Nobody may wait any more, here and below.
                    let _ = one.done.send(outcome);
                });
                join_all(told).await;
            }
            Err(Failure::Unsure { reason }) => {
                let told = together.into_iter().map(async |Waiting { txn, done }| {
                    let _ = done.send(find(shared, core, &txn, before, reason.clone()).await);
                });
                join_all(told).await;
            }
            // It did not happen. Perhaps it was one of them, so each gets an answer of its own.
            Err(_) => {
                let told = together.into_iter().map(async |Waiting { txn, done }| {
                    let _ = done.send(run(shared, core, txn).await);
                });
                join_all(told).await;
            }
        }
    });
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

fn encode(shared: &Shared, txn: &Txn) -> TxnRequest {
    let part = &shared.part;
    let compare = txn.when.iter().map(|compare| {
        let (target, key, wanted) = match compare {
            Compare::ModRevision(key, revision) => {
                (target::MOD, key, Wanted::ModRevision(signed(*revision)))
            }
            Compare::Value(key, value) => (target::VALUE, key, Wanted::Value(value.clone())),
        };
        super::wire::Compare {
            range_end: Bytes::new(),
            target,
            key: part.outer(key),
            wanted: Some(wanted),
        }
    });
    let success = txn.then.iter().map(|write| match write {
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
    });
    // What kept it from being done is what the caller must be able to read next.
    let failure = txn.when.iter().map(|compare| {
        op(Request::Range(RangeRequest {
            key: part.outer(subject(compare)),
            keys_only: true,
            ..RangeRequest::default()
        }))
    });
    TxnRequest {
        compare: compare.collect(),
        success: success.collect(),
        failure: failure.collect(),
    }
}

fn subject(compare: &Compare) -> &Bytes {
    match compare {
        Compare::ModRevision(key, _) | Compare::Value(key, _) => key,
    }
}

/// The revision of etcd when it answered.
fn newest(answer: &TxnResponse) -> Revision {
    let header = answer.header.as_ref();
    Revision(header.map_or(0, |header| unsigned(header.revision)))
}

/// Waits until the copy holds what etcd has answered.
async fn settle(
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
    if timeout(ARRIVAL, arrived).await.is_err() {
        let reason = "it was done, but etcd's watch does not bring it".to_owned();
        return Err(Failure::Unsure { reason }.into());
    }
    Ok(TxnOutcome {
        succeeded,
        revision: core.revision(),
    })
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
        let held = state.written_at(subject(compare));
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
