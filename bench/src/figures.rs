//! Figures by name, their table, and the page that shows it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// What an example prints that lies beside the binary: one figure a line, as JSON.
pub(crate) fn of_example(
    binary: &Path,
    example: &str,
    arguments: &[String],
) -> anyhow::Result<Vec<Value>> {
    let program = binary.with_file_name("examples").join(example);
    ensure!(
        program.is_file(),
        "{} does not exist; `cargo xtask bench` builds it",
        program.display()
    );
    let output = Command::new(&program)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "{} failed", program.display());
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{example}: {line}")))
        .collect()
}

/// One measured figure.
#[derive(Clone, Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// Lowest and highest round, where there are rounds.
    spread: Option<(f64, f64)>,
    what: String,
}

/// Figures that are 0 on any machine, however slow and busy, or something is wrong. The others are
/// for people to judge: they depend on where they were taken.
const ZERO: &[&str] = &[
    "burst_failures",
    "cold_leaked",
    "container_leaked",
    "overload_improper_refusals",
];

/// What was measured, in order.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds the median of `rounds`.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        what: impl Into<String>,
        mut rounds: Vec<f64>,
    ) {
        rounds.sort_by(f64::total_cmp);
        let value = median(&rounds);
        let spread = match rounds.as_slice() {
            [lowest, .., highest] => Some((*lowest, *highest)),
            _ => None,
        };
        self.0.push(Figure {
            name: name.into(),
            value,
            unit,
            spread,
            what: what.into(),
        });
    }

    /// What is wrong whatever the machine, in words.
    pub(crate) fn broken(&self) -> Vec<String> {
        let worst = |figure: &Figure| figure.spread.map_or(figure.value, |(_, highest)| highest);
        self.0
            .iter()
            .filter(|figure| ZERO.contains(&figure.name.as_str()) && worst(figure) != 0.0)
            .map(|figure| format!("{} is {}", figure.name, worst(figure)))
            .collect()
    }

    /// Writes name → number.
    pub(crate) fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let mut object = serde_json::Map::new();
        for figure in &self.0 {
            object.insert(figure.name.clone(), rounded(figure.value).into());
        }
        let text = serde_json::to_string_pretty(&object)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }

    /// The figures as a Markdown table.
    pub(crate) fn table(&self) -> String {
        let mut text =
            "| figure | median | lowest – highest | what |\n|---|---|---|---|\n".to_owned();
        for Figure {
            name,
            value,
            unit,
            spread,
            what,
        } in &self.0
        {
            let spread = spread.map_or_else(String::new, |(low, high)| {
                format!("{} – {}", rounded(low), rounded(high))
            });
            let value = rounded(*value);
            let _ = writeln!(text, "| `{name}` | {value} {unit} | {spread} | {what} |");
        }
        text
    }
}

/// The middle of sorted values; not a number for none.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// Three significant digits are what such a measurement is worth.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the magnitude of a finite number is small"
    )]
    let digits = 2 - value.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits.max(0));
    (value * scale).round() / scale
}

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --write` -->";
const END: &str = "<!-- end of figures -->";

/// Replaces the table between the markers of the page.
pub(crate) fn write_document(path: &Path, table: &str, quick: bool) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let markers = page.split_once(BEGIN).and_then(|(head, rest)| {
        let (_, tail) = rest.split_once(END)?;
        Some((head, tail))
    });
    let (head, tail) = markers.with_context(|| format!("{} lacks its markers", path.display()))?;
    let date = jiff::Zoned::now().strftime("%Y-%m-%d");
    let effort = if quick { "quick" } else { "full" };
    let machine = machine();
    let page = format!("{head}{BEGIN}\n\n{date}, {effort} run, {machine}.\n\n{table}\n{END}{tail}");
    std::fs::write(path, page).with_context(|| path.display().to_string())
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_once(':')
                    .map(|(_, v)| v.trim().to_owned())
            })
            .unwrap_or_else(|| "unknown".to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field(&read("/proc/cpuinfo"), "model name");
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let gib = memory / (1024 * 1024);
    format!(
        "{cores} cores ({model}), {gib} GiB, Linux {}",
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_kept() {
        for (value, kept) in [
            (1.23456, 1.23),
            (123.456, 123.0),
            (0.012_345, 0.0123),
            (0.0, 0.0),
        ] {
            assert!((rounded(value) - kept).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn one_bad_round_is_enough_to_be_broken() {
        let mut figures = Figures::default();
        figures.add("burst_failures", "", "", vec![0.0, 0.0, 3.0]);
        figures.add("cold_leaked", "", "", vec![0.0]);
        figures.add("warm_rps", "", "", vec![5.0]);
        assert_eq!(figures.broken(), ["burst_failures is 3"]);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(&[1.0, 2.0, 4.0, 8.0]) - 3.0).abs() < 1e-9);
    }
}
