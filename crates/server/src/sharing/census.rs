//! How many instances of a function other gateways have, for the one that has taken it over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_cluster::{Cluster, View};
use bugle_scheduler::{Census, Function};
use bugle_types::FunctionId;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::port::{COUNT, Count, Counts};
use crate::nodes::Nodes;

/// How long a gateway may keep a question about changes open, and how much longer its answer may take.
pub(super) const OPEN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = OPEN.saturating_add(Duration::from_secs(2));

/// The pause before a gateway that does not answer is asked again: it is asked until it answers, or
/// until its lease is over and what it had with it.
const PAUSE: Duration = Duration::from_millis(30);

/// What each of the others has; none as long as it has not said it.
type Told = Mutex<BTreeMap<Arc<str>, Option<Census>>>;

/// How long starts of a function wait for what nodes have of it, once other gateways have said theirs.
const SETTLING: Duration = Duration::from_secs(1);

/// What a gateway has less than before may be on its way from a node to this one, which says so itself.
const HANDING_OVER: Duration = Duration::from_millis(30);

/// Lets starts of a function go on when what nodes have of it is taken in or counted.
pub(super) async fn of_nodes(nodes: Nodes, revision: u64, function: Function, id: FunctionId) {
    function.counted().await;
    let settled = async {
        let (hub, _) = nodes.opened().await;
        hub.settled(&id, revision).await;
    };
    if timeout(SETTLING, settled).await.is_err() {
        tracing::debug!(function = %id, "not all nodes have said what they have");
    }
    function.hold_starts(false);
}

/// Tells the function what the others have until that is nothing, or the function is another's.
pub(super) async fn of_others(
    cluster: Cluster,
    view: Arc<View>,
    function: Function,
    id: FunctionId,
) {
    let others: Vec<Arc<str>> = view.others().map(|(other, _)| Arc::clone(other)).collect();
    let told: Told = Mutex::new(
        others
            .iter()
            .map(|other| (Arc::clone(other), None))
            .collect(),
    );
    tell(&told, &function);
    let asked = others.iter().map(|other| {
        let told = &told;
        let (cluster, function, id, view) = (&cluster, &function, &id, &view);
        async move {
            let mut seen = None;
            loop {
                let question = Count {
                    function: id.clone(),
                    view: view.revision,
                    seen: seen.clone().map(Counts::from_census),
                };
                let census = match cluster
                    .ask::<_, Counts>(other, COUNT, &question, PATIENCE)
                    .await
                {
                    Ok(counts) => counts.into_census(),
                    // What a dead gateway had has ended with it.
                    Err(_) if cluster.view().member(other).is_none() => Census::new(),
                    Err(_) => {
                        sleep(PAUSE).await;
                        continue;
                    }
                };
                if seen.as_ref().is_some_and(|seen| *seen != census) {
                    sleep(HANDING_OVER).await;
                }
                told.lock().insert(Arc::clone(other), Some(census.clone()));
                tell(told, function);
                if census.is_empty() || !cluster.has(id) {
                    return;
                }
                seen = Some(census);
            }
        }
    });
    futures_util::future::join_all(asked).await;
}

/// Tells the function the sum, once all have said theirs.
fn tell(told: &Told, function: &Function) {
    let told = told.lock();
    let mut sum = Census::new();
    for census in told.values() {
        let Some(census) = census else { return };
        for (label, count) in census {
            *sum.entry(label.clone()).or_default() += count;
        }
    }
    function.set_elsewhere(sum);
}
