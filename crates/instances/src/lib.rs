//! Starts, calls and stops one running copy of a function.
//!
//! The scheduler decides *that* an instance starts or stops and which call it gets; a [`Driver`]
//! does it. One driver per kind of runtime, and a simulated one for tests. Nothing here chooses
//! between instances, and nothing here reads the store.

mod call;
mod driver;

pub use call::{CallError, CallRequest, Reply, ReplyBody, StreamSink};
pub use driver::{
    BoxFuture, Driver, Exit, ExitCause, Instance, InstanceId, LogLine, LogSink, LogStream,
    StartError, StartPhases, StartRequest, Started,
};
