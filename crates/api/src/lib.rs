//! Wire shapes, API traits with thin handlers, the error envelope, OpenAPI.

pub mod operator;
