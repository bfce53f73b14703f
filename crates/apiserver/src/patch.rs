//! Patches that are not server-side apply: JSON, merge, and strategic merge.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::schema::{Type, below};

/// RFC 7386: objects are merged, nulls delete, everything else replaces.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(fields) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902: a list of operations.
///
/// # Errors
/// When one of them does not fit the object.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let operations = patch.as_array().ok_or_else(|| {
        Failure::bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    })?;
    operations
        .iter()
        .try_for_each(|operation| step(target, operation).ok_or_else(Failure::unprocessable))
}

fn step(target: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    let value = operation.get("value");
    match operation["op"].as_str()? {
        "test" => (target.pointer(path)? == value?).then_some(()),
        "add" => insert(target, path, value?.clone()),
        "remove" => take(target, path).map(drop),
        "replace" => {
            *target.pointer_mut(path)? = value?.clone();
            Some(())
        }
        "move" => {
            let moved = take(target, operation["from"].as_str()?)?;
            insert(target, path, moved)
        }
        "copy" => {
            let copied = target.pointer(operation["from"].as_str()?)?.clone();
            insert(target, path, copied)
        }
        _ => None,
    }
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Some((target.pointer_mut(parent)?, last))
}

fn insert(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Object(fields), last) => {
            fields.insert(last, value);
            Some(())
        }
        (Value::Array(items), last) => {
            let index = if last == "-" {
                items.len()
            } else {
                last.parse().ok()?
            };
            (index <= items.len()).then(|| items.insert(index, value))
        }
        _ => None,
    }
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(fields), last) => fields.remove(&last),
        (Value::Array(items), last) => {
            let index: usize = last.parse().ok()?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

/// A merge patch that knows which lists are merged by a key; with the directives `$patch`,
/// `$deleteFromPrimitiveList/…` and, without effect, `$setElementOrder/…`.
pub(crate) fn strategic(kind: &Type, target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let rest = patch.iter().filter(|(key, _)| *key != "$patch");
            *target = rest
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            return;
        }
        Some("delete") => {
            *target = json!({});
            return;
        }
        _ => {}
    }
    if !target.is_object() {
        *target = json!({});
    }
    let Some(fields) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (fields.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        if value.is_null() {
            fields.remove(key);
            continue;
        }
        let entry = fields.entry(key).or_insert(Value::Null);
        match (below(kind, key), value) {
            (
                Some(Type::List {
                    list,
                    merge: Some(by),
                    ..
                }),
                Value::Array(items),
            ) => {
                strategic_list(list, by, entry, items);
            }
            (Some(kind), Value::Object(_)) => strategic(kind, entry, value),
            _ => *entry = value.clone(),
        }
    }
}

fn strategic_list(kind: &Type, by: &str, target: &mut Value, patch: &[Value]) {
    if !target.is_array() {
        *target = json!([]);
    }
    let Some(items) = target.as_array_mut() else {
        return;
    };
    if patch.iter().any(|item| item["$patch"] == "replace") {
        let kept = patch.iter().filter(|item| item.get("$patch").is_none());
        *items = kept.cloned().collect();
        return;
    }
    for change in patch {
        if by.is_empty() {
            if !items.contains(change) {
                items.push(change.clone());
            }
            continue;
        }
        let index = items.iter().position(|item| item[by] == change[by]);
        match (index, change["$patch"] == "delete") {
            (Some(index), true) => drop(items.remove(index)),
            (None, true) => {}
            (Some(index), false) => strategic(kind, &mut items[index], change),
            (None, false) => items.push(change.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::root;

    #[test]
    fn a_merge_patch_deletes_by_null_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut target, &json!({"a": {"b": null}, "l": [3]}));
        assert_eq!(target, json!({"a": {"c": 2}, "l": [3]}));
    }

    #[test]
    fn every_operation_of_a_json_patch_works() {
        let mut target = json!({"l": [1, 2], "o": {"a/b": 1}});
        let patch = json!([
            {"op": "test", "path": "/l/0", "value": 1},
            {"op": "add", "path": "/l/-", "value": 3},
            {"op": "add", "path": "/l/0", "value": 0},
            {"op": "remove", "path": "/o/a~1b"},
            {"op": "replace", "path": "/l/1", "value": 9},
            {"op": "copy", "from": "/l/0", "path": "/o/x"},
            {"op": "move", "from": "/o/x", "path": "/o/y"},
        ]);
        json(&mut target, &patch).unwrap();
        assert_eq!(target, json!({"l": [0, 9, 2, 3], "o": {"y": 0}}));
        let failing = json!([{"op": "test", "path": "/l/0", "value": 5}]);
        assert_eq!(json(&mut target, &failing).unwrap_err().code, 422);
    }

    #[test]
    fn a_strategic_patch_merges_containers_by_name() {
        let mut target =
            json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "env": [{"name": "K", "value": "V"}]},
            {"name": "b", "$patch": "delete"},
        ]}});
        strategic(&root("Pod"), &mut target, &patch);
        let container = json!({"name": "a", "image": "i", "env": [{"name": "K", "value": "V"}]});
        assert_eq!(target, json!({"spec": {"containers": [container]}}));
    }
}
