//! What a function imports of the operator's packages, found without running any of it.
//!
//! It is a guess that decides which warm parent a start goes to, so it may miss something, but it
//! must not have a parent import what the function would have found in its own code. Only imports
//! at the beginning of a line count: those always run.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::packages::{Listing, is_identifier, module_names};

/// Files of the function that are read, beginning with the handler's.
const MAX_FILES: usize = 16;
/// What is read of each; imports stand at the top.
const MAX_FILE: u64 = 64 * 1024;
/// Places where such files are looked for.
const MAX_PLACES: usize = 256;
/// Entries of the code directory; a larger one is not looked through.
const MAX_ENTRIES: usize = 4096;
/// Modules of packages that are imported ahead.
const MAX_MODULES: usize = 64;

/// Code with any of these may import from other places than is foreseen here.
const CHANGES_THE_RULES: [&str; 3] = ["sys.path", "meta_path", "addsitedir"];

/// What a start would have imported already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Whether there is something of the standard library that the least of parents lacks.
    pub(super) library: bool,
    /// Modules of the operator's packages, each with the packages it is in.
    pub(super) modules: BTreeSet<String>,
    /// What the function's own code brings; nothing of that name may be there before.
    pub(super) own: HashSet<String>,
    /// The state of the packages that this was found in.
    pub(super) age: u64,
}

/// What the function with these hooks and the code in `code` imports. Blocks.
///
/// `listing` has the operator's packages, and `little` what every parent has.
pub(super) fn wanted<'a>(
    code: &Path,
    hooks: impl Iterator<Item = &'a str>,
    listing: Option<&Listing>,
    little: &HashSet<String>,
) -> Wanted {
    let mut scan = Scan {
        listing,
        little,
        library: false,
        roots: vec![code.to_owned()],
        own: HashSet::new(),
        modules: BTreeSet::new(),
        queue: Vec::new(),
        seen: HashSet::new(),
    };
    let found = scan.list().and_then(|()| {
        for hook in hooks {
            let module = hook.rsplit_once('.')?.0;
            scan.find_own(module);
        }
        scan.read_all()
    });
    if found.is_none() {
        return Wanted {
            library: true,
            ..Wanted::default()
        };
    }
    Wanted {
        library: scan.library,
        modules: scan.modules,
        own: scan.own,
        age: listing.map_or(0, |listing| listing.age),
    }
}

struct Scan<'a> {
    listing: Option<&'a Listing>,
    little: &'a HashSet<String>,
    library: bool,
    /// Where the function's own modules are.
    roots: Vec<PathBuf>,
    own: HashSet<String>,
    modules: BTreeSet<String>,
    /// Files to be read, each with the package that it is in.
    queue: Vec<(PathBuf, String)>,
    seen: HashSet<PathBuf>,
}

impl Scan<'_> {
    /// Learns what the code brings; none if that cannot be said.
    fn list(&mut self) -> Option<()> {
        let lib = self.roots[0].join("lib");
        if lib.is_dir() {
            self.roots.push(lib);
        }
        for root in &self.roots {
            self.own.extend(module_names(root, MAX_ENTRIES).ok()?);
        }
        Some(())
    }

    /// Reads what is queued and what that imports; none where the rules are changed.
    fn read_all(&mut self) -> Option<()> {
        let mut read = 0;
        while let Some((path, package)) = self.queue.pop() {
            let Some(text) = read_start(&path) else {
                continue;
            };
            read += 1;
            if CHANGES_THE_RULES.iter().any(|one| text.contains(one)) {
                return None;
            }
            // What runs them is itself of the library.
            self.library |= text.contains("async def ");
            for (module, name) in imports(&text) {
                self.take(&absolute(&module, &package), name.as_deref());
            }
            if read == MAX_FILES || self.modules.len() > MAX_MODULES {
                break;
            }
        }
        Some(())
    }

    /// Takes note of an import of `module`, or of `name` from it, which may be a module as well.
    fn take(&mut self, module: &str, name: Option<&str>) {
        let top = module.split('.').next().unwrap_or(module);
        let inner = name.map(|name| {
            let dot = if module.is_empty() { "" } else { "." };
            format!("{module}{dot}{name}")
        });
        if module.is_empty() || self.own.contains(top) {
            self.find_own(module);
            if let Some(inner) = inner {
                self.find_own(&inner);
            }
            return;
        }
        self.library |= !self.little.contains(top);
        if let Some(listing) = self.listing {
            listing.add(inner.as_deref().unwrap_or(module), &mut self.modules);
        }
    }

    /// Queues the files that importing `module` of the function's own code runs.
    fn find_own(&mut self, module: &str) {
        if self.seen.len() > MAX_PLACES {
            return;
        }
        let mut package = String::new();
        for part in module.split('.') {
            if !is_identifier(part) {
                return;
            }
            let inside = package.replace('.', "/");
            for root in &self.roots {
                let folder = root.join(&inside);
                let file = folder.join(part).with_extension("py");
                if self.seen.insert(file.clone()) {
                    self.queue.push((file, package.clone()));
                }
            }
            if !package.is_empty() {
                package.push('.');
            }
            package.push_str(part);
            for root in &self.roots {
                let file = root.join(package.replace('.', "/")).join("__init__.py");
                if self.seen.insert(file.clone()) {
                    self.queue.push((file, package.clone()));
                }
            }
        }
    }
}

/// The beginning of a plain file; a pipe or a link to somewhere else is not one.
fn read_start(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The name of `module` from the top; one that begins with dots is relative to `package`.
fn absolute(module: &str, package: &str) -> String {
    let name = module.trim_start_matches('.');
    let dots = module.len() - name.len();
    if dots == 0 {
        return name.to_owned();
    }
    let parts: Vec<&str> = package.split('.').collect();
    let kept = parts.len().saturating_sub(dots - 1);
    let mut absolute = parts[..kept].join(".");
    if !name.is_empty() {
        absolute.push('.');
        absolute.push_str(name);
    }
    absolute
}

/// Every import at the beginning of a line: the module, and a name that is taken from it.
fn imports(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if !line.starts_with("import ") && !line.starts_with("from ") {
            continue;
        }
        let mut statement = without_comment(line).to_owned();
        // Names in brackets may go on for some lines.
        while statement.contains('(') && !statement.contains(')') {
            let Some(more) = lines.next() else {
                break;
            };
            statement.push(' ');
            statement.push_str(without_comment(more));
        }
        for part in statement.split(';') {
            parse(part.trim(), &mut found);
        }
    }
    found
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or(line)
}

fn parse(statement: &str, found: &mut Vec<(String, Option<String>)>) {
    let first_word = |text: &str| text.split_whitespace().next().unwrap_or("").to_owned();
    if let Some(modules) = statement.strip_prefix("import ") {
        found.extend(modules.split(',').map(|one| (first_word(one), None)));
    } else if let Some(rest) = statement.strip_prefix("from ")
        && let Some((module, names)) = rest.split_once(" import ")
    {
        let names = names.replace(['(', ')', '\\'], " ");
        for name in names.split(',').map(first_word) {
            let name = is_identifier(&name).then_some(name);
            found.push((module.trim().to_owned(), name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn modules_of(code: &[(&str, &str)], handler: &str) -> Vec<String> {
        let packages = files(&[
            ("web/__init__.py", ""),
            ("web/client.py", ""),
            ("check.py", ""),
            ("late.py", ""),
        ]);
        let code = files(code);
        let listing = Listing::of(packages.path());
        let none = HashSet::new();
        let wanted = wanted(code.path(), [handler].into_iter(), Some(&listing), &none);
        wanted.modules.into_iter().collect()
    }

    fn wants_library(text: &str) -> bool {
        let code = files(&[("main.py", text), ("own.py", "import json\n")]);
        let little = HashSet::from(["json".to_owned(), "os".to_owned()]);
        wanted(code.path(), ["main.handler"].into_iter(), None, &little).library
    }

    #[test]
    fn the_library_is_wanted_for_what_not_every_parent_has() {
        assert!(!wants_library("import os.path, json\nimport own\n"));
        assert!(wants_library("import json, decimal\n"));
        assert!(wants_library("from urllib import parse\n"));
        assert!(wants_library(
            "async def handler(event, context):\n    return 1\n"
        ));
        assert!(wants_library("import sys\nsys.path.insert(0, 'vendor')\n"));
    }

    #[test]
    fn imports_at_the_beginning_of_a_line_are_found() {
        let text = "import web.client as c, json  # import late\n\
                    from check import (\n    one,  # a comment\n    two as three,\n)\n\
                    def handler(event, context):\n    import late\n";
        let found = modules_of(&[("main.py", text)], "main.handler");
        assert_eq!(found, ["check", "web", "web.client"]);
        let found = modules_of(
            &[("main.py", "from web import client; import late")],
            "main.h",
        );
        assert_eq!(found, ["late", "web", "web.client"]);
    }

    #[test]
    fn the_functions_own_modules_are_followed() {
        let code = [
            (
                "app/main.py",
                "from . import parts\nfrom .more import x\nimport helper\n",
            ),
            ("app/parts.py", "import check\n"),
            ("app/more.py", "import web\n"),
            ("lib/helper.py", "import late\n"),
        ];
        assert_eq!(
            modules_of(&code, "app.main.handler"),
            ["check", "late", "web"]
        );
    }

    #[test]
    fn the_functions_own_module_of_that_name_wins() {
        let own = [("main.py", "import web, check"), ("web/__init__.py", "")];
        assert_eq!(modules_of(&own, "main.handler"), ["check"]);
        let own = [("main.py", "import web, check"), ("lib/check.py", "")];
        assert_eq!(modules_of(&own, "main.handler"), ["web"]);
    }

    #[test]
    fn code_that_changes_where_modules_come_from_is_left_alone() {
        let text = "import sys\nsys.path.insert(0, 'vendor')\nimport web\n";
        assert!(modules_of(&[("main.py", text)], "main.handler").is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let code = files(&[("other.py", "")]);
        let pipe = code.path().join("main.py");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let listing = Listing::of(code.path());
        let (hooks, none) = (["main.handler", "none"].into_iter(), HashSet::new());
        let found = wanted(code.path(), hooks, Some(&listing), &none);
        assert!(found.modules.is_empty());
    }
}
