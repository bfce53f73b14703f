//! Amounts of resources: `100m`, `1.5Gi`, `2e3`.

use std::str::FromStr;

/// An amount in thousandths of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Quantity(pub(crate) i128);

/// Not an amount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let unsigned = text.trim_start_matches(['+', '-']);
        if text.len() - unsigned.len() > 1 {
            return Err(NotAQuantity);
        }
        let split = unsigned
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(unsigned.len());
        let (digits, suffix) = unsigned.split_at(split);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 24 {
            return Err(NotAQuantity);
        }
        let value: i128 = format!("0{whole}{fraction}")
            .parse()
            .map_err(|_| NotAQuantity)?;
        let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| NotAQuantity)?);
        let (factor, divisor) = unit(suffix).ok_or(NotAQuantity)?;
        let exact = value.checked_mul(factor).ok_or(NotAQuantity)?;
        // Parts below a thousandth are rounded up.
        let amount = (exact + scale * divisor - 1) / (scale * divisor);
        Ok(Self(if text.starts_with('-') {
            -amount
        } else {
            amount
        }))
    }
}

/// Thousandths in one of the unit, as a fraction.
fn unit(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1000 * 1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((1000 * 1000_i128.pow(power), 1));
    match suffix {
        "" => Some((1000, 1)),
        "n" => Some((1, 1_000_000)),
        "u" => Some((1, 1000)),
        "m" => Some((1, 1)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let size = 10_i128.pow(power.unsigned_abs().min(18));
    if power < 0 {
        Some((1000, size))
    } else {
        Some((1000 * size, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_all_their_units() {
        let amount = |text: &str| text.parse::<Quantity>().map(|quantity| quantity.0);
        assert_eq!(amount("100m"), Ok(100));
        assert_eq!(amount("1.5"), Ok(1500));
        assert_eq!(amount("64Mi"), Ok(64 * 1024 * 1024 * 1000));
        assert_eq!(amount("2e3"), Ok(2_000_000));
        assert_eq!(amount("-1"), Ok(-1000));
        assert_eq!(amount("1n"), Ok(1));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "100 milli", "m", "1mi", "--1", "1.2.3", "0x10"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
