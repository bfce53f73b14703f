//! The routes about container images, with what each is refused for.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

use crate::client::Client;

/// A registry that accepts every login, and knows nothing else. It ends with the process.
pub(crate) fn registry() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    address
}

/// An image as `docker save` writes it.
fn archive() -> Bytes {
    let layer = tar(&[("file", b"content")]);
    let mut id = "sha256:".to_owned();
    for byte in Sha256::digest(&layer) {
        write!(id, "{byte:02x}").unwrap();
    }
    let config = json!({"rootfs": {"diff_ids": [id]}}).to_string();
    let manifest = json!([{"Config": "c", "RepoTags": ["example.com/a:1"], "Layers": ["l"]}]);
    let manifest = manifest.to_string();
    let files: [(&str, &[u8]); 3] = [
        ("manifest.json", manifest.as_bytes()),
        ("c", config.as_bytes()),
        ("l", &layer),
    ];
    tar(&files).into()
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) async fn images(client: &mut Client<'_>, registry: &SocketAddr) {
    client.request("load_images", "", archive(), 200).await;
    client
        .request("load_images", "", Bytes::from_static(b"none"), 422)
        .await;
    client.ask("load_images", "?name=A", 400).await;
    client.ask("list_images", "", 200).await;
    let pull = json!({"reference": format!("{registry}/a")});
    client.send("pull_image", "", &pull, 200).await;
    client
        .send("pull_image", "", &json!({"reference": "A"}), 400)
        .await;
    client
        .ask("remove_image", "?name=example.com/a:1", 200)
        .await;
    client
        .ask("remove_image", "?name=example.com/a:1", 404)
        .await;
    client.ask("remove_image", "", 400).await;
    client
        .send("prune_images", "", &json!({"all": true}), 200)
        .await;
    client
        .send("prune_images", "", &json!({"some": 1}), 400)
        .await;

    let login =
        |registry: &str| json!({"registry": registry, "username": "someone", "password": "secret"});
    client
        .send("log_in", "", &login(&registry.to_string()), 200)
        .await;
    client.send("log_in", "", &login("127.0.0.1:9"), 403).await;
    client.send("log_in", "", &login("host.invalid"), 502).await;
    client.send("log_in", "", &login("a/b/c"), 400).await;
    client.ask("list_registries", "", 200).await;
    let whose = format!("?registry={registry}");
    client.ask("log_out", &whose, 200).await;
    client.ask("log_out", &whose, 404).await;
    client.ask("log_out", "", 400).await;
}
