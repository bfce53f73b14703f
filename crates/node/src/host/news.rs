//! What a node tells its gateways, and the one lock under which ownership changes and is told.
//!
//! Both are one, so that every link hears of an instance in the order in which things happened to it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bugle_instances::{Exit, ExitCause, Instance, InstanceId, LogLine, LogSink};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::ledger::{Ledger, LinkId};
use crate::parts::{Kind, json_part};
use crate::wire::{Ended, Found, Gone, Line, Roster, StartOrder, Told};

/// News that wait for one connection; lines of logs beyond half of that are dropped.
pub(super) const NEWS: usize = 4096;

/// Where news go. It is also where functions write their logs.
pub struct News {
    desk: Mutex<Desk>,
    /// Counts changes of what is taken of the node.
    pub(super) changed: watch::Sender<u64>,
    /// Where the gateways are, as one of them said last; empty until then.
    pub(crate) addresses: watch::Sender<Vec<String>>,
}

impl Default for News {
    fn default() -> Self {
        Self {
            desk: Mutex::default(),
            changed: watch::Sender::new(0),
            addresses: watch::Sender::new(Vec::new()),
        }
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News").finish_non_exhaustive()
    }
}

/// One instance.
pub(super) struct Hosted {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) order: StartOrder,
}

/// A link whose gateway hears the news.
struct Ear {
    sender: mpsc::Sender<Bytes>,
    /// Which member of the gateways that is, where there are several.
    member: Option<String>,
}

/// What is behind the lock.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) ledger: Ledger,
    pub(super) hosted: HashMap<InstanceId, Arc<Hosted>>,
    ears: BTreeMap<LinkId, Ear>,
    next: u64,
    /// Of the gateways that were heard of last.
    revision: u64,
}

impl News {
    /// Does something with everything else standing still; it may not wait.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T {
        let done = act(&mut self.desk.lock());
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
        done
    }

    /// The same where nothing is changed that gateways are to be told.
    pub(super) fn quietly<T>(&self, act: impl FnOnce(&mut Desk) -> T) -> T {
        act(&mut self.desk.lock())
    }

    /// A gateway has said who they are. `link` is how it is reached.
    pub(super) fn hear(&self, link: LinkId, roster: &Roster) {
        let is_newest = self.with(|desk| desk.hear(link, roster));
        if is_newest {
            // Not every gateway takes nodes.
            let gateways = roster.gateways.iter().filter(|one| !one.address.is_empty());
            let addresses: Vec<String> = gateways.map(|one| one.address.clone()).collect();
            self.addresses.send_if_modified(|known| {
                let changed = *known != addresses;
                *known = addresses;
                changed
            });
        }
    }
}

impl Desk {
    /// A name for a new connection.
    pub(super) fn number(&mut self) -> LinkId {
        self.next += 1;
        LinkId(self.next)
    }

    /// Whether any gateway hears the news.
    pub(super) fn is_heard(&self) -> bool {
        !self.ears.is_empty()
    }

    /// A gateway listens. What it must know first: the orphans there are.
    pub(super) fn attach(&mut self, link: LinkId, sender: mpsc::Sender<Bytes>) -> Vec<Bytes> {
        self.ears.insert(
            link,
            Ear {
                sender,
                member: None,
            },
        );
        let orphans = self.ledger.orphans();
        orphans
            .into_iter()
            .filter_map(|id| self.found(id))
            .collect()
    }

    /// Tells a gateway something that it must know. A connection that cannot take it is given up: with
    /// the next one the gateway learns everything anew.
    pub(super) fn tell(&mut self, link: LinkId, news: Bytes) {
        let told = self
            .ears
            .get(&link)
            .is_some_and(|ear| ear.sender.try_send(news).is_ok());
        if !told {
            self.ears.remove(&link);
        }
    }

    /// Tells all gateways, or all but one.
    pub(super) fn tell_all(&mut self, news: &Bytes, except: Option<LinkId>) {
        let links: Vec<LinkId> = self.ears.keys().copied().collect();
        for link in links {
            if Some(link) != except {
                self.tell(link, news.clone());
            }
        }
    }

    /// Nobody hears anything any more.
    pub(super) fn detach_all(&mut self) {
        self.ears.clear();
    }

    fn found(&self, id: InstanceId) -> Option<Bytes> {
        let busy = self.ledger.busy_orphan(id)?;
        let hosted = self.hosted.get(&id)?;
        let found = Found {
            order: hosted.order.clone(),
            pid: hosted.instance.pid(),
            busy,
        };
        Some(json_part(Kind::Found, &found))
    }

    /// Tells all gateways of an orphan, that it is one or that its calls have ended.
    pub(super) fn offer(&mut self, id: InstanceId) {
        if let Some(found) = self.found(id) {
            self.tell_all(&found, None);
        }
    }

    /// An orphan is none any more, which all gateways are told but the one that has it now.
    pub(super) fn withdraw(&mut self, order: &StartOrder, except: Option<LinkId>) {
        let gone = Gone {
            function: order.spec.id.clone(),
            id: order.id,
        };
        self.tell_all(&json_part(Kind::Gone, &gone), except);
    }

    /// A connection has ended. What it had, and how many calls each runs.
    pub(super) fn disconnect(&mut self, link: LinkId) -> Vec<(InstanceId, usize)> {
        self.ears.remove(&link);
        let lost = self.ledger.lose(link, Instant::now());
        for (id, _) in &lost {
            self.offer(*id);
        }
        lost
    }

    /// The gateway behind a connection has lost its rights, although the connection is well.
    fn disown(&mut self, link: LinkId) {
        for (id, _) in self.ledger.lose(link, Instant::now()) {
            let exit = Exit {
                cause: ExitCause::Stopped,
                peak_memory: 0,
            };
            self.tell(link, json_part(Kind::Exit, &Ended { id, exit }));
            self.offer(id);
        }
    }

    /// Whether the roster is the newest one.
    fn hear(&mut self, link: LinkId, roster: &Roster) -> bool {
        let alone = self.ears.len() == 1;
        let Some(ear) = self.ears.get_mut(&link) else {
            return false;
        };
        let before = std::mem::replace(&mut ear.member, roster.me.clone());
        if before.is_some() && before != roster.me {
            self.disown(link);
        }
        // Who knows less than another one takes nothing away from it.
        let is_newest = roster.revision >= self.revision || alone;
        if is_newest {
            self.revision = roster.revision;
            for link in self.without_rights(roster) {
                self.disown(link);
            }
        }
        let told = Told {
            revision: roster.revision,
        };
        self.tell(link, json_part(Kind::Told, &told));
        is_newest
    }

    /// Links of gateways that are no members any more.
    fn without_rights(&self, roster: &Roster) -> Vec<LinkId> {
        let is_member = |id: &String| roster.gateways.iter().any(|one| one.id == *id);
        let gone = self.ears.iter().filter(|(_, ear)| {
            let member = ear.member.as_ref();
            member.is_some_and(|id| !is_member(id))
        });
        gone.map(|(link, _)| *link).collect()
    }
}

impl LogSink for News {
    fn line(&self, line: LogLine) {
        self.quietly(|desk| {
            let owner = desk.ledger.owner(line.instance);
            let ear = owner.and_then(|link| desk.ears.get(&link));
            // An orphan's lines go to whoever listens.
            let Some(ear) = ear.or_else(|| desk.ears.values().next()) else {
                return;
            };
            if ear.sender.capacity() > NEWS / 2 {
                let line = Line {
                    function: (*line.function).clone(),
                    instance: line.instance,
                    request: line.request.map(|request| request.to_string()),
                    stream: line.stream,
                    text: line.text,
                };
                // It was just seen that there is room.
                _ = ear.sender.try_send(json_part(Kind::Log, &line));
            }
        });
    }
}
