//! From the wire to a [`PoolSpec`]: every rule of the contract, and all mistakes at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bugle_types::pool::{
    IdleRecycle, IdleTime, MOST_WORKERS, PoolGroup, PoolId, PoolResources, PoolSpec, Quantity,
    environment_name, fields, image_reference, label_key, label_value, runtime_class_name,
};

use super::{PoolInfo, ResourceAmounts, Texts};

/// What both rules of growth say (contract 5.2).
pub const SCALES_TWICE: &str =
    "max_size greater than size and horizontal_pod_autoscaler_spec cannot be set at the same time";

const ID: &str = "pod pool id can contain only lowercase letters, digits and '-'. it cannot start or \
    end with '-' and cannot exceed 40 characters or less than 1 characters";
const GROUP: &str = "pod pool group can contain only letters, digits and '-'. it cannot start or end \
    with '-' and cannot exceed 40 characters";

/// The longest name of an image, in bytes.
const LONGEST_IMAGE: usize = 200;
/// The longest name of a runtime class, in bytes.
const LONGEST_RUNTIME_CLASS: usize = 64;

/// Mistakes, as they follow `failed to create pod pool, id: {id}`.
#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn add(&mut self, reason: impl std::fmt::Display) {
        self.0.push(format!(", err: {reason}"));
    }

    fn demand(&mut self, holds: bool, reason: &str) {
        if !holds {
            self.add(reason);
        }
    }

    fn keep<T>(&mut self, parsed: fields::Parsed<T>, ignored: &mut Vec<String>) -> T {
        for reason in parsed.refused {
            self.add(reason);
        }
        ignored.extend(parsed.ignored);
        parsed.value
    }
}

impl PoolInfo {
    /// The pool that this says, with what cannot be read left out and noted.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the contract, each to follow the pool's name:
    /// `, err: size is less than 0`.
    pub fn spec(&self) -> Result<PoolSpec, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let (id, group) = self.names(&mut mistakes);
        let (size, max_size) = self.sizes(&mut mistakes);
        let idle = self.idle(&mut mistakes);
        self.check_images(&mut mistakes);
        self.check_runtime_class(&mut mistakes);
        let threshold = self.pod_pending_duration_threshold;
        if threshold < 0 {
            mistakes.add(format!(
                "podPendingDurationThreshold should not be less than 0, which is {threshold}"
            ));
        }
        let labels = checked(
            "labels",
            &self.labels,
            label_key,
            label_value,
            &mut mistakes,
        );
        let node_selector = checked(
            "node_selector",
            &self.node_selector,
            label_key,
            label_value,
            &mut mistakes,
        );
        let environment = checked(
            "environment",
            &self.environment,
            environment_name,
            no_nul,
            &mut mistakes,
        );
        let resources = resources(&self.resources, &mut mistakes);
        let mut ignored = Vec::new();
        let ignored_fields = &mut ignored;
        let volumes = fields::volumes(list(&self.volumes));
        let volume_mounts = fields::volume_mounts(list(&self.volume_mounts), &volumes);
        let volumes = mistakes.keep(volumes, ignored_fields);
        let volume_mounts = mistakes.keep(volume_mounts, ignored_fields);
        let affinities = given(&self.affinities)
            .and_then(|text| mistakes.keep(fields::affinities(text), ignored_fields));
        let tolerations = fields::tolerations(list(&self.tolerations));
        let tolerations = mistakes.keep(tolerations, ignored_fields);
        let mut autoscaler = given(&self.horizontal_pod_autoscaler_spec)
            .and_then(|text| mistakes.keep(fields::autoscaler(text), ignored_fields));
        if self.scalable && autoscaler.take().is_some() {
            // A record of somebody who did not refuse it.
            ignored_fields.push(format!("horizontal_pod_autoscaler_spec: {SCALES_TWICE}"));
        }
        let spread = fields::topology_spread(list(&self.topology_spread_constraints));
        let topology_spread = mistakes.keep(spread, ignored_fields);
        match (id, group) {
            (Some(id), Some(group)) if mistakes.0.is_empty() => Ok(PoolSpec {
                id,
                group,
                size,
                max_size,
                scalable: self.scalable,
                reuse: self.reuse,
                image: given(&self.image).map(str::to_owned),
                init_image: given(&self.init_image).map(str::to_owned),
                labels,
                environment,
                resources,
                volumes,
                volume_mounts,
                affinities,
                node_selector,
                runtime_class_name: given(&self.runtime_class_name).map(str::to_owned),
                tolerations,
                autoscaler,
                topology_spread,
                pending_threshold: u64::try_from(threshold)
                    .ok()
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs),
                idle,
                ignored,
            }),
            _ => Err(mistakes.0),
        }
    }

    fn names(&self, mistakes: &mut Mistakes) -> (Option<PoolId>, Option<PoolGroup>) {
        let id = self.id.parse().ok();
        mistakes.demand(id.is_some(), ID);
        let group = self.group.parse().ok();
        if group.is_none() {
            mistakes
                .0
                .push(format!(", group: {}, err: {GROUP}", self.group));
        }
        (id, group)
    }

    fn sizes(&self, mistakes: &mut Mistakes) -> (u32, u32) {
        let (size, max_size) = (self.size, self.max_size);
        mistakes.demand(size >= 0, "size is less than 0");
        mistakes.demand(max_size >= size, "max_size is less than size");
        // Without a max_size it is the size, and nobody has to guess what that is.
        let most = if max_size > size { "max_size" } else { "size" };
        if max_size > i64::from(MOST_WORKERS) {
            mistakes.add(format!("{most} is more than {MOST_WORKERS}"));
        }
        let grows = max_size > size;
        let autoscaled = !self.horizontal_pod_autoscaler_spec.is_empty();
        mistakes.demand(!(grows && autoscaled), SCALES_TWICE);
        let spread = !self.topology_spread_constraints.is_empty();
        mistakes.demand(
            !(grows && spread),
            "max_size greater than size and topology_spread_constraints cannot be set at the same time",
        );
        let number = |size| u32::try_from(size).unwrap_or_default();
        (number(size), number(max_size))
    }

    fn idle(&self, mistakes: &mut Mistakes) -> IdleRecycle {
        let mut read = |name: &str, seconds| {
            IdleTime::from_seconds(seconds).unwrap_or_else(|| {
                mistakes.add(format!("idle time of {name} should not less than -1"));
                IdleTime::Unset
            })
        };
        IdleRecycle {
            reserved: read("reserved", self.idle_recycle_time.reserved),
            scaled: read("scaled", self.idle_recycle_time.scaled),
        }
    }

    fn check_images(&self, mistakes: &mut Mistakes) {
        for (name, image) in [("image", &self.image), ("init image", &self.init_image)] {
            let Some(image) = given(image) else { continue };
            if image.len() > LONGEST_IMAGE {
                mistakes.add(format!("{name} len is not in [1, {LONGEST_IMAGE}]"));
            } else if let Err(rule) = image_reference(image) {
                mistakes.add(format!("{name} {image:?} {rule}"));
            }
        }
    }

    fn check_runtime_class(&self, mistakes: &mut Mistakes) {
        let Some(class) = given(&self.runtime_class_name) else {
            return;
        };
        if class.len() > LONGEST_RUNTIME_CLASS {
            mistakes.add(format!(
                "runtime_class_name should not greater than {LONGEST_RUNTIME_CLASS}"
            ));
        } else if let Err(rule) = runtime_class_name(class) {
            mistakes.add(format!("runtime_class_name {class:?} {rule}"));
        }
    }
}

/// A text that is there.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A list that is there, or an empty one.
fn list(text: &str) -> &str {
    given(text).unwrap_or("[]")
}

fn no_nul(text: &str) -> Result<(), &'static str> {
    if text.contains('\0') {
        return Err("must not contain a zero byte");
    }
    Ok(())
}

/// The texts, with every name and value checked.
fn checked(
    field: &str,
    texts: &Texts,
    name_rule: fn(&str) -> Result<(), &'static str>,
    value_rule: fn(&str) -> Result<(), &'static str>,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, String> {
    let texts = texts.clone().unwrap_or_default();
    for (name, value) in &texts {
        if let Err(rule) = name_rule(name) {
            mistakes.add(format!("{field}: name {name:?} {rule}"));
        }
        if let Err(rule) = value_rule(value) {
            mistakes.add(format!("{field}: value {value:?} of {name} {rule}"));
        }
    }
    texts
}

/// The amounts; both kinds must be there (D28).
fn resources(amounts: &ResourceAmounts, mistakes: &mut Mistakes) -> PoolResources {
    let mut read = |field: &str, texts: &Texts| {
        let texts = texts.clone().unwrap_or_default();
        if texts.is_empty() {
            mistakes.add(format!("resources.{field} must be set"));
        }
        let mut amounts = BTreeMap::new();
        for (name, text) in texts {
            match text.parse::<Quantity>() {
                Ok(amount) => _ = amounts.insert(name, amount),
                Err(error) => mistakes.add(format!("resources.{field}.{name}: {error}")),
            }
        }
        amounts
    };
    let resources = PoolResources {
        requests: read("requests", &amounts.requests),
        limits: read("limits", &amounts.limits),
    };
    for mistake in resources.mistakes() {
        mistakes.add(mistake);
    }
    resources
}
