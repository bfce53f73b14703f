//! Pod pools: what a user asks for, and how far it has come (`meta-service` contract, 5 and 6).
//!
//! A pool is a set of equal workers that run instances. What a user may say about it becomes part of
//! a Kubernetes Pod, so the rules are Kubernetes' own, and they are checked here, before anything
//! is stored: [`Quantity`], [`label_key`] and their like for single values, [`fields`] for the
//! fields that hold JSON inside a text. Nothing here knows what makes a pool real.

mod autoscaler;
pub mod fields;
mod names;
mod quantity;
mod scheduling;
mod selector;
mod state;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::ParseError;
use crate::name::{is_framed, text_type};

pub use names::{
    container_resource, environment_name, image_reference, label_key, label_value,
    runtime_class_name,
};
pub use quantity::Quantity;
pub use state::{Pool, PoolState, PoolStatus};

/// The most workers of a pool: more than a Kubernetes cluster is made for.
pub const MOST_WORKERS: u32 = 150_000;

/// The most of a resource that is counted in thousandths.
const MOST_THOUSANDTHS: u64 = i64::MAX.cast_unsigned();

/// How long a Pod may be pending before it is an alarm, if the pool does not say.
pub const DEFAULT_PENDING_THRESHOLD: Duration = Duration::from_mins(2);

/// The label by which a user sets when an idle worker of a fixed pool goes.
pub const IDLE_LABEL: &str = "yr-idle-to-recycle";

/// The value of [`IDLE_LABEL`] that keeps idle workers for good.
pub const UNLIMITED: &str = "unlimited";

/// The name of a pool: 1–40 of `a-z 0-9 -`, no `-` at the ends. Unique in the platform.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct PoolId(Box<str>);
text_type!(PoolId);

impl FromStr for PoolId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_framed(text, 40, |c| c == b'-') && !text.bytes().any(|c| c.is_ascii_uppercase()) {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "pool id",
            text,
            "1 to 40 lower-case letters, digits or '-', no '-' at the ends",
        ))
    }
}

/// A group of pools, which functions choose by: 1–40 of `A-Z a-z 0-9 -`, no `-` at the ends.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct PoolGroup(Box<str>);
text_type!(PoolGroup);

impl Default for PoolGroup {
    /// The group of a pool that names none.
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for PoolGroup {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_framed(text, 40, |c| c == b'-') {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "pool group",
            text,
            "1 to 40 letters, digits or '-', no '-' at the ends",
        ))
    }
}

/// Everything that a user said about a pool, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// Its name.
    pub id: PoolId,
    /// Its group.
    pub group: PoolGroup,
    /// How many workers it has; of a scalable pool how many it keeps.
    pub size: u32,
    /// The most workers it grows to, at least `size`.
    pub max_size: u32,
    /// Whether it grows on demand. Decided when the pool is made, by `max_size > size`.
    pub scalable: bool,
    /// Whether a worker that an instance has for itself still counts as one of the pool.
    pub reuse: bool,
    /// The image of the worker; none takes the platform's.
    pub image: Option<String>,
    /// The image that prepares a worker; none takes the platform's.
    pub init_image: Option<String>,
    /// Labels of the workers. Keys and values keep Kubernetes' rules.
    pub labels: BTreeMap<String, String>,
    /// Variables of the workers.
    pub environment: BTreeMap<String, String>,
    /// What a worker has.
    pub resources: PoolResources,
    /// `Volume` objects of the Kubernetes API, with known fields only.
    pub volumes: Vec<Value>,
    /// `VolumeMount` objects; each names one of `volumes`.
    pub volume_mounts: Vec<Value>,
    /// An `Affinity` object.
    pub affinities: Option<Value>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// The runtime class.
    pub runtime_class_name: Option<String>,
    /// `Toleration` objects.
    pub tolerations: Vec<Value>,
    /// A `HorizontalPodAutoscalerSpec` object of `autoscaling/v2`, without `scaleTargetRef`. Never
    /// together with `max_size > size`.
    pub autoscaler: Option<Value>,
    /// `TopologySpreadConstraint` objects. Never together with `max_size > size`.
    pub topology_spread: Vec<Value>,
    /// How long a Pod may be pending before it is an alarm; none takes
    /// [`DEFAULT_PENDING_THRESHOLD`].
    pub pending_threshold: Option<Duration>,
    /// When idle workers of a scalable pool go.
    pub idle: IdleRecycle,
    /// What could not be parsed and is left out, for people: `volumes: not a JSON array`.
    pub ignored: Vec<String>,
}

impl PoolSpec {
    /// A pool of that size of which nothing else was said. It grows if `max_size` is larger.
    pub fn new(id: PoolId, size: u32, max_size: u32) -> Self {
        Self {
            id,
            group: PoolGroup::default(),
            size,
            max_size,
            scalable: max_size > size,
            reuse: false,
            image: None,
            init_image: None,
            labels: BTreeMap::new(),
            environment: BTreeMap::new(),
            resources: PoolResources::default(),
            volumes: Vec::new(),
            volume_mounts: Vec::new(),
            affinities: None,
            node_selector: BTreeMap::new(),
            runtime_class_name: None,
            tolerations: Vec::new(),
            autoscaler: None,
            topology_spread: Vec::new(),
            pending_threshold: None,
            idle: IdleRecycle::default(),
            ignored: Vec::new(),
        }
    }
}

/// Amounts of resources by their Kubernetes name (`cpu`, `memory`, `example.com/gpu`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolResources {
    /// What a worker is placed by.
    pub requests: BTreeMap<String, Quantity>,
    /// What a worker may use, at least its request.
    pub limits: BTreeMap<String, Quantity>,
}

impl PoolResources {
    /// The rules of Kubernetes that these amounts break.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for name in self.requests.keys().chain(self.limits.keys()) {
            if let Err(rule) = container_resource(name) {
                mistakes.push(format!("resource {name:?} {rule}"));
            }
        }
        for (name, amount) in self.requests.iter().chain(&self.limits) {
            if names::is_extended(name) && !amount.is_whole() {
                mistakes.push(format!("resource {name}: {amount} is no whole number"));
            }
        }
        let kinds = [("request", &self.requests), ("limit", &self.limits)];
        for (kind, amounts) in kinds {
            for (name, amount) in amounts {
                let in_thousandths = name == "cpu" || names::is_extended(name);
                if in_thousandths && amount.millis() > MOST_THOUSANDTHS {
                    let most = MOST_THOUSANDTHS / 1000;
                    mistakes.push(format!(
                        "resource {name}: the {kind} {amount} is not in range [0, {most}]"
                    ));
                }
            }
        }
        self.check_pages(&mut mistakes);
        for (name, request) in &self.requests {
            let Some(limit) = self.limits.get(name) else {
                continue;
            };
            if request.nanos() > limit.nanos() {
                mistakes.push(format!(
                    "resource {name}: the request {request} is more than the limit {limit}"
                ));
            } else if (names::is_extended(name) || names::page_size(name).is_some())
                && request.nanos() != limit.nanos()
            {
                mistakes.push(format!(
                    "resource {name}: the request {request} must be the limit {limit}"
                ));
            }
        }
        mistakes
    }

    /// Huge pages come whole, and with one of the ordinary resources.
    fn check_pages(&self, mistakes: &mut Vec<String>) {
        let all = || self.requests.iter().chain(&self.limits);
        let mut pages = false;
        for (name, amount) in all() {
            let Some(page) = names::page_size(name) else {
                continue;
            };
            pages = true;
            if amount.nanos() % page.nanos() != 0 {
                mistakes.push(format!(
                    "resource {name}: {amount} is no multiple of the page, {page}"
                ));
            }
        }
        let ordinary = all().any(|(name, _)| matches!(name.as_str(), "cpu" | "memory"));
        if pages && !ordinary {
            mistakes.push("huge pages need cpu or memory beside them".to_owned());
        }
    }

    /// The limits, and the request of each resource that has none.
    pub fn effective_limits(&self) -> BTreeMap<String, Quantity> {
        let mut limits = self.requests.clone();
        limits.extend(
            self.limits
                .iter()
                .map(|(name, amount)| (name.clone(), amount.clone())),
        );
        limits
    }
}

/// When idle workers of a scalable pool go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleRecycle {
    /// Those made because there were fewer than `size`.
    pub reserved: IdleTime,
    /// Those made on demand.
    pub scaled: IdleTime,
}

/// How long a worker may idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleTime {
    /// Nothing is said: what a label says holds, else the platform's default.
    #[default]
    Unset,
    /// For good.
    Unlimited,
    /// This long.
    After(Duration),
}

impl IdleTime {
    /// Reads seconds: -1 is for good, 0 says nothing. None below -1.
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        match seconds {
            -1 => Some(Self::Unlimited),
            0 => Some(Self::Unset),
            _ => u64::try_from(seconds)
                .ok()
                .map(|seconds| Self::After(Duration::from_secs(seconds))),
        }
    }

    /// Reads the value of [`IDLE_LABEL`]: seconds or `unlimited`. What is neither says nothing.
    pub fn from_label(value: &str) -> Self {
        match value.parse::<u64>() {
            _ if value == UNLIMITED => Self::Unlimited,
            Ok(seconds) if seconds > 0 => Self::After(Duration::from_secs(seconds)),
            _ => Self::Unset,
        }
    }

    /// The value of [`IDLE_LABEL`] that says this; none to say nothing.
    pub fn label(self) -> Option<String> {
        match self {
            Self::Unset => None,
            Self::Unlimited => Some(UNLIMITED.to_owned()),
            Self::After(time) => Some(time.as_secs().to_string()),
        }
    }
}

impl PoolSpec {
    /// A message about the pool, with what is ignored of it.
    pub fn message(&self, msg: &str) -> String {
        let ignored = self.ignored.join("; ");
        match (msg.is_empty(), self.ignored.is_empty()) {
            (_, true) => msg.to_owned(),
            (true, false) => format!("ignored: {ignored}"),
            (false, false) => format!("{msg}; ignored: {ignored}"),
        }
    }

    /// Whether functions may choose it by `group`: its own, or the name of one of its labels.
    pub fn is_of(&self, group: &str) -> bool {
        self.group.as_str() == group || self.labels.contains_key(group)
    }

    /// How long a worker may idle: what the pool says of its kind, else its label.
    pub fn idle_time(&self, worker: Origin) -> IdleTime {
        let said = match worker {
            _ if !self.scalable => IdleTime::Unset,
            Origin::Reserved => self.idle.reserved,
            Origin::Scaled => self.idle.scaled,
        };
        match (said, self.labels.get(IDLE_LABEL)) {
            (IdleTime::Unset, Some(label)) => IdleTime::from_label(label),
            (said, _) => said,
        }
    }
}

/// Which pools the instances of a function use.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct PoolChoice {
    /// The pool that grows for it, and whose workers it uses if it names no group.
    pub pool: Option<PoolId>,
    /// Groups, or names of labels, whose workers it uses, the preferred first.
    pub groups: Vec<String>,
    /// Whether it may run elsewhere when none of `groups` has room.
    pub any: bool,
}

/// The word among groups that makes them a wish rather than a condition.
const ANY: &str = "unUseAntiOtherLabels";

impl PoolChoice {
    /// Reads what a function is published with: the name of a pool, and groups with commas between
    /// them. What is no name of a pool names none.
    pub fn new(pool: &str, groups: &str) -> Self {
        let named = || groups.split(',').map(str::trim);
        Self {
            pool: pool.parse().ok(),
            groups: named()
                .filter(|group| !group.is_empty() && *group != ANY)
                .map(str::to_owned)
                .collect(),
            any: named().any(|group| group == ANY),
        }
    }

    /// The same pool with other groups, as a call names them.
    #[must_use]
    pub fn with_groups(&self, groups: &str) -> Self {
        Self {
            pool: self.pool.clone(),
            ..Self::new("", groups)
        }
    }

    /// Whether it may run where none of the groups is.
    pub fn takes_any(&self) -> bool {
        self.any || self.groups.is_empty()
    }

    /// Whether no pool has to do with the function.
    pub fn is_empty(&self) -> bool {
        self.pool.is_none() && self.groups.is_empty()
    }
}

/// Why a worker was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// There were fewer than `size`.
    Reserved,
    /// An instance could not be placed.
    Scaled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_groups_keep_their_rules() {
        for good in ["a", "0", "pool-1", "a--b"] {
            assert!(good.parse::<PoolId>().is_ok(), "{good}");
            assert!(good.parse::<PoolGroup>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a_b", "a.b", "ä", "a/b"] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
            assert!(bad.parse::<PoolGroup>().is_err(), "{bad}");
        }
        assert!("Pool".parse::<PoolId>().is_err());
        assert!("Pool".parse::<PoolGroup>().is_ok());
        assert!("p".repeat(40).parse::<PoolId>().is_ok());
        assert!("p".repeat(41).parse::<PoolId>().is_err());
        assert_eq!(PoolGroup::default().as_str(), "default");
    }

    #[test]
    fn resources_keep_the_rules_of_kubernetes() {
        let resources = |requests: &[(&str, &str)], limits: &[(&str, &str)]| {
            let amounts = |of: &[(&str, &str)]| {
                of.iter()
                    .map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap()))
                    .collect()
            };
            PoolResources {
                requests: amounts(requests),
                limits: amounts(limits),
            }
        };
        let good = resources(&[("cpu", "600m"), ("memory", "1Gi")], &[("cpu", "1")]);
        assert!(good.mistakes().is_empty());
        assert_eq!(good.effective_limits()["memory"].mebi(), 1024);
        assert_eq!(good.effective_limits()["cpu"].millis(), 1000);
        let huge = resources(&[("cpu", "9223372036854775"), ("memory", "9E")], &[]);
        assert!(huge.mistakes().is_empty(), "{:?}", huge.mistakes());
        let pages = resources(&[("cpu", "1")], &[("hugepages-2Mi", "4Mi")]);
        assert!(pages.mistakes().is_empty(), "{:?}", pages.mistakes());
        for bad in [
            resources(&[("hugepages-2Mi", "2Mi")], &[]),
            resources(&[("cpu", "1"), ("hugepages-2Mi", "3Mi")], &[]),
            resources(
                &[("cpu", "1"), ("hugepages-2Mi", "2Mi")],
                &[("hugepages-2Mi", "4Mi")],
            ),
            resources(&[("cpu", "1"), ("hugepages-0", "0")], &[]),
            resources(&[("cpu", "2")], &[("cpu", "1")]),
            resources(&[("gpu", "1")], &[]),
            resources(&[("a.com/gpu", "0.5")], &[]),
            resources(&[("a.com/gpu", "1")], &[("a.com/gpu", "2")]),
            resources(&[("cpu", "1")], &[("cpu", "9E")]),
            resources(&[("cpu", "9223372036854776")], &[]),
            resources(&[("a.com/gpu", "9223372036854776")], &[]),
        ] {
            assert_eq!(bad.mistakes().len(), 1, "{:?}", bad.mistakes());
        }
    }

    #[test]
    fn a_choice_is_read_from_what_is_published() {
        let choice = PoolChoice::new("p1", "rg1, rg2,unUseAntiOtherLabels,");
        assert_eq!(choice.pool, "p1".parse().ok());
        assert_eq!(
            (choice.groups, choice.any),
            (vec!["rg1".to_owned(), "rg2".to_owned()], true)
        );
        assert!(PoolChoice::new("", "").is_empty());
        assert!(PoolChoice::new("No Pool", "").is_empty());
        assert!(!PoolChoice::new("", "rg1").is_empty());
    }

    #[test]
    fn idle_times_read_as_they_are_written() {
        for (seconds, time, label) in [
            (-1, Some(IdleTime::Unlimited), Some("unlimited")),
            (0, Some(IdleTime::Unset), None),
            (5, Some(IdleTime::After(Duration::from_secs(5))), Some("5")),
            (-2, None, None),
        ] {
            assert_eq!(IdleTime::from_seconds(seconds), time);
            let written = time.and_then(IdleTime::label);
            assert_eq!(written.as_deref(), label);
            if let Some(label) = label {
                assert_eq!(Some(IdleTime::from_label(label)), time);
            }
        }
        assert_eq!(IdleTime::from_label("soon"), IdleTime::Unset);
    }
}
