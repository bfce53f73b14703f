//! `docs/errors.md` says what the code says.

use bugle_gateway::status_of;
use bugle_types::Code;

const DOCUMENT: &str = include_str!("../../../docs/errors.md");

/// The rows of the tables, cell by cell: code, name, status, meaning, advice.
fn rows(document: &str) -> Vec<Vec<&str>> {
    document
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| code"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_code_is_documented_once_and_no_other() {
    let documented: Vec<_> = rows(DOCUMENT)
        .iter()
        .map(|row| (row[0].to_owned(), row[1].to_owned()))
        .collect();
    let defined: Vec<_> = Code::ALL
        .iter()
        .map(|code| (code.to_string(), code.name().to_owned()))
        .collect();
    assert_eq!(documented, defined);
}

#[test]
fn the_statuses_of_invocation_are_documented() {
    let (_, invocation) = DOCUMENT.split_once("## Invocation").unwrap();
    let rows = rows(invocation);
    assert!(rows.len() > 15, "{}", rows.len());
    for row in rows {
        let code = row[0].parse().unwrap();
        assert_eq!(row[2], status_of(code).as_str(), "{code}");
    }
}

#[test]
fn every_row_says_what_to_do() {
    for row in rows(DOCUMENT) {
        assert_eq!(row.len(), 5, "{row:?}");
        assert!(row[3].ends_with('.') && row[4].ends_with('.'), "{row:?}");
    }
}
