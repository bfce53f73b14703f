//! Starts of containers beside runc and crun, and what is left of them.
//!
//! The measuring is done by an example of the crate that starts them, so that the reference and the
//! platform's containers start the same directory by the same hand.

use std::path::Path;

use crate::Effort;
use crate::figures::{self, Figures};

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
    let arguments = [effort.container_starts, effort.container_rounds].map(|n| n.to_string());
    for figure in figures::of_example(binary, "containers", &arguments)? {
        let shown = SHOWN.iter().find(|(name, ..)| figure["name"] == *name);
        if let (Some((name, unit, what)), Some(value)) = (shown, figure["value"].as_f64()) {
            figures.add(*name, unit, *what, vec![value]);
        }
    }
    Ok(())
}
