//! Every command of the documents runs, and prints what the document shows.
//!
//! In a `console` block, a line that starts with `$ ` is a command (a trailing `\` continues it), and
//! the lines below it are what it prints; `…` stands for any text. The commands of a file run in
//! order, each must succeed, and one that ends with `&` runs until the end of the file.
#![cfg(test)]

mod script;
mod shell;

use std::path::{Path, PathBuf};

use script::Step;
use shell::Shell;

/// The one command that is not run: it runs these tests.
const THIS: &str = "cargo xtask test";

#[tokio::test]
async fn the_readme_does_what_it_says() {
    run("README.md").await;
}

#[tokio::test]
async fn operations_does_what_it_says() {
    run("docs/operations.md").await;
}

#[tokio::test]
async fn the_command_line_does_what_it_says() {
    run("docs/cli.md").await;
}

#[tokio::test]
async fn packages_does_what_it_says() {
    run("docs/packages.md").await;
}

#[tokio::test]
async fn pools_does_what_it_says() {
    run("docs/pools.md").await;
}

#[tokio::test]
async fn the_hello_example_does_what_it_says() {
    run("examples/hello/README.md").await;
}

#[tokio::test]
async fn the_thumbnail_example_does_what_it_says() {
    run("examples/thumbnail/README.md").await;
}

#[tokio::test]
async fn the_csv_stats_example_does_what_it_says() {
    run("examples/csv-stats/README.md").await;
}

#[tokio::test]
async fn the_markdown_example_does_what_it_says() {
    run("examples/markdown/README.md").await;
}

#[tokio::test]
async fn the_storyteller_example_does_what_it_says() {
    run("examples/storyteller/README.md").await;
}

#[tokio::test]
async fn the_uptime_example_does_what_it_says() {
    run("examples/uptime/README.md").await;
}

#[tokio::test]
async fn the_csv_chart_example_does_what_it_says() {
    run("examples/csv-chart/README.md").await;
}

#[tokio::test]
async fn the_spelling_example_does_what_it_says() {
    run("examples/spelling/README.md").await;
}

#[tokio::test]
async fn the_top_words_example_does_what_it_says() {
    run("examples/top-words/README.md").await;
}

#[test]
fn no_document_is_without_a_test() {
    let tested = include_str!("main.rs");
    let mut documents = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    documents.extend(entries("docs").map(|name| format!("docs/{name}")));
    documents.extend(entries("examples").map(|name| format!("examples/{name}/README.md")));
    for document in documents {
        if !repository().join(&document).is_file() {
            continue;
        }
        let commands = !script::steps(&read(&document)).is_empty();
        let has_test = tested.contains(&format!("run(\"{document}\")"));
        assert_eq!(
            commands, has_test,
            "{document}: commands {commands}, a test {has_test}"
        );
    }
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    assert!(read("README.md").contains(THIS));
    assert!(read(".ci/run").contains(THIS));
}

/// In a table of the specification, `place`: name; name. A place is a file of `tests` or a crate.
#[test]
fn every_test_and_figure_that_the_specification_names_exists() {
    let mut named = 0;
    for row in read("SPECIFICATION.md")
        .lines()
        .filter(|line| line.starts_with("| "))
    {
        let shown_by = row
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .unwrap_or_default();
        let Some((place, rest)) = shown_by
            .strip_prefix('`')
            .and_then(|rest| rest.split_once('`'))
        else {
            continue;
        };
        let Some(names) = rest.strip_prefix(": ") else {
            let figures = text_below(&repository().join("bench/src"));
            assert!(
                figures.contains(&format!("\"{place}\"")),
                "no figure {place}"
            );
            continue;
        };
        let sources = sources_of(place);
        for name in names.split("; ") {
            let lower = name.to_lowercase();
            let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
            let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
            let function = words.join("_");
            assert!(
                sources.contains(&format!("fn {function}(")),
                "no test {function} in {place}"
            );
            named += 1;
        }
    }
    assert!(
        named > 20,
        "only {named} tests are named: is the table still a table?"
    );
}

/// The text of a test target or of all files of a crate.
fn sources_of(place: &str) -> String {
    let folders = [
        repository().join("tests").join(format!("{place}.rs")),
        repository().join("tests").join(place),
        repository().join("crates").join(place),
    ];
    folders.iter().map(|folder| text_below(folder)).collect()
}

fn text_below(path: &Path) -> String {
    if path.extension().is_some_and(|extension| extension == "rs") {
        return std::fs::read_to_string(path).unwrap_or_default();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| text_below(&entry.path())).collect()
}

async fn run(document: &str) {
    let mut shell = Shell::new(&repository());
    let steps = script::steps(&read(document));
    if !steps.iter().any(|step| step.background) {
        // The document takes a running platform for granted.
        shell.run(&Step::background("bugle serve")).await;
    }
    for step in steps {
        if step.command != THIS {
            shell.run(&step).await;
        }
    }
    shell.finish().await;
}

/// The names in a folder of the repository.
fn entries(folder: &str) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(repository().join(folder))
        .unwrap()
        .flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap())
}

fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests lie in the repository")
        .to_owned()
}

fn read(file: &str) -> String {
    let path = repository().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
