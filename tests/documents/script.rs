//! The commands of a document, and whether an output is what the document shows.

/// A command of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The line of the document.
    pub(crate) line: usize,
    /// What is typed.
    pub(crate) command: String,
    /// Whether the document goes on while it runs (it ends with `&`).
    pub(crate) background: bool,
    /// What it prints, if the document shows it.
    pub(crate) output: String,
}

impl Step {
    /// A command that no document shows, which runs until the end.
    pub(crate) fn background(command: &str) -> Self {
        Self {
            line: 0,
            command: command.to_owned(),
            background: true,
            output: String::new(),
        }
    }
}

/// The steps in the `console` blocks of a Markdown document.
pub(crate) fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    let mut continued = false;
    for (index, text) in document.lines().enumerate() {
        if text.starts_with("```") {
            inside = text == "```console";
            continued = false;
        } else if let Some(command) = text.strip_prefix("$ ").filter(|_| inside) {
            continued = command.ends_with('\\');
            steps.push(Step {
                line: index + 1,
                command: command.to_owned(),
                background: false,
                output: String::new(),
            });
        } else if let Some(step) = steps.last_mut().filter(|_| inside) {
            let part = if continued {
                &mut step.command
            } else {
                &mut step.output
            };
            if !part.is_empty() {
                part.push('\n');
            }
            part.push_str(text);
            continued = continued && text.ends_with('\\');
        }
    }
    for step in &mut steps {
        if let Some(command) = step.command.strip_suffix(" &") {
            step.background = true;
            step.command = command.to_owned();
        }
    }
    steps
}

/// Whether `output` is what the document shows, where `…` stands for any text.
pub(crate) fn matches(shown: &str, output: &str) -> bool {
    let (shown, output) = (tidy(shown), tidy(output));
    let mut parts = shown.split('…');
    let Some(first) = parts.next() else {
        return output.is_empty();
    };
    let Some(mut rest) = output.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Without blanks at the ends of lines and of the text.
fn tidy(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

#[test]
fn commands_are_found_with_their_outputs() {
    let document = "text\n```console\n$ one\n1\n2\n$ two \\\n    more\n$ three &\n```\n\
                    ```sh\n$ not this\n```\n```console\n$ four\n```\n";
    let found = steps(document);
    let step = |line, command: &str, background, output: &str| Step {
        line,
        command: command.to_owned(),
        background,
        output: output.to_owned(),
    };
    assert_eq!(
        found,
        [
            step(3, "one", false, "1\n2"),
            step(6, "two \\\n    more", false, ""),
            step(8, "three", true, ""),
            step(14, "four", false, ""),
        ]
    );
}

#[test]
fn an_ellipsis_stands_for_any_text() {
    assert!(matches("a … c", "a b b c\n"));
    assert!(matches("a\n…\nz", "a\nb\nc\nz"));
    assert!(matches("…z", "abc z"));
    assert!(matches("a…", "a\nmore"));
    assert!(matches("same", "same  \n"));
    assert!(!matches("a … c", "a b"));
    assert!(!matches("a", "a b"));
    assert!(!matches("…z", "z a"));
}
