//! The routes of code packages, with what each is refused for.

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use crate::client::Client;

pub(crate) async fn packages(client: &mut Client<'_>) {
    let package = super::images::tar(&[("index.py", b"def handler(event, context): pass")]);
    let package = Bytes::from(zstd::encode_all(&package[..], 1).unwrap());
    let none = Bytes::from_static(b"no package");
    let digest = digest(&package);
    let stored = client
        .request("upload_package", "", package.clone(), 201)
        .await;
    assert_eq!(stored["sha512"], Value::from(digest.clone()));
    client
        .request("upload_package", "", none.clone(), 400)
        .await;
    client
        .request("put_package", &digest, package.clone(), 201)
        .await;
    client.request("put_package", &digest, none, 400).await;
    client.ask("list_packages", "", 200).await;
    for operation in ["download_package", "look_for_package", "remove_package"] {
        client.ask(operation, "short", 400).await;
        client.ask(operation, &"0".repeat(128), 404).await;
    }
    client
        .as_tenant("no/tenant")
        .ask("list_packages", "", 400)
        .await;
    client.as_tenant("");
    client.ask("download_package", &digest, 200).await;
    client.ask("look_for_package", &digest, 200).await;
    client.ask("remove_package", &digest, 204).await;
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha512::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}
