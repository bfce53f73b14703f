//! What user code tries and may not do, in a Python function and in a program, against the real
//! platform: to reach it, its machine and its other functions, and to use them up.
#![cfg(test)]

mod attempts;
mod exhaustion;

use std::time::Duration;

use bugle_testkit::{Answer, FunctionSpec, Platform, Registered, Site, StartOptions};
use serde_json::{Value, json};

use attempts::{Outside, try_all};

const PROBE: &str = include_str!("probe.py");
const BOUND: Duration = Duration::from_mins(1);

/// A function whose code is a handler and a program at once, as one of the two.
#[derive(Clone, Copy, Debug)]
enum Form {
    Python,
    Program,
}

const FORMS: [Form; 2] = [Form::Python, Form::Program];

impl Form {
    fn spec(self, site: &Site, name: &str) -> FunctionSpec {
        site.write_code(name, "index.py", PROBE);
        let code = site.write_program(name, PROBE);
        let name = format!("0@test@{name}");
        match self {
            Self::Python => FunctionSpec::python(&name, &code),
            Self::Program => FunctionSpec::program(&name, "posix-custom-runtime", &code)
                .with("extendedTimeout", json!({"initializer": 30}))
                .with("extendedHandler", json!({"initializer": "-"})),
        }
    }
}

async fn send(platform: &Platform, function: &Registered, event: &Value) -> Answer {
    platform.invoke(function, &event.to_string()).await
}

async fn evaluate(platform: &Platform, function: &Registered, what: &str) -> Value {
    let answer = send(platform, function, &json!({ "do": what })).await;
    answer.expect(200).json()
}

#[tokio::test]
async fn nothing_is_reached_from_inside_but_what_a_function_needs() {
    for form in FORMS {
        let site = Site::new();
        let platform = site.start().await;
        let function = platform.register(&form.spec(&site, "probe")).await;
        let outside = Outside::new(&site, &platform, &function).await;
        let attempts = [attempts::REACH, attempts::MACHINE, attempts::RIGHTS].concat();
        assert!(attempts.len() >= 60, "{}", attempts.len());
        let wrong = try_all(&platform, &function, &outside, &attempts).await;
        assert!(wrong.is_empty(), "{form:?}: {wrong:#?}");
        platform.finish().await;
    }
}

#[tokio::test]
async fn without_root_secrets_and_the_platform_are_out_of_reach_all_the_same() {
    for form in FORMS {
        let site = Site::new();
        let options =
            StartOptions::default()
                .as_nobody()
                .config("python", "search_paths", "[\"/usr/bin\"]");
        let mut platform = site.start_with(&options).await;
        platform.tolerate("not confined");
        let function = platform.register(&form.spec(&site, "probe")).await;
        let outside = Outside::new(&site, &platform, &function).await;
        let wrong = try_all(&platform, &function, &outside, attempts::WITHOUT_ROOT).await;
        assert!(wrong.is_empty(), "{form:?}: {wrong:#?}");
        platform.finish().await;
    }
}

#[tokio::test]
async fn without_a_network_a_program_is_called_and_calls_nobody() {
    let site = Site::new();
    let options = StartOptions::default().config("confinement", "network", "none");
    let platform = site.start_with(&options).await;
    let spec = Form::Program.spec(&site, "alone").with("maxInstance", "2");
    let function = platform.register(&spec).await;
    let outside = Outside::new(&site, &platform, &function).await;
    let wrong = try_all(&platform, &function, &outside, attempts::ALONE).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Two that listen on the same port are no trouble to each other.
    let slowly = "time.sleep(0.5) or os.environ['PORT'] + ' ' + os.environ['INSTANCE_ID']";
    let (one, other) = tokio::join!(
        evaluate(&platform, &function, slowly),
        evaluate(&platform, &function, slowly)
    );
    assert_ne!(one, other);
    for one in [one, other] {
        assert!(one.as_str().unwrap().starts_with("8000 "), "{one}");
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_is_off_is_told_where_people_look() {
    let site = Site::new();
    let options = StartOptions::default().config("confinement", "enabled", "false");
    let mut platform = site.start_with(&options).await;
    platform.tolerate("not confined");
    let info = platform.control.get("/bugle/v1/info").await.expect(200);
    let measures = info.json()["confinement"].as_array().unwrap().clone();
    assert!(measures.len() >= 9, "{measures:?}");
    assert!(measures.iter().all(|measure| measure["on"] == false));
    let log = platform.log();
    let metrics = platform.control.get("/metrics").await.expect(200).text();
    for measure in measures {
        let name = measure["name"].as_str().unwrap();
        assert!(log.contains(name), "{name}");
        let metric = format!("bugle_instances_confinement{{measure=\"{name}\"}} 0");
        assert!(metrics.contains(&metric), "{metric}");
    }
    platform.finish().await;
}
