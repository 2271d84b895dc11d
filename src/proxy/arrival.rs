//! How a request came: from which client, by which scheme, to which host. What trusted proxies say of that counts,
//! and nobody else's word does: it is taken away before anything looks at it.
//!
//! `X-Forwarded-…` counts where there is any of it, else `Forwarded` (RFC 7239): most proxies write the one and pass
//! the other on as their client sent it.

use std::net::IpAddr;
use std::sync::Arc;

use http::Version;
use http::header::{CONNECTION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Parts, Uri};
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use super::client_ip::{from_the_end, walk};
use super::forwarded::{Element, elements};
use super::strangers;
use crate::config::{Process, TrustedFields, TrustedProxies};
use crate::http::{self as codec, Claim};
use crate::pipeline::{
    Proxied, Scheme, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PREFIX, X_FORWARDED_PROTO,
    is_gateway_header,
};
use crate::routing::Target;

/// How a request came, as far as that is known.
pub(super) struct Arrival<'p> {
    pub(super) client_ip: IpAddr,
    pub(super) scheme: Scheme,
    /// Whether the peer is a trusted proxy.
    pub(super) trusted: bool,
    /// The host that the client named, if a trusted proxy says so.
    host: Option<HeaderValue>,
    /// The scheme is what such a one says.
    scheme_said: bool,
    pub(super) proxied: Option<Arc<Proxied>>,
    /// Which fields are claims.
    fields: &'p TrustedFields,
}

impl<'p> Arrival<'p> {
    /// Of a request that came from `peer` by `scheme`.
    pub(super) fn of(peer: IpAddr, scheme: Scheme, headers: &HeaderMap, process: &'p Process) -> Self {
        let (client_ip, trusted, fields) = (peer.to_canonical(), &process.trusted_proxies, &process.trusted_fields);
        let trusts = trusted.hold(client_ip);
        let direct = Self { client_ip, scheme, trusted: trusts, host: None, scheme_said: false, proxied: None, fields };
        if !trusts {
            return direct;
        }
        let has = |name: &HeaderName| headers.contains_key(name);
        if [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST].iter().any(has) || !has(&FORWARDED) {
            direct.with_fields(headers, trusted)
        } else {
            direct.with_forwarded(headers, trusted)
        }
    }

    fn with_fields(self, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        let (client_ip, hops) = walk(self.client_ip, from_the_end(headers, &X_FORWARDED_FOR).map(Some), trusted);
        let said = |name: &HeaderName| of_hop(from_the_end(headers, name), hops);
        let scheme = said(&X_FORWARDED_PROTO).and_then(scheme);
        let port = said(&X_FORWARDED_PORT).and_then(port);
        let prefix = said(&X_FORWARDED_PREFIX).and_then(prefix);
        Self {
            client_ip,
            scheme: scheme.unwrap_or(self.scheme),
            scheme_said: scheme.is_some(),
            host: said(&X_FORWARDED_HOST).and_then(host),
            proxied: (port.is_some() || prefix.is_some()).then(|| Arc::new(Proxied { port, prefix })),
            ..self
        }
    }

    /// What is malformed says nothing at all.
    fn with_forwarded(self, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        let Some(elements) = elements(headers) else { return self };
        let (client_ip, hops) = walk(self.client_ip, elements.iter().rev().map(|it| it.client.as_deref()), trusted);
        // The hop that tells of the client knows best; where it leaves something out, the next one towards us does.
        let told = elements.iter().rev().take(hops.max(1)).rev();
        let scheme = told.clone().find_map(|it: &Element| scheme(it.scheme.as_deref()?));
        Self {
            client_ip,
            scheme: scheme.unwrap_or(self.scheme),
            scheme_said: scheme.is_some(),
            host: told.clone().find_map(|it| host(it.host.as_deref()?)),
            ..self
        }
    }

    /// Takes out of a request what nobody vouches for, and lets stand in it what does count. Returns the claims that
    /// stay as they came: upstreams may go by them.
    pub(super) fn settle(&self, request: &mut RequestHeader) -> Vec<HeaderName> {
        let stay = self.remove_claims(request);
        if self.trusted {
            self.write_claims(request);
        }
        self.settle_host(request);
        stay
    }

    /// What `Connection` names is the client's connection's (RFC 9110, section 7.6.1), and goes before anything of ours
    /// is there that could have such a name.
    fn remove_claims(&self, request: &mut RequestHeader) -> Vec<HeaderName> {
        let mut wrong: SmallVec<[HeaderName; 4]> = SmallVec::new();
        let mut stay = Vec::new();
        for name in request.headers.keys() {
            match self.fields.claim(name) {
                None if *name == CONNECTION => wrong.extend(named(&request.headers)),
                None => {}
                // What is made anew stands in the exchange.
                Some(Claim::Proxies) if self.trusted && is_gateway_header(name) => {}
                Some(Claim::Proxies) if !self.trusted => wrong.push(name.clone()),
                Some(Claim::Gateway) => wrong.push(name.clone()),
                Some(Claim::Proxies | Claim::Anybody) if codec::parts_requests(name) => stay.push(name.clone()),
                Some(Claim::Proxies | Claim::Anybody) => {}
            }
        }
        if !self.trusted && wrong.iter().any(|it| *it == X_FORWARDED_FOR || *it == FORWARDED) {
            strangers::tell(self.client_ip);
        }
        for name in &wrong {
            request.remove_header(name);
        }
        stay
    }

    /// Conditions of routes see one value, and one that counts.
    fn write_claims(&self, request: &mut RequestHeader) {
        let scheme = self.scheme_said.then(|| HeaderValue::from_static(self.scheme.as_str()));
        let proxied = self.proxied.as_deref();
        for (name, value) in [
            (X_FORWARDED_PROTO, scheme),
            (X_FORWARDED_HOST, self.host.clone()),
            (X_FORWARDED_PORT, proxied.and_then(|it| it.port.clone())),
            (X_FORWARDED_PREFIX, proxied.and_then(|it| it.prefix.clone())),
        ] {
            match value {
                Some(value) => _ = request.insert_header(name, value),
                None => _ = request.remove_header(&name),
            }
        }
    }

    /// One host in one form, whoever looks at it: routes, the cache, the upstream, the log.
    fn settle_host(&self, request: &mut RequestHeader) {
        let port = self.scheme.default_port();
        let authority = request.uri.authority().map(|it| it.as_str().as_bytes());
        let field = request.headers.get(HOST).map(HeaderValue::as_bytes);
        let Some(host) = self.host.as_ref().map(HeaderValue::as_bytes).or(field).or(authority) else { return };
        let normal = codec::normal_authority(host, port);
        if normal.is_none() && self.host.is_none() && authority.is_none_or(|it| it == host) {
            return;
        }
        let value = match normal {
            Some(normal) => HeaderValue::try_from(normal).ok(),
            None => HeaderValue::from_bytes(host).ok(),
        };
        if let Some(value) = value {
            let _ = request.insert_header(HOST, value);
            forget_authority(request);
        }
    }
}

/// HTTP/2 has the host in the target, too: there is to be one.
fn forget_authority(request: &mut RequestHeader) {
    if request.version != Version::HTTP_2 || request.uri.authority().is_none() {
        return;
    }
    let mut parts = Parts::default();
    parts.path_and_query = request.uri.path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.set_uri(uri);
    }
}

/// Fields that `Connection` names beside its own words.
fn named(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let own =
        |it: &&[u8]| ["keep-alive", "close", "upgrade", "te"].iter().any(|own| it.eq_ignore_ascii_case(own.as_bytes()));
    let names = codec::tokens(headers, &CONNECTION).filter(move |it| !own(it));
    names.filter_map(|it| HeaderName::from_bytes(it).ok())
}

/// What was said of the hop by which the client came; where proxies have replaced a list by their own word, that.
fn of_hop<'h>(mut said: impl Iterator<Item = &'h [u8]>, hops: usize) -> Option<&'h [u8]> {
    let nearest = said.next()?;
    Some(said.take(hops.saturating_sub(1)).last().unwrap_or(nearest))
}

fn scheme(said: &[u8]) -> Option<Scheme> {
    let is = |word: &str| said.eq_ignore_ascii_case(word.as_bytes());
    match () {
        () if is("https") || is("wss") => Some(Scheme::Https),
        () if is("http") || is("ws") => Some(Scheme::Http),
        () => None,
    }
}

fn host(said: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(said).ok().filter(|_| codec::authority_is_plain(said))
}

fn port(said: &[u8]) -> Option<HeaderValue> {
    let number: u16 = std::str::from_utf8(said).ok()?.parse().ok()?;
    (number > 0 && said[0].is_ascii_digit()).then(|| HeaderValue::from(number))
}

/// A path in its normal form: what begins with two slashes would be another host to a browser.
fn prefix(said: &[u8]) -> Option<HeaderValue> {
    let said = said.strip_suffix(b"/").unwrap_or(said);
    let target = Target::normalise(said).ok().filter(|it| it.is_unchanged() && it.query().is_none())?;
    HeaderValue::from_str(target.path()).ok()
}
