//! Running the platform: its refusals, its health, its documents.
#![cfg(test)]

use std::time::Duration;

use bugle_testkit::{FunctionSpec, Site, StartOptions, Witness, eventually, pause, resume};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused_with_the_reason() {
    let site = Site::new();
    let platform = site.start().await;
    let refused = site
        .try_start(&StartOptions::default())
        .await
        .expect_err("the data is in use");
    assert!(!refused.status.success());
    let data = site.data_dir();
    assert!(
        refused.log.contains(&*data.to_string_lossy()),
        "{}",
        refused.log
    );
    let _ = platform.control.get("/readyz").await.expect(200);
    platform.kill().await;
}

#[tokio::test]
async fn listening_beyond_this_machine_is_refused_without_the_flag() {
    for flag in ["--control-listen", "--gateway-listen"] {
        let site = Site::new();
        let options = StartOptions::default().arguments([flag, "0.0.0.0:0"]);
        let refused = site.try_start(&options).await.expect_err("nobody insisted");
        assert!(!refused.status.success());
        assert!(refused.log.contains("0.0.0.0"), "{}", refused.log);
        assert!(
            refused.log.contains("--"),
            "the flag is named: {}",
            refused.log
        );
    }
}

#[tokio::test]
async fn a_crowd_that_comes_at_once_does_not_have_to_knock_twice() {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let crowd = limit.trim().parse::<usize>().unwrap().min(500);
    let site = Site::new();
    let platform = site.start().await;
    // While it accepts none, all of them have to fit into its queue.
    pause(platform.pid);
    let address = platform.gateway.url("");
    let address = address.trim_start_matches("http://");
    let mut waiting = Vec::new();
    for number in 0..crowd {
        let connected =
            tokio::time::timeout(Duration::from_millis(900), TcpStream::connect(address));
        let connected = connected.await;
        if !matches!(connected, Ok(Ok(_))) {
            resume(platform.pid);
            panic!("number {number} had to wait: {connected:?}");
        }
        waiting.push(connected);
    }
    resume(platform.pid);
    drop(waiting);
    let _ = platform.control.get("/readyz").await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn code_outside_the_code_roots_does_not_run() {
    let site = Site::new();
    let outside = site.path().join("elsewhere");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(
        outside.join("index.py"),
        "def handler(event, context):\n    return 1\n",
    )
    .unwrap();
    std::os::unix::fs::symlink(&outside, site.code_root().join("link")).unwrap();
    let platform = site.start().await;
    for (name, path) in [
        ("0@test@outside", outside.clone()),
        ("0@test@dots", site.code_root().join("../elsewhere")),
        ("0@test@link", site.code_root().join("link")),
    ] {
        let runtime = platform.python().await;
        let body = FunctionSpec::python(name, &path)
            .with("runtime", runtime)
            .body();
        let registered = platform
            .control
            .post("/serverless/v1/functions", &body)
            .await;
        if registered.status == 200 {
            let path = format!(
                "/serverless/v1/functions/sn:cn:yrk:default:function:{name}:latest/invocations"
            );
            let answer = platform.gateway.post(&path, &serde_json::json!({})).await;
            assert!(answer.status >= 400, "{name} ran: {}", answer.text());
        }
    }
    platform.kill().await;
}

#[tokio::test]
async fn health_metrics_and_documents_are_served() {
    let site = Site::new();
    let code = site.write_code(
        "f",
        "index.py",
        "def handler(event, context):\n    return 1\n",
    );
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@f", &code))
        .await;
    let _ = platform.invoke(&function, "{}").await.expect(200);
    for path in ["/healthz", "/readyz"] {
        let _ = platform.control.get(path).await.expect(200);
    }
    let _ = platform.gateway.get("/healthz").await.expect(200);

    let document = platform
        .control
        .get("/openapi.json")
        .await
        .expect(200)
        .json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/serverless/v1/functions"]["post"].is_object());
    let page = platform.control.get("/docs").await.expect(200).text();
    for line in page.lines() {
        assert!(
            !line.contains("src=\"http"),
            "it needs the internet: {line}"
        );
        assert!(
            !line.contains("rel=\"stylesheet\" href=\"http"),
            "it needs the internet: {line}"
        );
    }

    let metrics = eventually("the call is counted", Duration::from_secs(10), || async {
        let text = platform.control.get("/metrics").await.expect(200).text();
        if text.contains("0@test@f") {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await;
    assert!(
        metrics
            .lines()
            .all(|line| line.starts_with('#') || line.starts_with("bugle_"))
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_stop_waits_for_the_calls_that_run() {
    let source = r"
import time
def handler(event, context):
    report(event, 'it runs')
    time.sleep(0.5)
    return 'complete'
";
    let site = Site::new();
    let code = site.write_code("slow", "index.py", &(Witness::REPORT.to_owned() + source));
    let witness = Witness::new().await;
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@slow", &code))
        .await;
    let gateway = platform.gateway;
    let request = function.request(&witness.port().to_string(), &[]);
    let call = tokio::spawn(async move { gateway.send(request).await });
    eventually("the call runs", Duration::from_secs(20), || async {
        if witness.count("it runs") == 1 {
            Ok(())
        } else {
            Err("it does not".to_owned())
        }
    })
    .await;
    platform.finish().await;
    let answer = call
        .await
        .unwrap()
        .expect("the call was answered")
        .expect(200);
    assert_eq!(answer.json(), serde_json::json!("complete"));
}
