//! Where Pods may and should run: affinities, tolerations, spread.

use serde::{Deserialize, Serialize};

use super::fields::Findings;
use super::names::{label_key, label_value, object_name};
use super::selector::{Expression, LabelSelector};

/// `Affinity`.
#[derive(Serialize, Deserialize)]
pub(super) struct Affinity {
    #[serde(rename = "nodeAffinity", skip_serializing_if = "Option::is_none")]
    node: Option<NodeAffinity>,
    #[serde(rename = "podAffinity", skip_serializing_if = "Option::is_none")]
    pod: Option<PodAffinity>,
    #[serde(rename = "podAntiAffinity", skip_serializing_if = "Option::is_none")]
    pod_anti: Option<PodAffinity>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeAffinity {
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Option::is_none"
    )]
    required: Option<NodeSelector>,
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    preferred: Vec<PreferredNode>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSelector {
    node_selector_terms: Vec<NodeTerm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeTerm {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    match_expressions: Vec<Expression>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    match_fields: Vec<Expression>,
}

#[derive(Serialize, Deserialize)]
struct PreferredNode {
    weight: i64,
    preference: NodeTerm,
}

#[derive(Serialize, Deserialize)]
struct PodAffinity {
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    required: Vec<PodTerm>,
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    preferred: Vec<PreferredPod>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodTerm {
    #[serde(default)]
    topology_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_selector: Option<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    match_label_keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mismatch_label_keys: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreferredPod {
    weight: i64,
    pod_affinity_term: PodTerm,
}

impl Affinity {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        if let Some(node) = &self.node {
            node.check(&format!("{at}.nodeAffinity"), findings);
        }
        if let Some(pod) = &self.pod {
            pod.check(&format!("{at}.podAffinity"), findings);
        }
        if let Some(pod) = &self.pod_anti {
            pod.check(&format!("{at}.podAntiAffinity"), findings);
        }
    }
}

impl NodeAffinity {
    fn check(&self, at: &str, findings: &mut Findings) {
        if let Some(required) = &self.required {
            if required.node_selector_terms.is_empty() {
                findings.refuse(at, "nodeSelectorTerms must not be empty");
            }
            for (index, term) in required.node_selector_terms.iter().enumerate() {
                term.check(&format!("{at}.required[{index}]"), findings);
            }
        }
        for (index, preferred) in self.preferred.iter().enumerate() {
            let at = format!("{at}.preferred[{index}]");
            check_weight(&at, preferred.weight, findings);
            preferred.preference.check(&at, findings);
        }
    }
}

impl NodeTerm {
    fn check(&self, at: &str, findings: &mut Findings) {
        for expression in &self.match_expressions {
            expression.check(at, &["Gt", "Lt"], findings);
        }
        for field in &self.match_fields {
            field.check_field(at, findings);
        }
    }
}

impl PodAffinity {
    fn check(&self, at: &str, findings: &mut Findings) {
        for (index, term) in self.required.iter().enumerate() {
            term.check(&format!("{at}.required[{index}]"), findings);
        }
        for (index, preferred) in self.preferred.iter().enumerate() {
            let at = format!("{at}.preferred[{index}]");
            check_weight(&at, preferred.weight, findings);
            preferred.pod_affinity_term.check(&at, findings);
        }
    }
}

impl PodTerm {
    fn check(&self, at: &str, findings: &mut Findings) {
        if self.topology_key.is_empty() {
            findings.refuse(at, "topologyKey must not be empty");
        } else {
            let topology = &self.topology_key;
            findings.demand(
                &format!("{at}: topologyKey {topology:?}"),
                label_key(topology),
            );
        }
        for selector in self.label_selector.iter().chain(&self.namespace_selector) {
            selector.check(at, findings);
        }
        for namespace in &self.namespaces {
            findings.demand(
                &format!("{at}: namespace {namespace:?}"),
                object_name(namespace),
            );
        }
        for key in self
            .match_label_keys
            .iter()
            .chain(&self.mismatch_label_keys)
        {
            findings.demand(&format!("{at}: key {key:?}"), label_key(key));
        }
    }
}

fn check_weight(at: &str, weight: i64, findings: &mut Findings) {
    if !(1..=100).contains(&weight) {
        findings.refuse(at, &format!("weight {weight} is not from 1 to 100"));
    }
}

/// `Toleration`.
#[derive(Serialize, Deserialize)]
pub(super) struct Toleration {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    operator: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    effect: String,
    #[serde(rename = "tolerationSeconds", skip_serializing_if = "Option::is_none")]
    seconds: Option<i64>,
}

impl Toleration {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        let Self {
            key,
            operator,
            value,
            effect,
            seconds,
        } = self;
        if key.is_empty() {
            if operator != "Exists" {
                findings.refuse(at, "without a key the operator must be Exists");
            }
        } else {
            findings.demand(&format!("{at}: key {key:?}"), label_key(key));
        }
        match operator.as_str() {
            "" | "Equal" => findings.demand(&format!("{at}: value {value:?}"), label_value(value)),
            "Exists" if value.is_empty() => {}
            "Exists" => findings.refuse(at, "operator Exists takes no value"),
            other => findings.refuse(at, &format!("operator {other:?} is not known")),
        }
        if !matches!(
            effect.as_str(),
            "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute"
        ) {
            findings.refuse(at, &format!("effect {effect:?} is not known"));
        }
        if seconds.is_some() && effect != "NoExecute" {
            findings.refuse(at, "tolerationSeconds is for effect NoExecute only");
        }
    }
}

/// `TopologySpreadConstraint`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpreadConstraint {
    topology_key: String,
    max_skew: i64,
    when_unsatisfiable: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_domains: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_affinity_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_taints_policy: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    match_label_keys: Vec<String>,
}

impl SpreadConstraint {
    /// What makes two constraints the same to Kubernetes.
    pub(super) fn pair(&self) -> (&str, &str) {
        (&self.topology_key, &self.when_unsatisfiable)
    }

    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        let topology = &self.topology_key;
        findings.demand(
            &format!("{at}: topologyKey {topology:?}"),
            label_key(topology),
        );
        if !is_count(self.max_skew) {
            findings.refuse(at, "maxSkew must be at least 1");
        }
        let unsatisfiable = self.when_unsatisfiable.as_str();
        if !matches!(unsatisfiable, "DoNotSchedule" | "ScheduleAnyway") {
            findings.refuse(
                at,
                &format!("whenUnsatisfiable {unsatisfiable:?} is not known"),
            );
        }
        if let Some(domains) = self.min_domains
            && (!is_count(domains) || unsatisfiable != "DoNotSchedule")
        {
            findings.refuse(at, "minDomains must be at least 1, with DoNotSchedule");
        }
        for policy in self
            .node_affinity_policy
            .iter()
            .chain(&self.node_taints_policy)
        {
            if !matches!(policy.as_str(), "Honor" | "Ignore") {
                findings.refuse(at, &format!("policy {policy:?} is not known"));
            }
        }
        if let Some(selector) = &self.label_selector {
            selector.check(at, findings);
        }
        for key in &self.match_label_keys {
            findings.demand(&format!("{at}: key {key:?}"), label_key(key));
        }
    }
}

fn is_count(number: i64) -> bool {
    (1..=i64::from(i32::MAX)).contains(&number)
}
