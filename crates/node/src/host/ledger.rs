//! Who may use which instance of a node, and what of the node is taken. No I/O.
//!
//! Several gateways start instances on one node, each over a link of its own. An instance belongs to
//! one link, and only that one may call it, end it or let it go. Without one it is an *orphan*: any link
//! may take it once it runs no call, and the first that asks has it. What the node has is counted here,
//! whoever ordered it, so that links together never get more than there is.

use std::collections::HashMap;

use bugle_instances::InstanceId;
use bugle_scheduler::placement::{
    Capacity, Health, NodeId, NodeView, Others, Placement, PoolRule, Request,
};
use bugle_types::pool::PoolChoice;
use bugle_types::{Resources, TenantId};
use tokio::time::Instant;

/// One connection to a gateway, numbered in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Why an instance does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// An instance, from its order to its end.
#[derive(Debug)]
struct Entry {
    owner: Option<LinkId>,
    tenant: TenantId,
    cpu: u64,
    memory: u64,
    /// Whether it takes calls.
    is_up: bool,
    running: usize,
    /// Since when it has had no owner.
    orphan: Option<Instant>,
}

/// What is on a node, and whose it is.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The node as its own only node: what fits and which devices are taken is decided as by those who
    /// place.
    room: Placement,
    entries: HashMap<InstanceId, Entry>,
    /// Until when nothing more is taken, because a gateway wants the node to go.
    closed: Option<Instant>,
}

/// The name of the node to itself.
fn here() -> Option<NodeId> {
    "here".parse().ok()
}

impl Ledger {
    /// Says what the node has.
    pub(crate) fn open(&mut self, capacity: Capacity) {
        let Some(id) = here() else { return };
        self.room.join(NodeView {
            id,
            capacity,
            labels: std::collections::BTreeMap::new(),
            pool: None,
            group: None,
            health: Health::Live,
        });
    }

    /// Takes room for an instance that a link has ordered; `alone` if its tenant shares the node with
    /// no other.
    pub(crate) fn reserve(
        &mut self,
        link: LinkId,
        id: InstanceId,
        (tenant, resources): (&TenantId, &Resources),
        alone: bool,
    ) -> Result<(), Full> {
        let mut others = self.entries.values();
        if self.is_closed()
            || self.entries.contains_key(&id)
            || alone && others.any(|entry| entry.tenant != *tenant)
        {
            return Err(Full);
        }
        let placed = self.room.place(&Request {
            instance: id,
            tenant,
            resources,
            choice: &PoolChoice::default(),
            pool: PoolRule::First,
        });
        placed.map_err(|_| Full)?;
        let entry = Entry {
            owner: Some(link),
            tenant: tenant.clone(),
            cpu: u64::from(resources.cpu.0),
            memory: resources.memory.0,
            is_up: false,
            running: 0,
            orphan: None,
        };
        self.entries.insert(id, entry);
        Ok(())
    }

    /// Takes nothing more until then, if there is nothing here; whether there is not.
    pub(crate) fn close(&mut self, until: Instant) -> bool {
        let empty = self.entries.is_empty();
        if empty {
            self.closed = Some(until);
        }
        empty
    }

    /// Takes something again.
    pub(crate) fn reopen(&mut self) {
        self.closed = None;
    }

    /// Whether nothing is taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether it was to go and is there still.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.closed.is_some_and(|until| until <= now)
    }

    /// It takes calls from now on. False if its link was lost meanwhile: then nobody has heard of it.
    pub(crate) fn up(&mut self, id: InstanceId) -> bool {
        let entry = self.entries.get_mut(&id);
        entry.is_some_and(|entry| {
            entry.is_up = true;
            entry.owner.is_some()
        })
    }

    /// It is gone, or never came up. Whose it was: none for an orphan.
    pub(crate) fn gone(&mut self, id: InstanceId) -> Option<LinkId> {
        self.room.release(id);
        self.entries.remove(&id)?.owner
    }

    /// Whose it is.
    pub(crate) fn owner(&self, id: InstanceId) -> Option<LinkId> {
        self.entries.get(&id)?.owner
    }

    /// Whether an instance is a link's.
    pub(crate) fn is_of(&self, id: InstanceId, link: LinkId) -> bool {
        self.owner(id) == Some(link)
    }

    /// Gives an idle orphan to a link; false if it is none.
    pub(crate) fn take(&mut self, link: LinkId, id: InstanceId) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        let is_free = entry.owner.is_none() && entry.is_up && entry.running == 0;
        if is_free {
            entry.owner = Some(link);
            entry.orphan = None;
        }
        is_free
    }

    /// Its link wants it no more; false if it was not that one's.
    pub(crate) fn let_go(&mut self, link: LinkId, id: InstanceId, now: Instant) -> bool {
        let entry = self.entries.get_mut(&id);
        let Some(entry) = entry.filter(|entry| entry.owner == Some(link)) else {
            return false;
        };
        entry.owner = None;
        entry.orphan = Some(now);
        true
    }

    /// A link is gone, or its gateway has no right to anything any more: what it had are orphans. Those
    /// that are up, and how many calls each runs.
    pub(crate) fn lose(&mut self, link: LinkId, now: Instant) -> Vec<(InstanceId, usize)> {
        let mut lost = Vec::new();
        for (id, entry) in &mut self.entries {
            if entry.owner == Some(link) {
                entry.owner = None;
                entry.orphan = Some(now);
                if entry.is_up {
                    lost.push((*id, entry.running));
                }
            }
        }
        lost
    }

    /// Counts a call that a link sends to an instance; false if that is not its own.
    pub(crate) fn begin(&mut self, link: LinkId, id: InstanceId) -> bool {
        let entry = self.entries.get_mut(&id);
        let own = entry.filter(|entry| entry.owner == Some(link) && entry.is_up);
        own.map(|entry| entry.running += 1).is_some()
    }

    /// A call has ended. Whether it was the last one of an orphan, which is free from now on.
    pub(crate) fn end(&mut self, id: InstanceId) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        entry.running = entry.running.saturating_sub(1);
        entry.owner.is_none() && entry.running == 0
    }

    /// Whether an orphan runs a call; none if it is no orphan.
    pub(crate) fn busy_orphan(&self, id: InstanceId) -> Option<bool> {
        let entry = self.entries.get(&id)?;
        (entry.owner.is_none() && entry.is_up).then_some(entry.running > 0)
    }

    /// The orphans.
    pub(crate) fn orphans(&self) -> Vec<InstanceId> {
        let orphan = |entry: &Entry| entry.owner.is_none() && entry.is_up;
        let orphans = self.entries.iter().filter(|(_, entry)| orphan(entry));
        orphans.map(|(id, _)| *id).collect()
    }

    /// Those that have been orphans since before `since`.
    pub(crate) fn orphans_before(&self, since: Instant) -> Vec<InstanceId> {
        let old = |entry: &Entry| entry.is_up && entry.orphan.is_some_and(|at| at < since);
        let old = self.entries.iter().filter(|(_, entry)| old(entry));
        old.map(|(id, _)| *id).collect()
    }

    /// What others than this link have.
    pub(crate) fn others(&self, link: LinkId) -> Others {
        let mut others = Others::default();
        let of_others = self.entries.iter().filter(|(_, e)| e.owner != Some(link));
        for (id, entry) in of_others {
            others.instances += 1;
            others.cpu += entry.cpu;
            others.memory += entry.memory;
            for (name, amount) in self.room.devices_of(*id) {
                *others.custom.entry(name.clone()).or_default() += amount;
            }
            others.tenants.insert(entry.tenant.clone());
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use bugle_types::{CpuMillis, MemoryMib};

    use super::*;

    const ONE: LinkId = LinkId(1);
    const TWO: LinkId = LinkId(2);

    fn ledger(cpu: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.open(Capacity {
            cpu,
            memory: 8192,
            custom: [("GPU/A100/count".to_owned(), 2000)].into(),
        });
        ledger
    }

    fn core(custom: &[(&str, i64)]) -> Resources {
        Resources {
            cpu: CpuMillis(1000),
            memory: MemoryMib(128),
            custom: custom.iter().map(|(n, a)| ((*n).to_owned(), *a)).collect(),
        }
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn start(ledger: &mut Ledger, link: LinkId, id: u128) -> Result<(), Full> {
        ledger.reserve(link, InstanceId(id), (&tenant("t"), &core(&[])), false)?;
        assert!(ledger.up(InstanceId(id)));
        Ok(())
    }

    #[test]
    fn links_together_get_no_more_than_there_is() {
        let mut ledger = ledger(2000);
        start(&mut ledger, ONE, 1).unwrap();
        start(&mut ledger, TWO, 2).unwrap();
        assert_eq!(start(&mut ledger, ONE, 3), Err(Full));
        assert_eq!(
            (ledger.others(ONE).cpu, ledger.others(ONE).instances),
            (1000, 1)
        );
        assert_eq!(ledger.gone(InstanceId(2)), Some(TWO));
        start(&mut ledger, ONE, 3).unwrap();
        assert_eq!(ledger.others(ONE), Others::default());
    }

    #[test]
    fn devices_are_counted_by_the_names_of_the_node() {
        let mut ledger = ledger(8000);
        let wanted = core(&[("GPU/.+/count", 2000)]);
        let who = tenant("t");
        let order = (&who, &wanted);
        ledger.reserve(ONE, InstanceId(1), order, false).unwrap();
        assert_eq!(ledger.reserve(TWO, InstanceId(2), order, false), Err(Full));
        assert_eq!(ledger.others(TWO).custom["GPU/A100/count"], 2000);
    }

    #[test]
    fn a_tenant_that_is_alone_meets_nobody() {
        let mut ledger = ledger(8000);
        start(&mut ledger, ONE, 1).unwrap();
        let (other, small) = (tenant("other"), core(&[]));
        let order = (&other, &small);
        assert_eq!(ledger.reserve(TWO, InstanceId(2), order, true), Err(Full));
        ledger.reserve(TWO, InstanceId(2), order, false).unwrap();
    }

    #[test]
    fn a_node_is_closed_only_while_nobody_has_anything_there() {
        let mut ledger = ledger(8000);
        let now = Instant::now();
        let soon = now + std::time::Duration::from_secs(1);
        start(&mut ledger, ONE, 1).unwrap();
        assert!(!ledger.close(soon) && !ledger.is_closed());
        ledger.lose(ONE, now);
        assert!(!ledger.close(soon), "somebody may want the orphan");
        ledger.gone(InstanceId(1));
        assert!(ledger.close(soon) && ledger.is_closed());
        assert_eq!(start(&mut ledger, TWO, 2), Err(Full));
        assert!(!ledger.is_overdue(now) && ledger.is_overdue(soon));
        ledger.reopen();
        start(&mut ledger, TWO, 2).unwrap();
    }

    #[test]
    fn an_instance_is_its_owners_alone() {
        let mut ledger = ledger(8000);
        let id = InstanceId(1);
        start(&mut ledger, ONE, 1).unwrap();
        assert!(!ledger.begin(TWO, id) && !ledger.take(TWO, id));
        assert!(!ledger.let_go(TWO, id, Instant::now()));
        assert!(ledger.begin(ONE, id) && ledger.is_of(id, ONE));
    }

    #[test]
    fn of_those_who_want_an_orphan_one_gets_it_and_not_before_its_call_has_ended() {
        let mut ledger = ledger(8000);
        let id = InstanceId(1);
        start(&mut ledger, ONE, 1).unwrap();
        assert!(ledger.begin(ONE, id));
        assert_eq!(ledger.lose(ONE, Instant::now()), [(id, 1)]);
        assert_eq!(ledger.busy_orphan(id), Some(true));
        assert!(!ledger.take(TWO, id), "it runs a call");
        assert!(!ledger.begin(ONE, id), "it is not its own any more");
        assert!(ledger.end(id), "now it is free");
        assert!(ledger.take(TWO, id));
        assert!(!ledger.take(LinkId(3), id));
        assert_eq!(ledger.busy_orphan(id), None);
        assert!(ledger.begin(TWO, id));
        assert!(!ledger.end(id), "an end of its owner's call frees nothing");
    }

    #[test]
    fn what_comes_up_after_its_link_was_lost_is_nobodys() {
        let mut ledger = ledger(8000);
        let id = InstanceId(1);
        let (who, small) = (tenant("t"), core(&[]));
        ledger.reserve(ONE, id, (&who, &small), false).unwrap();
        assert!(ledger.lose(ONE, Instant::now()).is_empty());
        assert!(ledger.orphans().is_empty(), "it is not up");
        assert!(!ledger.up(id));
    }

    #[test]
    fn orphans_grow_old() {
        let mut ledger = ledger(8000);
        start(&mut ledger, ONE, 1).unwrap();
        let now = Instant::now();
        assert!(ledger.let_go(ONE, InstanceId(1), now));
        assert!(ledger.orphans_before(now).is_empty());
        let later = now + std::time::Duration::from_secs(1);
        assert_eq!(ledger.orphans_before(later), [InstanceId(1)]);
        assert!(ledger.take(TWO, InstanceId(1)));
        assert!(ledger.orphans_before(later).is_empty());
    }
}
