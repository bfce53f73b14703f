//! What all gateways of a platform know of its nodes: who they are and which are drained, from the store;
//! and the other way round, what nodes are told of the gateways.

use std::sync::Arc;
use std::time::Duration;

use bugle_scheduler::placement::{Health, NodeId};
use bugle_types::report;
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::{PAUSE, Shared};
use crate::link::{CLOSE, GATEWAYS, Link, OPEN};
use crate::members::{Error, Member};

/// How long nodes have to come to a gateway that is new, before functions start instances as if they
/// had none.
const GATHERING: Duration = Duration::from_millis(800);

/// How often it is looked whether they have come.
const LOOK: Duration = Duration::from_millis(20);

/// How long a node may take to say whether it can be closed.
const ANSWER: Duration = Duration::from_secs(2);

/// How often all that is kept of nodes is looked through, beside the changes.
const LOOK_THROUGH: Duration = Duration::from_secs(30);

/// Never.
pub(super) enum Never {}

/// What is kept of a node cannot be read.
pub(super) struct Unreadable;

impl Shared {
    /// Has a node drained, or not any more.
    pub(super) fn set_draining(&self, node: &NodeId, draining: bool) {
        let Some(link) = self.links.lock().get(node).cloned() else {
            return;
        };
        // One that is about to end is drained whatever an operator says.
        let draining = draining || link.is_ending();
        if link.is_draining() == draining {
            return;
        }
        let health = if draining {
            Health::Draining
        } else {
            Health::Live
        };
        // First no new ones, then the old ones away.
        self.fleet.set_health(node, health);
        link.drain(draining);
    }

    /// Has a node take nothing more, whoever wants something there, if nobody has anything. False also for one that
    /// does not answer.
    pub(super) async fn close(&self, node: &NodeId) -> bool {
        let Some(link) = self.links.lock().get(node).cloned() else {
            return false;
        };
        // No gateway places anything there while the node is asked, if it is this one.
        if !self.fleet.retire(node) {
            return false;
        }
        let asked = timeout(ANSWER, link.ask_small(CLOSE, Bytes::new())).await;
        let closed = matches!(&asked, Ok(Ok(answer)) if **answer == [1]);
        if !closed {
            self.fleet.open(node);
        }
        if asked.is_err() {
            // It may have done it.
            link.post(OPEN, Bytes::new());
        }
        closed
    }

    /// Has a node take instances again.
    pub(super) async fn open(&self, node: &NodeId) {
        let link = self.links.lock().get(node).cloned();
        if let Some(link) = link {
            // One that does not answer is about to be lost, and opens by itself.
            _ = timeout(ANSWER, link.ask_small(OPEN, Bytes::new())).await;
        }
    }

    /// Breaks the connection to a node off.
    pub(super) fn cut_off(&self, node: &NodeId) {
        if let Some(link) = self.links.lock().get(node) {
            link.lost().cancel();
        }
    }

    /// Does what an operator has decided about a node: none is kept of one that was removed.
    pub(super) fn heed(&self, node: &NodeId, decided: Result<Option<Member>, Unreadable>) {
        match decided {
            Ok(Some(member)) => self.set_draining(node, member.draining),
            Ok(None) => self.cut_off(node),
            // What was decided last holds until it can be read again.
            Err(Unreadable) => {}
        }
    }

    /// Does what operators decide about nodes, at whichever gateway.
    pub(super) async fn follow_members(self: Arc<Self>) -> Never {
        loop {
            if let Err(error) = self.follow_once().await {
                let reason = report(&error);
                tracing::warn!(reason, "what is kept of nodes cannot be followed");
                sleep(PAUSE).await;
            }
        }
    }

    /// Follows until the watch ends or everything is to be looked through again.
    async fn follow_once(&self) -> Result<(), Error> {
        let mut watch = self.members.watch().await?;
        let again = Instant::now() + LOOK_THROUGH;
        loop {
            let members = self.members.list().await?;
            let connected: Vec<NodeId> = self.links.lock().keys().cloned().collect();
            for node in connected {
                let found = members.iter().find(|(known, _)| *known == node);
                let decided = found.map(|(_, member)| member.clone().ok_or(Unreadable));
                self.heed(&node, decided.transpose());
            }
            match tokio::time::timeout_at(again, watch.next()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Looks after functions that have become this gateway's.
    pub(super) async fn follow_gateways(self: Arc<Self>) -> Never {
        let Some(gateways) = &self.gateways else {
            return std::future::pending().await;
        };
        let mut changes = gateways.changes.clone();
        let mut me = None;
        loop {
            let roster = (gateways.now)();
            if roster.me != me {
                me = roster.me;
                self.gathered.send_replace(false);
                if me.is_some() {
                    self.tasks.spawn(Arc::clone(&self).gather());
                }
            }
            self.look_after_orphans();
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits for the nodes that may have something for this gateway.
    async fn gather(self: Arc<Self>) {
        let all_are_here = async {
            while let Ok(members) = self.members.list().await {
                let links = self.links.lock().len();
                let readable = members.iter().filter(|(_, member)| member.is_some());
                if readable.count() <= links {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        _ = timeout(GATHERING, all_are_here).await;
        self.gathered.send_replace(true);
    }

    /// Tells a node who the gateways are, at once and whenever that changes.
    pub(super) async fn introduce_gateways(&self, link: &Arc<Link>) -> Never {
        let Some(gateways) = &self.gateways else {
            return std::future::pending().await;
        };
        let mut changes = gateways.changes.clone();
        link.introduced().await;
        loop {
            changes.mark_unchanged();
            let roster = (gateways.now)();
            // The shape has no keys that are not text.
            let roster = serde_json::to_vec(&roster).unwrap_or_default();
            if let Err(error) = link.ask_small(GATEWAYS, roster.into()).await {
                tracing::debug!(%error, node = %link.node, "a node was not told of the gateways");
                link.lost().cancelled().await;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
