//! What counts as one caller, and lists of networks.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::base::{At, Diagnostics};

/// An IPv4 address, or the IPv6 network of the size that one customer gets (a /64), within which
/// addresses cost nothing.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// The networks of a list, such as `10.0.0.0/8` or a single address. Reports every entry that is none.
pub fn networks(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (number, text) in written.iter().enumerate() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network),
            Err(_) => diagnostics.error(&at.index(number), "not a network").help("write it as 10.0.0.0/8"),
        }
    }
    networks
}
