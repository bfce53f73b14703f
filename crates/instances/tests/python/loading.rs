//! Finding the handler, its dependencies, and the initializer.

use std::time::Duration;

use bugle_instances::{Driver, Drivers, InstanceId, StartError, StartRequest};
use bugle_types::{CodeLocation, PythonVersion, Runtime};
use std::sync::Arc;

use crate::support::{Machine, on_every_interpreter, on_old_and_new};

fn initialization(error: StartError) -> (String, String) {
    match error {
        StartError::Initialization { message, trace } => (message, trace.unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn earlier_dots_of_a_handler_are_directories() {
    on_every_interpreter(|machine: Machine| async move {
        let function = machine
            .function("")
            .file("a/b.py", "def f(event, context):\n    return __name__\n")
            .handler("a.b.f");
        let instance = function.start().await.unwrap();
        assert_eq!(instance.answer("{}").await, r#""a.b""#);
    });
}

#[test]
fn dependencies_lie_beside_the_handler_or_in_lib() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import near, far\nfrom package import inner\n\
                      def handler(event, context):\n    return [near.X, far.X, inner.X]\n";
        let function = machine
            .function(source)
            .file("near.py", "X = 1")
            .file("lib/far.py", "X = 2")
            .file("lib/near.py", "X = 'shadowed'")
            .file("package/__init__.py", "")
            .file("package/inner.py", "X = 3");
        let instance = function.start().await.unwrap();
        assert_eq!(instance.answer("{}").await, "[1, 2, 3]");
    });
}

#[test]
fn a_users_module_wins_over_a_preloaded_one_of_the_same_name() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import queue, statistics\n\
                      def handler(event, context):\n    return [queue.MINE, statistics.__name__]\n";
        let function = machine.function(source).file("queue.py", "MINE = True");
        let instance = function.start().await.unwrap();
        assert_eq!(instance.answer("{}").await, r#"[true, "statistics"]"#);
    });
}

#[test]
fn the_handlers_own_file_may_have_the_name_of_a_library_module() {
    on_old_and_new(|machine: Machine| async move {
        for name in ["calendar", "code", "json"] {
            let source = "def handler(event, context):\n    return 'mine'\n";
            let function = machine
                .function("")
                .file(&format!("{name}.py"), source)
                .handler(&format!("{name}.handler"));
            let instance = function.start().await.unwrap();
            assert_eq!(instance.answer("{}").await, r#""mine""#, "{name}");
        }
    });
}

#[test]
fn modules_that_are_not_there_are_told_with_the_place() {
    on_old_and_new(|machine: Machine| async move {
        let missing = machine
            .function("")
            .handler("nothing.handler")
            .start()
            .await;
        let (message, _) = initialization(missing.unwrap_err());
        assert!(message.contains("there is no nothing.py in"), "{message}");

        let missing = machine.function("x = 1").start().await;
        let (message, _) = initialization(missing.unwrap_err());
        assert_eq!(message, "module 'main' has no attribute 'handler'");

        let missing = machine.function("x = 1").handler("main").start().await;
        let (message, _) = initialization(missing.unwrap_err());
        assert!(
            message.contains("not of the form module.function"),
            "{message}"
        );

        let missing = machine.function("x = 1").handler("main.x").start().await;
        let (message, _) = initialization(missing.unwrap_err());
        assert_eq!(message, "'x' of module 'main' cannot be called");
    });
}

#[test]
fn code_that_does_not_load_is_told_with_the_users_frames() {
    on_every_interpreter(|machine: Machine| async move {
        let failed = machine.start("import no_such_package\n").await;
        let (message, trace) = initialization(failed.unwrap_err());
        assert_eq!(
            message,
            "ModuleNotFoundError: No module named 'no_such_package'"
        );
        assert!(trace.contains("main.py\", line 1"), "{trace}");
        assert!(
            !trace.contains("_bugle") && !trace.contains("importlib"),
            "{trace}"
        );

        let failed = machine.start("def handler(:\n").await;
        let (message, trace) = initialization(failed.unwrap_err());
        assert!(message.starts_with("SyntaxError: "), "{message}");
        assert!(trace.contains("main.py\", line 1"), "{trace}");
    });
}

#[test]
fn the_initializer_runs_once_before_the_first_call() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import time\nRUNS = []\n\
            def init(context):\n    time.sleep(0.02)\n    RUNS.append(context.getFunctionName())\n\
            def handler(event, context):\n    return RUNS\n";
        let function = machine
            .function(source)
            .initializer("main.init", Duration::from_secs(5));
        let instance = function.start().await.unwrap();
        assert!(
            instance.phases.init >= Duration::from_millis(20),
            "{:?}",
            instance.phases
        );
        assert!(
            instance.phases.load < Duration::from_secs(1),
            "{:?}",
            instance.phases
        );
        for _ in 0..2 {
            assert_eq!(instance.answer("{}").await, r#"["hello"]"#);
        }
    });
}

#[test]
fn an_initializer_that_raises_is_told() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def init(context):\n    raise RuntimeError('no database')\n\
                      def handler(event, context): pass\n";
        let function = machine
            .function(source)
            .initializer("main.init", Duration::from_secs(5));
        let (message, trace) = initialization(function.start().await.unwrap_err());
        assert_eq!(message, "RuntimeError: no database");
        assert!(trace.contains("in init"), "{trace}");
        assert!(
            machine
                .log
                .lines()
                .iter()
                .any(|line| line.text.contains("no database"))
        );
    });
}

#[test]
fn an_initializer_that_takes_too_long_is_ended() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import os, time\n\
            def init(context):\n    print(os.getpid())\n    time.sleep(600)\n\
            def handler(event, context): pass\n";
        let limit = Duration::from_millis(300);
        let function = machine.function(source).initializer("main.init", limit);
        let error = function.start().await.unwrap_err();
        assert_eq!(error, StartError::InitializationTimeout { limit });
    });
}

#[test]
fn code_that_ends_the_process_while_it_loads_is_told_with_the_code() {
    on_old_and_new(|machine: Machine| async move {
        let error = machine.start("import os\nos._exit(7)\n").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the instance ended while it started: exit code 7"
        );
    });
}

#[test]
fn code_outside_of_the_roots_is_not_run() {
    on_old_and_new(|machine: Machine| async move {
        let mut function = machine.function("");
        function.spec.code = CodeLocation::Local("/etc".to_owned());
        match function.start().await.unwrap_err() {
            StartError::Unsupported(text) => assert!(text.contains("--code-root"), "{text}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_runtime_that_is_not_there_is_told() {
    on_old_and_new(|machine: Machine| async move {
        let drivers = Drivers {
            python: machine.driver.clone(),
            programs: machine.programs(),
            containers: None,
        };
        for (runtime, said) in [
            (
                Runtime::Python(PythonVersion(99)),
                "no interpreter for python3.99 on this machine",
            ),
            (
                Runtime::Other("java11".into()),
                "the runtime java11 cannot be run by this build",
            ),
        ] {
            let mut function = machine.function("");
            function.spec.runtime = runtime;
            let request = StartRequest {
                id: InstanceId(1),
                resources: function.spec.resources.clone(),
                spec: Arc::new(function.spec),
                label: None,
            };
            match drivers.start(request).await.unwrap_err() {
                StartError::Unsupported(text) => assert!(text.contains(said), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn the_handler_of_a_folder_is_compiled_once_and_again_when_it_changes() {
    on_old_and_new(|machine: Machine| async move {
        if matches!(machine.runtime, Runtime::Python(version) if version.0 < 7) {
            return;
        }
        let source = |name: &str| {
            format!(
                "from _bugle import loader\ndef handler(event, context):\n    \
                 return ['{name}', len(loader.prepared)]\n"
            )
        };
        let function = machine.function(&source("first"));
        for name in ["first", "other"] {
            std::fs::write(function.code().join("main.py"), source(name)).unwrap();
            // To compile takes the time that nobody else wants.
            let mut compiled = false;
            for _ in 0..MANY_STARTS {
                let instance = function.clone().start().await.unwrap();
                let answer = instance.answer("{}").await;
                compiled = answer == format!(r#"["{name}", 1]"#);
                if compiled {
                    break;
                }
                assert_eq!(answer, format!(r#"["{name}", 0]"#));
            }
            assert!(compiled, "{name}");
        }
    });
}

/// More than are made while a handler is compiled on a busy machine.
const MANY_STARTS: usize = 2000;
