//! Points in time as the contract writes them (2.8): texts in UTC with milliseconds.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;

use crate::ParseError;

/// A moment, in milliseconds since 1970-01-01 UTC; written `YYYY-MM-DD hh:mm:ss.mmm UTC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `millis` milliseconds after 1970-01-01 UTC, kept inside the years 0 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        const YEAR_9999: i64 = 253_402_300_799_999;
        Self(millis.clamp(0, YEAR_9999))
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    fn utc(self) -> jiff::Zoned {
        jiff::Timestamp::from_millisecond(self.0)
            .expect("the constructor keeps the value inside jiff's range")
            .to_zoned(TimeZone::UTC)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.utc().strftime("%Y-%m-%d %H:%M:%S%.3f UTC"))
    }
}

impl FromStr for Timestamp {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || ParseError::new("time", text, "YYYY-MM-DD hh:mm:ss.mmm UTC");
        let civil = text.strip_suffix(" UTC").ok_or_else(malformed)?;
        let parsed = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", civil)
            .and_then(|time| time.to_zoned(TimeZone::UTC))
            .map_err(|_| malformed())?;
        Ok(Self::from_millis(parsed.timestamp().as_millisecond()))
    }
}

/// The optimistic lock of a function: UTC time as 17 digits `YYYYMMDDhhmmssmmm`.
///
/// The reference drops trailing zeros; we always write 17 digits and never give the same one twice
/// to a function (contract 2.8 `[rec]`). Compared as an opaque text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionId(Box<str>);

impl RevisionId {
    /// The first revision at or after `now` that comes after `previous`.
    pub fn next(now: Timestamp, previous: Option<&Self>) -> Self {
        let mut at = now;
        if let Some(previous) = previous.and_then(Self::time)
            && previous >= now
        {
            at = Timestamp::from_millis(previous.as_millis() + 1);
        }
        Self(at.utc().strftime("%Y%m%d%H%M%S%3f").to_string().into())
    }

    /// The revision with this text, whatever its form: it was stored, or a client sent it.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn time(&self) -> Option<Timestamp> {
        if self.0.len() != 17 {
            return None;
        }
        let civil = format!("{}.{}", &self.0[..14], &self.0[14..]);
        let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S%.f", &civil).ok()?;
        let time = time.to_zoned(TimeZone::UTC).ok()?;
        Some(Timestamp::from_millis(time.timestamp().as_millisecond()))
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_three_decimals() {
        let time = Timestamp::from_millis(1_772_357_608_900);
        assert_eq!(time.to_string(), "2026-03-01 09:33:28.900 UTC");
        assert_eq!("2026-03-01 09:33:28.900 UTC".parse(), Ok(time));
    }

    #[test]
    fn a_revision_has_seventeen_digits_and_is_never_given_twice() {
        let now = Timestamp::from_millis(1_772_357_608_000);
        let first = RevisionId::next(now, None);
        assert_eq!(first.as_str(), "20260301093328000");
        let second = RevisionId::next(now, Some(&first));
        assert_eq!(second.as_str(), "20260301093328001");
        let earlier = Timestamp::from_millis(now.as_millis() - 5000);
        assert_eq!(
            RevisionId::next(earlier, Some(&second)).as_str(),
            "20260301093328002"
        );
    }
}
