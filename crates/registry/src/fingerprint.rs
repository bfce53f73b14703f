//! What a published value means to instances, as two numbers: enough to tell, when another value
//! comes, whether the instances that there are serve it as well.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::value::RawValue;

/// What of a published value matters to instances, and what an update may change while they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    essence: u64,
    free: u64,
}

/// The parts of a value whose fields are looked at one by one.
const PARTS: [&str; 4] = [
    "funcMetaData",
    "instanceMetaData",
    "extendedMetaData",
    // Of kinds other than faas, inside of `extendedMetaData`.
    "instance_meta_data",
];

/// What an update may change while the instances stay, and says that it is no other update.
const FREE: [(&str, &str); 5] = [
    ("funcMetaData", "description"),
    ("instanceMetaData", "minInstance"),
    ("instanceMetaData", "maxInstance"),
    ("instance_meta_data", "minInstance"),
    ("instance_meta_data", "maxInstance"),
];

/// What every update changes.
const EVERY: [(&str, &str); 4] = [
    ("funcMetaData", "revisionId"),
    ("funcMetaData", "functionUpdateTime"),
    ("funcMetaData", "versionDescription"),
    ("funcMetaData", "codeSize"),
];

impl Fingerprint {
    /// # Errors
    ///
    /// It is no published value.
    pub(crate) fn of(value: &[u8]) -> serde_json::Result<Self> {
        let (mut essence, mut free) = (DefaultHasher::new(), DefaultHasher::new());
        walk("", value, &mut essence, &mut free)?;
        Ok(Self {
            essence: essence.finish(),
            free: free.finish(),
        })
    }

    /// Whether instances of the value `self` serve the value `after` as well: bounds or description
    /// were changed, and nothing else. An update that changes nothing is one of code in its place.
    pub(crate) fn keeps_instances(self, after: Self) -> bool {
        self.essence == after.essence && self.free != after.free
    }
}

fn walk(
    part: &str,
    value: &[u8],
    essence: &mut DefaultHasher,
    free: &mut DefaultHasher,
) -> serde_json::Result<()> {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(value)?;
    for (name, value) in fields {
        let value = value.get();
        let field = (part, name);
        if PARTS.contains(&name) && value.starts_with('{') {
            walk(name, value.as_bytes(), essence, free)?;
        } else if FREE.contains(&field) {
            (field, value).hash(free);
        } else if !EVERY.contains(&field) {
            (field, value).hash(essence);
        }
    }
    Ok(())
}
