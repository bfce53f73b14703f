//! Platforms that must not work at the same time.

use std::time::{Duration, Instant};

use bugle_store::EtcdFailure;

use super::*;
use crate::link::Link;
use crate::server::Etcd;

fn alone(address: &str, who: &str, patience: u64) -> Result<EtcdStore, Error> {
    let etcd = config(&[address.to_owned()]);
    let patience = Duration::from_secs(patience);
    EtcdStore::open_alone(&etcd, &Config::default(), Metrics::default(), who, patience)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_platform_is_told_of_the_first_and_begins_when_that_ends() {
    let etcd = Etcd::start();
    let first = alone(&etcd.address, "the first", 0).unwrap();
    let refused = alone(&etcd.address, "the second", 1).unwrap_err();
    let told = EtcdFailure::Taken {
        other: "the first".to_owned(),
    };
    assert!(
        matches!(&refused, Error::Etcd(failure) if *failure == told),
        "{refused:?}"
    );
    first.txn(put("/repo/f", "1")).await.unwrap();
    let address = etcd.address.clone();
    let waiting = tokio::task::spawn_blocking(move || alone(&address, "the second", 20));
    drop(first);
    let begun = Instant::now();
    let second = waiting.await.unwrap().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(value(&second, "/repo/f").await.as_deref(), Some("1"));
    // Another part of the keys is another matter.
    let zone = EtcdConfig {
        az_prefix: "az1".to_owned(),
        ..config(std::slice::from_ref(&etcd.address))
    };
    let (settings, metrics) = (Config::default(), Metrics::default());
    let third = EtcdStore::open_alone(&zone, &settings, metrics, "the third", Duration::ZERO);
    assert!(third.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_cut_off_is_replaced_and_writes_nothing_more() {
    let etcd = Etcd::start();
    let link = Link::to(&etcd.address).await;
    let first = alone(&link.address, "the first", 0).unwrap();
    link.cut();
    let begun = Instant::now();
    let second = alone(&etcd.address, "the second", 20).unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    link.mend();
    eventually("the first one knows", async || {
        first.health().is_err_and(|error| error.is_fatal())
    })
    .await;
    assert!(first.txn(put("/repo/f", "1")).await.is_err());
    second.txn(put("/repo/f", "2")).await.unwrap();
    assert_eq!(value(&second, "/repo/f").await.as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_etcd_was_away_keeps_its_place() {
    let mut etcd = Etcd::start();
    let first = alone(&etcd.address, "the first", 0).unwrap();
    etcd.kill();
    eventually("the outage is told", async || first.health().is_err()).await;
    etcd.resume();
    eventually("the outage is over", async || first.health().is_ok()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let refused = alone(&etcd.address, "the second", 0).unwrap_err();
    assert!(refused.is_fatal(), "{refused:?}");
    first.txn(put("/repo/f", "1")).await.unwrap();
}
