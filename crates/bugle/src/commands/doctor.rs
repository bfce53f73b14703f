//! `bugle doctor`: looks at the machine.

use bugle_server::doctor::{Finding, State, examine};
use clap::Args;
use serde_json::json;

use crate::arguments::Global;
use crate::failure::{Failure, Outcome, exit};
use crate::output;
use crate::settings::Settings;

#[derive(Args, Debug)]
#[command(after_help = "Exits with 1 if the platform would not run.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    let config = arguments.settings.load()?.config;
    let findings = {
        let _progress = output::Progress::start(global.quiet, "looking at the machine");
        examine(&config)
    };
    let shown: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "name": finding.name, "state": word(finding.state), "text": finding.text,
                "fix": finding.fix,
            })
        })
        .collect();
    output::show(global.output, &shown, || table(&findings))?;
    if findings
        .iter()
        .any(|finding| finding.state == State::Failed)
    {
        return Err(Failure::new(
            exit::REFUSED,
            "the platform would not run; see above",
        ));
    }
    Ok(())
}

fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Failed => "failed",
    }
}

fn table(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for Finding {
        name,
        state,
        text,
        fix,
    } in findings
    {
        lines.push(format!("{:<8} {name}: {text}", word(*state)));
        if let Some(fix) = fix {
            lines.push(format!("         → {fix}"));
        }
    }
    lines.join("\n")
}
