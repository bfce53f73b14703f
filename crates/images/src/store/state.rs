//! What the store has, who uses it, and what goes when there is too much.
//!
//! Decisions only: the disk follows what is decided here.

use std::collections::{BTreeMap, BTreeSet};

use super::disk::{Found, ImageRecord, LayerRecord, Origin};
use crate::{Digest, Reference};

/// An image and its use.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) record: ImageRecord,
    /// The second of the last use.
    pub(super) used: u64,
    /// How many hold it.
    pub(super) holds: usize,
}

/// A layer and its use.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) record: LayerRecord,
    /// How many hold it: images in use, and pulls that need it.
    pub(super) holds: usize,
}

/// What the store has.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<Digest, Image>,
    pub(super) layers: BTreeMap<Digest, Layer>,
    pub(super) references: BTreeMap<String, Digest>,
}

/// Which images a clearing may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Those that no tag means any more and that can be fetched again.
    Untagged,
    /// All that no instance uses, also those that came from a file and no function needs.
    Unused,
}

/// The images that functions are made of, each with one of these functions.
#[derive(Clone, Debug, Default)]
pub struct Needed {
    digests: BTreeMap<Digest, String>,
    /// Those whose digest was not known when the function was registered.
    names: BTreeMap<String, String>,
}

impl Needed {
    /// Adds the image of a function, which `function` names for people. A text that is no image is
    /// nobody's need.
    pub fn add(&mut self, reference: &str, digest: Option<&str>, function: String) {
        let parsed = reference.parse::<Reference>().ok();
        let pinned = digest.and_then(|digest| digest.parse().ok());
        if let Some(digest) = pinned.or_else(|| parsed.as_ref()?.digest()) {
            self.digests.insert(digest, function);
        } else {
            let name = parsed.map(|reference| reference.name());
            self.names.extend(name.map(|name| (name, function)));
        }
    }
}

/// What is to be removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Doomed {
    pub(super) images: Vec<Digest>,
    pub(super) layers: Vec<Digest>,
}

impl State {
    pub(super) fn new(found: Found) -> Self {
        let image = |(record, used)| Image {
            record,
            used,
            holds: 0,
        };
        let layer = |record| Layer { record, holds: 0 };
        Self {
            images: found
                .images
                .into_iter()
                .map(|(id, one)| (id, image(one)))
                .collect(),
            layers: found
                .layers
                .into_iter()
                .map(|(id, one)| (id, layer(one)))
                .collect(),
            references: found.references,
        }
    }

    /// Whether all layers of an image are here.
    pub(super) fn is_whole(&self, record: &ImageRecord) -> bool {
        record.layers.iter().all(|id| self.layers.contains_key(id))
    }

    /// Counts one more user of an image that is whole.
    pub(super) fn hold_image(&mut self, id: Digest, now: u64) -> Option<ImageRecord> {
        let record = &self.images.get(&id)?.record;
        if !self.is_whole(record) {
            return None;
        }
        let record = record.clone();
        let image = self.images.get_mut(&id)?;
        image.holds += 1;
        image.used = now;
        for layer in &record.layers {
            self.hold_layer(*layer);
        }
        Some(record)
    }

    /// Counts one user less.
    pub(super) fn release_image(&mut self, id: Digest, now: u64) {
        let Some(image) = self.images.get_mut(&id) else {
            return;
        };
        image.holds = image.holds.saturating_sub(1);
        image.used = now;
        for layer in image.record.layers.clone() {
            self.release_layer(layer);
        }
    }

    /// Counts one more user of a layer, if it is here.
    pub(super) fn hold_layer(&mut self, id: Digest) -> bool {
        self.layers
            .get_mut(&id)
            .map(|layer| layer.holds += 1)
            .is_some()
    }

    pub(super) fn release_layer(&mut self, id: Digest) {
        if let Some(layer) = self.layers.get_mut(&id) {
            layer.holds = layer.holds.saturating_sub(1);
        }
    }

    /// Everything that layers take on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.record.bytes).sum()
    }

    /// The layers of an image as overlayfs takes them, lowest first.
    ///
    /// A layer that comes twice counts where it is higher: it brings all that its lower self would.
    /// What lies below a layer that hides everything is left out.
    pub(super) fn stack(&self, record: &ImageRecord) -> Vec<Digest> {
        let mut seen = BTreeSet::new();
        let mut stack = Vec::new();
        for id in record.layers.iter().rev() {
            if seen.insert(*id) {
                stack.push(*id);
            }
            if self.layers.get(id).is_some_and(|layer| layer.record.opaque) {
                break;
            }
        }
        stack.reverse();
        stack
    }

    /// What goes so that the layers take less than nine tenths of `limit`, once they take more than
    /// the limit: first what no image has, then the images that were used longest ago. What somebody
    /// holds stays, and what came from a file, which nobody could fetch again.
    pub(super) fn over(&self, limit: u64) -> Doomed {
        if self.bytes() <= limit {
            return Doomed::default();
        }
        let target = limit / 10 * 9;
        let mut candidates: Vec<_> = self
            .images
            .iter()
            .filter(|(_, image)| image.holds == 0 && image.record.origin == Origin::Pulled)
            .collect();
        candidates.sort_by_key(|(id, image)| (image.used, **id));
        let mut gone = BTreeSet::new();
        let mut candidates = candidates.into_iter();
        loop {
            let layers = self.unneeded(&gone);
            let freed: u64 = layers.iter().map(|id| self.layers[id].record.bytes).sum();
            let next = (self.bytes() - freed > target)
                .then(|| candidates.next())
                .flatten();
            match next {
                Some((id, _)) => gone.insert(*id),
                None => {
                    return Doomed {
                        images: gone.into_iter().collect(),
                        layers,
                    };
                }
            };
        }
    }

    /// What a clearing takes. What somebody holds stays.
    pub(super) fn prunable(&self, which: Prune, needed: &Needed) -> Doomed {
        let tagged: BTreeSet<_> = self.references.values().collect();
        let images: BTreeSet<_> = self
            .images
            .iter()
            .filter(|(id, image)| {
                let wanted = match which {
                    Prune::Unused => self.needed_by(**id, needed).is_none(),
                    Prune::Untagged => {
                        image.record.origin == Origin::Pulled && !tagged.contains(id)
                    }
                };
                image.holds == 0 && wanted
            })
            .map(|(id, _)| *id)
            .collect();
        Doomed {
            layers: self.unneeded(&images),
            images: images.into_iter().collect(),
        }
    }

    /// The function that needs an image which came from a file. Others can be fetched again.
    pub(super) fn needed_by<'a>(&self, id: Digest, needed: &'a Needed) -> Option<&'a str> {
        let image = self.images.get(&id)?;
        if image.record.origin != Origin::Loaded {
            return None;
        }
        let by_name = || {
            let mut names = needed.names.iter();
            let named = names.find(|(name, _)| self.references.get(*name) == Some(&id));
            named.map(|(_, function)| function)
        };
        let function = needed.digests.get(&id).or_else(by_name)?;
        Some(function)
    }

    /// The layers that nobody holds and that no image has but these.
    pub(super) fn unneeded(&self, gone: &BTreeSet<Digest>) -> Vec<Digest> {
        let needed: BTreeSet<_> = self
            .images
            .iter()
            .filter(|(id, _)| !gone.contains(id))
            .flat_map(|(_, image)| &image.record.layers)
            .collect();
        self.layers
            .iter()
            .filter(|(id, layer)| layer.holds == 0 && !needed.contains(id))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Forgets what is to be removed.
    pub(super) fn forget(&mut self, doomed: &Doomed) {
        for id in &doomed.images {
            self.images.remove(id);
            self.references.retain(|_, meant| meant != id);
        }
        for id in &doomed.layers {
            self.layers.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageConfig;

    fn id(number: u8) -> Digest {
        Digest::of(&[number])
    }

    /// Layers by number with their size, images by number with their layers, used in this order.
    fn state(layers: &[(u8, u64)], images: &[(u8, &[u8])]) -> State {
        let mut state = State::default();
        for (number, bytes) in layers {
            let record = LayerRecord {
                bytes: *bytes,
                inflated: *bytes,
                opaque: false,
                unsynced_since_boot: None,
            };
            state.layers.insert(id(*number), Layer { record, holds: 0 });
        }
        for (used, (number, layers)) in (0..).zip(images) {
            let record = ImageRecord {
                origin: Origin::Pulled,
                added: 0,
                compressed: 0,
                config: ImageConfig::default(),
                layers: layers.iter().map(|number| id(*number)).collect(),
            };
            let image = Image {
                record,
                used,
                holds: 0,
            };
            state.images.insert(id(*number), image);
        }
        state
    }

    #[test]
    fn what_was_used_longest_ago_goes_until_a_tenth_is_free() {
        let state = state(
            &[(1, 40), (2, 40), (3, 40), (9, 1)],
            &[(10, &[1]), (11, &[2]), (12, &[3])],
        );
        assert_eq!(state.over(121), Doomed::default());
        let doomed = state.over(110);
        assert_eq!(doomed.images, [id(10)]);
        let layers: BTreeSet<_> = doomed.layers.into_iter().collect();
        assert_eq!(layers, BTreeSet::from([id(1), id(9)]));
    }

    #[test]
    fn what_is_held_shared_or_from_a_file_stays() {
        let mut state = state(
            &[(1, 50), (2, 50), (3, 50), (4, 50)],
            &[(10, &[1, 2]), (11, &[1, 3]), (12, &[4])],
        );
        state.hold_image(id(10), 0).unwrap();
        state.images.get_mut(&id(12)).unwrap().record.origin = Origin::Loaded;
        let doomed = state.over(10);
        assert_eq!(doomed.images, [id(11)]);
        assert_eq!(doomed.layers, [id(3)]);
        state.release_image(id(10), 5);
        assert_eq!(state.over(10).images.len(), 2);
    }

    #[test]
    fn an_image_with_a_missing_layer_cannot_be_held() {
        let mut state = state(&[(1, 1)], &[(10, &[1, 2])]);
        assert!(state.hold_image(id(10), 0).is_none());
        assert_eq!(state.layers[&id(1)].holds, 0);
    }

    #[test]
    fn a_layer_that_comes_twice_counts_where_it_is_higher() {
        let state = state(&[(1, 1), (2, 1)], &[(10, &[1, 2, 1])]);
        let record = &state.images[&id(10)].record;
        assert_eq!(state.stack(record), [id(2), id(1)]);
    }

    #[test]
    fn nothing_shines_through_a_layer_that_hides_everything() {
        let mut state = state(&[(1, 1), (2, 1), (3, 1)], &[(10, &[1, 2, 3])]);
        state.layers.get_mut(&id(2)).unwrap().record.opaque = true;
        let record = &state.images[&id(10)].record;
        assert_eq!(state.stack(record), [id(2), id(3)]);
    }

    #[test]
    fn a_clearing_takes_images_without_a_tag_and_those_asked_for() {
        let mut state = state(&[(1, 1), (2, 1)], &[(10, &[1]), (11, &[2])]);
        state.references.insert("a".to_owned(), id(11));
        let nothing = Needed::default();
        assert_eq!(state.prunable(Prune::Untagged, &nothing).images, [id(10)]);
        assert_eq!(state.prunable(Prune::Unused, &nothing).images.len(), 2);
        let doomed = state.prunable(Prune::Untagged, &nothing);
        state.forget(&doomed);
        assert_eq!(state.layers.len(), 1);
    }

    #[test]
    fn what_a_function_needs_and_only_a_file_had_stays() {
        let mut state = state(
            &[(1, 1), (2, 1), (3, 1)],
            &[(10, &[1]), (11, &[2]), (12, &[3])],
        );
        for image in state.images.values_mut().take(3) {
            image.record.origin = Origin::Loaded;
        }
        state.images.get_mut(&id(12)).unwrap().record.origin = Origin::Pulled;
        let tag: Reference = "example.com/b:1".parse().unwrap();
        state.references.insert(tag.name(), id(11));
        let mut needed = Needed::default();
        let digest = id(10).to_string();
        needed.add("example.com/a:1", Some(&digest), "one".to_owned());
        needed.add("example.com/b:1", None, "two".to_owned());
        needed.add(
            "example.com/c",
            Some(&id(12).to_string()),
            "three".to_owned(),
        );
        needed.add("no image", None, "four".to_owned());
        assert_eq!(state.prunable(Prune::Unused, &needed).images, [id(12)]);
        assert_eq!(state.needed_by(id(10), &needed), Some("one"));
        assert_eq!(state.needed_by(id(11), &needed), Some("two"));
    }
}
