//! Fields that claim who somebody is, which way a request came, or that it means another request than it is.
//!
//! Servers behind a proxy believe them, because proxies write them. So they count from proxies that are trusted, and
//! from nobody else. CGI and its heirs write `_` for every byte of a name that is neither letter nor digit: a name
//! counts in each spelling that such a server could take for one of these.

use http::header::HeaderName;

/// Who may send a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A trusted proxy.
    Proxies,
    /// The gateway alone: its own names, and each of the others in a spelling that no proxy uses.
    Gateway,
}

/// Whose claim a field is; none for what everybody may send. The first letters come first: they rule most names out.
pub fn claim(name: &HeaderName) -> Option<Claim> {
    let name = name.as_str().as_bytes();
    let listed = match *name {
        [b'x', second, third, ..] if !second.is_ascii_alphanumeric() => behind_x(third),
        [b'c', b'f' | b'l', ..] => {
            &["cf-access-authenticated-*", "cf-connecting-ip*", "cf-visitor", "client-cert*", "client-ip"][..]
        }
        [b'f', ..] => &["fastly-client-*", "forwarded", "forwarded-*", "front-end-https"],
        // What CGI makes `HTTP_PROXY` of, which libraries take for the way out (httpoxy).
        [b'p', ..] => &["proxy"],
        [b'r', ..] => &["remote-*"],
        [b's', ..] => &["ssl-*"],
        [b't', ..] => &["true-client-ip"],
        _ => return None,
    };
    let listed = listed.iter().find(|it| takes(it, name))?;
    match *listed {
        "x-moongate-*" => Some(Claim::Gateway),
        // Of these the gateway's own filters say what counts.
        "x-request-id" => (!is_plain(name)).then_some(Claim::Gateway),
        _ => Some(by_spelling(name)),
    }
}

/// Those that begin with `X-`, by the letter behind it.
fn behind_x(letter: u8) -> &'static [&'static str] {
    match letter {
        b'a' => &[
            "x-amzn-mtls-*",
            "x-amzn-oidc-*",
            "x-anonymous-consumer",
            "x-appengine-*",
            "x-arr-*",
            "x-auth-request-*",
            "x-authenticated-*",
            "x-authentik-*",
            "x-azure-clientip",
            "x-azure-socketip",
        ],
        b'c' => {
            &["x-client-cert*", "x-client-dn", "x-client-ip", "x-client-verify", "x-cluster-client-ip", "x-consumer-*"]
        }
        b'e' => &["x-endpoint-api-userinfo", "x-envoy-*"],
        b'f' => &["x-forwarded*"],
        b'g' => &["x-goog-authenticated-user-*", "x-goog-iap-*"],
        b'h' => &[
            "x-host",
            "x-host-override",
            "x-http-destinationurl",
            "x-http-host-override",
            "x-http-method*",
            "x-http-path-override",
        ],
        b'm' => &["x-method-override", "x-middleware-*", "x-moongate-*", "x-ms-client-principal*"],
        b'o' => &["x-original-*", "x-originating-*", "x-override-url"],
        b'p' => &["x-pomerium-*", "x-proxy-user*", "x-proxyuser-*"],
        b'r' => &["x-real-*", "x-remote-*", "x-request-id", "x-rewrite-*"],
        b's' => &["x-scheme", "x-script-name", "x-ssl*"],
        b't' => &["x-tls-client-*", "x-true-client-ip"],
        b'u' => &["x-url-scheme", "x-userinfo"],
        b'w' => &["x-webauth-*"],
        _ => &[],
    }
}

/// Whether a name is the listed one, or begins like one that ends in `*`, in any spelling.
pub fn takes(listed: &str, name: &[u8]) -> bool {
    let (start, more) = listed.strip_suffix('*').map_or((listed, false), |it| (it, true));
    let fits = if more { name.len() >= start.len() } else { name.len() == start.len() };
    fits && name.iter().zip(start.as_bytes()).all(|(it, start)| same(*it, *start))
}

/// Whether servers that fold names take the one for the other.
pub fn fold_alike(left: &HeaderName, right: &HeaderName) -> bool {
    takes(left.as_str(), right.as_str().as_bytes())
}

fn same(byte: u8, other: u8) -> bool {
    byte == other || !(byte.is_ascii_alphanumeric() || other.is_ascii_alphanumeric())
}

/// A name that is to be said by proxies, in this spelling.
pub fn by_spelling(name: &[u8]) -> Claim {
    if is_plain(name) { Claim::Proxies } else { Claim::Gateway }
}

fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|it| it.is_ascii_alphanumeric() || *it == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<Claim> {
        claim(&name.parse().unwrap())
    }

    #[test]
    fn what_upstreams_believe_is_said_by_proxies_alone() {
        for name in [
            "Forwarded",
            "X-Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Scheme",
            "X-Forwarded-User",
            "X-Forwarded-Email",
            "X-Forwarded-Client-Cert",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "X-Host",
            "X-Scheme",
            "Remote-User",
            "SSL-Client-Cert",
            "X-SSL-Client-Verify",
            "X-Real-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "X-Auth-Request-User",
            "X-WebAuth-User",
            "Client-Cert",
            "Proxy",
            "X-Middleware-Subrequest",
            "X-Remote-User",
            "X-Consumer-Username",
            "X-Envoy-Original-Path",
        ] {
            assert_eq!(of(name), Some(Claim::Proxies), "{name}");
            if name.contains('-') {
                for byte in ["_", ".", "~", "!"] {
                    assert_eq!(of(&name.replace('-', byte)), Some(Claim::Gateway), "{name} {byte}");
                }
            }
        }
    }

    #[test]
    fn the_gateways_own_names_are_its_own_in_each_spelling() {
        for name in ["X-Moongate-Subject", "X.Moongate.Subject", "X_Moongate_Roles", "x-moongate_new", "X_Request_Id"] {
            assert_eq!(of(name), Some(Claim::Gateway), "{name}");
        }
    }

    #[test]
    fn what_everybody_sends_is_no_claim() {
        for name in [
            "Host",
            "Accept",
            "Cookie",
            "Content-Type",
            "Content-Length",
            "Connection",
            "Cache-Control",
            "Referer",
            "Range",
            "From",
            "TE",
            "Traceparent",
            "Tracestate",
            "Sec-Fetch-Site",
            "Priority",
            "Pragma",
            "Proxy-Authorization",
            "X-Request-Id",
            "X-Api-Key",
            "X-Requested-With",
            "X-Client-Version",
            "X-CSRF-Token",
            "X-Moongates",
            "X",
            "X-",
            "X-F",
            "XForwardedFor",
            "X-Provider-Key",
            "X-Hostname",
            "X-User-Agent",
            "X-Amz-Date",
            "X-Goog-Api-Key",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
