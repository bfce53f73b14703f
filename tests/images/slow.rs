//! A registry with one image, whose layer stops in its middle until it is told to go on.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::writer::{Image, digest};

/// It ends with the test.
pub(crate) struct Slow {
    address: SocketAddr,
    goes_on: watch::Sender<bool>,
}

struct Held {
    manifest: Bytes,
    blobs: Vec<Bytes>,
    goes_on: watch::Receiver<bool>,
}

impl Slow {
    pub(crate) async fn start(image: &Image) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (goes_on, told) = watch::channel(false);
        let held = Arc::new(Held {
            manifest: image.manifest(),
            blobs: image.blobs(),
            goes_on: told,
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&held)));
            }
        });
        Self { address, goes_on }
    }

    pub(crate) fn go_on(&self) {
        self.goes_on.send_replace(true);
    }

    pub(crate) fn rule(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

async fn serve(mut stream: TcpStream, held: Arc<Held>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let body = match path.rsplit_once("/blobs/") {
        Some((_, wanted)) => held.blobs.iter().find(|blob| digest(blob) == wanted),
        None => Some(&held.manifest),
    };
    let body = body.unwrap();
    let length = body.len();
    let text = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    if head.starts_with("HEAD ") {
        return;
    }
    // The first blob is the layer.
    let pause = if body == &held.blobs[0] {
        length / 2
    } else {
        0
    };
    stream.write_all(&body[..pause]).await.unwrap();
    if pause > 0 {
        let mut goes_on = held.goes_on.clone();
        let _ = goes_on.wait_for(|goes_on| *goes_on).await;
    }
    // Whoever asked may have gone.
    let _ = stream.write_all(&body[pause..]).await;
    let _ = stream.shutdown().await;
}
