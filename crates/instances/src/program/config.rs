//! How programs run.

use serde::{Deserialize, Serialize};

/// How functions run that are programs of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProgramConfig {
    /// How long a program without an initializer timeout may take until it listens, in seconds.
    pub start_seconds: u64,
    /// The first port that a program may be told to listen on, on the loopback interface. The range
    /// should lie outside of the system's ephemeral ports (`net.ipv4.ip_local_port_range`).
    pub first_port: u16,
    /// The last such port. There can be no more programs at once than ports.
    pub last_port: u16,
    /// How long a connection to a program is kept for the next call, in milliseconds. Less than
    /// the servers' own limit, so that no call meets a connection that is just being closed.
    pub idle_connection_millis: u64,
    /// Adds every request to a server and the head of its answer to the function's log, for whoever
    /// writes that server.
    pub show_exchanges: bool,
    /// The longest log line, in bytes; longer ones are cut.
    pub log_line_bytes: usize,
    /// The most log lines of one instance in a second; more are dropped and counted.
    pub log_lines_per_second: u32,
}

impl Default for ProgramConfig {
    fn default() -> Self {
        Self {
            start_seconds: 3,
            first_port: 20_000,
            last_port: 29_999,
            idle_connection_millis: 1000,
            show_exchanges: false,
            log_line_bytes: 16 * 1024,
            log_lines_per_second: 5000,
        }
    }
}
