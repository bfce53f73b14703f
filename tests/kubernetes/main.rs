//! The platform with pools of Pods, whose workers are nodes that run: from the creation of a pool to the answer of a
//! function inside one of its Pods. The cluster is the one for tests, with a kubelet that starts real processes.
#![cfg(test)]

mod choice;
mod gateways;
mod growth;
mod kubelet;
mod stage;
mod survival;

use std::collections::{BTreeMap, BTreeSet};

use bugle_testkit::Site;
use futures_util::future::join_all;
use serde_json::json;

use stage::{Node, Stage, pool};

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_a_pool_answer_from_inside_its_pods_and_nothing_is_left_of_it() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({"size": 2}))).await;
    stage.runs("p1", 2).await;
    let pods: BTreeSet<String> = stage.cluster.names().into_iter().collect();
    let nodes = stage.nodes().await;
    assert_eq!(nodes.keys().cloned().collect::<BTreeSet<_>>(), pods);
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let calls = (0..2).map(|_| stage.platform.invoke(&who, "1"));
    for answer in join_all(calls).await {
        let _instance = answer.expect(200);
    }
    let busy = Node {
        state: "live".to_owned(),
        pool: "p1".to_owned(),
        instances: 1,
    };
    let nodes = stage.nodes().await;
    assert!(nodes.values().all(|node| *node == busy), "{nodes:?}");
    stage.delete("p1").await;
    stage.gone("p1").await;
    stage
        .until_nodes("there are no nodes", BTreeMap::is_empty)
        .await;
    assert!(stage.cluster.pods().is_empty());
    assert_eq!(stage.cluster.processes(), 0);
    stage.platform.finish().await;
}

/// Says which of the files that the event names it can read.
const READER: &str = r"
def handler(event, context):
    read = []
    for path in event:
        try:
            with open(path, 'rb') as file:
                file.read(1)
            read.append(path)
        except OSError:
            pass
    return read
";

#[tokio::test(flavor = "multi_thread")]
async fn a_function_in_a_pod_reads_neither_what_its_node_joined_with_nor_what_it_is() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({}))).await;
    stage.runs("p1", 1).await;
    let pod = stage.cluster.pods().remove(0);
    let folder = site
        .path()
        .join("pods")
        .join(pod["metadata"]["uid"].as_str().unwrap());
    let secrets = [
        "bugle-join/token",
        "bugle-data/node.key",
        "bugle-data/node.json",
    ];
    let mut paths: Vec<String> = Vec::new();
    for secret in secrets {
        let path = folder.join(secret);
        assert!(path.is_file(), "{}", path.display());
        paths.push(path.to_str().unwrap().to_owned());
    }
    let node = stage.cluster.pid(&kubelet::name(&pod)).unwrap();
    for of_node in ["environ", "mem", "root/etc/passwd"] {
        paths.push(format!("/proc/{node}/{of_node}"));
    }
    let code = site.write_code("reader", "index.py", READER);
    let reader = bugle_testkit::FunctionSpec::python("0@test@reader", &code).with("poolId", "p1");
    let reader = stage.platform.register(&reader).await;
    let answer = stage
        .platform
        .invoke(&reader, &json!(paths).to_string())
        .await;
    assert_eq!(answer.expect(200).json(), json!([]));
    stage.platform.finish().await;
}

/// A package with one file.
fn package(source: &str) -> Vec<u8> {
    let compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(compressed);
    let mut header = tar::Header::new_gnu();
    header.set_size(source.len() as u64);
    header.set_mode(0o644);
    let file = source.as_bytes();
    archive.append_data(&mut header, "index.py", file).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_uploaded_code_from_the_platform() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({}))).await;
    stage.runs("p1", 1).await;
    let source = package("def handler(event, context):\n    return [event]\n");
    let upload = http::Request::post("/bugle/v1/packages")
        .header("x-tenant-id", "default")
        .body(bytes::Bytes::from(source))
        .unwrap();
    let uploaded = stage.platform.control.send(upload).await.unwrap();
    let uploaded = uploaded.expect(201).json();
    let sent = bugle_testkit::FunctionSpec::python("0@test@sent", std::path::Path::new(""))
        .with("poolId", "p1")
        .with("storageType", "s3")
        .with("s3CodePath", uploaded["s3CodePath"].clone())
        .with("codePath", "");
    let sent = stage.platform.register(&sent).await;
    let answer = stage.platform.invoke(&sent, "7").await;
    assert_eq!(answer.expect(200).text(), "[7]");
    stage.platform.finish().await;
}
