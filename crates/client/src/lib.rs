//! A typed HTTP client of the platform, for the command line and for tests.
//!
//! One connection a request: a command makes a handful. Every request has a deadline until its
//! answer begins; what streams after that may take as long as it likes.

mod connection;
mod control;
mod error;
mod images;
mod members;
mod nodes;
mod pools;
mod upload;

pub use connection::{Answer, Base, Call};
pub use control::{Control, Operation, invocation_path};
pub use error::Error;
pub use images::Upload;
