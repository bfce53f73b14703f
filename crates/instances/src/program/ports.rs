//! The ports that programs are told to listen on.
//!
//! A program binds its port itself, some time after it was told, so a port must be kept for it from
//! the choice on. The keeper is an abstract Unix address with the port in its name: abstract names
//! belong to the network namespace as ports do, so all platforms of a machine see the same ones, and
//! the kernel gives them back when a platform dies. Whether somebody else uses the port is seen by
//! binding it once.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Hands out ports of a range, each to one instance at a time.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    /// How far the last choice was from the beginning of the range.
    last: AtomicU32,
}

/// A port that nobody else is given while this exists.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _keeper: Option<UnixDatagram>,
}

impl Ports {
    /// The ports of `range`. `seed` says where the search begins, so that two platforms do not try
    /// the same ports one after the other.
    pub(super) fn new(range: RangeInclusive<u16>, seed: u32) -> Self {
        Self {
            range,
            last: AtomicU32::new(seed),
        }
    }

    /// A free port: the next one in turn, so that one which was just given back rests.
    ///
    /// # Errors
    ///
    /// All are taken.
    pub(super) fn take(&self) -> Result<Port, String> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let count = u32::from(last.saturating_sub(first)) + 1;
        for _ in 0..count {
            let turn = self.last.fetch_add(1, Ordering::Relaxed) % count;
            let number = first.saturating_add(u16::try_from(turn).unwrap_or(0));
            if let Ok(keeper) = keep(number)
                && is_free(number)
            {
                return Ok(Port {
                    number,
                    _keeper: Some(keeper),
                });
            }
        }
        Err(format!(
            "no port between {first} and {last} is free for a program; widen the range with \
             programs.first_port and programs.last_port"
        ))
    }
}

impl Port {
    /// The port of every program that has a network to itself (`runtimes` contract 7).
    pub(super) fn usual() -> Self {
        Self {
            number: 8000,
            _keeper: None,
        }
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Where its program listens.
    pub(super) fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.number)
    }
}

fn keep(port: u16) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(format!(
        "bugle-port-{port}"
    ))?)
}

/// Whether a program can bind the port now, also one that does not set `SO_REUSEADDR`.
fn is_free(port: u16) -> bool {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .and_then(|socket| {
            rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A few ports that nothing else uses, for one test.
    fn range() -> RangeInclusive<u16> {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = probe.local_addr().unwrap().port().min(60_000);
        first..=first + 20
    }

    #[test]
    fn a_port_is_given_once_also_among_platforms() {
        let range = range();
        let (one, other) = (Ports::new(range.clone(), 0), Ports::new(range, 0));
        let mut taken = Vec::new();
        while let Ok(port) = one.take() {
            taken.push(port);
        }
        assert!(taken.len() > 1, "{taken:?}");
        assert!(other.take().is_err());
        let freed = taken.pop().unwrap();
        let number = freed.number();
        drop(freed);
        assert_eq!(other.take().unwrap().number(), number);
    }

    #[test]
    fn a_port_that_something_listens_on_is_passed_over() {
        let range = range();
        let ports = Ports::new(range, 0);
        let first = ports.take().unwrap().number();
        let _listener = TcpListener::bind(("127.0.0.1", first)).unwrap();
        let mut others = Vec::new();
        while let Ok(port) = ports.take() {
            others.push(port);
        }
        assert!(others.iter().all(|port| port.number() != first));
    }
}
