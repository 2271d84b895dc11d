//! What counts as one caller.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, or the IPv6 network of the size that one customer gets (a /64), within which
/// addresses are free for the taking.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}
