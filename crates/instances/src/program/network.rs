//! Connections into a network of an instance's own.
//!
//! A socket stays in the network where it was made, and the platform's threads never leave theirs.
//! So a thread goes there for a moment and makes sockets in stock; to connect one takes no thread.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// How many sockets are made at once, and with how few left more are made. Each is a descriptor of
/// the platform's.
const STOCK: usize = 8;
const LOW: usize = 2;

/// How long a connection may take that is made at once, if the kernel leaves it to another thread.
const A_MOMENT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// A network that is not the platform's.
#[derive(Debug)]
pub(crate) struct Network {
    namespace: OwnedFd,
    sockets: Mutex<Vec<OwnedFd>>,
}

impl Network {
    pub(crate) fn new(namespace: OwnedFd) -> Self {
        Self {
            namespace,
            sockets: Mutex::default(),
        }
    }

    /// Does something on a thread inside the network, and waits for it.
    ///
    /// # Errors
    ///
    /// The system gives no thread, or does not let it in.
    pub(crate) fn within<T: Send>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = std::thread::Builder::new().name("network".to_owned());
            let inside = inside.spawn_scoped(scope, || {
                self.enter()?;
                act()
            })?;
            let ended = |_| io::Error::other("the thread in the instance's network has ended");
            inside.join().map_err(ended)?
        })
    }

    fn enter(&self) -> io::Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        Ok(rustix::thread::move_into_link_name_space(
            self.namespace.as_fd(),
            kind,
        )?)
    }

    /// Makes sockets until there is a stock of them. Blocks.
    ///
    /// # Errors
    ///
    /// The system has no thread or no descriptors.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let sockets = self.within(sockets)?;
        self.sockets.lock().extend(sockets);
        Ok(())
    }

    /// Tries to connect, without waiting for a server that does not listen yet. None when the
    /// server's queue is full.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub(crate) fn connect_now(
        &self,
        address: SocketAddr,
    ) -> io::Result<Option<std::net::TcpStream>> {
        let mut taken = self.sockets.lock().pop();
        if taken.is_none() {
            self.fill()?;
            taken = self.sockets.lock().pop();
        }
        let Some(socket) = taken else {
            return Ok(None);
        };
        // On one machine a connection is mostly made, or refused, before the call returns.
        let connected = rustix::net::connect(&socket, &address);
        if connected == Err(Errno::INPROGRESS) {
            let mut made = [PollFd::new(&socket, PollFlags::OUT)];
            if rustix::event::poll(&mut made, Some(&A_MOMENT))? == 0 {
                return Ok(None);
            }
            // What was refused late is not a new socket again.
            rustix::net::sockopt::socket_error(&socket)??;
            return Ok(Some(socket.into()));
        }
        if let Err(error) = connected {
            // It can be used again.
            self.sockets.lock().push(socket);
            return Err(error.into());
        }
        Ok(Some(socket.into()))
    }

    /// A connection to a server in the network.
    ///
    /// # Errors
    ///
    /// Nobody listens, or the system has no descriptors.
    pub(crate) async fn connect(self: &Arc<Self>, address: SocketAddr) -> io::Result<TcpStream> {
        let (socket, left) = {
            let mut sockets = self.sockets.lock();
            (sockets.pop(), sockets.len())
        };
        let socket = match socket {
            Some(socket) => {
                if left == LOW {
                    _ = self.fill_soon(|_| ());
                }
                socket
            }
            None => self.made().await?,
        };
        let connecting = rustix::net::connect(&socket, &address);
        if let Err(error) = connecting
            && error != Errno::INPROGRESS
        {
            self.sockets.lock().push(socket);
            return Err(error.into());
        }
        let stream = TcpStream::from_std(socket.into())?;
        if connecting.is_err() {
            stream.writable().await?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Ok(stream)
    }

    /// A socket that is made now, with others for those who come next.
    async fn made(self: &Arc<Self>) -> io::Result<OwnedFd> {
        let (sender, receiver) = oneshot::channel();
        let network = Arc::clone(self);
        self.fill_soon(move |filled| {
            let taken = filled.and_then(|()| {
                let taken = network.sockets.lock().pop();
                taken.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            // Nobody waits any more when this fails.
            _ = sender.send(taken);
        })?;
        receiver.await.map_err(io::Error::other)?
    }

    fn fill_soon(
        self: &Arc<Self>,
        then: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let network = Arc::clone(self);
        let thread = std::thread::Builder::new().name("network".to_owned());
        thread.spawn(move || {
            let made = network.enter().and_then(|()| sockets());
            then(made.map(|made| network.sockets.lock().extend(made)));
        })?;
        Ok(())
    }
}

/// Sockets of the network that this thread is in.
fn sockets() -> io::Result<Vec<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = |_| rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
    let made: Result<Vec<_>, _> = (0..STOCK).map(socket).collect();
    Ok(made?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn here() -> Arc<Network> {
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        Arc::new(Network::new(namespace.into()))
    }

    #[tokio::test]
    async fn a_socket_that_was_refused_connects_when_somebody_listens() {
        let network = here();
        if network.fill().is_err() {
            eprintln!("skipped: entering a network needs root");
            return;
        }
        let port = {
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap().port()
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for _ in 0..20 {
            if let Err(refused) = network.connect_now(address) {
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            }
            let refused = network.connect(address).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
        let _listener = TcpListener::bind(address).unwrap();
        assert!(network.connect_now(address).unwrap().is_some());
        let streams: Vec<_> =
            futures_util::future::join_all((0..3 * STOCK).map(|_| network.connect(address))).await;
        assert!(streams.iter().all(Result::is_ok));
    }
}
