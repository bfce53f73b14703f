//! Requests at the same time: of those that contradict each other one wins, and the others are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_api::{Error, FunctionsApi as _, PublishRequest, ReservationsApi as _};
use bugle_store::SqliteStore;
use bugle_types::Code;
use serde_json::json;
use tokio::sync::Barrier;

use bugle_registry::{Config, Registry};

use super::{Desk, NAME, caller, label_body, request, reservation, small_with, versions};

const AT_ONCE: usize = 16;

/// Runs `each` as often at once, and counts the outcomes by code; 0 is success.
async fn at_once<F, T>(
    desk: &Desk,
    each: impl Fn(Arc<Registry>, usize) -> F,
) -> BTreeMap<u32, usize>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
    T: Send + 'static,
{
    let start = Arc::new(Barrier::new(AT_ONCE));
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|at| {
            let (start, run) = (Arc::clone(&start), each(Arc::clone(&desk.registry), at));
            tokio::spawn(async move {
                start.wait().await;
                run.await.map_or_else(|error| error.code.number(), |_| 0)
            })
        })
        .collect();
    let mut outcomes = BTreeMap::new();
    for task in tasks {
        *outcomes.entry(task.await.unwrap()).or_default() += 1;
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn updates_of_one_revision_have_one_winner_on_disk_too() {
    let folder = tempfile::tempdir().unwrap();
    let (config, metrics) = (
        bugle_store::Config::default(),
        bugle_store::Metrics::default(),
    );
    let store = SqliteStore::open(folder.path(), &config, metrics).unwrap();
    let desk = Desk::over(Arc::new(store), Config::default()).await;
    let mut revision = desk.registered(json!({})).await.revision_id;
    for round in 0..8 {
        let from = revision.clone();
        let outcomes = at_once(&desk, move |registry, at| {
            let fields = json!({"revisionId": from, "description": format!("round {round}, {at}")});
            let body = request(small_with(fields));
            async move { registry.update(&caller("default"), NAME, body).await }
        })
        .await;
        let expected = [(0, 1), (Code::RevisionIDError.number(), AT_ONCE - 1)];
        assert_eq!(outcomes, BTreeMap::from(expected), "round {round}");
        let next = desk.get(NAME, "").await.unwrap().revision_id;
        assert_ne!(next, revision);
        revision = next;
    }
}

fn version(revision: &str, at: usize) -> PublishRequest {
    PublishRequest {
        revision_id: Some(revision.to_owned()),
        version_number: Some(format!("v{at}")),
        version_desc: None,
        kind: Some("faas".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versions_published_at_once_stay_within_the_limit() {
    let desk = Desk::with(Config {
        max_versions: 3,
        ..Config::default()
    })
    .await;
    let revision = desk.registered(json!({})).await.revision_id;
    let outcomes = at_once(&desk, |registry, at| {
        let request = version(&revision, at);
        async move { registry.publish(&caller("default"), NAME, request).await }
    })
    .await;
    let published = versions(&desk).await.len() - 1;
    assert_eq!(outcomes.get(&0), Some(&published), "{outcomes:?}");
    assert!((1..=3).contains(&published), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn labels_set_at_once_stay_within_the_limit() {
    for _ in 0..32 {
        let config = Config {
            max_labels: 3,
            ..Config::default()
        };
        let desk = Desk::with(config).await;
        desk.registered(json!({})).await;
        let outcomes = at_once(&desk, |registry, at| {
            let body = label_body("latest", &format!("l{at}"));
            async move { registry.reserve(&caller("default"), body).await }
        })
        .await;
        let body = json!({"funcName": NAME, "version": "latest"});
        let found = desk
            .registry
            .reservations(&caller("default"), reservation(body))
            .await;
        let set = found.unwrap().total;
        assert_eq!(outcomes.get(&0), Some(&set), "{outcomes:?}");
        assert!((1..=3).contains(&set), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_does_not_contradict_itself_all_comes_through() {
    let config = Config {
        max_versions: AT_ONCE,
        ..Config::default()
    };
    let desk = Desk::with(config).await;
    let revision = desk.registered(json!({})).await.revision_id;
    let outcomes = at_once(&desk, |registry, at| {
        let request = version(&revision, at);
        async move { registry.publish(&caller("default"), NAME, request).await }
    })
    .await;
    assert_eq!(outcomes, BTreeMap::from([(0, AT_ONCE)]), "versions");
    let outcomes = at_once(&desk, |registry, at| {
        let body = label_body("latest", &format!("l{at}"));
        async move { registry.reserve(&caller("default"), body).await }
    })
    .await;
    assert_eq!(outcomes, BTreeMap::from([(0, AT_ONCE)]), "labels");
    let outcomes = at_once(&desk, |registry, at| {
        let body = small_with(json!({"name": format!("f{at}")}));
        async move { registry.register(&caller("default"), request(body)).await }
    })
    .await;
    assert_eq!(outcomes, BTreeMap::from([(0, AT_ONCE)]), "functions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_delete_at_the_same_time_leaves_all_or_nothing() {
    for _ in 0..16 {
        let desk = Desk::new().await;
        let revision = desk.registered(json!({})).await.revision_id;
        let outcomes = at_once(&desk, |registry, at| {
            let body = small_with(json!({"revisionId": revision}));
            let publish = PublishRequest {
                revision_id: Some(revision.clone()),
                version_number: Some(format!("v{at}")),
                version_desc: None,
                kind: Some("faas".to_owned()),
            };
            let label = label_body("latest", "l");
            async move {
                let caller = caller("default");
                match at % 4 {
                    0 => {
                        registry
                            .delete(&caller, NAME, bugle_api::DeleteQuery::default())
                            .await
                    }
                    1 => registry
                        .update(&caller, NAME, request(body))
                        .await
                        .map(drop),
                    2 => registry.publish(&caller, NAME, publish).await.map(drop),
                    _ => registry.reserve(&caller, label).await.map(drop),
                }
            }
        })
        .await;
        assert!(outcomes[&0] > 0, "{outcomes:?}");
        assert_eq!(desk.keys().await, [""; 0], "{outcomes:?}");
        assert_eq!(versions(&desk).await, [""; 0]);
    }
}
