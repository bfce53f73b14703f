//! `X-Instance-Session` (contract 5.4): what a client may say about the session of a call.
//!
//! Sessions themselves (the binding to an instance) are not built yet: the header is checked, the
//! function sees it like every other header, and which instance serves the call is not affected.

use bugle_types::Code;
use http::HeaderValue;
use serde::Deserialize;

use crate::failure::Failure;

/// The longest session id, in characters (contract 5.4).
const LONGEST_ID: usize = 63;

/// The header as it is sent. What is absent is what the reference takes it for.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "sessionID", default)]
    id: String,
    #[serde(rename = "sessionTTL", default)]
    ttl_seconds: i64,
    #[serde(default)]
    concurrency: i64,
}

/// Checks the header for a function whose instances take `concurrent` calls at once.
pub(crate) fn check(value: &HeaderValue, concurrent: u32) -> Result<(), Failure> {
    let wire: Wire = serde_json::from_slice(value.as_bytes()).map_err(|error| {
        Failure::bad_request(format!(
            "X-Instance-Session is not a JSON object of the form \
                 {{\"sessionID\":\"abc\",\"sessionTTL\":10,\"concurrency\":1}}: {error}"
        ))
    })?;
    let invalid = |rule: String| {
        Err(Failure::new(
            Code::SessionConfigInvalid,
            format!("session config invalid: {rule}"),
        ))
    };
    if !(1..=LONGEST_ID).contains(&wire.id.chars().count()) {
        return invalid(format!("sessionID must have 1 to {LONGEST_ID} characters"));
    }
    if wire.ttl_seconds < 0 {
        return invalid("sessionTTL must be 0 or more seconds".to_owned());
    }
    if wire.concurrency < -1 {
        return invalid(
            "concurrency must be a number of calls, or -1 for a whole instance".to_owned(),
        );
    }
    if wire.concurrency > i64::from(concurrent) {
        return Err(Failure::new(
            Code::SessionConfigInvalid,
            format!(
                "invalid session parameter: concurrency {} is above the function's \
                     concurrentNum of {concurrent}",
                wire.concurrency
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), u32> {
        let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
        check(&value, 4).map_err(|failure| failure.code())
    }

    #[test]
    fn the_rules_of_the_contract_hold() {
        let id63 = "x".repeat(63);
        for (header, expected) in [
            (
                r#"{"sessionID":"a","sessionTTL":10,"concurrency":4}"#,
                Ok(()),
            ),
            (r#"{"sessionID":"a"}"#, Ok(())),
            (r#"{"sessionID":"a","concurrency":-1,"other":1}"#, Ok(())),
            (&format!(r#"{{"sessionID":"{id63}"}}"#), Ok(())),
            (&format!(r#"{{"sessionID":"{id63}x"}}"#), Err(4037)),
            (r#"{"sessionID":""}"#, Err(4037)),
            ("{}", Err(4037)),
            (r#"{"sessionID":"a","sessionTTL":-1}"#, Err(4037)),
            (r#"{"sessionID":"a","concurrency":5}"#, Err(4037)),
            (r#"{"sessionID":"a","concurrency":-2}"#, Err(4037)),
            ("nonsense", Err(200_400)),
            ("", Err(200_400)),
            (r#"{"sessionID":7}"#, Err(200_400)),
            (r#"{"sessionID":"a","sessionTTL":1e400}"#, Err(200_400)),
        ] {
            assert_eq!(checked(header), expected, "{header}");
        }
    }
}
