//! The parents of instances: one for each interpreter in use, and more that have packages imported.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::PythonVersion;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::imports::Wanted;
use super::packages::Packages;
use super::zygote::{self, Forked, Grown, Load, Zygote};
use super::{Config, Interpreter, compile, discover, warm};
use crate::StartError;
use crate::confinement::{Confinement, Level};

/// How long no parent is started after one could not be.
const BACK_OFF: Duration = Duration::from_secs(1);

/// How a parent begins its last words when the kernel does not let it confine instances.
const REFUSED: &str = "confine: ";

/// Every parent of a driver.
#[derive(Debug)]
pub(super) struct Parents {
    config: Config,
    pub(super) confinement: Arc<Confinement>,
    pub(super) packages: Packages,
    script: PathBuf,
    slots: Mutex<HashMap<PythonVersion, Arc<Slot>>>,
}

/// The parents of one version.
#[derive(Debug)]
struct Slot {
    base: AsyncMutex<Base>,
    /// What the base has imported; none before it has run.
    little: Mutex<Arc<HashSet<String>>>,
    library: Mutex<Library>,
    warm: Mutex<warm::Sets<Zygote>>,
}

/// The parent that every start can be given.
#[derive(Debug, Default)]
struct Base {
    interpreter: Option<Interpreter>,
    zygote: Option<Arc<Zygote>>,
    failed: Option<(Instant, String)>,
}

/// The parent that has the usual parts of the standard library. Starts do without as long as there
/// is none.
#[derive(Debug, Default)]
enum Library {
    #[default]
    None,
    Growing,
    Grown(Arc<Zygote>),
    Failed(Instant),
}

impl Library {
    fn zygote(&self) -> Option<&Arc<Zygote>> {
        match self {
            Self::Grown(zygote) if !zygote.is_gone() => Some(zygote),
            _ => None,
        }
    }

    /// Whether the caller has to make it.
    fn begin(&mut self) -> bool {
        let wanting = match self {
            Self::None => true,
            Self::Growing => false,
            Self::Grown(zygote) => zygote.is_gone(),
            Self::Failed(at) => at.elapsed() >= BACK_OFF,
        };
        if wanting {
            *self = Self::Growing;
        }
        wanting
    }
}

impl Parents {
    pub(super) fn new(config: Config, confinement: Arc<Confinement>, script: PathBuf) -> Self {
        Self {
            packages: Packages::new(&config.packages),
            config,
            confinement,
            script,
            slots: Mutex::default(),
        }
    }

    /// How many have packages imported.
    pub(super) fn warm(&self) -> usize {
        let slots: Vec<_> = self.slots.lock().values().cloned().collect();
        slots.iter().map(|slot| slot.warm.lock().count()).sum()
    }

    /// A process for a function that imports `wanted`, and its parent.
    pub(super) async fn take(
        self: &Arc<Self>,
        version: PythonVersion,
        wanted: Wanted,
    ) -> Result<(Forked, Arc<Zygote>), StartError> {
        let library = wanted.library;
        if !wanted.modules.is_empty()
            && let Some(taken) = self.take_warm(version, wanted)
        {
            return Ok(taken);
        }
        let library = library.then(|| self.library(version)).flatten();
        let zygote = match library {
            Some(zygote) => zygote,
            None => self.base(version).await?,
        };
        let forked = zygote
            .take()
            .map_err(|error| StartError::Platform(format!("a socket for an instance: {error}")))?;
        Ok((forked, zygote))
    }

    fn take_warm(
        self: &Arc<Self>,
        version: PythonVersion,
        wanted: Wanted,
    ) -> Option<(Forked, Arc<Zygote>)> {
        let slot = self.slot(version);
        let choice = slot.warm.lock().choose(&wanted, Instant::now());
        if choice.grow {
            let parents = Arc::clone(self);
            Handle::current().spawn(async move { parents.grow(version, &wanted).await });
        }
        let zygote = choice.parent?;
        // It may have been retired a moment ago; then the start is an ordinary one.
        let forked = zygote.take().ok()?;
        Some((forked, zygote))
    }

    /// The parent with the library. One is made in the background if there is none.
    pub(super) fn library(self: &Arc<Self>, version: PythonVersion) -> Option<Arc<Zygote>> {
        let slot = self.slot(version);
        let mut library = slot.library.lock();
        if library.begin() {
            let parents = Arc::clone(self);
            Handle::current().spawn(async move { parents.grow_library(version).await });
        }
        library.zygote().cloned()
    }

    async fn grow_library(&self, version: PythonVersion) {
        let slot = self.slot(version);
        let grown = match self.interpreter(version, &slot).await {
            Ok(interpreter) => self.start(&interpreter, Load::Library).await,
            Err(error) => Err(bugle_types::report(&error)),
        };
        *slot.library.lock() = match grown {
            Ok(((zygote, _), _)) => {
                tracing::info!(runtime = %version, pid = zygote.pid(), "the library is warm");
                zygote.park(self.config.parked);
                Library::Grown(zygote)
            }
            Err(reason) => {
                tracing::warn!(
                    runtime = %version, reason,
                    "the standard library is not imported ahead; functions that import much of it \
                     start slower"
                );
                Library::Failed(Instant::now())
            }
        };
    }

    /// What the least of parents has imported.
    pub(super) fn little(&self, version: PythonVersion) -> Arc<HashSet<String>> {
        Arc::clone(&self.slot(version).little.lock())
    }

    /// Makes the parents that the operator wants from the beginning, one after the other.
    pub(super) async fn grow_configured(self: &Arc<Self>, version: PythonVersion) {
        for names in &self.config.preload_sets {
            let (parents, names) = (Arc::clone(self), names.clone());
            let find = move || {
                let listing = parents.packages.listing(version)?;
                let mut wanted = Wanted {
                    age: listing.age,
                    ..Wanted::default()
                };
                for name in &names {
                    listing.add(name, &mut wanted.modules);
                }
                Some(wanted)
            };
            let found = tokio::task::spawn_blocking(find).await;
            let Ok(Some(wanted)) = found else {
                return;
            };
            let choice = self
                .slot(version)
                .warm
                .lock()
                .choose(&wanted, Instant::now());
            if choice.grow {
                self.grow(version, &wanted).await;
            }
        }
    }

    /// Makes a parent that has imported what is wanted.
    async fn grow(&self, version: PythonVersion, wanted: &Wanted) {
        let slot = self.slot(version);
        let began = Instant::now();
        let set: Vec<&str> = wanted.modules.iter().map(String::as_str).collect();
        let set = set.join(" ");
        let grown = match self.interpreter(version, &slot).await {
            Ok(interpreter) => {
                let load = Load::Packages(&wanted.modules);
                self.start(&interpreter, load).await
            }
            Err(error) => Err(bugle_types::report(&error)),
        };
        let now = Instant::now();
        match grown {
            Ok(((zygote, loaded), _)) => {
                let (pid, modules) = (zygote.pid(), loaded.len());
                let millis = now.duration_since(began).as_millis();
                tracing::info!(runtime = %version, pid, set, modules, millis, "packages are warm");
                zygote.park(self.config.parked);
                slot.warm.lock().grown(zygote, wanted, loaded, now);
            }
            Err(reason) => {
                tracing::warn!(
                    runtime = %version, set, reason,
                    "packages are not imported ahead; functions that import them start slower"
                );
                slot.warm.lock().give_up(wanted, now);
            }
        }
    }

    fn slot(&self, version: PythonVersion) -> Arc<Slot> {
        let make = || {
            Arc::new(Slot {
                base: AsyncMutex::default(),
                little: Mutex::default(),
                library: Mutex::default(),
                warm: Mutex::new(warm::Sets::new(self.config.warm_sets)),
            })
        };
        Arc::clone(self.slots.lock().entry(version).or_insert_with(make))
    }

    async fn interpreter(
        &self,
        version: PythonVersion,
        slot: &Slot,
    ) -> Result<Interpreter, StartError> {
        let known = slot.base.lock().await.interpreter.clone();
        match known {
            Some(interpreter) => Ok(interpreter),
            None => self.find_interpreter(version).await,
        }
    }

    /// The parent of `version` that every start can be given, started if there is none.
    pub(super) async fn base(&self, version: PythonVersion) -> Result<Arc<Zygote>, StartError> {
        let all = self.slot(version);
        let mut slot = all.base.lock().await;
        if let Some(zygote) = &slot.zygote
            && !zygote.is_gone()
        {
            return Ok(Arc::clone(zygote));
        }
        if let Some((at, message)) = &slot.failed
            && at.elapsed() < BACK_OFF
        {
            return Err(StartError::Platform(message.clone()));
        }
        let interpreter = match &slot.interpreter {
            Some(interpreter) => interpreter.clone(),
            None => self.find_interpreter(version).await?,
        };
        match self.start(&interpreter, Load::Little).await {
            Ok(((zygote, little), level)) => {
                *all.little.lock() = Arc::new(little);
                let pid = zygote.pid();
                tracing::info!(runtime = %version, pid, confinement = ?level, "interpreter is warm");
                slot.interpreter = Some(interpreter);
                slot.zygote = Some(Arc::clone(&zygote));
                slot.failed = None;
                Ok(zygote)
            }
            Err(message) => {
                slot.failed = Some((Instant::now(), message.clone()));
                Err(StartError::Platform(message))
            }
        }
    }

    /// A parent that confines its instances as far as the kernel lets it.
    async fn start(
        &self,
        interpreter: &Interpreter,
        load: Load<'_>,
    ) -> Result<(Grown, Level), String> {
        let Self {
            config,
            confinement,
            script,
            ..
        } = self;
        let packages = self.packages.folders(interpreter.version)?;
        let limit = Duration::from_secs(config.interpreter_start_seconds);
        loop {
            let level = confinement.level();
            confinement.suffices()?;
            let plan = confinement.plan(Some(&interpreter.prefix), &packages)?;
            let command = zygote::Command {
                interpreter: &interpreter.path,
                script,
                preload: &config.preload,
                packages: &packages,
                load,
                plan: &plan,
                cgroups: confinement.cgroups(),
                gate: confinement.gate(),
                files: confinement.files(Some(&interpreter.prefix), &packages)?,
            };
            let problem = match Zygote::start(&command, limit).await {
                Ok(grown) => {
                    confinement.works(level);
                    return Ok((grown, level));
                }
                Err(problem) => problem,
            };
            let refused = problem.contains(REFUSED);
            if !refused || !confinement.refused(level, &problem) {
                return Err(problem);
            }
        }
    }

    /// A process that compiles sources for `version` and reaches nothing of the platform.
    pub(super) async fn compiler(
        &self,
        version: PythonVersion,
    ) -> Result<std::process::Child, StartError> {
        let interpreter = self.interpreter(version, &self.slot(version)).await?;
        let script = self.script.with_file_name("_bugle").join("compiling.py");
        let confinement = Arc::clone(&self.confinement);
        let failed = |reason: String| StartError::Platform(format!("compile a package: {reason}"));
        let mut command = compile::command(&interpreter.path, &script);
        let files = confinement
            .files(Some(&interpreter.prefix), &[])
            .map_err(failed)?;
        let own = self.script.parent().map(std::path::Path::to_owned);
        let spawned = tokio::task::spawn_blocking(move || {
            confinement.gate().run(move || {
                if let Some(mut files) = files {
                    files.read.extend(own);
                    files.refuse_others().map_err(std::io::Error::other)?;
                }
                command.spawn()
            })?
        });
        match spawned.await {
            Ok(spawned) => spawned.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn find_interpreter(&self, version: PythonVersion) -> Result<Interpreter, StartError> {
        let config = self.config.clone();
        let found = tokio::task::spawn_blocking(move || {
            let places = discover::places(&config);
            match discover::find(version, &places) {
                Some(found @ Interpreter { problem: None, .. }) => Ok(found),
                Some(Interpreter {
                    path,
                    problem: Some(problem),
                    ..
                }) => {
                    let path = path.display();
                    Err(format!("{path} cannot run {version} functions: {problem}"))
                }
                None => Err(discover::missing(version, &places)),
            }
        });
        match found.await {
            Ok(found) => found.map_err(StartError::Unsupported),
            Err(error) => Err(StartError::Platform(error.to_string())),
        }
    }
}
