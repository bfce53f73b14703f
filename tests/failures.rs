//! What a caller gets when the function fails, and how the platform heals.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, Registered, Site, Witness, eventually, within};
use serde_json::json;
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_exception_is_answered_with_its_type_its_text_and_where_it_was_raised() {
    let source = "def handler(event, context):\n    return event['no such key']\n";
    let site = Site::new();
    let code = site.write_code("raise", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@raise", &code))
        .await;
    let answer = platform.invoke(&function, "{}").await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4002");
    assert_eq!(answer.header("content-type"), "application/json");
    let text = answer.text();
    assert!(
        text.contains("no such key") && text.contains("KeyError"),
        "{text}"
    );
    assert!(
        text.contains("index.py") && text.contains("line 2"),
        "{text}"
    );
    platform.finish().await;
}

#[tokio::test]
async fn limits_of_bodies_have_their_codes() {
    let source = r"
def handler(event, context):
    if event == 'large':
        return 'x' * 6300000
    return {1, 2}
";
    let site = Site::new();
    let code = site.write_code("limits", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@limits", &code))
        .await;
    let answer = platform.invoke(&function, r#""large""#).await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4004");
    let answer = platform.invoke(&function, "{}").await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4007");
    let body = format!("\"{}\"", "x".repeat(7 * 1024 * 1024));
    let answer = platform
        .try_invoke(&function, &body, &[])
        .await
        .unwrap()
        .expect(413);
    assert_eq!(answer.header("x-inner-code"), "4140");
    platform.finish().await;
}

#[tokio::test]
async fn a_handler_that_cannot_be_loaded_says_why() {
    let site = Site::new();
    let code = site.write_code("typo", "index.py", "import no_such_package\n");
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@typo", &code))
        .await;
    let answer = platform.invoke(&function, "{}").await;
    assert!(answer.status >= 500, "{}", answer.text());
    assert!(
        answer.text().contains("no_such_package"),
        "{}",
        answer.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_crash_is_answered_with_its_cause_and_the_next_call_runs() {
    let source = r"
import ctypes, os
def handler(event, context):
    if event == 'exit':
        os._exit(3)
    if event == 'signal':
        ctypes.string_at(0)
    return 'fine'
";
    let site = Site::new();
    let code = site.write_code("crash", "index.py", source);
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let function = platform
        .register(&FunctionSpec::python("0@test@crash", &code))
        .await;
    for (event, cause) in [(r#""exit""#, "3"), (r#""signal""#, "signal 11")] {
        let answer = platform.invoke(&function, event).await;
        assert!(answer.status >= 500, "{}", answer.text());
        assert!(answer.text().contains(cause), "{}", answer.text());
        assert_eq!(
            platform.invoke(&function, "{}").await.expect(200).json(),
            json!("fine")
        );
    }
    platform.finish().await;
}

#[tokio::test]
async fn an_overdue_call_is_answered_at_its_deadline_and_its_instance_replaced() {
    let source = r"
import time
def handler(event, context):
    while event == 'hang':
        try:
            time.sleep(60)
        except BaseException:
            pass
    return context.get_instance_id()
";
    let site = Site::new();
    let code = site.write_code("hang", "index.py", source);
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let spec = FunctionSpec::python("0@test@hang", &code)
        .with("timeout", 1)
        .with("maxInstance", "1");
    let function = platform.register(&spec).await;
    let before = platform.invoke(&function, "{}").await.expect(200).json();
    let process = platform.instance_pids(&function).await[0];
    let begin = Instant::now();
    let answer = platform.invoke(&function, r#""hang""#).await.expect(504);
    let took = begin.elapsed();
    assert_eq!(answer.header("x-inner-code"), "4010");
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
    let after = platform.invoke(&function, "{}").await.expect(200).json();
    assert_ne!(before, after);
    eventually("the hanging process is gone", BOUND, || async move {
        if bugle_testkit::is_running(process) {
            Err("it runs".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    platform.finish().await;
}

/// A function whose initializer fails while the file `broken` lies beside it.
const FRAGILE: &str = r"
import os
HERE = os.path.dirname(os.path.abspath(__file__))
def initializer(context):
    if os.path.exists(os.path.join(HERE, 'broken')):
        raise RuntimeError('the database is away')
def handler(event, context):
    return 'healed'
";

#[tokio::test]
async fn a_failing_initializer_is_told_at_once_and_heals_without_a_new_registration() {
    let site = Site::new();
    let code = site.write_code("fragile", "index.py", FRAGILE);
    std::fs::write(code.join("broken"), "").unwrap();
    let mut platform = site.start().await;
    platform.tolerate("init");
    platform.tolerate("start");
    let spec = FunctionSpec::python("0@test@fragile", &code)
        .with(
            "extendedHandler",
            json!({"initializer": "index.initializer"}),
        )
        .with("extendedTimeout", json!({"initializer": 5}));
    let function = platform.register(&spec).await;
    let call = within("the first answer", BOUND, platform.invoke(&function, "{}"));
    let answer = call.await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4201");
    assert!(
        answer.text().contains("the database is away"),
        "{}",
        answer.text()
    );

    std::fs::remove_file(code.join("broken")).unwrap();
    eventually("the function has healed", BOUND, || async {
        let answer = platform.invoke(&function, "{}").await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn an_initializer_that_takes_too_long_is_ended() {
    let source = r"
import time
def initializer(context):
    time.sleep(60)
def handler(event, context):
    return 'never'
";
    let site = Site::new();
    let code = site.write_code("slow", "index.py", source);
    let mut platform = site.start().await;
    platform.tolerate("init");
    platform.tolerate("start");
    let spec = FunctionSpec::python("0@test@slow", &code)
        .with(
            "extendedHandler",
            json!({"initializer": "index.initializer"}),
        )
        .with("extendedTimeout", json!({"initializer": 1}));
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await.expect(504);
    assert_eq!(answer.header("x-inner-code"), "4211");
    platform.finish().await;
}

/// Reports every execution, so that running a call twice shows.
const REPORTING: &str = r"
import time
def handler(event, context):
    report(event['witness'], event['call'])
    time.sleep(0.004)
    return event['call']
";

#[tokio::test]
async fn a_thousand_calls_under_random_kills_get_one_answer_each_and_none_runs_twice() {
    const CALLS: usize = 1000;
    const KILLS: usize = 30;
    let site = Site::new();
    let witness = Witness::new().await;
    let port = witness.port();
    let source = Witness::REPORT.to_owned() + REPORTING;
    let code = site.write_code("mark", "index.py", &source);
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let spec = FunctionSpec::python("0@test@mark", &code)
        .with("maxInstance", "6")
        .with("concurrentNum", "2");
    let function = platform.register(&spec).await;
    let platform = Arc::new(platform);
    let kills = Arc::new(AtomicUsize::new(0));
    let killer = tokio::spawn(kill_at_random(
        Arc::clone(&platform),
        function.clone(),
        Arc::clone(&kills),
    ));

    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (platform, function) = (Arc::clone(&platform), function.clone());
            let (next, kills) = (Arc::clone(&next), Arc::clone(&kills));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let call = next.fetch_add(1, Ordering::Relaxed);
                    // A fast machine has answered the thousand before many were killed.
                    if call >= CALLS && kills.load(Ordering::Relaxed) >= KILLS {
                        return answers;
                    }
                    let event = json!({"witness": port, "call": format!("call-{call}")});
                    let answer = platform
                        .try_invoke(&function, &event.to_string(), &[])
                        .await;
                    answers.push((call, answer));
                }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.unwrap());
    }
    killer.abort();
    let cancelled = killer.await.expect_err("it kills until it is told not to");
    assert!(cancelled.is_cancelled(), "{cancelled}");

    let calls = answers.len();
    assert!(calls >= CALLS, "{calls} calls were answered");
    let mut succeeded = 0;
    for (call, answer) in answers {
        let answer = answer.unwrap_or_else(|error| panic!("call {call} has no answer: {error}"));
        let runs = witness.count(&format!("call-{call}"));
        assert!(runs <= 1, "call {call} ran {runs} times");
        if answer.status == 200 {
            assert_eq!(answer.json(), json!(format!("call-{call}")));
            assert_eq!(runs, 1, "call {call} was answered without a run");
            succeeded += 1;
        } else {
            assert!(
                (500..600).contains(&answer.status),
                "call {call}: {}",
                answer.text()
            );
            assert!(
                answer.json()["code"].is_u64(),
                "call {call}: {}",
                answer.text()
            );
        }
    }
    assert!(
        succeeded > calls / 2,
        "only {succeeded} of {calls} calls succeeded"
    );
    Arc::into_inner(platform)
        .expect("all clients have ended")
        .finish()
        .await;
}

/// Kills instances, one at a time and in an order that repeats from run to run, for as long as it is
/// let; counts those that were running when they were hit.
async fn kill_at_random(platform: Arc<Platform>, function: Registered, kills: Arc<AtomicUsize>) {
    let mut state: u32 = 2024;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as usize / 65_536 % below
    };
    loop {
        let pids = platform.instance_pids(&function).await;
        if !pids.is_empty() {
            let pid = pids[random(pids.len())];
            let was_running = bugle_testkit::is_running(pid);
            bugle_testkit::kill(pid);
            kills.fetch_add(usize::from(was_running), Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(10 + random(40) as u64)).await;
    }
}
