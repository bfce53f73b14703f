//! Which member has a function: the one with the highest weight for it (rendezvous hashing).
//!
//! Everyone who knows the same members finds the same one. When a member goes, only its functions
//! move, evenly to the others; when one comes, it takes an even share from each and nothing else
//! moves.

/// A number that is the same on every machine for the same bytes (FNV-1a).
pub fn fold(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // What ends a part cannot be in it: no name has it.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The weight of a member for a function, of their [`fold`]s: each bit of either changes about half
/// of the result's (the finalizer of `SplitMix64`).
pub fn weight(member: u64, function: u64) -> u64 {
    let mut mixed = member ^ function.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The place of the member that has the function; none if there are none.
pub fn owner(members: impl Iterator<Item = u64>, function: u64) -> Option<usize> {
    let weights = members.map(|member| (weight(member, function), member));
    let best = weights.enumerate().max_by_key(|(_, weight)| *weight);
    best.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FUNCTIONS: u64 = 2000;

    fn functions() -> impl Iterator<Item = u64> {
        (0..FUNCTIONS).map(|number| fold(&["tenant", &format!("0@service@f{number}"), "latest"]))
    }

    fn owner_of(members: &[u64], function: u64) -> u64 {
        members[owner(members.iter().copied(), function).expect("there are members")]
    }

    fn members() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::btree_set(any::<u128>(), 1..12).prop_map(|ids| {
            ids.iter()
                .map(|id| fold(&[&format!("{id:032x}")]))
                .collect()
        })
    }

    #[test]
    fn nobody_has_a_function_where_nobody_is() {
        assert_eq!(owner(std::iter::empty(), 1), None);
    }

    #[test]
    fn the_ends_of_names_count() {
        assert_ne!(fold(&["ab", "c"]), fold(&["a", "bc"]));
        // Written down, because gateways of one build on different machines must agree.
        assert_eq!(fold(&["a"]), 0x089b_c907_b544_c769);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_order_of_members_says_nothing(members in members()) {
            let mut turned = members.clone();
            turned.reverse();
            for function in functions().take(50) {
                prop_assert_eq!(owner_of(&members, function), owner_of(&turned, function));
            }
        }

        #[test]
        fn only_the_functions_of_who_goes_move(members in members(), gone in any::<prop::sample::Index>()) {
            prop_assume!(members.len() > 1);
            let gone = members[gone.index(members.len())];
            let left: Vec<u64> = members.iter().copied().filter(|member| *member != gone).collect();
            for function in functions() {
                let before = owner_of(&members, function);
                let after = owner_of(&left, function);
                prop_assert!(before == gone || before == after);
            }
        }

        #[test]
        fn everybody_has_about_as_many(members in members()) {
            let mut counts = std::collections::BTreeMap::new();
            for function in functions() {
                *counts.entry(owner_of(&members, function)).or_insert(0u64) += 1;
            }
            let share = FUNCTIONS / members.len() as u64;
            prop_assert_eq!(counts.len(), members.len());
            for count in counts.values() {
                prop_assert!(*count > share / 2 && *count < share * 2, "{} of {}", count, share);
            }
        }
    }
}
