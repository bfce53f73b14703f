//! The specification of a `HorizontalPodAutoscaler` of `autoscaling/v2`.

use serde::{Deserialize, Serialize};

use super::fields::Findings;
use super::names::{label_key, object_name};
use super::quantity::Quantity;
use super::selector::LabelSelector;

/// The longest window of stabilization, in seconds.
const LONGEST_WINDOW: i64 = 3600;
/// What a metric of anything is compared with.
const EVERY: &[&str] = &["Value", "AverageValue"];
/// What a metric of a resource is compared with.
const RESOURCE: &[&str] = &["Utilization", "AverageValue"];
/// The longest period of a policy, in seconds.
const LONGEST_PERIOD: i64 = 1800;

/// `HorizontalPodAutoscalerSpec`. Its target is the pool, whatever it says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Autoscaler {
    #[serde(skip_serializing_if = "Option::is_none")]
    min_replicas: Option<i64>,
    max_replicas: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<Metric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    behavior: Option<Behavior>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<ResourceMetric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_resource: Option<ContainerMetric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<NamedMetric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<ObjectMetric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external: Option<NamedMetric>,
}

#[derive(Serialize, Deserialize)]
struct ResourceMetric {
    name: String,
    target: Target,
}

#[derive(Serialize, Deserialize)]
struct ContainerMetric {
    name: String,
    container: String,
    target: Target,
}

#[derive(Serialize, Deserialize)]
struct NamedMetric {
    metric: Identifier,
    target: Target,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMetric {
    described_object: Described,
    metric: Identifier,
    target: Target,
}

#[derive(Serialize, Deserialize)]
struct Identifier {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_utilization: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_value: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Quantity>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Behavior {
    #[serde(skip_serializing_if = "Option::is_none")]
    scale_up: Option<Rules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale_down: Option<Rules>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    #[serde(skip_serializing_if = "Option::is_none")]
    stabilization_window_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    select_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<Vec<Policy>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    #[serde(rename = "type")]
    kind: String,
    value: i64,
    period_seconds: i64,
}

impl Autoscaler {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        let min = self.min_replicas.unwrap_or(1);
        if min < 1 {
            findings.refuse(at, "minReplicas must be at least 1");
        }
        if self.max_replicas < min.max(1) || self.max_replicas > i64::from(i32::MAX) {
            findings.refuse(at, "maxReplicas must be at least minReplicas");
        }
        for (index, metric) in self.metrics.iter().enumerate() {
            metric.check(&format!("{at}.metrics[{index}]"), findings);
        }
        let rules = self.behavior.iter().flat_map(|behavior| {
            [
                ("scaleUp", &behavior.scale_up),
                ("scaleDown", &behavior.scale_down),
            ]
        });
        for (direction, rules) in rules {
            if let Some(rules) = rules {
                rules.check(&format!("{at}.behavior.{direction}"), findings);
            }
        }
    }
}

impl Metric {
    fn check(&self, at: &str, findings: &mut Findings) {
        let given = [
            ("Resource", self.resource.is_some()),
            ("ContainerResource", self.container_resource.is_some()),
            ("Pods", self.pods.is_some()),
            ("Object", self.object.is_some()),
            ("External", self.external.is_some()),
        ];
        if !given.iter().any(|(kind, _)| *kind == self.kind) {
            findings.refuse(at, &format!("type {:?} is not known", self.kind));
        } else if given
            .iter()
            .any(|(kind, given)| (*kind == self.kind) != *given)
        {
            findings.refuse(
                at,
                &format!("it must have the field of type {} alone", self.kind),
            );
        }
        if let Some(resource) = &self.resource {
            check_name(at, &resource.name, findings);
            resource.target.check(at, RESOURCE, findings);
        }
        if let Some(container) = &self.container_resource {
            check_name(at, &container.name, findings);
            check_name(at, &container.container, findings);
            container.target.check(at, RESOURCE, findings);
        }
        if let Some(pods) = &self.pods {
            pods.metric.check(at, findings);
            pods.target.check(at, &["AverageValue"], findings);
        }
        if let Some(object) = &self.object {
            check_name(at, &object.described_object.kind, findings);
            let name = &object.described_object.name;
            findings.demand(&format!("{at}: object {name:?}"), object_name(name));
            object.metric.check(at, findings);
            object.target.check(at, EVERY, findings);
        }
        if let Some(external) = &self.external {
            external.metric.check(at, findings);
            external.target.check(at, EVERY, findings);
            if external.target.value.is_some() && external.target.average_value.is_some() {
                findings.refuse(at, "value and averageValue exclude each other in a target");
            }
        }
    }
}

fn check_name(at: &str, name: &str, findings: &mut Findings) {
    findings.demand(&format!("{at}: name {name:?}"), label_key(name));
}

impl Identifier {
    fn check(&self, at: &str, findings: &mut Findings) {
        if self.name.is_empty() || self.name.contains(['/', '%']) {
            findings.refuse(at, "a metric has a name without '/' and '%'");
        }
        if let Some(selector) = &self.selector {
            selector.check(at, findings);
        }
    }
}

impl Target {
    fn check(&self, at: &str, kinds: &[&str], findings: &mut Findings) {
        let kind = self.kind.as_str();
        if !kinds.contains(&kind) {
            findings.refuse(
                at,
                &format!("target type must be one of {}", kinds.join(", ")),
            );
            return;
        }
        let given = match kind {
            "Utilization" => self.average_utilization.is_some_and(|percent| percent > 0),
            "AverageValue" => self
                .average_value
                .as_ref()
                .is_some_and(|value| value.nanos() > 0),
            _ => self.value.as_ref().is_some_and(|value| value.nanos() > 0),
        };
        if !given {
            findings.refuse(at, &format!("target type {kind} needs its amount, above 0"));
        }
        if self.average_utilization.is_some() && self.average_value.is_some() {
            findings.refuse(
                at,
                "averageUtilization and averageValue exclude each other in a target",
            );
        }
    }
}

impl Rules {
    fn check(&self, at: &str, findings: &mut Findings) {
        let window = self.stabilization_window_seconds.unwrap_or_default();
        if !(0..=LONGEST_WINDOW).contains(&window) {
            findings.refuse(
                at,
                &format!("stabilizationWindowSeconds is not from 0 to {LONGEST_WINDOW}"),
            );
        }
        let select = self.select_policy.as_deref().unwrap_or("Max");
        if !matches!(select, "Max" | "Min" | "Disabled") {
            findings.refuse(at, &format!("selectPolicy {select:?} is not known"));
        }
        if self.policies.as_ref().is_some_and(Vec::is_empty) {
            findings.refuse(at, "policies must not be empty");
        }
        for policy in self.policies.iter().flatten() {
            if !matches!(policy.kind.as_str(), "Pods" | "Percent") {
                findings.refuse(at, &format!("policy type {:?} is not known", policy.kind));
            }
            if !(1..=i64::from(i32::MAX)).contains(&policy.value)
                || !(1..=LONGEST_PERIOD).contains(&policy.period_seconds)
            {
                findings.refuse(
                    at,
                    &format!(
                        "a policy has a value above 0 and periodSeconds from 1 to {LONGEST_PERIOD}"
                    ),
                );
            }
        }
    }
}
