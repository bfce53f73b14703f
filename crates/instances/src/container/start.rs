//! From an image to an instance that takes calls.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::{CONTAINER_PORT, CodeLocation, ContainerSpec, Initialization};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cells::{Cell, Outside};
use super::egress::Egress;
use super::folder::Folder;
use super::image::{self, Rootfs};
use super::instance::{ContainerInstance, Ending, Watch, check_health, is_well};
use super::orders::Orders;
use super::{Shared, egress};
use crate::child::Blame;
use crate::confinement::starter::REFUSED;
use crate::confinement::{Cgroup, Processor};
use crate::output::{Lines, LogLimits};
use crate::program::instance::{NoAnswer, ProgramInstance};
use crate::program::process::{NotStarted, Spawned};
use crate::program::request::{Form, Requests};
use crate::program::watch::Served;
use crate::program::wire::Pool;
use crate::{Exit, ExitCause, ReplyBody, StartError, StartPhases, StartRequest, Started};

/// How long a thread waits for a server that is about to listen, and how often it tries: most are
/// there within a few milliseconds, for which a timer of the runtime is too coarse.
const SOON: Duration = Duration::from_millis(20);
const VERY_SOON: Duration = Duration::from_micros(150);

/// The pauses after that.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// How long an initializer that nobody asked for may take (`container-image` contract 5.1).
const AUTO: Duration = Duration::from_secs(3);

/// How much of an answer to the initializer goes into the error message.
const SHOWN: usize = 1024;

const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, CONTAINER_PORT);

/// A container whose program runs.
struct Launched {
    spawned: Spawned,
    folder: Folder,
    outside: Option<Outside>,
    requests: Requests,
    /// A connection, if the server listens already.
    early: Option<std::net::TcpStream>,
}

/// Starts a container and initializes it.
pub(super) async fn start(
    shared: Arc<Shared>,
    request: StartRequest,
) -> Result<Started, StartError> {
    let spec = spec_of(&request)?.clone();
    // Before gigabytes are fetched that could not be run.
    shared.may_make().map_err(StartError::Unsupported)?;
    let rootfs = shared.dependencies.images.ready(&spec).await?;
    let signal = image::stop_signal(&rootfs.config);
    let began = Instant::now();
    let limit = start_limit(&shared, &request);
    let (driver, wanted, image) = (Arc::clone(&shared), request.clone(), rootfs.clone());
    // A start mounts and waits for the kernel.
    let launched = tokio::task::spawn_blocking(move || launch(&driver, &wanted, &image))
        .await
        .map_err(|error| StartError::Platform(error.to_string()))??;
    let process = began.elapsed();
    let Watched {
        program,
        egress,
        watch,
        early,
    } = watch(&shared, &request, rootfs, launched)?;
    let signal = signal.unwrap_or_else(|unknown| {
        program.output.say(unknown);
        Signal::TERM
    });
    let deadline = began + limit;
    let started = tokio::time::timeout_at(deadline, bring_up(&program, &spec, early));
    let listening = match started.await {
        Ok(listening) => listening?,
        Err(_) => return Err(StartError::InitializationTimeout { limit }),
    };
    limit_processor(&shared, &request, &program)?;
    let ending = Ending {
        pre_stop: request.spec.pre_stop.as_ref().map(|hook| hook.timeout),
        shutdown: spec.shutdown,
        signal,
    };
    let health = spec.health.map(|check| {
        let checked = check_health(Arc::clone(&program), check);
        while_wanted(&shared, checked)
    });
    Ok(Started {
        instance: Arc::new(ContainerInstance {
            program,
            ending,
            _held: (watch, health, egress),
        }),
        phases: StartPhases {
            process,
            load: (listening - began).saturating_sub(process),
            init: listening.elapsed(),
        },
    })
}

fn spec_of(request: &StartRequest) -> Result<&ContainerSpec, StartError> {
    match &request.spec.code {
        CodeLocation::Image(spec) => Ok(spec),
        _ => Err(StartError::Unsupported(format!(
            "the runtime {} needs an image; register the function with \
             extendedMetaData.custom_container_config.image",
            request.spec.runtime
        ))),
    }
}

fn start_limit(shared: &Shared, request: &StartRequest) -> Duration {
    let of_hook = request.spec.initializer.as_ref().map(|hook| hook.timeout);
    of_hook
        .filter(|limit| !limit.is_zero())
        .unwrap_or_else(|| Duration::from_secs(shared.config.start_seconds))
}

/// Makes the container and waits for a moment. Blocks.
fn launch(
    shared: &Arc<Shared>,
    request: &StartRequest,
    image: &Rootfs,
) -> Result<Launched, StartError> {
    let spec = spec_of(request)?;
    let mut orders = orders(shared, request, spec, image)?;
    let requests = Requests::new(request, Form::Raw, ADDRESS).map_err(StartError::Unsupported)?;
    let path = match spec.initialization {
        Initialization::Strict | Initialization::Auto => Some("/init"),
        Initialization::Never => None,
    };
    let mut cell = shared
        .cells()?
        .take(spec.network)
        .map_err(StartError::Platform)?;
    let failed =
        |error: std::io::Error| StartError::Platform(format!("start a container: {error}"));
    if let Some(group) = &cell.spawned.group {
        group.limit(&request.resources).map_err(failed)?;
    }
    orders.upper = cell.folder.upper();
    orders.work = cell.folder.work();
    orders.tmp = cell.folder.tmp();
    if spec.network == bugle_types::ContainerNetwork::None {
        for (name, text) in &mut orders.etc {
            if name == "resolv.conf" {
                text.clear();
            }
        }
    }
    let backend = &shared.backend;
    let group = cell.spawned.group.as_ref();
    let group = group.map_or_else(|| orders.hostname.clone(), Cgroup::name_for_runtime);
    let prepared = backend.prepare(&mut orders, cell.folder.path(), &group);
    prepared.map_err(StartError::Platform)?;
    cell.become_container(&orders)
        .map_err(|error| match error {
            NotStarted::Program(message) => StartError::NotRunnable(message),
            NotStarted::Platform(message) => {
                StartError::Platform(message.strip_prefix(REFUSED).unwrap_or(&message).to_owned())
            }
        })?;
    let early = wait_a_moment(&cell);
    let Cell {
        spawned,
        folder,
        outside,
        ..
    } = cell;
    Ok(Launched {
        spawned,
        folder,
        outside,
        requests: requests.with_initializer(path),
        early,
    })
}

fn orders(
    shared: &Shared,
    request: &StartRequest,
    spec: &ContainerSpec,
    image: &Rootfs,
) -> Result<Orders, StartError> {
    let of_function = &request.spec;
    let open = &shared.dependencies.open_environment;
    let user = open(&of_function.id, &of_function.environment).map_err(StartError::Platform)?;
    let environment = image::environment(&image.config, request, &user, &image.layers);
    let hostname = request.id.to_string();
    Ok(Orders {
        layers: image.layers.clone(),
        read_only: shared.config.read_only,
        argv: image::argv(&image.config, spec).map_err(StartError::NotRunnable)?,
        environment: environment.map_err(StartError::Unsupported)?,
        directory: image::directory(&image.config, spec),
        uid: spec.uid,
        gid: spec.gid,
        disk_bytes: u64::from(spec.disk_mib) * 1024 * 1024,
        etc: image::etc(&hostname, egress::resolv_conf()),
        hostname,
        binds: image::binds(spec, &shared.config).map_err(StartError::Unsupported)?,
        ..Orders::default()
    })
}

/// Waits until the server listens, or the program has ended, but not for long.
fn wait_a_moment(cell: &Cell) -> Option<std::net::TcpStream> {
    let network = cell.spawned.network.as_ref()?;
    let began = Instant::now();
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(VERY_SOON.subsec_nanos()),
    };
    while began.elapsed() < SOON {
        if let Ok(Some(stream)) = network.connect_now(SocketAddr::V4(ADDRESS)) {
            return Some(stream);
        }
        let mut ended = [PollFd::from_borrowed_fd(
            cell.spawned.pidfd.as_fd(),
            PollFlags::IN,
        )];
        match rustix::event::poll(&mut ended, Some(&pause)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    None
}

/// A container that is watched over.
struct Watched {
    program: Arc<ProgramInstance>,
    egress: Option<DropGuard>,
    watch: DropGuard,
    early: Option<std::net::TcpStream>,
}

fn watch(
    shared: &Shared,
    request: &StartRequest,
    rootfs: Rootfs,
    launched: Launched,
) -> Result<Watched, StartError> {
    let failed =
        |error: std::io::Error| StartError::Platform(format!("watch a container: {error}"));
    let spec = spec_of(request)?;
    let folder = Arc::new(launched.folder);
    let served = Served {
        id: request.id,
        spawned: launched.spawned,
        address: ADDRESS,
        requests: launched.requests,
        lines: lines(shared, request),
        keep: Duration::from_millis(shared.config.idle_connection_millis),
        shows: shared.config.show_exchanges,
        memory_mib: request.resources.memory.0,
        blame: Blame::Anybody,
    };
    let held = (Arc::clone(&folder), rootfs);
    let program = Arc::new(served.watch(&shared.runtime, held).map_err(failed)?);
    let policy = shared.dependencies.outside.clone();
    let outside = launched.outside;
    let egress = outside.map(|outside| Egress::open(outside, policy, &shared.runtime));
    let watch = Watch {
        program: Arc::clone(&program),
        folder,
        memory_mib: request.resources.memory.0,
        disk_mib: u64::from(spec.disk_mib),
        disk_period: Duration::from_millis(shared.config.disk_check_millis),
    };
    Ok(Watched {
        program,
        egress: egress.transpose().map_err(failed)?,
        watch: while_wanted(shared, watch.run()),
        early: launched.early,
    })
}

/// Does something on the side until what is returned is dropped.
fn while_wanted(shared: &Shared, what: impl Future<Output = ()> + Send + 'static) -> DropGuard {
    let end = CancellationToken::new();
    let ended = end.clone();
    shared.runtime.spawn(async move {
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = what => {}
        }
    });
    end.drop_guard()
}

fn lines(shared: &Shared, request: &StartRequest) -> Lines {
    let limits = LogLimits {
        line_bytes: shared.config.log_line_bytes,
        lines_per_second: shared.config.log_lines_per_second,
    };
    let function = Arc::new(request.spec.id.clone());
    let sink = Arc::clone(&shared.dependencies.logs);
    Lines::new(function, request.id, sink, limits)
}

/// From now on the container gets no more of the processor than its function was given.
fn limit_processor(
    shared: &Shared,
    request: &StartRequest,
    program: &ProgramInstance,
) -> Result<(), StartError> {
    if shared.dependencies.confinement.processor() == Processor::Share {
        return Ok(());
    }
    let millis = request.resources.cpu.0;
    match program
        .child
        .with_group(|group| group.limit_processor(millis))
    {
        Some(Err(error)) => Err(StartError::Platform(format!("limit a container: {error}"))),
        Some(Ok(())) | None => Ok(()),
    }
}

/// Waits until the server takes calls; yields when it listened.
async fn bring_up(
    program: &ProgramInstance,
    spec: &ContainerSpec,
    early: Option<std::net::TcpStream>,
) -> Result<Instant, StartError> {
    let exit = tokio::select! {
        biased;
        () = listens(program, early) => None,
        exit = program.end() => Some(exit),
    };
    if let Some(Exit { cause, .. }) = exit {
        return Err(ended(
            program,
            "the container ended before it listened on port 8000",
            cause,
        ));
    }
    let listening = Instant::now();
    if let Some(check) = spec.health {
        let well = async {
            while !is_well(program, check.timeout).await {
                tokio::time::sleep(LONGEST_PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = well => {}
            exit = program.end() => {
                let what = "the container ended before GET /healthz was answered by 200";
                return Err(ended(program, what, exit.cause));
            }
        }
    }
    initialize(program, spec.initialization).await?;
    Ok(listening)
}

/// Waits until the server takes a connection, which is kept for the first call.
async fn listens(program: &ProgramInstance, early: Option<std::net::TcpStream>) {
    if let Some(stream) = early
        && let Ok(stream) = TcpStream::from_std(stream)
        && let Ok(wire) = Pool::speak(stream).await
    {
        return program.pool.put(wire);
    }
    let mut pause = FIRST_PAUSE;
    let late = tokio::time::sleep(Duration::from_secs(1));
    tokio::pin!(late);
    let mut told = false;
    loop {
        if let Ok(wire) = program.pool.connect().await {
            return program.pool.put(wire);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut late, if !told => {
                told = true;
                let text = format!("waiting for the container to listen on port {CONTAINER_PORT}");
                program.output.say(text);
            }
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Runs the initializer as the function wants it (`container-image` contract 5.1).
async fn initialize(program: &ProgramInstance, how: Initialization) -> Result<(), StartError> {
    let Some(message) = program.requests.init(&program.id.to_string()) else {
        return Ok(());
    };
    let asking = program.exchange(message, None);
    let answered = match how {
        Initialization::Never => return Ok(()),
        Initialization::Strict => asking.await,
        Initialization::Auto => {
            let Ok(answered) = tokio::time::timeout(AUTO, asking).await else {
                let text = format!("POST /init took longer than {} s", AUTO.as_secs());
                program.output.say(text);
                return Ok(());
            };
            answered
        }
    };
    let text = match answered {
        Ok(ReplyBody::Http {
            status: 200..300 | 404 | 405,
            ..
        }) => return Ok(()),
        Ok(ReplyBody::Http { status: 501, .. }) if how == Initialization::Auto => return Ok(()),
        Ok(ReplyBody::Http { status, body, .. }) => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
            format!("POST /init answered {status}: {}", shown.trim())
        }
        Ok(ReplyBody::Error { message, .. }) => format!("POST /init: {message}"),
        Ok(ReplyBody::Json(_) | ReplyBody::Streamed) => return Ok(()),
        Err(NoAnswer::Bad(_)) => "POST /init was answered by something else than HTTP".to_owned(),
        Err(NoAnswer::NotSent(cause) | NoAnswer::Exited(cause)) => {
            return Err(ended(
                program,
                "the container ended while it handled POST /init",
                cause,
            ));
        }
    };
    if how == Initialization::Auto {
        program
            .output
            .say(format!("{text}; the function is used all the same"));
        return Ok(());
    }
    Err(StartError::Initialization {
        message: text,
        trace: program.output.last_words(),
    })
}

fn ended(program: &ProgramInstance, what: &str, cause: ExitCause) -> StartError {
    match cause {
        cause @ (ExitCause::OutOfMemory { .. } | ExitCause::OutOfDisk { .. }) => {
            StartError::Exited(cause)
        }
        cause => StartError::Initialization {
            message: format!("{what}: {cause}"),
            trace: program.output.last_words(),
        },
    }
}
