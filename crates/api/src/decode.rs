//! Reading bodies the way clients of the original expect (contract 2.2).
//!
//! The content type does not matter; only the first JSON value is read; fields match without regard
//! to case; unknown fields are ignored; `null` is absent; numbers are integer literals where
//! integers are meant.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;

/// A type that is read from a body: the names of its fields, and what is below them.
pub(crate) trait Shape {
    /// The fields in their canonical spelling.
    const FIELDS: &'static [Field];
}

/// A field and what its value holds.
pub(crate) struct Field(pub(crate) &'static str, pub(crate) Below);

/// What is below a field.
pub(crate) enum Below {
    /// A value whose keys, if any, are the user's.
    Value,
    /// An object of ours.
    Object(&'static [Field]),
    /// A list of objects of ours.
    List(&'static [Field]),
}

/// Reads a body.
///
/// # Errors
///
/// 130600 with what is wrong, and where.
pub(crate) fn read<T: DeserializeOwned + Shape>(body: &[u8]) -> Result<T, Error> {
    if let Some(read) = as_written(body) {
        return Ok(read);
    }
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let value = match values.next() {
        None => return Err(Error::body("EOF")),
        Some(Err(error)) if error.is_eof() => return Err(Error::body("unexpected EOF")),
        Some(Err(error)) => return Err(Error::body(format!("the body is not JSON: {error}"))),
        Some(Ok(value)) => value,
    };
    let object = match value {
        Value::Null => Map::new(),
        Value::Object(object) => canonical(object, T::FIELDS),
        other => {
            let found = name_of(&other);
            return Err(Error::body(format!(
                "the body is {found}, a JSON object is expected"
            )));
        }
    };
    decoded(Value::Object(object)).map_err(Error::body)
}

/// Reads a body whose fields are all known, spelled as ours and there once, in one pass: nearly every
/// body is one. Whatever else it is, it is none here, and wrong only if it is wrong on the long way too.
fn as_written<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    // A list would be taken for the values of the fields.
    body.trim_ascii_start().strip_prefix(b"{")?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let mut is_known = true;
    let read = serde_ignored::deserialize(&mut reader, |_| is_known = false);
    read.ok().filter(|_| is_known)
}

/// Reads a value that has the shape of a request.
///
/// # Errors
///
/// The field that is wrong, and what is expected there, in words for people.
pub fn decoded<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let mut reason = error.into_inner().to_string();
        for (ours, plain) in [
            ("expected i64", "expected an integer"),
            ("expected i32", "expected an integer"),
            ("expected u64", "expected an integer that is not negative"),
            ("expected u32", "expected an integer that is not negative"),
            ("expected f64", "expected a number"),
        ] {
            reason = reason.replace(ours, plain);
        }
        format!("field {path}: {reason}")
    })
}

/// The object with the canonical names of its known fields, without unknown fields and nulls.
fn canonical(object: Map<String, Value>, fields: &[Field]) -> Map<String, Value> {
    let mut known = Map::new();
    for (key, value) in object {
        let Some(Field(name, below)) = fields
            .iter()
            .find(|Field(name, _)| name.eq_ignore_ascii_case(&key))
        else {
            continue;
        };
        let value = match (below, value) {
            (_, Value::Null) => continue,
            (Below::Object(fields), Value::Object(inner)) => {
                Value::Object(canonical(inner, fields))
            }
            (Below::List(fields), Value::Array(items)) => {
                let item = |item| match item {
                    Value::Object(inner) => Value::Object(canonical(inner, fields)),
                    other => other,
                };
                Value::Array(items.into_iter().map(item).collect())
            }
            (Below::Value, Value::Object(inner)) => Value::Object(
                inner
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .collect(),
            ),
            (_, value) => value,
        };
        known.insert((*name).to_owned(), value);
    }
    known
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FunctionRequest;

    fn read(text: &str) -> Result<FunctionRequest, Error> {
        super::read(text.as_bytes())
    }

    #[test]
    fn fields_match_without_regard_to_case_and_unknown_ones_do_not_matter() {
        let request = read(
            r#"{"NAME":"f","Cpu":1,"bogus":{"x":1},"s3codepath":{"BUCKETID":"b"},
                "environment":{"Key":"v"}} trailing"#,
        )
        .unwrap();
        assert_eq!((request.name.as_deref(), request.cpu), (Some("f"), Some(1)));
        assert_eq!(request.s3_code_path.unwrap().bucket_id, "b");
        assert_eq!(request.environment.unwrap()["Key"], "v");
    }

    #[test]
    fn null_is_absent_at_every_level() {
        let request = read(r#"{"name":null,"rootfs":{"path":null},"environment":{"a":null}}"#);
        let request = request.unwrap();
        assert_eq!(request.name, None);
        assert_eq!(request.environment.unwrap().len(), 0);
        assert_eq!(read("null").unwrap().name, None);
    }

    #[test]
    fn wrong_types_are_named() {
        for (text, field) in [
            (r#"{"cpu":600.5}"#, "cpu"),
            (r#"{"cpu":600.0}"#, "cpu"),
            (r#"{"cpu":"600"}"#, "cpu"),
            (r#"{"cpu":99999999999999999999}"#, "cpu"),
            (r#"{"maxInstance":10}"#, "maxInstance"),
            (r#"{"environment":[]}"#, "environment"),
            (r#"{"environment":{"A":1}}"#, "environment.A"),
            (r#"{"customResources":{"x":"1"}}"#, "customResources.x"),
            (r#"{"enableAgentSession":"yes"}"#, "enableAgentSession"),
            (r#"{"s3CodePath":{"bucketId":1}}"#, "s3CodePath.bucketId"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code, bugle_types::Code::InvalidParamErrorCode);
            assert!(
                error.message.starts_with(&format!("field {field}:"))
                    && !error.message.contains("i64"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn both_ways_read_the_same() {
        let long_way = |text: &str| {
            // One unknown field more, and nothing else.
            let body = text
                .replacen('{', r#"{"unknown": 0, "#, 1)
                .replace(", }", "}");
            read(&body).map_err(|error| error.message)
        };
        for text in [
            "{}",
            r#" {"name": "f", "cpu": 600, "memory": 512, "tags": {"a": "b", "a": "c"}} trailing"#,
            r#"{"customResources": {"NPU": 1, "GPU": 1.5}, "layers": [], "device": {"count": 2}}"#,
            r#"{"s3CodePath": {"bucketId": "b"}, "rootfs": {"storageInfo": {"endpoint": "e"}}}"#,
            r#"{"schedulePolicies": [{"group": "g", "priority": 1}, {}]}"#,
            r#"{"extendedMetaData": {"mount_config": {"func_mounts": [{"mount_type": "host"}]}}}"#,
            // What only the long way can read.
            r#"{"name": "f", "NAME": "g"}"#,
            r#"{"name": "f", "name": "g"}"#,
            r#"{"name": null, "rootfs": {"path": null, "mounts": null}}"#,
            r#"{"device": {"Count": 2, "unknown": {}}, "environment": {"a": null}}"#,
            // What neither can.
            r#"{"cpu": 600.5}"#,
            r#"{"cpu": 99999999999999999999}"#,
            r#"{"environment": {"A": 1}}"#,
            r#"{"rootfs": [], "device": [1]}"#,
        ] {
            let read = read(text).map_err(|error| error.message);
            assert_eq!(read, long_way(text), "{text}");
        }
        let usual = r#"{"name": "f", "device": {"count": 2}, "tags": {"A": "b"}}"#;
        assert!(as_written::<FunctionRequest>(usual.as_bytes()).is_some());
        for other in [r#"{"device": {"Count": 2}}"#, r#"{"bogus": null}"#, "[]"] {
            assert_eq!(as_written::<FunctionRequest>(other.as_bytes()), None);
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "  ", "[]", "1", "\"x\"", "{", "{\"name\":", "nope"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
