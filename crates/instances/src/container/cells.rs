//! Cells, from the platform's side: made ahead of need, and told what to become.
//!
//! To make a cell costs a process, six namespaces, a control group and a network: milliseconds, most
//! of them the kernel's. None of it depends on the function. So a few are parked, and a start takes
//! one and has it replaced while the start goes on.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_types::ContainerNetwork;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::cell::{NAME, OPEN_FILES, PARKED};
use super::folder::{Folder, Folders};
use super::netlink::NAMES;
use super::orders::{self, Orders, Park};
use crate::confinement::starter::{REFUSED, next_child_is_first_of_its_namespace};
use crate::confinement::{Cgroups, Confinement, Holds};
use crate::program::guard::Guard;
use crate::program::network::Network;
use crate::program::process::{self, NotStarted, Spawned};

/// How long a cell may take to be parked, and to become a container.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where connections to the outside are taken over; above the ports that the kernel gives out by
/// itself, so that nothing meets it by chance.
const OUTSIDE: u16 = 64_999;

/// The most processes and threads of an instance (`container-image` contract 3.2).
const PROCESSES: u32 = 1024;

/// Makes cells, and keeps some.
#[derive(Debug)]
pub(super) struct Cells {
    folders: Arc<Folders>,
    guard: Arc<Guard>,
    groups: Option<Arc<Cgroups>>,
    park: Park,
    /// The binary that becomes a cell.
    program: PathBuf,
    /// So many are kept of each kind.
    keep: usize,
    parked: Mutex<[VecDeque<Cell>; 2]>,
    /// Whether somebody is making more, for each kind.
    refilling: [AtomicBool; 2],
    runtime: Handle,
}

/// A process that waits to become a container. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) spawned: Spawned,
    pub(super) folder: Folder,
    pub(super) outside: Option<Outside>,
    control: UnixStream,
}

/// What takes an instance's connections to the outside, in its network.
#[derive(Debug)]
pub(super) struct Outside {
    /// Those to anywhere.
    pub(super) connections: TcpListener,
    /// Those to the resolver.
    pub(super) names: TcpListener,
    /// What is asked of the resolver.
    pub(super) questions: UdpSocket,
}

/// What cells are made of.
pub(super) struct Making {
    pub(super) folders: Arc<Folders>,
    pub(super) keep: usize,
    /// Whether another runtime does what a cell would do to its mounts and its rights.
    pub(super) bare: bool,
    pub(super) program: PathBuf,
    pub(super) shm_bytes: u64,
}

impl Cells {
    /// # Errors
    ///
    /// This kind of processor has no filter of system calls.
    pub(super) fn new(making: Making, confinement: &Confinement) -> Result<Arc<Self>, String> {
        let seccomp = Confinement::filter_of_containers().ok_or_else(|| {
            let processor = std::env::consts::ARCH;
            format!("there is no filter of system calls for {processor}")
        })?;
        let limits = [("CORE", 0), ("NOFILE", OPEN_FILES), ("MEMLOCK", 64 * 1024)];
        let park = Park {
            stage: making.folders.stage(),
            outside: None,
            bare: making.bare,
            shm_bytes: making.shm_bytes,
            seccomp,
            limits: limits.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        Ok(Arc::new(Self {
            folders: making.folders,
            guard: Arc::default(),
            groups: confinement.cgroups(),
            park,
            program: making.program,
            keep: making.keep,
            parked: Mutex::default(),
            refilling: Default::default(),
            runtime: Handle::current(),
        }))
    }

    /// A cell, parked before if there is one. Blocks.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn take(self: &Arc<Self>, network: ContainerNetwork) -> Result<Cell, String> {
        let parked = self.parked.lock()[network as usize].pop_front();
        self.refill(network);
        match parked {
            Some(cell) => Ok(cell),
            None => self.make(network),
        }
    }

    /// Has cells made until enough are kept; by one thread for each kind, however many starts ask.
    pub(super) fn refill(self: &Arc<Self>, network: ContainerNetwork) {
        let is_full = self.parked.lock()[network as usize].len() >= self.keep;
        if is_full || self.refilling[network as usize].swap(true, Ordering::AcqRel) {
            return;
        }
        let cells = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            while cells.parked.lock()[network as usize].len() < cells.keep
                // Nobody else will use them.
                && Arc::strong_count(&cells) > 1
            {
                match cells.make(network) {
                    Ok(cell) => cells.parked.lock()[network as usize].push_back(cell),
                    Err(error) => {
                        // Told to the start that has to make one itself.
                        tracing::debug!(error, "no cell was parked");
                        break;
                    }
                }
            }
            cells.refilling[network as usize].store(false, Ordering::Release);
        });
    }

    /// Makes a cell and parks it. Blocks.
    fn make(&self, network: ContainerNetwork) -> Result<Cell, String> {
        let failed = |error: io::Error| format!("make a container: {error}");
        let folder = self.folders.make().map_err(failed)?;
        let (mut control, theirs) = UnixStream::pair().map_err(failed)?;
        let mut spawned = self.spawn(theirs.into()).map_err(|error| match error {
            NotStarted::Program(problem) | NotStarted::Platform(problem) => problem,
        })?;
        if let Some(groups) = &self.groups {
            let holds = if self.park.bare {
                Holds::Runtime
            } else {
                Holds::Processes
            };
            let group = groups
                .enclose_all(spawned.process.pid(), holds)
                .map_err(failed)?;
            group.limit_processes(PROCESSES).map_err(failed)?;
            spawned.group = Some(group);
        }
        let outside = (network == ContainerNetwork::Nat).then_some(OUTSIDE);
        let park = Park {
            outside,
            ..self.park.clone()
        };
        control.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        orders::send(&mut control, &park).map_err(failed)?;
        let said: Option<String> = orders::receive(&mut control).map_err(failed)?;
        let said = said.unwrap_or_else(|| "the cell has ended".to_owned());
        if said != PARKED {
            return Err(said);
        }
        let namespace = format!("/proc/{}/ns/net", spawned.process.pid());
        let namespace = File::open(namespace).map_err(failed)?;
        let network = Arc::new(Network::new(namespace.into()));
        network.fill().map_err(failed)?;
        let outside = outside.map(|_| network.within(Outside::listen));
        let outside = outside.transpose().map_err(failed)?;
        spawned.network = Some(network);
        Ok(Cell {
            spawned,
            folder,
            outside,
            control,
        })
    }

    /// Starts a cell as the first process of a namespace.
    fn spawn(&self, control: OwnedFd) -> Result<Spawned, NotStarted> {
        let mut command = process::bare(self.program.as_os_str());
        command
            .arg0(OsStr::new(NAME))
            .current_dir("/")
            .stdin(control);
        // Not through the gate: a container has a network of its own, with ports of its own.
        let child = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("starter".to_owned());
            let thread = thread.spawn_scoped(scope, || {
                next_child_is_first_of_its_namespace()?;
                command.spawn()
            })?;
            let ended = |_| io::Error::other("the thread that starts a cell has ended");
            thread.join().map_err(ended)?
        });
        let child = child
            .map_err(|error| NotStarted::Platform(format!("{REFUSED}start a cell: {error}")))?;
        process::own(child, &self.guard)
    }

    /// Ends all cells that are parked.
    pub(super) fn clear(&self) {
        let parked = std::mem::take(&mut *self.parked.lock());
        drop(parked);
    }
}

impl Outside {
    fn listen() -> io::Result<Self> {
        let home = Ipv4Addr::LOCALHOST;
        let outside = Self {
            connections: TcpListener::bind((home, OUTSIDE))?,
            names: TcpListener::bind((home, NAMES))?,
            questions: UdpSocket::bind((home, NAMES))?,
        };
        outside.connections.set_nonblocking(true)?;
        outside.names.set_nonblocking(true)?;
        outside.questions.set_nonblocking(true)?;
        Ok(outside)
    }
}

impl Cell {
    /// Tells the cell what to become; returns when the program runs. Blocks.
    ///
    /// # Errors
    ///
    /// Whose fault it is that it does not.
    pub(super) fn become_container(&mut self, orders: &Orders) -> Result<(), NotStarted> {
        let failed = |error: io::Error| {
            NotStarted::Platform(format!("{REFUSED}become a container: {error}"))
        };
        orders::send(&mut self.control, orders).map_err(failed)?;
        self.control.shutdown(Shutdown::Write).map_err(failed)?;
        match orders::receive::<String>(&mut self.control).map_err(failed)? {
            None => Ok(()),
            Some(said) if said.starts_with(REFUSED) => Err(NotStarted::Platform(said)),
            Some(said) => Err(NotStarted::Program(said)),
        }
    }
}
