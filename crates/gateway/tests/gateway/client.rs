//! A client that sends exactly the bytes a test writes, and reads answers with as little magic.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer of a test takes longer, on a machine however slow.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Status and inner code, which most tests are about.
    pub(crate) fn verdict(&self) -> (u16, &str) {
        (self.status, self.header("x-inner-code"))
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            unread: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a call of the function that [`crate::platform::spec`] registers.
    pub(crate) async fn call(&mut self, headers: &[&str], body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let mut request = b"POST /invocations/default/svc/hello/ HTTP/1.1\r\nhost: x\r\n".to_vec();
        for header in headers {
            request.extend_from_slice(header.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
        self.send(request).await;
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        let (status, headers) = self.head().await;
        let body = if headers
            .get("transfer-encoding")
            .is_some_and(|v| v == "chunked")
        {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().await {
                body.extend_from_slice(&chunk);
            }
            body
        } else {
            let length = headers
                .get("content-length")
                .map_or(0, |v| v.parse().unwrap());
            self.take(length).await
        };
        Answer {
            status,
            headers,
            body,
        }
    }

    pub(crate) async fn head(&mut self) -> (u16, BTreeMap<String, String>) {
        let head = self.take_until("\r\n\r\n").await;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        (status.parse().unwrap(), headers)
    }

    /// The next chunk of a chunked body; none is its end.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.take_until("\r\n").await;
        let size = usize::from_str_radix(&size, 16).unwrap();
        let chunk = self.take(size).await;
        assert_eq!(self.take(2).await, b"\r\n");
        (size > 0).then_some(chunk)
    }

    /// Whether the server has closed the connection; waits until it has or has sent something.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && self.fill().await == 0
    }

    /// Forgets what has been read so far, and says how much that was.
    pub(crate) fn unread(&mut self) -> usize {
        std::mem::take(&mut self.unread).len()
    }

    async fn take_until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let text = String::from_utf8(self.unread[..at].to_vec()).unwrap();
                self.unread.drain(..at + end.len());
                return text;
            }
            let read = self.fill().await;
            assert_ne!(read, 0, "closed; unread: {:?}", self.unread);
        }
    }

    async fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.unread.len() < bytes {
            let read = self.fill().await;
            assert_ne!(read, 0, "closed; unread: {:?}", self.unread);
        }
        self.unread.drain(..bytes).collect()
    }

    async fn fill(&mut self) -> usize {
        let mut buffer = [0; 8 << 10];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer));
        // A reset is how a server may close.
        let read = read.await.expect("an answer in time").unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..read]);
        read
    }
}
