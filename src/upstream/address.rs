//! What can stand where an endpoint's address does, and the names of services and instances.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// What a service's or instance's name looks like.
pub const SERVICE_NAME_RULE: &str = "1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first";

/// An address as it is written: of IP, or a name that is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// Such as `127.0.0.1:9101`.
    Ip(SocketAddr),
    /// Such as `backend.internal:9101`.
    Name(Arc<str>, u16),
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAddress {
    /// It is neither `IP:port` nor `name:port`.
    Form,
    /// Its port is 0.
    Port,
}

impl FromStr for EndpointAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(InvalidAddress::Port) } else { Ok(Self::Ip(address)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or(InvalidAddress::Form)?;
        match port.parse::<u16>() {
            _ if !is_dns_name(name) => Err(InvalidAddress::Form),
            Ok(0) => Err(InvalidAddress::Port),
            Ok(port) => Ok(Self::Name(name.into(), port)),
            Err(_) => Err(InvalidAddress::Form),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Whether a name can be looked up: labels of RFC 1123, and underscores, as SRV and compose files have them. What
/// consists of digits and dots alone is an address that was mistyped.
pub(super) fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |it: &str| {
        (1..=63).contains(&it.len())
            && !it.starts_with('-')
            && !it.ends_with('-')
            && it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_')
    };
    name.len() <= 253 && name.split('.').all(label) && !name.bytes().all(|it| it.is_ascii_digit() || it == b'.')
}

/// Whether a service or an instance can be called that: [`SERVICE_NAME_RULE`].
pub fn is_service_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.starts_with(|it: char| it.is_ascii_alphanumeric())
        && name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ip_or_names_with_a_port() {
        let parse = |text: &str| text.parse::<EndpointAddress>();
        assert!(matches!(parse("127.0.0.1:80"), Ok(EndpointAddress::Ip(_))));
        assert!(matches!(parse("[::1]:80"), Ok(EndpointAddress::Ip(_))));
        for name in ["backend:80", "backend.internal:80", "back_end.a.b:1", "localhost:65535"] {
            assert!(matches!(parse(name), Ok(EndpointAddress::Name(..))), "{name}");
        }
        for wrong in
            ["backend", "http://backend:80", "backend:80/", "127.0.0:80", "-a:1", "a..b:1", ":80", "a:99999", "::1:80"]
        {
            assert_eq!(parse(wrong), Err(InvalidAddress::Form), "{wrong}");
        }
        assert_eq!((parse("backend:0"), parse("127.0.0.1:0")), (Err(InvalidAddress::Port), Err(InvalidAddress::Port)));
    }
}
