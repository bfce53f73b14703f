//! `bugle bench`: the numbers of one's own function.
//!
//! Calls leave on a schedule, whether or not earlier ones were answered, and a latency counts from
//! the moment its call was due. A generator that waits for answers would send fewer calls to a
//! function that is stuck, and would not see how long those it did not send had to wait. With
//! `--closed` it does wait: that finds the most calls a second.

mod report;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bugle_load::{Backlog, Kind, Loop, Round, Schedule, Until, Watch};
use bytes::Bytes;
use clap::{Args, value_parser};

use crate::arguments::Global;
use crate::event::Event;
use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::output;
use crate::session::{self, Session};
use report::Report;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle bench hello '{\"name\": \"Ada\"}'
  bugle bench hello --rate 1000 --duration 60
  bugle bench hello --closed --connections 16
  bugle bench hello -o json | jq .latency_ms.p99")]
pub(crate) struct Arguments {
    #[command(flatten)]
    event: Event,
    /// Calls a second, which leave whether or not earlier ones were answered.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = value_parser!(u32).range(1..=1_000_000),
        conflicts_with = "closed"
    )]
    rate: u32,
    /// Each connection sends its next call when the last is answered: the most calls a second.
    #[arg(long)]
    closed: bool,
    /// How long is measured, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = value_parser!(u32).range(1..=86_400)
    )]
    duration: u32,
    /// How long calls do not count before that, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1,
        value_parser = value_parser!(u32).range(..=3_600)
    )]
    warm_up: u32,
    /// Connections, and so the most calls under way at once.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = value_parser!(u16).range(1..=1000)
    )]
    connections: u16,
    /// How long to wait for each answer, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = value_parser!(u32).range(1..=86_400)
    )]
    timeout: u32,
}

impl Arguments {
    fn lasting(&self) -> Duration {
        Duration::from_secs(self.duration.into())
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up.into())
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    /// Sends the calls; blocks until the last answer.
    fn load(
        &self,
        Target { address, request }: Target,
        watch: &Watch,
    ) -> Result<Round, bugle_load::Error> {
        let connections = self.connections.into();
        if self.closed {
            let plan = Loop {
                connections,
                warm_up: self.warm_up(),
                until: Until::Elapsed(self.lasting()),
                limit: Some(self.limit()),
            };
            return bugle_load::closed(address, plan, move |_| request.clone(), watch);
        }
        let schedule = Schedule {
            rate: self.rate,
            warm_up: self.warm_up(),
            lasting: self.lasting(),
            connections,
            limit: self.limit(),
            backlog: Backlog::Dropped,
        };
        bugle_load::open(address, schedule, &request, watch)
    }
}

/// What is called.
struct Target {
    address: SocketAddr,
    request: Bytes,
}

/// Between two looks at the load.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    let session = Session::new(global)?;
    let mut target = None;
    session::block_on(async {
        target = prepare(&session, arguments).await?;
        Ok(())
    })?;
    let Some(target) = target else {
        return Ok(());
    };
    let watch = Watch::default();
    let round = std::thread::scope(|scope| {
        let load = scope.spawn(|| arguments.load(target, &watch));
        let watched =
            session::uninterrupted(follow(&session, arguments, &watch, || load.is_finished()));
        let round = load.join().map_err(|_| failed("it has panicked"))?;
        watched?;
        round.map_err(|error| unloadable(&error))
    })?;
    let report = Report::new(&session, arguments, &watch, &round);
    report.show(&session)?;
    verdict(&watch, &round)
}

/// The call and where it goes; nothing when it was only to be shown.
async fn prepare(session: &Session, arguments: &Arguments) -> Outcome<Option<Target>> {
    let event = &arguments.event;
    if session.curl {
        let (call, elsewhere) = event.shown(session, arguments.limit())?;
        Session::show_curl(session.gateway().await?, &call, elsewhere)?;
        return Ok(None);
    }
    let call = event.call(session, arguments.limit()).await?;
    let gateway = session.gateway().await?;
    exists(session, event).await?;
    let address = tokio::net::lookup_host(gateway.authority()).await;
    let address = address.ok().and_then(|mut all| all.next());
    let address = address.ok_or_else(|| {
        Failure::new(
            exit::NETWORK,
            format!("{} has no address", gateway.authority()),
        )
    })?;
    let request = bugle_load::with_headers(
        gateway.authority(),
        &call.method,
        &call.path,
        &call.headers,
        &call.body,
    );
    Ok(Some(Target { address, request }))
}

/// A mistyped name should not be measured for ten seconds.
async fn exists(session: &Session, event: &Event) -> Outcome {
    let (name, version) = names::versioned(&event.name, event.version.as_deref());
    match session.control.function(&name, version).send().await {
        // Where only the gateway can be reached, the calls themselves will tell.
        Err(error) => match Failure::from(error) {
            failure if failure.is_unknown_function => {
                Err(names::suggest(session, failure, &event.name).await)
            }
            _ => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}

/// Shows how far the load is; Ctrl-C ends it early.
async fn follow(
    session: &Session,
    arguments: &Arguments,
    watch: &Watch,
    is_finished: impl Fn() -> bool,
) -> Outcome {
    let begin = Instant::now();
    let whole = arguments.warm_up() + arguments.lasting();
    let progress =
        output::Progress::start(session.quiet, format!("calling {}", arguments.event.name));
    let mut look = tokio::time::interval(LOOK);
    while !is_finished() {
        tokio::select! {
            biased;
            // Without the signal's handler the load ends when it is over.
            Ok(()) = tokio::signal::ctrl_c() => watch.stop(),
            _ = look.tick() => {}
        }
        let (calls, failed) = watch.calls();
        progress.say(|| {
            let elapsed = begin.elapsed().min(whole).as_secs();
            format!(
                "{}: {elapsed} of {} s, {calls} calls, {failed} failed",
                arguments.event.name,
                whole.as_secs()
            )
        });
    }
    Ok(())
}

fn failed(why: &str) -> Failure {
    Failure::new(exit::REFUSED, format!("the load was not made: {why}"))
}

fn unloadable(error: &bugle_load::Error) -> Failure {
    match error {
        bugle_load::Error::Connect { .. } => Failure::new(exit::NETWORK, error.text())
            .hint("this is the invocation gateway's address; --gateway names another"),
        _ => failed(&error.text()).hint("fewer --connections need less"),
    }
}

/// The exit code: success if any call succeeded, else what most calls failed of.
fn verdict(watch: &Watch, round: &Round) -> Outcome {
    if watch.is_stopped() {
        return Err(Failure::interrupted());
    }
    if round.tally.succeeded() > 0 {
        return Ok(());
    }
    let failures = round.tally.failures.iter();
    let Some((kind, _)) = failures.max_by_key(|(_, failures)| failures.count) else {
        return Err(Failure::new(exit::TIMEOUT, "no call was answered"));
    };
    let text = "every call failed";
    Err(match kind {
        Kind::Answer { status, code } => Failure::answered(*status, *code, text),
        Kind::Connect | Kind::Broken => Failure::new(exit::NETWORK, text),
        Kind::Timeout => Failure::new(exit::TIMEOUT, text),
        Kind::Other => Failure::new(exit::REFUSED, text),
    })
}
