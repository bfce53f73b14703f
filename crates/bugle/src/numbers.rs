//! Numbers as people type them.

/// Takes a whole number from `MIN` on. Of one below it, a negative one included, the range is told.
pub(crate) fn from<const MIN: u64, T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number: i128 = text
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    let known = u64::try_from(number).ok();
    known
        .filter(|number| *number >= MIN)
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{number} is not in {MIN}..={}", u64::MAX))
}
