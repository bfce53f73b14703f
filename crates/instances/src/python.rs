//! Python functions: one warm interpreter per version, and a fork of it per instance.
//!
//! The platform tells the parent to fork and hands it the instance's end of a fresh socket; what
//! the instance is to run is already waiting in that socket. So a cold start costs one message to
//! the parent and one answer from the instance, and nothing at all to the parent when a parked
//! process takes the function.

mod compile;
mod config;
mod discover;
mod handlers;
mod imports;
mod packages;
mod parents;
mod sources;
mod start;
mod waiting;
mod warm;
mod zygote;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::{Code, Packages, open_directory};
use bugle_types::{FunctionSpec, PythonVersion, Runtime};
use bytes::Bytes;
use rustix::mount::OpenTreeFlags;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::child::{Blame, Child};
use crate::confinement::{Confinement, Processor};
use crate::connection::{Connection, StartReport};
use crate::environment::EnvironmentOpener;
use crate::output::{Lines, LogLimits};
use crate::process::ProcessInstance;
use crate::pump::Pump;
use crate::socket::Socket;
use crate::{BoxFuture, Driver, LogSink, StartError, StartPhases, StartRequest, Started};

pub use config::Config;
pub use discover::Interpreter;
use handlers::{Claim, Handlers};
use imports::Wanted;
use parents::Parents;
pub use waiting::WaitingProcess;
use zygote::{Enclosed, Forked, Zygote};

/// How long after a start the next process is parked. A start with its first call takes less.
const PARK_AFTER: Duration = Duration::from_millis(10);

/// What a driver needs from the rest of the platform.
pub struct Dependencies {
    /// Where code is.
    pub packages: Packages,
    /// Where the lines of functions go.
    pub logs: Arc<dyn LogSink>,
    /// What opens a function's variables.
    pub open_environment: EnvironmentOpener,
    /// A directory of the platform's own; the Python side is written there.
    pub runtime_dir: PathBuf,
    /// How instances are confined.
    pub confinement: Arc<Confinement>,
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies")
            .field("packages", &self.packages)
            .field("runtime_dir", &self.runtime_dir)
            .finish_non_exhaustive()
    }
}

/// Starts Python instances. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PythonDriver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    dependencies: Dependencies,
    /// Where instances are read; the runtime on which their calls are made.
    runtime: Handle,
    parents: Arc<Parents>,
    handlers: Arc<Handlers>,
}

impl PythonDriver {
    /// A driver whose instances live on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// The Python side cannot be written to the runtime directory.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(config: Config, dependencies: Dependencies) -> io::Result<Self> {
        let script = sources::write(&dependencies.runtime_dir.join("python"))?;
        let confinement = Arc::clone(&dependencies.confinement);
        Ok(Self {
            shared: Arc::new(Shared {
                parents: Arc::new(Parents::new(config.clone(), confinement, script)),
                config,
                dependencies,
                runtime: Handle::current(),
                handlers: Arc::default(),
            }),
        })
    }

    /// How many parents there are that have packages of the operator imported.
    pub fn warm_parents(&self) -> usize {
        self.shared.parents.warm()
    }

    /// Every interpreter of this machine. Runs each of them once, so it blocks for a while.
    pub fn discover(config: &Config) -> Vec<Interpreter> {
        discover::find_all(config)
    }

    /// Starts the parent of a runtime in the background, so that the first start need not wait.
    pub fn prepare(&self, runtime: &Runtime) {
        let Runtime::Python(version) = *runtime else {
            return;
        };
        let driver = self.clone();
        self.shared.runtime.spawn(async move {
            // Whatever is wrong is told to the call that needs it.
            let Shared {
                parents, config, ..
            } = &*driver.shared;
            if let Ok(zygote) = parents.base(version).await {
                zygote.park(config.parked);
                parents.library(version);
                parents.grow_configured(version).await;
            }
        });
    }

    async fn start(&self, request: StartRequest) -> Result<Started, StartError> {
        let began = Instant::now();
        let Runtime::Python(version) = request.spec.runtime else {
            let runtime = &request.spec.runtime;
            return Err(StartError::Unsupported(format!(
                "{runtime} is not a Python runtime"
            )));
        };
        let code = self.code(&request.spec).await?;
        // A download is not part of the start that the function's limits are about.
        let prepared = self.prepare_start(&request, version, code.clone()).await?;
        let Prepared {
            given,
            wanted,
            claim,
        } = prepared;
        let (forked, zygote) = self.shared.parents.take(version, wanted).await?;
        self.park_later(zygote);
        let started = self.bring_up(&request, forked, given, began).await?;
        if let Some(compilation) = code.compile_for(&version.to_string()) {
            compile::begin(&self.shared.parents, version, compilation);
        }
        if let Some(claim) = claim {
            compile::begin_handler(&self.shared.parents, claim);
        }
        Ok(started)
    }

    /// Replaces what was taken, when the start and its first call need the processor no more.
    fn park_later(&self, zygote: Arc<Zygote>) {
        let count = self.shared.config.parked;
        self.shared.runtime.spawn(async move {
            tokio::time::sleep(PARK_AFTER).await;
            zygote.park(count);
        });
    }

    /// The function's code, which is there when this returns.
    async fn code(&self, spec: &FunctionSpec) -> Result<Code, StartError> {
        let packages = &self.shared.dependencies.packages;
        let ready = packages
            .ready(&spec.id.tenant, &spec.code, &spec.generation)
            .await;
        ready.map_err(|error| StartError::Unsupported(bugle_types::report(&*error)))
    }

    /// Everything the instance has to know, where its code is, and what the code imports.
    async fn prepare_start(
        &self,
        request: &StartRequest,
        version: PythonVersion,
        code: Code,
    ) -> Result<Prepared, StartError> {
        let dependencies = &self.shared.dependencies;
        let spec = &request.spec;
        let looked_at = Arc::clone(spec);
        // The code may be on a file system that does not answer.
        let shared = Arc::clone(&self.shared);
        let kept = code.clone();
        let found = tokio::task::spawn_blocking(move || {
            let Shared {
                parents, handlers, ..
            } = &*shared;
            let directory = code.directory();
            let directory =
                directory.map_err(|error| StartError::Unsupported(bugle_types::report(&error)))?;
            let show = parents.confinement.shows_code();
            let tree = if show { Some(tree(&directory)?) } else { None };
            let listing = parents.packages.listing(version);
            let little = parents.little(version);
            let hooks = hooks(&looked_at);
            let wanted = imports::wanted(&directory, hooks, listing.as_deref(), &little);
            // What the platform may write to is compiled where it lies.
            let found = if code.is_ours() {
                handlers::Found::default()
            } else {
                handlers.find(&directory, &looked_at.handler, version)
            };
            Ok((directory, tree, wanted, found))
        });
        let (directory, tree, wanted, found) = found
            .await
            .map_err(|error| StartError::Platform(error.to_string()))??;
        let user = (dependencies.open_environment)(&spec.id, &spec.environment)
            .map_err(StartError::Platform)?;
        let temporary = self.shared.parents.confinement.temporary();
        let message = start::message(request, &directory, temporary.as_deref(), &user)
            .map_err(StartError::Unsupported)?;
        let given = Given {
            message,
            compiled: found.compiled,
            tree,
            code: kept,
        };
        Ok(Prepared {
            given,
            wanted,
            claim: found.claim,
        })
    }

    /// Gives a process its function, and waits until it is ready.
    async fn bring_up(
        &self,
        request: &StartRequest,
        forked: Forked,
        given: Given,
        began: Instant,
    ) -> Result<Started, StartError> {
        let child = Arc::clone(&forked.child);
        let broken = |error: io::Error| StartError::Platform(format!("the socket: {error}"));
        let socket = Socket::new(forked.data).map_err(broken)?;
        let output = pipe::Receiver::from_owned_fd(forked.output).map_err(broken)?;
        let (connection, report) = Connection::new(socket);
        let connection = Arc::new(connection);
        let exit = watch::Sender::new(None);
        // From here on the process ends when this value is dropped.
        let instance = ProcessInstance::new(
            request.id,
            Arc::clone(&connection),
            Arc::clone(&child),
            exit.subscribe(),
        );
        self.limit(request, &child, forked.group).await?;
        let Given {
            message,
            compiled,
            tree,
            code,
        } = given;
        connection.send_start(message, compiled, tree.as_ref().map(AsFd::as_fd));
        drop(tree);
        let pump = Pump {
            connection,
            output,
            child: Arc::clone(&child),
            lines: self.lines(request),
            exit,
            _code: code,
        };
        self.shared.runtime.spawn(pump.run());
        let limit = self.start_limit(request);
        let phases = match tokio::time::timeout(limit, report).await {
            Err(_) => return Err(StartError::InitializationTimeout { limit }),
            Ok(Ok(report)) => {
                let phases = phases(report, began)?;
                self.limit_processor(request, &child)?;
                phases
            }
            Ok(Err(_)) => {
                if let Some(errno) = child.fork_error() {
                    let error = io::Error::from_raw_os_error(errno);
                    return Err(StartError::Platform(format!("fork an instance: {error}")));
                }
                return Err(StartError::Exited(child.ended().await.0));
            }
        };
        Ok(Started {
            instance: Arc::new(instance),
            phases,
        })
    }

    /// Puts the limits of the function around a process that has not run any of its code.
    async fn limit(
        &self,
        request: &StartRequest,
        child: &Child,
        group: Option<Enclosed>,
    ) -> Result<(), StartError> {
        let Some(group) = group else {
            return Ok(());
        };
        let failed = |error: io::Error| StartError::Platform(format!("limit an instance: {error}"));
        match group.await {
            Ok(Ok(group)) => {
                group.limit(&request.resources).map_err(failed)?;
                child.set_limits(group, request.resources.memory.0, Blame::Leader);
                Ok(())
            }
            // What became of the process is told by whoever waits for it.
            Err(_) => Ok(()),
            Ok(Err(_)) if child.has_ended() => Ok(()),
            Ok(Err(error)) => Err(failed(error)),
        }
    }

    /// From now on the instance gets no more of the processor than its function was given.
    fn limit_processor(&self, request: &StartRequest, child: &Child) -> Result<(), StartError> {
        if self.shared.parents.confinement.processor() == Processor::Share {
            return Ok(());
        }
        match child.with_group(|group| group.limit_processor(request.resources.cpu.0)) {
            Some(Err(error)) => Err(StartError::Platform(format!("limit an instance: {error}"))),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn lines(&self, request: &StartRequest) -> Lines {
        let config = &self.shared.config;
        let limits = LogLimits {
            line_bytes: config.log_line_bytes,
            lines_per_second: config.log_lines_per_second,
        };
        let function = Arc::new(request.spec.id.clone());
        let sink = Arc::clone(&self.shared.dependencies.logs);
        Lines::new(function, request.id, sink, limits)
    }

    fn start_limit(&self, request: &StartRequest) -> Duration {
        let of_hook = request.spec.initializer.as_ref().map(|hook| hook.timeout);
        of_hook
            .filter(|limit| !limit.is_zero())
            .unwrap_or_else(|| Duration::from_secs(self.shared.config.start_seconds))
    }
}

impl Driver for PythonDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(Self::start(self, request))
    }
}

/// What there is of a start before there is a process for it.
struct Prepared {
    given: Given,
    wanted: Wanted,
    claim: Option<Claim>,
}

/// What a process is given to become an instance.
struct Given {
    message: Vec<u8>,
    /// The compiled form of the handler's file; empty where the instance has to see itself.
    compiled: Bytes,
    /// The code, for a process that has to be shown it.
    tree: Option<OwnedFd>,
    code: Code,
}

/// The meta part of a READY frame.
#[derive(Deserialize)]
struct Ready {
    load_us: u64,
    init_us: u64,
}

/// The meta part of a `START_FAILED` frame.
#[derive(Deserialize)]
struct Failed {
    message: String,
    trace: Option<String>,
    /// Whether it was not the user's code that failed.
    platform: bool,
}

/// The names of what is imported when an instance starts.
fn hooks(spec: &FunctionSpec) -> impl Iterator<Item = &str> {
    let initializer = spec.initializer.as_ref();
    let initializer = initializer.map(|hook| hook.handler.as_str());
    std::iter::once(spec.handler.as_str()).chain(initializer)
}

/// A mount of the directory that belongs to no place yet; the instance chooses where.
fn tree(code: &Path) -> Result<OwnedFd, StartError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_directory(code)
        .and_then(|opened| Ok(rustix::mount::open_tree(&opened, "", flags)?))
        .map_err(|error| {
            let code = code.display();
            StartError::Platform(format!("{code} cannot be shown to an instance: {error}"))
        })
}

fn phases(report: StartReport, began: Instant) -> Result<StartPhases, StartError> {
    let unreadable = |meta: &Bytes, error: serde_json::Error| {
        StartError::Platform(format!(
            "the instance reported its start as {:?}: {error}",
            String::from_utf8_lossy(&meta[..meta.len().min(200)])
        ))
    };
    match report {
        Ok(meta) => {
            let ready: Ready =
                serde_json::from_slice(&meta).map_err(|error| unreadable(&meta, error))?;
            let load = Duration::from_micros(ready.load_us);
            let init = Duration::from_micros(ready.init_us);
            let process = began.elapsed().saturating_sub(load).saturating_sub(init);
            Ok(StartPhases {
                process,
                load,
                init,
            })
        }
        Err(meta) => {
            let Failed {
                message,
                trace,
                platform,
            } = serde_json::from_slice(&meta).map_err(|error| unreadable(&meta, error))?;
            if platform {
                return Err(StartError::Platform(message));
            }
            Err(StartError::Initialization { message, trace })
        }
    }
}
