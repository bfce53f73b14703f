//! The one error of this crate: a text that is not what it should be.

/// A text that does not have the form its type demands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct ParseError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl ParseError {
    /// Says that `text` is not a valid `what`, because of `rule`. Long texts are cut, so that an
    /// error never grows with a hostile input.
    pub fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        const SHOWN: usize = 200;
        let text = text.chars().take(SHOWN).collect();
        Self { what, text, rule }
    }

    /// The kind of value that was expected, for instance `function name`.
    pub fn what(&self) -> &'static str {
        self.what
    }
}
