//! Hosts instances on a machine for a scheduler elsewhere.
//!
//! A node is a process on another machine, or in a Pod, that has the drivers of instances and offers
//! them to a platform. It opens the one connection that there is between the two, with mutual TLS, and
//! from then on it is the platform that asks over it (HTTP/2): start this, call that. So a node needs
//! no address of its own, and works from behind any firewall that lets it out.
//!
//! - The platform's side is [`Hub`]: it takes nodes in, joins them to the scheduler's
//!   [`Fleet`](bugle_scheduler::Fleet) as drivers whose instances are called over the connection, and
//!   takes in again what runs on them after it was restarted.
//! - The node's side is [`Host`] with [`serve`]: it starts, calls and stops instances as it is asked.
//! - A node joins once with a [`JoinToken`]; [`Identity`] is what it keeps of that.
//!
//! Nothing here decides where an instance runs, and nothing of what runs where is stored: nodes say
//! what they have. Each side bounds and checks what the other sends, and gives the connection up when
//! it is not of the protocol.

mod authority;
mod beat;
mod heads;
mod host;
mod hub;
mod identity;
mod joined;
mod link;
mod members;
mod orders;
mod parts;
mod remote;
mod requests;
mod strangers;
mod stream;
#[cfg(test)]
mod tests;
mod token;
mod tunnel;
mod wire;

pub use authority::{Error as AuthorityError, GATEWAY, GatewayTls, is_gateway};
pub use host::{Host, News, Offer, Prepare};
pub use hub::{Dependencies, Gateways, Hub, Keeper, MemberInfo, PackageBytes, Packages, Pods};
pub use identity::{Error as IdentityError, Identity, PackageSource, PackageStream};
pub use joined::{Terms, serve};
pub use members::{Error as MemberError, LOCAL, Member, Pod, Seal, gateway_tls};
pub use strangers::{Stranger, Strangers};
pub use token::{JoinToken, NoRandomness, NoToken};
pub use wire::{GatewayAddress, Roster};
