//! A store that behaves as it is told, above all badly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What it does with a request for an object. The number says how many there were before.
pub(crate) enum Deed {
    /// Sends all that was asked for.
    Whole,
    /// Sends so much of it and breaks the connection.
    Break(usize),
    /// Sends so much of it and nothing more.
    Stall(usize),
    /// Announces so many bytes more, or fewer, than it sends.
    Lie(i64),
    /// Sends this head and no body.
    Head(String),
    /// Waits until it is let go, and sends all.
    Wait(Arc<Semaphore>),
}

type Behave = dyn Fn(usize) -> (Deed, Arc<Vec<u8>>) + Send + Sync;

/// The store.
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Liar {
    /// One that does what `behave` says, with the object that it says.
    pub(crate) async fn start(
        behave: impl Fn(usize) -> (Deed, Arc<Vec<u8>>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, behave): (_, Arc<Behave>) = (Arc::clone(&requests), Arc::new(behave));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&count), Arc::clone(&behave)));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, count: Arc<AtomicUsize>, behave: Arc<Behave>) {
    while let Some(head) = read_head(&mut stream).await {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let (deed, object) = behave(number);
        if answer(&mut stream, &head, deed, &object).await.is_err() {
            return;
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn answer(
    stream: &mut TcpStream,
    head: &str,
    deed: Deed,
    object: &[u8],
) -> std::io::Result<()> {
    let from = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("range: bytes=")
                .map(str::to_owned)
        })
        .and_then(|range| {
            range
                .split_once('-')
                .map(|(from, _)| from.parse::<usize>().unwrap())
        });
    let body = &object[from.unwrap_or(0)..];
    let (status, range) = match from {
        Some(from) => {
            let (last, all) = (object.len() - 1, object.len());
            (
                "206 Partial Content",
                format!("content-range: bytes {from}-{last}/{all}\r\n"),
            )
        }
        None => ("200 OK", String::new()),
    };
    // The entity's tag is another one for other bytes.
    let tag = object.iter().fold(0_u64, |tag, byte| {
        tag.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let announced = match deed {
        Deed::Lie(more) => body
            .len()
            .saturating_add_signed(isize::try_from(more).unwrap()),
        _ => body.len(),
    };
    let whole = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {announced}\r\netag: \"{tag}\"\r\n\
         last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n{range}\r\n"
    );
    let broken = || Err(std::io::ErrorKind::ConnectionAborted.into());
    match deed {
        Deed::Head(head) => stream.write_all(head.as_bytes()).await,
        Deed::Whole => {
            stream.write_all(whole.as_bytes()).await?;
            stream.write_all(body).await
        }
        Deed::Lie(_) => {
            stream.write_all(whole.as_bytes()).await?;
            stream.write_all(body).await?;
            broken()
        }
        Deed::Wait(gate) => {
            gate.acquire().await.unwrap().forget();
            stream.write_all(whole.as_bytes()).await?;
            stream.write_all(body).await
        }
        Deed::Break(bytes) => {
            stream.write_all(whole.as_bytes()).await?;
            stream.write_all(&body[..bytes.min(body.len())]).await?;
            stream.flush().await?;
            broken()
        }
        Deed::Stall(bytes) => {
            stream.write_all(whole.as_bytes()).await?;
            stream.write_all(&body[..bytes.min(body.len())]).await?;
            std::future::pending().await
        }
    }
}
