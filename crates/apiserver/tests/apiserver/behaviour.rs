//! What happens over time: the life of a Pod, watches, and things that go wrong on purpose.

use std::time::Duration;

use bugle_apiserver::{ApiServer, FATE, Fault, Options, Trouble};
use serde_json::{Value, json};

use crate::http::{Response, send};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn start() -> ApiServer {
    ApiServer::start(Options::default()).await.unwrap()
}

fn ask(server: &ApiServer, method: &str, path: &str, body: &Value) -> Response {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    send(
        &server.url(),
        method,
        path,
        &[("Authorization", "Bearer admin"), ("Content-Type", kind)],
        &body,
    )
}

fn pod(name: &str, fate: Option<&str>) -> Value {
    let annotations = fate.map_or(Value::Null, |fate| json!({ FATE: fate }));
    json!({
        "metadata": {"name": name, "labels": {"app": name}, "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i:1"}]},
    })
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i:1"}]},
        }},
    })
}

fn ready(pod: &Value) -> bool {
    pod["status"]["conditions"][2]["status"] == "True"
}

/// The lines of a watch from the beginning of time, until the server ends it.
fn watched(server: &ApiServer, query: &str) -> Vec<Value> {
    let path = format!("{PODS}?watch=true&timeoutSeconds=1{query}");
    let text = ask(server, "GET", &path, &Value::Null).text;
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// An event in the form of the recording.
fn shape(event: &Value) -> Value {
    let object = &event["object"];
    let list = |value: &Value, form: &dyn Fn(&Value) -> String| {
        let items = value.as_array().into_iter().flatten();
        json!(items.map(form).collect::<Vec<_>>())
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    json!({
        "type": event["type"],
        "phase": object["status"]["phase"],
        "conditions": list(&object["status"]["conditions"], &|condition| {
            format!("{}={}", text(&condition["type"]), text(&condition["status"]))
        }),
        "containers": list(&object["status"]["containerStatuses"], &|status| {
            let (name, state) = status["state"].as_object().unwrap().iter().next().unwrap();
            state["reason"].as_str().map_or_else(|| name.clone(), |reason| format!("{name}:{reason}"))
        }),
        "terminating": !object["metadata"]["deletionTimestamp"].is_null(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_die_in_the_steps_of_a_real_cluster() {
    let recorded: Value = serde_json::from_str(include_str!("recorded/watch.json")).unwrap();
    let server = start().await;
    let big = json!({
        "metadata": {"name": "big"},
        "spec": {"containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "1k"}}}]},
    });
    let since = server.objects("nodes", "")[2]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    for object in [pod("good", None), pod("broken", Some("image-pull")), big] {
        assert_eq!(ask(&server, "POST", PODS, &object).status, 201);
    }
    server
        .until(|server| {
            let pods = server.objects("pods", "default");
            let state = |name: &str| {
                pods.iter()
                    .find(|pod| pod["metadata"]["name"] == name)
                    .unwrap()
                    .clone()
            };
            ready(&state("good"))
                && state("broken")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                    == "ImagePullBackOff"
                && state("big")["status"]["conditions"][0]["reason"] == "Unschedulable"
        })
        .await;
    for name in ["good", "broken"] {
        ask(&server, "DELETE", &format!("{PODS}/{name}"), &Value::Null);
    }
    server
        .until(|server| server.objects("pods", "default").len() == 1)
        .await;
    for (name, kind) in [
        ("good", "ready"),
        ("broken", "image-pull"),
        ("big", "unschedulable"),
    ] {
        let query = format!("&resourceVersion={since}&fieldSelector=metadata.name%3D{name}");
        let events: Vec<_> = watched(&server, &query).iter().map(shape).collect();
        let wanted = recorded[kind].as_array().unwrap();
        // The recorded Pod without a node was deleted, too.
        let wanted = if kind == "unschedulable" {
            &wanted[..2]
        } else {
            wanted
        };
        assert_eq!(events, wanted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_tell_the_revision_of_a_quiet_watch() {
    let recorded: Value = serde_json::from_str(include_str!("recorded/watch.json")).unwrap();
    let server = ApiServer::start(Options {
        bookmark_every: Duration::from_millis(100),
        ..Options::default()
    })
    .await
    .unwrap();
    let events = watched(&server, "&allowWatchBookmarks=true");
    let mut bookmark = events[0]["object"].clone();
    bookmark["metadata"]["resourceVersion"] =
        recorded["bookmark"]["metadata"]["resourceVersion"].clone();
    assert_eq!(
        (&events[0]["type"], &bookmark),
        (&json!("BOOKMARK"), &recorded["bookmark"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let server = start().await;
    ask(&server, "POST", PODS, &pod("a", None));
    let events = watched(
        &server,
        "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
    );
    let end = events
        .iter()
        .position(|event| event["type"] == "BOOKMARK")
        .unwrap();
    assert!(events[..end].iter().all(|event| event["type"] == "ADDED"));
    assert_eq!(
        events[end]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_breaks_in_the_middle() {
    let server = start().await;
    let url = server.url();
    let reader = std::thread::spawn(move || {
        send(
            &url,
            "GET",
            &format!("{PODS}?watch=true&timeoutSeconds=30"),
            &[("Authorization", "Bearer admin")],
            "",
        )
    });
    // The stream is there once its request was seen.
    while !server
        .seen()
        .iter()
        .any(|seen| seen.path.contains("watch=true"))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while !reader.is_finished() {
        server.cut_watches();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reader.join().unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_replaces_lost_pods_and_leaves_nothing_behind() {
    let server = start().await;
    ask(&server, "POST", DEPLOYMENTS, &deployment("d", 3));
    let all_ready = |server: &ApiServer| {
        server
            .objects("pods", "default")
            .iter()
            .filter(|pod| ready(pod))
            .count()
            == 3
    };
    server.until(all_ready).await;
    let lost = server.objects("pods", "default")[0]["spec"]["nodeName"]
        .as_str()
        .unwrap()
        .to_owned();
    server.set_node_answers(&lost, false);
    let moved = |server: &ApiServer| {
        let pods = server.objects("pods", "default");
        pods.iter()
            .filter(|pod| ready(pod) && pod["spec"]["nodeName"] != *lost)
            .count()
            == 3
    };
    server.until(moved).await;
    server.remove_node(&lost);
    server.until(all_ready).await;
    ask(&server, "DELETE", &format!("{DEPLOYMENTS}/d"), &Value::Null);
    server
        .until(|server| {
            server.objects("pods", "default").is_empty()
                && server.objects("replicasets", "default").is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_template_replaces_all_pods() {
    let server = start().await;
    ask(&server, "POST", DEPLOYMENTS, &deployment("d", 2));
    server
        .until(|server| {
            server
                .objects("pods", "default")
                .iter()
                .filter(|pod| ready(pod))
                .count()
                == 2
        })
        .await;
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}});
    assert_eq!(
        ask(&server, "PATCH", &format!("{DEPLOYMENTS}/d"), &patch).status,
        200
    );
    server
        .until(|server| {
            let pods = server.objects("pods", "default");
            pods.len() == 2
                && pods
                    .iter()
                    .all(|pod| ready(pod) && pod["metadata"]["annotations"]["a"] == "b")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_no_longer_fits_its_deployment_is_let_go_and_replaced() {
    let server = start().await;
    ask(&server, "POST", DEPLOYMENTS, &deployment("d", 1));
    server
        .until(|server| server.objects("pods", "default").len() == 1)
        .await;
    let name = server.objects("pods", "default")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    ask(
        &server,
        "PATCH",
        &format!("{PODS}/{name}"),
        &json!({"metadata": {"labels": {"app": name}}}),
    );
    server
        .until(|server| server.objects("pods", "default").len() == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_told_in_the_deployment() {
    let server = start().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    ask(
        &server,
        "POST",
        "/api/v1/namespaces/default/resourcequotas",
        &quota,
    );
    ask(&server, "POST", DEPLOYMENTS, &deployment("d", 2));
    server
        .until(|server| {
            let deployments = server.objects("deployments", "default");
            let conditions = deployments[0]["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let failure = conditions
                .iter()
                .find(|condition| condition["type"] == "ReplicaFailure");
            failure.is_some_and(|failure| {
                failure["message"]
                    .as_str()
                    .unwrap()
                    .contains("exceeded quota")
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_an_object_back() {
    let server = start().await;
    let mut held =
        json!({"metadata": {"name": "c", "finalizers": ["example.com/hold"]}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps";
    ask(&server, "POST", path, &held);
    let answered = ask(&server, "DELETE", &format!("{path}/c"), &Value::Null).body();
    assert!(answered["metadata"]["deletionTimestamp"].is_string());
    held["metadata"]["finalizers"] = Value::Null;
    assert_eq!(
        ask(
            &server,
            "PATCH",
            &format!("{path}/c"),
            &json!({"metadata": {"finalizers": null}})
        )
        .status,
        200
    );
    assert_eq!(
        ask(&server, "GET", &format!("{path}/c"), &Value::Null).status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_faults_hit_the_requests_they_are_meant_for_and_no_others() {
    let server = start().await;
    server.fail(Fault::next(1, "/pods", Trouble::Refuse(429, Some(3))).of("POST"));
    assert_eq!(ask(&server, "GET", PODS, &Value::Null).status, 200);
    let refused = ask(&server, "POST", PODS, &pod("a", None));
    assert_eq!(
        (refused.status, refused.headers["retry-after"].as_str()),
        (429, "3")
    );
    server.fail(Fault::next(1, "/pods", Trouble::LoseAnswer));
    assert_eq!(ask(&server, "POST", PODS, &pod("a", None)).status, 0);
    assert_eq!(ask(&server, "POST", PODS, &pod("a", None)).status, 409);
    server.fail(Fault::next(1, "/pods", Trouble::Reset));
    assert_eq!(ask(&server, "POST", PODS, &pod("b", None)).status, 0);
    assert_eq!(
        ask(&server, "GET", &format!("{PODS}/b"), &Value::Null).status,
        404
    );
    server.fail(Fault::next(1, "/pods", Trouble::CutAnswer));
    let cut = ask(&server, "GET", PODS, &Value::Null);
    assert!(cut.status == 200 && serde_json::from_str::<Value>(&cut.text).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_comes_back_on_its_port_with_all_it_had() {
    let server = start().await;
    ask(&server, "POST", PODS, &pod("a", None));
    server.stop_listening();
    while std::net::TcpStream::connect(server.url().trim_start_matches("http://")).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.listen_again().await.unwrap();
    assert_eq!(
        ask(&server, "GET", &format!("{PODS}/a"), &Value::Null).status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_have_everything_once() {
    let server = start().await;
    for name in ["a", "b", "c", "d", "e"] {
        ask(&server, "POST", PODS, &pod(name, Some("pending")));
    }
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = ask(
            &server,
            "GET",
            &format!("{PODS}?limit=2&continue={token}"),
            &Value::Null,
        )
        .body();
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|pod| pod["metadata"]["name"].clone()),
        );
        match page["metadata"]["continue"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    ask(&server, "POST", PODS, &pod("f", Some("pending")));
    server.compact();
    assert_eq!(
        ask(
            &server,
            "GET",
            &format!("{PODS}?limit=2&continue={token}"),
            &Value::Null
        )
        .status,
        410
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_allows_what_its_rules_say() {
    let server = start().await;
    let words = |list: &[&str]| {
        list.iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let rule = bugle_apiserver::Rule {
        groups: words(&[""]),
        resources: words(&["pods"]),
        verbs: words(&["get", "list"]),
    };
    server.grant("reader", "reader", vec![rule]);
    let ask = |method: &str| {
        send(
            &server.url(),
            method,
            PODS,
            &[("Authorization", "Bearer reader")],
            "{}",
        )
        .status
    };
    assert_eq!((ask("GET"), ask("POST")), (200, 403));
}
