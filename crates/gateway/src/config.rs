//! The gateway's section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of the data plane. Each has a name here, and an answer that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections open at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, in seconds.
    pub header_seconds: u32,
    /// How long a connection may wait for its next request, in seconds.
    pub idle_seconds: u32,
    /// How long a client may read nothing while there is something to read, in seconds.
    pub write_stall_seconds: u32,
    /// The longest head of a request, request line and headers together, in bytes. At most 100
    /// headers are taken in any case.
    pub max_header_bytes: usize,
    /// The longest request body, in bytes.
    pub max_request_body_bytes: usize,
    /// All request bodies in memory at once, in bytes; past this calls are answered 503.
    pub max_body_bytes_in_flight: usize,
    /// How long a body may take before `min_body_bytes_per_second` is asked of it, in seconds.
    pub body_grace_seconds: u32,
    /// The slowest a body may arrive once it has taken `body_grace_seconds`, in bytes per second.
    pub min_body_bytes_per_second: u32,
    /// Pause after which an event stream gets a comment line, so that proxies keep it, in seconds.
    pub event_keep_alive_seconds: u32,
    /// The longest body that passes to or from a function's own server, in bytes. None of it is kept
    /// in memory.
    pub max_http_body_bytes: u64,
    /// The domain below which a host names a function, `{function}.{service}.{tenant}.{domain}`;
    /// empty for none.
    pub http_domain: String,
    /// How long nothing may move on an upgraded connection (WebSocket), in seconds.
    pub tunnel_idle_seconds: u32,
    /// How long an upgraded connection may last in all, in seconds.
    pub tunnel_seconds: u32,
    /// How long the thread that serves calls looks for something to do before it sleeps, in
    /// microseconds, while no more than one call is under way. It saves short calls the time to wake
    /// up, and takes processor time that would have been idle. 0 has it sleep at once.
    pub awake_micros: u32,
    /// How long running calls may take to finish once the gateway shuts down, in seconds.
    pub drain_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_seconds: 10,
            idle_seconds: 75,
            write_stall_seconds: 60,
            max_header_bytes: 64 << 10,
            max_request_body_bytes: 6 << 20,
            max_body_bytes_in_flight: 256 << 20,
            body_grace_seconds: 30,
            min_body_bytes_per_second: 1024,
            event_keep_alive_seconds: 15,
            max_http_body_bytes: 200 << 20,
            http_domain: "fn.localhost".to_owned(),
            tunnel_idle_seconds: 300,
            tunnel_seconds: 3600,
            awake_micros: 60,
            drain_seconds: 30,
        }
    }
}

impl Config {
    pub(crate) fn body_grace(&self) -> Duration {
        Duration::from_secs(self.body_grace_seconds.into())
    }

    pub(crate) fn event_keep_alive(&self) -> Duration {
        Duration::from_secs(self.event_keep_alive_seconds.max(1).into())
    }

    pub(crate) fn tunnel_idle(&self) -> Duration {
        Duration::from_secs(self.tunnel_idle_seconds.max(1).into())
    }

    pub(crate) fn tunnel(&self) -> Duration {
        Duration::from_secs(self.tunnel_seconds.max(1).into())
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.into())
    }
}
