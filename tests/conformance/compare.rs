//! When an answer agrees with the recorded one.
//!
//! The status must be the same. An answer with a non-zero `code` must have that code and message
//! (the words of a JSON decoder are its own, so for 130600 the code alone). Of any other JSON answer,
//! every recorded key must be there with the recorded value; more keys are welcome, and a value that
//! the reference leaves empty may be filled. What differs from run to run by nature (revisions,
//! times, generated version labels) must have the same type. Any other body must be the same text.

use std::collections::BTreeMap;

use serde_json::Value;

/// Keys whose values differ from run to run.
const VOLATILE: [&str; 6] = [
    "revisionId",
    "createTime",
    "updateTime",
    "Published",
    "lastModified",
    "created",
];
/// The code of a body that cannot be decoded.
const UNDECODABLE: u64 = 130_600;

/// Recorded texts, and what this run has in their place.
pub(crate) type Learnt = BTreeMap<String, String>;

/// Every way in which the answer falls short of the recorded one.
pub(crate) fn shortcomings(recorded: (u16, &str), actual: (u16, &str)) -> Vec<String> {
    let mut found = Vec::new();
    if recorded.0 != actual.0 {
        found.push(format!("status {} expected, got {}", recorded.0, actual.0));
    }
    match serde_json::from_str::<Value>(recorded.1) {
        Ok(expected) if expected.is_object() || expected.is_array() => {
            match serde_json::from_str::<Value>(actual.1) {
                Ok(answer) => found.extend(in_json(&expected, &answer)),
                Err(_) => found.push(format!("JSON expected, got {:?}", actual.1)),
            }
        }
        _ if recorded.1 == actual.1 => {}
        _ => found.push(format!(
            "body {:?} expected, got {:?}",
            recorded.1, actual.1
        )),
    }
    found
}

fn in_json(expected: &Value, answer: &Value) -> Vec<String> {
    let code = expected["code"].as_u64().unwrap_or(0);
    if code == 0 {
        let mut found = Vec::new();
        differences(expected, answer, "$", &mut found);
        return found;
    }
    let mut found = Vec::new();
    if answer["code"] != expected["code"] {
        found.push(format!("code {code} expected, got {}", answer["code"]));
    }
    if code != UNDECODABLE && answer["message"] != expected["message"] {
        let (expected, answer) = (&expected["message"], &answer["message"]);
        found.push(format!("message {expected} expected, got {answer}"));
    }
    found
}

fn differences(expected: &Value, answer: &Value, at: &str, found: &mut Vec<String>) {
    match (expected, answer) {
        (Value::Object(fields), Value::Object(given)) => {
            for (key, value) in fields {
                let at = format!("{at}.{key}");
                match given.get(key) {
                    None => found.push(format!("{at}: missing")),
                    Some(actual) if VOLATILE.contains(&key.as_str()) => {
                        if kind(value) != kind(actual) {
                            found.push(format!("{at}: a {} expected", kind(value)));
                        }
                    }
                    Some(actual) => differences(value, actual, &at, found),
                }
            }
        }
        (Value::Array(entries), Value::Array(given)) if entries.len() == given.len() => {
            for (index, (entry, actual)) in entries.iter().zip(given).enumerate() {
                differences(entry, actual, &format!("{at}[{index}]"), found);
            }
        }
        (Value::Array(entries), _) => {
            found.push(format!(
                "{at}: {} entries expected, got {answer}",
                entries.len()
            ));
        }
        (Value::Object(_), _) => found.push(format!("{at}: an object expected, got {answer}")),
        (Value::String(text), Value::String(actual)) if same_text(text, actual) => {}
        _ if is_empty(expected) && !is_empty(answer) => {}
        _ if expected == answer => {}
        _ => found.push(format!("{at}: {expected} expected, got {answer}")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn same_text(expected: &str, actual: &str) -> bool {
    without_generated(expected) == without_generated(actual)
        || (is_time(expected) && is_time(actual))
}

/// The shape of a version label that the service makes up: `v20261121-003108`.
const GENERATED: &str = "v00000000-000000";

fn is_generated(text: &str) -> bool {
    has_shape(text, GENERATED)
}

/// Whether `text` is `shape` with any digit for each zero of it.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == wanted,
            })
}

fn without_generated(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(first) = rest.chars().next() {
        match rest.get(..GENERATED.len()) {
            Some(start) if is_generated(start) => {
                kept.push_str("{generated}");
                rest = &rest[GENERATED.len()..];
            }
            _ => {
                kept.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    kept
}

fn is_time(text: &str) -> bool {
    let Some(text) = text.strip_suffix(" UTC") else {
        return false;
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    digits && has_shape(seconds, "0000-00-00 00:00:00")
}

/// Remembers what this run has in place of the revisions and generated labels of the recording.
pub(crate) fn learn(recorded: &str, actual: &str, learnt: &mut Learnt) {
    if let (Ok(recorded), Ok(actual)) = (
        serde_json::from_str::<Value>(recorded),
        serde_json::from_str::<Value>(actual),
    ) {
        learn_values(&recorded, &actual, learnt);
    }
}

fn learn_values(recorded: &Value, actual: &Value, learnt: &mut Learnt) {
    match (recorded, actual) {
        (Value::Object(fields), Value::Object(given)) => {
            for (key, value) in fields {
                let Some(actual) = given.get(key) else {
                    continue;
                };
                match (key.as_str(), value.as_str(), actual.as_str()) {
                    ("revisionId", Some(old), Some(new)) if !old.is_empty() => {
                        learnt.insert(old.to_owned(), new.to_owned());
                    }
                    ("versionNumber", Some(old), Some(new)) if is_generated(old) => {
                        learnt.insert(old.to_owned(), new.to_owned());
                    }
                    _ => learn_values(value, actual, learnt),
                }
            }
        }
        (Value::Array(entries), Value::Array(given)) => {
            for (entry, actual) in entries.iter().zip(given) {
                learn_values(entry, actual, learnt);
            }
        }
        _ => {}
    }
}

/// `text` with everything learnt in its place.
pub(crate) fn substitute(text: &str, learnt: &Learnt) -> String {
    learnt
        .iter()
        .fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
}

#[test]
fn filling_what_the_reference_leaves_empty_agrees() {
    let recorded = r#"{"a":"","b":null,"c":{},"d":1}"#;
    let actual = r#"{"a":"x","b":[1],"c":{"k":1},"d":1,"more":true}"#;
    assert!(shortcomings((200, recorded), (200, actual)).is_empty());
}

#[test]
fn another_value_type_length_or_status_disagrees() {
    for (recorded, actual) in [
        (r#"{"a":1}"#, r#"{"a":"1"}"#),
        (r#"{"a":"x"}"#, r#"{"a":""}"#),
        (r#"{"a":[]}"#, r#"{"a":[1]}"#),
        (r#"{"a":{"b":1}}"#, r#"{"a":{}}"#),
        (r#"{"revisionId":"1"}"#, r#"{"revisionId":1}"#),
        (r#"{"code":1,"message":"m"}"#, r#"{"code":1,"message":"n"}"#),
        ("text", "other"),
        ("{}", "text"),
    ] {
        assert_eq!(
            shortcomings((200, recorded), (200, actual)).len(),
            1,
            "{recorded} {actual}"
        );
    }
    assert_eq!(shortcomings((200, "{}"), (500, "{}")).len(), 1);
}

#[test]
fn times_revisions_and_generated_labels_may_differ() {
    let recorded =
        r#"{"revisionId":"1","urn":"f:v20261121-003108","t":"2026-11-21 00:31:08.9 UTC"}"#;
    let actual = r#"{"revisionId":"2","urn":"f:v20270101-000000","t":"2027-01-01 00:00:00 UTC"}"#;
    assert!(shortcomings((200, recorded), (200, actual)).is_empty());
}

#[test]
fn only_the_code_of_an_undecodable_body_counts() {
    let recorded = r#"{"code":130600,"message":"theirs"}"#;
    let actual = r#"{"code":130600,"message":"ours"}"#;
    assert!(shortcomings((400, recorded), (400, actual)).is_empty());
}

#[test]
fn what_was_learnt_goes_into_later_requests() {
    let mut learnt = Learnt::new();
    let recorded = r#"{"f":[{"revisionId":"111","versionNumber":"v20261121-003108"}]}"#;
    let actual = r#"{"f":[{"revisionId":"222","versionNumber":"v20270101-000000"}]}"#;
    learn(recorded, actual, &mut learnt);
    assert_eq!(
        substitute("111 at v20261121-003108", &learnt),
        "222 at v20270101-000000"
    );
}
