//! The load generator: keep-alive HTTP/1.1 connections in one thread.
//!
//! Closed loop for throughput: each connection sends its next request when it has its answer. One
//! generator serves every contender, so that its own cost is the same on both sides of a ratio.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a round saw.
#[derive(Debug)]
pub(crate) struct Round {
    /// Answers with a 2xx status.
    pub(crate) answers: u64,
    /// Answers with another status, which count for nothing else.
    pub(crate) refused: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Latencies in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
}

impl Round {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let answers = self.answers as f64;
        answers / self.elapsed.as_secs_f64()
    }

    /// The round, if all of it was answered with 2xx.
    pub(crate) fn whole(self) -> anyhow::Result<Self> {
        let refused = self.refused;
        ensure!(
            refused == 0,
            "{refused} requests were answered with an error"
        );
        Ok(self)
    }

    /// A latency quantile in milliseconds.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "latencies stay far below 2^52 ns"
        )]
        let nanos = self.latencies.value_at_quantile(quantile) as f64;
        nanos / 1e6
    }
}

/// Until when a round goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// For this long.
    Elapsed(Duration),
    /// Until this many requests were sent over all connections.
    Sent(u64),
}

/// Sends requests over `connections` connections. `request` makes the bytes of the request with this
/// number; the numbers count from 0 over all connections.
pub(crate) fn closed_loop(
    address: SocketAddr,
    connections: usize,
    until: Until,
    request: impl Fn(u64) -> Vec<u8> + 'static,
) -> anyhow::Result<Round> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(address).await?);
        }
        let shared = Rc::new(Shared {
            next: 0.into(),
            until,
            begin: Instant::now(),
            request,
        });
        let mut tasks = Vec::new();
        for connection in open {
            tasks.push(tokio::task::spawn_local(drive(
                connection,
                Rc::clone(&shared),
            )));
        }
        let mut latencies = Histogram::new(3)?;
        let mut refused = 0;
        for task in tasks {
            let (answered, not) = task.await??;
            latencies.add(answered)?;
            refused += not;
        }
        let elapsed = shared.begin.elapsed();
        Ok(Round {
            answers: latencies.len(),
            refused,
            elapsed,
            latencies,
        })
    })
}

struct Shared<F> {
    next: std::cell::Cell<u64>,
    until: Until,
    begin: Instant,
    request: F,
}

impl<F> Shared<F> {
    fn next(&self) -> Option<u64> {
        let number = self.next.get();
        self.next.set(number + 1);
        match self.until {
            Until::Elapsed(limit) => (self.begin.elapsed() < limit).then_some(number),
            Until::Sent(limit) => (number < limit).then_some(number),
        }
    }
}

async fn drive<F: Fn(u64) -> Vec<u8>>(
    mut connection: Connection,
    shared: Rc<Shared<F>>,
) -> anyhow::Result<(Histogram<u64>, u64)> {
    let mut latencies = Histogram::new(3)?;
    let mut refused = 0;
    while let Some(number) = shared.next() {
        let request = (shared.request)(number);
        let sent = Instant::now();
        let (status, _) = connection.exchange(&request).await?;
        if (200..300).contains(&status) {
            latencies.record(u64::try_from(sent.elapsed().as_nanos())?)?;
        } else {
            refused += 1;
        }
    }
    Ok((latencies, refused))
}

/// One request with its answer on a connection of its own: status and body.
pub(crate) fn once(address: SocketAddr, request: &[u8]) -> anyhow::Result<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(address).await?;
        let (status, length) = connection.exchange(request).await?;
        let body = connection.last_body(length);
        Ok((status, String::from_utf8_lossy(body).into_owned()))
    })
}

/// The head of the answer to one request.
pub(crate) fn head(address: SocketAddr, request: &[u8]) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(address).await?;
        let (status, length) = connection.exchange(request).await?;
        ensure!((200..300).contains(&status), "answered with {status}");
        let head = &connection.buffer[..connection.buffer.len() - length];
        Ok(String::from_utf8_lossy(head).into_owned())
    })
}

/// A POST with a JSON body, or a GET without one.
pub(crate) fn request(address: SocketAddr, path: &str, body: Option<&str>) -> Vec<u8> {
    match body {
        Some(body) => format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ),
        None => format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n"),
    }
    .into_bytes()
}

/// A keep-alive connection.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer larger than this is not one of ours.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// Sends `request` and reads the whole answer; its status and the length of its body.
    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(u16, usize)> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
            self.read_more().await?;
        };
        while self.buffer.len() < head.length + head.body {
            self.read_more().await?;
        }
        Ok((head.status, head.body))
    }

    fn last_body(&self, length: usize) -> &[u8] {
        &self.buffer[self.buffer.len() - length..]
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.buffer.len() < LARGEST_ANSWER,
            "the answer is too large"
        );
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed before the answer was complete");
        }
        Ok(())
    }
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The status.
    pub(crate) status: u16,
    /// Bytes up to and with the empty line.
    pub(crate) length: usize,
    /// Bytes behind it.
    pub(crate) body: usize,
}

/// The head at the beginning of `bytes`, once it is complete.
pub(crate) fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let length = end + 4;
    let text = std::str::from_utf8(&bytes[..length])?;
    let status = text
        .get(9..12)
        .context("a status line is missing")?
        .parse()?;
    let body = content_length(text)?;
    Ok(Some(Head {
        status,
        length,
        body,
    }))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

fn content_length(head: &str) -> anyhow::Result<usize> {
    for line in head.split("\r\n") {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(value.trim().parse()?);
        }
    }
    bail!("the answer has no content-length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_once_it_is_complete() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Len").unwrap(), None);
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nabc";
        let head = Head {
            status: 404,
            length: 45,
            body: 5,
        };
        assert_eq!(parse_head(answer).unwrap(), Some(head));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
