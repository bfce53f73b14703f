//! etcds that ask who is there.

use bugle_store::EtcdFailure;

use super::*;
use crate::server::{Certificates, Etcd};

fn secured(certificates: &Certificates) -> Etcd {
    let (ca, server, key) = ("ca.pem", "server.pem", "server.key");
    Etcd::with(
        "https",
        &[
            "--cert-file",
            &certificates.text(server),
            "--key-file",
            &certificates.text(key),
            "--trusted-ca-file",
            &certificates.text(ca),
            "--client-cert-auth",
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_shown_and_checked() {
    let certificates = Certificates::new();
    let etcd = secured(&certificates);
    let right = EtcdConfig {
        ca_file: certificates.path("ca.pem"),
        cert_file: certificates.path("client.pem"),
        key_file: certificates.path("client.key"),
        ..config(std::slice::from_ref(&etcd.address))
    };
    let store = open(&right).unwrap();
    store.txn(put("/repo/f", "1")).await.unwrap();
    assert_eq!(value(&*store, "/repo/f").await.as_deref(), Some("1"));

    let impatient = |config: EtcdConfig| EtcdConfig {
        start_timeout_seconds: 1,
        request_timeout_seconds: 1,
        ..config
    };
    let others = Certificates::new();
    let stranger = impatient(EtcdConfig {
        ca_file: others.path("ca.pem"),
        ..right.clone()
    });
    let text = open(&stranger).unwrap_err().to_string();
    assert!(text.contains("certificate"), "{text}");
    let nobody = impatient(EtcdConfig {
        cert_file: "".into(),
        key_file: "".into(),
        ..right
    });
    assert!(open(&nobody).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_and_again_when_etcd_has_forgotten() {
    let mut etcd = Etcd::start();
    let store = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    store.txn(put("/repo/f", "1")).await.unwrap();
    drop(store);
    for command in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "bugle:pass word"],
        &["role", "add", "bugle"],
        &[
            "role",
            "grant-permission",
            "bugle",
            "readwrite",
            "--prefix=true",
            "/",
        ],
        &["user", "grant-role", "bugle", "bugle"],
        &["auth", "enable"],
    ] {
        let done = etcd.control(command);
        assert!(done.is_ok(), "{command:?}: {done:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "pass word\n").unwrap();
    let right = EtcdConfig {
        user: "bugle".to_owned(),
        password_file: password_file.clone(),
        ..config(std::slice::from_ref(&etcd.address))
    };
    let store = open(&right).unwrap();
    assert_eq!(value(&*store, "/repo/f").await.as_deref(), Some("1"));
    assert!(store.txn(create("/repo/g", "2")).await.unwrap().succeeded);
    // Tokens are in its memory.
    etcd.kill();
    etcd.resume();
    eventually("writes go on", async || {
        store.txn(put("/repo/g", "3")).await.is_ok()
    })
    .await;
    eventually("changes arrive again", async || store.health().is_ok()).await;
    assert_eq!(value(&*store, "/repo/g").await.as_deref(), Some("3"));

    let nobody = config(std::slice::from_ref(&etcd.address));
    let refused = open(&nobody).unwrap_err();
    assert!(
        matches!(refused, Error::Etcd(EtcdFailure::Denied { .. })),
        "{refused:?}"
    );
    std::fs::write(&password_file, "wrong").unwrap();
    let refused = open(&right).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("etcd.password_file"), "{text}");
}
