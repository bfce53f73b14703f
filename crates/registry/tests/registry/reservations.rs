//! Reserved instances (contract 4).

use bugle_api::{InstanceConfig, ReservationRequest, ReservationsApi as _};
use bugle_registry::Config;
use bugle_store::MemoryStore;
use serde_json::json;
use std::sync::Arc;

use super::{Desk, caller, small, with};

const LABEL: &str =
    "instanceLabel can only contains letters、digits、hyphens、dots,not exceed 63 characters";

fn bounds(min: i64, max: i64) -> InstanceConfig {
    InstanceConfig {
        cluster_id: String::new(),
        max_instance: max,
        min_instance: min,
    }
}

fn reservation(label: &str, bounds: &[InstanceConfig]) -> ReservationRequest {
    ReservationRequest {
        func_name: "0@svc@f".to_owned(),
        version: "latest".to_owned(),
        instance_label: label.to_owned(),
        instance_config_infos: bounds.to_vec(),
    }
}

async fn desk() -> Desk {
    let desk = Desk::new().await;
    desk.register(small("0@svc@f")).await.unwrap();
    desk
}

async fn reserve(desk: &Desk, label: &str) {
    let request = reservation(label, &[bounds(1, 2)]);
    desk.registry.reserve(&desk.caller, request).await.unwrap();
}

async fn labels(desk: &Desk) -> Vec<String> {
    let list = desk
        .registry
        .reservations(&desk.caller, reservation("", &[]))
        .await
        .unwrap();
    let list = serde_json::to_value(list).unwrap();
    let results = list["results"].as_array().unwrap();
    assert_eq!(list["total"], results.len());
    let label = |result: &serde_json::Value| result["instanceLabel"].as_str().unwrap().to_owned();
    results.iter().map(label).collect()
}

#[tokio::test]
async fn a_label_is_made_changed_listed_and_removed() {
    let desk = desk().await;
    reserve(&desk, "gold").await;
    reserve(&desk, "silver").await;
    assert_eq!(labels(&desk).await, ["silver", "gold"], "the newest first");
    let request = reservation("gold", &[bounds(0, 5)]);
    let now = desk
        .registry
        .update_reservation(&desk.caller, request)
        .await
        .unwrap();
    assert_eq!((now[0].min_instance, now[0].max_instance), (0, 5));
    assert_eq!(now[0].cluster_id, "cluster001");
    let key = "/instances/business/yrk/cluster/cluster001/tenant/default/function/0@svc@f/version/latest/label/gold";
    let stored = desk.stored(key).await.unwrap();
    assert_eq!(stored["instanceMetaData"]["maxInstance"], 5);
    desk.registry
        .delete_reservation(&desk.caller, reservation("gold", &[]))
        .await
        .unwrap();
    assert_eq!(labels(&desk).await, ["silver"]);
    desk.registry
        .delete_reservation(&desk.caller, reservation("gold", &[]))
        .await
        .unwrap();
}

#[tokio::test]
async fn deleting_a_label_spares_those_that_begin_with_it() {
    let desk = desk().await;
    for label in ["a", "a_1", "ab"] {
        reserve(&desk, label).await;
    }
    desk.registry
        .delete_reservation(&desk.caller, reservation("a", &[]))
        .await
        .unwrap();
    assert_eq!(labels(&desk).await, ["ab", "a_1"]);
    desk.registry
        .delete_reservation(&desk.caller, reservation("", &[]))
        .await
        .unwrap();
    assert_eq!(labels(&desk).await, Vec::<String>::new());
}

#[tokio::test]
async fn each_rule_has_its_code_and_message() {
    let desk = desk().await;
    let own = |cluster: &str| InstanceConfig {
        cluster_id: cluster.to_owned(),
        ..bounds(0, 1)
    };
    let unknown = ReservationRequest {
        version: "v9".to_owned(),
        ..reservation("gold", &[bounds(0, 1)])
    };
    let nameless = ReservationRequest {
        version: String::new(),
        ..reservation("gold", &[bounds(0, 1)])
    };
    for (request, code, part) in [
        (
            reservation("", &[bounds(0, 1)]),
            4104,
            "instanceLabel cannot be empty",
        ),
        (reservation("-a", &[bounds(0, 1)]), 4104, LABEL),
        (
            reservation(&"a".repeat(64), &[bounds(0, 1)]),
            4104,
            "maxstringlength(63)",
        ),
        (reservation("a/b", &[bounds(0, 1)]), 4104, LABEL),
        (reservation("gold", &[bounds(2, 1)]), 4104, "maxInstance"),
        (
            reservation("gold", &[bounds(0, 1001)]),
            4104,
            "range(0|1000)",
        ),
        (reservation("gold", &[bounds(-1, 1)]), 4104, "range(0|1000)"),
        (
            reservation("gold", &[own("moon")]),
            4104,
            "clusterID moon is not found",
        ),
        (
            reservation("gold", &[own(""), own("cluster001")]),
            4104,
            "clusterID cluster001 is repeated",
        ),
        (unknown, 4115, "0@svc@f"),
        (
            nameless,
            4104,
            "ReserveInsBaseInfo.version: non zero value required",
        ),
    ] {
        let case = format!("{request:?}");
        let error = desk
            .registry
            .reserve(&desk.caller, request)
            .await
            .unwrap_err();
        assert_eq!(error.code.number(), code, "{case}: {}", error.message);
        assert!(error.message.contains(part), "{case}: {}", error.message);
    }
    assert_eq!(
        labels(&desk).await,
        Vec::<String>::new(),
        "nothing was written"
    );
    let request = reservation("gold", &[bounds(0, 1)]);
    let error = desk
        .registry
        .update_reservation(&desk.caller, request)
        .await
        .unwrap_err();
    assert_eq!(
        error.message,
        "failed to find reserve instance config for update. check input parameters"
    );
}

#[tokio::test]
async fn a_version_has_a_hundred_labels_at_most() {
    let config = Config {
        max_labels: 3,
        ..Config::default()
    };
    assert_eq!(Config::default().max_labels, 100);
    let desk = Desk::over(Arc::new(MemoryStore::new()), config).await;
    desk.register(small("0@svc@f")).await.unwrap();
    for label in ["a", "b", "c", "a"] {
        reserve(&desk, label).await;
    }
    let request = reservation("d", &[bounds(1, 2)]);
    let error = desk
        .registry
        .reserve(&desk.caller, request)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code.number(), error.message.as_str()),
        (4104, "label count reached max(3). check input parameters")
    );
}

#[tokio::test]
async fn labels_go_with_their_version_and_belong_to_a_tenant() {
    let desk = desk().await;
    reserve(&desk, "gold").await;
    let other = caller("other");
    let request = reservation("gold", &[bounds(0, 1)]);
    let error = desk.registry.reserve(&other, request).await.unwrap_err();
    assert_eq!(error.code.number(), 4115);
    desk.delete("0@svc@f", "").await.unwrap();
    assert_eq!(desk.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn only_functions_of_the_kind_faas_have_labels() {
    let desk = Desk::new().await;
    let body = with(small("0@svc@f"), json!({"kind": "yrlib"}));
    desk.register(body).await.unwrap();
    let request = reservation("gold", &[bounds(0, 1)]);
    let error = desk
        .registry
        .reserve(&desk.caller, request)
        .await
        .unwrap_err();
    assert_eq!(error.code.number(), 4115, "{}", error.message);
}
