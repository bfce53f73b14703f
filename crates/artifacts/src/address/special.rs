//! The addresses that are not of the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Refused, Target};

const PRIVATE: &str = "an address of a private network";
const RESERVED: &str = "an address that is reserved";

/// Networks of IPv4, by their address and the bits of it that count; after IANA's registry of
/// special-purpose addresses, and the address of one cloud's platform that is not in it.
const SPECIAL_V4: &[(Ipv4Addr, u32, &str)] = &[
    (
        Ipv4Addr::new(127, 0, 0, 0),
        8,
        "an address of the platform's own machine",
    ),
    (
        Ipv4Addr::UNSPECIFIED,
        8,
        "an address of the platform's own machine",
    ),
    (
        Ipv4Addr::new(169, 254, 0, 0),
        16,
        "a link-local address, where clouds keep their metadata",
    ),
    (
        Ipv4Addr::new(168, 63, 129, 16),
        32,
        "an address of a cloud's platform",
    ),
    (Ipv4Addr::new(10, 0, 0, 0), 8, PRIVATE),
    (Ipv4Addr::new(172, 16, 0, 0), 12, PRIVATE),
    (Ipv4Addr::new(192, 168, 0, 0), 16, PRIVATE),
    (
        Ipv4Addr::new(100, 64, 0, 0),
        10,
        "an address of a carrier's network",
    ),
    (Ipv4Addr::new(192, 0, 0, 0), 24, RESERVED),
    (Ipv4Addr::new(192, 0, 2, 0), 24, RESERVED),
    (Ipv4Addr::new(192, 88, 99, 0), 24, RESERVED),
    (Ipv4Addr::new(198, 18, 0, 0), 15, RESERVED),
    (Ipv4Addr::new(198, 51, 100, 0), 24, RESERVED),
    (Ipv4Addr::new(203, 0, 113, 0), 24, RESERVED),
    (
        Ipv4Addr::new(224, 0, 0, 0),
        4,
        "an address of many machines at once",
    ),
    (Ipv4Addr::new(240, 0, 0, 0), 4, RESERVED),
];

/// The same inside of `2000::/3`, the only part of IPv6 that is public.
const SPECIAL_V6: &[(Ipv6Addr, u32, &str)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, RESERVED),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, RESERVED),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, RESERVED),
];

/// The address that a packet to `address` really goes to: IPv4 may be dressed as IPv6 in three ways
/// that a network takes off again (mapped, NAT64, 6to4).
pub(super) fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else {
        return address;
    };
    let segments = six.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        _ => address,
    }
}

/// Refuses what is not public. `address` is [`unwrapped`].
pub(super) fn refuse(target: &Target, address: IpAddr) -> Result<(), Refused> {
    let Some(what) = kind(address) else {
        return Ok(());
    };
    Err(Refused::Special {
        host: target.host.clone(),
        address,
        what,
    })
}

fn kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(four) => SPECIAL_V4
            .iter()
            .find(|(network, bits, _)| contains(IpAddr::V4(*network), *bits, IpAddr::V4(four)))
            .map(|(.., what)| *what),
        IpAddr::V6(six) => kind_v6(six),
    }
}

fn kind_v6(six: Ipv6Addr) -> Option<&'static str> {
    if six.is_loopback() || six.is_unspecified() {
        return Some("an address of the platform's own machine");
    }
    match six.segments()[0] {
        0xfc00..=0xfdff => return Some(PRIVATE),
        0xfe80..=0xfeff => return Some("a link-local address, where clouds keep their metadata"),
        0xff00.. => return Some("an address of many machines at once"),
        0x2000..=0x3fff => {}
        _ => return Some(RESERVED),
    }
    SPECIAL_V6
        .iter()
        .find(|(network, bits, _)| contains(IpAddr::V6(*network), *bits, IpAddr::V6(six)))
        .map(|(.., what)| *what)
}

/// Whether `address` is in the network of the first `bits` bits of `network`.
pub(super) fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differs = network.to_bits() ^ address.to_bits();
            differs.leading_zeros() >= bits
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differs = network.to_bits() ^ address.to_bits();
            differs.leading_zeros() >= bits
        }
        _ => false,
    }
}
