//! P1–P4 and the back end's side, over a store in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_api::ResourceAmounts;
use bugle_store::MemoryStore;
use bugle_types::pool::PoolState;

use super::*;
use crate::{Error as ReportError, Reported};

fn request(id: &str, group: &str) -> PoolRequest {
    let amounts = Some(BTreeMap::from([("cpu".to_owned(), "1".to_owned())]));
    PoolRequest {
        id: id.to_owned(),
        group: group.to_owned(),
        size: 1,
        resources: ResourceAmounts {
            limits: amounts.clone(),
            requests: amounts,
        },
        ..PoolRequest::default()
    }
}

fn which(id: &str, group: &str) -> PoolSelection {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    PoolSelection {
        id: some(id),
        group: some(group),
    }
}

async fn listed(pools: &Pools, which: PoolSelection) -> Vec<String> {
    let query = PoolQuery {
        which,
        window: Some((0, 100)),
    };
    let list = pools.pools(query).await.unwrap();
    let found = list.pools.unwrap();
    assert_eq!(list.count, found.len());
    found.into_iter().map(|pool| pool.id).collect()
}

async fn some_pools() -> Pools {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let made = [request("a", "g"), request("b", "g"), request("c", "h")];
    assert_eq!(pools.create_pools(made.into()).await.unwrap(), []);
    pools
}

async fn revision(pools: &Pools, id: &str) -> u64 {
    let key = record::key(&id.parse().unwrap());
    pools.store.get(&key).await.unwrap().unwrap().mod_revision.0
}

fn running(ready_count: u32) -> PoolState {
    PoolState {
        status: PoolStatus::Running,
        msg: "Running".to_owned(),
        ready_count,
    }
}

#[tokio::test]
async fn each_pool_is_stored_by_itself_and_the_first_of_a_name_wins() {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let made = [request("a", ""), request("B", ""), request("a", "x")];
    let failed = pools.create_pools(made.into()).await.unwrap();
    let ids: Vec<_> = failed.iter().map(|pool| pool.id.as_str()).collect();
    assert_eq!(ids, ["B", "a"]);
    assert_eq!(
        failed[1].message,
        "failed to create pod pool, id: a,err: pool id already exists or is deleting"
    );
    assert_eq!(listed(&pools, which("", "default")).await, ["a"]);
}

#[tokio::test]
async fn pools_are_listed_by_id_and_group_and_the_last_changed_comes_first() {
    let pools = some_pools().await;
    assert_eq!(listed(&pools, which("", "")).await, ["c", "b", "a"]);
    assert_eq!(listed(&pools, which("", "g")).await, ["b", "a"]);
    assert_eq!(listed(&pools, which("a", "h")).await, [""; 0]);
    assert_eq!(listed(&pools, which("A b", "")).await, [""; 0]);
    let revision = revision(&pools, "a").await;
    pools
        .report(&"a".parse().unwrap(), revision, running(1))
        .await
        .unwrap();
    assert_eq!(listed(&pools, which("", "")).await, ["a", "c", "b"]);
    let page = |window| PoolQuery {
        which: which("", ""),
        window,
    };
    let list = pools.pools(page(Some((2, 2)))).await.unwrap();
    assert_eq!((list.count, list.pools.unwrap().len()), (3, 1));
    let list = pools.pools(page(Some((4, 2)))).await.unwrap();
    assert_eq!((list.count, list.pools.unwrap().len()), (3, 0));
    assert_eq!(pools.pools(page(None)).await.unwrap(), PoolList::default());
}

#[tokio::test]
async fn a_pool_is_deleted_when_its_back_end_says_so() {
    let pools = some_pools().await;
    let missing = pools.delete_pools(which("x", "")).await.unwrap_err();
    assert_eq!(missing, Error::pool_not_found());
    pools.delete_pools(which("", "g")).await.unwrap();
    pools.delete_pools(which("a", "g")).await.unwrap();
    let again = pools.create_pools(vec![request("a", "")]).await.unwrap();
    assert_eq!(again.len(), 1, "the name is free when the record is gone");
    let id = "a".parse().unwrap();
    let revision = revision(&pools, "a").await;
    assert!(matches!(
        pools.report(&id, revision, running(0)).await,
        Err(ReportError::Impossible { .. })
    ));
    assert!(!pools.remove(&id, revision + 1).await.unwrap());
    assert!(pools.remove(&id, revision).await.unwrap());
    assert_eq!(
        pools.create_pools(vec![request("a", "")]).await.unwrap(),
        []
    );
    let kept = "c".parse().unwrap();
    let revision = self::revision(&pools, "c").await;
    assert!(
        !pools.remove(&kept, revision).await.unwrap(),
        "nobody asked for it"
    );
}

#[tokio::test]
async fn a_report_never_overwrites_what_a_user_asked_for() {
    let pools = some_pools().await;
    let id = "a".parse().unwrap();
    let before = revision(&pools, "a").await;
    let Reported::Written(after) = pools.report(&id, before, running(1)).await.unwrap() else {
        panic!("the report is news");
    };
    assert_eq!(
        pools.report(&id, after, running(1)).await.unwrap(),
        Reported::Unchanged
    );
    let change = UpdatePoolRequest {
        size: Some(3),
        ..UpdatePoolRequest::default()
    };
    pools.update_pool("a", change).await.unwrap();
    assert_eq!(
        pools.report(&id, after, running(2)).await.unwrap(),
        Reported::Outdated
    );
    let page = PoolQuery {
        which: which("a", ""),
        window: Some((0, 1)),
    };
    let shown = pools.pools(page).await.unwrap().pools.unwrap().remove(0);
    assert_eq!((shown.size, shown.status, shown.ready_count), (3, 2, 1));
}

#[tokio::test]
async fn what_is_ignored_stays_in_the_message() {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let odd = PoolRequest {
        volumes: "{nope".to_owned(),
        ..request("a", "")
    };
    assert_eq!(pools.create_pools(vec![odd]).await.unwrap(), []);
    let message = async || {
        let page = PoolQuery {
            which: which("a", ""),
            window: Some((0, 1)),
        };
        pools
            .pools(page)
            .await
            .unwrap()
            .pools
            .unwrap()
            .remove(0)
            .msg
    };
    assert!(message().await.starts_with("ignored: volumes: "));
    let revision = revision(&pools, "a").await;
    pools
        .report(&"a".parse().unwrap(), revision, running(1))
        .await
        .unwrap();
    assert!(message().await.starts_with("Running; ignored: volumes: "));
}

#[tokio::test]
async fn a_watch_shows_how_things_are_and_passes_over_what_is_no_pool() {
    let pools = some_pools().await;
    let junk = Txn {
        when: Vec::new(),
        then: vec![
            Op::Put("/yr/podpools/info/junk".into(), "{".into()),
            Op::Put("/yr/podpools/info/odd".into(), r#"{"id":"other"}"#.into()),
        ],
    };
    assert!(pools.store.txn(junk).await.unwrap().succeeded);
    let mut watch = pools.watch();
    let names = |pools: &BTreeMap<PoolId, _>| -> Vec<String> {
        pools.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names(watch.next().await.unwrap()), ["a", "b", "c"]);
    pools.delete_pools(which("b", "")).await.unwrap();
    let seen = watch.next().await.unwrap();
    let deleting = &seen[&"b".parse::<PoolId>().unwrap()];
    assert_eq!(deleting.state.status, PoolStatus::PendingDeletion);
    let (id, revision) = (deleting.spec.id.clone(), deleting.revision);
    assert!(pools.remove(&id, revision).await.unwrap());
    assert_eq!(names(watch.next().await.unwrap()), ["a", "c"]);
}

/// Writes a record as somebody else does.
async fn write(pools: &Pools, name: &str, value: &str) {
    let txn = Txn {
        when: Vec::new(),
        then: vec![Op::Put(record::key_of(name), value.to_owned().into())],
    };
    assert!(pools.store.txn(txn).await.unwrap().succeeded);
}

async fn all(pools: &Pools) -> Vec<PoolInfo> {
    let page = PoolQuery {
        which: which("", ""),
        window: Some((0, 1000)),
    };
    pools.pools(page).await.unwrap().pools.unwrap()
}

#[tokio::test]
async fn large_groups_are_deleted_in_parts_that_a_store_takes() {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let long = |id: usize| PoolRequest {
        environment: Some([("A".to_owned(), "x".repeat(20_000))].into()),
        ..request(&format!("p{id}"), "g")
    };
    let made = (0..150).map(long).collect();
    assert_eq!(pools.create_pools(made).await.unwrap(), []);
    pools.delete_pools(which("", "g")).await.unwrap();
    let found = all(&pools).await;
    assert_eq!(found.len(), 150);
    assert!(found.iter().all(|pool| pool.status == 6));
}

#[test]
fn no_deletion_has_more_than_an_etcd_takes() {
    let found = |count: usize, bytes: usize| {
        let one = |id: usize| {
            let mut pool = PoolInfo::from(request(&format!("p{id}"), "g"));
            pool.image = "x".repeat(bytes);
            let item = KeyValue {
                key: record::key_of(&pool.id),
                value: record::value(&pool),
                create_revision: Revision(1),
                mod_revision: Revision(1),
                version: 1,
            };
            (item, pool)
        };
        (0..count).map(one).collect()
    };
    for (count, bytes, parts) in [(64, 0, 1), (65, 0, 2), (150, 20_000, 6), (2, 600_000, 2)] {
        let txns = deletions(found(count, bytes));
        assert_eq!(txns.len(), parts, "{count} records of {bytes} bytes");
        assert_eq!(txns.iter().map(|txn| txn.then.len()).sum::<usize>(), count);
        assert!(txns.iter().all(|txn| txn.when.len() == txn.then.len()));
    }
}

#[tokio::test]
async fn a_record_that_breaks_the_rules_says_so_and_can_be_deleted() {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let bad =
        r#"{"id":"a","group":"g","size":1,"max_size":1,"resources":{"requests":{"cpu":"1"}}}"#;
    write(&pools, "a", bad).await;
    write(&pools, "junk", "{").await;
    write(&pools, "Not A Name", "[]").await;
    write(&pools, "moved", r#"{"id":"other","group":"g"}"#).await;
    let mut watch = pools.watch();
    assert!(watch.next().await.unwrap().is_empty());
    let next = tokio::time::timeout(std::time::Duration::from_secs(20), watch.next());
    assert!(next.await.unwrap().unwrap().is_empty(), "its own word");
    let mut shown = all(&pools).await;
    shown.sort_by(|one, other| one.id.cmp(&other.id));
    let shown: Vec<_> = shown
        .iter()
        .map(|pool| (pool.id.as_str(), pool.status, pool.msg.as_str()))
        .collect();
    assert_eq!(shown[1], ("a", 5, "resources.limits must be set"));
    assert_eq!((shown[0].0, shown[0].1), ("Not A Name", 5));
    assert!(shown[2].2.contains("is no pool"), "{shown:?}");
    assert!(shown[3].2.contains("that of a pool \"other\""), "{shown:?}");
    for id in ["junk", "Not A Name", "moved"] {
        pools.delete_pools(which(id, "")).await.unwrap();
    }
    pools.delete_pools(which("", "g")).await.unwrap();
    while !all(&pools).await.is_empty() {
        watch.next().await.unwrap();
    }
    assert_eq!(
        pools.create_pools(vec![request("a", "")]).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn a_record_under_a_name_that_no_pool_can_have_is_judged_while_it_is_followed() {
    let pools = Pools::new(Arc::new(MemoryStore::new()));
    let mut watch = pools.watch();
    assert!(watch.next().await.unwrap().is_empty());
    write(&pools, "one/two", r#"{"id":"one/two","group":"g"}"#).await;
    let judged = async {
        while all(&pools).await[0].status != 5 {
            watch.next().await.unwrap();
        }
        pools.delete_pools(which("one/two", "")).await.unwrap();
        while !all(&pools).await.is_empty() {
            watch.next().await.unwrap();
        }
    };
    let bound = std::time::Duration::from_secs(20);
    tokio::time::timeout(bound, judged).await.unwrap();
}

#[tokio::test]
async fn what_the_store_says_is_told() {
    let store = Arc::new(MemoryStore::new());
    let pools = Pools::new(Arc::clone(&store) as _);
    let huge = PoolRequest {
        tolerations: format!("[{}]", " ".repeat(2_000_000)),
        ..request("a", "")
    };
    let failed = pools.create_pools(vec![huge]).await.unwrap();
    assert!(failed[0].message.contains("bytes, more than"), "{failed:?}");
    let unsure = bugle_store::EtcdFailure::Unsure {
        reason: "the connection broke".to_owned(),
    };
    let told = unwritable(unsure.into());
    assert_eq!(told.code, Code::TransactionFailed);
    assert!(
        told.message.contains("did not confirm the write"),
        "{told:?}"
    );
}
