//! The record that strace makes of a writer: what it asked of the disk, and what it said.

use std::path::Path;

/// The calls that are recorded.
pub(crate) const CALLS: &str =
    "trace=write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,unlink,rename,renameat,unlinkat";

/// One call, in the order in which they happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes were written to a file of the folder.
    Write {
        file: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    /// A file got this length.
    Truncate { file: String, length: usize },
    /// What was written to a file before is on the disk.
    Sync(String),
    /// A file was removed.
    Remove(String),
    /// A line on standard output.
    Said(String),
}

/// Reads a record as far as it is about files in `folder`.
pub(crate) fn read(record: &Path, folder: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(record).unwrap();
    let folder = format!("{}/", folder.display());
    // A sync counts when it has ended, everything else when it began.
    let mut syncing: Vec<(&str, String)> = Vec::new();
    let mut events = Vec::new();
    for line in text.lines() {
        let (thread, call) = line.split_once(' ').expect("a thread and its call");
        let call = call.trim_start();
        if let Some(rest) = call.strip_prefix("<... ") {
            if rest.starts_with("fsync resumed") || rest.starts_with("fdatasync resumed") {
                let at = syncing.iter().position(|(who, _)| *who == thread);
                events.extend(at.map(|at| Event::Sync(syncing.swap_remove(at).1)));
            }
            continue;
        }
        let Some((name, arguments)) = call.split_once('(') else {
            continue;
        };
        if let Some(line) = arguments.strip_prefix("1<").and_then(said) {
            events.push(Event::Said(line));
            continue;
        }
        let Some(file) = file_in(&folder, arguments) else {
            continue;
        };
        match name {
            "pwrite64" => {
                let (bytes, rest) = quoted(arguments);
                let mut numbers = rest
                    .trim_start_matches(", ")
                    .split([',', ')', ' '])
                    .filter(|word| !word.is_empty());
                let _length = numbers.next();
                let offset = numbers.next().unwrap().parse().unwrap();
                events.push(Event::Write {
                    file,
                    offset,
                    bytes,
                });
            }
            "fsync" | "fdatasync" if call.ends_with("<unfinished ...>") => {
                syncing.push((thread, file));
            }
            "fsync" | "fdatasync" => events.push(Event::Sync(file)),
            "ftruncate" => {
                let (_, length) = arguments.rsplit_once(">, ").unwrap();
                let length = length.split([')', ' ']).next().unwrap().parse().unwrap();
                events.push(Event::Truncate { file, length });
            }
            "unlink" => events.push(Event::Remove(file)),
            // The process writes its number into the lock file.
            "write" if file == "lock" => {}
            other => panic!("the store makes a call that this test does not know: {other}: {file}"),
        }
    }
    events
}

/// The name of the file that the first argument stands for, if it is in the folder.
fn file_in(folder: &str, arguments: &str) -> Option<String> {
    let path = match arguments.split_once('<') {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            rest.split('>').next()?.to_owned()
        }
        _ => String::from_utf8(quoted(arguments).0).ok()?,
    };
    let name = decode(&path).strip_prefix(folder)?.to_owned();
    // A file that strace saw removed.
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

/// What was written, if it is one of the writer's lines.
fn said(arguments: &str) -> Option<String> {
    let line = String::from_utf8(quoted(arguments).0).ok()?;
    line.starts_with("ack ").then_some(line)
}

/// The bytes of the first quoted argument, and what follows it.
fn quoted(arguments: &str) -> (Vec<u8>, &str) {
    let Some((_, rest)) = arguments.split_once('"') else {
        return (Vec::new(), arguments);
    };
    let (text, rest) = rest.split_once('"').expect("a closing quote");
    assert!(!rest.starts_with("..."), "the record is cut off");
    (bytes(text), rest)
}

fn decode(path: &str) -> String {
    if path.contains("\\x") {
        String::from_utf8(bytes(path)).expect("paths here are text")
    } else {
        path.to_owned()
    }
}

/// `\x61\x62` as bytes.
fn bytes(text: &str) -> Vec<u8> {
    text.split("\\x")
        .skip(1)
        .map(|digits| u8::from_str_radix(digits, 16).expect("two hexadecimal digits"))
        .collect()
}
