//! Writing: answers to standard output, everything else to standard error.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::arguments::Format;
use crate::failure::{Failure, Outcome, exit};

/// Writes to standard output. A reader that has seen enough is no failure.
pub(crate) fn write(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // Nothing that follows would be read either.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::done()),
        Err(error) => Err(Failure::new(
            exit::REFUSED,
            format!("standard output: {error}"),
        )),
    }
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Outcome {
    write(format!("{text}\n").as_bytes())
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    // A closed standard error must not stop the command.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Shows a value in the wanted form; `table` makes the one for people.
pub(crate) fn show(
    format: Format,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Outcome {
    let text = match format {
        Format::Table => table(),
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?,
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(|error| unwritable(&error))?,
    };
    line(text.trim_end())
}

pub(crate) fn unwritable(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        exit::REFUSED,
        format!("the answer cannot be shown: {error}"),
    )
}

/// A table: columns as wide as their widest cell, two blanks between them.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![header.map(str::to_owned)];
    all.extend(rows);
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A number of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Shows that something takes long, if anybody watches; until it is dropped.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(crate) fn start(quiet: bool, text: impl Into<String>) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner()
            .with_style(ProgressStyle::default_spinner())
            .with_message(text.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    /// Something that can be shared with whoever does the work.
    pub(crate) fn sharer(&self) -> impl Fn(String) + Send + 'static {
        let bar = self.0.clone();
        move |text| {
            if let Some(bar) = &bar {
                bar.set_message(text);
            }
        }
    }

    /// Shows another text.
    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            ["a".to_owned(), "long cell".to_owned()],
            ["bcd".to_owned(), "x".to_owned()],
        ];
        assert_eq!(table(["N", "V"], rows), "N    V\na    long cell\nbcd  x");
    }
}
