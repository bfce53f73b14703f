//! Decides which instance serves which call, and when instances come and go.
//!
//! The decisions of one function are a plain state machine, [`core`](self), that performs no I/O,
//! reads no clock and uses no randomness: a simulation runs hours of traffic with crashes in a
//! second. The shell around it ([`Scheduler`], [`Function`], [`Lease`]) owns the clock, the driver
//! and the waiting calls. Each function has its own lock, held for the length of a decision: a call
//! of a warm function takes its slot and goes on without an await, a task or a timer.
//!
//! Nothing here reads the store or talks HTTP. What a function is comes in by [`Scheduler::upsert`].

mod config;
mod core;
mod fleet;
mod function;
mod lease;
mod live;
mod metrics;
pub mod placement;
mod scheduler;
mod shared;
mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod timers;

pub use config::Config;
pub use core::Census;
pub use fleet::{Fleet, FleetConfig, Growth, NodeInfo};
pub use function::{AcquireError, Adopted, Demand, Function};
pub use lease::{ColdStart, Lease};
pub use metrics::{CallMetrics, Metrics, Outcome};
pub use scheduler::Scheduler;
pub use status::{InstanceState, InstanceStatus, Status};
