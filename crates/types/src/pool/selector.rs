//! Selectors of labels, as affinities and autoscalers use them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fields::Findings;
use super::names::{label_key, label_value};

/// `LabelSelector`.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_expressions: Vec<Expression>,
}

/// A requirement of a label or, of a node, a field.
#[derive(Serialize, Deserialize)]
pub(super) struct Expression {
    key: String,
    operator: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
}

impl LabelSelector {
    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        for (key, value) in &self.match_labels {
            findings.demand(&format!("{at}.matchLabels: key {key:?}"), label_key(key));
            findings.demand(
                &format!("{at}.matchLabels: value {value:?}"),
                label_value(value),
            );
        }
        for (index, expression) in self.match_expressions.iter().enumerate() {
            expression.check(&format!("{at}.matchExpressions[{index}]"), &[], findings);
        }
    }
}

impl Expression {
    /// Checks it; `numeric` are operators that compare with one number.
    pub(super) fn check(&self, at: &str, numeric: &[&str], findings: &mut Findings) {
        let Self {
            key,
            operator,
            values,
        } = self;
        findings.demand(&format!("{at}: key {key:?}"), label_key(key));
        match operator.as_str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    findings.refuse(at, &format!("operator {operator} needs values"));
                }
                for value in values {
                    findings.demand(&format!("{at}: value {value:?}"), label_value(value));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    findings.refuse(at, &format!("operator {operator} takes no values"));
                }
            }
            other if numeric.contains(&other) => {
                let number = matches!(values.as_slice(), [one] if one.parse::<i64>().is_ok());
                if !number {
                    findings.refuse(at, &format!("operator {operator} needs one integer"));
                }
            }
            other => findings.refuse(at, &format!("operator {other:?} is not known")),
        }
    }

    /// Checks it as a requirement of a node's field, of which there is one: its name.
    pub(super) fn check_field(&self, at: &str, findings: &mut Findings) {
        let named = self.key == "metadata.name"
            && matches!(self.operator.as_str(), "In" | "NotIn")
            && self.values.len() == 1;
        if !named {
            findings.refuse(
                at,
                "must compare metadata.name, In or NotIn, with one value",
            );
        }
    }
}
