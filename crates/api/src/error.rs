//! The error envelope: `{"code":…,"message":…}`, and which HTTP status each operation gives it.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugle_types::Code;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A refusal, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The code that clients branch on.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What kind of failure it is; with the operation it decides the status.
    pub class: Class,
}

/// Kinds of failures (`meta-service` contract 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The body or a field is wrong, found without looking anything up.
    Field,
    /// The function, version or pool does not exist.
    NotFound,
    /// The body is larger than any request may be.
    TooLarge,
    /// Everything else.
    Other,
}

/// The operations, for the table of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// F1.
    Register,
    /// F2.
    Update,
    /// F3.
    Publish,
    /// F4.
    Get,
    /// F5.
    Versions,
    /// F6.
    List,
    /// F7.
    Delete,
    /// R1 to R4.
    Reservation,
    /// P1 to P4.
    Pools,
    /// Bugle's own routes: plain HTTP.
    Operator,
}

impl Operation {
    /// The status of a failure; 4xx where old clients do not rely on 500.
    pub fn status(self, class: Class) -> StatusCode {
        match (self, class) {
            (_, Class::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            (Self::Register | Self::Delete | Self::Reservation | Self::Operator, Class::Field) => {
                StatusCode::BAD_REQUEST
            }
            (
                Self::Get | Self::Delete | Self::Reservation | Self::Pools | Self::Operator,
                Class::NotFound,
            ) => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Error {
    /// A failure of the class "everything else".
    pub fn other(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            class: Class::Other,
        }
    }

    /// A wrong parameter, found without looking anything up. The reason gets the usual ending.
    pub fn field(reason: impl std::fmt::Display) -> Self {
        Self {
            class: Class::Field,
            ..Self::parameter(reason)
        }
    }

    /// A wrong parameter that takes a look at the configuration or the store to find.
    pub fn parameter(reason: impl std::fmt::Display) -> Self {
        Self::other(
            Code::InvalidUserParam,
            format!("{reason}. check input parameters"),
        )
    }

    /// A body that cannot be read (130600).
    pub fn body(text: impl Into<String>) -> Self {
        let message = text.into();
        Self {
            code: Code::InvalidParamErrorCode,
            message,
            class: Class::Field,
        }
    }

    /// No such function.
    pub fn function_not_found(name: &str) -> Self {
        let message = format!("function [{name}] is not found. check input parameters");
        Self {
            code: Code::FunctionNotFound,
            message,
            class: Class::NotFound,
        }
    }

    /// No such version.
    pub fn version_not_found(name: &str, version: &str) -> Self {
        let message =
            format!("function [{name}] version [{version}] is not found. check input parameters");
        Self {
            code: Code::FunctionVersionNotFound,
            message,
            class: Class::NotFound,
        }
    }

    /// No such pool.
    pub fn pool_not_found() -> Self {
        Self {
            class: Class::NotFound,
            ..Self::other(
                Code::PoolNotFound,
                "pool does not exist or has been deleted. check input parameters",
            )
        }
    }

    /// A qualifier that is neither a version nor an alias.
    pub fn invalid_qualifier(qualifier: &str) -> Self {
        let message = format!("invalid qualifier: {qualifier}");
        Self {
            code: Code::InvalidQualifier,
            message,
            class: Class::Field,
        }
    }

    /// The answer to `operation`.
    pub fn at(self, operation: Operation) -> Response {
        answer(operation.status(self.class), &self.body_of())
    }

    /// The envelope.
    pub fn body_of(&self) -> ErrorBody {
        ErrorBody {
            code: self.code.number(),
            message: self.message.clone(),
        }
    }
}

impl IntoResponse for Error {
    /// For routes of our own; those of the contract use [`Error::at`].
    fn into_response(self) -> Response {
        self.at(Operation::Operator)
    }
}

/// The body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The code that clients branch on.
    pub code: u32,
    /// What is wrong.
    pub message: String,
}

/// Room for the answer that most ask for, a function, without asking for more.
const USUAL: usize = 4096;

/// A JSON answer with the content type of the contract.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut text, body).expect("wire shapes are made of JSON values");
    (
        status,
        [(header::CONTENT_TYPE, "application/json; charset=utf-8")],
        text,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_the_table() {
        use Operation::*;
        for (operation, field, not_found) in [
            (Register, 400, 500),
            (Update, 500, 500),
            (Publish, 500, 500),
            (Get, 500, 404),
            (Versions, 500, 500),
            (Delete, 400, 404),
            (Reservation, 400, 404),
            (Pools, 500, 404),
        ] {
            assert_eq!(operation.status(Class::Field), field, "{operation:?}");
            assert_eq!(
                operation.status(Class::NotFound),
                not_found,
                "{operation:?}"
            );
            assert_eq!(operation.status(Class::Other), 500, "{operation:?}");
        }
    }
}
