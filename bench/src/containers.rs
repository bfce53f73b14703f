//! Starts of containers beside runc and crun, and what is left of them.
//!
//! The measuring is done by an example of the crate that starts them, so that the reference and the
//! platform's containers start the same directory by the same hand.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Effort;
use crate::figures::Figures;

/// The figures of the example that are shown, with their units.
const SHOWN: [(&str, &str, &str); 5] = [
    (
        "container_cold_ms",
        "ms",
        "p50 of a start of a 10 MB image, until it has answered a call",
    ),
    (
        "container_runc_ms",
        "ms",
        "p50 of runc create and start of the same, until it listens",
    ),
    (
        "container_crun_ms",
        "ms",
        "p50 of crun create and start of the same, until it listens",
    ),
    (
        "container_cold_ratio",
        "",
        "the first ÷ the faster of the others",
    ),
    (
        "container_leaked",
        "",
        "mounts, descriptors, processes, groups and directories left of containers",
    ),
];

pub(crate) fn containers(
    binary: &Path,
    effort: Effort,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let example = binary.with_file_name("examples").join("containers");
    ensure!(
        example.is_file(),
        "{} does not exist; `cargo xtask bench` builds it",
        example.display()
    );
    let [starts, rounds] = [effort.container_starts, effort.container_rounds];
    let output = Command::new(&example)
        .args([starts.to_string(), rounds.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", example.display()))?;
    ensure!(output.status.success(), "{} failed", example.display());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let figure: Value = serde_json::from_str(line).context("a figure of containers")?;
        let shown = SHOWN.iter().find(|(name, ..)| figure["name"] == *name);
        if let (Some((name, unit, what)), Some(value)) = (shown, figure["value"].as_f64()) {
            figures.add(*name, unit, *what, vec![value]);
        }
    }
    Ok(())
}
