//! JSON that is written field by field: a registration writes some hundred of them, and a tree in
//! between would cost more than everything else of it.

use serde::Serialize;

/// Room for a value without asking for more.
const USUAL: usize = 4096;

/// An object that is being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl Object<'_> {
    /// The text of an object with the fields that `fill` writes.
    pub(crate) fn write(fill: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = Object::write(|whole| {
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
        assert_eq!(Object::write(|_| {}), b"{}");
    }
}
