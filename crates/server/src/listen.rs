//! The sockets on which the platform waits for others.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::StartError;

/// Connections that wait to be accepted; one more has to knock again, a second later. The usual 128
/// are fewer than a crowd of callers is. The kernel has a limit of its own, `somaxconn`.
const BACKLOG: u32 = 4096;

/// Listens on an address, and says on which where the system was to choose the port.
pub(crate) fn listen(
    what: &'static str,
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        what,
        flag,
        address,
        source,
    };
    let listener = bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
