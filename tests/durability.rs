//! What was acknowledged is there after any end of the server.
#![cfg(test)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_testkit::{Endpoint, FunctionSpec, Site, eventually};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

const ROUNDS: usize = 30;
const CLIENTS: usize = 8;

/// What the clients of one round know to be written.
#[derive(Default)]
struct Acknowledged {
    registered: Vec<String>,
    deleted: Vec<String>,
    /// The highest number that an update of the client's own function wrote.
    counter: usize,
}

#[tokio::test]
async fn thirty_kills_under_write_load_lose_no_acknowledged_write_and_restart_in_a_second() {
    let site = Site::new();
    let mut all = BTreeSet::new();
    let mut counters = [0; CLIENTS];
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let begin = Instant::now();
        let platform = site.start().await;
        slowest = slowest.max(begin.elapsed());
        let control = platform.control;
        if round == 0 {
            prepare(control, &site).await;
        }

        let before = listed(control, "").await;
        let missing: Vec<_> = all.difference(&before).collect();
        assert!(missing.is_empty(), "lost before round {round}: {missing:?}");

        let ready = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let code = site.code_root();
                let ready = Arc::clone(&ready);
                tokio::spawn(async move { write(control, round, client, &code, &ready).await })
            })
            .collect();
        eventually(
            "every client has written",
            Duration::from_secs(30),
            || async {
                let count = ready.load(Ordering::Relaxed);
                if count >= CLIENTS {
                    Ok(())
                } else {
                    Err(format!("{count} clients"))
                }
            },
        )
        .await;
        // The instant differs from round to round, so that every phase of a commit is hit.
        tokio::time::sleep(Duration::from_millis(20 + (round as u64 * 37) % 180)).await;
        platform.kill().await;

        let mut gone = Vec::new();
        for (client, task) in clients.into_iter().enumerate() {
            let acknowledged = task.await.unwrap();
            all.extend(acknowledged.registered);
            gone.extend(acknowledged.deleted);
            counters[client] = counters[client].max(acknowledged.counter);
        }
        for name in &gone {
            all.remove(name);
        }

        let platform = site.start().await;
        let after = listed(platform.control, &format!("load-{round}-")).await;
        let expected = all
            .iter()
            .filter(|name| name.contains(&format!("load-{round}-")));
        let lost: Vec<_> = expected.filter(|name| !after.contains(*name)).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        let back: Vec<_> = gone.iter().filter(|name| after.contains(*name)).collect();
        assert!(back.is_empty(), "round {round} brought back {back:?}");
        for (client, written) in counters.iter().enumerate() {
            let stored = counter(platform.control, client).await;
            assert!(
                stored >= *written,
                "client {client}: {written} was written, {stored} is there"
            );
        }
        platform.kill().await;
    }
    assert!(
        all.len() > ROUNDS * CLIENTS,
        "only {} writes were made",
        all.len()
    );
    assert!(
        slowest <= Duration::from_secs(1),
        "the slowest restart took {slowest:?}"
    );
    println!(
        "{} acknowledged registrations, slowest restart {slowest:?}",
        all.len()
    );
}

/// Registers the function that each client keeps updating.
async fn prepare(control: Endpoint, site: &Site) {
    for client in 0..CLIENTS {
        let spec = spec(&format!("0@test@counter-{client}"), &site.code_root());
        let _ = control
            .post("/serverless/v1/functions", &spec.body())
            .await
            .expect(200);
    }
}

fn spec(name: &str, code: &std::path::Path) -> FunctionSpec {
    FunctionSpec::python(name, code)
        .with("runtime", "python3.11")
        .with("description", "0")
}

/// Registers, deletes and updates until the server is gone.
async fn write(
    control: Endpoint,
    round: usize,
    client: usize,
    code: &std::path::Path,
    ready: &AtomicUsize,
) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let mut doomed: Option<String> = None;
    for number in 0.. {
        let name = format!("0@test@load-{round}-{client}-{number}");
        if !post(control, &spec(&name, code).body()).await {
            return acknowledged;
        }
        acknowledged.registered.push(name.clone());
        if number == 1 {
            ready.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(name) = doomed.take() {
            // Whether an unanswered delete happened is unknown, so it is neither there nor gone.
            acknowledged
                .registered
                .retain(|registered| *registered != name);
            if !delete(control, &name).await {
                return acknowledged;
            }
            acknowledged.deleted.push(name);
        }
        if number % 5 == 0 {
            doomed = Some(name);
        }
        match count_up(control, client, code).await {
            Some(written) => acknowledged.counter = written,
            None => return acknowledged,
        }
    }
    acknowledged
}

async fn post(control: Endpoint, body: &Value) -> bool {
    request(
        control,
        "POST",
        "/serverless/v1/functions",
        &body.to_string(),
    )
    .await
    .is_some()
}

async fn delete(control: Endpoint, name: &str) -> bool {
    let path = format!("/serverless/v1/functions/{name}");
    request(control, "DELETE", &path, "").await.is_some()
}

/// Writes the next number into the description of the client's function.
async fn count_up(control: Endpoint, client: usize, code: &std::path::Path) -> Option<usize> {
    let name = format!("0@test@counter-{client}");
    let path = format!("/serverless/v1/functions/{name}");
    let function = request(control, "GET", &format!("{path}?kind=faas"), "").await?;
    let number = number(&function["function"]) + 1;
    let body = spec(&name, code)
        .with("description", number.to_string())
        .with("revisionId", function["function"]["revisionId"].clone());
    request(control, "PUT", &path, &body.body().to_string()).await?;
    Some(number)
}

async fn counter(control: Endpoint, client: usize) -> usize {
    let path = format!("/serverless/v1/functions/0@test@counter-{client}?kind=faas");
    number(&control.get(&path).await.expect(200).json()["function"])
}

fn number(function: &Value) -> usize {
    function["description"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

/// The answer, or none when the server is gone.
async fn request(control: Endpoint, method: &str, path: &str, body: &str) -> Option<Value> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(bytes::Bytes::copy_from_slice(body.as_bytes()))
        .unwrap();
    let answer = control.send(request).await.ok()?;
    Some(answer.expect(200).json())
}

/// The names of the functions whose name contains `part`.
async fn listed(control: Endpoint, part: &str) -> BTreeSet<String> {
    let path = format!("/serverless/v1/functions?name={part}&pageIndex=1&pageSize=1000000");
    let first = control.get(&path).await.expect(200).json();
    let total = first["result"]["total"].as_u64().unwrap();
    let page = first["result"]["functions"].as_array().map_or(0, Vec::len);
    let mut names = names(&first);
    if page > 0 {
        let pages = total.div_ceil(page as u64);
        let rest = join_all((2..=pages).map(|index| {
            let path =
                format!("/serverless/v1/functions?name={part}&pageIndex={index}&pageSize={page}");
            async move { control.get(&path).await.expect(200).json() }
        }));
        for answer in rest.await {
            names.extend(self::names(&answer));
        }
    }
    assert_eq!(names.len() as u64, total, "the list is complete");
    names
}

fn names(answer: &Value) -> BTreeSet<String> {
    let functions = answer["result"]["functions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    functions
        .iter()
        .map(|function| function["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_killed_server_leaves_no_instance_behind_and_functions_answer_again() {
    let source = "def handler(event, context):\n    return context.get_instance_id()\n";
    let site = Site::new();
    let code = site.write_code("who", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@who", &code))
        .await;
    let who = platform.invoke(&function, "{}").await.expect(200).json();
    let pid = platform.instance_pids(&function).await[0];
    platform.kill().await;
    eventually("no process is left", Duration::from_secs(10), || async {
        let left = bugle_testkit::processes_using(site.path());
        if left.is_empty() && !bugle_testkit::is_running(pid) {
            Ok(())
        } else {
            Err(format!("{left:?} and {pid}"))
        }
    })
    .await;
    let platform = site.start().await;
    assert_ne!(
        platform.invoke(&function, "{}").await.expect(200).json(),
        who
    );
    platform.finish().await;
}
