//! Packages that the operator provides, and parents that have them imported already.

use std::time::Duration;

use bugle_instances::Config;
use rustix::process::Pid;

use crate::support::{Machine, on_old_and_new};

/// Tells in which process it was imported.
const PACKAGE: &str = "import os, random\nPROCESS = os.getpid()\nRANDOM = random.Random()\n\
                       NAME = 'the operator'\n";

/// Answers whether the package `one` was imported before the instance was forked.
const WAS_WARM: &str = "import os, one\n\
                        def handler(event, context):\n    \
                            return one.PROCESS != os.getpid()\n";

/// A function that answers with the value of `expression`, after these imports.
fn source(imports: &str, expression: &str) -> String {
    format!("import os\n{imports}\ndef handler(event, context):\n    return {expression}\n")
}

async fn answer(machine: &Machine, source: &str) -> String {
    let instance = machine.start(source).await.unwrap();
    instance.answer("{}").await
}

/// Starts functions with this source until one finds the package `one` imported already.
async fn until_warm(machine: &Machine, source: &str) {
    while answer(machine, source).await != "true" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn one_package() -> Vec<(&'static str, &'static str)> {
    vec![("one/__init__.py", PACKAGE), ("two.py", "import one\n")]
}

#[test]
fn packages_of_the_operator_can_be_imported_and_are_warm_for_the_next_function() {
    on_old_and_new(|machine| async move {
        let machine = machine.with_packages(&one_package(), Config::default());
        assert_eq!(machine.driver.warm_parents(), 0);
        assert_eq!(answer(&machine, WAS_WARM).await, "false");
        until_warm(&machine, WAS_WARM).await;
        assert_eq!(machine.driver.warm_parents(), 1);
    });
}

#[test]
fn a_function_meets_only_what_it_imports() {
    on_old_and_new(|machine| async move {
        let machine = machine.with_packages(&one_package(), Config::default());
        until_warm(&machine, WAS_WARM).await;
        let other = source("import sys", "'one' in sys.modules");
        assert_eq!(answer(&machine, &other).await, "false");
        // What another package imports is there, and nothing has to be made for it.
        let both = source("import two, one", "one.PROCESS != os.getpid()");
        until_warm(&machine, &both).await;
        let large = machine.driver.warm_parents();
        let again = source(
            "from two import one\nimport one",
            "one.PROCESS != os.getpid()",
        );
        assert_eq!(answer(&machine, &again).await, "true");
        assert_eq!(machine.driver.warm_parents(), large);
    });
}

#[test]
fn the_functions_own_module_wins_over_a_package_of_that_name() {
    on_old_and_new(|machine| async move {
        let machine = machine.with_packages(&one_package(), Config::default());
        until_warm(&machine, WAS_WARM).await;
        until_warm(
            &machine,
            &source("import two, one", "one.PROCESS != os.getpid()"),
        )
        .await;
        let text = source("import one", "one.NAME");
        let own = machine.function(&text).file("one.py", "NAME = 'the user'");
        assert_eq!(
            own.start().await.unwrap().answer("{}").await,
            r#""the user""#
        );
        let own = machine
            .function(&text)
            .file("lib/one/__init__.py", "NAME = 'a library'");
        assert_eq!(
            own.start().await.unwrap().answer("{}").await,
            r#""a library""#
        );
        // A package of the operator imports the user's module as well then, as it always does.
        let text = source("import two", "two.one.NAME");
        let own = machine.function(&text).file("one.py", "NAME = 'the user'");
        assert_eq!(
            own.start().await.unwrap().answer("{}").await,
            r#""the user""#
        );
        let text = source(
            "import sys\nsys.path.insert(0, os.path.dirname(__file__) + '/vendor')\nimport one",
            "one.NAME",
        );
        let own = machine
            .function(&text)
            .file("vendor/one.py", "NAME = 'a vendor'");
        assert_eq!(
            own.start().await.unwrap().answer("{}").await,
            r#""a vendor""#
        );
    });
}

#[test]
fn what_cannot_be_imported_ahead_is_imported_by_each_function() {
    on_old_and_new(|machine| async move {
        let refused = [
            (
                "thread",
                "import threading, time\n\
                 threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
            ),
            ("keeps", "import socket\nSOCKET = socket.socket()\n"),
            (
                "process",
                "import os\nif os.getpid() != 1 and not os.fork():\n    os._exit(0)\n",
            ),
            (
                "ends",
                "import os\nif os.getpid() != 1:\n    raise SystemExit(3)\n",
            ),
            (
                "crashes",
                "import os\nif os.getpid() != 1:\n    os._exit(3)\n",
            ),
        ];
        let mut files = one_package();
        let names: Vec<String> = refused
            .iter()
            .map(|(name, _)| format!("{name}.py"))
            .collect();
        files.extend(
            names
                .iter()
                .zip(&refused)
                .map(|(name, (_, text))| (&**name, *text)),
        );
        let machine = machine.with_packages(&files, Config::default());
        for (name, _) in refused {
            let text = source(&format!("import {name}"), "1");
            assert_eq!(answer(&machine, &text).await, "1", "{name}");
        }
        // One is made at a time: when this one is there, the last one before it was given up.
        until_warm(&machine, WAS_WARM).await;
        for (name, _) in refused {
            let text = source(&format!("import {name}"), "1");
            assert_eq!(answer(&machine, &text).await, "1", "{name}");
            until_warm(&machine, WAS_WARM).await;
            assert_eq!(machine.driver.warm_parents(), 1, "{name}");
        }
    });
}

#[test]
fn a_package_that_raises_is_told_to_the_function_alone() {
    on_old_and_new(|machine| async move {
        let files = [
            ("one.py", PACKAGE),
            ("broken.py", "raise ValueError('no good')\n"),
        ];
        let machine = machine.with_packages(&files, Config::default());
        let text = source("import one, broken", "1");
        for _ in 0..2 {
            let error = machine.start(&text).await.unwrap_err().to_string();
            assert!(error.contains("no good"), "{error}");
        }
        until_warm(&machine, WAS_WARM).await;
        assert_eq!(machine.driver.warm_parents(), 1);
    });
}

#[test]
fn instances_of_a_warm_parent_have_random_numbers_of_their_own() {
    on_old_and_new(|machine| async move {
        let machine = machine.with_packages(&one_package(), Config::default());
        until_warm(&machine, WAS_WARM).await;
        let text = source(
            "import one",
            "[one.RANDOM.random(), one.PROCESS != os.getpid()]",
        );
        let first = answer(&machine, &text).await;
        let second = answer(&machine, &text).await;
        assert!(first.contains("true") && second.contains("true"));
        assert_ne!(first, second);
    });
}

#[test]
fn configured_sets_are_warm_before_the_first_function() {
    on_old_and_new(|machine| async move {
        let config = Config {
            preload_sets: vec![vec!["one".to_owned()], vec!["two".to_owned()]],
            ..Config::default()
        };
        let machine = machine.with_packages(&one_package(), config);
        machine.driver.prepare(&machine.runtime);
        while machine.driver.warm_parents() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(answer(&machine, WAS_WARM).await, "true");
    });
}

#[test]
fn there_are_no_more_warm_parents_than_configured() {
    on_old_and_new(|machine| async move {
        let config = Config {
            warm_sets: 1,
            ..Config::default()
        };
        let machine = machine.with_packages(&one_package(), config);
        until_warm(&machine, WAS_WARM).await;
        // The only one is too young to make room.
        let both = source("import two", "two.one.PROCESS != os.getpid()");
        assert_eq!(answer(&machine, &both).await, "false");
        assert_eq!(machine.driver.warm_parents(), 1);
        assert_eq!(answer(&machine, WAS_WARM).await, "true");
    });
}

#[test]
fn what_a_warm_parent_had_is_not_seen_by_its_instances() {
    on_old_and_new(|machine| async move {
        let files = [(
            "one.py",
            &*format!("{PACKAGE}open('/tmp/kept', 'w').close()\n"),
        )];
        let machine = machine.with_packages(&files, Config::default());
        until_warm(&machine, WAS_WARM).await;
        let text = source(
            "import one",
            "[os.listdir('/tmp'), sorted(os.listdir('/proc/self/fd')), one.PROCESS != os.getpid()]",
        );
        let cold = source(
            "import json",
            "[os.listdir('/tmp'), sorted(os.listdir('/proc/self/fd')), True]",
        );
        let (warm, cold) = (answer(&machine, &text).await, answer(&machine, &cold).await);
        if rustix::process::geteuid().is_root() {
            assert_eq!(warm, cold);
        }
    });
}

#[test]
fn what_was_imported_before_the_packages_changed_is_given_up() {
    on_old_and_new(|machine| async move {
        let machine = machine.with_packages(&one_package(), Config::default());
        until_warm(&machine, WAS_WARM).await;
        let old = source("import one", "one.PROCESS");
        let old = answer(&machine, &old).await;
        let package = machine.dir.path().join("packages/one/__init__.py");
        std::fs::write(package, format!("{PACKAGE}VERSION = 2\n")).unwrap();
        std::fs::create_dir(machine.dir.path().join("packages/one-2.dist-info")).unwrap();
        let both = source("import one", "[one.VERSION, one.PROCESS != os.getpid()]");
        while answer(&machine, &both).await != "[2, true]" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while machine.driver.warm_parents() > 1 {
            // Its instances may end a moment later than they are given up; the next start sees it.
            answer(&machine, &both).await;
        }
        let old: i32 = old.parse().unwrap();
        while rustix::process::test_kill_process(Pid::from_raw(old).unwrap()).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
