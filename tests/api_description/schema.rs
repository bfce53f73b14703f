//! As much of JSON Schema as the description of the API uses.

use serde_json::Value;

/// Adds to `wrong` what about `value` is not as `schema` says. A field that the schema does not have
/// is wrong as well: clients would not know of it.
pub(crate) fn check(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
    wrong: &mut Vec<String>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(&reference[1..])
            .expect("checked elsewhere");
        return check(document, target, value, at, wrong);
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[word].as_array() {
            let fits = |choice: &Value| {
                let mut wrong = Vec::new();
                check(document, choice, value, at, &mut wrong);
                wrong.is_empty()
            };
            if !choices.iter().any(fits) {
                wrong.push(format!("{at}: {value} is none of the choices"));
            }
            return;
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        for part in parts {
            check(document, part, value, at, wrong);
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = types.contains(&is) || (is == "integer" && types.contains(&"number"));
    if !fits {
        wrong.push(format!("{at}: {value} is of type {is}, not {types:?}"));
        return;
    }
    if let Some(items) = value.as_array() {
        for (number, item) in items.iter().enumerate() {
            check(
                document,
                &schema["items"],
                item,
                &format!("{at}/{number}"),
                wrong,
            );
        }
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("names are texts");
            if !object.contains_key(name) {
                wrong.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in object {
            let at = format!("{at}/{name}");
            match (
                schema["properties"].get(name),
                schema.get("additionalProperties"),
            ) {
                (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                    check(document, schema, value, &at, wrong);
                }
                (None, _) => wrong.push(format!("{at} is not described")),
            }
        }
    }
}
