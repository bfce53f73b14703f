//! Bars that show how far a pull is, if anybody watches.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bugle_api::images::{LayerObject, PullObject};
use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};

/// How often the bar of an upload is drawn.
const TICK: Duration = Duration::from_millis(100);

/// A size for people.
pub(in crate::commands) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// The bars of one pull, one for each layer; until they are dropped.
pub(super) struct Bars {
    /// Nobody watches.
    hidden: bool,
    all: MultiProgress,
    layers: BTreeMap<usize, ProgressBar>,
}

impl Bars {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            hidden: quiet || !std::io::stderr().is_terminal(),
            all: MultiProgress::new(),
            layers: BTreeMap::new(),
        }
    }

    /// The bar of a file on its way. It draws itself.
    pub(super) fn of_upload(quiet: bool, path: &Path, sent: Arc<AtomicU64>) -> Self {
        let mut bars = Self::new(quiet);
        if !bars.hidden {
            let length = std::fs::metadata(path).map_or(0, |entry| entry.len());
            let bar = bars.all.add(bar(length));
            bar.set_message("sending");
            let style = bar.style().with_key(
                "sent",
                move |state: &indicatif::ProgressState, text: &mut dyn std::fmt::Write| {
                    let sent = sent.load(Ordering::Relaxed);
                    // What cannot be drawn is drawn the next time.
                    let _ = match state.len() {
                        Some(1..) => write!(text, "{} of {}", size(sent), size(length)),
                        _ => write!(text, "{}", size(sent)),
                    };
                },
            );
            let template = "{spinner} {msg} {sent}";
            bar.set_style(
                style
                    .template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.enable_steady_tick(TICK);
            bars.layers.insert(0, bar);
        }
        bars
    }

    /// Draws how far a pull is.
    pub(super) fn show(&mut self, pull: &PullObject) {
        if self.hidden {
            return;
        }
        for (number, layer) in pull.layers.iter().enumerate() {
            let bar = self
                .layers
                .entry(number)
                .or_insert_with(|| self.all.add(bar(layer.size)));
            bar.set_message(describe(layer));
            bar.set_position(layer.fetched);
        }
    }
}

fn describe(layer: &LayerObject) -> String {
    let short = layer.digest.get(7..19).unwrap_or(&layer.digest);
    if layer.ready {
        return format!("{short} ready");
    }
    format!("{short} {:>10} unpacked", size(layer.unpacked))
}

fn bar(length: u64) -> ProgressBar {
    let template = "{msg:36} [{bar:30}] {binary_bytes} of {binary_total_bytes}";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.layers.values() {
            bar.finish_and_clear();
        }
    }
}
