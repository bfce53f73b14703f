//! Gateways, etcd and nodes that are killed, stopped, paused, cut off and started at random under load.
//!
//! Each test runs for twenty seconds, or for as many as `BUGLE_CHAOS_SECONDS` says; `BUGLE_CHAOS_SEED`
//! repeats a run's choices.

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bugle_testkit::{
    Endpoint, FunctionSpec, Platform, Registered, StartOptions, eventually, pause, resume,
    terminate,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::gates::{BOUND, Gates, until_members};

const CALLERS: usize = 8;

const REPORT: &str = r"
import os, socket, time
REFEREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'referee')
def handler(event, context):
    with socket.socket(socket.AF_UNIX) as referee:
        referee.connect(REFEREE)
        referee.sendall((event['function'] + ' ' + event['call'] + '\n').encode())
        referee.recv(1)
        time.sleep(0.01)
        referee.sendall(b'e')
        referee.recv(1)
    return event['call']
";

/// The choices of a run (a linear congruential generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from)) as u64)
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What functions say that they ran.
#[derive(Default)]
struct Runs {
    now: BTreeMap<String, usize>,
    most: BTreeMap<String, usize>,
    calls: BTreeMap<String, usize>,
}

type Seen = Arc<std::sync::Mutex<Runs>>;

/// Hears what runs, from wherever it runs: a socket beside the code, which no network cuts off.
struct Referee {
    seen: Seen,
    hearing: JoinHandle<()>,
}

impl Referee {
    fn new(folder: &Path) -> Self {
        let path = folder.join("referee");
        let listener = UnixListener::bind(&path).expect("the folder is ours");
        // Functions run as other users.
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&path, all).expect("it is ours");
        let seen = Seen::default();
        let hearing = tokio::spawn(hear(listener, Arc::clone(&seen)));
        Self { seen, hearing }
    }
}

impl Drop for Referee {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

async fn hear(listener: UnixListener, seen: Seen) {
    while let Ok((call, _)) = listener.accept().await {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut call = BufReader::new(call);
            let mut line = String::new();
            if call.read_line(&mut line).await.is_err() {
                return;
            }
            let Some((function, id)) = line.trim_end().split_once(' ') else {
                return;
            };
            {
                let mut runs = seen.lock().unwrap();
                let now = runs.now.entry(function.to_owned()).or_default();
                *now += 1;
                let now = *now;
                let most = runs.most.entry(function.to_owned()).or_default();
                *most = now.max(*most);
                *runs.calls.entry(id.to_owned()).or_default() += 1;
            }
            _ = call.write_all(b"b").await;
            // Whoever was killed has ended as well.
            _ = call.read(&mut [0]).await;
            if let Some(now) = seen.lock().unwrap().now.get_mut(function) {
                *now -= 1;
            }
            _ = call.write_all(b"e").await;
        });
    }
}

/// Where gateways listen; none while one is not there.
type Doors = Arc<std::sync::Mutex<Vec<Option<(Endpoint, Endpoint)>>>>;

fn door(doors: &Doors, dice: &mut Dice) -> Option<(Endpoint, Endpoint)> {
    let doors = doors.lock().unwrap();
    doors[dice.below(doors.len())]
}

/// Calls at random; the status of each call by its id, 0 for no answer.
async fn call(
    number: usize,
    (doors, functions): (Doors, Vec<Registered>),
    stop: Arc<AtomicBool>,
) -> BTreeMap<String, (u16, String)> {
    let mut dice = Dice(number as u64 + 1);
    let mut answers = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let Some((_, gateway)) = door(&doors, &mut dice) else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let function = &functions[dice.below(functions.len())];
        let id = format!("{number}-{}", answers.len());
        let event = serde_json::json!({ "function": function.name, "call": id });
        let answer = gateway
            .send(function.request(&event.to_string(), &[]))
            .await;
        let answer = match answer {
            Ok(answer) => (answer.status, answer.text()),
            Err(error) => (0, error),
        };
        answers.insert(id, answer);
    }
    answers
}

/// Registers functions; the names of those that were answered.
async fn write(doors: Doors, spec: FunctionSpec, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut dice = Dice(4711);
    let mut written = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        let Some((control, _)) = door(&doors, &mut dice) else {
            continue;
        };
        let name = format!("0@test@written{number}");
        let body = spec.clone().with("name", name.clone()).body().to_string();
        let request = http::Request::post("/serverless/v1/functions")
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap();
        if control
            .send(request)
            .await
            .is_ok_and(|answer| answer.status == 200)
        {
            written.push(name);
        }
    }
    written
}

/// What a gateway is started with, by its number.
type Options = dyn Fn(&Gates, usize) -> StartOptions;

async fn started(gates: &Gates, number: usize, doors: &Doors, options: &Options) -> Platform {
    let mut platform = gates.start_with(number, &options(gates, number)).await;
    // What goes wrong here goes wrong on purpose.
    platform.tolerate("");
    doors.lock().unwrap()[number] = Some((platform.control, platform.gateway));
    platform
}

/// Lets things happen until the time is over, and leaves everything running.
async fn trouble(
    gates: &mut Gates,
    mut platforms: Vec<Platform>,
    doors: &Doors,
    options: &Options,
    (mut dice, span): (Dice, Duration),
) -> Vec<Platform> {
    let until = Instant::now() + span;
    while Instant::now() < until {
        sleep(dice.millis(300, 1500)).await;
        let victim = dice.below(platforms.len());
        match dice.below(5) {
            0 | 1 => {
                let platform = platforms.remove(victim);
                doors.lock().unwrap()[victim] = None;
                println!("killing gateway {victim}");
                platform.kill().await;
                sleep(dice.millis(0, 3000)).await;
                platforms.insert(victim, started(gates, victim, doors, options).await);
            }
            2 => {
                let mut platform = platforms.remove(victim);
                doors.lock().unwrap()[victim] = None;
                println!("stopping gateway {victim}");
                terminate(platform.pid);
                eventually("it ends", BOUND, || {
                    let ended = platform.ended().ok_or_else(|| "not yet".to_owned());
                    async { ended }
                })
                .await;
                platforms.insert(victim, started(gates, victim, doors, options).await);
            }
            3 => {
                println!("pausing gateway {victim}");
                pause(platforms[victim].pid);
                sleep(dice.millis(200, 4000)).await;
                resume(platforms[victim].pid);
            }
            _ => {
                println!("killing etcd");
                gates.etcd.kill();
                sleep(dice.millis(100, 2500)).await;
                gates.etcd.resume().await;
            }
        }
    }
    platforms
}

/// The seed and the length of a run.
fn chosen() -> (u64, Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("BUGLE_CHAOS_SEED").unwrap_or_else(|| now.subsec_nanos().into());
    println!("BUGLE_CHAOS_SEED={seed}");
    let span = Duration::from_secs(number("BUGLE_CHAOS_SECONDS").unwrap_or(20));
    (seed, span)
}

/// Functions that tell the referee what they do, so many and with so many instances each.
async fn functions(
    gates: &Gates,
    platforms: &[Platform],
    (count, max): (usize, &str),
) -> (FunctionSpec, Vec<Registered>, Referee) {
    let code = gates.site(0).write_code("report", "index.py", REPORT);
    let spec = FunctionSpec::python("0@test@report", &code)
        .with("runtime", platforms[0].python().await)
        .with("concurrentNum", "1")
        .with("maxInstance", max);
    let mut functions = Vec::new();
    for number in 0..count {
        let spec = spec.clone().with("name", format!("0@test@report{number}"));
        functions.push(platforms[number % platforms.len()].register(&spec).await);
    }
    let referee = Referee::new(&code);
    (spec, functions, referee)
}

/// Callers and a writer, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<BTreeMap<String, (u16, String)>>>,
    writer: JoinHandle<Vec<String>>,
}

impl Load {
    fn new(doors: &Doors, spec: FunctionSpec, functions: &[Registered]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let callers = (0..CALLERS)
            .map(|number| {
                let world = (Arc::clone(doors), functions.to_vec());
                tokio::spawn(call(number, world, Arc::clone(&stop)))
            })
            .collect();
        let writer = tokio::spawn(write(Arc::clone(doors), spec, Arc::clone(&stop)));
        Self {
            stop,
            callers,
            writer,
        }
    }

    /// The answers, and what was written.
    async fn end(self) -> (BTreeMap<String, (u16, String)>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = BTreeMap::new();
        for caller in self.callers {
            answers.extend(caller.await.unwrap());
        }
        (answers, self.writer.await.unwrap())
    }
}

/// Each function answers through each gateway, and each knows everything that was written.
async fn all_is_well(platforms: &[Platform], functions: &[Registered], written: &[String]) {
    for platform in platforms {
        for function in functions {
            let event = serde_json::json!({ "function": function.name, "call": "last" });
            let _ = platform
                .invoke(function, &event.to_string())
                .await
                .expect(200);
        }
        let list = "/serverless/v1/functions?pageSize=1000&name=written";
        let list = platform.control.get(list).await.expect(200).text();
        let lost: Vec<_> = written
            .iter()
            .filter(|name| !list.contains(*name))
            .collect();
        assert!(lost.is_empty(), "{lost:?} of {} are lost", written.len());
    }
    println!("{} functions were registered meanwhile", written.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_are_killed_at_random_lose_no_write_and_answer_each_call_once() {
    let mut gates = Gates::new(3).await;
    let (seed, span) = chosen();
    let doors = Doors::new(vec![None; 3].into());
    let options: &Options = &|gates, _| gates.options();
    let mut platforms = Vec::new();
    for number in 0..3 {
        platforms.push(started(&gates, number, &doors, options).await);
    }
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    let (spec, functions, referee) = functions(&gates, &platforms, (4, "1")).await;
    let load = Load::new(&doors, spec, &functions);
    let platforms = trouble(&mut gates, platforms, &doors, options, (Dice(seed), span)).await;
    let (answers, written) = load.end().await;
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    judge(&answers, &referee.seen, 1);
    all_is_well(&platforms, &functions, &written).await;
    drop(referee);
    for platform in platforms {
        platform.finish().await;
    }
}

/// What an answer that is no result begins with.
fn cause(text: &str) -> String {
    let text = text.split(",\"trace_id").next().unwrap_or_default();
    // Whichever node it was.
    text.split("node node")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Each call ran at most once; exactly once if its function answered, and never if the platform said so.
fn judge(answers: &BTreeMap<String, (u16, String)>, seen: &Seen, max: usize) {
    let runs = seen.lock().unwrap();
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut other = BTreeSet::new();
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for (id, (status, text)) in answers {
        *statuses.entry(*status).or_default() += 1;
        let count = runs.calls.get(id).copied().unwrap_or(0);
        assert!(count <= 1, "call {id} ran {count} times: {status} {text}");
        match status {
            200 => assert_eq!(count, 1, "call {id} was answered and did not run"),
            503 => assert_eq!(
                count, 0,
                "call {id} ran, and was answered that it did not: {text}"
            ),
            // The gateway that the client talked to is gone, or the one with the function, or the node.
            0 => {}
            502 => *causes.entry(cause(text)).or_insert(0) += 1,
            _ => _ = other.insert(format!("{status} {text}")),
        }
    }
    println!("{} calls: {statuses:?}", answers.len());
    for (cause, count) in &causes {
        println!("{count} times 502: {cause}");
    }
    assert!(other.is_empty(), "{other:?}");
    for (function, most) in &runs.most {
        assert!(
            *most <= max,
            "{function} ran {most} times at once and may have {max} instances"
        );
    }
    assert!(
        statuses.get(&200).is_some_and(|count| *count > 50),
        "{statuses:?}"
    );
}
