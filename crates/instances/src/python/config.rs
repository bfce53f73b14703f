//! How Python functions run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How Python functions run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directories where `python3.N` is looked for before `PATH` and the usual places.
    pub search_paths: Vec<PathBuf>,
    /// Modules of the standard library to import before an instance is forked, beside the built-in
    /// list. Each makes the instances that use it start faster, and every parent larger.
    pub preload: Vec<String>,
    /// Directories with packages that every function may import, after its own code and the standard
    /// library. `{version}` stands for the interpreter's, such as `3.11`; interpreters for which there
    /// is no such directory do without. What is in them runs with the rights of the platform.
    pub packages: Vec<PathBuf>,
    /// The most parents, for each interpreter in use, that have packages imported already. One is
    /// made for each set of packages that functions import; the least recently used one ends.
    /// 0 makes none.
    pub warm_sets: usize,
    /// Sets of packages to import when the interpreter is first used, before a function asks.
    pub preload_sets: Vec<Vec<String>>,
    /// Forked processes that wait for a function, for each interpreter in use. One spares the fork
    /// on the way of a cold start.
    pub parked: usize,
    /// How long an interpreter may take to become a parent of instances, in seconds.
    pub interpreter_start_seconds: u64,
    /// How long an instance without an initializer timeout may take to load, in seconds.
    pub start_seconds: u64,
    /// The longest log line, in bytes; longer ones are cut.
    pub log_line_bytes: usize,
    /// The most log lines of one instance in a second; more are dropped and counted.
    pub log_lines_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            search_paths: Vec::new(),
            preload: Vec::new(),
            packages: Vec::new(),
            warm_sets: 4,
            preload_sets: Vec::new(),
            parked: 1,
            interpreter_start_seconds: 20,
            start_seconds: 300,
            log_line_bytes: 16 * 1024,
            log_lines_per_second: 5000,
        }
    }
}
