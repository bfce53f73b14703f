//! The catalogue: what came, changed and went, and when other instances are needed.
//!
//! Most tests here bring every function into use; which are in use without that, and what happens
//! when loads and changes race, is in `loading.rs`.

use bugle_api::{DeleteQuery, FunctionsApi as _, ReservationsApi as _};
use bugle_types::{CodeLocation, Generation, Kind, Scale};
use serde_json::{Value, json};

use super::follower::Follower;
use super::{Desk, NAME, REVISION, reservation};

async fn reserve(desk: &Desk, label: &str, max: i64) {
    let body = json!({"funcName": NAME, "version": "latest", "instanceLabel": label,
        "instanceConfigInfos": [{"maxInstance": max}]});
    desk.registry
        .reserve(&desk.caller, reservation(body))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_first_batch_holds_everything_there_is() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    desk.published(["v1"]).await;
    desk.registered(json!({"name": "yr", "kind": "yrlib"}))
        .await;
    reserve(&desk, "l", 2).await;
    let mut follower = Follower::new(&desk);
    let mut events = follower.catch_up(&desk).await;
    events.sort();
    let expected = [
        format!("+default/{NAME}/latest [l]"),
        format!("+default/{NAME}/v1 []"),
        "+default/yr/latest []".to_owned(),
    ];
    assert_eq!(events, expected);
    let empty = Desk::new().await;
    assert_eq!(Follower::new(&empty).catch_up(&empty).await, [""; 0]);
}

#[tokio::test]
async fn each_kind_and_place_of_code_is_read() {
    for (fields, kind, code) in [
        (
            json!({"kind": "yrlib", "codePath": "/opt/code"}),
            Kind::Yrlib,
            CodeLocation::Local("/opt/code".into()),
        ),
        (
            json!({"kind": "agent", "codePath": "/opt/code"}),
            Kind::Agent,
            CodeLocation::Local("/opt/code".into()),
        ),
        (
            json!({"kind": "custom", "codePath": "/opt/code"}),
            Kind::Custom,
            CodeLocation::Local("/opt/code".into()),
        ),
        (
            json!({"kind": "posix-runtime-custom", "storageType": null, "codePath": null}),
            Kind::PosixRuntimeCustom,
            CodeLocation::None,
        ),
        (
            json!({"storageType": "s3", "s3CodePath": {"bucketId": "b", "objectId": "o",
                "bucketUrl": "u", "sha512": "s"}}),
            Kind::Faas,
            CodeLocation::S3 {
                bucket: "b".into(),
                object: "o".into(),
                endpoint: "u".into(),
                sha512: "s".into(),
            },
        ),
    ] {
        let desk = Desk::new().await;
        desk.registered(fields).await;
        let mut follower = Follower::new(&desk);
        follower.catch_up(&desk).await;
        let spec = follower.draft();
        assert_eq!((spec.kind, &spec.code), (kind, &code));
        assert_eq!(
            (spec.scale, spec.concurrency.get()),
            (Scale { min: 0, max: 100 }, 100)
        );
    }
}

#[tokio::test]
async fn bounds_are_followed_without_a_generation() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    follower.catch_up(&desk).await;
    reserve(&desk, "b", 2).await;
    reserve(&desk, "a", 3).await;
    let upsert = |labels: &str| format!("+default/{NAME}/latest [{labels}]");
    assert_eq!(follower.catch_up(&desk).await, [upsert("b"), upsert("a b")]);
    reserve(&desk, "b", 2).await;
    assert_eq!(follower.catch_up(&desk).await, [""; 0], "nothing changed");
    reserve(&desk, "b", 4).await;
    follower.catch_up(&desk).await;
    let labels: Vec<_> = follower
        .draft()
        .labels
        .iter()
        .map(|l| (l.label.as_str(), l.scale.max))
        .collect();
    assert_eq!(labels, [("a", 3), ("b", 4)]);
    let wider = json!({"timeout": 900, "maxInstance": "7"});
    desk.updated(wider).await.unwrap();
    assert_eq!(
        follower.catch_up(&desk).await,
        [upsert("a b")],
        "an update keeps them"
    );
    let all = reservation(json!({"funcName": NAME, "version": "latest"}));
    desk.registry
        .delete_reservation(&desk.caller, all)
        .await
        .unwrap();
    follower.catch_up(&desk).await;
    assert_eq!(follower.draft().labels, []);
    assert_eq!(follower.draft().generation, Generation(REVISION.into()));
}

#[tokio::test]
async fn what_is_deleted_is_removed_once() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    desk.published(["v1", "v2"]).await;
    reserve(&desk, "l", 1).await;
    let mut follower = Follower::new(&desk);
    follower.catch_up(&desk).await;
    desk.delete(NAME, "v1").await.unwrap();
    assert_eq!(
        follower.catch_up(&desk).await,
        [format!("-default/{NAME}/v1")]
    );
    desk.delete(NAME, "latest").await.unwrap();
    follower.catch_up(&desk).await;
    assert_eq!(follower.functions.len(), 0);
    // The labels went with it: the same name again starts without any.
    desk.registered(json!({})).await;
    assert_eq!(
        follower.catch_up(&desk).await,
        [format!("+default/{NAME}/latest []")]
    );
}

#[tokio::test]
async fn a_function_of_another_kind_takes_the_place() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    follower.catch_up(&desk).await;
    desk.delete(NAME, "latest").await.unwrap();
    desk.registered(json!({"kind": "yrlib"})).await;
    follower.catch_up(&desk).await;
    assert_eq!(follower.draft().kind, Kind::Yrlib);
}

#[tokio::test]
async fn who_fell_behind_reads_everything_again_and_misses_nothing() {
    let desk = Desk::new().await;
    for name in [NAME, "stays", "goes"] {
        desk.registered(json!({"name": name, "description": "d"}))
            .await;
    }
    reserve(&desk, "a", 1).await;
    reserve(&desk, "b", 1).await;
    let mut follower = Follower::new(&desk);
    follower.catch_up(&desk).await;
    desk.clock.step(1);
    let described = json!({"timeout": 900, "description": "e"});
    desk.updated(described).await.unwrap();
    follower.catch_up(&desk).await;
    assert_eq!(follower.draft().generation, Generation(REVISION.into()));

    let everything = DeleteQuery::default();
    let gone = desk.registry.delete(&desk.caller, "goes", everything).await;
    gone.unwrap();
    desk.registered(json!({"name": "came"})).await;
    let now = desk.store.revision().await.unwrap();
    desk.store.compact(now).await.unwrap();
    let events = follower.catch_up(&desk).await;
    let names: Vec<&str> = follower.functions.keys().map(String::as_str).collect();
    let draft = format!("default/{NAME}/latest");
    assert_eq!(
        names,
        [
            draft.as_str(),
            "default/came/latest",
            "default/stays/latest"
        ]
    );
    let of_draft: Vec<_> = events.iter().filter(|event| event.contains(NAME)).collect();
    assert_eq!(
        of_draft,
        [&format!("+{draft} [a b]")],
        "never with a part of its labels"
    );
    let kept = Generation(REVISION.into());
    assert_eq!(follower.draft().generation, kept, "its instances may stay");
    assert_eq!(follower.functions["default/stays/latest"].generation, kept);
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_passed_over() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let put = async |key: &str, value: Value| {
        let then = vec![bugle_store::Op::Put(
            key.to_owned().into(),
            value.to_string().into(),
        )];
        desk.store
            .txn(bugle_store::Txn {
                when: Vec::new(),
                then,
            })
            .await
            .unwrap();
    };
    put(
        "/sn/functions/business/yrk/tenant/default/function/bad/version/latest",
        json!({}),
    )
    .await;
    put(
        "/sn/functions/business/yrk/tenant/default/function/bad",
        json!({}),
    )
    .await;
    put("/yr/functions/x", json!(1)).await;
    let label = format!(
        "/instances/business/yrk/cluster/cluster001/tenant/default/function/{NAME}/version/latest/label/l"
    );
    put(&label, json!("no bounds")).await;
    let mut follower = Follower::new(&desk);
    assert_eq!(
        follower.catch_up(&desk).await,
        [format!("+default/{NAME}/latest []")]
    );
}

#[tokio::test]
async fn bounds_in_other_clusters_and_products_are_not_ours() {
    let config = bugle_registry::Config {
        clusters: vec!["c2".to_owned()],
        ..bugle_registry::Config::default()
    };
    let desk = Desk::with(config).await;
    desk.registered(json!({})).await;
    let body = json!({"funcName": NAME, "version": "latest", "instanceLabel": "l",
        "instanceConfigInfos": [{"clusterId": "c2", "maxInstance": 1}]});
    desk.registry
        .reserve(&desk.caller, reservation(body))
        .await
        .unwrap();
    let mut follower = Follower::new(&desk);
    assert_eq!(
        follower.catch_up(&desk).await,
        [format!("+default/{NAME}/latest []")]
    );
}
