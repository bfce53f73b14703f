//! Tokens with which nodes join: once, or as a Pod of a pool.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, rand};

/// How a token begins, so that one that leaks is recognised.
const PREFIX: &str = "bugle-node-";

/// What an operator gives to a node: a secret, and the digest of the authority's certificate, by
/// which the node knows that it talks to this platform and to no other.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: [u8; 32],
    /// SHA-256 of the authority's certificate.
    pub(crate) authority: [u8; 32],
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no token of a node: `bugle node token` prints one, which begins with bugle-node-")]
pub struct NoToken;

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

impl JoinToken {
    /// A new one for the authority with this certificate.
    pub(crate) fn new(authority: [u8; 32]) -> Result<Self, NoRandomness> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| NoRandomness)?;
        Ok(Self { secret, authority })
    }

    /// The one of a Pod pool, always the same for the same pool.
    pub(crate) fn of_pool(root: &hmac::Key, pool: &str, authority: [u8; 32]) -> Self {
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(root, pool.as_bytes()).as_ref());
        Self { secret, authority }
    }

    /// Whether it is of the platform with this authority.
    pub(crate) fn is_of(&self, certificate: &[u8]) -> bool {
        self.authority == sha256(certificate)
    }

    /// Under what the platform remembers it: not the secret itself.
    pub(crate) fn hash(&self) -> String {
        hex(&sha256(&self.secret))
    }
}

/// The digest of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from hexadecimal digits; none if the text is something else.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.{}", hex(&self.secret), hex(&self.authority))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

impl FromStr for JoinToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let parts = text.trim().strip_prefix(PREFIX).and_then(|rest| {
            let (secret, authority) = rest.split_once('.')?;
            let bytes = |text| unhex(text)?.try_into().ok();
            Some((bytes(secret)?, bytes(authority)?))
        });
        let (secret, authority) = parts.ok_or(NoToken)?;
        Ok(Self { secret, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_shown_and_hides_its_secret_from_logs() {
        let token = JoinToken::new([7; 32]).unwrap();
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert_ne!(JoinToken::new([7; 32]).unwrap(), token);
        assert_eq!(format!("{token:?}"), "JoinToken(…)");
        assert!(!text.contains(&token.hash()));
        let (short, long) = (&text[..text.len() - 2], format!("{text}00"));
        for bad in [
            "",
            "bugle-node-",
            "x",
            &text[..text.len() - 1],
            short,
            &long,
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(NoToken), "{bad}");
        }
    }

    #[test]
    fn bytes_are_read_from_digits_as_they_are_shown_and_from_nothing_else() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex(""), Some(Vec::new()));
        for bad in ["0", "0g", "+1", " 1", "é0", "0é1"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
