//! Every example: installed by its own script, deployed with the command line, and checked against
//! the answers that its `check.toml` expects.
#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bugle_testkit::{Answer, Platform, Site};
use bytes::Bytes;
use http::Request;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

/// What `check.toml` holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    case: Vec<Case>,
}

/// One call and what its answer must be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The body as text; `{gateway}` stands for the platform's own address.
    body: Option<String>,
    /// The body as a file of the example.
    body_file: Option<PathBuf>,
    #[serde(default = "json_content")]
    content_type: String,
    accept: Option<String>,
    /// What follows the `?` of the address.
    #[serde(default)]
    query: String,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The whole answer.
    json: Option<String>,
    /// The whole answer, as a file of the example.
    json_file: Option<PathBuf>,
    /// Texts in the answer; JSON is compared in its shortest form.
    #[serde(default)]
    contains: Vec<String>,
    /// Width and height of the JPEG in the answer.
    jpeg: Option<[u16; 2]>,
    /// The number of server-sent events.
    events: Option<usize>,
}

fn json_content() -> String {
    "application/json".to_owned()
}

fn ok() -> u16 {
    200
}

#[tokio::test]
async fn hello_gives_its_answers() {
    check("hello").await;
}

#[tokio::test]
async fn thumbnail_gives_its_answers() {
    check("thumbnail").await;
}

#[tokio::test]
async fn csv_stats_gives_its_answers() {
    check("csv-stats").await;
}

#[tokio::test]
async fn markdown_gives_its_answers() {
    check("markdown").await;
}

#[tokio::test]
async fn storyteller_gives_its_answers() {
    check("storyteller").await;
}

#[tokio::test]
async fn uptime_gives_its_answers() {
    check("uptime").await;
}

#[tokio::test]
async fn csv_chart_gives_its_answers() {
    check("csv-chart").await;
}

#[tokio::test]
async fn spelling_gives_its_answers() {
    check("spelling").await;
}

#[tokio::test]
async fn top_words_gives_its_answers() {
    check("top-words").await;
}

#[test]
fn no_example_is_without_a_test() {
    let images = "images";
    for name in folders(&examples()).filter(|name| name != images) {
        let tested = include_str!("examples.rs").contains(&format!("check(\"{name}\")"));
        assert!(tested, "{name} has no test");
    }
    for name in folders(&examples().join(images)) {
        let tests = include_str!("images/functions.rs");
        let tested = tests.contains(&format!("built(&site, \"{name}\")"));
        assert!(tested, "the image {name} has no test");
    }
}

fn folders(of: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(of).unwrap().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

async fn check(example: &str) {
    let source = examples().join(example);
    let site = Site::new();
    let platform = site.start().await;
    let folder = site.code_root().join(example);
    copy(&source, &folder);
    let runtime = choose_runtime(&platform, &folder).await;
    install(&platform, &folder, &runtime).await;
    deploy(&platform, &site, &folder).await;

    let check: Check = toml::from_str(&read(&source.join("check.toml"))).unwrap();
    for case in check.case {
        let answer = call(&platform, example, &source, &case).await;
        println!("{example}: {}", case.name);
        compare(&source, &case, &answer);
    }
    platform.finish().await;
}

/// Copies what the repository holds of an example, so that tests of different interpreters do not
/// share installed packages.
fn copy(from: &Path, to: &Path) {
    let mut listed = std::process::Command::new("git");
    listed
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(from);
    let listed = listed.output().expect("git lists the files of an example");
    assert!(
        listed.status.success(),
        "git: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        let target = to.join(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(from.join(file), target).unwrap();
    }
}

/// The runtime that `function.toml` names; of Pythons one that this machine has, written into it.
async fn choose_runtime(platform: &Platform, folder: &Path) -> String {
    let file = folder.join("function.toml");
    let text = read(&file);
    let mut manifest: toml::Table = toml::from_str(&text).unwrap();
    let info = platform
        .control
        .get("/bugle/v1/info")
        .await
        .expect(200)
        .text();
    if let Some(runtime) = manifest.get("runtime").and_then(toml::Value::as_str) {
        if !runtime.starts_with("python") || info.contains(&format!("\"{runtime}\"")) {
            return runtime.to_owned();
        }
        let runtime = platform.python().await;
        manifest.insert("runtime".to_owned(), runtime.clone().into());
        std::fs::write(&file, manifest.to_string()).unwrap();
        return runtime;
    }
    platform.python().await
}

async fn install(platform: &Platform, folder: &Path, runtime: &str) {
    let script = folder.join("install.sh");
    if !script.is_file() {
        return;
    }
    let info = platform
        .control
        .get("/bugle/v1/info")
        .await
        .expect(200)
        .json();
    let interpreter = info["runtimes"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["name"] == runtime))
        .and_then(|one| one["path"].as_str());
    // Programs of other languages bring their own.
    run(Command::new(script).env("PYTHON", interpreter.unwrap_or_default())).await;
}

async fn deploy(platform: &Platform, site: &Site, folder: &Path) {
    let mut command = Command::new(bugle_testkit::binary());
    command
        .arg("deploy")
        .arg(folder)
        .env("HOME", site.home())
        .env("BUGLE_SERVER", platform.control.url(""));
    run(&mut command).await;
}

async fn run(command: &mut Command) {
    let output = command.output().await.expect("the program can be run");
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn call(platform: &Platform, example: &str, source: &Path, case: &Case) -> Answer {
    let text = case.body.clone().unwrap_or_default();
    let text = text.replace("{gateway}", &platform.gateway.url(""));
    let body = match &case.body_file {
        Some(file) => std::fs::read(source.join(file)).unwrap(),
        None => text.into_bytes(),
    };
    let query = &case.query;
    let path = format!("/invocations/default/examples/{example}/?{query}");
    let mut request = Request::post(path).header("content-type", &case.content_type);
    if let Some(accept) = &case.accept {
        request = request.header("accept", accept);
    }
    let request = request.body(Bytes::from(body)).unwrap();
    platform
        .gateway
        .send(request)
        .await
        .expect("an example answers")
}

fn compare(source: &Path, case: &Case, answer: &Answer) {
    let Expect {
        status,
        headers,
        json,
        json_file,
        contains,
        jpeg,
        events,
    } = &case.expect;
    let name = &case.name;
    assert_eq!(answer.status, *status, "{name}: {}", answer.text());
    for (header, value) in headers {
        assert_eq!(answer.header(header), value, "{name}: header {header}");
    }
    let expected = json
        .clone()
        .or_else(|| json_file.as_ref().map(|file| read(&source.join(file))));
    if let Some(expected) = expected {
        let expected: Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(answer.json(), expected, "{name}");
    }
    let text = serde_json::from_slice::<Value>(&answer.body)
        .map_or_else(|_| answer.text(), |value| value.to_string());
    for part in contains {
        assert!(text.contains(part), "{name}: {part:?} is not in {text}");
    }
    if let Some(size) = jpeg {
        assert_eq!(jpeg_size(&answer.body), Some(*size), "{name}");
    }
    if let Some(count) = events {
        let found = text
            .split("\n\n")
            .filter(|event| event.starts_with("data:"))
            .count();
        assert_eq!(found, *count, "{name}: {text}");
    }
}

/// Width and height, from the frame header of a baseline or progressive JPEG.
fn jpeg_size(bytes: &[u8]) -> Option<[u16; 2]> {
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    loop {
        let [0xff, marker, high, low, segment @ ..] = rest else {
            return None;
        };
        if matches!(marker, 0xc0 | 0xc2) {
            let [
                _precision,
                height_high,
                height_low,
                width_high,
                width_low,
                ..,
            ] = segment
            else {
                return None;
            };
            let width = u16::from_be_bytes([*width_high, *width_low]);
            return Some([width, u16::from_be_bytes([*height_high, *height_low])]);
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        rest = segment.get(length.checked_sub(2)?..)?;
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
