//! Which addresses are nobody's business: where they lie inside a network, a machine or a cloud, rather than on the
//! public internet. Pure; the lists follow IANA's special-purpose registries for IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ranges of IPv4, as first address, prefix length and what they are.
const SPECIAL_V4: [([u8; 4], u32, &str); 18] = [
    ([0, 0, 0, 0], 8, "this network"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "shared by a carrier (CGNAT)"),
    ([127, 0, 0, 0], 8, "loopback"),
    // Public by its number, and the door to the machine's own secrets at a large cloud.
    ([168, 63, 129, 16], 32, "a cloud's metadata service"),
    ([169, 254, 0, 0], 16, "link-local, where clouds have their metadata service"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved for protocols"),
    ([192, 0, 2, 0], 24, "for documentation"),
    ([192, 31, 196, 0], 24, "reserved for protocols"),
    ([192, 52, 193, 0], 24, "reserved for protocols"),
    ([192, 88, 99, 0], 24, "a relay (6to4)"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "for benchmarks"),
    ([198, 51, 100, 0], 24, "for documentation"),
    ([203, 0, 113, 0], 24, "for documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// Why an address is not one of the public internet. `None` for one that is.
///
/// IPv6 addresses that stand for an IPv4 address are judged as that.
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => special_v4(v4),
            None => special_v6(v6),
        },
    }
}

/// The address with every mapped or translated form undone, as rules for IPv4 want to see it.
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The IPv4 address that is reached by an IPv6 one: mapped (`::ffff:0:0/96`), compatible (`::/96`) or translated by a
/// NAT64 with the well-known prefix (`64:ff9b::/96`). `::` and `::1` are themselves.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    let low = Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32);
    let high = bits >> 32;
    let mapped = high == 0xffff || high == 0x0064_ff9b << 64;
    let compatible = high == 0 && bits > 1;
    (mapped || compatible).then_some(low)
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let found = SPECIAL_V4.iter().find(|(first, length, _)| {
        let mask = u32::MAX << (32 - length);
        bits & mask == u32::from_be_bytes(*first)
    });
    found.map(|(.., what)| *what)
}

/// Only what is given out as global unicast (`2000::/3`) can be public, and not all of that.
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [first, second, ..] = address.segments();
    match (first, second) {
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_loopback() => Some("loopback"),
        (0xfc00..=0xfdff, _) => Some("private (ULA)"),
        (0xfe80..=0xfebf, _) => Some("link-local"),
        (0xfec0..=0xfeff, _) => Some("site-local"),
        (0xff00.., _) => Some("multicast"),
        (0x2001, 0x0000) => Some("a tunnel (Teredo)"),
        (0x2001, 0x0db8) | (0x3fff, 0x0000..=0x0fff) => Some("for documentation"),
        (0x2001, 0x0001..=0x01ff) => Some("reserved for protocols"),
        (0x2002, _) => Some("a tunnel (6to4)"),
        (0x2000..=0x3fff, _) => None,
        _ => Some("not global unicast"),
    }
}
