//! Amounts as Kubernetes writes them: `600m`, `512Mi`, `1.5`, `2e3`.

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// An amount of a resource, never negative. It is kept as it was written; equal amounts may be
/// written in different ways and compare by their amount with [`Quantity::nanos`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity {
    text: Box<str>,
    /// Billionths, rounded up: the finest that Kubernetes keeps.
    nanos: i128,
}

const NANO: i128 = 1_000_000_000;

/// The largest amount, 2^63 - 1 whole units. Kubernetes cuts what is larger to it; nobody has or means it, and
/// it is refused here.
const LARGEST: i128 = (i64::MAX as i128) * NANO;

/// More digits than this are no amount.
const MOST_DIGITS: usize = 40;

impl Quantity {
    /// The amount in billionths.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The amount in thousandths, rounded up: millicores of `cpu`.
    pub fn millis(&self) -> u64 {
        self.rounded_up(NANO / 1000)
    }

    /// The amount in whole units, rounded up: bytes of `memory`.
    pub fn units(&self) -> u64 {
        self.rounded_up(NANO)
    }

    /// The amount in units of 2^20, rounded up: MiB of `memory`.
    pub fn mebi(&self) -> u64 {
        self.units().div_ceil(1 << 20)
    }

    /// Whether it has no part of a unit.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn rounded_up(&self, of: i128) -> u64 {
        let amount = (self.nanos + of - 1) / of;
        u64::try_from(amount).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match nanos(text) {
            Some(nanos) => Ok(Self {
                text: text.into(),
                nanos,
            }),
            None => Err(ParseError::new(
                "quantity",
                text,
                "a number from 0 to below 2^63, with m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei, an \
                 exponent or nothing after it",
            )),
        }
    }
}

impl TryFrom<String> for Quantity {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.text.into()
    }
}

/// The amount in billionths, rounded up; none if it is no amount.
fn nanos(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0
        || whole.len() + fraction.len() > MOST_DIGITS
        || fraction.contains('.')
    {
        return None;
    }
    let (base, exponent) = scale(suffix)?;
    let mut amount = Decimal {
        digits: whole
            .bytes()
            .chain(fraction.bytes())
            .try_fold(0_u128, |sum, digit| {
                sum.checked_mul(10)?.checked_add(u128::from(digit - b'0'))
            })?,
        exponent: i32::try_from(fraction.len()).ok()?.checked_neg()?,
    };
    amount.exponent += 9;
    match base {
        Base::Ten => amount.exponent += exponent,
        Base::Two => amount.digits = amount.digits.checked_mul(1_u128 << exponent)?,
    }
    amount.rounded_up()
}

/// `digits * 10^exponent`.
struct Decimal {
    digits: u128,
    exponent: i32,
}

impl Decimal {
    /// None if it is more than the largest amount.
    fn rounded_up(self) -> Option<i128> {
        if self.digits == 0 {
            return Some(0);
        }
        let power = 10_u128.checked_pow(self.exponent.unsigned_abs());
        let amount = match (self.exponent < 0, power) {
            (true, Some(power)) => Some(self.digits.div_ceil(power)),
            // Less than the smallest part is the smallest part.
            (true, None) => Some(1),
            (false, power) => power.and_then(|power| self.digits.checked_mul(power)),
        };
        let amount = i128::try_from(amount?).ok()?;
        (amount <= LARGEST).then_some(amount)
    }
}

enum Base {
    Ten,
    Two,
}

/// What a suffix multiplies by: a power of ten or of two.
fn scale(suffix: &str) -> Option<(Base, i32)> {
    let decimal = |exponent| Some((Base::Ten, exponent));
    let binary = |exponent| Some((Base::Two, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let signless = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let digits = !signless.is_empty() && signless.bytes().all(|c| c.is_ascii_digit());
            // Beyond a thousand everything is too large or too small anyway.
            let exponent = exponent.parse::<i32>().ok().filter(|_| digits)?;
            decimal(exponent.clamp(-1000, 1000))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn amounts_are_what_kubernetes_makes_of_them() {
        for (text, millis) in [
            ("600m", 600),
            ("1", 1000),
            ("0.5", 500),
            (".5", 500),
            ("5.", 5000),
            ("+2", 2000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("2e-3", 2),
            ("100u", 1),
            ("1n", 1),
            ("0", 0),
        ] {
            assert_eq!(quantity(text).millis(), millis, "{text}");
        }
        assert_eq!(quantity("512Mi").mebi(), 512);
        assert_eq!(quantity("1Gi").mebi(), 1024);
        assert_eq!(quantity("1.5Gi").mebi(), 1536);
        assert_eq!(quantity("1G").mebi(), 954);
        assert_eq!(quantity("9223372036854775807").nanos(), LARGEST);
        assert_eq!(quantity("0e999999999").nanos(), 0);
        assert_eq!(quantity("1e-999999999").nanos(), 1);
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            "lots",
            "-1",
            "1 ",
            " 1",
            "1mi",
            "1.2.3",
            ".",
            "m",
            "1e",
            "1e+",
            "1K",
            "1KiB",
            "1ee1",
            "0x1",
            "१",
            "1e99999999999",
            "9223372036854775808",
            "9999E",
            "16Ei",
            "1e400",
            "1e999999999",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
        assert!("1".repeat(41).parse::<Quantity>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_fault(text in ".{0,60}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert!((0..=LARGEST).contains(&quantity.nanos()));
                prop_assert_eq!(quantity.to_string(), text);
            }
        }

        #[test]
        fn a_thousand_thousandths_are_a_unit(amount in 0_u64..1_000_000_000) {
            let of = |text: String| quantity(&text).nanos();
            prop_assert_eq!(of(format!("{amount}000m")), of(format!("{amount}")));
            prop_assert_eq!(of(format!("{}", u128::from(amount) << 20)), of(format!("{amount}Mi")));
            prop_assert_eq!(of(format!("{amount}e3")), of(format!("{amount}k")));
        }
    }
}
