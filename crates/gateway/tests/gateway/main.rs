//! The gateway over a real socket, before a real scheduler and instances that follow a script.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod client;
mod drain;
mod leaving;
mod limits;
mod platform;
mod streams;
