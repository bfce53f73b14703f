//! Several gateways on one etcd, as processes: who has a function, what happens when gateways come,
//! go, die and hang, and that the limits of functions hold all the while.
#![cfg(test)]

mod anywhere;
mod chaos;
mod gates;
mod nodes;
mod pools;
mod trouble;
mod wires;

use std::collections::BTreeSet;

use bugle_testkit::{FunctionSpec, Platform, Site, StartOptions};
use futures_util::future::join_all;

use gates::{Gates, Referee, metric, owner, until_members};

async fn finish(platforms: Vec<Platform>) {
    for platform in platforms {
        platform.finish().await;
    }
}

#[tokio::test]
async fn a_call_through_any_gateway_is_answered_by_the_one_that_has_the_function() {
    let gates = Gates::new(3).await;
    let platforms = gates.start_all().await;
    let all: Vec<&Platform> = platforms.iter().collect();
    let mut owners = BTreeSet::new();
    for number in 0..6 {
        let name = format!("f{number}");
        // Each is registered at one gateway and called through another at once.
        let function = gates.function(all[number % 3], &name, "3").await;
        let mut ids = BTreeSet::new();
        for caller in [1, 2, 3] {
            let platform = all[(number + caller) % 3];
            ids.insert(platform.invoke(&function, "{}").await.expect(200).text());
        }
        assert_eq!(
            ids.len(),
            1,
            "one warm instance answers all of them: {ids:?}"
        );
        owners.insert(owner(&all, &function).await);
    }
    assert!(owners.len() > 1, "one gateway has everything: {owners:?}");
    let mut functions = 0;
    for platform in &all {
        functions += metric(platform, "bugle_cluster_functions").await;
        assert_eq!(
            metric(platform, "bugle_gateway_forward_failures_total").await,
            0
        );
    }
    assert_eq!(functions, 6, "each is had by one");
    for platform in &all {
        let list = platform
            .control
            .get("/bugle/v1/members")
            .await
            .expect(200)
            .json();
        let members = list["members"].as_array().expect("a list");
        let here: Vec<bool> = members.iter().map(|one| one["here"] == true).collect();
        assert_eq!(here.iter().filter(|here| **here).count(), 1);
        assert_eq!(here.len(), 3, "{list}");
        let function = gates
            .function(platform, &format!("shown{}", platform.pid), "1")
            .await;
        let _ = platform.invoke(&function, "{}").await.expect(200);
        for other in &all {
            let pids = other.instance_pids(&function).await;
            assert_eq!(pids.len(), 1, "every gateway shows how it runs");
        }
    }
    finish(platforms).await;
}

#[tokio::test]
async fn what_is_passed_on_arrives_whole_and_comes_back_as_it_came() {
    let gates = Gates::new(2).await;
    let platforms = gates.start_all().await;
    let all: Vec<&Platform> = platforms.iter().collect();
    let code = gates.site(0).write_code(
        "echo",
        "index.py",
        r"
def handler(event, context):
    if event == 'stream':
        stream = context.get_stream() if hasattr(context, 'get_stream') else None
    return event
",
    );
    let echo = all[0]
        .register(&FunctionSpec::python("0@test@echo", &code))
        .await;
    let _ = all[0].invoke(&echo, "{}").await.expect(200);
    let other = all[1 - owner(&all, &echo).await];
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let answer = other.invoke(&echo, &long).await.expect(200);
    assert_eq!(answer.text(), long);
    let trace = [("x-trace-id", "a-trace-of-my-own")];
    let answer = other.try_invoke(&echo, "{}", &trace).await.unwrap();
    assert_eq!(answer.header("x-trace-id"), "a-trace-of-my-own");
    assert_eq!(answer.header("x-inner-code"), "0");
    let failure = other.invoke(&echo, &"x".repeat(64)).await;
    let same = all[owner(&all, &echo).await]
        .invoke(&echo, &"x".repeat(64))
        .await;
    assert_eq!(failure.status, same.status);
    let mut unknown = echo.clone();
    unknown.urn = unknown.urn.replace("0@test@echo", "0@test@nothing");
    for platform in &all {
        let _ = platform.invoke(&unknown, "{}").await.expect(404);
    }
    finish(platforms).await;
}

#[tokio::test]
async fn a_call_writes_nothing_to_etcd() {
    let gates = Gates::new(2).await;
    let platforms = gates.start_all().await;
    let function = gates.function(&platforms[0], "quiet", "2").await;
    for platform in &platforms {
        let _ = platform.invoke(&function, "{}").await.expect(200);
    }
    let before = gates.revision();
    for _ in 0..100 {
        for platform in &platforms {
            let _ = platform.invoke(&function, "{}").await.expect(200);
        }
    }
    assert_eq!(
        gates.revision(),
        before,
        "and the leases are renewed without a write"
    );
    finish(platforms).await;
}

#[tokio::test]
async fn a_package_that_was_uploaded_to_one_gateway_is_found_by_the_others() {
    let gates = Gates::new(2).await;
    let platforms = gates.start_all().await;
    let zip = package();
    let place = upload(&platforms[0], &zip).await;
    // Whichever has a function: of some, each has one.
    let mut owners = BTreeSet::new();
    for number in 0..8 {
        let spec = FunctionSpec::python(&format!("0@test@packed{number}"), gates.site(0).path())
            .with("storageType", "s3")
            .with("s3CodePath", place.clone());
        let function = platforms[1].register(&spec).await;
        owners.insert(owner(&platforms.iter().collect::<Vec<_>>(), &function).await);
    }
    assert_eq!(owners.len(), 2);
    finish(platforms).await;
}

/// What a gateway says that may not work with the others.
async fn refusal(site: &Site, options: &StartOptions) -> String {
    match site.try_start(options).await {
        Err(refused) => refused.log,
        Ok(platform) => trouble::ends_by_itself(platform).await,
    }
}

#[tokio::test]
async fn gateways_that_are_not_alike_do_not_work_together() {
    let gates = Gates::new(1).await;
    let first = gates.start(0).await;
    until_members(&[&first]).await;
    let stranger = Site::new();
    let said = refusal(&stranger, &gates.options()).await;
    assert!(said.contains("copy environment.key"), "{said}");
    let alone = gates.options().config("cluster", "listen", "").config(
        "etcd",
        "start_timeout_seconds",
        "1",
    );
    let refused = Site::new()
        .try_start(&alone)
        .await
        .expect_err("it is not alone");
    assert!(
        refused.log.contains("set cluster.listen for all"),
        "{}",
        refused.log
    );
    first.finish().await;

    // And the other way round.
    let alone = gates.site(0).start_with(&alone).await;
    let late = Site::new();
    late.take_key_of(gates.site(0));
    let said = refusal(&late, &gates.options()).await;
    assert!(said.contains("works alone here"), "{said}");
    alone.finish().await;
}

#[tokio::test]
async fn of_two_first_gateways_with_a_key_each_one_starts_and_the_other_says_which_to_copy() {
    let gates = Gates::new(2).await;
    let options = gates.options();
    let (one, two) = tokio::join!(
        gates.site(0).try_start(&options),
        gates.site(1).try_start(&options)
    );
    let (first, said, loser) = match (one, two) {
        (Ok(first), Err(refused)) => (first, refused.log, 1),
        (Err(refused), Ok(first)) => (first, refused.log, 0),
        both => panic!("one of them starts: {both:?}"),
    };
    let key = gates.site(loser).data_dir().join("environment.key");
    assert!(said.contains(&key.display().to_string()), "{said}");
    assert!(said.contains("copy environment.key there from"), "{said}");
    assert!(!said.contains("died"), "{said}");
    until_members(&[&first]).await;
    first.finish().await;
}

#[tokio::test]
async fn gateways_that_make_pools_real_in_other_ways_do_not_work_together() {
    let gates = Gates::new(1).await;
    let first = gates.start(0).await;
    until_members(&[&first]).await;
    let late = Site::new();
    late.take_key_of(gates.site(0));
    let options = gates.options().config("pools", "backend", "none");
    let said = refusal(&late, &options).await;
    let differs = "has pools.backend = machine, this one none; set the same for all gateways";
    assert!(said.contains(differs), "{said}");
    first.finish().await;
}

#[tokio::test]
async fn limits_hold_under_load_while_gateways_come_and_go() {
    let gates = Gates::new(3).await;
    let (first, second) = (gates.start(0).await, gates.start(1).await);
    until_members(&[&first, &second]).await;
    let referee = Referee::new().await;
    let mut functions = Vec::new();
    for name in ["one", "two", "three", "four"] {
        functions.push(gates.function(&first, name, "1").await);
    }
    let one = &functions[0];
    let _ = first.invoke(one, "{}").await.expect(200);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let calls = join_all(
        [&first, &second, &first]
            .map(|platform| trouble::load(platform, one, referee.event(0.02), &stop)),
    );
    // The others only have to move along.
    let rest = join_all(
        functions[1..]
            .iter()
            .map(|function| trouble::load(&second, function, "{}".to_owned(), &stop)),
    );
    let changes = async {
        for _ in 0..2 {
            let third = gates.start(2).await;
            until_members(&[&first, &second, &third]).await;
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            third.finish().await;
            until_members(&[&first, &second]).await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (counts, others, ()) = tokio::join!(calls, rest, changes);
    let mut answered = 0;
    for (status, count) in counts.iter().flatten() {
        assert_eq!(*status, 200, "{count} calls: {counts:?}");
        answered += count;
    }
    assert!(
        others.iter().flatten().all(|(status, _)| *status == 200),
        "{others:?}"
    );
    assert_eq!(referee.most(), 1, "one instance with one call at a time");
    assert_eq!(
        referee.seen(),
        answered,
        "each call ran once and was answered once"
    );
    finish(vec![first, second]).await;
}

/// A package with a function.
fn package() -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(gates::WHO.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    archive
        .append_data(&mut header, "index.py", gates::WHO.as_bytes())
        .unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

async fn upload(platform: &Platform, package: &[u8]) -> serde_json::Value {
    let request = http::Request::post("/bugle/v1/packages")
        .body(bytes::Bytes::copy_from_slice(package))
        .unwrap();
    let answer = platform.control.send(request).await.unwrap();
    answer.expect(201).json()["s3CodePath"].clone()
}
