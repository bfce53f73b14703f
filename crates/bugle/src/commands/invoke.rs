//! `bugle invoke`: calls a function.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bugle_client::{Answer, Call};
use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::arguments::Format;
use crate::failure::{Failure, Outcome};
use crate::names;
use crate::output;
use crate::session::{EVENTS, Session};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle invoke hello '{\"name\": \"Ada\"}'
  bugle invoke hello @event.json
  cat photo.jpg | bugle invoke thumbnail - -H 'content-type: image/jpeg' > small.jpg
  bugle invoke storyteller --stream")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// The event: JSON, @FILE, or - for standard input; `{}` when it is missing.
    #[arg(value_name = "EVENT")]
    event: Option<String>,
    /// The event, as an option.
    #[arg(short, long, value_name = "EVENT", conflicts_with = "event")]
    data: Option<String>,
    /// A header of the call, `name: value`; may be given more than once.
    #[arg(short = 'H', long, value_name = "HEADER")]
    header: Vec<String>,
    /// The version; the draft when it is missing.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Asks for events and prints what the function streams as it comes.
    #[arg(long)]
    stream: bool,
    /// How long to wait for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

/// The event of a call that has none.
const NOTHING: &str = "{}";

/// The header `X-Invoke-Summary`.
#[derive(Deserialize)]
struct Summary {
    start: String,
    queue_ms: f64,
    start_ms: f64,
    run_ms: f64,
    peak_memory_mb: f64,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let event = arguments.event.as_deref().or(arguments.data.as_deref());
    if session.curl {
        return show(session, arguments, event.unwrap_or(NOTHING)).await;
    }
    let call = request(session, arguments, read(event).await?)?;
    // Asked for before the clock starts.
    session.gateway().await?;
    let begin = Instant::now();
    let progress = output::Progress::start(session.quiet, format!("calling {}", arguments.name));
    let answer = session.invoke(call).await?;
    drop(progress);
    finish(session, answer, begin).await
}

/// Calls a function with this event, for those who call without a command.
pub(crate) async fn call(session: &Session, name: &str, event: &str) -> Outcome {
    let call = event_call(session, name, Some(event))?;
    let begin = Instant::now();
    let answer = session.invoke(call).await?;
    finish(session, answer, begin).await
}

/// A call of a function with this event, or with none.
pub(crate) fn event_call(session: &Session, name: &str, event: Option<&str>) -> Outcome<Call> {
    let arguments = Arguments {
        name: name.to_owned(),
        event: None,
        data: None,
        header: Vec::new(),
        version: None,
        stream: false,
        timeout: 900,
    };
    let event = event.unwrap_or(NOTHING);
    request(session, &arguments, event.to_owned().into())
}

/// Shows the call; what would be read from a file or standard input is left to curl.
async fn show(session: &Session, arguments: &Arguments, event: &str) -> Outcome {
    let elsewhere = match event {
        "-" => Some("@-"),
        event => Some(event).filter(|event| event.starts_with('@')),
    };
    let body = if elsewhere.is_some() { "" } else { event };
    let call = request(session, arguments, Bytes::copy_from_slice(body.as_bytes()))?;
    Session::show_curl(session.gateway().await?, &call, elsewhere)
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

fn request(session: &Session, arguments: &Arguments, body: Bytes) -> Outcome<Call> {
    let mut headers = HeaderMap::new();
    if arguments.stream {
        headers.insert(ACCEPT, HeaderValue::from_static(EVENTS));
    }
    for header in &arguments.header {
        let wrong = || Failure::usage(format!("-H {header:?}: `name: value` is expected"));
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        headers.insert(name, value.trim().parse().map_err(|_| wrong())?);
    }
    if !headers.contains_key(CONTENT_TYPE) {
        check_json(&body)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let urn = names::urn(
        &arguments.name,
        &session.tenant,
        arguments.version.as_deref(),
    );
    Ok(Call {
        method: Method::POST,
        path: bugle_client::invocation_path(&urn),
        headers,
        body,
        limit: Duration::from_secs(arguments.timeout),
    })
}

async fn read(event: Option<&str>) -> Outcome<Bytes> {
    match event {
        None => Ok(Bytes::from_static(NOTHING.as_bytes())),
        Some("-") => {
            let mut whole = Vec::new();
            let read = tokio::io::stdin().read_to_end(&mut whole).await;
            read.map_err(|error| Failure::usage(format!("standard input: {error}")))?;
            Ok(whole.into())
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => tokio::fs::read(path)
                .await
                .map(Bytes::from)
                .map_err(|error| Failure::file(path.as_ref(), &error)),
            None => Ok(text.to_owned().into()),
        },
    }
}

async fn finish(session: &Session, mut answer: Answer, begin: Instant) -> Outcome {
    let status = answer.status.as_u16();
    let code = answer
        .header("x-inner-code")
        .and_then(|code| code.parse().ok())
        .unwrap_or(0_u32);
    let summary = summary(&answer, begin);
    if code != 0 || session.format != Format::Table {
        let headers = answer.headers.clone();
        let body = answer.bytes().await?;
        session.note(&summary);
        return whole(session, status, code, &headers, &body);
    }
    let mut last = 0;
    while let Some(piece) = answer.next().await? {
        last = piece.last().copied().unwrap_or(last);
        output::write(&piece)?;
    }
    // A text that ends without a line end would leave the prompt behind it.
    if last != b'\n' && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        output::write(b"\n")?;
    }
    session.note(&summary);
    if status >= 400 {
        return Err(Failure::answered(status, code, ""));
    }
    Ok(())
}

/// Shows an answer that failed, or one that is wanted as a document.
fn whole(session: &Session, status: u16, code: u32, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(body);
    let parsed: serde_json::Value =
        serde_json::from_slice(body).unwrap_or_else(|_| text.as_ref().into());
    if session.format != Format::Table {
        let header = |(name, value): (&HeaderName, &HeaderValue)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes())
                    .into_owned()
                    .into(),
            )
        };
        let headers: serde_json::Map<String, serde_json::Value> =
            headers.iter().map(header).collect();
        let mut shown = json!({"status": status, "code": code, "headers": headers});
        // Neither form can hold bytes that are no text.
        if std::str::from_utf8(body).is_ok() {
            shown["body"] = parsed.clone();
        } else {
            shown["body_base64"] = BASE64_STANDARD.encode(body).into();
        }
        output::show(session.format, &shown, String::new)?;
    }
    if code == 0 && status < 400 {
        return Ok(());
    }
    let message = match &parsed["message"] {
        serde_json::Value::String(message) => message.clone(),
        serde_json::Value::Null => text.into_owned(),
        other => other.to_string(),
    };
    let trace = parsed
        .pointer("/error/trace")
        .and_then(serde_json::Value::as_str);
    let trace = trace.map_or_else(String::new, |trace| format!("\n{}", trace.trim_end()));
    Err(Failure::answered(
        status,
        code,
        format!("{message} (code {code}, status {status}){trace}"),
    ))
}

/// `request id · 200 · 3.1 ms (queue 0, start 1.9, run 0.4) · cold · 9 MB`.
fn summary(answer: &Answer, begin: Instant) -> String {
    let id = answer.header("x-trace-id").unwrap_or("no request id");
    let status = answer.status.as_u16();
    let total = millis(begin.elapsed().as_secs_f64() * 1e3);
    let parsed = answer
        .header("x-invoke-summary")
        .and_then(|text| serde_json::from_str::<Summary>(text).ok());
    match parsed {
        Some(Summary {
            start,
            queue_ms,
            start_ms,
            run_ms,
            peak_memory_mb,
        }) => {
            // The whole start: the initializer is part of it.
            let (queue, started, run) = (millis(queue_ms), millis(start_ms), millis(run_ms));
            format!(
                "{id} · {status} · {total} ms (queue {queue}, start {started}, run {run}) · {start} \
                 · {peak_memory_mb:.0} MB"
            )
        }
        None => format!("{id} · {status} · {total} ms"),
    }
}

/// Milliseconds with one decimal; nothing is just 0.
fn millis(value: f64) -> String {
    let text = format!("{value:.1}");
    if text == "0.0" { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(
            [0.0, 0.04, 0.051, 3.12, 250.0].map(millis),
            ["0", "0", "0.1", "3.1", "250.0"]
        );
    }

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
