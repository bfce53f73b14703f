//! Trace ids: what identifies one call in answers, logs and the function's context.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use uuid::Builder;

/// A longer id is cut here (contract 5.1).
const LONGEST: usize = 128;

/// Makes ids for calls that bring none.
///
/// A random UUID per call would cost a system call each. A keyed hash of a counter cannot be told
/// from random either, because the keys are random and never leave the process.
#[derive(Debug, Default)]
pub(crate) struct TraceIds {
    keys: RandomState,
    next: AtomicU64,
}

impl TraceIds {
    /// The id the client sent, cut and without what is not printable ASCII, or a new one.
    pub(crate) fn of_call(&self, sent: [Option<&HeaderValue>; 2]) -> Arc<str> {
        sent.into_iter()
            .flatten()
            .find_map(printable)
            .unwrap_or_else(|| self.generate())
    }

    fn generate(&self) -> Arc<str> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let high = self.keys.hash_one((number, 0_u8));
        let low = self.keys.hash_one((number, 1_u8));
        let bits = (u128::from(high) << 64) | u128::from(low);
        let uuid = Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        Arc::from(&*uuid.hyphenated().encode_lower(&mut text))
    }
}

fn printable(value: &HeaderValue) -> Option<Arc<str>> {
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
    let bytes = value.as_bytes();
    if let Ok(text) = value.to_str()
        && text.len() <= LONGEST
        && bytes.iter().copied().all(is_printable)
    {
        return (!text.is_empty()).then(|| Arc::from(text));
    }
    let kept: String = bytes
        .iter()
        .copied()
        .filter(|byte| is_printable(*byte))
        .take(LONGEST)
        .map(char::from)
        .collect();
    (!kept.is_empty()).then(|| Arc::from(kept))
}

/// The text of a `traceparent` of the W3C form; none where it is not of that form.
pub(crate) fn trace_parent(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let is_hex = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |part: &str| part.bytes().any(|byte| byte != b'0');
    let mut parts = text.splitn(5, '-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let well_formed = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && is_set(trace)
        && is_hex(span, 16)
        && is_set(span)
        && is_hex(flags, 2)
        // Later versions may append fields; version 00 has exactly these four.
        && (version != "00" || parts.next().is_none());
    well_formed.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_bytes(text.as_bytes()).unwrap()
    }

    fn id(first: Option<&str>, second: Option<&str>) -> String {
        let (first, second) = (first.map(value), second.map(value));
        TraceIds::default()
            .of_call([first.as_ref(), second.as_ref()])
            .to_string()
    }

    #[test]
    fn the_first_id_that_was_sent_is_taken() {
        assert_eq!(id(Some("a"), Some("b")), "a");
        assert_eq!(id(None, Some("b")), "b");
        assert_eq!(id(Some(""), Some("b")), "b");
    }

    #[test]
    fn an_id_is_cut_and_freed_of_what_is_not_printable() {
        assert_eq!(id(Some(&"x".repeat(200)), None), "x".repeat(128));
        assert_eq!(id(Some("a\tb\u{e9}c"), None), "abc");
    }

    #[test]
    fn without_an_id_a_new_uuid_is_made_each_time() {
        let ids = TraceIds::default();
        let (first, second) = (ids.of_call([None, None]), ids.of_call([None, None]));
        assert_ne!(first, second);
        let uuid: uuid::Uuid = first.parse().unwrap();
        assert_eq!(uuid.get_version_num(), 4);
    }

    #[test]
    fn only_a_well_formed_traceparent_counts() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(trace_parent(&value(&good)), Some(&*good));
        assert!(trace_parent(&value(&format!("01-{trace}-00f067aa0ba902b7-01-more"))).is_some());
        for bad in [
            "",
            "00",
            &format!("00-{trace}-00f067aa0ba902b7-01-more"),
            &format!("ff-{trace}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{trace}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            &format!("00-{trace}-00f067aa0ba902b7"),
        ] {
            assert!(trace_parent(&value(bad)).is_none(), "{bad}");
        }
    }
}
