//! What somebody who mistyped a name may have meant.

/// More would be a list, not a suggestion.
const MOST: usize = 3;

/// The candidates that `wanted` may be a slip of, the nearest first.
pub(crate) fn near<'a>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<&'a str> {
    // A slip in every third character is still one; in a short name, one is.
    let most = (wanted.chars().count() / 3).max(1);
    let mut found: Vec<_> = candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(wanted, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    found.sort_unstable();
    found.dedup();
    // Beside one that is much nearer, the others were hardly meant.
    let nearest = found.first().map_or(0, |(distance, _)| *distance);
    found.retain(|(distance, _)| *distance <= nearest + 1);
    found
        .into_iter()
        .take(MOST)
        .map(|(_, candidate)| candidate)
        .collect()
}

/// `did you mean a or b?`, if there is anything to suggest.
pub(crate) fn question(suggestions: &[&str]) -> Option<String> {
    let (last, others) = suggestions.split_last()?;
    Some(if others.is_empty() {
        format!("did you mean {last}?")
    } else {
        format!("did you mean {} or {last}?", others.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_names_are_not() {
        let names = ["thumbnail", "hello", "help", "uptime"];
        assert_eq!(near("thubmnail", names), ["thumbnail"]);
        assert_eq!(near("helo", names), ["hello", "help"]);
        assert!(near("x", names).is_empty());
    }

    #[test]
    fn a_question_names_each_suggestion() {
        assert_eq!(question(&[]), None);
        assert_eq!(question(&["a"]).unwrap(), "did you mean a?");
        assert_eq!(
            question(&["a", "b", "c"]).unwrap(),
            "did you mean a, b or c?"
        );
    }
}
