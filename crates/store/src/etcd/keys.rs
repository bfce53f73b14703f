//! Which keys of an etcd are ours, and how ranges of keys are said.

use bytes::Bytes;

/// What is kept of an etcd that others use as well. Everything that this platform writes is below
/// one of these, in the order of their bytes. Instances and routes of an openYuanrong cluster, which
/// change all the time, are not.
const KEPT: [&str; 6] = [
    "/bugle/",
    "/instances/",
    "/repo/",
    "/sn/functions/",
    "/yr/functions/",
    "/yr/podpools/",
];

/// A range of keys as etcd takes it: from the first to before the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Between(pub(super) Bytes, pub(super) Bytes);

impl Between {
    /// All keys with a prefix.
    pub(super) fn prefix(prefix: &[u8]) -> Self {
        // From and to a zero byte are etcd's words for all keys.
        let all = Bytes::from_static(b"\0");
        let begin = if prefix.is_empty() {
            all.clone()
        } else {
            Bytes::copy_from_slice(prefix)
        };
        Self(begin, after(prefix).unwrap_or(all))
    }
}

/// The least key that is above every key with the prefix.
fn after(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// The part of an etcd's keys that is mirrored.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// What is before each key there and not here.
    prefix: String,
    /// What is kept, as keys here.
    kept: &'static [&'static str],
}

impl Part {
    /// The platform's keys, each with `prefix` before it.
    pub(super) fn of_platform(prefix: String) -> Self {
        Self {
            prefix,
            kept: &KEPT,
        }
    }

    /// Every key with `prefix`.
    pub(super) fn whole(prefix: String) -> Self {
        Self {
            prefix,
            kept: &[""],
        }
    }

    /// What is before each key there and not here.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Our key as etcd knows it.
    pub(super) fn outer(&self, key: &[u8]) -> Bytes {
        if self.prefix.is_empty() {
            return Bytes::copy_from_slice(key);
        }
        let mut outer = Vec::with_capacity(self.prefix.len() + key.len());
        outer.extend_from_slice(self.prefix.as_bytes());
        outer.extend_from_slice(key);
        outer.into()
    }

    /// A key of etcd as we know it; none if it is not ours.
    pub(super) fn inner(&self, key: &Bytes) -> Option<Bytes> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?;
        let ours = self
            .kept
            .iter()
            .any(|kept| rest.starts_with(kept.as_bytes()));
        ours.then(|| key.slice(self.prefix.len()..))
    }

    /// What has to be read, in the order of the keys.
    pub(super) fn parts(&self) -> impl Iterator<Item = Between> {
        let kept = self.kept.iter();
        kept.map(|kept| Between::prefix(&self.outer(kept.as_bytes())))
    }

    /// What has to be watched: one range that holds all parts, because the changes of one
    /// transaction come together only within one watch.
    pub(super) fn watched(&self) -> Between {
        let common = if self.kept == [""] { "" } else { "/" };
        Between::prefix(&self.outer(common.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range_is_above_every_key_with_the_prefix() {
        assert_eq!(Between::prefix(b"/a/"), Between("/a/".into(), "/a0".into()));
        let end = Between::prefix(&[b'a', 0xff, 0xff]).1;
        assert_eq!(end, "b");
        assert_eq!(Between::prefix(b""), Between("\0".into(), "\0".into()));
    }

    #[test]
    fn what_is_kept_is_in_order_and_apart() {
        assert!(KEPT.is_sorted());
        for (one, other) in KEPT.iter().zip(&KEPT[1..]) {
            assert!(!other.starts_with(one));
        }
    }

    #[test]
    fn keys_of_others_are_not_ours() {
        let part = Part::of_platform("/az1".to_owned());
        let ours = part.outer(b"/sn/functions/f");
        assert_eq!(ours, "/az1/sn/functions/f");
        assert_eq!(part.inner(&ours).unwrap(), "/sn/functions/f");
        for other in [
            "/sn/functions/f",
            "/az2/sn/functions/f",
            "/az1/sn/instance/i",
        ] {
            assert_eq!(part.inner(&other.into()), None, "{other}");
        }
    }
}
