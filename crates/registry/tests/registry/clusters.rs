//! R1–R4: bounds of labels (contract 4).

use bugle_api::{Class, InstanceConfig, ReservationsApi as _};
use bugle_registry::Config;
use serde_json::{Value, json};

use super::{Desk, NAME, invalid, not_found, refusal, reservation, with};

const NAME_FORMAT: &str = "funcName format is 0@{serviceName}@{funcName};serviceName can only contains \
    letters、digits and cannot exceed 16 characters; funcName can only contains lowercase \
    letters、digits、- and cannot exceed 127 characters or end with -";

/// A body that is as it should be, changed by `fields`.
fn body(fields: Value) -> Value {
    let body = json!({"funcName": NAME, "version": "latest", "instanceLabel": "l",
        "instanceConfigInfos": [{"maxInstance": 5, "minInstance": 1}]});
    with(body, fields)
}

fn bounds(cluster: &str, min: i64, max: i64) -> InstanceConfig {
    InstanceConfig {
        cluster_id: cluster.to_owned(),
        max_instance: max,
        min_instance: min,
    }
}

async fn reserve(desk: &Desk, fields: Value) -> Result<Vec<InstanceConfig>, bugle_api::Error> {
    desk.registry
        .reserve(&desk.caller, reservation(body(fields)))
        .await
}

async fn labels(desk: &Desk, version: &str) -> Vec<(String, Vec<InstanceConfig>)> {
    let query = reservation(json!({"funcName": NAME, "version": version}));
    let found = desk
        .registry
        .reservations(&desk.caller, query)
        .await
        .unwrap();
    assert_eq!(found.total, found.results.len());
    let pair = |found: bugle_api::Reservation| (found.instance_label, found.instance_config_infos);
    found.results.into_iter().map(pair).collect()
}

async fn two_clusters() -> Desk {
    let config = Config {
        clusters: vec!["c2".to_owned()],
        ..Config::default()
    };
    let desk = Desk::with(config).await;
    desk.registered(json!({})).await;
    desk
}

#[tokio::test]
async fn each_cluster_has_its_own_bounds() {
    let desk = two_clusters().await;
    reserve(&desk, json!({})).await.unwrap();
    let both = [bounds("cluster001", 1, 5), bounds("c2", 0, 2)];
    let second = json!({"instanceConfigInfos": [{"clusterId": "c2", "maxInstance": 2}]});
    assert_eq!(
        reserve(&desk, second).await.unwrap(),
        both,
        "the answer holds all of the label"
    );
    assert_eq!(
        labels(&desk, "latest").await,
        [("l".to_owned(), vec![both[1].clone(), both[0].clone()])]
    );
    let only_here = body(json!({"instanceLabel": "m"}));
    desk.registry
        .reserve(&desk.caller, reservation(only_here))
        .await
        .unwrap();
    let elsewhere =
        body(json!({"instanceLabel": "m", "instanceConfigInfos": [{"clusterId": "c2"}]}));
    let refused = desk
        .registry
        .update_reservation(&desk.caller, reservation(elsewhere))
        .await;
    assert_eq!(
        refusal(refused),
        invalid("failed to find reserve instance config for update")
    );
    desk.registry
        .delete_reservation(&desk.caller, reservation(body(json!({}))))
        .await
        .unwrap();
    assert_eq!(
        labels(&desk, "latest").await.len(),
        1,
        "it is deleted in every cluster"
    );
}

#[tokio::test]
async fn a_wrong_field_is_refused_in_the_contracts_words() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let long = "x".repeat(65);
    let place = "InstanceConfigInfos.0.instanceConfigInfos";
    let number = |n: i64| json!({"instanceConfigInfos": [{"maxInstance": n, "minInstance": 0}]});
    let name_format = NAME_FORMAT.to_owned();
    for (fields, reason) in [
        (
            json!({"funcName": null}),
            "ReserveInsBaseInfo.funcName: non zero value required".to_owned(),
        ),
        (
            json!({"version": null}),
            "ReserveInsBaseInfo.version: non zero value required".to_owned(),
        ),
        (
            json!({"funcName": null, "version": ""}),
            "ReserveInsBaseInfo.funcName: non zero value required;\
             ReserveInsBaseInfo.version: non zero value required"
                .to_owned(),
        ),
        (json!({"funcName": "fn"}), name_format.clone()),
        (json!({"funcName": "0-svc-fn"}), name_format.clone()),
        (json!({"funcName": "0@svc@Fn"}), name_format.clone()),
        (json!({"funcName": "0@svc@1"}), name_format.clone()),
        (json!({"funcName": "0@svc@a-"}), name_format.clone()),
        (json!({"funcName": "0@too-long@a"}), name_format),
        (
            json!({"instanceConfigInfos": [{"clusterId": long}]}),
            format!("{place}: {long} does not validate as maxstringlength(64)"),
        ),
        (
            number(1001),
            format!("{place}: 1001 does not validate as range(0|1000)"),
        ),
        (
            number(-1),
            format!("{place}: -1 does not validate as range(0|1000)"),
        ),
        (
            json!({"instanceConfigInfos": []}),
            "instanceConfigInfos cannot be empty".to_owned(),
        ),
    ] {
        let error = reserve(&desk, fields.clone()).await.unwrap_err();
        assert_eq!(error.class, Class::Field, "{fields}");
        assert_eq!((error.code, error.message), invalid(&reason), "{fields}");
    }
    assert_eq!(labels(&desk, "latest").await, []);
}

#[tokio::test]
async fn only_versions_of_function_services_have_labels() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    desk.published(["v1"]).await;
    desk.registered(json!({"name": "0@svc@yr", "kind": "yrlib"}))
        .await;
    for (name, version) in [
        (NAME, "v2"),
        (NAME, "-"),
        ("0@svc@gone", "latest"),
        ("0@svc@yr", "$latest"),
    ] {
        let error = reserve(&desk, json!({"funcName": name, "version": version}))
            .await
            .unwrap_err();
        assert_eq!(error.class, Class::NotFound);
        assert_eq!((error.code, error.message), not_found(name), "{version}");
    }
    let empty = reservation(json!({"funcName": NAME}));
    let listed = desk
        .registry
        .reservations(&desk.caller, empty.clone())
        .await;
    assert_eq!(refusal(listed), not_found(NAME));
    let deleted = desk.registry.delete_reservation(&desk.caller, empty).await;
    assert_eq!(
        refusal(deleted),
        invalid("ReserveInsBaseInfo.version: non zero value required")
    );
    for version in ["latest", "$latest", "v1"] {
        reserve(&desk, json!({"version": version})).await.unwrap();
    }
    assert_eq!(
        labels(&desk, "$latest").await,
        labels(&desk, "latest").await
    );
    assert_eq!(labels(&desk, "v1").await.len(), 1);
}

#[tokio::test]
async fn bounds_of_labels_are_published_where_schedulers_look() {
    let desk = two_clusters().await;
    let both = json!([{"minInstance": 1, "maxInstance": 5}, {"clusterId": "c2", "maxInstance": 2}]);
    reserve(&desk, json!({"instanceConfigInfos": both}))
        .await
        .unwrap();
    for (cluster, min, max) in [("cluster001", 1, 5), ("c2", 0, 2)] {
        let key = format!(
            "/instances/business/yrk/cluster/{cluster}/tenant/default/function/{NAME}/version/latest/label/l"
        );
        let expected = json!({"instanceMetaData": {"maxInstance": max, "minInstance": min,
            "concurrentNum": 0, "instanceType": "", "idleMode": false, "poolLabel": "",
            "poolId": "", "diskLimit": 0, "schedulePolicy": "", "scalePolicy": ""}});
        assert_eq!(desk.value(&key).await, expected);
    }
}
