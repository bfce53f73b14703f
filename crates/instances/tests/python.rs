//! What a Python function sees and does, on the interpreters of this machine.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "clippy sees tests only where the attribute is, not in what they call"
)]

#[path = "python/calls.rs"]
mod calls;
#[path = "python/concurrency.rs"]
mod concurrency;
#[path = "python/confinement.rs"]
mod confinement;
#[path = "python/context.rs"]
mod context;
#[path = "python/ends.rs"]
mod ends;
#[path = "python/loading.rs"]
mod loading;
#[path = "python/output.rs"]
mod output;
#[path = "python/packages.rs"]
mod packages;
#[path = "python/processes.rs"]
mod processes;
#[path = "python/sources.rs"]
mod sources;
#[path = "python/streams.rs"]
mod streams;
#[path = "python/support.rs"]
mod support;
