//! A call as people type it: which function, with which event and headers.

use std::time::Duration;

use bugle_client::Call;
use bytes::Bytes;
use clap::Args;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use serde::de::IgnoredAny;
use tokio::io::AsyncReadExt as _;

use crate::failure::{Failure, Outcome};
use crate::names;
use crate::session::Session;

/// The event of a call that has none.
const NOTHING: &str = "{}";

/// Options of all commands that call a function.
#[derive(Args, Debug, Default)]
pub(crate) struct Event {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// The event: JSON, @FILE, or - for standard input; `{}` when it is missing.
    #[arg(value_name = "EVENT")]
    typed: Option<String>,
    /// The event, as an option.
    #[arg(short, long, value_name = "EVENT", conflicts_with = "typed")]
    data: Option<String>,
    /// A header of the call, `name: value`; may be given more than once.
    #[arg(short = 'H', long, value_name = "HEADER")]
    header: Vec<String>,
    /// The version; the draft when it is missing.
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,
}

impl Event {
    /// An event for the draft of a function, or none.
    pub(crate) fn new(name: &str, event: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            typed: event.map(str::to_owned),
            ..Self::default()
        }
    }

    fn text(&self) -> &str {
        let typed = self.typed.as_deref().or(self.data.as_deref());
        typed.unwrap_or(NOTHING)
    }

    /// The call with the event as it was typed, or as it lies where it was said to.
    pub(crate) async fn call(&self, session: &Session, limit: Duration) -> Outcome<Call> {
        let body = read(self.text()).await?;
        self.request(session, body, limit)
    }

    /// The call with the event as it was typed.
    pub(crate) fn literal(&self, session: &Session, limit: Duration) -> Outcome<Call> {
        self.request(session, self.text().to_owned().into(), limit)
    }

    /// The call for `--curl`, and what is left to curl to read: a file, or standard input.
    pub(crate) fn shown(
        &self,
        session: &Session,
        limit: Duration,
    ) -> Outcome<(Call, Option<&str>)> {
        let elsewhere = match self.text() {
            "-" => Some("@-"),
            event => Some(event).filter(|event| event.starts_with('@')),
        };
        let call = if elsewhere.is_some() {
            self.request(session, Bytes::new(), limit)?
        } else {
            self.literal(session, limit)?
        };
        Ok((call, elsewhere))
    }

    fn request(&self, session: &Session, body: Bytes, limit: Duration) -> Outcome<Call> {
        let mut headers = HeaderMap::new();
        for header in &self.header {
            let wrong = || Failure::usage(format!("-H {header:?}: `name: value` is expected"));
            let (name, value) = header.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            headers.insert(name, value.trim().parse().map_err(|_| wrong())?);
        }
        if !headers.contains_key(CONTENT_TYPE) {
            check_json(&body)?;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let urn = names::urn(&self.name, &session.tenant, self.version.as_deref());
        Ok(Call {
            method: Method::POST,
            path: bugle_client::invocation_path(&urn),
            headers,
            body,
            limit,
        })
    }
}

/// An event without a type is JSON, and what is not would reach the function as raw bytes.
fn check_json(body: &[u8]) -> Outcome {
    if body.is_empty() {
        return Ok(());
    }
    serde_json::from_slice::<IgnoredAny>(body)
        .map(drop)
        .map_err(|error| {
            Failure::usage(format!("the event is not JSON: {error}")).hint(
                "-H 'content-type: …' sends it as it is, for instance as text/plain or image/png",
            )
        })
}

async fn read(event: &str) -> Outcome<Bytes> {
    if event == "-" {
        let mut whole = Vec::new();
        let read = tokio::io::stdin().read_to_end(&mut whole).await;
        read.map_err(|error| Failure::usage(format!("standard input: {error}")))?;
        return Ok(whole.into());
    }
    match event.strip_prefix('@') {
        Some(path) => tokio::fs::read(path)
            .await
            .map(Bytes::from)
            .map_err(|error| Failure::file(path.as_ref(), &error)),
        None => Ok(event.to_owned().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_needs_a_type() {
        for good in ["", "{}", " \"text\"\n", "[1, 2]"] {
            assert!(check_json(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["{", "text", "{} {}", "\u{1}"] {
            assert!(check_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
