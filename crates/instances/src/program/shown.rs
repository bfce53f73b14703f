//! Shows in a function's log what the platform sends to its server and what comes back, for whoever
//! writes that server.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderMap, Response, header};

use super::output::Output;
use super::wire::{Failed, Message};
use crate::HttpBody;

/// The longest body that is shown.
const LONGEST: usize = 1024;

/// Where exchanges are shown.
#[derive(Clone)]
pub(crate) struct Shown(Arc<Output>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shown").finish_non_exhaustive()
    }
}

impl Shown {
    pub(crate) fn new(output: &Arc<Output>) -> Self {
        Self(Arc::clone(output))
    }

    /// Shows a request that is about to be sent.
    pub(super) fn request(&self, message: &Message) {
        let mut lines = vec![format!("> {} {} HTTP/1.1", message.method(), message.uri())];
        lines.extend(headers('>', message.headers()));
        lines.push(match message.body() {
            HttpBody::Whole(body) => format!("> {}", body_text(body)),
            HttpBody::Stream(_) => "> (a body that streams)".to_owned(),
        });
        self.say(lines);
    }

    /// Shows what has come of it: the head of the answer, or why there is none.
    pub(super) fn answer<T>(
        &self,
        answered: &Result<(T, Response<hyper::body::Incoming>), Failed>,
    ) {
        let lines = match answered {
            Ok((_, response)) => {
                let mut lines = vec![format!("< HTTP/1.1 {}", response.status())];
                lines.extend(headers('<', response.headers()));
                lines
            }
            Err(Failed::Refused(error, _)) => vec![format!("< no connection: {error}")],
            Err(Failed::Lost) => vec!["< the connection ended without an answer".to_owned()],
            Err(Failed::Malformed(why)) => vec![format!("< this is not HTTP: {why}")],
        };
        self.say(lines);
    }

    fn say(&self, lines: Vec<String>) {
        for line in lines {
            self.0.say(line);
        }
    }
}

/// The headers as they are written. Those with which callers identify themselves are nobody's
/// business.
fn headers(sign: char, headers: &HeaderMap) -> Vec<String> {
    let show = |name, value: &http::HeaderValue| match name {
        &header::AUTHORIZATION | &header::COOKIE | &header::SET_COOKIE => {
            format!("{sign} {name}: (hidden)")
        }
        name => format!(
            "{sign} {name}: {}",
            String::from_utf8_lossy(value.as_bytes())
        ),
    };
    headers
        .iter()
        .map(|(name, value)| show(name, value))
        .collect()
}

fn body_text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok("") => "(no body)".to_owned(),
        Ok(text) if text.len() <= LONGEST => {
            let mut shown = String::with_capacity(text.len());
            for one in text.chars() {
                // One line of the log, and nothing that a terminal would obey.
                if one.is_control() {
                    _ = write!(shown, "{}", one.escape_default());
                } else {
                    shown.push(one);
                }
            }
            shown
        }
        _ => format!("({} bytes)", body.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_one_line_that_terminals_do_not_obey() {
        assert_eq!(body_text(b"{}"), "{}");
        assert_eq!(body_text(b"a\n\x1b[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(body_text(b"\xff"), "(1 bytes)");
        assert_eq!(body_text(&[b'x'; LONGEST + 1]), "(1025 bytes)");
    }

    #[test]
    fn what_callers_identify_themselves_with_is_hidden() {
        let mut all = HeaderMap::new();
        all.insert(header::AUTHORIZATION, http::HeaderValue::from_static("me"));
        all.insert(header::HOST, http::HeaderValue::from_static("here"));
        let shown = headers('>', &all);
        assert!(
            shown.contains(&"> authorization: (hidden)".to_owned()),
            "{shown:?}"
        );
        assert!(shown.contains(&"> host: here".to_owned()), "{shown:?}");
    }
}
