//! How many registrations a second a store in etcd takes, beside plain puts of as many bytes by a
//! client that does nothing else; and how long a start takes and what it holds with many functions.
//!
//! Needs an etcd of its own, which it fills:
//! `cargo run --release -p bugle-store --example etcd_rates -- http://127.0.0.1:2379 [CLIENTS] [SECONDS] [FUNCTIONS]`
//!
//! With `--plain` as its first argument it measures plain puts alone, and prints them as JSON.
#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bugle_store::{Compare, Config, EtcdConfig, EtcdStore, Metrics, Op, Revision, Store, Txn};
use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// About what the record, the published value, the bounds and the status of a function take.
const SIZES: [(&str, usize); 4] = [
    ("/repo/FunctionVersion/yrk/default//", 840),
    ("/sn/functions/business/yrk/tenant/default/function/", 2720),
    (
        "/instances/business/yrk/cluster/cluster001/tenant/default/function/",
        190,
    ),
    ("/repo/FunctionStatus/yrk/default//", 40),
];

/// A value like many others, but for a part.
fn value(number: u64, size: usize) -> String {
    let fields = "\"a_field_of_a_function\":\"\",";
    let mut text = format!("{{\"name\":\"0@svc@f{number}\",\"revisionId\":\"{number:020}\",");
    while text.len() < size {
        text.push_str(fields);
    }
    text.truncate(size);
    text
}

/// What a registration writes: under the condition that there is no such function.
fn registration(number: u64) -> Txn {
    let key = |root: &str| format!("{root}0@svc@f{number:07}/version/latest");
    let then = SIZES.map(|(root, size)| Op::Put(key(root).into(), value(number, size).into()));
    let absent = Compare::ModRevision(key(SIZES[0].0).into(), Revision(0));
    Txn {
        when: vec![absent],
        then: then.to_vec(),
    }
}

/// A put, as etcd takes it.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What matters of the answer: that it comes.
#[derive(Clone, PartialEq, prost::Message)]
struct Done {}

async fn plain_put(etcd: Channel, number: u64) -> Result<(), Failure> {
    let size = SIZES.iter().map(|(_, size)| size).sum();
    let put = Put {
        key: format!("/plain/{number:07}").into(),
        value: value(number, size).into(),
    };
    let mut etcd = Grpc::new(etcd);
    etcd.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<Put, Done>::default();
    etcd.unary(tonic::Request::new(put), path, codec).await?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).peekable();
    let only_plain = arguments.next_if_eq("--plain").is_some();
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let config = EtcdConfig {
        endpoints: vec![next("http://127.0.0.1:2379")],
        ..EtcdConfig::default()
    };
    let (clients, seconds) = (next("16").parse()?, next("5").parse()?);
    let functions = next("0").parse()?;
    let length = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let numbers = Arc::new(AtomicU64::new(0));
    for round in 1..=3 {
        // Neither is there while the other is measured.
        let address = config.endpoints.concat();
        let plain = runtime.block_on(async {
            let etcd = Endpoint::from_shared(address)?.connect().await?;
            let put = move |number| plain_put(etcd.clone(), number);
            rate(clients, length, &numbers, put).await
        })?;
        if only_plain {
            println!(r#"{{"name":"etcd_plain_puts_per_s","value":{plain:.1}}}"#);
            return Ok(());
        }
        let store = open(&config)?;
        let register = move |number| {
            let store = Arc::clone(&store);
            async move {
                store.txn(registration(number)).await?;
                Ok(())
            }
        };
        let ours = runtime.block_on(rate(clients, length, &numbers, register))?;
        let ratio = ours / plain;
        println!(
            "round {round}, {clients} clients: {plain:.0} plain puts a second, {ours:.0} registrations, ratio {ratio:.2}"
        );
    }
    if functions > 0 {
        let store = open(&config)?;
        runtime.block_on(fill(&store, functions))?;
    }
    let before = resident()?;
    let begun = Instant::now();
    let store = open(&config)?;
    let opened = begun.elapsed();
    let after = resident()?;
    let revision = runtime.block_on(store.revision())?;
    println!("opened at revision {} in {opened:?}", revision.0);
    println!("resident: {before} KiB before, {after} KiB after");
    Ok(())
}

fn open(config: &EtcdConfig) -> Result<Arc<EtcdStore>, Failure> {
    let store = EtcdStore::open(config, &Config::default(), Metrics::default())?;
    Ok(Arc::new(store))
}

/// How often a second `clients` that do one thing after the other do it together.
async fn rate<F>(
    clients: usize,
    length: Duration,
    numbers: &Arc<AtomicU64>,
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<f64, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (work, numbers) = (work.clone(), Arc::clone(numbers));
        tasks.spawn(async move {
            let mut done = 0_u32;
            while begun.elapsed() < length {
                work(numbers.fetch_add(1, Ordering::Relaxed)).await?;
                done += 1;
            }
            Ok::<_, Failure>(done)
        });
    }
    let mut done = 0.0;
    while let Some(ended) = tasks.join_next().await {
        done += f64::from(ended??);
    }
    Ok(done / begun.elapsed().as_secs_f64())
}

/// Registers as many functions, sixteen in each transaction.
async fn fill(store: &Arc<EtcdStore>, functions: u64) -> Result<(), Failure> {
    const BEGIN: u64 = 1_000_000;
    const TOGETHER: u64 = 16;
    let mut tasks = JoinSet::new();
    for first in (BEGIN..BEGIN + functions).step_by(16) {
        let then = (first..first + TOGETHER).flat_map(|number| registration(number).then);
        let txn = Txn {
            when: Vec::new(),
            then: then.collect(),
        };
        let store = Arc::clone(store);
        tasks.spawn(async move { store.txn(txn).await });
        if tasks.len() >= 64
            && let Some(ended) = tasks.join_next().await
        {
            ended??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// What this process holds in memory, in KiB.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.unwrap_or("0").parse()?)
}
