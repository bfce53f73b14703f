//! What this gateway asks the others.

use std::collections::BTreeSet;
use std::time::Duration;

use bugle_api::operator::FunctionStatus;
use bugle_store::Revision;
use bugle_types::FunctionId;

use super::{Sharing, port};
use crate::kubernetes::Wish;

/// How long another gateway may take to follow a change before the change is answered all the same.
pub(super) const FOLLOWING: Duration = Duration::from_secs(2);

impl Sharing {
    /// Tells the gateway that has the function now that there are events of it.
    pub(crate) fn leave_events(&self, function: &FunctionId) {
        let Some(owner) = self.cluster.view().owner(function).cloned() else {
            // Who becomes it looks for itself.
            return;
        };
        let sharing = self.clone();
        self.runtime.spawn(async move {
            if sharing.cluster.view().me.as_ref() == Some(&owner) {
                sharing.left.notify_one();
                return;
            }
            let told = sharing.cluster.ask(&owner, port::EVENTS, &(), FOLLOWING);
            let told: Result<(), _> = told.await;
            if let Err(error) = told {
                tracing::debug!(%error, "a gateway was not told of events");
            }
        });
    }

    /// Asks the other gateways for Pods, one of which makes them; false if none says that it does.
    pub(crate) async fn grow(&self, wishes: &BTreeSet<Wish>) -> bool {
        let view = self.cluster.view();
        let asked = view.others().map(|(id, _)| async {
            let told = self.cluster.ask(id, port::GROW, wishes, FOLLOWING).await;
            told.unwrap_or_else(|error| {
                tracing::debug!(%error, member = &**id, "a gateway was not asked for Pods");
                false
            })
        });
        futures_util::future::join_all(asked).await.contains(&true)
    }

    /// Cancels an invocation that waits or runs at another gateway: mostly the one that has the function,
    /// but one that had it brings what it sent to an end. Whether there is one.
    pub(crate) async fn cancel(&self, function: &FunctionId, request: &str) -> bool {
        let view = self.cluster.view();
        let asked = view.others().map(|(id, _)| async {
            let question = port::Cancelled {
                function: function.clone(),
                request: request.to_owned(),
            };
            let cancelled = self.cluster.ask(id, port::CANCEL, &question, FOLLOWING);
            cancelled.await.unwrap_or_else(|error| {
                tracing::debug!(%error, member = &**id, "a gateway was not told to cancel");
                false
            })
        });
        let cancelled = futures_util::future::join_all(asked).await;
        cancelled.contains(&true)
    }

    /// Waits until the other gateways follow the store up to `revision`, so that whoever made a change
    /// finds it at all of them.
    pub(crate) async fn everywhere(&self, revision: Revision) {
        let view = self.cluster.view();
        let asked = view.others().map(|(id, _)| async {
            let question = port::Follow {
                revision: revision.0,
            };
            let told: Result<(), _> = self
                .cluster
                .ask(id, port::FOLLOW, &question, FOLLOWING)
                .await;
            if let Err(error) = told {
                // It is about to be no member any more, or follows when it can.
                tracing::debug!(%error, member = &**id, "a gateway did not say that it follows");
            }
        });
        futures_util::future::join_all(asked).await;
    }

    /// How a function runs that another gateway has, as that one says; none if it is not in use there,
    /// or if this gateway has it.
    pub(crate) async fn status(&self, function: &FunctionId) -> Option<FunctionStatus> {
        let view = self.cluster.view();
        let owner = view
            .owner(function)
            .filter(|o| view.me.as_ref() != Some(*o))?;
        let asked = self
            .cluster
            .ask(owner, port::STATUS, function, FOLLOWING)
            .await;
        asked.unwrap_or_else(|error| {
            tracing::debug!(%error, "a gateway did not say how a function runs");
            None
        })
    }
}
