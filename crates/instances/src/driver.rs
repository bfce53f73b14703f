//! The traits between the scheduler and what runs user code.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::{FunctionId, FunctionSpec, InstanceLabel, Resources};
use serde::{Deserialize, Serialize};

use crate::{CallError, CallRequest, HttpExchange, HttpReply, NoReply, Reply};

/// A future that can be held behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The identity of one instance; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId(pub u128);

impl fmt::Display for InstanceId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The identity of the new instance.
    pub id: InstanceId,
    /// The function it serves.
    pub spec: Arc<FunctionSpec>,
    /// What it may use; the function's own unless the call asked for others.
    pub resources: Resources,
    /// The labelled set it belongs to.
    pub label: Option<InstanceLabel>,
}

/// Starts instances of one kind of runtime.
pub trait Driver: Send + Sync {
    /// Starts an instance and runs its initializer; returns when it can take calls.
    ///
    /// Dropping the future abandons the start; what was started is killed.
    ///
    /// # Errors
    ///
    /// [`StartError`] says whose fault it was. Nothing is left running.
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>>;
}

/// An instance that is ready, and how long each phase of its start took.
#[derive(Debug)]
pub struct Started {
    /// The instance.
    pub instance: Arc<dyn Instance>,
    /// The durations.
    pub phases: StartPhases,
}

/// Durations of the phases of a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartPhases {
    /// Until the process ran: fork, confinement.
    pub process: Duration,
    /// Loading the user's code.
    pub load: Duration,
    /// The user's initializer.
    pub init: Duration,
}

/// One running copy of a function.
///
/// It takes as many calls at once as it is given: the scheduler keeps count.
pub trait Instance: Send + Sync + fmt::Debug {
    /// Its identity.
    fn id(&self) -> InstanceId;

    /// The process id, where there is one.
    fn pid(&self) -> Option<u32>;

    /// The node that it runs on, where that is another machine.
    fn node(&self) -> Option<&str> {
        None
    }

    /// Runs a call. The request is handed to the instance before the first await point, so that a
    /// free slot is used without another task in between.
    ///
    /// No deadline is enforced here beyond telling the user's code how long it has: the caller
    /// races this future against the deadline and then kills the instance. Dropping the future
    /// forgets the call; the user's code may go on.
    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>>;

    /// Hands a caller's own HTTP request to the function's server; returns when the head of the
    /// answer is there. Like [`Instance::call`] it sends before the first await point where it can,
    /// and enforces no deadline.
    ///
    /// Dropping the future, or the reply before its end, breaks off the connection to the server.
    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        drop(exchange);
        Box::pin(async { Err(NoReply::Failed(CallError::NoServer)) })
    }

    /// Asks for an orderly end: no further calls, running ones finish, `pre_stop` runs, then the
    /// process ends. Killed if that takes longer than `grace`. Returns when it is gone.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit>;

    /// Ends it at once, with everything it started. Calls that run get [`CallError::Exited`].
    fn kill(&self);

    /// Leaves it to another gateway, warm, and returns when it counts here no more. False if nobody else
    /// could have it: then it is as before. It runs no call.
    fn hand_over(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    /// Waits until it should get no further call although it is well, because the node that it runs
    /// on drains. Never comes for one that is bound to this machine. Cancel safe.
    fn leaving(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Waits until it is gone, for whatever reason. Cancel safe; may be called more than once.
    fn exited(&self) -> BoxFuture<'_, Exit>;
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub cause: ExitCause,
    /// The most memory it ever used, in bytes; 0 when unknown.
    pub peak_memory: u64,
}

/// Why an instance ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// It ended by itself with this exit code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It used more memory than its limit: it, or a process that it had started.
    OutOfMemory {
        /// The limit.
        limit_mib: u64,
        /// The most it ever used, in bytes.
        used_bytes: u64,
    },
    /// It wrote more than it may.
    OutOfDisk {
        /// The limit.
        limit_mib: u64,
    },
    /// Its server did not say that it is well, so often in a row.
    Unhealthy {
        /// How often it was asked.
        failures: u32,
    },
    /// The node that it ran on does not answer any more.
    NodeLost {
        /// Which node.
        node: Box<str>,
    },
    /// The platform asked it to stop, or killed it.
    Stopped,
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory {
                limit_mib,
                used_bytes,
            } => {
                let hundredths = used_bytes.saturating_mul(100) / (1024 * 1024);
                let (whole, rest) = (hundredths / 100, hundredths % 100);
                write!(
                    f,
                    "runtime memory limit exceeded, memory used: {whole}.{rest:02}MB, memory \
                     limit: {limit_mib}MB (out of memory, limit {limit_mib} MB)"
                )
            }
            Self::OutOfDisk { limit_mib } => {
                write!(
                    f,
                    "disk limit exceeded: more than {limit_mib}MB were written"
                )
            }
            Self::Unhealthy { failures } => {
                write!(f, "GET /healthz failed {failures} times in a row")
            }
            Self::NodeLost { node } => write!(f, "the connection to node {node} was lost"),
            Self::Stopped => f.write_str("stopped by the platform"),
        }
    }
}

/// Why an instance did not become ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StartError {
    /// The user's code could not be loaded, or its initializer raised (4201).
    #[error("{message}")]
    Initialization {
        /// What the user's code said: exception type and text.
        message: String,
        /// The stack trace, if there is one.
        trace: Option<String>,
    },
    /// The initializer took longer than its limit (4211).
    #[error("runtime initialization timed out after {} s", limit.as_secs_f64())]
    InitializationTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The instance ended while it started.
    #[error("the instance ended while it started: {0}")]
    Exited(ExitCause),
    /// There is nothing to run: no such program, or one that cannot be executed (4001). The text
    /// says what to do.
    #[error("{0}")]
    NotRunnable(String),
    /// The function cannot run here: no such interpreter, code path outside the code roots, … The
    /// text says what, where it was looked for, and what to do.
    #[error("{0}")]
    Unsupported(String),
    /// There is no room for it where it may run, or nowhere that it may run. The text says why;
    /// trying again helps when something has ended or grown.
    #[error("{0}")]
    NoRoom(String),
    /// The platform failed; trying again may help.
    #[error("{0}")]
    Platform(String),
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error, and what the logger writes.
    Stderr,
    /// None of the two: the platform says it of the instance.
    Platform,
}

/// One line of a function's log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// The function.
    pub function: Arc<FunctionId>,
    /// The instance.
    pub instance: InstanceId,
    /// The call that wrote it, where that can be known.
    pub request: Option<Arc<str>>,
    /// Which stream.
    pub stream: LogStream,
    /// The text without the line end; cut at the driver's limit.
    pub text: String,
}

/// Takes the lines of user code. Must not block: it is called from the reader of an instance.
pub trait LogSink: Send + Sync {
    /// Takes one line.
    fn line(&self, line: LogLine);
}
