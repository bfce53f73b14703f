//! Changes that race, versions, and what a deletion takes with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::task::JoinSet;

use super::{Desk, small, update_from, with};

/// How sixteen of the same, at once, were answered: 0 or the code of the refusal.
async fn sixteen<F>(run: impl Fn(usize) -> F) -> Vec<u32>
where
    F: Future<Output = Result<bugle_api::FunctionObject, bugle_api::Error>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = (0..16).map(run).collect();
    let mut codes = Vec::new();
    while let Some(answer) = tasks.join_next().await {
        codes.push(
            answer
                .unwrap()
                .map_or_else(|error| error.code.number(), |_| 0),
        );
    }
    codes.sort_unstable();
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_updates_from_one_revision_exactly_one_wins() {
    let desk = Arc::new(Desk::new().await);
    let function = desk.register(small("0@svc@f")).await.unwrap();
    let codes = sixteen(|number| {
        let desk = Arc::clone(&desk);
        let body = update_from(&function, json!({"description": number.to_string()}));
        async move { desk.update("0@svc@f", body).await }
    })
    .await;
    assert_eq!(codes, [vec![0], vec![4134; 15]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_registrations_of_one_name_exactly_one_wins_whatever_their_kind() {
    let desk = Arc::new(Desk::new().await);
    let codes = sixteen(|number| {
        let desk = Arc::clone(&desk);
        let kind = ["faas", "yrlib", "custom", "agent"][number % 4];
        let body = with(small("0@svc@f"), json!({"kind": kind}));
        async move { desk.register(body).await }
    })
    .await;
    assert_eq!(codes, [vec![0], vec![4101; 15]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_publications_of_one_label_exactly_one_wins() {
    let desk = Arc::new(Desk::new().await);
    let function = desk.register(small("0@svc@f")).await.unwrap();
    let codes = sixteen(|_| {
        let desk = Arc::clone(&desk);
        let body =
            json!({"revisionId": function.revision_id, "versionNumber": "v1", "kind": "faas"});
        async move { desk.publish("0@svc@f", body).await }
    })
    .await;
    assert_eq!(codes, [vec![0], vec![4114; 15]].concat());
}

#[tokio::test]
async fn a_revision_has_17_digits_and_never_repeats_though_the_clock_stands_or_goes_back() {
    let desk = Desk::new().await;
    let mut function = desk.register(small("0@svc@f")).await.unwrap();
    let mut seen = vec![function.revision_id.clone()];
    for round in 0..20 {
        if round == 10 {
            desk.clock.0.fetch_sub(3_600_000, Ordering::Relaxed);
        }
        function = if round % 5 == 4 {
            desk.delete("0@svc@f", "").await.unwrap();
            desk.register(small("0@svc@f")).await.unwrap()
        } else {
            let body = update_from(&function, json!({}));
            desk.update("0@svc@f", body).await.unwrap()
        };
        seen.push(function.revision_id.clone());
    }
    assert!(
        seen.iter()
            .all(|id| id.len() == 17 && id.bytes().all(|c| c.is_ascii_digit()))
    );
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}

#[tokio::test]
async fn an_update_needs_the_revision_and_the_kind() {
    let desk = Desk::new().await;
    let function = desk.register(small("0@svc@f")).await.unwrap();
    for revision in [json!(null), json!("20200101000000000")] {
        let body = update_from(&function, json!({"revisionId": revision}));
        let error = desk.update("0@svc@f", body).await.unwrap_err();
        assert_eq!(error.code.number(), 4134);
        assert_eq!(error.message, "revisionID is not the same");
    }
    let body = update_from(&function, json!({"kind": "yrlib"}));
    let error = desk.update("0@svc@f", body).await.unwrap_err();
    assert_eq!(error.code.number(), 4115);
    assert_eq!(
        error.message,
        "function [0@svc@f] is not found. check input parameters"
    );
}

#[tokio::test]
async fn both_spellings_name_the_draft_of_either_kind() {
    let desk = Desk::new().await;
    desk.register(small("0@svc@f")).await.unwrap();
    let body = with(small("0@svc@y"), json!({"kind": "yrlib"}));
    desk.register(body).await.unwrap();
    for name in ["0@svc@f", "0@svc@y"] {
        for version in ["", "latest", "$latest"] {
            let function = desk.get(name, version).await.unwrap();
            assert_eq!(function.name, name, "{version}");
        }
    }
    desk.delete("0@svc@f", "$latest").await.unwrap();
    desk.delete("0@svc@y", "latest").await.unwrap();
    assert_eq!(desk.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_published_version_stays_as_it_is() {
    let desk = Desk::new().await;
    let body = with(small("0@svc@f"), json!({"description": "before"}));
    let draft = desk.register(body).await.unwrap();
    let body = json!({
        "revisionId": draft.revision_id, "versionNumber": "v1", "versionDesc": "first", "kind": "faas",
    });
    let version = desk.publish("0@svc@f", body).await.unwrap();
    assert_eq!(version.revision_id, draft.revision_id);
    assert!(version.function_version_urn.ends_with(":0@svc@f:v1"));
    let body = update_from(&draft, json!({"memory": 512}));
    desk.update("0@svc@f", body).await.unwrap();
    assert_eq!(desk.get("0@svc@f", "v1").await.unwrap().memory, 256);
    assert_eq!(desk.get("0@svc@f", "").await.unwrap().memory, 512);
}

#[tokio::test]
async fn a_publication_that_breaks_a_rule_says_which() {
    let desk = Desk::new().await;
    let draft = desk.register(small("0@svc@f")).await.unwrap();
    let good = json!({"revisionId": draft.revision_id, "versionNumber": "v1", "kind": "faas"});
    desk.publish("0@svc@f", good.clone()).await.unwrap();
    for (fields, code, message) in [
        (json!({}), 4114, "duplicate version number"),
        (
            json!({"versionNumber": "latest"}),
            4114,
            "duplicate version number",
        ),
        (
            json!({"versionNumber": "-v"}),
            4104,
            "versionNumber can only contain digits, letters",
        ),
        (
            json!({"versionNumber": "v".repeat(43)}),
            4104,
            "versionNumber can only contain digits",
        ),
        (
            json!({"revisionId": "1"}),
            4134,
            "revisionId is non latest version",
        ),
        (
            json!({"kind": "yrlib"}),
            4115,
            "failed to get function version",
        ),
    ] {
        let error = desk
            .publish("0@svc@f", with(good.clone(), fields))
            .await
            .unwrap_err();
        assert_eq!(error.code.number(), code, "{}", error.message);
        assert!(error.message.starts_with(message), "{}", error.message);
    }
}

#[tokio::test]
async fn eight_versions_are_the_most() {
    let desk = Desk::new().await;
    let draft = desk.register(small("0@svc@f")).await.unwrap();
    let publish = |label: String| {
        let body = json!({"revisionId": draft.revision_id, "versionNumber": label, "kind": "faas"});
        desk.publish("0@svc@f", body)
    };
    for number in 1..=8 {
        publish(format!("v{number}")).await.unwrap();
    }
    let error = publish("v9".to_owned()).await.unwrap_err();
    assert_eq!(error.code.number(), 4110);
    let text = "the number of existing function versions is greater than the set value: 9";
    assert_eq!(error.message, text);
    desk.delete("0@svc@f", "v3").await.unwrap();
    publish("v3".to_owned()).await.unwrap();
}

#[tokio::test]
async fn deleting_one_version_leaves_the_others_and_deleting_the_function_leaves_nothing() {
    let desk = Desk::new().await;
    let draft = desk.register(small("0@svc@f")).await.unwrap();
    // A name of which this one is the beginning is another function.
    desk.register(small("0@svc@f2")).await.unwrap();
    for label in ["v1", "v10"] {
        let body = json!({"revisionId": draft.revision_id, "versionNumber": label, "kind": "faas"});
        desk.publish("0@svc@f", body).await.unwrap();
    }
    desk.delete("0@svc@f", "v1").await.unwrap();
    assert!(desk.get("0@svc@f", "v1").await.is_err());
    assert!(desk.get("0@svc@f", "v10").await.is_ok());
    let error = desk.delete("0@svc@f", "v1").await.unwrap_err();
    assert_eq!(error.code.number(), 4116);
    assert_eq!(
        error.message,
        "function [0@svc@f] version [v1] is not found. check input parameters"
    );
    desk.delete("0@svc@f", "").await.unwrap();
    let left = desk.keys().await;
    assert!(left.iter().all(|key| key.contains("0@svc@f2")), "{left:?}");
    let error = desk.delete("0@svc@f", "").await.unwrap_err();
    assert_eq!(error.code.number(), 4115);
}

#[tokio::test]
async fn what_is_written_is_where_its_readers_look() {
    let desk = Desk::new().await;
    desk.register(small("0@svc@f")).await.unwrap();
    let body = with(small("0@svc@y"), json!({"kind": "yrlib"}));
    desk.register(body).await.unwrap();
    let mut keys = desk.keys().await;
    keys.sort_unstable();
    let tenant = "tenant/default/function/0@svc@";
    assert_eq!(
        keys,
        [
            format!("/instances/business/yrk/cluster/cluster001/{tenant}f/version/latest"),
            "/repo/FunctionStatus/yrk/default//0@svc@f/latest/".to_owned(),
            "/repo/FunctionStatus/yrk/default//0@svc@y/$latest/".to_owned(),
            "/repo/FunctionVersion/yrk/default//0@svc@f/latest/".to_owned(),
            "/repo/FunctionVersion/yrk/default//0@svc@y/$latest/".to_owned(),
            format!("/sn/functions/business/yrk/{tenant}f/version/latest"),
            format!("/yr/functions/business/yrk/{tenant}y/version/$latest"),
        ]
    );
}
