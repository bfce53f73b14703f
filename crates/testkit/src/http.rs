//! A small HTTP client that hides nothing: one connection a request, every status an answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// No answer takes longer in any test; what hangs shows up as an error, not as a stuck run.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// One of the platform's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer whose body is read as it comes. Dropping it closes the connection.
#[derive(Debug)]
pub struct Streaming {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    connection: JoinHandle<()>,
}

impl Endpoint {
    /// `http://address/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    /// Sends `DELETE path`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    /// Sends `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Sends `PUT path` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let text = body.map_or_else(String::new, Value::to_string);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Bytes::from(text))
            .expect("paths of tests are well formed");
        self.send(request).await.expect("the platform answers")
    }

    /// Sends a request whose URI is a path, and reads the whole answer.
    ///
    /// # Errors
    /// When the connection is refused or breaks, or after two minutes: what happened, in words.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer, String> {
        let what = format!("{} {}", request.method(), request.uri());
        let whole = async { self.open(request).await?.rest().await };
        match tokio::time::timeout(LONGEST_WAIT, whole).await {
            Ok(answer) => answer.map_err(|error| format!("{what}: {error}")),
            Err(_) => Err(format!("{what}: no answer in {LONGEST_WAIT:?}")),
        }
    }

    /// Sends a request whose URI is a path, and returns when the headers of the answer are there.
    ///
    /// # Errors
    /// When the connection is refused or breaks: what happened, in words.
    pub async fn open(&self, request: Request<Bytes>) -> Result<Streaming, String> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| format!("cannot connect to {}: {error}", self.address))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("no handshake: {error}"))?;
        // Its error reaches the request as well.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let (mut parts, body) = request.into_parts();
        parts.headers.entry("host").or_insert_with(|| {
            self.address
                .to_string()
                .parse()
                .expect("an address is a header")
        });
        let answer = sender
            .send_request(Request::from_parts(parts, Full::new(body)))
            .await
            .map_err(|error| format!("no answer: {error}"))?;
        let (parts, body): (http::response::Parts, Incoming) = Response::into_parts(answer);
        Ok(Streaming {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            connection,
        })
    }
}

impl Streaming {
    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| format!("the body broke off: {error}"))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads the body until `text` has come, and returns all of it so far.
    ///
    /// # Errors
    /// When the body ends or breaks off before.
    pub async fn until(&mut self, text: &str) -> Result<String, String> {
        let mut seen = Vec::new();
        loop {
            let data = self.next().await?;
            seen.extend_from_slice(data.as_deref().unwrap_or_default());
            let so_far = String::from_utf8_lossy(&seen);
            if so_far.contains(text) {
                return Ok(so_far.into_owned());
            }
            if data.is_none() {
                return Err(format!("the body ended without {text:?}: {so_far}"));
            }
        }
    }

    async fn rest(mut self) -> Result<Answer, String> {
        let mut body = Vec::new();
        while let Some(data) = self.next().await? {
            body.extend_from_slice(&data);
        }
        Ok(Answer {
            status: self.status,
            headers: std::mem::take(&mut self.headers),
            body: body.into(),
        })
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Answer {
    /// The answer itself, if it has this status.
    ///
    /// # Panics
    /// When it has another one.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the answer was: {}", self.text());
        self
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    #[expect(clippy::panic, reason = "an answer of another kind fails the test")]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in the answer {} {:?}", self.status, self.text()),
        }
    }

    /// A header, empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }
}
