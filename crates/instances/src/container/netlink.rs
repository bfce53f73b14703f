//! What a new network is told before anybody uses it: that its loopback interface is up and, where
//! its container may reach the outside, that all addresses are at home.
//!
//! The latter makes an *island*: every address leads to the loopback interface, and connections to
//! anything but `127.0.0.0/8` are handed to one port, where the platform takes them and decides
//! (`egress`). Nothing of the machine's own network is changed for it, so nothing is left behind.
//!
//! The messages are those of `rtnetlink(7)` and of `nf_tables`; they are few and fixed, so they are
//! put together here rather than by a program that may not be installed.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The protocol of interfaces and routes, `NETLINK_ROUTE`, is number 0.
const ROUTE: Option<Protocol> = None;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`, which also acknowledges.
const ERROR: u16 = 2;

/// The loopback interface is the first of every network.
const LOOPBACK: u32 = 1;

/// Messages that are sent together.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    expected: usize,
}

/// A message, or an attribute with others inside, that is not finished.
struct Open {
    at: usize,
}

impl Messages {
    fn message(&mut self, kind: u16, flags: u16, body: &[u8], inside: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = flags | REQUEST;
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        // Sequence and sender: whoever waits for answers knows what was asked.
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(body);
        inside(self);
        let length = u32::try_from(self.bytes.len() - at).expect("messages here are short");
        self.bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        if flags & ACKNOWLEDGE != 0 {
            self.expected += 1;
        }
    }

    fn open(&mut self, kind: u16) -> Open {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        Open { at }
    }

    fn close(&mut self, open: &Open) {
        let length = u16::try_from(self.bytes.len() - open.at).expect("attributes here are short");
        self.bytes[open.at..open.at + 2].copy_from_slice(&length.to_ne_bytes());
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let open = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(&open);
    }

    /// An attribute that is made of others.
    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        const NESTED: u16 = 0x8000;
        let open = self.open(kind | NESTED);
        inside(self);
        self.close(&open);
    }

    /// A number in the order of bytes that `nf_tables` wants.
    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn send(&self, protocol: Option<Protocol>) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        let socket: OwnedFd = socket?;
        rustix::net::send(&socket, &self.bytes, SendFlags::empty())?;
        let mut answered = 0;
        while answered < self.expected {
            answered += answers(&socket)?;
        }
        Ok(())
    }
}

/// Counts the acknowledgements in the next answer.
fn answers(socket: &OwnedFd) -> io::Result<usize> {
    let mut buffer = [0_u8; 4096];
    let (_, length) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
    let mut rest = &buffer[..length];
    let mut count = 0;
    while let [a, b, c, d, low, high, ..] = *rest {
        let length = (u32::from_ne_bytes([a, b, c, d]) as usize).max(16);
        let outcome = rest.get(16..20);
        if u16::from_ne_bytes([low, high]) == ERROR
            && let Some(&[a, b, c, d]) = outcome
        {
            match i32::from_ne_bytes([a, b, c, d]) {
                0 => count += 1,
                errno => return Err(io::Error::from_raw_os_error(-errno)),
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(count)
}

/// Raises the loopback interface of this network.
///
/// # Errors
///
/// The kernel refuses it.
pub(super) fn raise_loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const UP: u32 = 1;
    let mut body = vec![0; 4];
    for word in [LOOPBACK, UP, UP] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    let mut messages = Messages::default();
    messages.message(NEW_LINK, ACKNOWLEDGE, &body, |_| {});
    messages.send(ROUTE)
}

/// Makes this network an island whose connections to the outside arrive at `port`, and whose
/// questions for names at port 53.
///
/// # Errors
///
/// The kernel refuses it, or has no `nf_tables` with redirections.
pub(super) fn make_island(port: u16) -> io::Result<()> {
    all_is_local()?;
    redirect(port)
}

/// Every address is one of this machine.
fn all_is_local() -> io::Result<()> {
    const NEW_ROUTE: u16 = 24;
    const INET: u8 = 2;
    const MAIN: u8 = 254;
    const BOOT: u8 = 3;
    const HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const OUTPUT: u16 = 4;
    let body = [INET, 0, 0, 0, MAIN, BOOT, HOST, LOCAL, 0, 0, 0, 0];
    let mut messages = Messages::default();
    messages.message(NEW_ROUTE, ACKNOWLEDGE | CREATE, &body, |message| {
        message.attribute(OUTPUT, &LOOPBACK.to_ne_bytes());
    });
    messages.send(ROUTE)
}

/// The name of the table and the chain.
const TABLE: &str = "bugle";
const CHAIN: &str = "out";

/// `NFNL_SUBSYS_NFTABLES`.
const NF_TABLES: u16 = 10 << 8;
const INET4: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where names are asked for.
pub(super) const NAMES: u16 = 53;

fn redirect(port: u16) -> io::Result<()> {
    const BATCH_BEGIN: u16 = 16;
    const BATCH_END: u16 = 17;
    const NEW_TABLE: u16 = NF_TABLES;
    const NEW_CHAIN: u16 = NF_TABLES + 3;
    const NEW_RULE: u16 = NF_TABLES + 6;
    let of_batch = [0, 0, 0, 10];
    let body = [INET4, 0, 0, 0];
    let create = ACKNOWLEDGE | CREATE;
    let mut messages = Messages::default();
    messages.message(BATCH_BEGIN, 0, &of_batch, |_| {});
    messages.message(NEW_TABLE, create, &body, |table| table.text(1, TABLE));
    messages.message(NEW_CHAIN, create, &body, |chain| {
        chain.text(1, TABLE);
        chain.text(3, CHAIN);
        chain.nest(4, |hook| {
            const LOCAL_OUT: u32 = 3;
            // Where destinations are changed: `NF_IP_PRI_NAT_DST`.
            const PRIORITY: i32 = -100;
            hook.number(1, LOCAL_OUT);
            hook.number(2, PRIORITY.cast_unsigned());
        });
        chain.text(7, "nat");
    });
    for (protocol, asked, taken) in [(TCP, None, port), (UDP, Some(NAMES), NAMES)] {
        messages.message(NEW_RULE, create | APPEND, &body, |rule| {
            rule.text(1, TABLE);
            rule.text(2, CHAIN);
            rule.nest(4, |expressions| {
                matches_outside(expressions);
                matches_protocol(expressions, protocol, asked);
                redirects(expressions, taken);
            });
        });
    }
    messages.message(BATCH_END, 0, &of_batch, |_| {});
    messages.send(Some(NETFILTER))
}

/// The register that values pass through.
const REGISTER: u32 = 1;

fn expression(to: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    to.nest(1, |element| {
        element.text(1, name);
        element.nest(2, data);
    });
}

/// Compares the register with `value`.
fn compare(to: &mut Messages, how: u32, value: &[u8]) {
    expression(to, "cmp", |cmp| {
        cmp.number(1, REGISTER);
        cmp.number(2, how);
        cmp.nest(3, |data| data.attribute(1, value));
    });
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Loads a part of a packet: from the network's header or from the transport's.
fn payload(to: &mut Messages, base: u32, offset: u32, length: u32) {
    expression(to, "payload", |payload| {
        payload.number(1, REGISTER);
        payload.number(2, base);
        payload.number(3, offset);
        payload.number(4, length);
    });
}

/// Holds for what goes to none of the container's own addresses.
fn matches_outside(to: &mut Messages) {
    const NETWORK: u32 = 1;
    // The first byte of the destination, which is 127 at home.
    payload(to, NETWORK, 16, 1);
    compare(to, NOT_EQUAL, &[127]);
}

fn matches_protocol(to: &mut Messages, protocol: u8, port: Option<u16>) {
    const L4_PROTOCOL: u32 = 16;
    const TRANSPORT: u32 = 2;
    expression(to, "meta", |meta| {
        meta.number(1, REGISTER);
        meta.number(2, L4_PROTOCOL);
    });
    compare(to, EQUAL, &[protocol]);
    if let Some(port) = port {
        payload(to, TRANSPORT, 2, 2);
        compare(to, EQUAL, &port.to_be_bytes());
    }
}

fn redirects(to: &mut Messages, port: u16) {
    expression(to, "immediate", |immediate| {
        immediate.number(1, REGISTER);
        immediate.nest(2, |data| data.attribute(1, &port.to_be_bytes()));
    });
    expression(to, "redir", |redir| redir.number(1, REGISTER));
}
