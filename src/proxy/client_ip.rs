//! The client's address, as far as trusted proxies can tell.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName};

use crate::config::TrustedProxies;

/// Walks the hops that proxies name from the nearest to the farthest while each is a trusted proxy; the first that is
/// not is the client. A hop that is no address ends the walk. Also says how many hops were looked at.
pub(super) fn walk<'h>(
    peer: IpAddr,
    hops: impl Iterator<Item = Option<&'h [u8]>>,
    trusted: &TrustedProxies,
) -> (IpAddr, usize) {
    let mut client = peer;
    let mut looked_at = 0;
    for hop in hops {
        looked_at += 1;
        let Some(hop) = hop.and_then(address) else { break };
        client = hop.to_canonical();
        if !trusted.hold(client) {
            break;
        }
    }
    (client, looked_at)
}

/// The elements of a list over all its lines, the last one first; empty ones say nothing (RFC 9110, section 5.6.1).
pub(super) fn from_the_end<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let lines = headers.get_all(name).iter().rev();
    let elements = lines.flat_map(|it| it.as_bytes().rsplit(|it| *it == b','));
    elements.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

/// Some proxies write the port, too; RFC 7239 has IPv6 in brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    let bare = hop.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Diagnostics;
    use crate::config::{GatewayFile, Process};
    use crate::pipeline::X_FORWARDED_FOR;
    use http::HeaderValue;

    #[track_caller]
    fn check(peer: &str, lines: &[&str], client: &str, looked_at: usize) {
        let file = GatewayFile { trusted_proxies: vec!["10.0.0.0/8".into()], ..GatewayFile::default() };
        let process = Process::compile(&file, &mut Diagnostics::default());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let hops = from_the_end(&headers, &X_FORWARDED_FOR).map(Some);
        let found = walk(peer.parse().unwrap(), hops, &process.trusted_proxies);
        assert_eq!(found, (client.parse::<IpAddr>().unwrap(), looked_at));
    }

    #[test]
    fn a_trusted_proxy_tells_who_called_it() {
        check("10.0.0.1", &["198.51.100.1"], "198.51.100.1", 1);
        check("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1", 2);
        check("10.0.0.1", &["1.1.1.1", "198.51.100.1:443"], "198.51.100.1", 1);
        check("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1", 1);
        check("10.0.0.1", &["2001:db8::1"], "2001:db8::1", 1);
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3", 2);
    }

    #[test]
    fn empty_elements_say_nothing() {
        check("10.0.0.1", &["1.1.1.1,,10.0.0.2, ", ""], "1.1.1.1", 2);
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        check("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1", 1);
        check("10.0.0.1", &[], "10.0.0.1", 0);
    }
}
