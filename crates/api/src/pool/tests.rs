//! What a request becomes, and what is wrong with it.

use serde_json::{Value, json};

use super::*;
use crate::{Error, decode};

fn read(pool: &Value) -> Result<PoolRequest, Error> {
    let body = json!({ "pools": [pool] }).to_string();
    let request: CreatePoolsRequest = decode::read(body.as_bytes())?;
    Ok(request.pools.into_iter().next().unwrap())
}

/// A good pool, with these fields instead of its own.
fn pool(fields: Value) -> PoolInfo {
    let mut pool = json!({
        "id": "p", "size": 1,
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
    });
    let Value::Object(fields) = fields else {
        panic!("fields are an object");
    };
    pool.as_object_mut().unwrap().extend(fields);
    read(&pool).unwrap().into()
}

fn mistakes(fields: Value) -> Vec<String> {
    pool(fields).spec().unwrap_err()
}

#[test]
fn defaults_are_those_of_the_documents() {
    let info = pool(json!({}));
    assert_eq!((info.size, info.max_size, info.scalable), (1, 1, false));
    assert_eq!((info.group.as_str(), info.status), ("default", 0));
    let info = pool(json!({"size": 0, "max_size": 2}));
    assert_eq!((info.size, info.max_size, info.scalable), (0, 2, true));
    let spec = info.spec().unwrap();
    assert_eq!(spec.resources.effective_limits()["cpu"].millis(), 1000);
    assert!(spec.ignored.is_empty());
}

#[test]
fn read_only_fields_are_passed_over_whatever_they_hold() {
    let info = pool(json!({"status": 4, "msg": 7, "ready_count": "x", "scalable": true}));
    assert_eq!(
        (info.status, info.ready_count, info.scalable),
        (0, 0, false)
    );
    assert_eq!(info.msg, "");
}

#[test]
fn labels_may_be_numbers_and_variables_may_not() {
    let info = pool(json!({"labels": {"yr-idle-to-recycle": 5, "b": true}}));
    let labels = info.labels.unwrap();
    assert_eq!(
        (labels["yr-idle-to-recycle"].as_str(), labels["b"].as_str()),
        ("5", "true")
    );
    let error = read(&json!({"environment": {"A": 1}})).unwrap_err();
    assert_eq!(error.code.number(), 130_600);
    assert!(error.message.contains("environment.A"), "{}", error.message);
    assert!(read(&json!({"labels": {"a": []}})).is_err());
    assert!(read(&json!({"size": "1"})).is_err());
}

#[test]
fn every_reason_is_worded_as_the_contract_has_it() {
    for (fields, reason) in [
        (json!({"size": -1}), ", err: size is less than 0"),
        (
            json!({"size": 5, "max_size": 2}),
            ", err: max_size is less than size",
        ),
        (json!({"max_size": -2}), ", err: max_size is less than size"),
        (
            json!({"group": "a_b"}),
            ", group: a_b, err: pod pool group can contain only letters, \
            digits and '-'. it cannot start or end with '-' and cannot exceed 40 characters",
        ),
        (
            json!({"id": ""}),
            ", err: pod pool id can contain only lowercase letters, digits and '-'. it \
            cannot start or end with '-' and cannot exceed 40 characters or less than 1 characters",
        ),
        (
            json!({"max_size": 3, "horizontal_pod_autoscaler_spec": "{\"maxReplicas\":2}"}),
            ", err: max_size greater than size and horizontal_pod_autoscaler_spec cannot be set at the \
            same time",
        ),
        (
            json!({"idle_recycle_time": {"reserved": -2}}),
            ", err: idle time of reserved should not less \
            than -1",
        ),
        (
            json!({"idle_recycle_time": {"scaled": -2}}),
            ", err: idle time of scaled should not less than -1",
        ),
        (
            json!({"image": "i".repeat(201)}),
            ", err: image len is not in [1, 200]",
        ),
        (
            json!({"init_image": "i".repeat(201)}),
            ", err: init image len is not in [1, 200]",
        ),
        (
            json!({"runtime_class_name": "r".repeat(65)}),
            ", err: runtime_class_name should not greater \
            than 64",
        ),
        (
            json!({"pod_pending_duration_threshold": -1}),
            ", err: podPendingDurationThreshold should not \
            be less than 0, which is -1",
        ),
    ] {
        assert_eq!(mistakes(fields), [reason]);
    }
}

#[test]
fn the_rules_of_kubernetes_hold_before_anything_is_stored() {
    for (fields, reason) in [
        (json!({"labels": {"-bad-": "x"}}), "labels"),
        (json!({"labels": {"a": "b c"}}), "labels"),
        (json!({"node_selector": {"a": "/"}}), "node_selector"),
        (json!({"environment": {"1x": "x"}}), "environment"),
        (json!({"environment": {"x": "\u{0}"}}), "zero byte"),
        (
            json!({"resources": {"limits": {"cpu": "1"}}}),
            "resources.requests",
        ),
        (
            json!({"resources": {"limits": {"cpu": "lots"}, "requests": {"cpu": "1"}}}),
            "resources.limits.cpu",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            "more than the limit",
        ),
        (
            json!({"max_size": 2, "topology_spread_constraints": "[]"}),
            "topology_spread_constraints",
        ),
        (
            json!({"horizontal_pod_autoscaler_spec": "{nope"}),
            "horizontal_pod_autoscaler_spec",
        ),
        (
            json!({"volumes": "[{\"name\":\"A\",\"emptyDir\":{}}]"}),
            "volumes[0]",
        ),
        (
            json!({"tolerations": "[{\"key\":\"-\"}]"}),
            "tolerations[0]",
        ),
        (json!({"runtime_class_name": "Class"}), "runtime_class_name"),
        (json!({"image": "a b"}), "blanks"),
        (
            json!({"max_size": 150_001}),
            "err: max_size is more than 150000",
        ),
        (json!({"size": 150_001}), "err: size is more than 150000"),
        (
            json!({"resources": {"limits": {"cpu": "1e400"}, "requests": {"cpu": "1"}}}),
            "from 0 to below 2^63",
        ),
    ] {
        let found = mistakes(fields.clone());
        assert_eq!(found.len(), 1, "{fields}: {found:?}");
        assert!(found[0].contains(reason), "{fields}: {found:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = mistakes(json!({"id": "P", "size": -1, "labels": {"-": "x"}}));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn what_cannot_be_read_is_noted() {
    let spec = pool(json!({"volumes": "{nope", "affinities": "7"}))
        .spec()
        .unwrap();
    assert_eq!(spec.ignored.len(), 2);
    assert!(spec.volumes.is_empty() && spec.affinities.is_none());
}

#[test]
fn a_pool_is_shown_with_all_fields_in_their_order() {
    let text = serde_json::to_string(&pool(json!({}))).unwrap();
    let names = [
        "id",
        "group",
        "size",
        "max_size",
        "ready_count",
        "status",
        "msg",
        "image",
        "init_image",
        "reuse",
        "labels",
        "environment",
        "resources",
        "volumes",
        "volume_mounts",
        "affinities",
        "runtime_class_name",
        "node_selector",
        "tolerations",
        "horizontal_pod_autoscaler_spec",
        "topology_spread_constraints",
        "pod_pending_duration_threshold",
        "idle_recycle_time",
        "scalable",
    ];
    let places: Vec<_> = names
        .iter()
        .map(|name| {
            text.find(&format!("\"{name}\":"))
                .unwrap_or_else(|| panic!("{name}"))
        })
        .collect();
    assert!(places.is_sorted(), "{text}");
    assert!(text.contains("\"labels\":null") && text.contains("\"volumes\":\"\""));
}
