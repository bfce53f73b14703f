//! Functions that are programs of their own, in any language: each instance is a process that
//! serves HTTP on a port of the loopback interface (`docs/programs.md`).
//!
//! `command` finds the program, `ports` its port, `process` starts and ends it (with `guard` for the
//! case that the platform is killed), `wire` has the connections to it, `request` what is sent over
//! them, and `instance` is what the scheduler sees.

mod command;
mod config;
pub(crate) mod exchange;
pub(crate) mod guard;
pub(crate) mod instance;
pub(crate) mod network;
pub(crate) mod output;
mod ports;
pub(crate) mod process;
pub(crate) mod request;
pub(crate) mod shown;
pub(crate) mod watch;
pub(crate) mod wire;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::{Code, Packages};
use bugle_types::{ProgramRuntime, Runtime};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::child::Blame;
use crate::confinement::{Cgroup, Confinement, Processor};
use crate::environment::{EnvironmentOpener, environment};
use crate::output::{Lines, LogLimits};
use crate::{
    BoxFuture, Driver, Exit, ExitCause, LogSink, ReplyBody, StartError, StartPhases, StartRequest,
    Started,
};

pub use config::ProgramConfig;
use guard::Guard;
use instance::{NoAnswer, ProgramInstance};
use ports::{Port, Ports};
use process::{Launch, NotStarted, Spawned};
use request::{Form, Requests};
use watch::Served;

/// The first pause before a program that does not listen yet is asked again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// How much of an answer to the initializer goes into the error message.
const SHOWN: usize = 1024;

/// What a driver needs from the rest of the platform.
#[derive(Clone)]
pub struct ProgramDependencies {
    /// Where code is.
    pub packages: Packages,
    /// Where the lines of functions go.
    pub logs: Arc<dyn LogSink>,
    /// What opens a function's variables.
    pub open_environment: EnvironmentOpener,
    /// How programs are confined.
    pub confinement: Arc<Confinement>,
}

impl fmt::Debug for ProgramDependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramDependencies")
            .field("packages", &self.packages)
            .finish_non_exhaustive()
    }
}

/// Starts programs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProgramDriver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ProgramConfig,
    dependencies: ProgramDependencies,
    ports: Ports,
    guard: Arc<Guard>,
    /// Where programs are watched; the runtime on which their calls are made.
    runtime: Handle,
}

/// A program that was started and has not said anything yet.
struct Launched {
    spawned: Spawned,
    port: Port,
    requests: Requests,
    code: Code,
}

impl ProgramDriver {
    /// A driver whose instances live on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(config: ProgramConfig, dependencies: ProgramDependencies) -> Self {
        // The keys of a new hasher are random; that is all that is wanted of it.
        let [a, b, c, d, ..] = RandomState::new().hash_one(0_u8).to_le_bytes();
        let seed = u32::from_le_bytes([a, b, c, d]);
        let range = config.first_port..=config.last_port;
        Self {
            shared: Arc::new(Shared {
                ports: Ports::new(range, seed),
                config,
                dependencies,
                guard: Arc::default(),
                runtime: Handle::current(),
            }),
        }
    }

    async fn start(&self, request: StartRequest) -> Result<Started, StartError> {
        let limit = self.shared.start_limit(&request);
        let spec = &request.spec;
        let packages = &self.shared.dependencies.packages;
        let code = packages
            .ready(&spec.id.tenant, &spec.code, &spec.generation)
            .await;
        let code = code.map_err(|error| StartError::Unsupported(bugle_types::report(&*error)))?;
        // A download is not part of the start that the function's limits are about.
        let began = Instant::now();
        let (shared, wanted) = (Arc::clone(&self.shared), request.clone());
        // The code may be on a file system that does not answer, and a new process takes a moment.
        let launched = tokio::task::spawn_blocking(move || shared.launch(&wanted, code))
            .await
            .map_err(|error| StartError::Platform(error.to_string()))??;
        let process = began.elapsed();
        let port = launched.port.number();
        let instance = self.shared.watch(&request, launched)?;
        let deadline = began + limit;
        let started = tokio::time::timeout_at(deadline, bring_up(&instance, port));
        match started.await {
            Ok(Ok(listening)) => {
                self.shared.limit_processor(&request, &instance)?;
                let phases = StartPhases {
                    process,
                    load: (listening - began).saturating_sub(process),
                    init: listening.elapsed(),
                };
                Ok(Started {
                    instance: Arc::new(instance),
                    phases,
                })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::InitializationTimeout { limit }),
        }
    }
}

impl Shared {
    /// Starts the process. Blocks.
    fn launch(&self, request: &StartRequest, package: Code) -> Result<Launched, StartError> {
        let spec = &request.spec;
        let Runtime::Program(runtime) = spec.runtime else {
            let runtime = &spec.runtime;
            return Err(StartError::Unsupported(format!(
                "{runtime} is not a runtime of programs"
            )));
        };
        let dependencies = &self.dependencies;
        let code = package
            .directory()
            .map_err(|error| StartError::Unsupported(bugle_types::report(&error)))?;
        let user = (dependencies.open_environment)(&spec.id, &spec.environment)
            .map_err(StartError::Platform)?;
        let shown = code.to_str().ok_or_else(|| {
            StartError::Unsupported(format!("the code path {} is not UTF-8", code.display()))
        })?;
        let argv = command::find(&code, &spec.handler).map_err(StartError::Unsupported)?;
        let port = if dependencies.confinement.has_own_network() {
            Port::usual()
        } else {
            self.ports.take().map_err(StartError::Platform)?
        };
        let form = Form::of(runtime, &user);
        let requests =
            Requests::new(request, form, port.address()).map_err(StartError::Unsupported)?;
        let temporary = dependencies.confinement.temporary();
        let mut environment = environment(request, shown, temporary.as_deref(), &user)
            .map_err(StartError::Unsupported)?;
        environment.insert("PORT", port.number().to_string());
        if runtime == ProgramRuntime::Posix {
            environment.insert("ENV_DELEGATE_BOOTSTRAP", spec.handler.clone());
        }
        let launch = Launch {
            argv,
            environment,
            directory: &code,
            resources: &request.resources,
        };
        let spawned = process::spawn(&launch, &self.guard, &dependencies.confinement);
        let spawned = spawned.map_err(|error| match error {
            NotStarted::Program(message) => StartError::Unsupported(message),
            NotStarted::Platform(message) => StartError::Platform(message),
        })?;
        Ok(Launched {
            spawned,
            port,
            requests,
            code: package,
        })
    }

    /// Makes an instance of a process, and watches over it. It ends when the instance is dropped.
    fn watch(
        &self,
        request: &StartRequest,
        launched: Launched,
    ) -> Result<ProgramInstance, StartError> {
        let Launched {
            spawned,
            port,
            requests,
            code,
        } = launched;
        let served = Served {
            id: request.id,
            spawned,
            address: port.address(),
            requests,
            lines: self.lines(request),
            keep: Duration::from_millis(self.config.idle_connection_millis),
            shows: self.config.show_exchanges,
            memory_mib: request.resources.memory.0,
            blame: Blame::Leader,
        };
        let watched = served.watch(&self.runtime, (port, code));
        watched.map_err(|error| StartError::Platform(format!("watch a program: {error}")))
    }

    /// From now on the program gets no more of the processor than its function was given.
    fn limit_processor(
        &self,
        request: &StartRequest,
        instance: &ProgramInstance,
    ) -> Result<(), StartError> {
        if self.dependencies.confinement.processor() == Processor::Share {
            return Ok(());
        }
        let limited = |group: &Cgroup| group.limit_processor(request.resources.cpu.0);
        match instance.child.with_group(limited) {
            Some(Err(error)) => Err(StartError::Platform(format!("limit a program: {error}"))),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn lines(&self, request: &StartRequest) -> Lines {
        let limits = LogLimits {
            line_bytes: self.config.log_line_bytes,
            lines_per_second: self.config.log_lines_per_second,
        };
        let function = Arc::new(request.spec.id.clone());
        let sink = Arc::clone(&self.dependencies.logs);
        Lines::new(function, request.id, sink, limits)
    }

    fn start_limit(&self, request: &StartRequest) -> Duration {
        let of_hook = request.spec.initializer.as_ref().map(|hook| hook.timeout);
        of_hook
            .filter(|limit| !limit.is_zero())
            .unwrap_or_else(|| Duration::from_secs(self.config.start_seconds))
    }
}

/// Waits until the program listens and has initialized itself; yields when it listened.
async fn bring_up(instance: &ProgramInstance, port: u16) -> Result<Instant, StartError> {
    let exit = tokio::select! {
        biased;
        () = listens(instance, port) => None,
        exit = instance.end() => Some(exit),
    };
    if let Some(Exit { cause, .. }) = exit {
        let what = format!("the program ended before it listened on 127.0.0.1:{port} (PORT)");
        return Err(ended(instance, &what, cause));
    }
    let listening = Instant::now();
    initialize(instance).await?;
    Ok(listening)
}

/// Waits until the program takes a connection, which is kept for the first call.
async fn listens(instance: &ProgramInstance, port: u16) {
    let mut pause = FIRST_PAUSE;
    let late = tokio::time::sleep(Duration::from_secs(1));
    tokio::pin!(late);
    let mut told = false;
    loop {
        if let Ok(wire) = instance.pool.connect().await {
            instance.pool.put(wire);
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut late, if !told => {
                told = true;
                let text = format!("waiting for the program to listen on 127.0.0.1:{port} (PORT)");
                instance.output.say(text);
            }
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Runs the initializer, if there is one. A program that does not know its path has none.
async fn initialize(instance: &ProgramInstance) -> Result<(), StartError> {
    let Some(message) = instance.requests.init(&instance.id.to_string()) else {
        return Ok(());
    };
    let path = message.uri().clone();
    let text = match instance.exchange(message, None).await {
        Ok(ReplyBody::Http {
            status: 200..300 | 404 | 405,
            ..
        }) => return Ok(()),
        Ok(ReplyBody::Http { status, body, .. }) => {
            let said = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).into_owned();
            format!("the initializer {path} answered {status}: {}", said.trim())
        }
        Ok(ReplyBody::Error { message, .. })
        | Err(NoAnswer::Bad(ReplyBody::Error { message, .. })) => {
            format!("the initializer {path}: {message}")
        }
        Err(NoAnswer::NotSent(cause) | NoAnswer::Exited(cause)) => {
            let what = format!("the program ended while its initializer {path} ran");
            return Err(ended(instance, &what, cause));
        }
        Ok(_) | Err(NoAnswer::Bad(_)) => format!("the initializer {path} gave no answer"),
    };
    Err(StartError::Initialization {
        message: text,
        trace: instance.output.last_words(),
    })
}

fn ended(instance: &ProgramInstance, what: &str, cause: ExitCause) -> StartError {
    match cause {
        ExitCause::OutOfMemory { .. }
        | ExitCause::OutOfDisk { .. }
        | ExitCause::NodeLost { .. }
        | ExitCause::Stopped => StartError::Exited(cause),
        ExitCause::Code(_) | ExitCause::Signal(_) | ExitCause::Unhealthy { .. } => {
            StartError::Initialization {
                message: format!("{what}: {cause}"),
                trace: instance.output.last_words(),
            }
        }
    }
}

impl Driver for ProgramDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(Self::start(self, request))
    }
}
