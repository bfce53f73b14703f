//! The digest by which packages are known.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA512};

use crate::Error;

/// A SHA-512 as `sha512sum` prints it, in small letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha512(Box<str>);

impl Sha512 {
    /// The 128 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sha512 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Sha512 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() == 128 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Err(Error::Sha512 {
            given: text.chars().take(140).collect(),
        })
    }
}

/// Takes the digest of what passes.
pub(crate) struct Digester(Context);

impl Digester {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA512))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha512 {
        Sha512(hex(self.0.finish().as_ref()).into())
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `printf abc | sha512sum` prints.
    const OF_ABC: &str = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                          2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn the_digest_is_the_one_that_sha512sum_prints() {
        let mut digester = Digester::new();
        digester.update(b"ab");
        digester.update(b"c");
        assert_eq!(digester.finish().as_str(), OF_ABC);
    }

    #[test]
    fn capital_letters_are_the_same_digest_and_anything_shorter_is_none() {
        let of_abc: Sha512 = OF_ABC.to_uppercase().parse().unwrap();
        assert_eq!(of_abc.as_str(), OF_ABC);
        for wrong in [
            "",
            &OF_ABC[1..],
            &format!("{OF_ABC}0"),
            &OF_ABC.replace('d', "g"),
        ] {
            let error = wrong.parse::<Sha512>().unwrap_err();
            assert!(error.to_string().contains("sha512sum"), "{error}");
        }
    }
}
