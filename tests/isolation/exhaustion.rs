//! Functions that use up what there is, beside one that goes on as before.

use std::time::Duration;

use bugle_testkit::{Platform, Registered, Site, eventually, processes_using};
use serde_json::json;
use tokio::time::Instant;

use crate::{BOUND, FORMS, evaluate, send};

/// A function that answers at once, whatever the others do.
async fn neighbour(site: &Site, platform: &Platform) -> Registered {
    let source = "def handler(event, context):\n    return 'fine'\n";
    let code = site.write_code("neighbour", "index.py", source);
    let spec = bugle_testkit::FunctionSpec::python("0@test@neighbour", &code);
    let function = platform.register(&spec).await;
    let _ = platform.invoke(&function, "{}").await.expect(200);
    function
}

/// Calls the neighbour; returns how long that took, which may be long where tests compete.
async fn is_fine(platform: &Platform, neighbour: &Registered) -> Duration {
    let begin = Instant::now();
    let answer = platform.invoke(neighbour, "{}").await.expect(200);
    assert_eq!(answer.json(), json!("fine"));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    took
}

#[tokio::test]
async fn a_memory_hog_is_ended_and_told_its_limit() {
    for form in FORMS {
        let site = Site::new();
        let mut platform = site.start().await;
        platform.tolerate("instance");
        let neighbour = neighbour(&site, &platform).await;
        let spec = form.spec(&site, "hog").with("memory", 128);
        let function = platform.register(&spec).await;
        let begin = Instant::now();
        let answer = send(&platform, &function, &json!({"do": "hog()"})).await;
        let text = answer.text();
        assert!(answer.status >= 500, "{text}");
        assert!(text.contains("out of memory, limit 128 MB"), "{text}");
        assert!(begin.elapsed() < Duration::from_secs(20));
        is_fine(&platform, &neighbour).await;
        assert_eq!(evaluate(&platform, &function, "1 + 1").await, 2);
        platform.finish().await;
    }
}

#[tokio::test]
async fn a_fork_bomb_meets_a_limit_and_leaves_nothing() {
    for form in FORMS {
        let site = Site::new();
        let mut platform = site.start().await;
        platform.tolerate("instance");
        let neighbour = neighbour(&site, &platform).await;
        let function = platform
            .register(&form.spec(&site, "bomb").with("memory", 2048))
            .await;
        let outcome = evaluate(&platform, &function, "bomb()").await;
        assert_eq!(outcome[1], "EAGAIN", "{outcome}");
        assert!(outcome[0].as_u64().unwrap() < 256, "{outcome}");
        is_fine(&platform, &neighbour).await;
        let path = format!("/serverless/v1/functions/{}", function.name);
        let _ = platform.control.delete(&path).await.expect(200);
        // The children of a program show its variables, those of a Python function its code.
        let code = site.code_root().join("bomb");
        eventually("no process is left", BOUND, || async {
            let left = processes_using(&code);
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
        platform.finish().await;
    }
}

#[tokio::test]
async fn a_full_tmp_is_the_functions_own_trouble() {
    for form in FORMS {
        let site = Site::new();
        let options = bugle_testkit::StartOptions::default().config("confinement", "tmp_mb", "16");
        let platform = site.start_with(&options).await;
        let neighbour = neighbour(&site, &platform).await;
        let function = platform.register(&form.spec(&site, "filler")).await;
        let outcome = evaluate(&platform, &function, "fill('/tmp/all')").await;
        assert_eq!(outcome, json!([16, "ENOSPC"]));
        is_fine(&platform, &neighbour).await;
        platform.finish().await;
    }
}

#[tokio::test]
async fn an_endless_log_fills_no_disk_and_slows_nobody() {
    for form in FORMS {
        let site = Site::new();
        let platform = site.start().await;
        let neighbour = neighbour(&site, &platform).await;
        let function = platform.register(&form.spec(&site, "flood")).await;
        let flooding = evaluate(&platform, &function, "flood(3)");
        let watching = async {
            let end = Instant::now() + Duration::from_secs(3);
            let mut times = Vec::new();
            while Instant::now() < end {
                times.push(is_fine(&platform, &neighbour).await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            times.sort_unstable();
            let median = times[times.len() / 2];
            assert!(median < Duration::from_millis(250), "{median:?}");
        };
        let (answer, ()) = tokio::join!(flooding, watching);
        let written = answer.as_u64().unwrap();
        assert!(written > 1_000_000, "{written}");
        let logs = site.data_dir().join("logs");
        let kept = eventually("the loss is told in the log", BOUND, || async {
            let text = text_of(&logs);
            if text.contains("lines were dropped") {
                Ok(text.len())
            } else {
                Err(format!("not of {written} bytes"))
            }
        })
        .await;
        assert!(kept < 100 * 1024 * 1024, "{kept} of {written} bytes");
        platform.finish().await;
    }
}

/// What is in all files below `folder`, as far as it is text.
fn text_of(folder: &std::path::Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = entries.map(|entry| match entry.metadata() {
        Ok(file) if file.is_dir() => text_of(&entry.path()),
        Ok(_) => String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()).into(),
        Err(_) => String::new(),
    });
    texts.collect()
}
