//! Starts, calls and stops one running copy of a function.
//!
//! The scheduler decides *that* an instance starts or stops and which call it gets; a [`Driver`]
//! does it. One driver per kind of runtime ([`PythonDriver`], [`ProgramDriver`]; [`Drivers`] chooses),
//! and a simulated one for tests. Nothing here chooses between instances, and nothing here reads the
//! store.
//!
//! A Python instance is a process that speaks frames over a Unix socket (`docs/runtime-protocol.md`):
//! `frame` is the codec, `connection` what callers write, `pump` the task that reads, `process` the
//! instance made of them, and `python` the driver that brings processes up. A program in any other
//! language is a process that serves HTTP (`docs/programs.md`): that is all in `program`.

mod awake;
mod call;
mod child;
mod confinement;
mod connection;
mod container;
mod driver;
mod drivers;
mod environment;
mod exchange;
mod frame;
mod output;
mod process;
mod program;
mod pump;
mod python;
mod socket;
mod stream;

pub use awake::{Awake, UnderWay};
pub use call::{CallError, CallRequest, Reply, ReplyBody, StreamPart, StreamSink};
pub use confinement::{
    Config as ConfinementConfig, Confinement, Level, Measure, Network, Processor, Surroundings,
    become_program, foresee as foresee_confinement, is_starter,
};
pub use container::{
    ContainerConfig, ContainerDependencies, ContainerDriver, ContainerRuntime, HostDirectory,
    ImageConfig, Images, Lack, Need, Rootfs, foresee_containers,
};
pub use driver::{
    BoxFuture, Driver, Exit, ExitCause, Instance, InstanceId, LogLine, LogSink, LogStream,
    StartError, StartPhases, StartRequest, Started,
};
pub use drivers::Drivers;
pub use environment::EnvironmentOpener;
pub use exchange::{
    BrokenBody, ByteStream, HttpBody, HttpExchange, HttpReply, HttpReplyBody, NoReply, Upgraded,
};
pub use program::{ProgramConfig, ProgramDependencies, ProgramDriver};
pub use python::{
    Config, Dependencies as PythonDependencies, Interpreter, PythonDriver, WaitingProcess,
};
