//! Which requests become something else than HTTP (RFC 9110, section 7.8).

use http::Method;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use pingora::http::RequestHeader;

use crate::client::Client;
use crate::config::Route;
use crate::deliver::SHUTDOWN_PROTOCOL;
use crate::http as codec;
use crate::pipeline::{Exchange, Refusal};

/// HTTP in other versions and below other layers: whoever offers to change to these gets the same answer without.
const STILL_HTTP: [&str; 4] = ["h2c", "h2", "http", "tls"];
/// As much of what a client names is told again, in bytes.
const TOLD_MAX: usize = 64;

/// Whether a request that asks for an upgrade is the handshake of a WebSocket (RFC 6455, section 4.1).
pub(super) fn is_handshake(client: &Client) -> bool {
    client.wants_upgrade() && names_websocket(&client.request().method, &client.request().headers)
}

fn names_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let protocol = || headers.get(UPGRADE).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
    *method == Method::GET && protocol()
}

/// Only a route for WebSockets or for the named protocol changes protocols. Elsewhere the wish is refused, since no
/// answer to the request is what its client waits for; but for the wish for another HTTP, which is ignored.
///
/// # Errors
/// 400 with the key that would let it.
pub(super) fn admit(route: &Route, exchange: &mut Exchange, client: &mut Client) -> Result<(), Refusal> {
    if !client.wants_upgrade() {
        return Ok(());
    }
    let request = client.request();
    if let Some(setting) = missing_setting(route, &request.method, &request.headers) {
        let protocol = codec::tokens(&request.headers, &UPGRADE).collect::<Vec<_>>().join(&b", "[..]);
        let protocol = String::from_utf8_lossy(&protocol[..protocol.len().min(TOLD_MAX)]).into_owned();
        return Err(Refusal::UpgradeNotAllowed { protocol, setting });
    }
    if names_websocket(&request.method, &request.headers) {
        exchange.wants_shutdown_message = take_shutdown_offer(client.request_mut());
    } else if !changes_to(route, &request.headers) {
        client.ignore_upgrade();
    }
    Ok(())
}

/// Whether a client offers to be told of a stop. That offer is for the gateway, which leaves the choice among all others
/// to the upstream (RFC 6455, section 4.1).
fn take_shutdown_offer(request: &mut RequestHeader) -> bool {
    let is_ours = |it: &&[u8]| *it == SHUTDOWN_PROTOCOL.as_bytes();
    if !codec::tokens(&request.headers, &SEC_WEBSOCKET_PROTOCOL).any(|it| is_ours(&it)) {
        return false;
    }
    let others: Vec<&[u8]> =
        codec::tokens(&request.headers, &SEC_WEBSOCKET_PROTOCOL).filter(|it| !is_ours(it)).collect();
    let others = HeaderValue::from_bytes(&others.join(&b", "[..])).ok().filter(|it| !it.is_empty());
    match others {
        Some(others) => _ = request.insert_header(SEC_WEBSOCKET_PROTOCOL, others),
        None => _ = request.remove_header(&SEC_WEBSOCKET_PROTOCOL),
    }
    true
}

/// The key of the route that is not there, and for want of which a request with this `Upgrade` is refused.
pub fn missing_setting(route: &Route, method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    let websocket = names_websocket(method, headers);
    if (websocket && route.description.r#match.websocket.takes()) || changes_to(route, headers) {
        return None;
    }
    let is = |token: &[u8], name: &str| token.eq_ignore_ascii_case(name.as_bytes());
    let is_http = |token: &[u8]| {
        let name = token.split(|it| *it == b'/').next().unwrap_or_default();
        STILL_HTTP.iter().any(|it| is(name, it))
    };
    let wanted = || codec::tokens(headers, &UPGRADE);
    if wanted().all(is_http) {
        return None;
    }
    Some(if wanted().any(|it| is(it, "websocket")) { "match.websocket" } else { "upgrade" })
}

/// Whether the one protocol that the client names is one that the route changes to. Taps can't read what it is.
fn changes_to(route: &Route, headers: &HeaderMap) -> bool {
    let mut wanted = codec::tokens(headers, &UPGRADE);
    let (Some(protocol), None) = (wanted.next(), wanted.next()) else { return false };
    let named = route.description.upgrade.iter().any(|it| it.as_bytes().eq_ignore_ascii_case(protocol));
    named && !route.chain.taps_requests() && !route.chain.taps_responses()
}
