//! `bugle describe`: one function on one screen.

use std::fmt::Write as _;

use bugle_api::FunctionObject;
use bugle_api::images::{LayerObject, PullObject};
use bugle_api::operator::FunctionStatus;
use clap::Args;
use serde_json::json;

use super::image::size;
use crate::failure::Outcome;
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle describe hello")]
pub(crate) struct Arguments {
    /// Name or URN of the function.
    pub(crate) name: String,
    /// The version; the draft when it is missing.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let name = names::full(&arguments.name);
    let version = arguments.version.as_deref();
    let function = session
        .perform(session.control.function(&name, version))
        .await?;
    let versions = session.control.versions(&function.name).send().await?;
    let status = session.control.status(&name, version).send().await?;
    let shown = json!({"function": function, "versions": versions, "status": status});
    output::show(session.format, &shown, || {
        screen(&function, &versions, &status)
    })
}

fn screen(
    function: &FunctionObject,
    versions: &[FunctionObject],
    status: &FunctionStatus,
) -> String {
    let labels: Vec<&str> = versions
        .iter()
        .map(|version| version.version_number.as_str())
        .collect();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    row("urn", &function.function_version_urn);
    row(
        "handler",
        &format!("{} ({})", function.handler, function.runtime),
    );
    row(
        "code",
        &format!("{} {}", function.storage_type, function.code_path),
    );
    row(
        "limits",
        &format!(
            "{}m CPU, {} MB, {} s",
            function.cpu, function.memory, function.timeout
        ),
    );
    row(
        "instances",
        &format!(
            "{} to {}, {} calls at once each",
            function.min_instance, function.max_instance, function.concurrent_num
        ),
    );
    row("versions", &labels.join(", "));
    row("revision", &function.revision_id);
    row("changed", &function.last_modified);
    if let Some(pull) = &status.pull {
        row("pulling", &progress(pull));
    }
    row("waiting", &format!("{} calls", status.queued));
    let calls: Vec<String> = status
        .calls
        .iter()
        .filter(|calls| calls.count > 0)
        .map(|calls| format!("{} {}", calls.count, calls.outcome))
        .collect();
    let calls = if calls.is_empty() {
        "none yet".to_owned()
    } else {
        calls.join(", ")
    };
    row("calls", &calls);
    row(
        "last start",
        status.last_start_error.as_deref().unwrap_or("no failure"),
    );
    if status.instances.is_empty() {
        text.push_str("\nno instance runs; the next call starts one");
        return text;
    }
    let rows = status.instances.iter().map(|instance| {
        [
            instance.id.clone(),
            instance.state.clone(),
            instance.pid.map_or_else(String::new, |pid| pid.to_string()),
            instance.label.clone().unwrap_or_default(),
            instance.in_flight.to_string(),
            format!("{:.0} s", instance.age_seconds),
        ]
    });
    text.push('\n');
    text.push_str(&output::table(
        ["INSTANCE", "STATE", "PID", "LABEL", "CALLS", "AGE"],
        rows,
    ));
    text
}

/// How far a pull is, in one line.
fn progress(pull: &PullObject) -> String {
    if pull.layers.is_empty() {
        return format!("{}: asking its registry", pull.reference);
    }
    let sum = |part: fn(&LayerObject) -> u64| pull.layers.iter().map(part).sum::<u64>();
    let ready = pull.layers.iter().filter(|layer| layer.ready).count();
    format!(
        "{}: {} of {} fetched, {ready} of {} layers ready",
        pull.reference,
        size(sum(|layer| layer.fetched)),
        size(sum(|layer| layer.size)),
        pull.layers.len(),
    )
}
