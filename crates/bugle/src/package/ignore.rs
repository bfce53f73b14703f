//! `.bugleignore`: what is left out of a package.
//!
//! One pattern a line, as in `.gitignore`: `*` and `?` stand for signs of one name, `**` for any
//! folders, a `/` at the end for folders alone, one elsewhere ties the pattern to the function's
//! folder, `!` takes something back in, `#` begins a comment. The last pattern that fits counts.

use std::io;
use std::path::Path;

use crate::failure::{Failure, Outcome, exit};

use super::IGNORE;

/// What no function needs, unless its file takes it back in.
const ALWAYS: &str = ".git/\n.hg/\n.svn/\n__pycache__/\n*.pyc\n.DS_Store\n.venv/\n.bugleignore\n";

/// The longest such file, in bytes.
const MAX_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// The names of the pattern, from the folder on.
    parts: Vec<String>,
    folders_only: bool,
    leaves_out: bool,
}

impl Ignore {
    pub(super) fn read(folder: &Path) -> Outcome<Self> {
        let path = folder.join(IGNORE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| Failure::file(&path, &error))?,
        };
        if text.len() > MAX_BYTES {
            let text = format!("{} is longer than 64 KiB", path.display());
            return Err(Failure::new(exit::REFUSED, text));
        }
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let lines = ALWAYS.lines().chain(text.lines());
        Self {
            rules: lines.filter_map(Rule::parse).collect(),
        }
    }

    /// Whether what has this path below the folder is left out. What is in a folder that is left out
    /// is never asked for.
    pub(super) fn leaves_out(&self, path: &str, is_folder: bool) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let fits = |rule: &&Rule| (is_folder || !rule.folders_only) && matches(&rule.parts, &names);
        self.rules
            .iter()
            .rev()
            .find(fits)
            .is_some_and(|rule| rule.leaves_out)
    }
}

impl Rule {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (line, leaves_out) = match line.strip_prefix('!') {
            Some(rest) => (rest, false),
            None => (line, true),
        };
        let (line, folders_only) = match line.strip_suffix('/') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        let tied = line.contains('/');
        let names = line.trim_start_matches('/').split('/').map(str::to_owned);
        let anywhere = (!tied).then(|| "**".to_owned());
        Some(Self {
            parts: anywhere.into_iter().chain(names).collect(),
            folders_only,
            leaves_out,
        })
    }
}

/// Whether a pattern's names stand for these.
fn matches(parts: &[String], names: &[&str]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((part, rest)), _) if part == "**" => {
            matches(rest, names)
                || names
                    .split_first()
                    .is_some_and(|(_, left)| matches(parts, left))
        }
        (Some((part, rest)), Some((name, left))) => {
            fits(part.as_bytes(), name.as_bytes()) && matches(rest, left)
        }
        _ => false,
    }
}

/// Whether one name fits a pattern with `*` and `?`. Takes time in proportion to both lengths.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut done) = (0, 0);
    // Where the last star was, and how much of the name was done there.
    let mut star = None;
    while done < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, done));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[done] => {
                at += 1;
                done += 1;
            }
            _ => {
                let Some((star_at, from)) = star else {
                    return false;
                };
                star = Some((star_at, from + 1));
                at = star_at + 1;
                done = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_leave_out_what_they_do_in_a_gitignore() {
        let ignore = Ignore::parse(
            "# notes\n*.log\n/build\nsecret?.txt\ntests/\ndocs/**/old\n!keep.log\na*b*c\n",
        );
        for (path, is_folder, left_out) in [
            ("x.log", false, true),
            ("deep/er/x.log", false, true),
            ("keep.log", false, false),
            ("build", true, true),
            ("lib/build", true, false),
            ("secret1.txt", false, true),
            ("secret12.txt", false, false),
            ("tests", true, true),
            ("tests", false, false),
            ("docs/old", false, true),
            ("docs/1/2/old", false, true),
            ("docs/1/new", false, false),
            ("aXbYc", false, true),
            ("aXbYcZ", false, false),
            ("main.py", false, false),
            ("__pycache__", true, true),
            (".git", true, true),
            (".bugleignore", false, true),
        ] {
            assert_eq!(ignore.leaves_out(path, is_folder), left_out, "{path}");
        }
    }

    #[test]
    fn what_is_always_left_out_can_be_taken_back_in() {
        assert!(!Ignore::parse("!*.pyc\n").leaves_out("a.pyc", false));
    }
}
