//! Names, kinds and runtimes (contract 2.8), and the hook handlers that follow from them (7.4).

use serde_json::json;

use super::Desk;

#[tokio::test]
async fn each_kind_has_its_draft_and_its_place() {
    for (kind, shown, draft, place) in [
        (json!(null), "yrlib", "$latest", "/yr/functions"),
        (json!(""), "yrlib", "$latest", "/yr/functions"),
        (json!("yrlib"), "yrlib", "$latest", "/yr/functions"),
        (json!("faas"), "faas", "latest", "/sn/functions"),
        (json!("agent"), "agent", "$latest", "/sn/functions"),
        (json!("custom"), "custom", "$latest", "/yr/functions"),
        (
            json!("posix-runtime-custom"),
            "posix-runtime-custom",
            "$latest",
            "/yr/functions",
        ),
    ] {
        let desk = Desk::new().await;
        let function = desk.registered(json!({"kind": kind})).await;
        assert_eq!(
            (function.kind.as_str(), function.version_number.as_str()),
            (shown, draft)
        );
        let keys = desk.keys().await;
        let published: Vec<_> = keys
            .iter()
            .filter(|key| key.contains("/functions/"))
            .collect();
        assert_eq!(published.len(), 1, "{keys:?}");
        assert!(published[0].starts_with(place), "{keys:?}");
        let bounds = keys.iter().any(|key| key.starts_with("/instances/"));
        assert_eq!(bounds, shown == "faas", "{keys:?}");
    }
}

#[tokio::test]
async fn a_runtime_gets_the_name_that_its_kind_uses() {
    for (kind, sent, stored) in [
        ("faas", "java1.8", "java8"),
        ("faas", "java8", "java8"),
        ("yrlib", "java8", "java1.8"),
        ("agent", "java8", "java1.8"),
        ("yrlib", "java1.8", "java1.8"),
        ("faas", "python3.11", "python3.11"),
        ("faas", "posix-custom-runtime", "posix-custom-runtime"),
    ] {
        let desk = Desk::new().await;
        let function = desk
            .registered(json!({"kind": kind, "runtime": sent}))
            .await;
        assert_eq!(function.runtime, stored, "{kind} {sent}");
    }
}

#[tokio::test]
async fn every_documented_runtime_may_be_registered() {
    let desk = Desk::new().await;
    for (at, runtime) in [
        "java8",
        "java11",
        "java17",
        "java21",
        "java1.8",
        "python3.6",
        "python3.8",
        "python3.9",
        "python3.11",
        "posix-custom-runtime",
        "cpp11",
        "go1.13",
        "nodejs10.15.2",
        "cpp11-bin",
        "custom runtime",
        "custom-runtime",
        "python3.14",
    ]
    .into_iter()
    .enumerate()
    {
        desk.registered(json!({"name": format!("f{at}"), "runtime": runtime}))
            .await;
    }
}

#[tokio::test]
async fn hooks_follow_the_kind_and_the_runtime() {
    let own = json!({"init": "my.init"});
    for (kind, runtime, init, shutdown) in [
        (
            "faas",
            "python3.9",
            "faas_executor.faasInitHandler",
            "faas_executor.faasShutDownHandler",
        ),
        (
            "faas",
            "java11",
            "org.yuanrong.services.handler.FaaSExecutor.faasInitHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasShutDownHandler",
        ),
        ("faas", "go1.13", "", ""),
        (
            "yrlib",
            "java11",
            "org.yuanrong.handler.InitHandler",
            "org.yuanrong.handler.ShutdownHandler",
        ),
        ("yrlib", "cpp11", "my.init", ""),
        ("yrlib", "python3.9", "my.init", "yrlib_handler.shutdown"),
        ("custom", "python3.9", "my.init", ""),
        ("agent", "python3.9", "", ""),
        ("posix-runtime-custom", "python3.9", "", ""),
    ] {
        let desk = Desk::new().await;
        let fields = json!({"name": "f", "kind": kind, "runtime": runtime, "hookHandler": own});
        let draft = desk.registered(fields).await.version_number;
        let record = desk
            .value(&format!("/repo/FunctionVersion/yrk/default//f/{draft}/"))
            .await;
        let hooks = &record["FunctionVersion"]["HookHandler"];
        assert_eq!(
            hooks["init"].as_str().unwrap_or_default(),
            init,
            "{kind} {runtime}"
        );
        assert_eq!(
            hooks["shutdown"].as_str().unwrap_or_default(),
            shutdown,
            "{kind} {runtime}"
        );
    }
}
