//! What an image sees, and what comes back from it.

use std::time::Duration;

use bugle_types::Initialization;

use crate::support::{natively, on_every_runtime, wanted};

#[test]
fn the_server_of_an_image_answers_with_nothing_configured() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        assert_eq!(running.call("").await.unwrap(), "Hello invoke\n");
        assert_eq!(running.run("cat /tmp/asked").await, "/init");
        let line = machine.log.line("listening").await;
        assert_eq!(line.instance, running.0.id());
    });
}

#[test]
fn it_may_listen_on_any_address_and_two_have_the_same_port() {
    on_every_runtime(async |machine| {
        let mut all = Vec::new();
        for address in ["0.0.0.0", "127.0.0.1", "::"] {
            all.push(machine.start(wanted().variable("BIND", address)).await);
        }
        for running in &all {
            assert_eq!(running.call("").await.unwrap(), "Hello invoke\n");
        }
    });
}

#[test]
fn it_runs_as_the_user_of_the_function_without_groups_and_rights() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        assert_eq!(running.run("id -u; id -g; id -G").await, "1003\n1003\n1003");
        let status = running
            .run("grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status")
            .await;
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(
                status.contains(&format!("{name}:\t0000000000000000")),
                "{status}"
            );
        }
        assert!(
            status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"),
            "{status}"
        );
        let mut other = wanted();
        other.spec.uid = 2000;
        other.spec.gid = 3000;
        let running = machine.start(other).await;
        assert_eq!(
            running.run("id -u; id -g; id -G; echo $HOME").await,
            "2000\n3000\n3000\n/"
        );
    });
}

#[test]
fn its_environment_is_the_images_then_the_platforms_then_the_functions() {
    on_every_runtime(async |machine| {
        let layers = [machine.layer("env", |_| {})];
        let usual = [&layers[..], &[machine.folder.path().join("usual")]].concat();
        crate::support::fill_usual(&usual[1]);
        machine.shelve("env", &usual, |config| {
            config.env = [
                ("A", "image"),
                ("B", "image"),
                ("PORT", "1"),
                ("LD_LIBRARY_PATH", "/x"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        });
        let mut wanted = wanted()
            .variable("A", "mine")
            .variable("LD_LIBRARY_PATH", "/y");
        wanted.spec.image = "env".to_owned();
        wanted.memory = 256;
        let running = machine.start(wanted).await;
        let seen = running.run("env").await;
        for line in [
            "A=mine",
            "B=image",
            "PORT=8000",
            "LD_LIBRARY_PATH=/x:/y",
            "HOME=/home/snuser",
            "RUNTIME_PROJECT_ID=tenant-1",
            "RUNTIME_FUNC_NAME=thumb",
            "RUNTIME_HANDLER=-",
            "RUNTIME_TIMEOUT=3",
            "RUNTIME_MEMORY=256",
            "RUNTIME_CPU=300",
            "RUNTIME_MAX_RESP_BODY_SIZE=6291456",
        ] {
            assert!(
                seen.lines().any(|seen| seen == line),
                "{line} is not in {seen}"
            );
        }
        assert!(!seen.contains("CARGO"), "{seen}");
        let hostname = running
            .run("hostname; cat /etc/hostname; echo $HOSTNAME")
            .await;
        let id = running.0.id().to_string();
        assert!(hostname.lines().all(|line| line == id), "{hostname}");
    });
}

#[test]
fn the_function_overrides_the_images_command_arguments_and_directory() {
    on_every_runtime(async |machine| {
        let mut command = wanted();
        command.spec.command = vec!["sh".to_owned()];
        command.spec.args = vec!["-c".to_owned(), "exec /server".to_owned()];
        command.spec.working_dir = Some("/var/made/for/it".to_owned());
        let running = machine.start(command).await;
        assert_eq!(running.run("pwd").await, "/var/made/for/it");
    });
}

#[test]
fn headers_of_the_contract_come_with_calls() {
    natively(async |machine| {
        let head = machine
            .usual()
            .await
            .run("\"headers\"")
            .await
            .to_lowercase();
        for header in [
            "post /invoke http/1.1",
            "host: 127.0.0.1:8000",
            "content-type: application/json",
            "x-cff-request-id: r-1",
            "x-cff-memory: 128",
            "x-cff-timeout: 3",
            "x-cff-func-name: thumb",
            "x-cff-project-id: tenant-1",
            "x-cff-package: svc",
            "content-length: 9",
        ] {
            assert!(head.contains(header), "{header} is not in {head}");
        }
    });
}

#[test]
fn output_is_logged_with_the_call_and_the_last_line_is_not_lost() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        running
            .run("echo to the log >/proc/1/fd/1; echo and errors >/proc/1/fd/2")
            .await;
        for text in ["to the log", "and errors"] {
            let line = machine.log.line(text).await;
            // runc passes output on through itself, which may take longer than the call.
            let is_late = machine.is_made_by("runc") && line.request.is_none();
            assert!(
                is_late || line.request.as_deref() == Some("r-1"),
                "{line:?}"
            );
        }
        running.0.stop(Duration::from_secs(5)).await;
        machine.log.line("terminated").await;
    });
}

#[test]
fn init_is_asked_once_by_the_functions_mode() {
    natively(async |machine| {
        let asked = async |wanted| {
            let running = machine.start(wanted).await;
            running
                .run("cat /tmp/asked 2>/dev/null | tr '\\n' ' '")
                .await
        };
        let with = |how, status: &str| {
            let mut wanted = wanted().variable("INIT_STATUS", status);
            wanted.spec.initialization = how;
            wanted.initializer = (how == Initialization::Strict).then_some(Duration::from_secs(5));
            wanted
        };
        assert_eq!(asked(with(Initialization::Never, "200")).await, "");
        for status in ["200", "404", "405"] {
            assert_eq!(asked(with(Initialization::Strict, status)).await, "/init");
        }
        for status in ["500", "404", "204"] {
            assert_eq!(asked(with(Initialization::Auto, status)).await, "/init");
        }
        machine.log.line("POST /init answered 500").await;
        let failed = machine.try_start(with(Initialization::Strict, "500")).await;
        let failed = failed.unwrap_err().to_string();
        assert!(
            failed.contains("POST /init answered 500: Hello init"),
            "{failed}"
        );
    });
}

#[test]
fn an_initializer_that_nobody_asked_for_may_hang() {
    natively(async |machine| {
        let running = machine
            .start(wanted().variable("INIT_MILLIS", "60000"))
            .await;
        assert_eq!(running.call("").await.unwrap(), "Hello invoke\n");
        machine.log.line("POST /init took longer than 3 s").await;
    });
}
