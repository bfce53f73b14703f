//! The fields of a pool that hold JSON inside a text.
//!
//! Two things can be wrong with one. What cannot be *read* (no JSON, no list, an entry without its
//! name or of an unknown kind) is left out, as the documents promise, and [`Parsed::ignored`] says
//! so; so is a field that there is none of. What can be read and breaks a rule of Kubernetes is
//! [`Parsed::refused`]: the API server would refuse the Pod, long after the user was told that all is
//! well. What comes out holds known fields only, so nothing passes to Kubernetes that was not looked
//! at.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::autoscaler::Autoscaler;
use super::scheduling::{Affinity, SpreadConstraint, Toleration};
use super::volume::{Volume, VolumeMount};

/// The most entries of a list, far beyond what a Pod has.
const MOST_ENTRIES: usize = 256;

/// The most unknown fields that are told of one text.
const MOST_TOLD: usize = 20;

/// What became of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    /// What it holds.
    pub value: T,
    /// Rules that it breaks, for people.
    pub refused: Vec<String>,
    /// What is left out and why, for people.
    pub ignored: Vec<String>,
}

/// What was found about a field while looking at it.
#[derive(Debug, Default)]
pub(super) struct Findings {
    refused: Vec<String>,
    ignored: Vec<String>,
}

impl Findings {
    /// Notes that what is at `at` breaks `rule`.
    pub(super) fn refuse(&mut self, at: &str, rule: &str) {
        self.refused.push(format!("{at}: {rule}"));
    }

    /// Notes the rule of `at` if it is broken.
    pub(super) fn demand(&mut self, at: &str, rule: Result<(), &'static str>) {
        if let Err(rule) = rule {
            self.refused.push(format!("{at} {rule}"));
        }
    }

    /// Notes that what is at `at` is left out.
    pub(super) fn ignore(&mut self, at: &str, reason: &str) {
        self.ignored.push(format!("{at}: {reason}"));
    }

    fn with<T>(self, value: T) -> Parsed<T> {
        Parsed {
            value,
            refused: self.refused,
            ignored: self.ignored,
        }
    }
}

/// Reads `volumes`.
pub fn volumes(text: &str) -> Parsed<Vec<Value>> {
    let mut findings = Findings::default();
    let volumes: Vec<Volume> = list("volumes", text, &mut findings);
    let mut kept = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        if volume.check(&format!("volumes[{index}]"), &mut findings) {
            kept.push(volume);
        }
    }
    let names: Vec<&str> = kept.iter().map(|volume| volume.name()).collect();
    if let Some(name) = repeated(&names) {
        findings.refuse("volumes", &format!("name {name:?} is there twice"));
    }
    let kept = values(&kept);
    findings.with(kept)
}

/// Reads `volume_mounts`, of which each must name one of `volumes`.
pub fn volume_mounts(text: &str, volumes: &Parsed<Vec<Value>>) -> Parsed<Vec<Value>> {
    let mut findings = Findings::default();
    let mounts: Vec<VolumeMount> = list("volume_mounts", text, &mut findings);
    let names: Vec<&str> = volumes
        .value
        .iter()
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    let mut kept = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let at = format!("volume_mounts[{index}]");
        if names.contains(&mount.name()) {
            mount.check(&at, &mut findings);
            kept.push(mount);
        } else if volumes.ignored.is_empty() && volumes.refused.is_empty() {
            findings.refuse(&at, &format!("there is no volume {:?}", mount.name()));
        } else {
            findings.ignore(&at, &format!("volume {:?} is ignored", mount.name()));
        }
    }
    let paths: Vec<&str> = kept.iter().map(|mount| mount.path()).collect();
    if let Some(path) = repeated(&paths) {
        findings.refuse("volume_mounts", &format!("{path:?} is mounted twice"));
    }
    let kept = values(&kept);
    findings.with(kept)
}

/// Reads `tolerations`.
pub fn tolerations(text: &str) -> Parsed<Vec<Value>> {
    let mut findings = Findings::default();
    let tolerations: Vec<Toleration> = list("tolerations", text, &mut findings);
    for (index, toleration) in tolerations.iter().enumerate() {
        toleration.check(&format!("tolerations[{index}]"), &mut findings);
    }
    findings.with(values(&tolerations))
}

/// Reads `topology_spread_constraints`.
pub fn topology_spread(text: &str) -> Parsed<Vec<Value>> {
    let mut findings = Findings::default();
    let field = "topology_spread_constraints";
    let constraints: Vec<SpreadConstraint> = list(field, text, &mut findings);
    for (index, constraint) in constraints.iter().enumerate() {
        constraint.check(&format!("{field}[{index}]"), &mut findings);
    }
    let pairs: Vec<_> = constraints.iter().map(SpreadConstraint::pair).collect();
    if let Some((topology, unsatisfiable)) = repeated(&pairs) {
        findings.refuse(
            field,
            &format!("{topology:?} with {unsatisfiable:?} is there twice"),
        );
    }
    findings.with(values(&constraints))
}

/// Reads `affinities`.
pub fn affinities(text: &str) -> Parsed<Option<Value>> {
    let mut findings = Findings::default();
    let (affinity, unknown) = match object::<Affinity>("affinities", text) {
        Ok(read) => read,
        Err(reason) => {
            findings.ignore("affinities", &reason);
            return findings.with(None);
        }
    };
    for field in told(unknown) {
        findings.ignore(&field, UNKNOWN);
    }
    affinity.check("affinities", &mut findings);
    findings.with(Some(value(&affinity)))
}

/// Reads `horizontal_pod_autoscaler_spec`. One that cannot be read, or has a field that is not known, is
/// refused: a pool that does not scale as asked is not the pool that was asked for.
pub fn autoscaler(text: &str) -> Parsed<Option<Value>> {
    let at = "horizontal_pod_autoscaler_spec";
    let mut findings = Findings::default();
    let (autoscaler, unknown) = match object::<Autoscaler>(at, text) {
        Ok(read) => read,
        Err(reason) => {
            findings.refuse(at, &reason);
            return findings.with(None);
        }
    };
    // Its target is the pool, whatever it says.
    let target = format!("{at}.scaleTargetRef");
    let unknown = unknown.into_iter().filter(|field| *field != target);
    for field in told(unknown.collect()) {
        findings.refuse(&field, UNKNOWN);
    }
    autoscaler.check(at, &mut findings);
    findings.with(Some(value(&autoscaler)))
}

/// The entries of the list in `text` that can be read.
fn list<T: DeserializeOwned + Serialize>(
    field: &str,
    text: &str,
    findings: &mut Findings,
) -> Vec<T> {
    let entries = match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(entries)) => entries,
        Ok(Value::Null) => return Vec::new(),
        Ok(_) => {
            findings.ignore(field, "it is not a JSON list");
            return Vec::new();
        }
        Err(error) => {
            findings.ignore(field, &format!("it is not JSON: {error}"));
            return Vec::new();
        }
    };
    if entries.len() > MOST_ENTRIES {
        findings.refuse(field, &format!("it has more than {MOST_ENTRIES} entries"));
        return Vec::new();
    }
    let (mut read, mut unknown) = (Vec::new(), Vec::new());
    for (index, entry) in entries.into_iter().enumerate() {
        let at = format!("{field}[{index}]");
        let entry = without_nulls(entry);
        match T::deserialize(&entry) {
            Ok(known) => {
                lost(&entry, &value(&known), &at, &mut unknown);
                read.push(known);
            }
            Err(error) => findings.ignore(&at, &error.to_string()),
        }
    }
    for field in told(unknown) {
        findings.ignore(&field, UNKNOWN);
    }
    read
}

/// The object in `text` and the paths of its unknown fields, or why there is none.
fn object<T: DeserializeOwned + Serialize>(
    at: &str,
    text: &str,
) -> Result<(T, Vec<String>), String> {
    match serde_json::from_str::<Value>(text) {
        Ok(given @ Value::Object(_)) => {
            let given = without_nulls(given);
            let known = T::deserialize(&given).map_err(|error| error.to_string())?;
            let mut unknown = Vec::new();
            lost(&given, &value(&known), at, &mut unknown);
            Ok((known, unknown))
        }
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

/// What is said of a field that there is none of.
const UNKNOWN: &str = "there is no such field";

/// Finds the fields of `given` that are not in `kept`, which is what was read of it. One that holds
/// nothing says nothing.
fn lost(given: &Value, kept: &Value, at: &str, unknown: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given {
                let at = format!("{at}.{name}");
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &at, unknown),
                    None if is_empty(value) => {}
                    None => unknown.push(at),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                lost(given, kept, &format!("{at}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The first of many unknown fields.
fn told(mut unknown: Vec<String>) -> Vec<String> {
    let more = unknown.len().saturating_sub(MOST_TOLD);
    unknown.truncate(MOST_TOLD);
    if more > 0 {
        unknown.push(format!("{more} other fields"));
    }
    unknown
}

/// The value with every field that is null left out: to Kubernetes both are the same.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(entries) => entries.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn value(checked: &impl Serialize) -> Value {
    serde_json::to_value(checked).expect("these shapes are made of JSON values")
}

fn values(checked: &[impl Serialize]) -> Vec<Value> {
    checked.iter().map(value).collect()
}

/// The first entry that is there twice.
fn repeated<T: PartialEq + Copy>(entries: &[T]) -> Option<T> {
    entries
        .iter()
        .enumerate()
        .find(|(index, entry)| entries[..*index].contains(entry))
        .map(|(_, entry)| *entry)
}

#[cfg(test)]
mod tests;
