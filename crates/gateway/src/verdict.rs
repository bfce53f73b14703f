//! What an inner code means to FunctionGraph's clients and to callers of an API gateway (contract
//! `container-image` 7 and 8.3). The inner codes themselves are in `bugle_types::Code`; the statuses
//! of Bugle's own invocation routes are `failure::status_of`.

use http::StatusCode;

/// Who is to blame, and how that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether the function is, rather than the platform or the request.
    pub(crate) is_functions: bool,
    /// The status at FunctionGraph's interface. What a function does wrong is a result there.
    pub(crate) status: StatusCode,
    /// The code at FunctionGraph's interface.
    pub(crate) fss: &'static str,
    /// The type of the error that stands in the place of a result.
    pub(crate) kind: &'static str,
}

impl Verdict {
    /// The verdict on an inner code; 0 is success.
    pub(crate) fn on(code: u32) -> Self {
        let function = |kind| Self {
            is_functions: true,
            status: StatusCode::OK,
            fss: "FSS.0500",
            kind,
        };
        let platform = |status, fss| Self {
            is_functions: false,
            status,
            fss,
            kind: "PlatformError",
        };
        match code {
            4001 => function("FunctionLoadFailed"),
            4002 | 4003 | 4005..=4008 => function("FunctionReturnError"),
            4004 => function("FunctionResponseTooLarge"),
            4009 | 4201 | 4211 => function("FunctionInitError"),
            3003 | 4010 => function("FunctionTimeout"),
            4011 | 1007 => function("FunctionExited"),
            4205 => function("FunctionOOM"),
            4207 => function("FunctionDiskLimit"),
            4208 => function("FunctionCanceled"),
            4140 | 200_413 => platform(StatusCode::PAYLOAD_TOO_LARGE, "FSS.0413"),
            200_400 | 150_444 => platform(StatusCode::BAD_REQUEST, "FSS.0400"),
            200_401 => platform(StatusCode::UNAUTHORIZED, "FSS.0401"),
            200_403 | 150_434 => platform(StatusCode::FORBIDDEN, "FSS.0403"),
            4024 | 150_424 | 150_425 | 200_404 => platform(StatusCode::NOT_FOUND, "FSS.1051"),
            4021 | 150_429 | 150_432 | 150_433 | 200_429 => {
                platform(StatusCode::TOO_MANY_REQUESTS, "FSS.0429")
            }
            150_430 | 150_431 | 161_914 | 214_503 => {
                platform(StatusCode::SERVICE_UNAVAILABLE, "FSS.0503")
            }
            // Codes that only user code sends.
            1..=9999 => function("FunctionReturnError"),
            _ => platform(StatusCode::INTERNAL_SERVER_ERROR, "FSS.0500"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_mistake_is_a_result_and_the_platforms_is_a_status() {
        for (codes, is_functions, status) in [
            (
                &[4001, 4002, 4004, 4010, 4201, 4205, 4211, 1007, 42][..],
                true,
                200,
            ),
            (&[4140], false, 413),
            (&[150_424], false, 404),
            (&[150_429, 4021], false, 429),
            (&[150_431], false, 503),
            (&[150_500, 200_500], false, 500),
        ] {
            for code in codes {
                let verdict = Verdict::on(*code);
                assert_eq!(verdict.is_functions, is_functions, "{code}");
                assert_eq!(verdict.status.as_u16(), status, "{code}");
            }
        }
    }
}
