//! Starts, calls and stops one running copy of a function.
//!
//! The scheduler decides *that* an instance starts or stops and which call it gets; a [`Driver`]
//! does it. One driver per kind of runtime ([`PythonDriver`] so far; [`Drivers`] chooses), and a
//! simulated one for tests. Nothing here chooses between instances, and nothing here reads the
//! store.
//!
//! An instance is a process that speaks frames over a Unix socket (`docs/runtime-protocol.md`):
//! `frame` is the codec, `connection` what callers write, `pump` the task that reads, `process` the
//! instance made of them, and `python` the driver that brings processes up.

mod call;
mod child;
mod connection;
mod driver;
mod drivers;
mod frame;
mod output;
mod process;
mod pump;
mod python;
mod socket;
mod stream;

pub use call::{CallError, CallRequest, Reply, ReplyBody, StreamSink};
pub use driver::{
    BoxFuture, Driver, Exit, ExitCause, Instance, InstanceId, LogLine, LogSink, LogStream,
    StartError, StartPhases, StartRequest, Started,
};
pub use drivers::Drivers;
pub use python::{
    Config, Dependencies as PythonDependencies, EnvironmentOpener, Interpreter, PythonDriver,
};
