//! The routes about nodes, with what each is refused for.

use std::process::Stdio;
use std::time::Duration;

use bugle_testkit::{Site, binary, eventually};
use serde_json::json;
use tokio::process::Command;

use crate::client::Client;

pub(crate) async fn nodes(client: &mut Client<'_>, site: &Site) {
    client.ask("list_members", "", 200).await;
    client.ask("list_nodes", "", 200).await;
    let made = client
        .send("make_token", "", &json!({"minutes": 5}), 201)
        .await;
    client
        .send("make_token", "", &json!({"minutes": 0}), 400)
        .await;
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    let mut node = Command::new(binary())
        .args([
            "node",
            "--name",
            "one",
            "--quiet",
            "--join",
            &text("address"),
        ])
        .args(["--token", &text("token"), "--data-dir"])
        .arg(site.path().join("node"))
        .env("HOME", site.home())
        .current_dir(site.home())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary can be run");
    // It is known as soon as its token was used, which is before it has made its record.
    let record = site.path().join("node").join("node.json");
    eventually("the node has joined", Duration::from_mins(1), || async {
        match record.try_exists() {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for operation in ["drain_node", "resume_node", "remove_node"] {
        client.ask(operation, "A", 400).await;
        client.ask(operation, "none", 404).await;
        client.ask(operation, "one", 204).await;
    }
    node.kill().await.expect("our own child can be killed");
}
