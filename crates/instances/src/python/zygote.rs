//! The warm parent of one interpreter's instances, seen from the platform.
//!
//! It is a process that runs `runtimes/python/zygote.py`. Requests and reports are small messages on
//! a `SOCK_SEQPACKET` socket (`docs/runtime-protocol.md`); requests are written by whoever makes
//! them, reports are read by one task, which lives as long as the process.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketFlags, SocketType, socketpair,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child as Process, ChildStderr};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::warm;
use crate::child::{Child, Ended, Parent};
use crate::confinement::{Cgroup, Cgroups, Files, Gate, Plan};

const REQUEST_LEN: usize = 16;
const REPORT_LEN: usize = 24;

/// The longest list of modules; `runtimes/python/_bugle/growth.py` keeps to it.
const MAX_NAMES: usize = 128 * 1024;

const FORK: u8 = 1;
const KILL: u8 = 2;
const HELLO: u8 = 16;
const FORKED: u8 = 17;
const EXITED: u8 = 18;
const FORK_FAILED: u8 = 19;

/// A process that was forked and waits for its START frame.
#[derive(Debug)]
pub(super) struct Forked {
    pub(super) child: Arc<Child>,
    /// The platform's end of the socket, not blocking.
    pub(super) data: OwnedFd,
    /// What the process writes to its descriptors 1 and 2, not blocking.
    pub(super) output: OwnedFd,
    /// Brings the group that the process is in, where there are groups.
    pub(super) group: Option<Enclosed>,
}

/// The group of a process, once the process is in it.
pub(super) type Enclosed = oneshot::Receiver<io::Result<Cgroup>>;

/// A child that the parent knows of, and who waits for its group.
#[derive(Debug)]
struct Known {
    child: Arc<Child>,
    group: Option<oneshot::Sender<io::Result<Cgroup>>>,
}

/// A running parent.
#[derive(Debug)]
pub(super) struct Zygote {
    control: UnixStream,
    requests: Mutex<VecDeque<Request>>,
    unsent: Notify,
    children: Mutex<HashMap<u64, Known>>,
    next: AtomicU64,
    gone: AtomicBool,
    /// No more instances: it was ended, or is about to be.
    retired: AtomicBool,
    parked: Mutex<Vec<Forked>>,
    pid: u32,
    cgroups: Option<Arc<Cgroups>>,
}

/// How to start a parent.
pub(super) struct Command<'a> {
    pub(super) interpreter: &'a Path,
    pub(super) script: &'a Path,
    pub(super) preload: &'a [String],
    /// Where the operator's packages are.
    pub(super) packages: &'a [PathBuf],
    /// What it has ready for its instances.
    pub(super) load: Load<'a>,
    /// How its instances are confined.
    pub(super) plan: &'a Plan,
    /// Where its instances are limited.
    pub(super) cgroups: Option<Arc<Cgroups>>,
    /// What it is started through.
    pub(super) gate: &'a Gate,
    /// The files that it and its instances may use, where they have no root of their own.
    pub(super) files: Option<Files>,
}

/// What a parent has imported before it forks. A fork pays for all of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load<'a> {
    /// What the platform's own side needs, and not much more.
    Little,
    /// The usual parts of the standard library.
    Library,
    /// Those, and these modules of the operator's packages.
    Packages(&'a BTreeSet<String>),
}

/// The first message to a parent.
#[derive(Serialize)]
struct Order<'a> {
    plan: &'a Plan,
    packages: &'a [PathBuf],
    library: bool,
    imports: Option<&'a BTreeSet<String>>,
}

impl Command<'_> {
    /// Puts the order into the socket that the process will read.
    fn send_order(&self, control: &OwnedFd) -> io::Result<()> {
        let order = serde_json::to_vec(&Order {
            plan: self.plan,
            packages: self.packages,
            library: !matches!(self.load, Load::Little),
            imports: match self.load {
                Load::Packages(modules) => Some(modules),
                Load::Little | Load::Library => None,
            },
        })?;
        rustix::net::send(control, &order, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// A parent that can fork, and modules that it has: all where that is little, and otherwise those
/// that it has imported because it was told to.
pub(super) type Grown = (Arc<Zygote>, HashSet<String>);

#[derive(Debug)]
struct Request {
    kind: u8,
    number: u64,
    fds: Option<[OwnedFd; 2]>,
}

/// What a parent reports.
#[derive(Clone, Copy, Debug)]
struct Report {
    kind: u8,
    value: i32,
    number: u64,
    detail: u64,
}

impl Zygote {
    /// Starts the interpreter with the script, and returns when it can fork.
    ///
    /// # Errors
    ///
    /// What failed, with what the interpreter wrote to its standard error.
    pub(super) async fn start(command: &Command<'_>, limit: Duration) -> Result<Grown, String> {
        let interpreter = command.interpreter;
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| format!("a socket for {}: {error}", interpreter.display()))?;
        command
            .send_order(&ours)
            .map_err(|error| format!("an order for {}: {error}", interpreter.display()))?;
        let mut process = spawn(command, theirs)
            .map_err(|error| format!("start {}: {error}", interpreter.display()))?;
        let mut stderr = process.stderr.take();
        // tokio has no type for a socket of whole messages; it only watches this one, and what is
        // sent and received does not go through its stream methods.
        let control = rustix::io::ioctl_fionbio(&ours, true)
            .map_err(io::Error::from)
            .and_then(|()| UnixStream::from_std(ours.into()))
            .map_err(|error| format!("the socket of {}: {error}", interpreter.display()))?;
        let problem = match tokio::time::timeout(limit, greeting(&control)).await {
            Ok(Ok(loaded)) => {
                let pid = process.id().unwrap_or(0);
                let cgroups = command.cgroups.clone();
                let zygote = Self::run(control, process, stderr, pid, cgroups);
                return Ok((zygote, loaded));
            }
            Ok(Err(problem)) => problem,
            Err(_) => format!("it was not ready after {} s", limit.as_secs_f64()),
        };
        _ = process.start_kill();
        let said = match &mut stderr {
            Some(stderr) => last_words(stderr).await,
            None => String::new(),
        };
        let path = interpreter.display();
        Err(format!(
            "{path} did not become a parent of instances: {problem}{said}"
        ))
    }

    fn run(
        control: UnixStream,
        process: Process,
        stderr: Option<ChildStderr>,
        pid: u32,
        cgroups: Option<Arc<Cgroups>>,
    ) -> Arc<Self> {
        let zygote = Arc::new(Self {
            control,
            requests: Mutex::default(),
            unsent: Notify::new(),
            children: Mutex::default(),
            next: AtomicU64::new(1),
            gone: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            parked: Mutex::default(),
            pid,
            cgroups,
        });
        let runtime = Handle::current();
        runtime.spawn(watch(Arc::clone(&zygote), process));
        if let Some(stderr) = stderr {
            runtime.spawn(log_stderr(stderr, pid));
        }
        zygote
    }

    /// Whether the process has ended; another one has to be started then.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// A process for a function: a parked one, or a new one.
    ///
    /// # Errors
    ///
    /// There are no descriptors, or the parent was retired.
    pub(super) fn take(self: &Arc<Self>) -> io::Result<Forked> {
        loop {
            let parked = self.parked.lock().pop();
            match parked {
                Some(forked) if forked.child.has_ended() => {}
                Some(forked) => return Ok(forked),
                None => return self.fork(),
            }
        }
    }

    /// Forks until `count` processes are parked.
    pub(super) fn park(self: &Arc<Self>, count: usize) {
        let is_over = || self.is_gone() || self.retired.load(Ordering::Relaxed);
        while !is_over() && self.parked.lock().len() < count {
            match self.fork() {
                Ok(forked) => self.parked.lock().push(forked),
                Err(error) => {
                    // The next start forks for itself, and tells its caller.
                    tracing::warn!(%error, "cannot park an instance");
                    return;
                }
            }
        }
    }

    /// Parks a process that was forked before, unless `most` are parked already.
    pub(super) fn give(&self, forked: Forked, most: usize) {
        let mut parked = self.parked.lock();
        if parked.len() < most && !self.is_gone() {
            parked.push(forked);
        } else {
            drop(parked);
            forked.child.kill();
        }
    }

    /// A new process that waits.
    pub(super) fn fork(self: &Arc<Self>) -> io::Result<Forked> {
        let (data, their_data) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let (output, their_output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&data, true)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let parent: Weak<dyn Parent> = Arc::<Self>::downgrade(self);
        let child = Arc::new(Child::new(number, parent));
        let (sender, receiver) = match self.cgroups {
            Some(_) => {
                let (sender, receiver) = oneshot::channel();
                (Some(sender), Some(receiver))
            }
            None => (None, None),
        };
        let known = Known {
            child: Arc::clone(&child),
            group: sender,
        };
        {
            let mut children = self.children.lock();
            if self.retired.load(Ordering::Relaxed) {
                return Err(io::Error::other("the parent was retired"));
            }
            children.insert(number, known);
        }
        if self.is_gone() {
            // Its end may have been told to all children before this one was among them.
            self.children.lock().remove(&number);
            child.set_ended(Ended::Orphaned);
        } else {
            self.request(Request {
                kind: FORK,
                number,
                fds: Some([their_data, their_output]),
            });
        }
        Ok(Forked {
            child,
            data,
            output,
            group: receiver,
        })
    }

    /// Sends a request, or leaves it to the task if the kernel has no room.
    fn request(&self, request: Request) {
        let mut requests = self.requests.lock();
        if requests.is_empty() && self.try_request(&request) {
            return;
        }
        requests.push_back(request);
        drop(requests);
        self.unsent.notify_one();
    }

    /// Whether the request is done with: the kernel took it, or never will.
    fn try_request(&self, request: &Request) -> bool {
        match self.send(request) {
            Ok(()) => true,
            Err(Errno::AGAIN) => false,
            Err(errno) => {
                if request.kind == FORK {
                    self.end_child(request.number, Ended::NotForked(errno.raw_os_error()));
                }
                true
            }
        }
    }

    fn send(&self, request: &Request) -> Result<(), Errno> {
        let mut message = [0; REQUEST_LEN];
        message[0] = request.kind;
        message[8..].copy_from_slice(&request.number.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = request.fds.iter().flatten().map(AsFd::as_fd).collect();
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let message = [IoSlice::new(&message)];
        rustix::net::sendmsg(&self.control, &message, &mut ancillary, flags)?;
        Ok(())
    }

    fn send_waiting(&self) -> io::Result<()> {
        let mut requests = self.requests.lock();
        while let Some(request) = requests.front() {
            if !self.try_request(request) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            requests.pop_front();
        }
        Ok(())
    }

    fn take_report(&self, report: Report) {
        if report.kind == FORKED {
            self.take_forked(report.number, report.value.unsigned_abs());
            return;
        }
        let ended = match report.kind {
            EXITED => Ended::Status {
                status: report.value,
                peak_memory: report.detail,
            },
            FORK_FAILED => Ended::NotForked(report.value),
            _ => return,
        };
        self.end_child(report.number, ended);
    }

    fn take_forked(&self, number: u64, pid: u32) {
        let sender = {
            let mut children = self.children.lock();
            let Some(known) = children.get_mut(&number) else {
                return;
            };
            known.child.set_pid(pid);
            known.group.take()
        };
        if let (Some(sender), Some(cgroups)) = (sender, self.cgroups.clone()) {
            Handle::current().spawn_blocking(move || {
                // Nobody waits when the start was given up; the group is removed then.
                _ = sender.send(cgroups.enclose(pid));
            });
        }
    }

    fn end_child(&self, number: u64, ended: Ended) {
        let known = self.children.lock().remove(&number);
        if let Some(known) = known {
            known.child.set_ended(ended);
        }
    }

    fn tell_orphans(&self) {
        self.gone.store(true, Ordering::Release);
        self.parked.lock().clear();
        let children = std::mem::take(&mut *self.children.lock());
        for known in children.into_values() {
            known.child.set_ended(Ended::Orphaned);
        }
    }
}

impl warm::Parent for Zygote {
    fn is_gone(&self) -> bool {
        Self::is_gone(self)
    }

    fn retire(&self) -> bool {
        let mut parked = self.parked.lock();
        let children = self.children.lock();
        if children.len() > parked.len() {
            return false;
        }
        // Seen by whoever forks, who takes the same lock.
        self.retired.store(true, Ordering::Relaxed);
        for forked in parked.drain(..) {
            forked.child.expect_end();
        }
        // The process ends when it finds its socket closed, with what it has forked.
        _ = rustix::net::shutdown(&self.control, Shutdown::Both);
        true
    }
}

impl Parent for Zygote {
    fn kill(&self, number: u64) {
        self.request(Request {
            kind: KILL,
            number,
            fds: None,
        });
    }
}

fn spawn(command: &Command<'_>, control: OwnedFd) -> io::Result<Process> {
    // Its end is not tied to this struct: the closed control socket ends it, after it has killed
    // the instances with everything they started.
    let mut process = tokio::process::Command::new(command.interpreter);
    process
        .args(["-I", "-S", "-B"])
        .arg(command.script)
        .args(command.preload)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        // What is looked up on first use, every fork would look up and write down for itself.
        .env("LD_BIND_NOW", "1")
        // An instance has a second thread. Memory of its own for that would be 64 MiB of addresses
        // and a table of pages, at every start.
        .env("MALLOC_ARENA_MAX", "1")
        .current_dir("/")
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A key that interrupts the platform's terminal must not reach the instances.
        .process_group(0);
    let files = command.files.clone().map(|mut files| {
        files
            .read
            .extend(command.script.parent().map(Path::to_owned));
        files
    });
    let runtime = Handle::current();
    command.gate.run(move || {
        if let Some(files) = files {
            files.refuse_others().map_err(io::Error::other)?;
        }
        // The process is watched by the runtime.
        let _entered = runtime.enter();
        process.spawn()
    })?
}

/// Reads reports until the process is gone.
async fn watch(zygote: Arc<Zygote>, mut process: Process) {
    let mut waiting = false;
    loop {
        let outcome = tokio::select! {
            biased;
            report = receive(&zygote.control) => report,
            ready = zygote.control.writable(), if waiting => {
                if ready.is_err() {
                    break;
                }
                let sent = zygote.control.try_io(Interest::WRITABLE, || zygote.send_waiting());
                waiting = sent.is_err();
                continue;
            }
            () = zygote.unsent.notified() => {
                waiting = true;
                continue;
            }
        };
        match outcome {
            Ok(Some(report)) => zygote.take_report(report),
            Ok(None) | Err(_) => break,
        }
    }
    zygote.tell_orphans();
    let retired = zygote.retired.load(Ordering::Relaxed);
    match process.wait().await {
        Ok(status) if retired => {
            tracing::debug!(pid = zygote.pid, %status, "a parent of instances was ended");
        }
        Ok(status) => tracing::warn!(pid = zygote.pid, %status, "the parent of instances ended"),
        Err(error) => tracing::warn!(pid = zygote.pid, %error, "the parent of instances is lost"),
    }
}

/// Waits for the first report, and what the process has imported. Errors say what came instead.
async fn greeting(control: &UnixStream) -> Result<HashSet<String>, String> {
    let length = match receive(control).await {
        Ok(Some(report)) if report.kind == HELLO => report.detail,
        Ok(Some(report)) => return Err(format!("it began with a report of kind {}", report.kind)),
        Ok(None) => return Err("it ended".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    if length == 0 {
        return Ok(HashSet::new());
    }
    let mut names = vec![0; usize::try_from(length).map_or(MAX_NAMES, |one| one.min(MAX_NAMES))];
    let count = control
        .async_io(Interest::READABLE, || {
            let (_, count) = rustix::net::recv(control, &mut names[..], RecvFlags::DONTWAIT)?;
            Ok(count)
        })
        .await
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&names[..count])
        .map_err(|error| format!("it told of its modules as {count} bytes: {error}"))
}

/// The next report; none when the other side is closed. Cancel safe.
async fn receive(control: &UnixStream) -> io::Result<Option<Report>> {
    let mut message = [0; REPORT_LEN];
    let count = control
        .async_io(Interest::READABLE, || {
            let (_, count) = rustix::net::recv(control, &mut message[..], RecvFlags::DONTWAIT)?;
            Ok(count)
        })
        .await?;
    if count == 0 {
        return Ok(None);
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    Ok(Some(Report {
        kind: message[0],
        value: i32::from_le_bytes([message[4], message[5], message[6], message[7]]),
        number: word(8),
        detail: word(16),
    }))
}

/// What a process that did not start has written, as the end of a sentence.
async fn last_words(stderr: &mut ChildStderr) -> String {
    let mut text = Vec::new();
    let mut bounded = stderr.take(16 * 1024);
    _ = tokio::time::timeout(Duration::from_secs(1), bounded.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text);
    match text.trim().lines().next_back() {
        Some(line) => format!(": {line}"),
        None => String::new(),
    }
}

/// What a parent writes is a fault in it, not output of a function.
async fn log_stderr(mut stderr: ChildStderr, pid: u32) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..count]);
        tracing::warn!(pid, text = %text.trim_end(), "the parent of instances wrote");
    }
}
