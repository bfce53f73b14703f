//! Connections that ask for another protocol (WebSocket) at a gateway that does not have the function.
//!
//! Such a request goes on as an extended CONNECT (RFC 8441), whose stream carries the connection's
//! bytes once the function's server has agreed. What the client asked for and what the server said
//! travel beside it (`wire`). How long the connection may last is known where the function is.

use std::sync::Arc;

use http::header;
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::Kept;
use crate::connection::{Connection, Order};
use crate::gateway::{Place, Shared};

/// Whether a request asks for another protocol than HTTP on its connection. One with a body does not
/// get it: the body would have to travel before the answer; it goes on without its wish, as servers
/// may take it.
pub(super) fn is_asked_for(parts: &Parts, body: &Kept) -> bool {
    let is_empty = matches!(body, Kept::Whole(bytes) if bytes.is_empty());
    parts.method == Method::GET && is_empty && names_another(&parts.headers)
}

/// One for another version of HTTP may be answered in the version that it has.
fn names_another(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::UPGRADE);
    wanted.is_some_and(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// Carries bytes both ways, in a task of its own, until one side ends it or this gateway gives up what
/// is left at its end.
pub(super) fn carry(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    client: OnUpgrade,
    there: OnUpgrade,
) {
    let place = Place::take(shared);
    let connection = Arc::clone(connection);
    shared.tasks.spawn(async move {
        let carried = async {
            let (client, there) = tokio::try_join!(client, there).map_err(std::io::Error::other)?;
            let (mut client, mut there) = (TokioIo::new(client), TokioIo::new(there));
            copy_bidirectional(&mut client, &mut there).await
        };
        tokio::select! {
            biased;
            () = connection.told(Order::GiveUp) => {}
            // How a connection ends is its two sides' business.
            ended = carried => if let Err(error) = ended {
                tracing::debug!(%error, "an upgraded connection to another gateway broke");
            }
        }
        drop(place);
    });
}
