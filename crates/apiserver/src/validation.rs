//! The rules that objects have to keep, beyond their shape.

use serde_json::Value;

use crate::failure::Cause;
use crate::quantity::Quantity;
use crate::resources::Resource;
use crate::selector::object_matches;

/// The rules that the object breaks; `old` is what it replaces.
pub(crate) fn broken(resource: &Resource, old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(resource, &object["metadata"], &mut causes);
    match resource.plural {
        "pods" => {
            pod_spec(&object["spec"], "spec", &mut causes);
            if let Some(old) = old {
                pod_is_unchanged(old, object, &mut causes);
            }
        }
        "deployments" | "replicasets" => workload(old, object, &mut causes),
        "horizontalpodautoscalers" => autoscaler(&object["spec"], &mut causes),
        "poddisruptionbudgets" => budget(&object["spec"], &mut causes),
        "leases" => lease(&object["spec"], &mut causes),
        _ => {}
    }
    causes
}

fn metadata(resource: &Resource, metadata: &Value, causes: &mut Vec<Cause>) {
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        let why = "name or generateName is required";
        causes.push(Cause::required("metadata.name", why));
    } else if resource.plural == "namespaces" && !is_label(name) {
        let why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                   and must start and end with an alphanumeric character";
        causes.push(Cause::invalid("metadata.name", &metadata["name"], why));
    } else if !is_subdomain(name) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
                   or '.', and must start and end with an alphanumeric character";
        causes.push(Cause::invalid("metadata.name", &metadata["name"], why));
    }
    labels(&metadata["labels"], "metadata.labels", causes);
    let keys = metadata["annotations"].as_object().into_iter().flatten();
    for (key, _) in keys.filter(|(key, _)| !is_qualified(&key.to_lowercase())) {
        let why = "name part must consist of alphanumeric characters, '-', '_' or '.'";
        causes.push(Cause::invalid(
            "metadata.annotations",
            &key.as_str().into(),
            why,
        ));
    }
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::invalid(
                    &format!("metadata.ownerReferences.{field}"),
                    &owner[field],
                    &format!("{field} must not be empty"),
                ));
            }
        }
    }
}

fn labels(labels: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !is_qualified(key) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
                       start and end with an alphanumeric character";
            causes.push(Cause::invalid(path, &key.as_str().into(), why));
        }
        if !value.as_str().is_some_and(is_label_value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, \
                       '-', '_' or '.', and must start and end with an alphanumeric character";
            causes.push(Cause::invalid(path, value, why));
        }
    }
}

fn workload(old: Option<&Value>, object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    not_negative(spec, "replicas", "spec.replicas", causes);
    let template = &spec["template"];
    let selector = &spec["selector"];
    let empty = |selector: &Value| {
        ["matchLabels", "matchExpressions"]
            .iter()
            .all(|field| match &selector[field] {
                Value::Object(map) => map.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => true,
            })
    };
    let labelled = &template["metadata"]["labels"];
    labels(labelled, "spec.template.metadata.labels", causes);
    if !selector.is_object() {
        causes.push(Cause::required("spec.selector", ""));
    } else if empty(selector) {
        let why = "empty selector is invalid for deployment";
        causes.push(Cause::invalid("spec.selector", selector, why));
    } else if !object_matches(selector, labelled) {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            labelled,
            why,
        ));
    }
    pod_spec(&template["spec"], "spec.template.spec", causes);
    let restart = &template["spec"]["restartPolicy"];
    if restart.is_string() && restart != "Always" {
        let path = "spec.template.spec.restartPolicy";
        causes.push(Cause::unsupported(path, restart, &["Always"]));
    }
    if old.is_some_and(|old| old["spec"]["selector"] != *selector) {
        causes.push(Cause::invalid(
            "spec.selector",
            selector,
            "field is immutable",
        ));
    }
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let containers = spec["containers"].as_array();
    if containers.is_none_or(Vec::is_empty) {
        causes.push(Cause::required(&format!("{path}.containers"), ""));
    }
    let volumes: Vec<_> = names(&spec["volumes"]);
    for (index, name) in volumes.iter().enumerate() {
        let field = format!("{path}.volumes[{index}].name");
        if !is_label(name) {
            causes.push(Cause::invalid(
                &field,
                &(*name).into(),
                "a lowercase RFC 1123 label",
            ));
        } else if volumes[..index].contains(name) {
            causes.push(Cause::invalid(&field, &(*name).into(), "duplicate name"));
        }
    }
    for list in ["initContainers", "containers"] {
        let items = spec[list].as_array().into_iter().flatten();
        for (index, item) in items.enumerate() {
            container(item, &format!("{path}.{list}[{index}]"), &volumes, causes);
        }
    }
    let known = ["Always", "Never", "OnFailure"];
    let restart = &spec["restartPolicy"];
    if restart
        .as_str()
        .is_some_and(|policy| !known.contains(&policy))
    {
        causes.push(Cause::unsupported(
            &format!("{path}.restartPolicy"),
            restart,
            &known,
        ));
    }
    labels(
        &spec["nodeSelector"],
        &format!("{path}.nodeSelector"),
        causes,
    );
    not_negative(
        spec,
        "terminationGracePeriodSeconds",
        &format!("{path}.terminationGracePeriodSeconds"),
        causes,
    );
    scheduling(spec, path, causes);
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|item| item["name"].as_str().unwrap_or_default())
        .collect()
}

fn container(container: &Value, path: &str, volumes: &[&str], causes: &mut Vec<Cause>) {
    let name = container["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required(&format!("{path}.name"), ""));
    } else if !is_label(name) {
        let why =
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'";
        causes.push(Cause::invalid(
            &format!("{path}.name"),
            &container["name"],
            why,
        ));
    }
    if container["image"].as_str().is_none_or(str::is_empty) {
        causes.push(Cause::required(&format!("{path}.image"), ""));
    }
    for (index, variable) in container["env"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let name = variable["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains('=') {
            causes.push(Cause::required(&format!("{path}.env[{index}].name"), ""));
        }
    }
    for (index, mount) in container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let field = format!("{path}.volumeMounts[{index}]");
        let name = mount["name"].as_str().unwrap_or_default();
        if !volumes.contains(&name) {
            let mut cause = Cause::invalid(&format!("{field}.name"), &mount["name"], "");
            cause.reason = "FieldValueNotFound";
            cause.message = format!("Not found: \"{name}\"");
            causes.push(cause);
        }
        if mount["mountPath"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(&format!("{field}.mountPath"), ""));
        }
    }
    resources(
        &container["resources"],
        &format!("{path}.resources"),
        causes,
    );
}

fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let amount = |value: &Value| value.as_str()?.parse::<Quantity>().ok();
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let field = format!("{path}.requests");
        let (asked, limit) = (amount(request), amount(&resources["limits"][name]));
        if asked.is_some_and(|asked| asked.0 < 0) {
            let field = format!("{field}[{name}]");
            causes.push(Cause::invalid(
                &field,
                request,
                "must be greater than or equal to 0",
            ));
        }
        if let (Some(asked), Some(limit)) = (asked, limit)
            && asked > limit
        {
            let why = format!(
                "must be less than or equal to {name} limit of {}",
                resources["limits"][name]
            );
            causes.push(Cause::invalid(&field, request, &why));
        }
        let native = ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str());
        if !native && !name.contains('/') && !name.starts_with("hugepages-") {
            let field = format!("{field}[{name}]");
            let why = "must be a standard resource type or fully qualified";
            causes.push(Cause::invalid(&field, &name.as_str().into(), why));
        }
    }
}

fn scheduling(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for affinity in ["podAffinity", "podAntiAffinity"] {
        let terms = &spec["affinity"][affinity]["preferredDuringSchedulingIgnoredDuringExecution"];
        for (index, term) in terms.as_array().into_iter().flatten().enumerate() {
            let field = format!(
                "{path}.affinity.{affinity}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
            );
            if !term["weight"]
                .as_i64()
                .is_some_and(|weight| (1..=100).contains(&weight))
            {
                let field = format!("{field}.weight");
                causes.push(Cause::invalid(
                    &field,
                    &term["weight"],
                    "must be in the range 1-100",
                ));
            }
            let key = &term["podAffinityTerm"]["topologyKey"];
            if key.as_str().is_none_or(str::is_empty) {
                causes.push(Cause::required(
                    &format!("{field}.podAffinityTerm.topologyKey"),
                    "can not be empty",
                ));
            }
        }
    }
    for (index, constraint) in spec["topologySpreadConstraints"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let field = format!("{path}.topologySpreadConstraints[{index}]");
        if constraint["maxSkew"].as_i64().is_none_or(|skew| skew < 1) {
            let why = "must be greater than zero";
            causes.push(Cause::invalid(
                &format!("{field}.maxSkew"),
                &constraint["maxSkew"],
                why,
            ));
        }
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        let when = &constraint["whenUnsatisfiable"];
        if !when.as_str().is_some_and(|when| known.contains(&when)) {
            causes.push(Cause::unsupported(
                &format!("{field}.whenUnsatisfiable"),
                when,
                &known,
            ));
        }
    }
}

/// Of a Pod's spec, only images, tolerations and few other fields may change.
fn pod_is_unchanged(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            for field in [
                "tolerations",
                "activeDeadlineSeconds",
                "terminationGracePeriodSeconds",
                "nodeName",
            ] {
                fields.remove(field);
            }
        }
        for list in ["/containers", "/initContainers"] {
            let items = spec.pointer_mut(list).and_then(Value::as_array_mut);
            for container in items.into_iter().flatten().filter_map(Value::as_object_mut) {
                container.remove("image");
            }
        }
        spec
    };
    if fixed(old) != fixed(new) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`, \
                   `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only \
                   additions to existing tolerations), `spec.terminationGracePeriodSeconds`";
        causes.push(Cause::forbidden("spec", why));
    }
}

fn autoscaler(spec: &Value, causes: &mut Vec<Cause>) {
    let minimum = spec["minReplicas"].as_i64().unwrap_or(1);
    let maximum = spec["maxReplicas"].as_i64().unwrap_or(0);
    if minimum < 1 {
        let why = "must be greater than or equal to 1";
        causes.push(Cause::invalid(
            "spec.minReplicas",
            &spec["minReplicas"],
            why,
        ));
    }
    if maximum < 1 {
        causes.push(Cause::required(
            "spec.maxReplicas",
            "must be set and greater than 0",
        ));
    }
    if maximum < minimum {
        let why = "must be greater than or equal to `minReplicas`";
        causes.push(Cause::invalid(
            "spec.maxReplicas",
            &spec["maxReplicas"],
            why,
        ));
    }
    for field in ["kind", "name"] {
        if spec["scaleTargetRef"][field]
            .as_str()
            .is_none_or(str::is_empty)
        {
            causes.push(Cause::required(&format!("spec.scaleTargetRef.{field}"), ""));
        }
    }
    if minimum == 0 {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        causes.push(Cause::forbidden("spec.metrics", why));
    }
}

fn budget(spec: &Value, causes: &mut Vec<Cause>) {
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        causes.push(Cause::invalid("spec", spec, why));
    }
}

fn lease(spec: &Value, causes: &mut Vec<Cause>) {
    let duration = &spec["leaseDurationSeconds"];
    if duration.as_i64().is_some_and(|seconds| seconds <= 0) {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            duration,
            "must be greater than 0",
        ));
    }
}

fn not_negative(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    if object[field].as_i64().is_some_and(|number| number < 0) {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid(path, &object[field], why));
    }
}

/// A lowercase RFC 1123 label.
fn is_label(text: &str) -> bool {
    let inside =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Labels with dots between.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A key of labels and annotations: an optional prefix and a name.
fn is_qualified(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let ends = |letter: Option<char>| letter.is_none_or(|letter| letter.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
        && ends(text.chars().next())
        && ends(text.chars().last())
}
