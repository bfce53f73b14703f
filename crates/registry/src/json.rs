//! JSON field by field. A registration writes some hundred fields, and a tree in between would cost
//! more than everything else of it. Who follows registrations wants one or two of these, and checking
//! all the others as a parser does would cost more than the rest of following.

use serde::{Deserialize, Serialize};

/// The text of a value that always can be written, and usually fits into so many bytes.
pub(crate) fn text(value: &impl Serialize, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room);
    serde_json::to_writer(&mut out, value).expect("the value can be written as JSON");
    out
}

/// An object that is being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl Object<'_> {
    /// The text of an object with the fields that `fill` writes, which usually fits into so many
    /// bytes.
    pub(crate) fn write(room: usize, fill: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(room);
        Object::within(&mut out, fill);
        out
    }

    fn within(out: &mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        let is_empty = true;
        fill(&mut Object { out, is_empty });
        out.push(b'}');
    }

    /// Writes a field: a name that was not written yet and that JSON takes as it is, and a value that
    /// always can be written.
    pub(crate) fn field(&mut self, name: &str, value: impl Serialize) -> &mut Self {
        self.name(name);
        serde_json::to_writer(&mut *self.out, &value).expect("the value can be written as JSON");
        self
    }

    /// Writes a field that is an object.
    pub(crate) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        self.name(name);
        Object::within(self.out, fill);
        self
    }

    fn name(&mut self, name: &str) {
        debug_assert!(!name.contains(['"', '\\']), "the name needs no escapes");
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// The fields of an object in their order: each name, as it is written, and the text from its value
/// on. For values that this program, or one that it works with, has written: nothing is checked but
/// where each value ends, and that only where another field is asked for. What is no object has no
/// fields.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    /// The rest begins with the value of the field that was read last.
    at_value: bool,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(text: &'a [u8]) -> Self {
        let rest = text.trim_ascii_start().strip_prefix(b"{");
        Self {
            rest: rest.unwrap_or_default(),
            at_value: false,
        }
    }

    /// The text from the value of the first field of this name on.
    pub(crate) fn find(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let mut fields = Self::of(text);
        fields
            .find(|(found, _)| *found == name.as_bytes())
            .map(|(_, value)| value)
    }

    fn read(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let mut rest = self.rest;
        if self.at_value {
            rest = &rest[value(rest)?..];
        }
        let rest = rest.trim_ascii_start();
        let rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        let rest = rest.strip_prefix(b"\"")?;
        let (name, rest) = rest.split_at(string(rest)?);
        let rest = rest.trim_ascii_start().strip_prefix(b":")?;
        self.rest = rest.trim_ascii_start();
        self.at_value = true;
        Some((name.strip_suffix(b"\"")?, self.rest))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_none() {
            (self.rest, self.at_value) = (&[], false);
        }
        read
    }
}

/// Reads the value that a text begins with. None if it is no such value, or is cut off.
pub(crate) fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    serde_json::from_slice(&text[..value(text)?]).ok()
}

/// How much of a text is the string that has begun before it, with the quote that ends it.
fn string(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// How much of a text is the value that it begins with.
fn value(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        let byte = text.get(at)?;
        at += 1;
        match byte {
            b',' | b'}' | b']' if depth == 0 => return Some(at - 1),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => at += string(&text[at..])?,
            _ => continue,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = Object::write(0, |whole| {
            whole
                .field("text", "a \"quote\"\n")
                .object("empty", |_| {})
                .object("inner", |inner| {
                    inner.field("none", ()).field("list", [1, 2]);
                })
                .field("last", true);
        });
        let read: Value = serde_json::from_slice(&text).unwrap();
        let wanted = json!({
            "text": "a \"quote\"\n", "empty": {}, "inner": {"none": null, "list": [1, 2]},
            "last": true,
        });
        assert_eq!(read, wanted);
        assert_eq!(Object::write(0, |_| {}), b"{}");
    }

    #[test]
    fn each_field_is_found_with_the_text_of_its_value() {
        let value = json!({
            "": "", "text": "a \"quote\", {, [ and \\", "number": -1.5e3, "null": null, "true": true,
            "empty": {}, "none": [], "deep": {"a": [{"b": "}]"}, [[]], 1], "c": {"d": "\\\""}},
            "a \"name\": ": 1, "last": "ü",
        });
        for text in [
            serde_json::to_string(&value).unwrap(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let wanted = value.as_object().unwrap();
            let mut read = serde_json::Map::new();
            for (name, value) in Fields::of(text.as_bytes()) {
                let name = [b"\"", name, b"\""].concat();
                let name: String = serde_json::from_slice(&name).unwrap();
                read.insert(name, super::read(value).unwrap());
            }
            assert_eq!(read, *wanted);
            let found = Fields::find(text.as_bytes(), "number").unwrap();
            assert_eq!(super::read(found), Some(-1500.0));
            assert_eq!(Fields::find(text.as_bytes(), "b"), None);
        }
    }

    #[test]
    fn what_is_no_object_or_is_cut_off_ends() {
        let whole = br#"{"a": "b\"", "c": [1, {"d": 2}], "e": 3}"#;
        for end in 0..whole.len() {
            let fields = Fields::of(&whole[..end]);
            let read = fields.filter(|(_, value)| read::<Value>(value).is_some());
            assert!(read.count() < 3, "{end}");
        }
        for text in [
            "",
            "null",
            "[1]",
            "{",
            "{]",
            r#"{"a""#,
            r#"{"a":}"#,
            r#"{"a":]"#,
            r#"{"a" "b"}"#,
            "{1:2}",
        ] {
            let mut fields = Fields::of(text.as_bytes());
            assert!(
                fields.all(|(_, value)| read::<Value>(value).is_none()),
                "{text}"
            );
        }
    }
}
