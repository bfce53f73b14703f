//! `bugle logs`: what a function wrote.

use bugle_api::operator::LogEntry;
use clap::Args;

use crate::arguments::Format;
use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  bugle logs hello --tail 20\n  bugle logs -f hello")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    name: String,
    /// Goes on with new lines.
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines.
    #[arg(long, value_name = "N", default_value_t = 100)]
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
    let print = |entry: &LogEntry| output::line(&text(entry, session.format));
    read(session, name, *tail, request.as_deref(), *follow, print).await
}

/// Reads entries until there are no more, or for ever.
pub(crate) async fn read(
    session: &Session,
    name: &str,
    tail: usize,
    request: Option<&str>,
    follow: bool,
    print: impl Fn(&LogEntry) -> Outcome,
) -> Outcome {
    let name = names::full(name);
    let mut answer = session.control.logs(&name, tail, request, follow).await?;
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

/// An entry as a line.
pub(crate) fn text(entry: &LogEntry, format: Format) -> String {
    match format {
        Format::Table => {
            // The day and the zone are the same on every line.
            let time = entry.time.get(11..23).unwrap_or(&entry.time);
            let instance = entry.instance.get(24..).unwrap_or(&entry.instance);
            format!("{time} {instance} {} {}", entry.stream, entry.text)
        }
        Format::Json | Format::Yaml => {
            serde_json::to_string(entry).expect("a log entry is made of texts")
        }
    }
}
