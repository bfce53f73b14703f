//! What whoever runs the functions is told.

use std::time::Duration;

use bugle_registry::{Catalogue, Event};
use bugle_types::{CodeLocation, FunctionSpec, Kind};
use serde_json::json;
use std::sync::Arc;

use super::follower::draft;
use super::{Desk, small, update_from, with};

/// What the next batches report, until there are `count` events.
async fn events(catalogue: &mut Catalogue, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(5), catalogue.next()).await;
        let batch = batch.expect("something happens").unwrap();
        let of_functions = |event: &Event| !matches!(event, Event::Runtime(_));
        events.extend(batch.events.into_iter().filter(of_functions));
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

async fn spec(catalogue: &mut Catalogue) -> FunctionSpec {
    match events(catalogue, 1).await.remove(0) {
        Event::Upsert(spec) => Arc::unwrap_or_clone(spec),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_function_is_told_with_everything_that_runs_it() {
    let desk = Desk::new().await;
    let mut catalogue = Catalogue::new(Arc::clone(&desk.store));
    let body = with(
        small("0@svc@f"),
        json!({
            "handler": "h.main", "timeout": 7, "minInstance": "1", "maxInstance": "2",
            "concurrentNum": "3", "storageType": "local", "codePath": "/code",
            "extendedHandler": {"initializer": "h.init", "pre_stop": "h.stop"},
            "extendedTimeout": {"pre_stop": 9}, "idleTime": 11,
            "customResources": {"ssd": 1.5},
        }),
    );
    desk.register(body).await.unwrap();
    let spec = spec(&mut catalogue).await;
    assert_eq!(spec.id.to_string(), "default/0@svc@f/latest");
    assert_eq!((spec.kind, spec.handler.as_str()), (Kind::Faas, "h.main"));
    assert_eq!(spec.timeout, Duration::from_secs(7));
    assert_eq!(
        (spec.scale.min, spec.scale.max, spec.concurrency.get()),
        (1, 2, 3)
    );
    assert_eq!(spec.code, CodeLocation::Local("/code".to_owned()));
    let (init, stop) = (spec.initializer.unwrap(), spec.pre_stop.unwrap());
    assert_eq!(
        (init.handler.as_str(), init.timeout),
        ("h.init", Duration::from_secs(30))
    );
    assert_eq!(
        (stop.handler.as_str(), stop.timeout),
        ("h.stop", Duration::from_secs(9))
    );
    assert_eq!(spec.idle, Some(Duration::from_secs(11)));
    assert_eq!(spec.resources.custom, [("ssd".to_owned(), 1500)]);
}

#[tokio::test]
async fn bounds_and_description_change_without_other_instances_and_nothing_else_does() {
    let desk = Desk::new().await;
    let mut catalogue = Catalogue::new(Arc::clone(&desk.store));
    let kept = json!({"storageType": "local", "codePath": "/code"});
    let mut function = desk
        .register(with(small("0@svc@f"), kept.clone()))
        .await
        .unwrap();
    catalogue.load(&draft()).await.unwrap();
    let mut generation = spec(&mut catalogue).await.generation;
    for (fields, same) in [
        (json!({"timeout": 900, "description": "other"}), true),
        (json!({"timeout": 900, "maxInstance": "7"}), true),
        (
            json!({"timeout": 900, "maxInstance": "7", "memory": 512}),
            false,
        ),
        (
            json!({"timeout": 900, "maxInstance": "7", "memory": 512, "codePath": "/other"}),
            false,
        ),
        // The code in the folder may be other code.
        (
            json!({"timeout": 900, "maxInstance": "7", "memory": 512, "codePath": "/other"}),
            false,
        ),
        (
            json!({"timeout": 900, "memory": 512, "codePath": "/other", "environment": {"a": "b"}}),
            false,
        ),
    ] {
        let body = update_from(&function, with(kept.clone(), fields.clone()));
        function = desk.update("0@svc@f", body).await.unwrap();
        let next = spec(&mut catalogue).await.generation;
        assert_eq!(next == generation, same, "{fields}");
        generation = next;
    }
}
