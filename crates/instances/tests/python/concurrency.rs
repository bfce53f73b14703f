//! Calls at the same time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::{Machine, json, on_every_interpreter, on_old_and_new, request};

/// Makes `count` calls at once, each with its number as event.
async fn calls(instance: &crate::support::Running, count: u32) -> Vec<String> {
    let one = |number: u32| instance.call_owned(number.to_string());
    join_all((0..count).map(one)).await
}

#[test]
fn a_hundred_calls_that_block_run_at_once() {
    on_every_interpreter(|machine: Machine| async move {
        let source =
            "import time\ndef handler(event, context):\n    time.sleep(0.2)\n    return event\n";
        let instance = machine.start(source).await.unwrap();
        for _ in 0..2 {
            let began = Instant::now();
            let answers = calls(&instance, 100).await;
            let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
            assert_eq!(answers, expected);
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "{:?}",
                began.elapsed()
            );
        }
    });
}

#[test]
fn coroutines_run_on_one_thread_at_once() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import asyncio, threading\nmost = [0, 0]\nthreads = set()\n\
            async def handler(event, context):\n    most[0] += 1\n    most[1] = max(most)\n    \
            threads.add(threading.get_ident())\n    await asyncio.sleep(0.2)\n    most[0] -= 1\n    \
            return [most[1], len(threads)]\n";
        let instance = machine.start(source).await.unwrap();
        let answers = calls(&instance, 100).await;
        assert_eq!(answers[99], "[100, 1]");
    });
}

#[test]
fn calls_that_need_each_other_do_not_wait_for_ever() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import threading\nmet = threading.Barrier(3)\n\
                      def handler(event, context):\n    met.wait(10)\n    return 'met'\n";
        let instance = machine.start(source).await.unwrap();
        for _ in 0..20 {
            assert_eq!(calls(&instance, 3).await, [r#""met""#; 3]);
        }
    });
}

#[test]
fn short_calls_are_answered_beside_a_long_one() {
    on_old_and_new(|machine: Machine| async move {
        let source =
            "import time\ndef handler(event, context):\n    time.sleep(event)\n    return event\n";
        let instance = machine.start(source).await.unwrap();
        let long = instance.call(b"2");
        tokio::pin!(long);
        let short = async {
            for _ in 0..200 {
                assert_eq!(instance.answer("0").await, "0");
            }
        };
        let began = Instant::now();
        tokio::select! {
            _ = &mut long => panic!("the short calls took longer than the long one"),
            () = short => {}
        }
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(json(&long.await.unwrap()), "2");
    });
}

#[test]
fn a_mixture_of_calls_loses_none() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import time\ndef handler(event, context):\n    \
                      time.sleep(event % 7 * 0.001)\n    return event\n";
        let instance = machine.start(source).await.unwrap();
        for _ in 0..5 {
            let answers = calls(&instance, 60).await;
            let expected: Vec<String> = (0..60).map(|n| n.to_string()).collect();
            assert_eq!(answers, expected);
        }
    });
}

#[test]
fn an_overdue_call_is_interrupted_and_others_go_on() {
    on_every_interpreter(|machine: Machine| async move {
        let threads = "import time\ndef handler(event, context):\n    \
                       end = time.time() + event\n    while time.time() < end:\n        time.sleep(0.01)\n    \
                       return 'slept'\n";
        let coroutines = "import asyncio\nasync def handler(event, context):\n    \
                          await asyncio.sleep(event)\n    return 'slept'\n";
        for source in [threads, coroutines] {
            let instance = machine.start(source).await.unwrap();
            let mut overdue = request(b"30");
            overdue.timeout = Duration::from_millis(200);
            let (overdue, other) =
                tokio::join!(instance.instance.call(overdue), instance.call(b"0.5"));
            match overdue.unwrap().body {
                bugle_instances::ReplyBody::Error { code, message, .. } => {
                    assert_eq!(code, 4010, "{message}");
                    assert_eq!(message, "call request timed out after 0.2s");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(json(&other.unwrap()), r#""slept""#);
            assert_eq!(instance.answer("0").await, r#""slept""#);
        }
    });
}

#[test]
fn an_idle_instance_does_not_wake_up() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "def handler(event, context): pass\n";
        let instance = machine.start(source).await.unwrap();
        instance.call(b"{}").await.unwrap();
        let switches = || {
            let pid = instance.instance.pid().unwrap();
            let mut total = 0;
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
                let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let line = status
                    .lines()
                    .find(|line| line.starts_with("voluntary"))
                    .unwrap();
                total += line
                    .split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap();
            }
            total
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = switches();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(switches(), before);
    });
}

#[test]
fn a_plain_function_may_return_a_coroutine() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import asyncio\nasync def work(event):\n    await asyncio.sleep(0.01)\n    \
                      return event\ndef handler(event, context):\n    return work(event)\n";
        let instance = machine.start(source).await.unwrap();
        assert_eq!(calls(&instance, 5).await, ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn one_thread_may_look_while_another_waits_for_the_next_frame() {
    on_every_interpreter(|machine: Machine| async move {
        // The reader is inside its wait nearly all the time: a look that disturbs it is soon met.
        let source = "import socket, threading\nfrom _bugle import frames\n\
            def handler(event, context):\n    ours, theirs = socket.socketpair()\n    \
            channel = frames.Channel(theirs.detach())\n    failed = []\n    \
            def read():\n        try:\n            channel.fill()\n        \
            except BaseException as error:\n            failed.append(repr(error))\n    \
            reader = threading.Thread(target=read)\n    reader.start()\n    \
            seen = [channel.waiting() for _ in range(20000)]\n    ours.send(b'x')\n    \
            reader.join()\n    return [any(seen), failed, channel.waiting()]\n";
        let instance = machine.start(source).await.unwrap();
        assert_eq!(instance.answer("{}").await, "[false, [], true]");
    });
}
