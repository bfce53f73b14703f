//! How much the gateway adds to bare HTTP: calls per second and latency of the front alone, over
//! instances that answer at once, beside a bare hyper server that answers the same bytes.
//!
//! `cargo run --release -p bugle-gateway --example measure [seconds per row]`
//!
//! Both servers run on one thread each and the clients on another, with rows alternating between the
//! two, so that the ratio of two rows says more than either of them.

#![expect(clippy::print_stdout, reason = "printing figures is what it is for")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bugle_gateway::{Config, Gateway, Metrics};
use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, Instance, InstanceId, Reply,
    ReplyBody, StartError, StartPhases, StartRequest, Started,
};
use bugle_scheduler::Scheduler;
use bugle_types::{
    CodeLocation, CpuMillis, FunctionId, FunctionSpec, Generation, Kind, MemoryMib, PythonVersion,
    Resources, Runtime, Scale, SealedEnvironment, TenantId, Version,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

const RESULT: &[u8] = br#"{"ok": true}"#;

const PATH: &str =
    "/serverless/v1/functions/sn:cn:yrk:default:function:0@svc@hello:latest/invocations";

const BODY: &str =
    r#"{"name": "somebody", "items": [1, 2, 3, 4, 5, 6], "text": "a quick brown fox"}"#;

fn request() -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:8888\r\nuser-agent: measure\r\naccept: */*\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(3));
    let gateway = serve(|listener| async move { platform().run(vec![listener], never()).await });
    let bare = serve(bare);
    println!("connections  server   calls/s    p50 µs    p99 µs");
    for connections in [1, 16, 64] {
        for (name, address) in [("bare", bare), ("gateway", gateway)] {
            let row = measure(address, connections, time);
            println!(
                "{connections:>11}  {name:<7} {:>8.0}  {:>8.1}  {:>8.1}",
                row.per_second, row.p50, row.p99
            );
        }
    }
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Runs a server on a thread of its own, as the data plane does.
fn serve<F>(run: impl FnOnce(TcpListener) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()>,
{
    let (tell, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("an address"))
                .expect("main waits");
            run(listener).await;
        });
    });
    address.recv().expect("the server binds")
}

async fn bare(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let service = service_fn(|request: Request<Incoming>| async {
            let body = request
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes();
            assert_eq!(body.len(), BODY.len());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(RESULT))))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

struct Row {
    per_second: f64,
    p50: f64,
    p99: f64,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures are shown with a few digits"
)]
fn measure(address: SocketAddr, connections: usize, time: Duration) -> Row {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut latencies: Vec<Duration> = runtime.block_on(async {
        let clients: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(client(address, time)))
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.expect("a client ends"));
        }
        all
    });
    latencies.sort_unstable();
    let micros = |part: usize| latencies[latencies.len() * part / 100].as_secs_f64() * 1e6;
    Row {
        per_second: latencies.len() as f64 / time.as_secs_f64(),
        p50: micros(50),
        p99: micros(99),
    }
}

async fn client(address: SocketAddr, time: Duration) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let request = request();
    let mut latencies = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let end = Instant::now() + time;
    loop {
        let sent = Instant::now();
        if sent >= end {
            return latencies;
        }
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a server");
        let mut read = 0;
        while !buffer[..read].ends_with(RESULT) {
            let bytes = stream.read(&mut buffer[read..]).await.expect("a server");
            assert_ne!(
                bytes,
                0,
                "closed after {:?}",
                String::from_utf8_lossy(&buffer[..read])
            );
            read += bytes;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200 "));
        latencies.push(sent.elapsed());
    }
}

fn platform() -> Gateway {
    let config = bugle_scheduler::Config::default();
    let scheduler = Scheduler::new(
        config,
        Arc::new(Instantly),
        bugle_scheduler::Metrics::default(),
    );
    scheduler.upsert(spec());
    let metrics = Metrics::register(&mut Registry::default());
    Gateway::new(
        Config::default(),
        scheduler,
        metrics,
        Arc::new(|_| Box::pin(async {})),
    )
}

fn spec() -> FunctionSpec {
    FunctionSpec {
        id: FunctionId {
            tenant: TenantId::default(),
            product: None,
            name: "0@svc@hello".parse().expect("a name"),
            version: Version::Draft,
        },
        kind: Kind::Faas,
        generation: Generation("1".into()),
        runtime: Runtime::Python(PythonVersion(11)),
        handler: "main.handler".to_owned(),
        initializer: None,
        pre_stop: None,
        timeout: Duration::from_secs(30),
        resources: Resources {
            cpu: CpuMillis(500),
            memory: MemoryMib(128),
            custom: Vec::new(),
        },
        concurrency: NonZeroU32::new(100).expect("not zero"),
        scale: Scale { min: 0, max: 1 },
        labels: Vec::new(),
        idle: None,
        pool: bugle_types::pool::PoolChoice::default(),
        code: CodeLocation::None,
        environment: SealedEnvironment::default(),
    }
}

/// Starts instances whose calls take one turn of the runtime, as those of a process do.
struct Instantly;

impl Driver for Instantly {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(async move {
            Ok(Started {
                instance: Arc::new(Echo(request.id)),
                phases: StartPhases::default(),
            })
        })
    }
}

#[derive(Debug)]
struct Echo(InstanceId);

impl Instance for Echo {
    fn id(&self) -> InstanceId {
        self.0
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn call(&self, _request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async {
            Ok(Reply {
                body: ReplyBody::Json(Bytes::from_static(RESULT)),
                run: Duration::from_micros(12),
                peak_memory: 9 << 20,
                log_tail: Vec::new(),
            })
        })
    }

    fn stop(&self, _grace: Duration) -> BoxFuture<'_, Exit> {
        self.exited()
    }

    fn kill(&self) {}

    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(async {
            std::future::pending::<()>().await;
            Exit {
                cause: ExitCause::Stopped,
                peak_memory: 0,
            }
        })
    }
}
