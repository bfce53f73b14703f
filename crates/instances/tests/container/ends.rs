//! How containers fail to start, and how they end.

use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use bugle_instances::{CallError, ContainerConfig, ExitCause, LogStream, StartError};
use bugle_types::{HealthCheck, Initialization};

use crate::support::{Wanted, natively, on_every_runtime, run, wanted};

fn of(image: &str) -> Wanted {
    let mut wanted = wanted();
    image.clone_into(&mut wanted.spec.image);
    wanted
}

#[test]
fn an_exit_at_the_start_is_told_with_the_code_and_the_last_words() {
    on_every_runtime(async |machine| {
        let failed = machine.try_start(wanted().variable("EXIT", "3")).await;
        let StartError::Initialization { message, trace } = failed.unwrap_err() else {
            panic!("it is the image's fault");
        };
        assert!(message.contains("exit code 3"), "{message}");
        assert_eq!(trace.as_deref(), Some("cannot go on: no configuration"));
    });
}

#[test]
fn a_port_that_opens_late_is_waited_for_and_one_that_never_does_is_told() {
    natively(async |machine| {
        machine
            .start(wanted().variable("LISTEN_MILLIS", "1500"))
            .await;
        machine
            .log
            .line("waiting for the container to listen on port 8000")
            .await;
        let mut never = wanted().variable("LISTEN_PORT", "8001");
        never.initializer = Some(Duration::from_secs(1));
        never.spec.initialization = Initialization::Strict;
        let failed = machine.try_start(never).await.unwrap_err();
        let limit = Duration::from_secs(1);
        assert_eq!(failed, StartError::InitializationTimeout { limit });
    });
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    natively(async |machine| {
        let layer = machine.layer("wrong", |layer| {
            let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
            elf.resize(4096, 0);
            elf[16] = 2;
            elf[18] = if cfg!(target_arch = "aarch64") {
                62
            } else {
                183
            };
            for (name, text, mode) in [
                ("foreign", &elf[..], 0o755),
                ("script", b"#!/no/such/shell\n", 0o755),
                ("plain", b"text", 0o644),
            ] {
                std::fs::write(layer.join(name), text).unwrap();
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(layer.join(name), mode).unwrap();
            }
        });
        machine.shelve("wrong", &[layer], |config| config.entrypoint.clear());
        let said = async |command: &str| {
            let mut wanted = of("wrong");
            wanted.spec.command = vec![command.to_owned()];
            match machine.try_start(wanted).await.unwrap_err() {
                StartError::NotRunnable(message) => message,
                other => panic!("{other:?}"),
            }
        };
        let foreign = said("/foreign").await;
        assert!(foreign.contains("was built for"), "{foreign}");
        assert!(said("/script").await.contains("interpreter"));
        assert!(
            said("/plain")
                .await
                .contains("may not be executed by user 1003")
        );
        assert!(said("/absent").await.contains("has no program /absent"));
        assert!(said("absent").await.contains("in its PATH"));
        let nothing = machine.try_start(of("wrong")).await.unwrap_err();
        assert!(
            nothing
                .to_string()
                .contains("neither an entrypoint nor a command"),
            "{nothing}"
        );
    });
}

#[test]
fn out_of_memory_is_told_with_the_limit_and_the_peak() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        // A child of the server takes it.
        let fill = "head -c 300m /dev/zero | tail; sleep 10";
        let cause = match running.call(fill).await {
            Err(CallError::Exited(cause)) => cause,
            other => panic!("there is no such memory: {other:?}"),
        };
        let ExitCause::OutOfMemory {
            limit_mib,
            used_bytes,
        } = cause
        else {
            panic!("{cause:?}");
        };
        assert_eq!(limit_mib, 128);
        let used = used_bytes / (1024 * 1024);
        assert!((121..=128).contains(&used), "{used}");
        let text = cause.to_string();
        assert!(
            text.starts_with("runtime memory limit exceeded, memory used: 12"),
            "{text}"
        );
        assert!(
            text.contains("MB, memory limit: 128MB (out of memory, limit 128 MB)"),
            "{text}"
        );
        let exit = running.0.exited().await;
        assert!(
            matches!(exit.cause, ExitCause::OutOfMemory { .. }),
            "{exit:?}"
        );
    });
}

#[test]
fn who_writes_more_than_allowed_is_ended() {
    on_every_runtime(async |machine| {
        let mut small = wanted();
        small.spec.disk_mib = 16;
        let running = machine.start(small).await;
        running
            .run("for i in 1 2 3; do head -c 8m /dev/zero >/tmp/$i; done")
            .await;
        let exit = running.0.exited().await;
        assert_eq!(exit.cause, ExitCause::OutOfDisk { limit_mib: 16 });
    });
}

#[test]
fn one_file_does_not_grow_beyond_the_limit() {
    on_every_runtime(async |machine| {
        let mut small = wanted();
        small.spec.disk_mib = 4;
        let running = machine.start(small).await;
        let size = running
            .run("head -c 9m /dev/zero >/tmp/one; wc -c </tmp/one")
            .await;
        assert!(size.ends_with("4194304"), "{size}");
    });
}

#[test]
fn who_is_ill_is_ended() {
    natively(async |machine| {
        let mut wanted = wanted();
        wanted.spec.health = Some(HealthCheck {
            timeout: Duration::from_millis(200),
            period: Duration::from_millis(20),
            failures: NonZeroU32::new(3).unwrap(),
        });
        let running = machine.start(wanted).await;
        running.run("touch /tmp/ill").await;
        let exit = running.0.exited().await;
        assert_eq!(exit.cause, ExitCause::Unhealthy { failures: 3 });
    });
}

#[test]
fn a_start_waits_until_it_is_well() {
    natively(async |machine| {
        let mut wanted = wanted().variable("HEALTH_STATUS", "503");
        wanted.initializer = Some(Duration::from_secs(1));
        wanted.spec.health = Some(HealthCheck {
            timeout: Duration::from_millis(200),
            period: Duration::from_millis(20),
            failures: NonZeroU32::MIN,
        });
        let failed = machine.try_start(wanted).await.unwrap_err();
        assert!(
            matches!(failed, StartError::InitializationTimeout { .. }),
            "{failed:?}"
        );
    });
}

#[test]
fn a_stop_lets_calls_finish_and_says_so_before_it_is_forced() {
    on_every_runtime(async |machine| {
        let mut wanted = wanted();
        wanted.spec.shutdown = Some(Duration::from_secs(10));
        let running = machine.start(wanted).await;
        let stop = async {
            tokio::task::yield_now().await;
            running.0.stop(Duration::from_secs(10)).await
        };
        let (answer, exit) = tokio::join!(running.call("sleep 0.3; echo done"), stop);
        assert_eq!(answer.unwrap(), "done\n");
        assert_eq!(exit.cause, ExitCause::Stopped);
        let texts = machine.log.texts().join(" ");
        assert!(texts.ends_with("asked to shut down terminated"), "{texts}");
        assert!(matches!(running.call("").await, Err(CallError::NotSent(_))));
    });
}

#[test]
fn the_function_has_a_last_word_before_the_signal() {
    natively(async |machine| {
        let mut wanted = wanted();
        wanted.pre_stop = Some(Duration::from_secs(5));
        wanted.spec.shutdown = Some(Duration::from_secs(5));
        let running = machine.start(wanted).await;
        let exit = running.0.stop(Duration::from_secs(10)).await;
        assert_eq!(exit.cause, ExitCause::Stopped);
        let texts = machine.log.texts().join("; ");
        // What it answered does not matter.
        let order = "asked to prepare with {}; asked to shut down; terminated";
        assert!(texts.ends_with(order), "{texts}");
    });
}

#[test]
fn a_last_word_that_takes_too_long_is_cut_off() {
    natively(async |machine| {
        let mut wanted = wanted().variable("PRE_STOP_MILLIS", "60000");
        wanted.pre_stop = Some(Duration::from_millis(300));
        let running = machine.start(wanted).await;
        let began = Instant::now();
        let exit = running.0.stop(Duration::from_secs(20)).await;
        assert_eq!(exit.cause, ExitCause::Stopped);
        assert!(began.elapsed() < Duration::from_secs(10));
        let line = machine.log.line("POST /pre-stop took longer than").await;
        assert_eq!(line.stream, LogStream::Platform);
        machine.log.line("terminated").await;
    });
}

#[test]
fn an_image_is_stopped_by_the_signal_that_it_names() {
    on_every_runtime(async |machine| {
        let usual = machine.layer("signals", |_| {});
        crate::support::fill_usual(&usual);
        for (signal, said) in [
            ("SIGQUIT", "stopped by SIGQUIT"),
            ("SIGRTMIN+3", "terminated"),
        ] {
            machine.shelve(signal, std::slice::from_ref(&usual), |config| {
                config.stop_signal = Some(signal.to_owned());
            });
            let running = machine.start(of(signal).variable("QUITS", "1")).await;
            let exit = running.0.stop(Duration::from_secs(10)).await;
            assert_eq!(exit.cause, ExitCause::Stopped);
            machine.log.line(said).await;
        }
        machine.log.line("SIGRTMIN+3").await;
    });
}

#[test]
fn who_does_not_listen_to_signals_is_killed() {
    on_every_runtime(async |machine| {
        let running = machine.start(wanted().variable("DEAF", "1")).await;
        let began = Instant::now();
        let exit = running.0.stop(Duration::from_secs(2)).await;
        assert_eq!(exit.cause, ExitCause::Stopped);
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_start_that_is_given_up_leaves_nothing() {
    natively(async |machine| {
        let start = machine.try_start(wanted().variable("LISTEN_MILLIS", "60000"));
        let given_up = tokio::time::timeout(Duration::from_millis(300), start).await;
        assert!(given_up.is_err());
        let folder = std::sync::Arc::clone(&machine.folder);
        let containers = folder.path().join("containers");
        drop(machine);
        let gone = async {
            while std::fs::read_dir(&containers).unwrap().next().is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .unwrap();
    });
}

#[test]
fn a_root_that_is_read_only_leaves_tmp() {
    let config = ContainerConfig {
        read_only: true,
        ..ContainerConfig::default()
    };
    run(
        config,
        &bugle_artifacts::address::Config::default(),
        &async |machine: crate::support::Machine| {
            let running = machine.usual().await;
            let said = running.run("touch /tmp/x && echo tmp; touch /y").await;
            assert!(said.starts_with("tmp"), "{said}");
            assert!(said.contains("Read-only file system"), "{said}");
        },
    );
}
