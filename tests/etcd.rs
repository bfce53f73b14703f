//! The platform with its store in an etcd.
#![cfg(test)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bugle_testkit::{Etcd, FunctionSpec, Site, StartOptions, binary, eventually};

const CODE: &str = "def handler(event, context):\n    return event\n";
const LONG: Duration = Duration::from_secs(30);

fn over(etcd: &Etcd) -> StartOptions {
    StartOptions::default()
        .config("store", "kind", "etcd")
        .config("etcd", "endpoints", &etcd.address)
        .config("etcd", "request_timeout_seconds", "2")
}

/// A command that works on the store.
fn command(site: &Site, arguments: &[&str], etcd: Option<&Etcd>) -> Output {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(site.data_dir())
        .current_dir(site.path())
        .env("HOME", site.home());
    if let Some(etcd) = etcd {
        command
            .env("BUGLE_STORE__KIND", "etcd")
            .env("BUGLE_ETCD__ENDPOINTS", &etcd.address)
            .env("BUGLE_ETCD__REQUEST_TIMEOUT_SECONDS", "2");
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test]
async fn what_was_registered_is_where_a_cluster_looks_for_it_and_survives_a_kill() {
    let etcd = Etcd::start().await;
    let site = Site::new();
    let code = site.write_code("hello", "index.py", CODE);
    let platform = site.start_with(&over(&etcd)).await;
    let hello = FunctionSpec::python("0@test@hello", &code);
    let hello = platform.register(&hello).await;
    for key in [
        "/sn/functions/business/yrk/tenant/default/function/0@test@hello/version/latest",
        "/instances/business/yrk/cluster/cluster001/tenant/default/function/0@test@hello/version/latest",
        "/repo/FunctionVersion/yrk/default//0@test@hello/latest/",
        "/repo/FunctionStatus/yrk/default//0@test@hello/latest/",
    ] {
        let found = etcd.control(&["get", key, "--print-value-only"]).unwrap();
        assert!(found.starts_with('{'), "{key}: {found:?}");
    }
    platform.kill().await;
    let begun = Instant::now();
    let platform = site.start_with(&over(&etcd)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let answer = platform.invoke(&hello, "1").await.expect(200).text();
    assert_eq!(answer, "1");
    platform.finish().await;
}

#[tokio::test]
async fn calls_are_answered_while_etcd_is_away_and_changes_say_why_they_are_not() {
    let mut etcd = Etcd::start().await;
    let site = Site::new();
    let code = site.write_code("hello", "index.py", CODE);
    let mut platform = site.start_with(&over(&etcd)).await;
    platform.tolerate("etcd is not followed");
    platform.tolerate("a write was refused");
    let hello = platform
        .register(&FunctionSpec::python("0@test@hello", &code))
        .await;
    let _ = platform.invoke(&hello, "1").await.expect(200);
    etcd.kill();

    let refused = FunctionSpec::python("0@test@other", &code);
    let refused = platform.try_register(&refused).await;
    assert!(refused.status >= 500, "{refused:?}");
    let told = refused.text();
    assert!(told.contains(&etcd.address), "{told}");
    assert!(
        told.contains("check that most of its members run"),
        "{told}"
    );
    assert_eq!(platform.invoke(&hello, "2").await.expect(200).text(), "2");
    eventually("the outage is told", LONG, async || {
        let answer = platform.control.get("/readyz").await.expect(200).text();
        if answer.contains("degraded: etcd at") {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    let metrics = platform.control.get("/metrics").await.expect(200).text();
    assert!(
        metrics.contains("bugle_store_etcd_following 0"),
        "{metrics}"
    );

    etcd.resume().await;
    eventually("changes are taken again", LONG, async || {
        let other = FunctionSpec::python("0@test@other", &code);
        let answer = platform.try_register(&other).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    eventually("the outage is over", LONG, async || {
        let answer = platform.control.get("/readyz").await.expect(200).text();
        if answer == "ready\n" {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn another_platform_waits_and_takes_over_from_one_that_is_killed() {
    let etcd = Etcd::start().await;
    let (one, two) = (Site::new(), Site::new());
    let code = one.write_code("hello", "index.py", CODE);
    let first = one.start_with(&over(&etcd)).await;
    let hello = FunctionSpec::python("0@test@hello", &code);
    let hello = first.register(&hello).await;
    let impatient = over(&etcd).config("etcd", "start_timeout_seconds", "1");
    let refused = two.try_start(&impatient).await.expect_err("one at a time");
    assert!(
        refused.log.contains("another bugle works with these keys"),
        "{}",
        refused.log
    );
    assert!(
        refused.log.contains(&format!("process {}", first.pid)),
        "{}",
        refused.log
    );

    // Variables are encrypted with the key, so it is the same.
    two.take_key_of(&one);
    let options = over(&etcd).arguments(["--code-root", &one.code_root().display().to_string()]);
    let killed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        first.kill().await;
        Instant::now()
    };
    let (mut second, killed) = tokio::join!(two.start_with(&options), killed);
    // Its log is that of the first attempt as well.
    second.tolerate("another bugle works with");
    println!("taken over in {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10));
    assert_eq!(second.invoke(&hello, "3").await.expect(200).text(), "3");
    second.finish().await;
}

#[tokio::test]
async fn a_platform_that_stops_in_order_leaves_its_place_to_the_next_at_once() {
    let etcd = Etcd::start().await;
    let site = Site::new();
    let platform = site.start_with(&over(&etcd)).await;
    let place = || etcd.control(&["get", "/bugle/running/alone", "--print-value-only"]);
    let whose = place().unwrap();
    assert!(
        whose.contains(&format!("process {}", platform.pid)),
        "{whose}"
    );
    platform.finish().await;
    assert_eq!(place().as_deref(), Ok(""));
}

#[tokio::test]
async fn a_platform_with_another_key_does_not_stay() {
    let etcd = Etcd::start().await;
    let (one, two) = (Site::new(), Site::new());
    one.start_with(&over(&etcd)).await.finish().await;
    let key = two.data_dir().join("environment.key");
    let refused = two.try_start(&over(&etcd)).await.expect_err("no key");
    let said = format!(
        "{} does not exist; copy environment.key there",
        key.display()
    );
    assert!(refused.log.contains(&said), "{}", refused.log);
    assert!(!key.try_exists().unwrap(), "no other is made");
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let refused = two.try_start(&over(&etcd)).await.expect_err("another key");
    let said = format!("{} holds ", key.display());
    assert!(!refused.status.success());
    assert!(refused.log.contains(&said), "{}", refused.log);
}

#[tokio::test]
async fn functions_move_from_a_file_into_etcd_and_back() {
    let etcd = Etcd::start().await;
    let (one, two) = (Site::new(), Site::new());
    let code = one.write_code("hello", "index.py", CODE);
    let platform = one.start().await;
    let hello = FunctionSpec::python("0@test@hello", &code);
    let hello = platform.register(&hello).await;
    let busy = command(&one, &["export", "all.jsonl"], None);
    assert!(
        text(&busy).contains("is in use by process"),
        "{}",
        text(&busy)
    );
    assert!(
        !one.path().join("all.jsonl").is_file(),
        "nothing is left of it"
    );
    platform.finish().await;

    let exported = command(&one, &["export", "all.jsonl"], None);
    assert!(exported.status.success(), "{}", text(&exported));
    let again = command(&one, &["export", "all.jsonl"], None);
    assert!(!again.status.success(), "an existing file is left alone");
    let file = one.path().join("all.jsonl").display().to_string();
    let strange = command(&two, &["import", &file], Some(&etcd));
    assert!(
        text(&strange).contains("copy environment.key"),
        "{}",
        text(&strange)
    );

    let refused = command(&two, &["import", &file], None);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(!two.data_dir().join("bugle.db").try_exists().unwrap());
    two.take_key_of(&one);
    let look = command(&two, &["import", &file, "--dry-run"], None);
    assert!(text(&look).contains("would be added"), "{}", text(&look));
    std::fs::remove_file(two.data_dir().join("environment.key")).unwrap();
    let left = std::fs::read_dir(two.data_dir()).unwrap().count();
    assert_eq!(left, 0, "looking makes nothing");
    let look = command(&one, &["import", &file, "--dry-run"], Some(&etcd));
    assert!(text(&look).contains("would be added"), "{}", text(&look));
    let nothing = etcd
        .control(&["get", "/repo", "--prefix", "--keys-only"])
        .unwrap();
    assert_eq!(nothing.trim(), "");
    let done = command(&one, &["import", &file], Some(&etcd));
    assert!(done.status.success(), "{}", text(&done));

    let platform = one.start_with(&over(&etcd)).await;
    assert_eq!(platform.invoke(&hello, "4").await.expect(200).text(), "4");
    let other = platform
        .register(&FunctionSpec::python("0@test@other", &code))
        .await;
    let live = command(&one, &["export", "live.jsonl"], Some(&etcd));
    assert!(live.status.success(), "{}", text(&live));
    let elsewhere = command(&two, &["export", "elsewhere.jsonl"], Some(&etcd));
    assert!(elsewhere.status.success(), "{}", text(&elsewhere));
    let keyless = command(&two, &["import", "elsewhere.jsonl"], None);
    assert!(
        text(&keyless).contains("copy environment.key"),
        "an export of a machine without the key names the key as well: {}",
        text(&keyless)
    );
    let live_import = command(&one, &["import", &file], Some(&etcd));
    assert!(
        text(&live_import).contains("stop all platforms"),
        "{}",
        text(&live_import)
    );
    platform.finish().await;

    // Back into the file that it came from, which knows nothing of the other function yet.
    let back = command(&one, &["import", "live.jsonl"], None);
    assert!(back.status.success(), "{}", text(&back));
    let platform = one.start().await;
    assert_eq!(platform.invoke(&other, "5").await.expect(200).text(), "5");
    platform.finish().await;
    changed_values_are_not_overwritten_unasked(&one, &file, &code).await;
}

/// Two platforms with the same function that went their own ways.
async fn changed_values_are_not_overwritten_unasked(site: &Site, file: &str, code: &Path) {
    let other = Site::new();
    other.take_key_of(site);
    let options =
        StartOptions::default().arguments(["--code-root", &site.code_root().display().to_string()]);
    let platform = other.start_with(&options).await;
    platform
        .register(&FunctionSpec::python("0@test@hello", code))
        .await;
    platform.finish().await;
    let refused = command(&other, &["import", file], None);
    assert_eq!(refused.status.code(), Some(6), "{}", text(&refused));
    assert!(text(&refused).contains("--overwrite"), "{}", text(&refused));
    let done = command(&other, &["import", file, "--overwrite"], None);
    assert!(done.status.success(), "{}", text(&done));
    let same = command(&other, &["import", file], None);
    assert!(text(&same).contains("0 were replaced"), "{}", text(&same));
}

#[tokio::test]
async fn the_doctor_looks_at_etcd_only_where_it_is_the_store() {
    let mut etcd = Etcd::start().await;
    let site = Site::new();
    let plain = command(&site, &["doctor"], None);
    assert!(!text(&plain).contains("etcd: "), "{}", text(&plain));
    let fine = command(&site, &["doctor"], Some(&etcd));
    assert!(
        text(&fine).contains("ok       etcd: http://127.0.0.1:"),
        "{}",
        text(&fine)
    );
    assert!(text(&fine).contains("has version 3."), "{}", text(&fine));
    etcd.kill();
    let away = command(&site, &["doctor"], Some(&etcd));
    assert!(!away.status.success());
    assert!(text(&away).contains("failed   etcd: "), "{}", text(&away));
}
