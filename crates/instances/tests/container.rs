//! What an image that runs as a function sees and does, with every runtime of this machine.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "clippy sees tests only where the attribute is, not in what they call"
)]

#[path = "container/calls.rs"]
mod calls;
#[path = "container/egress.rs"]
mod egress;
#[path = "container/ends.rs"]
mod ends;
#[path = "container/isolation.rs"]
mod isolation;
#[path = "container/leaks.rs"]
mod leaks;
#[path = "container/support.rs"]
mod support;
