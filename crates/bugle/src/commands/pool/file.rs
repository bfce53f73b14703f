//! Files with pools: YAML, of which JSON is a part.
//!
//! A file is what the API takes, with one convenience: fields that hold JSON inside a text may be
//! written as lists and objects. Names are checked here, where a typing error is a mistake; values
//! are checked by the platform.

use std::io::Read as _;
use std::path::Path;

use bugle_api::PoolRequest;
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome, exit};
use crate::near;

/// The JSON Schema of these files.
pub(super) const SCHEMA: &str = include_str!("../../../../../docs/pools.schema.json");

/// The largest file: what a request may hold.
const LARGEST: u64 = 2 << 20;

/// Fields that hold JSON inside a text.
const STRUCTURED: [&str; 6] = [
    "volumes",
    "volume_mounts",
    "affinities",
    "tolerations",
    "horizontal_pod_autoscaler_spec",
    "topology_spread_constraints",
];

/// The pools in a file.
pub(super) fn read(path: &Path) -> Outcome<Vec<PoolRequest>> {
    let shown = path.display();
    let refuse = |reason: String| Failure::new(exit::REFUSED, format!("{shown}: {reason}"));
    let text = text(path)?;
    let file = serde_yaml_ng::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    let mut read = Vec::new();
    for (index, entry) in entries(file).map_err(refuse)?.into_iter().enumerate() {
        let id = entry.get("id").and_then(Value::as_str);
        let name = id.map_or_else(|| format!("number {}", index + 1), str::to_owned);
        let pool = pool(entry).map_err(|reason| refuse(format!("pool {name}: {reason}")))?;
        read.push(pool);
    }
    Ok(read)
}

/// The pools of a file, unread.
fn entries(file: Value) -> Result<Vec<Value>, String> {
    let mut pool = match file {
        Value::Null => return Err(NOTHING.to_owned()),
        Value::Object(pool) => pool,
        other => return Err(format!("{} is no pool; {EXPECTED}", kind(&other))),
    };
    let Some(pools) = pool.remove("pools") else {
        return Ok(vec![Value::Object(pool)]);
    };
    if let Some(name) = pool.keys().next() {
        return Err(format!("there is no field {name} beside pools"));
    }
    match pools {
        Value::Array(pools) if pools.is_empty() => Err(NOTHING.to_owned()),
        Value::Array(pools) => Ok(pools),
        other => Err(format!("pools is {}, a list is expected", kind(&other))),
    }
}

const NOTHING: &str = "there is no pool in it";
const EXPECTED: &str = "the fields of one are expected, or a list of pools under pools";

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The autoscaler in a file, as the API takes it.
pub(super) fn autoscaler(path: &Path) -> Outcome<String> {
    let shown = path.display();
    let refuse = |reason: String| Failure::new(exit::REFUSED, format!("{shown}: {reason}"));
    let text = text(path)?;
    let spec: Value = serde_yaml_ng::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    if spec.is_object() {
        return Ok(spec.to_string());
    }
    Err(refuse(format!(
        "{} is no HorizontalPodAutoscalerSpec, an object is expected",
        kind(&spec)
    )))
}

fn text(path: &Path) -> Outcome<String> {
    let failed = |error: std::io::Error| Failure::file(path, &error);
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(LARGEST + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LARGEST + 1).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    if text.len() as u64 > LARGEST {
        let text = format!("{}: it has more than {LARGEST} bytes", path.display());
        return Err(Failure::new(exit::REFUSED, text));
    }
    Ok(text)
}

fn pool(entry: Value) -> Result<PoolRequest, String> {
    let mut entry = match entry {
        Value::Object(entry) => entry,
        other => return Err(format!("{} is no pool", kind(&other))),
    };
    let known = known();
    check_names("", &entry, &known)?;
    for (name, inner) in &entry {
        if let (Value::Object(inner), Some(Value::Object(known))) = (inner, known.get(name)) {
            check_names(&format!("{name}."), inner, known)?;
        }
    }
    for field in STRUCTURED {
        if let Some(value) = entry.get_mut(field)
            && (value.is_array() || value.is_object())
        {
            *value = Value::String(value.to_string());
        }
    }
    entry.retain(|_, value| !value.is_null());
    bugle_api::decoded(Value::Object(entry))
}

/// Refuses a name that there is none of.
fn check_names(
    before: &str,
    given: &Map<String, Value>,
    known: &Map<String, Value>,
) -> Result<(), String> {
    let Some(name) = given.keys().find(|name| !known.contains_key(*name)) else {
        return Ok(());
    };
    let meant = near::near(name, known.keys().map(String::as_str));
    let meant = near::question(&meant).map(|question| format!("; {question}"));
    Err(format!(
        "there is no field {before}{name}{}",
        meant.unwrap_or_default()
    ))
}

/// All fields, with those of the objects that they hold.
fn known() -> Map<String, Value> {
    match serde_json::to_value(PoolRequest::default()) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_text(text: &str) -> Outcome<Vec<PoolRequest>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pools.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn a_file_holds_one_pool_or_many() {
        let one = read_text("id: a\nsize: 2\nlabels: {n: 5}\n").unwrap();
        assert_eq!((one[0].id.as_str(), one[0].size), ("a", 2));
        assert_eq!(one[0].labels.as_ref().unwrap()["n"], "5");
        let many = read_text("pools:\n- {id: a}\n- {id: b}\n").unwrap();
        assert_eq!(many.len(), 2);
    }

    #[test]
    fn lists_and_objects_become_text() {
        let text = "id: a\ntolerations:\n- {operator: Exists}\nvolumes: '[]'\n";
        let pool = read_text(text).unwrap().remove(0);
        assert_eq!(pool.tolerations, r#"[{"operator":"Exists"}]"#);
        assert_eq!(pool.volumes, "[]");
    }

    #[test]
    fn a_wrong_name_is_a_mistake_and_the_right_one_is_shown() {
        let error = read_text("id: a\nsizes: 2\n").unwrap_err();
        assert!(
            format!("{error:?}").contains("did you mean size?"),
            "{error:?}"
        );
        for bad in [
            "pools: 5",
            "- a",
            "id: [",
            "id: a\nsize: many",
            "pools: []\nmore: 1",
        ] {
            assert!(read_text(bad).is_err(), "{bad}");
        }
        for (bad, said) in [
            ("", "there is no pool in it"),
            ("pools: []", "there is no pool in it"),
            (
                "id: a\nenvironment: {A: 5}",
                "pool a: field environment.A: ",
            ),
            ("id: a\nsize: many", "expected an integer"),
            (
                "pools:\n- {id: a}\n- {size: x}",
                "pool number 2: field size: ",
            ),
            ("id: a\nresources: {request: {}}", "did you mean requests?"),
            (
                "id: a\nidle_recycle_time: {scale: 5}",
                "idle_recycle_time.scale",
            ),
        ] {
            let error = format!("{:?}", read_text(bad).unwrap_err());
            assert!(error.contains(said), "{bad}: {error}");
        }
    }

    /// The schema, made from the document of the API. `WRITE_REFERENCE=1` writes it.
    #[test]
    fn the_schema_is_what_the_api_takes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let document = std::fs::read_to_string(root.join("openapi/bugle.json")).unwrap();
        let document: Value = serde_json::from_str(&document).unwrap();
        let schemas = &document["components"]["schemas"];
        let text = serde_json::to_string_pretty(&schema(schemas)).unwrap() + "\n";
        let path = root.join("docs/pools.schema.json");
        if std::env::var_os("WRITE_REFERENCE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(
            kept == text,
            "docs/pools.schema.json is not up to date; WRITE_REFERENCE=1 writes it"
        );
    }

    fn schema(schemas: &Value) -> Value {
        let mut pool = closed(&schemas["PoolRequest"]);
        let described = |field: &str, kind: &str| {
            let text = schemas["PoolRequest"]["properties"][field]["description"].clone();
            json!({"description": text, "type": ["string", kind]})
        };
        for field in STRUCTURED {
            let object = matches!(field, "affinities" | "horizontal_pod_autoscaler_spec");
            pool["properties"][field] = described(field, if object { "object" } else { "array" });
        }
        let mut amounts = closed(&schemas["ResourceAmounts"]);
        let scalar = json!({"type": ["string", "number", "boolean"]});
        for field in ["labels", "node_selector"] {
            pool["properties"][field]["additionalProperties"] = scalar.clone();
        }
        for field in ["limits", "requests"] {
            amounts["properties"][field]["additionalProperties"] = scalar.clone();
        }
        let text = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Pools of Bugle, as `bugle pool create -f` reads them",
            "anyOf": [
                {"$ref": "#/$defs/PoolRequest"},
                {
                    "type": "object",
                    "properties": {"pools": {
                        "type": "array", "minItems": 1, "items": {"$ref": "#/$defs/PoolRequest"},
                    }},
                    "required": ["pools"],
                    "additionalProperties": false,
                },
            ],
            "$defs": {
                "PoolRequest": pool,
                "ResourceAmounts": amounts,
                "IdleRecycleTime": closed(&schemas["IdleRecycleTime"]),
            },
        });
        let text = text
            .to_string()
            .replace("#/components/schemas/", "#/$defs/");
        serde_json::from_str(&text).unwrap()
    }

    /// An object that has no other fields than those that are known.
    fn closed(schema: &Value) -> Value {
        let mut schema = schema.clone();
        schema["additionalProperties"] = false.into();
        schema
    }
}
