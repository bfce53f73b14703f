//! How instances end.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use bugle_instances::{CallError, ExitCause};

use crate::processes::{gone, instances, is_alive, outside, parent};
use crate::support::{Machine, json, on_every_interpreter, on_old_and_new};

#[test]
fn a_killed_instance_is_gone_with_everything_it_started() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import subprocess\ndef handler(event, context):\n    \
                      return subprocess.Popen(['sleep', '600']).pid\n";
        let instance = machine.start(source).await.unwrap();
        let child = instance.answer("{}").await.parse().unwrap();
        let child = outside(instance.instance.pid().unwrap(), child);
        assert!(is_alive(child));
        instance.instance.kill();
        let exit = instance.instance.exited().await;
        assert_eq!(exit.cause, ExitCause::Stopped);
        assert!(exit.peak_memory > 1024 * 1024);
        gone(child).await;
        let error = instance.call(b"{}").await.unwrap_err();
        assert_eq!(error, CallError::NotSent(ExitCause::Stopped));
    });
}

#[test]
fn the_calls_of_a_process_that_ends_are_told_how() {
    on_every_interpreter(|machine: Machine| async move {
        for (end, cause) in [
            ("os._exit(3)", ExitCause::Code(3)),
            ("ctypes.string_at(0)", ExitCause::Signal(11)),
        ] {
            let source = format!("import ctypes, os\ndef handler(event, context):\n    {end}\n");
            let instance = machine.start(&source).await.unwrap();
            let error = instance.call(b"{}").await.unwrap_err();
            assert_eq!(error, CallError::Exited(cause.clone()));
            assert_eq!(instance.instance.exited().await.cause, cause);
        }
    });
}

#[test]
fn a_reply_written_before_the_end_still_arrives() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import os, threading, time\ndef handler(event, context):\n    \
            threading.Thread(target=lambda: (time.sleep(0.01), os._exit(0))).start()\n    \
            return 'x' * 3000000\n";
        for _ in 0..10 {
            let instance = machine.start(source).await.unwrap();
            if let Ok(reply) = instance.call(b"{}").await {
                assert_eq!(json(&reply).len(), 3_000_002);
            }
            assert_eq!(instance.instance.exited().await.cause, ExitCause::Code(0));
        }
    });
}

#[test]
fn stopping_waits_for_calls_and_runs_pre_stop() {
    on_every_interpreter(|machine: Machine| async move {
        let threads = "import time\ndef handler(event, context):\n    print('begun')\n    time.sleep(0.3)\n    \
            return 'whole'\ndef bye():\n    print('bye')\n";
        let coroutines = "import asyncio\nasync def handler(event, context):\n    print('begun')\n    \
            await asyncio.sleep(0.3)\n    return 'whole'\nasync def bye():\n    print('bye')\n";
        for source in [threads, coroutines] {
            let function = machine
                .function(source)
                .pre_stop("main.bye", Duration::from_secs(5));
            let instance = function.start().await.unwrap();
            // A first call takes the way of running out of the picture.
            instance.call(b"{}").await.unwrap();
            let already = machine.log.lines().len();
            let stop = async {
                while machine.log.lines().len() == already {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                instance.instance.stop(Duration::from_secs(10)).await
            };
            let (reply, exit) = tokio::join!(instance.call(b"{}"), stop);
            assert_eq!(json(&reply.unwrap()), r#""whole""#);
            assert_eq!(exit.cause, ExitCause::Stopped);
            let lines = machine.log.lines();
            assert_eq!(lines.last().unwrap().text, "bye");
        }
    });
}

#[test]
fn an_idle_instance_stops_at_once() {
    on_every_interpreter(|machine: Machine| async move {
        for keyword in ["", "async "] {
            let source = format!(
                "import atexit\natexit.register(print, 'at exit')\n\
                 {keyword}def handler(event, context): pass\n"
            );
            let instance = machine.start(&source).await.unwrap();
            instance.call(b"{}").await.unwrap();
            let exit = instance.instance.stop(Duration::from_secs(10)).await;
            assert_eq!(exit.cause, ExitCause::Stopped);
        }
        assert_eq!(
            machine
                .log
                .lines()
                .iter()
                .filter(|line| line.text == "at exit")
                .count(),
            2
        );
    });
}

#[test]
fn pre_stop_is_interrupted_after_its_time() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import time\ndef handler(event, context): pass\n\
            def bye():\n    try:\n        while True:\n            time.sleep(0.01)\n    \
            finally:\n        print('interrupted')\n";
        let function = machine
            .function(source)
            .pre_stop("main.bye", Duration::from_millis(100));
        let instance = function.start().await.unwrap();
        let exit = instance.instance.stop(Duration::from_secs(10)).await;
        assert_eq!(exit.cause, ExitCause::Stopped);
        machine.log.line("interrupted").await;
    });
}

#[test]
fn an_instance_that_does_not_stop_is_killed_after_the_grace() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import time\ndef handler(event, context): pass\n\
                      def bye():\n    while True:\n        try:\n            time.sleep(0.01)\n        \
                      except BaseException:\n            pass\n";
        let function = machine
            .function(source)
            .pre_stop("main.bye", Duration::from_millis(10));
        let instance = function.start().await.unwrap();
        let exit = instance.instance.stop(Duration::from_millis(200)).await;
        assert_eq!(exit.cause, ExitCause::Stopped);
    });
}

/// Set for the process that is the platform of the next test.
const PLATFORM: &str = "BUGLE_TEST_IS_THE_PLATFORM";

#[test]
fn nothing_survives_a_killed_platform() {
    if std::env::var_os(PLATFORM).is_some() {
        return be_the_platform();
    }
    let mut platform = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "ends::nothing_survives_a_killed_platform",
            "--nocapture",
        ])
        .env(PLATFORM, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(platform.stdout.take().unwrap());
    let pids = output
        .lines()
        .find_map(|line| Some(line.unwrap().split_once("pids ")?.1.to_owned()));
    let pids: Vec<u32> = serde_json::from_str(&pids.unwrap()).unwrap();
    assert_eq!(pids.len() % 3, 0);
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    platform.kill().unwrap();
    platform.wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for pid in pids {
            let gone = tokio::time::timeout(Duration::from_secs(10), gone(pid)).await;
            gone.unwrap_or_else(|_| panic!("the process {pid} lives on"));
        }
    });
}

/// Starts an instance on every interpreter, tells all processes, and waits to be killed.
fn be_the_platform() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut all = Vec::new();
        let mut pids: Vec<u32> = Vec::new();
        for interpreter in crate::support::interpreters() {
            let machine = Machine::new(bugle_types::Runtime::Python(interpreter.version));
            let source = "import subprocess\ndef handler(event, context):\n    \
                          return subprocess.Popen(['sleep', '600']).pid\n";
            let instance = machine.start(source).await.unwrap();
            let child = instance.answer("{}").await.parse().unwrap();
            let pid = instance.instance.pid().unwrap();
            pids.extend([pid, parent(pid), outside(pid, child)]);
            all.push((machine, instance));
        }
        println!("pids {}", serde_json::to_string(&pids).unwrap());
        std::future::pending::<()>().await;
    });
}

#[test]
fn when_the_parent_dies_its_instances_are_told_and_it_is_replaced() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import signal\ndef handler(event, context):\n    signal.pause()\n";
        let instance = machine.start(source).await.unwrap();
        let pid = instance.instance.pid().unwrap();
        let (called, ()) = tokio::join!(instance.call(b"{}"), async {
            let parent = i32::try_from(parent(pid)).unwrap();
            let parent = rustix::process::Pid::from_raw(parent).unwrap();
            rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
        });
        let error = called.unwrap_err();
        assert_eq!(error, CallError::Exited(ExitCause::Signal(9)));
        gone(pid).await;
        let next = machine
            .start("def handler(event, context):\n    return 'again'\n")
            .await
            .unwrap();
        assert_eq!(next.answer("{}").await, r#""again""#);
    });
}

#[test]
fn bytes_that_are_no_frame_end_the_instance() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import os, time\ndef handler(event, context):\n    \
                      os.write(3, b'\\xff' * 64)\n    time.sleep(30)\n";
        let instance = machine.start(source).await.unwrap();
        let error = instance.call(b"{}").await.unwrap_err();
        assert!(matches!(error, CallError::Protocol(_)), "{error:?}");
        instance.instance.exited().await;
    });
}

#[test]
fn an_instance_that_closes_its_socket_is_ended() {
    on_old_and_new(|machine: Machine| async move {
        let source =
            "import os, time\ndef handler(event, context):\n    os.close(3)\n    time.sleep(30)\n";
        let instance = machine.start(source).await.unwrap();
        assert!(instance.call(b"{}").await.is_err());
        instance.instance.exited().await;
    });
}

#[test]
fn a_start_that_is_given_up_leaves_nothing_behind() {
    on_old_and_new(|machine: Machine| async move {
        let function = machine.function("import time\nprint('begun')\ntime.sleep(600)\n");
        let begun = {
            let start = function.start();
            tokio::pin!(start);
            tokio::select! {
                _ = &mut start => panic!("it has started"),
                _ = machine.log.line("begun") => instances(),
            }
        };
        assert_eq!(begun.len(), 1);
        gone(begun[0]).await;
    });
}

#[test]
fn many_starts_leave_no_descriptors_behind() {
    on_old_and_new(|machine: Machine| async move {
        let open = |of: &str| std::fs::read_dir(format!("/proc/{of}/fd")).unwrap().count();
        let mut seen: Vec<(usize, usize)> = Vec::new();
        for _ in 0..60 {
            let source = "def handler(event, context): pass\n";
            let instance = machine.start(source).await.unwrap();
            let parent = parent(instance.instance.pid().unwrap());
            let of_parent = open(&parent.to_string());
            instance.instance.kill();
            instance.instance.exited().await;
            drop(instance);
            seen.push((open("self"), of_parent));
        }
        // Both have a few more while a process is being parked.
        let least = |seen: &[(usize, usize)]| {
            let (own, parent): (Vec<_>, Vec<_>) = seen.iter().copied().unzip();
            (own.into_iter().min(), parent.into_iter().min())
        };
        assert_eq!(least(&seen[10..30]), least(&seen[40..60]));
    });
}
