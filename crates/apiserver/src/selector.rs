//! Label and field selectors of lists and watches, and those inside objects.

use serde_json::Value;

use crate::failure::Failure;
use crate::resources::Resource;

/// One condition on the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Which objects a request is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// Path, value, and whether they are to be equal.
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector` of a request.
    ///
    /// # Errors
    /// What the server says to a selector that it cannot read.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self {
            labels: parse_labels(labels).map_err(Failure::bad_request)?,
            fields: parse_fields(resource, fields)?,
        })
    }

    /// Whether nothing is excluded.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object is meant.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels
            .iter()
            .all(|rule| rule.holds(&object["metadata"]["labels"]))
            && self.fields.iter().all(|(path, wanted, equal)| {
                let pointer = format!("/{}", path.replace('.', "/"));
                let value = match object.pointer(&pointer) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Null) | None => String::new(),
                    Some(other) => other.to_string(),
                };
                (value == *wanted) == *equal
            })
    }
}

/// Whether the labels fit a `LabelSelector` object. One without any rule fits everything.
pub(crate) fn object_matches(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object();
    let equal = equal.is_none_or(|map| map.iter().all(|(key, value)| &labels[key] == value));
    let rules = selector["matchExpressions"].as_array();
    equal
        && rules.is_none_or(|rules| {
            rules.iter().all(|rule| {
                let key = rule["key"].as_str().unwrap_or_default().to_owned();
                let values = rule["values"].as_array().into_iter().flatten();
                let values = values
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                match rule["operator"].as_str() {
                    Some("In") => Requirement::In(key, values).holds(labels),
                    Some("NotIn") => Requirement::NotIn(key, values).holds(labels),
                    Some("Exists") => Requirement::Exists(key).holds(labels),
                    Some("DoesNotExist") => Requirement::Absent(key).holds(labels),
                    _ => false,
                }
            })
        })
}

/// `a=b,c=d` for `matchLabels`, as the scale of a Deployment tells it.
pub(crate) fn as_text(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let pairs: Vec<_> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",")
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let value = |key: &str| labels.get(key).and_then(Value::as_str).map(str::to_owned);
        match self {
            Self::In(key, values) => value(key).is_some_and(|value| values.contains(&value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(&value)),
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
        }
    }
}

/// Splits at commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split(text).into_iter().map(parse_label).collect()
}

fn parse_label(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(word(key)?));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(word(key)?, vec![value_of(value)?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(word(key)?, vec![value_of(value)?]));
    }
    let Some((head, rest)) = text.split_once('(') else {
        return Ok(Requirement::Exists(word(text)?));
    };
    let values = rest
        .strip_suffix(')')
        .ok_or_else(|| "unable to parse requirement: found '', expected: ',' or ')'".to_owned())?;
    let values = values.split(',').map(value_of).collect::<Result<_, _>>()?;
    match head.split_whitespace().collect::<Vec<_>>().as_slice() {
        [key, "in"] => Ok(Requirement::In(word(key)?, values)),
        [key, "notin"] => Ok(Requirement::NotIn(word(key)?, values)),
        _ => Err(format!("unable to parse requirement: {head}")),
    }
}

fn word(text: &str) -> Result<String, String> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    if let Some(found) = words.next() {
        return Err(format!(
            "unable to parse requirement: found '{found}', expected: in, notin, =, ==, !=, gt, lt"
        ));
    }
    if first.is_empty() {
        return Err("unable to parse requirement: found '', expected: identifier".to_owned());
    }
    Ok(first.to_owned())
}

fn value_of(text: &str) -> Result<String, String> {
    let text = text.trim();
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if text.len() > 63 || !text.chars().all(fits) {
        return Err(format!(
            "unable to parse requirement: values: Invalid value: \"{text}\""
        ));
    }
    Ok(text.to_owned())
}

fn parse_fields(resource: &Resource, text: &str) -> Result<Vec<(String, String, bool)>, Failure> {
    let terms = text
        .split(',')
        .map(str::trim)
        .filter(|term| !term.is_empty());
    terms
        .map(|term| {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) =
                term.split_once("==").or_else(|| term.split_once('='))
            {
                (path, value, true)
            } else {
                return Err(Failure::bad_request(format!(
                    "invalid selector: '{term}'; can't understand '{term}'"
                )));
            };
            if !supported(resource, path) {
                return Err(Failure::bad_request(format!(
                    "field label not supported: {path}"
                )));
            }
            Ok((path.to_owned(), value.to_owned(), equal))
        })
        .collect()
}

/// The fields that can be selected by; each kind has its few.
fn supported(resource: &Resource, path: &str) -> bool {
    let own: &[&str] = match resource.plural {
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "nodes" => &["spec.unschedulable"],
        "replicasets" => &["status.replicas"],
        _ => &[],
    };
    path == "metadata.name" || path == "metadata.namespace" || own.contains(&path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(labels: &str, object: &Value) -> bool {
        let selector = Selector::parse(Resource::of("pods"), labels, "").unwrap();
        selector.matches(object)
    }

    #[test]
    fn every_form_of_a_label_selector_is_understood() {
        let pod = json!({"metadata": {"labels": {"app": "a", "tier": "x"}}});
        for fits in [
            "",
            "app=a",
            "app==a,tier=x",
            "app in (a, b)",
            "app",
            "!other",
            "app!=b",
            "zone notin (a,b)",
        ] {
            assert!(selects(fits, &pod), "{fits}");
        }
        for does_not in [
            "app=b",
            "app,!tier",
            "app notin (a)",
            "other in (a)",
            "zone",
        ] {
            assert!(!selects(does_not, &pod), "{does_not}");
        }
    }

    #[test]
    fn fields_that_cannot_be_selected_by_are_refused() {
        let pods = Resource::of("pods");
        let selector = Selector::parse(pods, "", "status.phase!=Failed").unwrap();
        assert!(selector.matches(&json!({"status": {"phase": "Running"}})));
        let refused = Selector::parse(pods, "", "spec.nope=1").unwrap_err();
        assert_eq!((refused.code, refused.reason), (400, "BadRequest"));
    }

    #[test]
    fn expressions_inside_objects_select_as_well() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]});
        assert!(object_matches(&selector, &json!({"a": "1", "b": ""})));
        assert!(!object_matches(&selector, &json!({"a": "1"})));
    }
}
