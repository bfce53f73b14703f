//! Printing an error with its causes.

/// The error and its causes in one line, outermost first: `commit: disk: no space left`.
///
/// This is the only place that walks an error chain; `Display` of an error never repeats its cause.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
