//! The shape of objects: which fields there are, of which type, and how lists are merged.
//!
//! `data/schema.json` is distilled from the OpenAPI documents of a Kubernetes 1.36 server: what the
//! kinds of this server reach, without the descriptions.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use crate::quantity::Quantity;

static SCHEMA: LazyLock<BTreeMap<String, Definition>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/schema.json")).expect("the schema is ours")
});

/// An object with named fields.
#[derive(Debug, Deserialize)]
pub(crate) struct Definition {
    /// The fields by name.
    pub(crate) fields: BTreeMap<String, Type>,
    /// Whether it has one owner as a whole.
    #[serde(default)]
    pub(crate) atomic: bool,
}

/// What a field holds.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Type {
    /// `string`, `integer`, `number`, `boolean`, `quantity`, `int-or-string` or `any`.
    Scalar(String),
    /// Another definition.
    Ref {
        /// Its name.
        #[serde(rename = "ref")]
        name: String,
        /// Whether the field has one owner as a whole.
        #[serde(default)]
        atomic: bool,
    },
    /// A list.
    List {
        /// What is in it.
        list: Box<Self>,
        /// The fields that tell its items apart, for server-side apply.
        #[serde(default)]
        keys: Vec<String>,
        /// Whether it is a set of scalars, for server-side apply.
        #[serde(default)]
        set: bool,
        /// The field that tells its items apart in strategic patches; empty for scalars.
        merge: Option<String>,
    },
    /// Any names.
    Map {
        /// What is below each name.
        map: Box<Self>,
        /// Whether it has one owner as a whole.
        #[serde(default)]
        atomic: bool,
    },
}

/// The definition of a kind.
pub(crate) fn definition(name: &str) -> Option<&'static Definition> {
    SCHEMA.get(name)
}

/// The type of a whole object of that kind.
pub(crate) fn root(kind: &str) -> Type {
    Type::Ref {
        name: kind.to_owned(),
        atomic: false,
    }
}

/// Whether a value of this type has one owner as a whole.
pub(crate) fn is_leaf(kind: &Type) -> bool {
    match kind {
        Type::Scalar(_) => true,
        Type::Ref { name, atomic } => {
            *atomic || definition(name).is_none_or(|definition| definition.atomic)
        }
        Type::List { keys, set, .. } => keys.is_empty() && !set,
        Type::Map { atomic, .. } => *atomic,
    }
}

/// The type of the field, seen from a value of type `kind`.
pub(crate) fn below<'a>(kind: &'a Type, field: &str) -> Option<&'a Type> {
    match kind {
        Type::Ref { name, .. } => definition(name)?.fields.get(field),
        Type::Map { map, .. } => Some(map),
        Type::Scalar(_) | Type::List { .. } => None,
    }
}

/// Takes out nulls and fields that the kind does not have; gives the paths of the latter.
///
/// # Errors
/// The sentence about the first value of a wrong type.
pub(crate) fn fit(kind: &str, object: &mut Value) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    fit_value(&root(kind), kind, object, "", &mut unknown)?;
    Ok(unknown)
}

fn fit_value(
    kind: &Type,
    within: &str,
    value: &mut Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let wrong = |value: &Value, wanted: &str| {
        Err(format!(
            "json: cannot unmarshal {} into Go struct field {within}.{path} of type {wanted}",
            name_of(value)
        ))
    };
    match kind {
        Type::Scalar(scalar) => fit_scalar(scalar, value).or_else(|why| match why {
            Mismatch::Type(wanted) => wrong(value, wanted),
            Mismatch::Text(text) => Err(text),
        }),
        Type::List { list, .. } => {
            let Value::Array(items) = value else {
                return wrong(value, "[]");
            };
            for (index, item) in items.iter_mut().enumerate() {
                fit_value(list, within, item, &format!("{path}[{index}]"), unknown)?;
            }
            Ok(())
        }
        Type::Map { map, .. } => {
            let Value::Object(entries) = value else {
                return wrong(value, "map");
            };
            entries.retain(|_, value| !value.is_null());
            for (key, entry) in entries {
                fit_value(map, within, entry, &join(path, key), unknown)?;
            }
            Ok(())
        }
        Type::Ref { name, .. } => {
            let Value::Object(entries) = value else {
                return wrong(value, name);
            };
            let Some(definition) = definition(name) else {
                return Ok(());
            };
            entries.retain(|key, value| {
                let known = definition.fields.contains_key(key);
                if !known {
                    unknown.push(join(path, key));
                }
                known && !value.is_null()
            });
            for (key, entry) in entries {
                let kind = &definition.fields[key];
                fit_value(kind, name, entry, &join(path, key), unknown)?;
            }
            Ok(())
        }
    }
}

enum Mismatch {
    Type(&'static str),
    Text(String),
}

fn fit_scalar(scalar: &str, value: &mut Value) -> Result<(), Mismatch> {
    let (fits, wanted) = match scalar {
        "string" => (value.is_string(), "string"),
        "integer" => (value.is_i64() || value.is_u64(), "int32"),
        "number" => (value.is_number(), "float64"),
        "boolean" => (value.is_boolean(), "bool"),
        "int-or-string" => (value.is_i64() || value.is_string(), "intstr.IntOrString"),
        "quantity" => return fit_quantity(value),
        _ => (true, ""),
    };
    if fits {
        Ok(())
    } else {
        Err(Mismatch::Type(wanted))
    }
}

fn fit_quantity(value: &mut Value) -> Result<(), Mismatch> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(Mismatch::Type("resource.Quantity")),
    };
    if text.parse::<Quantity>().is_err() {
        return Err(Mismatch::Text(
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                .to_owned(),
        ));
    }
    *value = Value::String(text);
    Ok(())
}

/// `spec.replicas` below `spec`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_the_kind_does_not_have_is_named_and_dropped() {
        let mut object =
            json!({"kind": "Deployment", "spec": {"replica": 3, "replicas": 1, "paused": null}});
        assert_eq!(
            fit("Deployment", &mut object),
            Ok(vec!["spec.replica".to_owned()])
        );
        assert_eq!(object["spec"], json!({"replicas": 1}));
    }

    #[test]
    fn a_value_of_a_wrong_type_is_refused() {
        let mut object = json!({"spec": {"replicas": "two"}});
        let why = fit("Deployment", &mut object).unwrap_err();
        assert!(
            why.contains(
                "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas"
            )
        );
    }

    #[test]
    fn a_quantity_that_is_none_is_refused() {
        let cpu = json!({"name": "a", "resources": {"requests": {"cpu": "100 milli"}}});
        let mut object = json!({"spec": {"containers": [cpu]}});
        assert!(
            fit("Pod", &mut object)
                .unwrap_err()
                .contains("quantities must match")
        );
    }
}
