//! F3, F4, F5 and F7: versions come, are found, and go (contract 3.3–3.5, 3.7).

use bugle_api::{DeleteQuery, FunctionsApi as _, GetQuery};
use bugle_types::Code;
use serde_json::json;

use super::{Desk, NAME, invalid, not_found, refusal, versions};

#[tokio::test]
async fn a_label_is_made_from_the_time_when_none_is_given() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let label = desk.publish_draft(json!({})).await.unwrap().version_number;
    // The day and hour depend on the machine's time zone.
    assert_eq!(label.len(), "v20260301-093328".len(), "{label}");
    assert!(
        label.starts_with("v202603") || label.starts_with("v202602"),
        "{label}"
    );
    assert!(label.ends_with("28"), "{label}");
    let (code, _) = refusal(desk.publish_draft(json!({"versionNumber": ""})).await);
    assert_eq!(
        code,
        Code::RepeatedPublishmentError,
        "two in one second collide"
    );
    desk.clock.step(1000);
    desk.publish_draft(json!({})).await.unwrap();
}

#[tokio::test]
async fn a_package_without_a_place_is_not_published() {
    let desk = Desk::new().await;
    desk.registered(json!({"storageType": "s3"})).await;
    let outcome = desk.publish_draft(json!({"versionNumber": "1"})).await;
    assert_eq!(
        refusal(outcome),
        invalid("empty function version's bucket info")
    );
    let place = json!({"storageType": "s3", "s3CodePath": {"objectId": "o"}});
    desk.updated(place).await.unwrap();
    desk.published(["1"]).await;
}

#[tokio::test]
async fn a_version_is_found_by_number_qualifier_or_urn() {
    let desk = Desk::new().await;
    let urn = desk.registered(json!({})).await.function_urn;
    desk.published(["V1", "v2"]).await;
    let get = async |segment: &str, number: Option<&str>, qualifier: Option<&str>| {
        let query = GetQuery {
            version_number: number.map(str::to_owned),
            qualifier: qualifier.map(str::to_owned),
            kind: None,
        };
        desk.registry.get(&desk.caller, segment, query).await
    };
    let by_urn = format!("{urn}:V1");
    for (segment, number, qualifier, found) in [
        (NAME, None, None, "latest"),
        (NAME, Some("V1"), None, "V1"),
        (NAME, None, Some("V1"), "V1"),
        (NAME, None, Some("v2"), "v2"),
        (NAME, Some("V1"), Some("v2"), "V1"),
        (urn.as_str(), None, None, "latest"),
        (by_urn.as_str(), None, None, "V1"),
        (by_urn.as_str(), None, Some("V1"), "V1"),
    ] {
        let shown = get(segment, number, qualifier).await.unwrap();
        assert_eq!(
            shown.version_number, found,
            "{segment} {number:?} {qualifier:?}"
        );
    }
    let other = (Code::InvalidQueryURN, format!("invalid URN: {NAME}"));
    assert_eq!(refusal(get(&by_urn, None, Some("v2")).await), other);
    let bad = (Code::InvalidQualifier, "invalid qualifier: -".to_owned());
    assert_eq!(refusal(get(NAME, None, Some("-")).await), bad);
    for number in ["v3", "-"] {
        assert_eq!(
            refusal(get(NAME, Some(number), None).await),
            not_found(NAME)
        );
    }
    assert_eq!(
        refusal(get("0-svc-gone", None, None).await),
        not_found("gone")
    );
    assert_eq!(
        refusal(get("0@svc@gone", None, None).await),
        not_found("0@svc@gone")
    );
}

#[tokio::test]
async fn versions_are_listed_last_changed_first() {
    let desk = Desk::new().await;
    assert_eq!(
        versions(&desk).await,
        [""; 0],
        "an unknown function has none"
    );
    desk.registered(json!({})).await;
    desk.published(["b", "a"]).await;
    // Publishing writes the draft as well; what is written together is in the order of the names.
    assert_eq!(versions(&desk).await, ["a", "latest", "b"]);
    desk.updated(json!({})).await.unwrap();
    assert_eq!(versions(&desk).await, ["latest", "a", "b"]);
    desk.delete(NAME, "a").await.unwrap();
    assert_eq!(versions(&desk).await, ["latest", "b"]);
}

#[tokio::test]
async fn deleting_a_version_takes_all_of_it_and_nothing_else() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    desk.published(["v1", "v10"]).await;
    for version in ["v1", "v10", "latest"] {
        desk.reserve(version, "a").await;
    }
    let of = |keys: &[String], version: &str| {
        let part = [format!("/{version}"), format!("/{version}/")];
        let is = |key: &&String| {
            part.iter().any(|p| key.ends_with(p.as_str())) || key.contains(&part[1])
        };
        keys.iter().filter(is).count()
    };
    let before = desk.keys().await;
    // The record, its status, the published value, its bounds and those of its label.
    assert_eq!(
        (of(&before, "v1"), of(&before, "v10"), of(&before, "latest")),
        (5, 5, 5)
    );
    desk.delete(NAME, "v1").await.unwrap();
    let after = desk.keys().await;
    assert_eq!(
        (of(&after, "v1"), of(&after, "v10"), of(&after, "latest")),
        (0, 5, 5)
    );
    let missing = format!("function [{NAME}] version [v1] is not found. check input parameters");
    let missing = (Code::FunctionVersionNotFound, missing);
    assert_eq!(
        refusal(desk.delete(NAME, "v1").await),
        missing,
        "the second time"
    );
    desk.published(["v1"]).await;
}

#[tokio::test]
async fn a_delete_is_never_wider_than_what_was_named() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    desk.published(["v1"]).await;
    let by = |number: Option<&str>, qualifier: Option<&str>| DeleteQuery {
        version_number: number.map(str::to_owned),
        qualifier: qualifier.map(str::to_owned),
        kind: None,
    };
    let delete = async |query: DeleteQuery| desk.registry.delete(&desk.caller, NAME, query).await;
    for (query, code) in [
        (by(Some("v2"), None), Code::FunctionVersionNotFound),
        (by(Some("-"), None), Code::FunctionVersionNotFound),
        (by(None, Some("v2")), Code::FunctionVersionNotFound),
        (by(None, Some("an-alias")), Code::FunctionVersionNotFound),
        (by(None, Some("-")), Code::InvalidQualifier),
    ] {
        assert_eq!(refusal(delete(query.clone()).await).0, code, "{query:?}");
        assert_eq!(versions(&desk).await.len(), 2, "{query:?}");
    }
    delete(by(None, Some("v1"))).await.unwrap();
    assert_eq!(
        versions(&desk).await,
        ["latest"],
        "a lower-case label is a version"
    );
    let unknown = desk
        .registry
        .delete(&desk.caller, "gone", by(Some("v1"), None))
        .await;
    assert_eq!(refusal(unknown), not_found("gone"));
}
