//! The server's own log: a warning or an error that no test expected fails the test.

use std::path::Path;

use serde_json::Value;

/// Texts of warnings and errors that a test brings about on purpose.
#[derive(Clone, Debug, Default)]
pub struct Tolerated(Vec<String>);

impl Tolerated {
    /// Accepts warnings and errors whose line contains `text`.
    pub fn add(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }

    fn covers(&self, line: &str) -> bool {
        self.0.iter().any(|text| line.contains(text))
    }
}

/// The lines of the log at `path` that are warnings or errors and not tolerated, and those that
/// are no log lines at all (a panic, a stray print).
pub(crate) fn complaints(path: &Path, tolerated: &Tolerated) -> Vec<String> {
    read(path)
        .lines()
        .filter(|line| is_complaint(line) && !tolerated.covers(line))
        .map(str::to_owned)
        .collect()
}

fn is_complaint(line: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(entry) => matches!(entry["level"].as_str(), Some("WARN" | "ERROR") | None),
        Err(_) => !line.trim().is_empty(),
    }
}

/// The whole log; what cannot be read is empty.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_stray_lines_are_complaints() {
        assert!(is_complaint(r#"{"level":"WARN","fields":{"message":"m"}}"#));
        assert!(is_complaint(r#"{"level":"ERROR"}"#));
        assert!(is_complaint("thread 'main' panicked at …"));
        assert!(!is_complaint(r#"{"level":"INFO"}"#));
        assert!(!is_complaint(""));
    }

    #[test]
    fn what_a_test_expects_is_no_complaint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.log");
        let line = r#"{"level":"WARN","fields":{"message":"instance died"}}"#;
        std::fs::write(&path, line).unwrap();
        let mut tolerated = Tolerated::default();
        assert_eq!(complaints(&path, &tolerated), [line]);
        tolerated.add("instance died");
        assert!(complaints(&path, &tolerated).is_empty());
    }
}
