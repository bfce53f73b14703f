//! The HTTP data plane: resolves a function, waits for a slot, calls, and gives the answer back.
//!
//! hyper parses HTTP; everything between a parsed head and the scheduler's slot is here. No store,
//! no disk and no lock shared by all functions is on the way of a call, and no JSON is parsed: the
//! body goes to the instance as it came. What an instance is and which one serves a call is the
//! scheduler's business; who registered the function is the registry's.
//!
//! The gateway runs on the tokio runtime it is called in, next to the scheduler and the instances,
//! so that a call never changes threads.
//!
//! ```
//! use bugle_gateway::{Config, Gateway, Load, Metrics};
//! use bugle_scheduler::Scheduler;
//! use tokio::net::TcpListener;
//! use tokio_util::sync::CancellationToken;
//!
//! async fn serve(scheduler: Scheduler, metrics: Metrics, load: Load) -> std::io::Result<()> {
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let gateway = Gateway::new(Config::default(), scheduler, metrics, load);
//!     gateway.run(vec![listener], CancellationToken::new()).await;
//!     Ok(())
//! }
//! ```

mod answer;
mod body;
mod call;
mod config;
mod connection;
mod demand;
mod events;
mod failure;
mod function_graph;
mod gateway;
mod head;
mod http_function;
mod members;
mod metrics;
mod payload;
mod route;
mod serve;
mod session;
mod streaming;
mod structure;
mod trace;
mod verdict;

pub use body::{Inbound, Passing};
pub use config::Config;
pub use failure::status_of;
pub use function_graph::Delivered;
pub use gateway::{AcceptEvent, Gateway, Load, Refused};
pub use members::{NoAnswer, Owners, Place};
pub use metrics::Metrics;
pub use payload::Broken;
