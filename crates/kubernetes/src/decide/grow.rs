//! Requests for one more Pod.

use bugle_types::pool::{Pool, PoolStatus};

use super::Memory;
use crate::observed::Observed;

/// The most requests that wait for a Pod of one pool; more than that and the pool is not what they need.
const MOST_WAITING: usize = 10_000;

/// Why a pool does not grow. All of them begin as the contract has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody made it.
    #[error("failed to scale up pod: there is no such pool")]
    Unknown,
    /// Its size is fixed.
    #[error("failed to scale up pod: the pool has a fixed size")]
    Fixed,
    /// It is not there yet, or goes.
    #[error("failed to scale up pod: the pool is in status {0}")]
    Status(PoolStatus),
    /// It has all the Pods that it may have.
    #[error("failed to scale up pod: the pool has {0} Pods and may have {1}")]
    Full(u32, u32),
}

/// Notes that a request for an instance wants one more Pod of the pool. Asking again for the same request changes
/// nothing.
///
/// # Errors
/// When the pool does not grow.
pub fn ask(
    pool: &Pool,
    observed: &Observed,
    memory: &mut Memory,
    request: &str,
) -> Result<(), Refusal> {
    let (id, spec) = (&pool.spec.id, &pool.spec);
    let status = pool.state.status;
    if !spec.scalable {
        return Err(Refusal::Fixed);
    }
    if matches!(
        status,
        PoolStatus::Pending | PoolStatus::Failed | PoolStatus::PendingDeletion
    ) {
        return Err(Refusal::Status(status));
    }
    let workers = || observed.of(id.as_str());
    let made = workers().any(|(_, worker)| worker.request.as_deref() == Some(request));
    let waiting = memory.growing.entry(id.clone()).or_default();
    if made || memory.served.contains_key(request) || waiting.iter().any(|known| known == request) {
        return Ok(());
    }
    let live = workers().filter(|(_, worker)| worker.is_live()).count();
    let unmade = waiting
        .iter()
        .filter(|known| !workers().any(|(_, worker)| worker.request.as_ref() == Some(known)))
        .count();
    let count = u32::try_from(live + unmade)
        .unwrap_or(u32::MAX)
        .max(spec.size);
    if count >= spec.max_size || waiting.len() >= MOST_WAITING {
        return Err(Refusal::Full(count, spec.max_size));
    }
    waiting.push(request.to_owned());
    Ok(())
}
