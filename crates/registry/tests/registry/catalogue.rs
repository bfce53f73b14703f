//! What whoever runs the functions is told.

use std::time::Duration;

use bugle_api::{InstanceConfig, ReservationRequest, ReservationsApi as _};
use bugle_registry::{Catalogue, Event};
use bugle_types::{CodeLocation, FunctionSpec, Kind};
use serde_json::json;
use std::sync::Arc;

use super::{Desk, small, update_from, with};

/// What the next batches report, until there are `count` events.
async fn events(catalogue: &mut Catalogue, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(5), catalogue.next()).await;
        events.extend(batch.expect("something happens").unwrap().events);
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

async fn spec(catalogue: &mut Catalogue) -> FunctionSpec {
    match events(catalogue, 1).await.remove(0) {
        Event::Upsert(spec) => *spec,
        Event::Remove(id) => panic!("{id} was removed"),
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

#[tokio::test]
async fn labels_come_with_their_function_and_without_a_new_generation() {
    let desk = Desk::new().await;
    let mut catalogue = Catalogue::new(Arc::clone(&desk.store));
    desk.register(small("0@svc@f")).await.unwrap();
    let before = spec(&mut catalogue).await;
    let request = ReservationRequest {
        func_name: "0@svc@f".to_owned(),
        version: "latest".to_owned(),
        instance_label: "gold".to_owned(),
        instance_config_infos: vec![InstanceConfig {
            cluster_id: String::new(),
            max_instance: 4,
            min_instance: 2,
        }],
    };
    desk.registry
        .reserve(&desk.caller, request.clone())
        .await
        .unwrap();
    let with_label = spec(&mut catalogue).await;
    assert_eq!(with_label.generation, before.generation);
    assert_eq!(
        (
            with_label.labels[0].scale.min,
            with_label.labels[0].scale.max
        ),
        (2, 4)
    );
    desk.registry
        .delete_reservation(&desk.caller, request)
        .await
        .unwrap();
    assert!(spec(&mut catalogue).await.labels.is_empty());
}

#[tokio::test]
async fn one_that_comes_late_is_told_everything_and_what_went_meanwhile() {
    let desk = Desk::new().await;
    for name in ["0@svc@a", "0@svc@b"] {
        desk.register(small(name)).await.unwrap();
    }
    let mut catalogue = Catalogue::new(Arc::clone(&desk.store));
    assert_eq!(events(&mut catalogue, 2).await.len(), 2);
    desk.delete("0@svc@a", "").await.unwrap();
    desk.register(small("0@svc@c")).await.unwrap();
    // Its place in the history is gone: it has to read everything again.
    let now = desk.store.revision().await.unwrap();
    desk.store.compact(now).await.unwrap();
    let told = events(&mut catalogue, 3).await;
    let removed = told
        .iter()
        .filter(|event| matches!(event, Event::Remove(_)))
        .count();
    assert_eq!(removed, 1, "{told:?}");
}
