//! Gateways that die, hang and wake up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_testkit::{Platform, Registered, eventually, pause, resume};
use tokio::time::{Instant, sleep};

use crate::gates::{BOUND, Gates, Referee, owner, until_members};

/// How soon a dead gateway's functions are another's.
const TAKEN_OVER: Duration = Duration::from_secs(3);

/// What a platform said that ends without being asked to.
pub(crate) async fn ends_by_itself(mut platform: Platform) -> String {
    let status = eventually("it ends", BOUND, || {
        let ended = platform.ended().ok_or_else(|| platform.log());
        async { ended }
    })
    .await;
    assert!(!status.success());
    platform.log()
}

/// Waits until every thread of a process that was paused stands still.
async fn until_stopped(pid: u32) {
    eventually("it stands still", BOUND, || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        let running = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok())
            .filter(|stat| {
                !stat
                    .rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('T'))
            })
            .count();
        async move {
            let stopped = running == 0;
            stopped
                .then_some(())
                .ok_or_else(|| format!("{running} threads run"))
        }
    })
    .await;
}

/// Calls until it is told to stop; how often each status came, 0 for no answer.
pub(crate) async fn load(
    platform: &Platform,
    function: &Registered,
    event: String,
    stop: &AtomicBool,
) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let status = match platform.try_invoke(function, &event, &[]).await {
            Ok(answer) => answer.status,
            Err(_) => 0,
        };
        *statuses.entry(status).or_insert(0) += 1;
    }
    statuses
}

#[tokio::test]
async fn the_functions_of_a_killed_gateway_are_taken_over_within_three_seconds() {
    let gates = Gates::new(3).await;
    let mut platforms = gates.start_all().await;
    for platform in &mut platforms {
        platform.tolerate("a gateway");
    }
    let referee = Referee::new().await;
    let function = gates.function(&platforms[0], "who", "1").await;
    let _ = platforms[0].invoke(&function, "{}").await.expect(200);
    let all: Vec<&Platform> = platforms.iter().collect();
    let victim = owner(&all, &function).await;
    let victim = platforms.remove(victim);
    let stop = AtomicBool::new(false);
    let event = referee.event(0.02);
    let loads = futures_util::future::join_all(
        platforms
            .iter()
            .chain(&platforms)
            .map(|platform| load(platform, &function, event.clone(), &stop)),
    );
    let kill = async {
        sleep(Duration::from_millis(500)).await;
        victim.kill().await;
        let killed = Instant::now();
        loop {
            let answer = platforms[0].invoke(&function, "{}").await;
            if answer.status == 200 {
                break;
            }
            assert!(killed.elapsed() < TAKEN_OVER, "{}", answer.text());
        }
        let after = killed.elapsed();
        sleep(Duration::from_millis(300)).await;
        stop.store(true, Ordering::Relaxed);
        after
    };
    let (counts, after) = tokio::join!(loads, kill);
    println!("taken over in {after:?}; {counts:?}");
    assert!(after < TAKEN_OVER, "{after:?}");
    assert_eq!(
        referee.most(),
        1,
        "the dead one's instance and the new one never met"
    );
    // A call that was with the dead gateway may have run, and is answered with the cause.
    let mut answered = 0;
    let mut lost = 0;
    for (status, count) in counts.into_iter().flatten() {
        match status {
            200 => answered += count,
            502 => lost += count,
            other => panic!("{count} calls were answered with {other}"),
        }
    }
    assert!(lost <= 4, "at most one call of each caller: {lost}");
    assert!(
        (answered..=answered + lost).contains(&referee.seen()),
        "{answered} answered, {lost} lost, {} ran",
        referee.seen()
    );
    for platform in platforms {
        platform.finish().await;
    }
}

#[tokio::test]
async fn calls_go_on_while_no_gateway_reaches_etcd() {
    let mut gates = Gates::new(2).await;
    let mut platforms = gates.start_all().await;
    for platform in &mut platforms {
        platform.tolerate("etcd");
        // As soon as etcd is back, a lease may be over before it was renewed.
        platform.tolerate("lost its place");
    }
    let function = gates.function(&platforms[0], "who", "1").await;
    let before = platforms[0]
        .invoke(&function, "{}")
        .await
        .expect(200)
        .text();
    gates.etcd.kill();
    let killed = Instant::now();
    while killed.elapsed() < 2 * TAKEN_OVER {
        for platform in &platforms {
            let answer = platform.invoke(&function, "{}").await.expect(200).text();
            assert_eq!(answer, before);
        }
        sleep(Duration::from_millis(50)).await;
    }
    gates.etcd.resume().await;
    for platform in &platforms {
        let _ = platform.invoke(&function, "{}").await.expect(200);
    }
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    for platform in platforms {
        platform.finish().await;
    }
}

#[tokio::test]
async fn a_gateway_that_hung_uses_no_instance_before_it_has_joined_again() {
    let gates = Gates::new(2).await;
    let mut platforms = gates.start_all().await;
    for platform in &mut platforms {
        platform.tolerate("lost its place");
        platform.tolerate("did not confirm the place");
        platform.tolerate("etcd");
    }
    let referee = Referee::new().await;
    let function = gates.function(&platforms[0], "who", "1").await;
    let _ = platforms[0].invoke(&function, "{}").await.expect(200);
    let all: Vec<&Platform> = platforms.iter().collect();
    let number = owner(&all, &function).await;
    let (sleeper, other) = (all[number], all[1 - number]);
    let before = sleeper.invoke(&function, "{}").await.expect(200).text();
    pause(sleeper.pid);
    until_stopped(sleeper.pid).await;
    let paused = Instant::now();
    // It waits in the sockets of the one that hangs.
    let knocking = sleeper.invoke(&function, "{}");
    let taken_over = async {
        let answer = loop {
            let answer = other.invoke(&function, &referee.event(0.05)).await;
            if answer.status == 200 {
                break answer.text();
            }
            assert!(paused.elapsed() < 2 * TAKEN_OVER, "{}", answer.text());
        };
        println!("taken over from one that hangs in {:?}", paused.elapsed());
        assert_ne!(answer, before, "another instance");
        // Busy while the other one wakes up with a call before it.
        let busy = other
            .invoke(
                &function,
                &serde_json::json!({"referee": referee.port, "seconds": 1}).to_string(),
            )
            .await;
        resume(sleeper.pid);
        let _ = busy.expect(200);
    };
    let (woken, ()) = tokio::join!(knocking, taken_over);
    assert_ne!(woken.expect(200).text(), before, "not its own from before");
    until_members(&all).await;
    let again: Vec<String> = [
        sleeper.invoke(&function, &referee.event(0.01)).await,
        other.invoke(&function, &referee.event(0.01)).await,
    ]
    .map(|answer| answer.expect(200).text())
    .into();
    assert_eq!(again[0], again[1], "and both find the same one");
    assert_eq!(referee.most(), 1);
    for platform in platforms {
        platform.finish().await;
    }
}
