//! The way out of a container: its connections, made again by the platform.
//!
//! A container's network leads nowhere (`netlink`): what its programs connect to arrives here, with
//! the address that they meant. The platform looks whether it may be reached, connects from the
//! machine's own network, and passes bytes in both directions. So nothing of the machine's network
//! is changed, forwarding stays off, and what a container may reach is decided in one place, for
//! the address and not for its name. TCP and questions for names pass; nothing else does.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::address::Policy;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::cells::Outside;
use super::netlink::NAMES;

/// The most connections of one instance to the outside at once, and the most open questions. Each
/// connection is two descriptors of the platform's.
const CONNECTIONS: usize = 256;
const QUESTIONS: usize = 64;

/// How long a connection may take to be made, and a resolver to answer.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(5);

/// The longest message of the resolver's protocol over UDP, with its extensions.
const MESSAGE: usize = 4096;

/// Where the machine says whom it asks for names.
const RESOLVERS: &str = "/etc/resolv.conf";

/// The way out of one instance. It is closed, with all connections, when the guard is dropped.
#[derive(Debug)]
pub(super) struct Egress {
    policy: Policy,
    resolver: Option<SocketAddr>,
    open: Semaphore,
    asked: Semaphore,
}

impl Egress {
    /// Opens the way out of an instance.
    ///
    /// # Errors
    ///
    /// The system's limit of watched descriptors.
    pub(super) fn open(
        outside: Outside,
        policy: Policy,
        runtime: &Handle,
    ) -> io::Result<DropGuard> {
        let _entered = runtime.enter();
        let resolver = resolver(Path::new(RESOLVERS));
        let connections = TcpListener::from_std(outside.connections)?;
        let names = TcpListener::from_std(outside.names)?;
        let questions = Arc::new(UdpSocket::from_std(outside.questions)?);
        let egress = Arc::new(Self {
            policy,
            resolver,
            open: Semaphore::new(CONNECTIONS),
            asked: Semaphore::new(QUESTIONS),
        });
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        runtime.spawn(async move {
            let tasks = TaskTracker::new();
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = egress.take_connections(&connections, &tasks, &end, Meant::Kept) => {}
                () = egress.take_connections(&names, &tasks, &end, Meant::Resolver) => {}
                () = egress.take_questions(&questions, &tasks, &end) => {}
            }
        });
        Ok(guard)
    }

    async fn take_connections(
        self: &Arc<Self>,
        listener: &TcpListener,
        tasks: &TaskTracker,
        end: &CancellationToken,
        meant: Meant,
    ) {
        while let Ok((stream, _)) = listener.accept().await {
            let (egress, end) = (Arc::clone(self), end.clone());
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = end.cancelled() => {}
                    () = egress.pass(stream, meant) => {}
                }
            });
        }
    }

    /// Passes a connection on. One that may not be made is reset, as by a firewall that says so.
    async fn pass(&self, mut inside: TcpStream, meant: Meant) {
        // More than these wait in the queue of the listener's network no longer: they are refused.
        let Ok(_one) = self.open.try_acquire() else {
            return reset(&inside);
        };
        let Some(address) = self.meant(&inside, meant) else {
            return reset(&inside);
        };
        let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
        let Ok(Ok(mut outside)) = connecting.await else {
            return reset(&inside);
        };
        _ = inside.set_nodelay(true);
        _ = outside.set_nodelay(true);
        // An end or a break on one side reaches the other when both are dropped.
        _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
    }

    /// Where a connection is to go, if it may.
    fn meant(&self, inside: &TcpStream, meant: Meant) -> Option<SocketAddr> {
        if meant == Meant::Resolver {
            return self.resolver;
        }
        let address = rustix::net::sockopt::ip_original_dst(inside).ok()?;
        let address = SocketAddr::V4(address);
        if let Err(refused) = self.policy.check_direct(address) {
            tracing::debug!(%address, %refused, "a container's connection was refused");
            return None;
        }
        // The platform's own services, and its neighbours', are not for functions, also where the
        // machine has a public address.
        let refused = is_own(address.ip()) && !self.policy.lists(address);
        (!refused).then_some(address)
    }

    async fn take_questions(
        self: &Arc<Self>,
        questions: &Arc<UdpSocket>,
        tasks: &TaskTracker,
        end: &CancellationToken,
    ) {
        let mut buffer = [0; MESSAGE];
        while let Ok((length, from)) = questions.recv_from(&mut buffer).await {
            let (egress, end) = (Arc::clone(self), end.clone());
            let (socket, question) = (Arc::clone(questions), buffer[..length].to_vec());
            tasks.spawn(async move {
                let asking = egress.ask(&question);
                let answer = tokio::select! {
                    biased;
                    () = end.cancelled() => return,
                    answer = tokio::time::timeout(ANSWER, asking) => answer,
                };
                if let Ok(Ok(answer)) = answer {
                    // Who asked may be gone.
                    _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    /// Asks the machine's resolver; who asks too much at once gets no answer, and asks again.
    async fn ask(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let _one = self.asked.try_acquire().map_err(io::Error::other)?;
        let resolver = self.resolver.ok_or(io::ErrorKind::NotConnected)?;
        let any: IpAddr = match resolver {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        // A port of its own, so that an answer can only be to this question.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(resolver).await?;
        socket.send(question).await?;
        let mut answer = vec![0; MESSAGE];
        let length = socket.recv(&mut answer).await?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Where a connection was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    /// The kernel has kept it.
    Kept,
    /// To whom the machine asks for names.
    Resolver,
}

fn reset(stream: &TcpStream) {
    // Whatever is wrong with it, it is closed.
    _ = stream.set_zero_linger();
}

/// Whether an address is one of this machine's: then the kernel would send from that very address.
fn is_own(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED),
    };
    // Sends nothing, but asks for the way.
    let route = std::net::UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    route.is_ok_and(|local| local.ip() == address)
}

/// Whom this machine asks for names first.
fn resolver(path: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver");
        let address: IpAddr = address.and_then(|_| words.next())?.parse().ok()?;
        Some(SocketAddr::new(address, NAMES))
    })
}

/// What a container's `/etc/resolv.conf` says: ask at home, and as the machine does otherwise.
pub(super) fn resolv_conf() -> String {
    let text = std::fs::read_to_string(RESOLVERS).unwrap_or_default();
    of_container(&text)
}

fn of_container(text: &str) -> String {
    let mut own = format!("nameserver {}\n", Ipv4Addr::LOCALHOST);
    for line in text.lines() {
        if ["search", "domain", "options"].contains(&line.split_whitespace().next().unwrap_or("")) {
            own.push_str(line);
            own.push('\n');
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_at_home_with_the_machines_options() {
        let text = "# made by hand\nnameserver 10.0.0.2\nnameserver ::1\nsearch a.example b.example\noptions ndots:2\n";
        let expected = "nameserver 127.0.0.1\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(of_container(text), expected);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(resolver(file.path()), Some("10.0.0.2:53".parse().unwrap()));
        std::fs::write(file.path(), "search x\n").unwrap();
        assert_eq!(resolver(file.path()), None);
    }

    #[test]
    fn the_machines_own_addresses_are_known() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("192.0.2.1".parse().unwrap()));
    }
}
