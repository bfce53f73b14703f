//! Several gateways that share the functions of one etcd.
//!
//! Each gateway is a *member* for as long as it renews its lease; a function belongs to exactly one of
//! them, which all find out alike, without asking ([`rendezvous`]). What a gateway knows of the members
//! is its [`View`]. [`Cluster`] keeps the place of this gateway, follows the views, and has the
//! connections to the others: HTTP/2 with mutual TLS, to the port that each opens for the rest
//! ([`serve_port`]).
//!
//! A gateway that could not renew its lease in time may not use instances any more, whatever else it
//! believes: [`Fence`] says so by its own clock, before etcd tells the others. Only where none of the
//! others can reach etcd either does it go on: then no lease runs out.
//!
//! What owning a function means is not known here: the gateway and the scheduler know it, and the
//! server puts them together.

mod cluster;
mod fence;
mod peers;
mod port;
pub mod rendezvous;
mod view;

pub use cluster::{Cluster, Joining, Refused, Told, WITNESS};
pub use fence::Fence;
pub use peers::Unanswered;
pub use port::{Answer, Serve, serve_port};
pub use view::{Member, View};
