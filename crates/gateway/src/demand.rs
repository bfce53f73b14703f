//! What the headers of a call ask of the instance that serves it, and how its body is meant.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use bugle_types::pool::PoolChoice;
use bugle_types::{Code, CpuMillis, InstanceLabel, MemoryMib, Resources};
use http::HeaderValue;

use crate::failure::Failure;
use crate::head::Named;

/// The resources a call asks for; none where it asks for the function's own.
///
/// Each header acts alone over `own`. The custom resources of a call replace the function's.
pub(crate) fn resources(
    headers: &Named<'_>,
    own: &Resources,
) -> Result<Option<Resources>, Failure> {
    if headers.cpu.is_none() && headers.memory.is_none() && headers.custom.is_none() {
        return Ok(None);
    }
    let mut asked = own.clone();
    if let Some(value) = headers.cpu {
        asked.cpu = CpuMillis(positive("X-Instance-Cpu", "thousandths of a core", value)?);
    }
    if let Some(value) = headers.memory {
        let memory = positive::<u32>("X-Instance-Memory", "MB", value)?;
        asked.memory = MemoryMib(memory.into());
    }
    if let Some(value) = headers.custom {
        asked.custom = custom(value)?;
    }
    Ok(Some(asked))
}

fn positive<T>(header: &str, unit: &str, value: &HeaderValue) -> Result<T, Failure>
where
    T: FromStr + Default + PartialOrd,
{
    value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|number| *number > T::default())
        .ok_or_else(|| {
            Failure::bad_request(format!(
                "{header} must be a positive whole number of {unit}"
            ))
        })
}

fn custom(value: &HeaderValue) -> Result<Vec<(String, i64)>, Failure> {
    const THOUSANDTHS: f64 = 1000.0;
    let malformed = |why: &str| {
        Failure::bad_request(format!(
            "X-Instance-Custom-Resource must be a JSON object of names and numbers: {why}"
        ))
    };
    let asked: BTreeMap<String, f64> =
        serde_json::from_slice(value.as_bytes()).map_err(|error| malformed(&error.to_string()))?;
    asked
        .into_iter()
        .filter(|(_, amount)| *amount > 0.0)
        .map(|(name, amount)| {
            if amount > Resources::MOST_CUSTOM {
                return Err(malformed(&format!("{name} is too large")));
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "amount is between 0 and the most, whose thousandths fit"
            )]
            let thousandths = (amount * THOUSANDTHS).round() as i64;
            Ok((name, thousandths))
        })
        .collect()
}

/// The labelled set that shall serve the call; none is the unlabelled one.
pub(crate) fn label(headers: &Named<'_>) -> Result<Option<InstanceLabel>, Failure> {
    let Some(value) = headers.label.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    // What cannot be a label has no instances, so it is as unknown as one that was never set.
    let label = value.to_str().ok().and_then(|text| text.parse().ok());
    match label {
        Some(label) => Ok(Some(label)),
        None => Err(unknown_label(&String::from_utf8_lossy(value.as_bytes()))),
    }
}

/// Groups that a call may name, and the bytes of their names together.
const MOST_GROUPS: usize = 16;
const LONGEST_GROUPS: usize = 1024;

/// Where an instance that is made for the call shall run, if the call says so: on nodes with these labels, the first
/// that has room. `own` is where the function says.
pub(crate) fn place(
    headers: &Named<'_>,
    own: &PoolChoice,
) -> Result<Option<Arc<PoolChoice>>, Failure> {
    let Some(value) = headers.pools.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| text.len() <= LONGEST_GROUPS);
    let place = text.map(|text| own.with_groups(text));
    let place = place.filter(|place| place.groups.len() <= MOST_GROUPS);
    let place = place.ok_or_else(|| {
        Failure::bad_request(format!(
            "X-Pool-Label must be up to {MOST_GROUPS} names of labels with commas between them, of up to \
             {LONGEST_GROUPS} characters together"
        ))
    })?;
    Ok((!place.groups.is_empty()).then(|| Arc::new(place)))
}

/// No reserved instances are configured under this label.
pub(crate) fn unknown_label(label: &str) -> Failure {
    Failure::new(
        Code::InstanceLabelNotFound,
        format!("instance label not found: {label}"),
    )
}

/// Refuses calls that want to be answered later.
pub(crate) fn refuse_async(headers: &Named<'_>) -> Result<(), Failure> {
    match headers.invoke_type {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"async") => Err(
            Failure::bad_request("asynchronous invocation is not supported by this version"),
        ),
        _ => Ok(()),
    }
}

/// Whether the client takes an event stream: `Accept` is, or lists, `text/event-stream`.
pub(crate) fn wants_events(headers: &Named<'_>) -> bool {
    let Some(Ok(accept)) = headers.accept.map(HeaderValue::to_str) else {
        return false;
    };
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_events = parts
            .next()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"));
        // A weight of 0 means "anything but this" (RFC 9110, 12.4.2).
        let mut weights = parts.filter_map(|parameter| parameter.strip_prefix("q="));
        let is_refused = weights
            .next()
            .and_then(|weight| weight.parse().ok())
            .is_some_and(|weight: f32| weight <= 0.0);
        is_events && !is_refused
    })
}

/// Whether the runtime shall try to read the body as JSON before it hands over the bytes.
///
/// Clients of the reference send JSON under whatever content type their tool puts there (`curl -d`
/// says it is a form), because the reference never looks; so the types that a tool may default to
/// count as "perhaps JSON". Every other type is what it says.
pub(crate) fn may_be_json(headers: &Named<'_>) -> bool {
    let Some(value) = headers.content_type else {
        return true;
    };
    let bytes = value.as_bytes();
    let end = bytes.iter().position(|b| *b == b';').unwrap_or(bytes.len());
    let kind = bytes[..end].trim_ascii();
    let is = |name: &str| kind.eq_ignore_ascii_case(name.as_bytes());
    let has_json_suffix = kind
        .len()
        .checked_sub(5)
        .is_some_and(|at| kind[at..].eq_ignore_ascii_case(b"+json"));
    kind.is_empty()
        || is("application/json")
        || is("text/json")
        || is("text/plain")
        || is("application/x-www-form-urlencoded")
        || has_json_suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Resources {
        Resources {
            cpu: CpuMillis(500),
            memory: MemoryMib(128),
            custom: vec![("NPU/.+/count".to_owned(), 1000)],
        }
    }

    fn asked(
        cpu: Option<&'static str>,
        memory: Option<&'static str>,
        custom: Option<&'static str>,
    ) -> Result<Option<Resources>, u32> {
        let (cpu, memory, custom) = (
            cpu.map(HeaderValue::from_static),
            memory.map(HeaderValue::from_static),
            custom.map(HeaderValue::from_static),
        );
        let named = Named {
            cpu: cpu.as_ref(),
            memory: memory.as_ref(),
            custom: custom.as_ref(),
            ..Named::default()
        };
        resources(&named, &own()).map_err(|failure| failure.code())
    }

    #[test]
    fn each_resource_header_acts_alone() {
        assert_eq!(asked(None, None, None), Ok(None));
        let cpu = asked(Some("2000"), None, None).unwrap().unwrap();
        assert_eq!(
            cpu,
            Resources {
                cpu: CpuMillis(2000),
                ..own()
            }
        );
        let memory = asked(None, Some(" 512 "), None).unwrap().unwrap();
        assert_eq!(
            memory,
            Resources {
                memory: MemoryMib(512),
                ..own()
            }
        );
        let custom = asked(None, None, Some(r#"{"b":0.5,"a":2,"c":0,"d":-1}"#))
            .unwrap()
            .unwrap();
        assert_eq!(
            custom.custom,
            [("a".to_owned(), 2000), ("b".to_owned(), 500)]
        );
    }

    #[test]
    fn malformed_resources_are_refused() {
        for bad in ["0", "-1", "x", "", "1.5", "99999999999999999999"] {
            assert_eq!(asked(Some(bad), None, None), Err(200_400), "{bad}");
            assert_eq!(asked(None, Some(bad), None), Err(200_400), "{bad}");
        }
        // More than can be counted.
        assert_eq!(asked(None, Some("4294967296"), None), Err(200_400));
        for bad in [
            "",
            "[]",
            "1",
            r#"{"a":"1"}"#,
            r#"{"a":1e400}"#,
            r#"{"a":1e300}"#,
            "{",
        ] {
            assert_eq!(asked(None, None, Some(bad)), Err(200_400), "{bad}");
        }
    }

    #[test]
    fn a_text_that_cannot_be_a_label_is_an_unknown_label() {
        let parsed = |text| {
            let value = HeaderValue::from_static(text);
            let named = Named {
                label: Some(&value),
                ..Named::default()
            };
            label(&named)
                .map(|label| label.map(|label| label.to_string()))
                .map_err(|failure| failure.code())
        };
        assert_eq!(parsed("blue"), Ok(Some("blue".to_owned())));
        assert_eq!(parsed(""), Ok(None));
        assert_eq!(parsed("a b"), Err(150_444));
    }

    #[test]
    fn a_call_names_labels_of_nodes_in_their_order() {
        let own = PoolChoice::new("p1", "gold");
        let place = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            let named = Named {
                pools: Some(&value),
                ..Named::default()
            };
            super::place(&named, &own).map_err(|failure| failure.code())
        };
        let named = place("silver, gold,unUseAntiOtherLabels").unwrap().unwrap();
        assert_eq!(named.pool, own.pool);
        assert_eq!(named.groups, ["silver", "gold"]);
        assert!(named.any);
        assert_eq!(place(""), Ok(None));
        assert_eq!(place(" , "), Ok(None));
        assert_eq!(place(&"a,".repeat(17)), Err(200_400));
        assert_eq!(place(&"a".repeat(1025)), Err(200_400));
        assert_eq!(super::place(&Named::default(), &own).unwrap(), None);
    }

    #[test]
    fn a_client_asks_for_events_by_naming_them() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream; q=0.5", true),
            ("text/event-stream;q=0", false),
            ("*/*", false),
            ("text/event-streams", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(accept);
            let named = Named {
                accept: Some(&value),
                ..Named::default()
            };
            assert_eq!(wants_events(&named), expected, "{accept}");
        }
    }

    #[test]
    fn content_types_that_tools_default_to_may_hold_json() {
        for (kind, expected) in [
            ("application/json; charset=utf-8", true),
            ("APPLICATION/JSON", true),
            ("application/cloudevents+json", true),
            ("application/x-www-form-urlencoded", true),
            ("text/plain", true),
            ("text/json", true),
            ("", true),
            ("application/octet-stream", false),
            ("image/png", false),
            ("multipart/form-data; boundary=x", false),
            ("json", false),
        ] {
            let value = HeaderValue::from_static(kind);
            let named = Named {
                content_type: Some(&value),
                ..Named::default()
            };
            assert_eq!(may_be_json(&named), expected, "{kind}");
        }
        assert!(may_be_json(&Named::default()));
    }

    #[test]
    fn asynchronous_calls_are_refused_rather_than_run_at_once() {
        let value = HeaderValue::from_static("Async");
        let named = Named {
            invoke_type: Some(&value),
            ..Named::default()
        };
        assert_eq!(refuse_async(&named).unwrap_err().code(), 200_400);
        assert!(refuse_async(&Named::default()).is_ok());
    }
}
