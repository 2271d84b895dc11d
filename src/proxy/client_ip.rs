//! The client's address, as far as trusted proxies can tell.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName};

use crate::config::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Walks `X-Forwarded-For` from the nearest hop to the farthest while each hop is a trusted proxy; the
/// first that is not is the client. A list that is not one of addresses ends the walk.
pub(super) fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.hold(client) {
        return client;
    }
    for line in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
        for hop in line.as_bytes().rsplit(|it| *it == b',') {
            let Some(hop) = address(hop.trim_ascii()) else { return client };
            client = hop.to_canonical();
            if !trusted.hold(client) {
                return client;
            }
        }
    }
    client
}

/// Some proxies write the port, too.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Diagnostics;
    use crate::config::{GatewayFile, Process};
    use http::HeaderValue;

    #[track_caller]
    fn check(peer: &str, lines: &[&str], client: &str) {
        let file = GatewayFile { trusted_proxies: vec!["10.0.0.0/8".into()], ..GatewayFile::default() };
        let process = Process::compile(&file, &mut Diagnostics::default());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let found = client_ip(peer.parse().unwrap(), &headers, &process.trusted_proxies);
        assert_eq!(found, client.parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_stranger_is_who_it_is_whatever_it_says() {
        check("203.0.113.9", &["198.51.100.1"], "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_tells_who_called_it() {
        check("10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1", "198.51.100.1:443"], "198.51.100.1");
        check("::ffff:10.0.0.1", &["2001:db8::1"], "2001:db8::1");
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        check("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1");
        check("10.0.0.1", &[], "10.0.0.1");
    }
}
