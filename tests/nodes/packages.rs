//! Packages that a node has fetched: which of them stay in its folder.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bugle_testkit::{
    FunctionSpec, Node, Platform, Registered, Site, StartOptions, binary, eventually, node_token,
    until_node_lives, with_nodes,
};
use tokio::time::Duration;

use crate::{BOUND, nodes};

/// Of one package, which is about what it has unpacked, too.
const BYTES: usize = 100_000;

/// Room for one package, and not for two.
const ROOM: &str = "150000";

/// A package that answers its number. Its ballast cannot be compressed.
fn package(number: u8) -> Vec<u8> {
    let mut seed = u32::from(number) + 1;
    let ballast = (0..BYTES).map(|_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    });
    let ballast: Vec<u8> = ballast.collect();
    let source = format!("def handler(event, context):\n    return {number}\n");
    let compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(compressed);
    for (name, content) in [("index.py", source.as_bytes()), ("ballast", &ballast)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// A function whose code is such a package, and the name under which that is kept.
async fn function(platform: &Platform, number: u8) -> (Registered, String) {
    let upload = http::Request::post("/bugle/v1/packages")
        .header("x-tenant-id", "default")
        .body(bytes::Bytes::from(package(number)))
        .unwrap();
    let answer = platform.control.send(upload).await.unwrap();
    let place = answer.expect(201).json()["s3CodePath"].clone();
    let object = place["objectId"].as_str().unwrap().to_owned();
    let name = format!("0@test@packed{number}");
    let spec = FunctionSpec::python(&name, Path::new(""))
        .with("storageType", "s3")
        .with("s3CodePath", place)
        .with("codePath", "");
    (platform.register(&spec).await, object)
}

/// The file of that name below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(path),
            Ok(kind) if kind.is_file() && path.ends_with(name) => return Some(path),
            _ => {}
        }
    }
    folders.iter().find_map(|folder| find(folder, name))
}

/// Calls a function, and waits until its instance has ended.
async fn call(platform: &Platform, function: &Registered, answer: &str) {
    let said = platform.invoke(function, "{}").await.expect(200);
    assert_eq!(said.text(), answer);
    eventually("the instance has ended", BOUND, || async {
        let nodes = nodes(platform).await;
        let empty = nodes.values().all(|(_, instances)| *instances == 0);
        empty.then_some(()).ok_or_else(|| format!("{nodes:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_node_keeps_the_packages_that_were_used_last_and_fetches_others_again() {
    let site = Site::new();
    let options = with_nodes(StartOptions::default()).config("scheduler", "idle_seconds", "1");
    let platform = site.start_with(&options).await;
    let (token, address) = node_token(&platform).await;
    let mut command = tokio::process::Command::new(binary());
    command.env("BUGLE_PACKAGES__CACHE_BYTES", ROOM);
    let join = ["--join", &address, "--token", &token, "--cpu", "8000"];
    let node = Node::run(command, &site, "one", &join);
    until_node_lives(&platform, "one").await;
    let folder = site.path().join("node-one");
    let (first, first_object) = function(&platform, 1).await;
    let (second, second_object) = function(&platform, 2).await;
    call(&platform, &first, "1").await;
    let kept = find(&folder, &first_object).expect("what was fetched is kept");
    // What was used within the last minute may be in somebody's hands, and stays.
    let file = std::fs::File::options().append(true).open(kept).unwrap();
    let earlier = SystemTime::now() - Duration::from_mins(2);
    file.set_modified(earlier).unwrap();
    call(&platform, &second, "2").await;
    assert!(find(&folder, &second_object).is_some());
    assert_eq!(find(&folder, &first_object), None, "there is room for one");
    call(&platform, &first, "1").await;
    assert!(
        find(&folder, &first_object).is_some(),
        "it was fetched again"
    );
    node.finish().await;
    platform.finish().await;
}
