//! `bugle run`: a container image as a function, on the spot.
//!
//! It talks to the platform that runs, or runs one itself for as long as it lasts. What the platform
//! sends to the container and what comes back is among the function's log lines, if the platform
//! was started here.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use bugle_api::operator::LogEntry;
use bugle_api::{
    CustomContainerConfig, ExtendedMetaData, FunctionObject, FunctionRequest, Initializer,
};
use bugle_server::doctor::lacking_for_containers;
use bugle_types::Code;
use clap::Args;

use super::{dev, image, invoke, logs, serve};
use crate::arguments::Global;
use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::output;
use crate::session::{Session, curl};
use crate::settings::Settings;

/// The parts of the configuration that show what goes to and fro.
const SHOW_EXCHANGES: &str = "containers.show_exchanges=true";

/// Says of a function that it was made here and may be replaced.
const MADE_HERE: &str = "made by bugle run";

/// The lines of the function's log that are looked at for what was not shown yet.
const LOG_LINES: usize = 1000;

/// How often it is looked whether the container has started.
const LOOK: Duration = Duration::from_millis(500);

/// The longest name that is made of an image's.
const LONGEST_NAME: usize = 40;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle run registry.example/team/thumbnail:1.4
  bugle run thumbnail.tar --invoke '{\"width\": 100}'
  bugle run --http -e GREETING=hello registry.example/team/shop")]
pub(crate) struct Arguments {
    /// The image, such as registry.example/team/thumbnail:1.4, or a file that `docker save` or `skopeo`
    /// wrote.
    image: String,
    /// The server has paths of its own; without it, an event is `POST /invoke`.
    #[arg(long)]
    http: bool,
    /// The function's name; made of the image's when it is missing.
    #[arg(long)]
    name: Option<String>,
    /// A variable of the container.
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// Takes the place of the image's entry point; parts are separated by commas.
    #[arg(long, value_delimiter = ',')]
    command: Vec<String>,
    /// Takes the place of the image's arguments; separated by commas.
    #[arg(long, value_delimiter = ',')]
    args: Vec<String>,
    /// Memory, in MB.
    #[arg(long, value_name = "MB", default_value_t = 512)]
    memory: i64,
    /// Thousandths of a core.
    #[arg(long, value_name = "MILLIS", default_value_t = 1000)]
    cpu: i64,
    /// The longest a call may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: i64,
    /// Has `POST /init` succeed within this many seconds, or the start fail.
    #[arg(long, value_name = "SECONDS")]
    init: Option<i64>,
    /// Calls that one container serves at once.
    #[arg(long, value_name = "N", default_value_t = 1)]
    concurrency: u32,
    /// Calls the function with this event, and prints the answer.
    #[arg(long, value_name = "EVENT", conflicts_with = "http")]
    invoke: Option<String>,
    /// Stops after that call.
    #[arg(long, requires = "invoke")]
    once: bool,
    #[command(flatten)]
    settings: Settings,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=');
    let (name, value) = pair.ok_or("a variable is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    serve::runtime()?.block_on(async {
        let asked = serve::asked_to_stop()?;
        tokio::pin!(asked);
        let settings = || {
            let mut settings = arguments.settings.clone();
            settings.set.push(SHOW_EXCHANGES.to_owned());
            // An image that is fetched first, and cannot run then, is a long way to an error.
            let config = settings.load()?.config;
            match lacking_for_containers(&config) {
                None => Ok(settings),
                Some((what, fix)) => {
                    let hint = format!("{fix}; `bugle doctor` shows all that is missing");
                    Err(Failure::new(exit::REFUSED, what).hint(hint))
                }
            }
        };
        let (session, platform) = dev::platform(global, settings).await?;
        let made = async {
            // An earlier run of this name has left its log.
            let log = Log::before(&session, names::full(&arguments.name())).await?;
            Ok((make(&session, arguments).await?, log))
        };
        let made = tokio::select! {
            biased;
            () = &mut asked => Err(Failure::interrupted()),
            made = made => made,
        };
        let outcome = match made {
            Ok((function, log)) => {
                let outcome = tokio::select! {
                    biased;
                    () = &mut asked => Err(Failure::interrupted()),
                    outcome = show(&session, arguments, &log) => outcome,
                };
                // What was made on the spot goes with it.
                let _ = session.control.delete(&function.name, None).send().await;
                outcome
            }
            Err(failure) => Err(failure),
        };
        if let Some(platform) = platform {
            let stopped = platform.stopped(std::future::ready(())).await;
            stopped.map_err(|text| Failure::new(exit::REFUSED, text))?;
        }
        outcome
    })
}

/// Makes a function of the image.
async fn make(session: &Session, arguments: &Arguments) -> Outcome<FunctionObject> {
    make_room(session, arguments).await?;
    let image = fetch(session, &arguments.image).await?;
    let register = session.control.register(&arguments.request(&image));
    Ok(register.send().await?)
}

/// Makes sure that no function has the name, other than one that an earlier run left behind.
async fn make_room(session: &Session, arguments: &Arguments) -> Outcome {
    let name = names::full(&arguments.name());
    match session.control.function(&name, None).send().await {
        Ok(found) if found.description == MADE_HERE => {
            session.control.delete(&name, None).send().await?;
            Ok(())
        }
        Ok(_) => Err(Failure::new(
            exit::CONFLICT,
            format!("there is a function {name} already"),
        )
        .hint("--name gives this one another name")),
        Err(error) if error.code() == Some(Code::FunctionNotFound.number()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn show(session: &Session, arguments: &Arguments, log: &Log) -> Outcome {
    // Before the first call, which may have something to say.
    let lines = session.control.logs(&log.name, LOG_LINES, None, true);
    let lines = lines.open().await?;
    say_how_to_call(session, arguments, &log.name).await?;
    let follow = async {
        logs::read(lines, |entry| {
            log.show(entry);
            Ok(())
        })
        .await?;
        Err(logs::stopped())
    };
    let work = async {
        if let Some(event) = &arguments.invoke {
            let called = invoke::call(session, &log.name, event).await;
            if arguments.once {
                log.catch_up(session).await?;
                return called;
            }
            if let Err(failure) = called {
                failure.print();
            }
        }
        session.note("running; Ctrl-C to stop");
        std::future::pending().await
    };
    tokio::select! {
        outcome = follow => outcome,
        outcome = work => outcome,
        outcome = tell_failed_starts(session, &log.name) => outcome,
    }
}

/// Says why the container does not start, as often as the reason changes: without a call nobody else
/// would.
async fn tell_failed_starts(session: &Session, name: &str) -> Outcome {
    let mut told = None;
    loop {
        // A platform that stops ends the log, which says so.
        if let Ok(status) = session.control.status(name, None).send().await
            && status.last_start_error != told
        {
            if let Some(why) = &status.last_start_error {
                let failure = Failure::new(exit::REFUSED, format!("it does not start: {why}"));
                failure.hint(next_step(why)).print();
            }
            told = status.last_start_error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What to do about a start that failed.
fn next_step(why: &str) -> &'static str {
    if why.contains("timed out") || why.contains("took longer") {
        return "the server has to listen on port 8000, at any address (PORT says so too); --init gives \
                it more time";
    }
    "what it wrote is above; --command, --args and --env change how it is started"
}

/// The function's log, as far as it has been shown.
struct Log {
    name: String,
    /// The instances of earlier runs.
    earlier: HashSet<String>,
    last: RefCell<Option<LogEntry>>,
}

impl Log {
    async fn before(session: &Session, name: String) -> Outcome<Self> {
        let mut earlier = HashSet::new();
        let lines = session.control.logs(&name, LOG_LINES, None, false);
        match lines.open().await {
            Ok(lines) => {
                logs::read(lines, |entry| {
                    earlier.insert(entry.instance.clone());
                    Ok(())
                })
                .await?;
            }
            Err(error) if error.code() == Some(Code::FunctionNotFound.number()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            name,
            earlier,
            last: RefCell::new(None),
        })
    }

    fn show(&self, entry: &LogEntry) {
        if !self.earlier.contains(&entry.instance) {
            output::note(&logs::line(entry));
            *self.last.borrow_mut() = Some(entry.clone());
        }
    }

    /// Shows what the log has and whoever follows it has not got yet.
    async fn catch_up(&self, session: &Session) -> Outcome {
        let lines = session.control.logs(&self.name, LOG_LINES, None, false);
        let mut entries = Vec::new();
        logs::read(lines.open().await?, |entry| {
            entries.push(entry.clone());
            Ok(())
        })
        .await?;
        let last = self.last.borrow().clone();
        let shown = entries
            .iter()
            .rposition(|entry| Some(entry) == last.as_ref())
            .map_or(0, |at| at + 1);
        entries[shown..].iter().for_each(|entry| self.show(entry));
        Ok(())
    }
}

/// Has the image on the platform's machine, and gives the name it has there.
async fn fetch(session: &Session, image: &str) -> Outcome<String> {
    let file = Path::new(image);
    if !file.is_file() {
        if looks_like_a_file(image) {
            let text = format!("there is no file {image}");
            return Err(Failure::new(exit::NOT_FOUND, text).hint(
                "`docker save -o FILE IMAGE` writes one; an image of a registry is named \
                 host[:port]/path[:tag]",
            ));
        }
        image::fetch(session, image).await?;
        return Ok(image.to_owned());
    }
    let loaded = image::send(session, file, None).await?;
    let named = loaded
        .into_iter()
        .find_map(|one| one.names.into_iter().next());
    named.ok_or_else(|| {
        let text = format!("{image} does not say what its image is called");
        Failure::new(exit::REFUSED, text)
            .hint("`bugle image load --name NAME FILE` names it; run it by that name then")
    })
}

async fn say_how_to_call(session: &Session, arguments: &Arguments, name: &str) -> Outcome {
    let gateway = session.gateway().await?;
    if arguments.http {
        let path = name.trim_start_matches("0@").replace('@', "/");
        session.note(&format!(
            "curl {gateway}/functions/{}/{path}/",
            session.tenant
        ));
        return Ok(());
    }
    let event = arguments.invoke.as_deref().unwrap_or("{}");
    let call = invoke::event_call(session, name, Some(event))?;
    session.note(&curl(gateway, &call, None));
    Ok(())
}

impl Arguments {
    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| name_of(&self.image))
    }

    fn request(&self, image: &str) -> FunctionRequest {
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let initializer = self
            .init
            .map_or_else(Initializer::default, |limit| Initializer {
                initializer_handler: "-".to_owned(),
                initializer_timeout: limit,
            });
        let variables: BTreeMap<_, _> = self.environment.iter().cloned().collect();
        FunctionRequest {
            name: Some(names::full(&self.name())),
            description: Some(MADE_HERE.to_owned()),
            runtime: Some(if self.http { "http" } else { "custom image" }.to_owned()),
            handler: Some("-".to_owned()),
            kind: Some("faas".to_owned()),
            cpu: Some(self.cpu),
            memory: Some(self.memory),
            timeout: Some(self.timeout),
            concurrent_num: Some(self.concurrency.to_string()),
            // It is there at once, and a mistake shows without a call.
            min_instance: Some("1".to_owned()),
            environment: Some(variables),
            extended_meta_data: Some(ExtendedMetaData {
                custom_container_config: CustomContainerConfig {
                    image: image.to_owned(),
                    command: list(&self.command),
                    args: list(&self.args),
                    ..CustomContainerConfig::default()
                },
                initializer,
                ..ExtendedMetaData::default()
            }),
            ..FunctionRequest::default()
        }
    }
}

/// Whether nobody who writes this means an image of a registry.
fn looks_like_a_file(image: &str) -> bool {
    let archive = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
    image.starts_with(['/', '.', '~']) || archive.iter().any(|end| image.ends_with(end))
}

/// A function's name for an image: the last part of its path, without what names may not have.
fn name_of(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let last = last.split(['@', ':']).next().unwrap_or(last);
    let last = last.strip_suffix(".tar").unwrap_or(last);
    let clean: String = last
        .to_lowercase()
        .chars()
        .map(|one| {
            if one.is_ascii_alphanumeric() {
                one
            } else {
                '-'
            }
        })
        .take(LONGEST_NAME)
        .collect();
    let clean = clean.trim_matches(|one: char| !one.is_ascii_alphanumeric());
    match clean.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => clean.to_owned(),
        _ => format!("image-{clean}").trim_end_matches('-').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_called_as_the_image_is() {
        for (image, name) in [
            ("registry.example:5000/team/thumb_nail:1.4", "thumb-nail"),
            ("busybox@sha256:12", "busybox"),
            ("out/Shop.tar", "shop"),
            ("2048:latest", "image-2048"),
            ("_", "image"),
        ] {
            assert_eq!(name_of(image), name, "{image}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_not_taken_for_an_image() {
        for file in ["/tmp/a", "./a", "a.tar", "out/a.tar.gz"] {
            assert!(looks_like_a_file(file), "{file}");
        }
        for image in ["a", "registry.example/a:1", "tar", "a/b.tarball"] {
            assert!(!looks_like_a_file(image), "{image}");
        }
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err());
    }
}
