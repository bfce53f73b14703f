//! The tables of `docs/cli.md`: made from what the program itself says with `--help`.
//!
//! A table stands between `<!-- table: NAME -->` and `<!-- end -->`, where the name is a command
//! or a group of options that several commands share. The test fails where a table is not what the
//! program says, or where a command has none; with `WRITE_REFERENCE=1` it writes the tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

const END: &str = "<!-- end -->";

/// All tables of the program by name.
fn tables() -> BTreeMap<String, String> {
    let mut program = crate::arguments::Arguments::command();
    program.build();
    let mut tables = BTreeMap::new();
    tables.insert("commands".to_owned(), commands(&program));
    add(&program, "", &mut tables);
    tables
}

fn add(command: &Command, path: &str, tables: &mut BTreeMap<String, String>) {
    for sub in command.get_subcommands() {
        if sub.get_name() != "help" {
            let path = format!("{path}{} ", sub.get_name());
            add(sub, &path, tables);
        }
    }
    let own = path.trim_end();
    let mut groups: BTreeMap<String, Vec<&Arg>> = BTreeMap::new();
    for argument in command.get_arguments().filter(|argument| is_ours(argument)) {
        let group = argument.get_help_heading().unwrap_or(own);
        groups.entry(group.to_owned()).or_default().push(argument);
    }
    for (name, arguments) in groups {
        let table = options(&arguments);
        let before = tables.insert(name.clone(), table.clone());
        assert!(
            before.is_none_or(|before| before == table),
            "the options under {name:?} differ between commands"
        );
    }
}

fn is_ours(argument: &Arg) -> bool {
    !matches!(
        argument.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

fn commands(program: &Command) -> String {
    let mut table = "| command | |\n|---|---|\n".to_owned();
    for command in program
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let about = command.get_about().map(ToString::to_string);
        let name = command.get_name();
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| [`{name}`](#bugle-{name}) | {} |",
            about.unwrap_or_default()
        );
    }
    table
}

fn options(arguments: &[&Arg]) -> String {
    let mut table = "| | |\n|---|---|\n".to_owned();
    for argument in arguments {
        let help = argument.get_help().map(ToString::to_string);
        let mut meaning = help.unwrap_or_default();
        if argument.get_action().takes_values() {
            let values: Vec<_> = argument
                .get_possible_values()
                .iter()
                .map(|value| format!("`{}`", value.get_name()))
                .collect();
            if !values.is_empty() {
                let _ = write!(meaning, ": {}", values.join(", "));
            }
            let default = argument.get_default_values().first();
            if let Some(default) = default {
                let _ = write!(meaning, " (default `{}`)", default.to_string_lossy());
            }
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(meaning, " (environment: `{}`)", variable.to_string_lossy());
        }
        let _ = writeln!(
            table,
            "| {} | {} |",
            form(argument),
            meaning.replace('|', "\\|")
        );
    }
    table
}

/// `-o`, `--output FORM`.
fn form(argument: &Arg) -> String {
    let value = argument.get_action().takes_values().then(|| {
        let names = argument.get_value_names().unwrap_or_default();
        names.first().map(ToString::to_string).unwrap_or_default()
    });
    if argument.is_positional() {
        let value = value.unwrap_or_default();
        return if argument.is_required_set() {
            format!("`{value}`")
        } else {
            format!("`[{value}]`")
        };
    }
    let long = argument.get_long().map(|long| format!("--{long}"));
    let short = argument.get_short().map(|short| format!("-{short}"));
    let value = value.map_or_else(String::new, |value| format!(" {value}"));
    let names = short.into_iter().chain(long);
    let mut names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if let Some(last) = names.last_mut() {
        last.truncate(last.len() - 1);
        let _ = write!(last, "{value}`");
    }
    names.join(", ")
}

/// The document with its tables replaced, and the names of those it has.
fn filled(document: &str, tables: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let (mut text, mut names) = (String::new(), Vec::new());
    let mut inside = false;
    for line in document.lines() {
        inside &= line != END;
        if !inside {
            text.push_str(line);
            text.push('\n');
        }
        let name = line
            .strip_prefix("<!-- table: ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(name) = name {
            let table = tables.get(name);
            text.push_str(table.unwrap_or_else(|| panic!("there is no {name:?} to describe")));
            names.push(name.to_owned());
            inside = true;
        }
    }
    (text, names)
}

#[test]
fn the_document_describes_what_the_help_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let tables = tables();
    let (expected, names) = filled(&document, &tables);
    let missing: Vec<_> = tables.keys().filter(|name| !names.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "docs/cli.md has no tables for {missing:?}"
    );
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        document == expected,
        "docs/cli.md is not what --help says; `WRITE_REFERENCE=1 cargo test -p bugle` writes it"
    );
}

#[test]
fn the_document_lists_the_exit_codes_of_the_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let document = std::fs::read_to_string(path).unwrap();
    let program = crate::arguments::Arguments::command();
    let help = program.get_after_help().unwrap().to_string();
    let help = help.split_once(':').unwrap().1.replace('\n', " · ");
    let codes: Vec<u8> = help
        .split('·')
        .filter_map(|part| part.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        let row = format!("| {code} | ");
        assert!(
            document.lines().any(|line| line.starts_with(&row)),
            "no row for the exit code {code}"
        );
    }
}
