//! One request over one connection.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Error;

/// The address of a listener of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `host:port`.
    authority: String,
}

impl FromStr for Base {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let authority = text
            .strip_prefix("http://")
            .unwrap_or(text)
            .trim_end_matches('/');
        let port = authority
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() || authority.contains('/') {
            return Err(Error::Address {
                text: text.to_owned(),
            });
        }
        Ok(Self {
            authority: authority.to_owned(),
        })
    }
}

impl Base {
    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path with the query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long the answer may take to begin.
    pub limit: Duration,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    base: String,
}

impl Base {
    /// Sends a request and waits for the beginning of its answer.
    ///
    /// # Errors
    ///
    /// [`Error`]; a status of failure is an answer, not an error.
    pub async fn send(&self, call: Call) -> Result<Answer, Error> {
        let body = Full::new(call.body.clone());
        self.send_body(call, body).await
    }

    /// The same with another body than the request's own; its length is among the headers.
    pub(crate) async fn send_body<B>(&self, call: Call, body: B) -> Result<Answer, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = call.limit;
        let sent = tokio::time::timeout(limit, self.exchange(call, body)).await;
        sent.unwrap_or_else(|_| {
            Err(Error::Timeout {
                base: self.to_string(),
                limit,
            })
        })
    }

    async fn exchange<B>(&self, call: Call, body: B) -> Result<Answer, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let base = self.to_string();
        let broken = |source| Error::Broken {
            base: self.to_string(),
            source,
        };
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|source| Error::Connect {
                base: base.clone(),
                source,
            })?;
        // A socket that is gone already fails below.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // It ends with the request and its answer; their errors are reported there.
        tokio::spawn(async move { connection.await.is_ok() });
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(http::header::HOST, &self.authority)
            .body(body)
            .map_err(Error::Request)?;
        request.headers_mut().extend(call.headers);
        let response = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
            base,
        })
    }
}

impl Answer {
    /// The next piece of the body; none at its end. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] when the body ends before it is complete.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|source| Error::Broken {
                base: self.base.clone(),
                source,
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] when the body ends before it is complete.
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_port_and_nothing_else() {
        for good in [
            "http://127.0.0.1:31182",
            "localhost:80",
            "http://[::1]:8888/",
        ] {
            assert!(good.parse::<Base>().is_ok(), "{good}");
        }
        for bad in ["", "http://localhost", "https://h:1/x", "h:99999"] {
            assert!(bad.parse::<Base>().is_err(), "{bad}");
        }
    }
}
