//! The whole platform in a test, as a black box.
//!
//! A test gets a [`Site`] (temporary directories that outlive a restart), starts the built `bugle`
//! binary in it as a [`Platform`] and talks to it over HTTP like anyone else. Nothing here uses the
//! platform's own crates, so a mistake in them cannot hide itself.
//!
//! The binary is the one beside the running test (`target/{profile}/bugle`), or the one that
//! `BUGLE_BIN` names. `cargo xtask test` builds it first; a plain `cargo test` uses what is there.
//!
//! ```no_run
//! # async fn example() {
//! use bugle_testkit::{FunctionSpec, Site};
//!
//! let site = Site::new();
//! let code = site.write_code("hello", "index.py", "def handler(event, context): return event");
//! let platform = site.start().await;
//! let hello = platform.register(&FunctionSpec::python("0@test@hello", &code)).await;
//! assert_eq!(platform.invoke(&hello, r#"{"a":1}"#).await.expect(200).text(), r#"{"a":1}"#);
//! platform.finish().await;
//! # }
//! ```
//!
//! This is test code: it panics where a test would, with what it saw last.

mod etcd;
mod eventually;
mod functions;
mod http;
mod log;
mod node;
mod platform;
mod process;
mod site;
mod witness;

pub use etcd::Etcd;
pub use eventually::{eventually, within};
pub use functions::{FunctionSpec, Registered};
pub use http::{Answer, Endpoint, Streaming};
pub use log::Tolerated;
pub use node::{Node, node_token, until_node_lives, with_nodes};
pub use platform::{Platform, Refused};
pub use process::{
    children_of, interrupt, is_running, kill, pause, processes_using, resume, terminate,
};
pub use site::{Site, StartOptions, binary};
pub use witness::Witness;
