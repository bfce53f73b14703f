//! Which functions are in use, and how a load that races with a change ends.

use bugle_api::ReservationsApi as _;
use bugle_registry::{is_published, specification};
use bugle_types::{FunctionId, Scale};
use serde_json::json;

use super::follower::{Follower, draft};
use super::{Desk, NAME, reservation};

fn upsert() -> String {
    format!("+default/{NAME}/latest []")
}

async fn reserve(desk: &Desk, label: &str, min: i64) {
    let body = json!({"funcName": NAME, "version": "latest", "instanceLabel": label,
        "instanceConfigInfos": [{"minInstance": min, "maxInstance": 3}]});
    let reserved = desk.registry.reserve(&desk.caller, reservation(body)).await;
    reserved.unwrap();
}

#[tokio::test]
async fn a_function_that_nobody_calls_is_not_in_use() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    assert_eq!(follower.follow(&desk).await, [""; 0], "found at the start");
    desk.registered(json!({"name": "later"})).await;
    desk.updated(json!({"timeout": 900})).await.unwrap();
    reserve(&desk, "l", 0).await;
    desk.delete("later", "latest").await.unwrap();
    assert_eq!(follower.follow(&desk).await, [""; 0], "changed later");
    assert_eq!(
        follower.runtimes,
        ["python3.11"],
        "but what it runs on is known"
    );
}

#[tokio::test]
async fn a_function_is_loaded_once_as_it_is_now() {
    let desk = Desk::new().await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    desk.registered(json!({})).await;
    reserve(&desk, "l", 0).await;
    let wider = json!({"timeout": 900});
    desk.clock.step(1);
    let updated = desk.updated(wider).await.unwrap();
    follower.load(&draft()).await;
    follower.load(&draft()).await;
    let loaded = format!("+default/{NAME}/latest [l]");
    assert_eq!(follower.draft_generation(), Some(&*updated.revision_id));
    assert_eq!(
        follower.follow(&desk).await,
        [loaded],
        "the changes that led to it are passed over"
    );
}

#[tokio::test]
async fn an_update_of_a_function_in_use_is_reported() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    follower.load(&draft()).await;
    desk.clock.step(1);
    let updated = desk.updated(json!({"timeout": 900})).await.unwrap();
    reserve(&desk, "l", 0).await;
    let labelled = format!("+default/{NAME}/latest [l]");
    assert_eq!(follower.follow(&desk).await, [upsert(), upsert(), labelled]);
    assert_eq!(follower.draft_generation(), Some(&*updated.revision_id));
}

#[tokio::test]
async fn a_deletion_wins_over_a_load_before_it_is_seen() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    // Loaded before the deletion, which is seen after it.
    follower.load(&draft()).await;
    desk.delete(NAME, "latest").await.unwrap();
    follower.load(&draft()).await;
    let removed = format!("-default/{NAME}/latest");
    assert_eq!(follower.follow(&desk).await, [upsert(), removed.clone()]);
    // Loaded after it: there is nothing to load, whether it was seen or not.
    follower.load(&draft()).await;
    assert_eq!(follower.follow(&desk).await, [upsert(), removed]);
    assert!(follower.functions.is_empty());
}

#[tokio::test]
async fn a_function_that_came_back_survives_the_deletion_before() {
    let desk = Desk::new().await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    desk.registered(json!({})).await;
    desk.delete(NAME, "latest").await.unwrap();
    desk.clock.step(1);
    let again = desk.registered(json!({})).await;
    follower.load(&draft()).await;
    assert_eq!(follower.follow(&desk).await, [upsert()]);
    assert_eq!(follower.draft_generation(), Some(&*again.revision_id));
}

#[tokio::test]
async fn what_keeps_instances_is_in_use_without_a_call() {
    let desk = Desk::new().await;
    let early = json!({"name": "early", "minInstance": "2"});
    desk.registered(early).await;
    desk.registered(json!({})).await;
    reserve(&desk, "l", 1).await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    let late = json!({"name": "late", "minInstance": "2", "kind": "yrlib"});
    desk.registered(late).await;
    desk.registered(json!({"name": "never"})).await;
    follower.follow(&desk).await;
    let names: Vec<_> = follower.functions.keys().map(String::as_str).collect();
    let labelled = format!("default/{NAME}/latest");
    assert_eq!(
        names,
        [
            labelled.as_str(),
            "default/early/latest",
            "default/late/latest"
        ]
    );
    let early = &follower.functions["default/early/latest"];
    assert_eq!(early.scale, Scale { min: 2, max: 100 });
    // The same after a start.
    let mut restarted = Follower::new(&desk);
    restarted.follow(&desk).await;
    assert_eq!(restarted.functions, follower.functions);
}

#[tokio::test]
async fn a_function_that_begins_to_keep_instances_comes_into_use() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    reserve(&desk, "l", 1).await;
    let labelled = format!("+default/{NAME}/latest [l]");
    assert_eq!(follower.follow(&desk).await, [labelled]);
    let other = Desk::new().await;
    other.registered(json!({})).await;
    let mut follower = Follower::new(&other);
    follower.follow(&other).await;
    let kept = json!({"timeout": 900, "minInstance": "1"});
    other.updated(kept).await.unwrap();
    assert_eq!(follower.follow(&other).await, [upsert()]);
}

#[tokio::test]
async fn names_that_nobody_registered_leave_nothing_behind() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let mut follower = Follower::new(&desk);
    follower.follow(&desk).await;
    for number in 0..100 {
        let id = FunctionId {
            name: format!("nobody-{number}").parse().unwrap(),
            ..draft()
        };
        assert!(!is_published(&*desk.store, &id).await.unwrap());
        assert_eq!(specification(&*desk.store, &id).await.unwrap(), None);
        follower.load(&id).await;
    }
    assert_eq!(follower.follow(&desk).await, [""; 0]);
    assert_eq!(follower.known(), 0);
}

#[tokio::test]
async fn a_function_can_be_looked_at_without_coming_into_use() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    reserve(&desk, "l", 0).await;
    let mut follower = Follower::new(&desk);
    assert!(is_published(&*desk.store, &draft()).await.unwrap());
    let looked_at = specification(&*desk.store, &draft()).await.unwrap();
    assert_eq!(follower.follow(&desk).await, [""; 0]);
    follower.load(&draft()).await;
    assert_eq!(looked_at.as_ref(), Some(follower.draft()));
}
