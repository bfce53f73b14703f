//! `bugle invoke`: calls a function.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bugle_client::{Answer, Call};
use clap::Args;
use http::header::{ACCEPT, HeaderName};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use crate::arguments::Format;
use crate::event::Event;
use crate::failure::{Failure, Outcome};
use crate::numbers;
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
    #[command(flatten)]
    pub(crate) event: Event,
    /// Asks for events and prints what the function streams as it comes.
    #[arg(long)]
    stream: bool,
    /// How long to wait for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = numbers::from::<0, u64>)]
    timeout: u64,
}

/// How long those wait who call without a command.
const LIMIT: Duration = Duration::from_mins(15);

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
    let Arguments {
        event,
        stream,
        timeout,
    } = arguments;
    let limit = Duration::from_secs(*timeout);
    if session.curl {
        let (mut call, elsewhere) = event.shown(session, limit)?;
        ask_for_events(&mut call, *stream);
        return Session::show_curl(session.gateway().await?, &call, elsewhere);
    }
    let mut call = event.call(session, limit).await?;
    ask_for_events(&mut call, *stream);
    // Asked for before the clock starts.
    session.gateway().await?;
    let begin = Instant::now();
    let progress = output::Progress::start(session.quiet, format!("calling {}", event.name));
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
    Event::new(name, event).literal(session, LIMIT)
}

/// A header that was typed wins.
fn ask_for_events(call: &mut Call, stream: bool) {
    if stream && !call.headers.contains_key(ACCEPT) {
        call.headers
            .insert(ACCEPT, HeaderValue::from_static(EVENTS));
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
}
