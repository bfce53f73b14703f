//! Tenants and products see their own functions and no others (contract 2.7).

use bugle_api::{
    Caller, DeleteQuery, FunctionsApi as _, GetQuery, ListQuery, Page, ReservationsApi as _,
};
use bugle_types::Code;
use serde_json::json;

use super::{Desk, NAME, label_body, not_found, refusal, request, small_with, versions};

fn of(tenant: &str, product: Option<&str>) -> Caller {
    Caller {
        tenant: tenant.parse().unwrap(),
        product: product.map(|product| product.parse().unwrap()),
    }
}

fn strangers() -> [Caller; 4] {
    [
        of("other", None),
        of("default", Some("p")),
        of("default2", None),
        of("defaul", None),
    ]
}

#[tokio::test]
async fn a_function_of_another_tenant_is_not_there() {
    let desk = Desk::new().await;
    let own = desk.registered(json!({"environment": {"K": "v"}})).await;
    desk.published(["v1"]).await;
    for stranger in strangers() {
        let registry = &desk.registry;
        let missing = not_found(NAME);
        let got = registry.get(&stranger, NAME, GetQuery::default()).await;
        assert_eq!(refusal(got), missing, "{stranger:?}");
        let body = small_with(json!({"revisionId": own.revision_id}));
        assert_eq!(
            refusal(registry.update(&stranger, NAME, request(body)).await),
            missing
        );
        let deleted = registry
            .delete(&stranger, NAME, DeleteQuery::default())
            .await;
        assert_eq!(refusal(deleted), missing);
        let (versions, total) = registry
            .versions(&stranger, NAME, &Page::default())
            .await
            .unwrap();
        assert_eq!((versions.len(), total), (0, 0));
        let list = registry
            .list(&stranger, ListQuery::default())
            .await
            .unwrap();
        assert_eq!((list.functions, list.total), (Some(Vec::new()), 0));
        let label = label_body("latest", "l");
        let reserved = registry.reserve(&stranger, label.clone()).await;
        assert_eq!(refusal(reserved), missing);
        assert_eq!(
            refusal(registry.delete_reservation(&stranger, label).await),
            missing
        );
    }
    assert_eq!(versions(&desk).await.len(), 2, "nothing happened to it");
}

#[tokio::test]
async fn a_urn_of_another_tenant_is_refused() {
    let desk = Desk::new().await;
    let own = desk.registered(json!({})).await;
    for stranger in strangers() {
        for urn in [&own.function_urn, &own.function_version_urn] {
            let got = desk.registry.get(&stranger, urn, GetQuery::default()).await;
            let expected = (Code::InvalidQueryURN, format!("invalid URN: {urn}"));
            assert_eq!(refusal(got), expected, "{stranger:?}");
        }
    }
}

#[tokio::test]
async fn tenants_may_use_the_same_name_without_meeting() {
    let desk = Desk::new().await;
    let own = desk.registered(json!({"description": "mine"})).await;
    for stranger in strangers() {
        let body = small_with(json!({"description": "theirs"}));
        let theirs = desk
            .registry
            .register(&stranger, request(body))
            .await
            .unwrap();
        assert_ne!(theirs.id, own.id);
        assert_eq!(theirs.tenant_id, stranger.tenant.as_str());
        let product = stranger
            .product
            .as_ref()
            .map_or("", |product| product.as_str());
        assert_eq!(theirs.product_id, product);
    }
    for stranger in strangers() {
        let list = desk
            .registry
            .list(&stranger, ListQuery::default())
            .await
            .unwrap();
        assert_eq!(list.total, 1);
        desk.registry
            .delete(&stranger, NAME, DeleteQuery::default())
            .await
            .unwrap();
    }
    let left = desk
        .registry
        .get(&desk.caller, NAME, GetQuery::default())
        .await
        .unwrap();
    assert_eq!(left.description, "mine");
    assert!(desk.keys().await.iter().all(|key| !key.contains("other")));
}

#[tokio::test]
async fn urns_show_the_product() {
    let desk = Desk::new().await;
    let with_product = of("t", Some("p"));
    let body = request(small_with(json!({})));
    let shown = desk.registry.register(&with_product, body).await.unwrap();
    assert_eq!(shown.id, format!("sn:cn:yrk:t@p:function:{NAME}:latest"));
    let found = desk
        .registry
        .get(&with_product, &shown.id, GetQuery::default())
        .await;
    assert_eq!(found.unwrap().id, shown.id);
}
