//! Records that an openYuanrong meta service wrote (contract 7.2.1), as records of ours.
//!
//! Such a record has no format number, clear variables, and texts of JSON where ours has values.
//! What it has beyond ours is dropped when the function is next changed here; what it lacks has the
//! value of a function that does not name it. The published values are read where they are
//! (`specification.rs`): they have the same form whoever wrote them.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::record::{FORMAT, Record};

/// A part of a version, and whether a value is one.
type Part = (&'static str, fn(&Value) -> bool);

/// Parts that are objects: one that has another form than ours counts as absent, so that an
/// accelerator that nobody here knows does not hide a function.
const PARTS: [Part; 8] = [
    ("HookHandler", is::<BTreeMap<String, String>>),
    ("ExtendedHandler", is::<BTreeMap<String, String>>),
    ("ExtendedTimeout", is::<BTreeMap<String, i64>>),
    ("Device", is::<bugle_api::Device>),
    ("AutoScaleConfig", is::<bugle_api::AutoScaleConfig>),
    ("RootfsSpecMeta", is::<bugle_api::Rootfs>),
    (
        "CustomContainerConfig",
        is::<bugle_api::CustomContainerConfig>,
    ),
    ("CustomHealthCheck", is::<bugle_api::CustomHealthCheck>),
];

fn is<T: DeserializeOwned>(value: &Value) -> bool {
    T::deserialize(value).is_ok()
}

/// The record; none if it is not one of a meta service.
pub(crate) fn record(value: &[u8]) -> Option<Record> {
    let mut record: Map<String, Value> = serde_json::from_slice(value).ok()?;
    // A record of ours that cannot be read is damaged or newer, and not a guest.
    if record.contains_key("BugleFormat") {
        return None;
    }
    record.insert("BugleFormat".to_owned(), FORMAT.into());
    let version = record.get_mut("FunctionVersion")?.as_object_mut()?;
    version.retain(|_, value| !value.is_null());
    parse_amounts(version, "CustomResources");
    rename_timers(version);
    for (name, fits) in PARTS {
        if version.get(name).is_some_and(|value| !fits(value)) {
            version.remove(name);
        }
    }
    if version.get("Environment").and_then(Value::as_str) == Some("{}") {
        version.remove("Environment");
    }
    // One that names no kind is of what the documents call the default.
    if version.get("Kind").is_none_or(|kind| kind == "") {
        version.insert("Kind".to_owned(), "yrlib".into());
    }
    let function = record.get_mut("Function")?.as_object_mut()?;
    for name in ["Version", "Description", "CreateTime", "UpdateTime"] {
        let text = function.entry(name).or_insert(Value::Null);
        if !text.is_string() {
            *text = "".into();
        }
    }
    serde_json::from_value(Value::Object(record)).ok()
}

/// Where a meta service keeps a text of JSON, the value is meant.
fn parse_amounts(version: &mut Map<String, Value>, name: &str) {
    let Some(text) = version.get(name).and_then(Value::as_str) else {
        return;
    };
    match serde_json::from_str::<BTreeMap<String, f64>>(text) {
        Ok(amounts) if !amounts.is_empty() => {
            version.insert(name.to_owned(), serde_json::json!(amounts));
        }
        _ => {
            version.remove(name);
        }
    }
}

/// The timers have names of their own in records.
fn rename_timers(version: &mut Map<String, Value>) {
    let Some(Value::Object(timers)) = version.get_mut("AutoScaleConfig") else {
        return;
    };
    for (theirs, ours) in [
        ("SLAQuota", "slaQuota"),
        ("ScaleDownTime", "scaleDownTime"),
        ("BurstScaleNum", "burstScaleNum"),
    ] {
        if let Some(value) = timers.remove(theirs) {
            timers.insert(ours.to_owned(), value);
        }
    }
}
