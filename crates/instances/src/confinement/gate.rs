//! The thread that every process of user code descends from.
//!
//! Rules of Landlock hold for the thread that takes them and for everything that descends from it:
//! threads, processes, and what those execute. So one thread of the platform takes them once, and
//! whatever will run user code is started from there; a start pays nothing for it.
//!
//! What the rules refuse: connections to ports that belong to the platform and to other
//! controllers of machines, whatever the address, and abstract Unix sockets of others. They need no
//! rights, so they hold where the platform does not run as root, too.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

type Job = Box<dyn FnOnce() + Send>;

/// Starts what will run user code.
#[derive(Debug)]
pub(crate) struct Gate {
    jobs: mpsc::Sender<Job>,
    /// Why the rules could not be taken, once that was tried.
    problem: Arc<OnceLock<String>>,
}

/// What a process and all that it starts may do with files; everything else is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Files and folders that may be read and executed.
    pub(crate) read: Vec<PathBuf>,
    /// Those that may be written as well.
    pub(crate) write: Vec<PathBuf>,
}

impl Gate {
    /// A gate that keeps what goes through it from these ports.
    ///
    /// The rules are taken with the first job: it costs about 50 ms of a processor to make them.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn open(refused: BTreeSet<u16>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let problem = Arc::<OnceLock<String>>::default();
        let noted = Arc::clone(&problem);
        thread::Builder::new()
            .name("gate".to_owned())
            .spawn(move || {
                let mut queue = queue.into_iter();
                let Some(first) = queue.next() else {
                    return;
                };
                if probe_ports().is_ok()
                    && let Err(error) = refuse_ports(&refused)
                {
                    tracing::warn!(%error, "instances reach the platform's own ports");
                    // Tried once, so nothing is there yet.
                    _ = noted.set(format!("Landlock: {error}"));
                }
                for job in std::iter::once(first).chain(queue) {
                    start(job);
                }
            })?;
        Ok(Self { jobs, problem })
    }

    /// Why what goes through the gate reaches the ports all the same, as far as is known.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.get().map(String::as_str)
    }

    /// Does something on a new thread that descends from the gate's, and waits for it.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let job = move || {
            // Nobody waits any more when this fails.
            _ = sender.send(act());
        };
        let ended = || io::Error::other("the thread that starts processes has ended");
        self.jobs.send(Box::new(job)).map_err(|_| ended())?;
        receiver.recv().map_err(|_| ended())
    }
}

/// Runs a job on a thread of its own: it may take more rights away from itself.
fn start(job: Job) {
    let thread = thread::Builder::new().name("starter".to_owned());
    if let Err(error) = thread.spawn(job) {
        // The job is dropped, and who waits for it is told.
        tracing::warn!(%error, "no thread to start a process");
    }
}

/// Whether this kernel can refuse ports.
///
/// # Errors
///
/// Why not.
pub(crate) fn probe_ports() -> Result<(), String> {
    ports_and_scope()
        .map(|_| ())
        .map_err(|_| "the kernel has no Landlock rules for ports (Linux 6.7 and later)".to_owned())
}

/// Whether this kernel can refuse files to who is not confined by other means.
///
/// # Errors
///
/// Why not.
pub(crate) fn probe_files() -> Result<(), String> {
    ruleset_of_files()
        .and_then(Ruleset::create)
        .map(|_| ())
        .map_err(|_| "the kernel has no Landlock rules for files (Linux 6.2 and later)".to_owned())
}

impl Files {
    /// Takes the right to all other files from this thread and all that descends from it.
    ///
    /// # Errors
    ///
    /// The kernel has no such rules.
    pub(crate) fn refuse_others(&self) -> Result<(), String> {
        let read = AccessFs::from_read(ABI::V3);
        let all = AccessFs::from_all(ABI::V3);
        ruleset_of_files()
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rules(path_beneath_rules(&self.read, read)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(&self.write, all)))
            .and_then(enforce)
            .map_err(|error| format!("Landlock: {error}"))
    }
}

fn ports_and_scope() -> Result<landlock::RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessNet::ConnectTcp)?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket)?
        .create()
}

/// Takes the right to connect to these ports from this thread and all that descends from it.
fn refuse_ports(refused: &BTreeSet<u16>) -> Result<(), RulesetError> {
    // Rules say what is allowed, one port at a time.
    let allowed: RangeInclusive<u16> = 0..=u16::MAX;
    let allowed = allowed.filter(|port| !refused.contains(port));
    let rules =
        allowed.map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::ConnectTcp)));
    enforce(ports_and_scope()?.add_rules(rules)?)
}

fn ruleset_of_files() -> Result<Ruleset, RulesetError> {
    // Linking and renaming between folders and truncating came later than the rest; a kernel
    // without them could be talked into more than the rules say.
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V3))
}

fn enforce(rules: landlock::RulesetCreated) -> Result<(), RulesetError> {
    let restricted = rules.restrict_self()?;
    debug_assert_ne!(restricted.ruleset, RulesetStatus::NotEnforced);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    /// How the shell fares that connects to `port` on the other side of the gate.
    fn connects(gate: &Gate, port: u16) -> bool {
        gate.run(move || {
            let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
            let mut shell = Command::new("bash");
            let status = shell.args(["-c", &script]).output().unwrap().status;
            status.success()
        })
        .unwrap()
    }

    #[test]
    fn what_goes_through_the_gate_connects_to_all_ports_but_the_refused_ones() {
        probe_ports().expect("this test needs Landlock");
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [refused, open] = listeners
            .each_ref()
            .map(|one| one.local_addr().unwrap().port());
        let gate = Gate::open(BTreeSet::from([refused])).unwrap();
        assert!(!connects(&gate, refused));
        assert!(connects(&gate, open));
        // The platform itself has lost nothing.
        std::net::TcpStream::connect(("127.0.0.1", refused)).unwrap();
    }

    #[test]
    fn files_are_refused_on_one_thread_and_what_it_starts_alone() {
        probe_files().expect("this test needs Landlock");
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for folder in &folders {
            std::fs::write(folder.path().join("file"), "text").unwrap();
        }
        let [mine, other] = folders.each_ref().map(|one| one.path().to_owned());
        let gate = Gate::open(BTreeSet::new()).unwrap();
        let outcomes = gate
            .run(move || {
                let read = ["/usr", "/bin", "/lib", "/lib64"].map(PathBuf::from);
                let files = Files {
                    read: read.into(),
                    write: vec![mine.clone(), "/dev/null".into()],
                };
                files.refuse_others().unwrap();
                let script = r#"cat "$0/file"; echo >"$0/new"; cat "$1/file"; echo >"$1/new""#;
                let mut shell = Command::new("/bin/sh");
                let said = shell
                    .arg("-c")
                    .arg(script)
                    .arg(mine)
                    .arg(other)
                    .output()
                    .unwrap();
                String::from_utf8(said.stdout).unwrap()
            })
            .unwrap();
        assert_eq!(outcomes, "text");
        let [mine, other] = folders
            .each_ref()
            .map(|one| one.path().join("new").is_file());
        assert!(mine && !other);
        assert!(std::fs::read_dir(folders[1].path()).is_ok());
    }

    #[test]
    fn rules_that_cannot_be_taken_are_told() {
        probe_ports().expect("this test needs Landlock");
        // The kernel stacks sixteen sets of rules on a thread, and no more.
        let full = thread::spawn(|| {
            for _ in 0..16 {
                enforce(ports_and_scope().unwrap()).unwrap();
            }
            let gate = Gate::open(BTreeSet::from([1])).unwrap();
            assert_eq!(gate.problem(), None);
            gate.run(|| ()).unwrap();
            gate.problem().unwrap().to_owned()
        });
        assert!(full.join().unwrap().contains("Landlock"));
    }
}
