//! Points in time as the contract writes them (2.8): texts in UTC with milliseconds.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;

use crate::ParseError;

/// A moment, in milliseconds since 1970-01-01 UTC; written `YYYY-MM-DD hh:mm:ss.mmm UTC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `millis` milliseconds after 1970-01-01 UTC, kept from then to nearly the end of the
    /// year 9999.
    pub fn from_millis(millis: i64) -> Self {
        const LATEST: i64 = 253_402_207_200_000;
        Self(millis.clamp(0, LATEST))
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment in UTC as `YYYYMMDDhhmmssmmm`. A registration writes four of them, and to follow a
    /// pattern takes as long as much else of it.
    fn digits(self) -> String {
        let moment = jiff::Timestamp::from_millisecond(self.0)
            .expect("the constructor keeps the value inside jiff's range");
        let utc = TimeZone::UTC.to_datetime(moment);
        let mut digits = String::with_capacity(17);
        for (mut number, width) in [
            (utc.year(), 4),
            (utc.month().into(), 2),
            (utc.day().into(), 2),
            (utc.hour().into(), 2),
            (utc.minute().into(), 2),
            (utc.second().into(), 2),
            (utc.millisecond(), 3),
        ] {
            for place in (0..width).rev() {
                let unit = 10_i16.pow(place);
                digits.push(char::from(b'0' + (number / unit).to_le_bytes()[0]));
                number %= unit;
            }
        }
        digits
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        let part = |from, to| &digits[from..to];
        let (year, month, day) = (part(0, 4), part(4, 6), part(6, 8));
        let (hour, minute, second) = (part(8, 10), part(10, 12), part(12, 14));
        let millis = part(14, 17);
        write!(
            f,
            "{year}-{month}-{day} {hour}:{minute}:{second}.{millis} UTC"
        )
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
        Self(at.digits().into())
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
        for (millis, text) in [
            (-1, "1970-01-01 00:00:00.000 UTC"),
            (1_709_251_199_001, "2024-02-29 23:59:59.001 UTC"),
            (i64::MAX, "9999-12-30 22:00:00.000 UTC"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
        }
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
