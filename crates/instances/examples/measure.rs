//! Measures cold starts, calls and memory of Python instances, without gateway and scheduler.
//!
//! `cargo run --release -p bugle-instances --example measure [python3.N] [cold|warm|memory]`
#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails has nothing to tell"
)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::{CodeRoots, Foundation, Packages};
use bugle_instances::{
    CallRequest, Config, Confinement, ConfinementConfig, Driver, Instance, InstanceId, LogLine,
    LogSink, PythonDependencies, PythonDriver, ReplyBody, StartPhases, StartRequest, Surroundings,
};
use bugle_types::{
    CodeLocation, CpuMillis, FunctionId, FunctionSpec, FunctionUrn, Generation, Kind, MemoryMib,
    Resources, Runtime, Scale, SealedEnvironment,
};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use tokio::time::Instant;

const SOURCE: &str = "
import time

def handler(event, context):
    return {'ok': True}

def printing(event, context):
    print('a line of output')
    return {'ok': True}

def waiting(event, context):
    time.sleep(0.001)
    return {'ok': True}

async def coroutine(event, context):
    return {'ok': True}
";

const BODY: &[u8] =
    br#"{"name": "a name", "numbers": [1, 2, 3, 4, 5], "nested": {"key": "value", "more": null}}"#;

struct Nowhere;

impl LogSink for Nowhere {
    fn line(&self, _line: LogLine) {}
}

struct Bench {
    driver: PythonDriver,
    spec: FunctionSpec,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(runtime: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let code = dir.path().join("code");
        std::fs::create_dir(&code).unwrap();
        std::fs::write(code.join("main.py"), SOURCE).unwrap();
        let surroundings = Surroundings {
            folder: dir.path().join("run"),
            ..Surroundings::default()
        };
        let dependencies = PythonDependencies {
            packages: packages(&dir),
            logs: Arc::new(Nowhere),
            open_environment: Arc::new(|_, _| Ok(BTreeMap::new())),
            confinement: Arc::new(
                Confinement::new(ConfinementConfig::default(), surroundings).unwrap(),
            ),
            runtime_dir: dir.path().join("run"),
        };
        let urn: FunctionUrn = "sn:cn:yrk:default:function:0@svc@hello".parse().unwrap();
        let spec = FunctionSpec {
            id: FunctionId::from_urn(urn),
            kind: Kind::Faas,
            generation: Generation("1".into()),
            runtime: Runtime::from_name(runtime),
            handler: "main.handler".to_owned(),
            initializer: None,
            pre_stop: None,
            timeout: Duration::from_secs(30),
            resources: Resources {
                cpu: CpuMillis(500),
                memory: MemoryMib(128),
                custom: Vec::new(),
            },
            concurrency: NonZeroU32::new(100).unwrap(),
            scale: Scale { min: 0, max: 10 },
            labels: Vec::new(),
            idle: None,
            pool: bugle_types::pool::PoolChoice::default(),
            code: CodeLocation::Local(code.to_str().unwrap().to_owned()),
            environment: SealedEnvironment::default(),
        };
        let driver = PythonDriver::new(Config::default(), dependencies).unwrap();
        Self {
            driver,
            spec,
            _dir: dir,
        }
    }

    async fn start(&self, handler: &str, number: u64) -> (Arc<dyn Instance>, StartPhases) {
        let mut spec = self.spec.clone();
        handler.clone_into(&mut spec.handler);
        let request = StartRequest {
            id: InstanceId(u128::from(number)),
            resources: spec.resources.clone(),
            spec: Arc::new(spec),
            label: None,
        };
        let started = Driver::start(&self.driver, request).await.unwrap();
        (started.instance, started.phases)
    }
}

async fn call(instance: &dyn Instance) {
    let request = CallRequest {
        request: "0123456789abcdef0123456789abcdef".into(),
        body: Bytes::from_static(BODY),
        meta: Bytes::from_static(br#"{"headers": {}}"#),
        json: true,
        timeout: Duration::from_secs(30),
        stream: None,
    };
    let reply = instance.call(request).await.unwrap();
    assert!(matches!(reply.body, ReplyBody::Json(_)));
}

fn packages(dir: &tempfile::TempDir) -> Packages {
    let foundation = Foundation {
        roots: CodeRoots::new(&[dir.path().to_owned()]).unwrap(),
        cache: dir.path().join("cache"),
        uploads: dir.path().join("uploads"),
        addresses: bugle_artifacts::address::Config::default(),
        environment: Vec::new(),
    };
    Packages::open(bugle_artifacts::Config::default(), foundation).unwrap()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

fn show(what: &str, times: &Histogram<u64>) {
    println!(
        "{what}: p50 {} p90 {} p99 {} max {} µs of {}",
        times.value_at_quantile(0.5),
        times.value_at_quantile(0.9),
        times.value_at_quantile(0.99),
        times.max(),
        times.len(),
    );
}

/// From the request for an instance to the reply to its first call.
async fn cold(bench: &Bench) {
    for pause in [Duration::from_millis(20), Duration::ZERO] {
        let mut all = Histogram::<u64>::new(3).unwrap();
        let mut phases = [(); 3].map(|()| Histogram::<u64>::new(3).unwrap());
        for number in 0..300 {
            let began = Instant::now();
            let (instance, started) = bench.start("main.handler", number).await;
            call(&*instance).await;
            all.record(micros(began.elapsed())).unwrap();
            phases[0].record(micros(started.process)).unwrap();
            phases[1].record(micros(started.load)).unwrap();
            instance.kill();
            instance.exited().await;
            tokio::time::sleep(pause).await;
        }
        show(&format!("cold start to first reply, {pause:?} apart"), &all);
        show("  process", &phases[0]);
        show("  load", &phases[1]);
    }
    let began = Instant::now();
    let count = 200;
    let starts = (0..count).map(|number| bench.start("main.handler", number));
    let instances: Vec<_> = futures_util::stream::iter(starts)
        .buffer_unordered(8)
        .collect()
        .await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "starts 8 at once: {:.0} per second",
        f64::from(200) / seconds
    );
    for (instance, _) in instances {
        instance.kill();
        instance.exited().await;
    }
}

async fn warm(bench: &Bench) {
    for handler in [
        "main.handler",
        "main.printing",
        "main.coroutine",
        "main.waiting",
    ] {
        let (instance, _) = bench.start(handler, 1).await;
        for in_flight in [1_u32, 16, 64] {
            let mut times = Histogram::<u64>::new(3).unwrap();
            let mut waiting = FuturesUnordered::new();
            let one = || async {
                let began = Instant::now();
                call(&*instance).await;
                began.elapsed()
            };
            for _ in 0..in_flight {
                waiting.push(one());
            }
            let (began, length) = (Instant::now(), Duration::from_secs(2));
            while began.elapsed() < length {
                times.record(micros(waiting.next().await.unwrap())).unwrap();
                waiting.push(one());
            }
            let seconds = began.elapsed().as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = times.len() as f64 / seconds;
            show(
                &format!("{handler}, {in_flight} in flight: {rate:.0} calls/s"),
                &times,
            );
            while waiting.next().await.is_some() {}
        }
        instance.kill();
    }
}

async fn memory(bench: &Bench) {
    let mut instances = Vec::new();
    for number in 0..100 {
        let (instance, _) = bench.start("main.handler", number).await;
        call(&*instance).await;
        instances.push(instance);
    }
    let parent = std::fs::read_to_string(format!("/proc/{}/stat", instances[0].pid().unwrap()));
    let parent: u32 = parent
        .unwrap()
        .rsplit(')')
        .next()
        .unwrap()
        .split(' ')
        .nth(2)
        .unwrap()
        .parse()
        .unwrap();
    let mut totals = BTreeMap::<String, u64>::new();
    for instance in &instances {
        for (name, value) in rollup(instance.pid().unwrap()) {
            *totals.entry(name).or_default() += value;
        }
    }
    for name in ["Pss", "Private_Dirty", "Rss"] {
        println!(
            "{name} of an idle instance, mean of 100: {} kB",
            totals[name] / 100
        );
    }
    println!("parent: {:?}", rollup(parent).get("Pss"));
    println!("platform: {:?}", rollup(std::process::id()).get("Rss"));
}

fn rollup(pid: u32) -> BTreeMap<String, u64> {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("smaps_rollup");
    let text = std::fs::read_to_string(path).unwrap();
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.strip_suffix(':')?.to_owned();
        Some((name, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = arguments
        .iter()
        .find(|a| a.starts_with("python"))
        .map_or("python3.11", |a| a);
    let wanted = |what: &str| {
        arguments.iter().all(|a| a.starts_with("python")) || arguments.iter().any(|a| a == what)
    };
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let bench = Bench::new(runtime);
        let (first, _) = bench.start("main.handler", 0).await;
        first.kill();
        println!("{runtime}");
        if wanted("cold") {
            cold(&bench).await;
        }
        if wanted("warm") {
            warm(&bench).await;
        }
        if wanted("memory") {
            memory(&bench).await;
        }
    });
}
