//! `bugle logs`: what a function wrote.

use bugle_api::operator::LogEntry;
use bugle_client::Answer;
use clap::Args;

use crate::arguments::Format;
use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::numbers;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bugle logs hello --tail 20\n  bugle logs -f hello")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// Goes on with new lines.
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = numbers::from::<0, usize>)]
    tail: usize,
    /// Only lines of the call with this request id.
    #[arg(long, value_name = "ID")]
    request: Option<String>,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let Arguments {
        name,
        follow,
        tail,
        request,
    } = arguments;
    let name = names::full(name);
    let logs = session
        .control
        .logs(&name, *tail, request.as_deref(), *follow);
    if session.curl {
        return Session::show_curl(&logs.base, &logs.call, None);
    }
    let answer = logs.open().await?;
    read(answer, |entry| output::line(&text(entry, session.format)?)).await?;
    if *follow {
        return Err(stopped());
    }
    Ok(())
}

/// A log that is followed has no end of its own.
pub(crate) fn stopped() -> Failure {
    Failure::new(exit::NETWORK, "the platform has stopped")
}

/// Reads entries until there are no more.
pub(crate) async fn read(
    mut answer: Answer,
    mut print: impl FnMut(&LogEntry) -> Outcome,
) -> Outcome {
    let mut rest = Vec::new();
    while let Some(piece) = answer.next().await? {
        rest.extend_from_slice(&piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = line.strip_prefix(b"data: ").unwrap_or(&line);
            if line.starts_with(b"{") {
                let entry = serde_json::from_slice(line).map_err(|error| {
                    Failure::new(exit::REFUSED, format!("a log line cannot be read: {error}"))
                })?;
                print(&entry)?;
            }
        }
    }
    Ok(())
}

/// An entry in the wanted form.
fn text(entry: &LogEntry, format: Format) -> Outcome<String> {
    match format {
        Format::Table => Ok(line(entry)),
        // One object a line, and one document an entry: both can be read before their end.
        Format::Json => serde_json::to_string(entry).map_err(|error| output::unwritable(&error)),
        Format::Yaml => serde_yaml_ng::to_string(entry)
            .map(|text| format!("---\n{}", text.trim_end()))
            .map_err(|error| output::unwritable(&error)),
    }
}

/// An entry for people.
pub(crate) fn line(entry: &LogEntry) -> String {
    // The day and the zone are the same on every line.
    let time = entry.time.get(11..23).unwrap_or(&entry.time);
    let instance = entry.instance.get(24..).unwrap_or(&entry.instance);
    format!("{time} {instance} {} {}", entry.stream, entry.text)
}
