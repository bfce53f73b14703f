//! The Python side itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Machine, interpreters, on_every_interpreter};

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtimes/python");
    let files = ["", "_bugle", "rehearsal"].into_iter().flat_map(|dir| {
        let entries = std::fs::read_dir(root.join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().path())
    });
    files
        .filter(|path| path.extension().is_some_and(|end| end == "py"))
        .collect()
}

#[test]
fn the_sources_are_python_of_the_oldest_version() {
    // The check itself needs Python 3.8; an older interpreter compiles them as they are.
    let check = "import ast, sys\n\
        for name in sys.argv[1:]:\n    \
            text = open(name, encoding='utf-8').read()\n    \
            ast.parse(text, name, feature_version=(3, 6)) if sys.version_info >= (3, 8) \
            else compile(text, name, 'exec')\n";
    for interpreter in interpreters() {
        let output = Command::new(&interpreter.path)
            .args(["-I", "-S", "-B", "-W", "error", "-c", check])
            .args(sources())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {said}",
            interpreter.full_version
        );
    }
}

#[test]
fn the_python_side_is_compiled_for_each_interpreter() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import sys\ndef handler(event, context):\n    \
                      return sys.implementation.cache_tag\n";
        let instance = machine.start(source).await.unwrap();
        let tag = instance.answer("{}").await;
        let name = format!("instance.{}.pyc", tag.trim_matches('"'));
        let folder = machine.dir.path().join("run/python/_bugle/__pycache__");
        assert!(folder.join(name).is_file());
    });
}
