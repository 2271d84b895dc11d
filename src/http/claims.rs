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
    /// Everybody, by the operator's word: it claims all the same that the request is another one.
    Anybody,
    /// The gateway alone: its own names, and each of the others in a spelling that no proxy uses.
    Gateway,
}

/// Whose claim a field is; none for what everybody may send. The first letters come first: they rule most names out.
pub fn claim(name: &HeaderName) -> Option<Claim> {
    let name = name.as_str().as_bytes();
    let mut listed = listed(name).iter().filter(|it| takes(it, name));
    let first = *listed.next()?;
    match first {
        "x-moongate-*" => Some(Claim::Gateway),
        // Of these the gateway's own filters say what counts.
        "x-request-id" => (!is_plain(name)).then_some(Claim::Gateway),
        _ if listed.any(|it| by_spelling(it, name) == Claim::Proxies) => Some(Claim::Proxies),
        _ => Some(by_spelling(first, name)),
    }
}

/// The names and beginnings that could be meant.
fn listed(name: &[u8]) -> &'static [&'static str] {
    match *name {
        [b'x', second, third, ..] if !second.is_ascii_alphanumeric() => behind_x(third),
        [b'a', b'k', ..] => &["akamai-client-ip"],
        [b'c', b'd' | b'f' | b'l', ..] => {
            &["cdn-src-ip", "cf-access-authenticated-*", "cf-connecting-ip*", "cf-visitor", "client-cert*", "client-ip"]
        }
        [b'd', b'o', ..] => &["do-connecting-ip"],
        [b'e', b'p' | b't', ..] => &["eppn", "eptid"],
        [b'f', ..] => &["fastly-client-*", "fly-client-ip", "forwarded", "forwarded-*", "front-end-https"],
        [b'g', b'a', ..] => &["gap-auth"],
        // What CGI calls the fields of a request: some servers take such a name for the field itself.
        [b'h', b't', b't', b'p', ..] => &["http-client-*", "http-forwarded*", "http-remote-*", "http-x-*"],
        [b'i', b'n' | b'v', ..] => &["incap-client-ip", "iv-*"],
        [b'm', b'e', ..] => &["mellon_*", "mellon-*"],
        [b'o', b'a' | b'i', ..] => &["oam_*", "oam-*", "oidc_claim_*", "oidc-claim-*"],
        // What CGI makes `HTTP_PROXY` of, which libraries take for the way out (httpoxy).
        [b'p', b'r', ..] => &["proxy", "proxy-client-*"],
        [b'r', b'e', ..] => &["remote-*"],
        [b's', b'h' | b'm' | b's', ..] => &["shib-*", "sm_*", "sm-*", "ssl-*"],
        [b't', b'a' | b'r', ..] => &["tailscale-*", "true-client-ip"],
        [b'w', b'l', ..] => &["wl-proxy-*"],
        _ => &[],
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
            "x-auth-email",
            "x-auth-groups",
            "x-auth-request-*",
            "x-auth-roles",
            "x-auth-subject",
            "x-auth-user*",
            "x-authenticated-*",
            "x-authentik-*",
            "x-azure-clientip",
            "x-azure-socketip",
        ],
        b'c' => &[
            "x-cert*",
            "x-client-cert*",
            "x-client-dn",
            "x-client-fingerprint",
            "x-client-ip",
            "x-client-s-dn",
            "x-client-serial*",
            "x-client-verify",
            "x-cluster-client-ip",
            "x-consumer-*",
            "x-credential-*",
        ],
        b'e' => &["x-endpoint-api-userinfo", "x-envoy-*"],
        b'f' => &["x-forward-*", "x-forwarded*"],
        b'g' => &["x-goog-authenticated-user-*", "x-goog-iap-*"],
        b'h' => &[
            "x-host",
            "x-host-override",
            "x-http-destinationurl",
            "x-http-host-override",
            "x-http-method*",
            "x-http-path-override",
        ],
        b'j' => &["x-jwt-*"],
        b'm' => &["x-method-override", "x-middleware-*", "x-moongate-*", "x-ms-client-principal*", "x-mtls-*"],
        b'o' => &["x-original-*", "x-originating-*", "x-override-url"],
        b'p' => &["x-pomerium-*", "x-proxy-user*", "x-proxyuser-*"],
        b'r' => &["x-real-*", "x-remote-*", "x-request-id", "x-rewrite-*"],
        b's' => &["x-saml-*", "x-scheme", "x-script-name", "x-ssl*"],
        b't' => &["x-tls-client-*", "x-true-client-ip"],
        b'u' => &["x-url-scheme", "x-userinfo"],
        b'v' => &["x-vouch-*"],
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

/// Who may send a field in the spelling of `name`: the one in which proxies write the `listed` name is theirs alone, and
/// no other is anybody's.
pub fn by_spelling(listed: &str, name: &[u8]) -> Claim {
    let start = listed.trim_end_matches('*').as_bytes();
    let own = |it: &u8| it.is_ascii_alphanumeric() || *it == b'-' || (*it == b'_' && start.contains(it));
    match name.strip_prefix(start) {
        Some(rest) if rest.iter().all(own) => Claim::Proxies,
        _ => Claim::Gateway,
    }
}

/// Claims that differ from one request of the same caller to its next: the client's address, as it is in
/// `X-Forwarded-For`, and what a proxy counts or numbers.
const PASSING: [&str; 25] = [
    "akamai-client-ip",
    "cdn-src-ip",
    "cf-connecting-ip*",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "incap-client-ip",
    "proxy-client-ip",
    "remote-addr",
    "remote-port",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-request-log-id",
    "x-appengine-user-ip",
    "x-arr-log-id",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-attempt-count",
    "x-envoy-external-address",
    "x-envoy-expected-rq-timeout-ms",
    "x-true-client-ip",
];

/// Whether two requests that differ in this claim are two: it says for whom they are, or what is requested.
pub fn parts_requests(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    !PASSING.iter().any(|it| takes(it, name))
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
            "WL-Proxy-Client-IP",
            "WL-Proxy-Client-Cert",
            "Proxy-Client-IP",
            "iv-user",
            "iv-groups",
            "OIDC-Claim-Email",
            "Shib-Session-ID",
            "X-Credential-Identifier",
            "X-Vouch-User",
            "Tailscale-User-Login",
            "X-Jwt-Sub",
            "X-Auth-User",
            "X-Auth-Username",
            "X-Forward-For",
            "HTTP-X-Forwarded-For",
            "X-Cert-Subject",
            "X-Certificate",
            "Akamai-Client-IP",
            "Incap-Client-IP",
            "eppn",
        ] {
            assert_eq!(of(name), Some(Claim::Proxies), "{name}");
            if name.contains('-') {
                for byte in ["_", ".", "~", "!"].into_iter().filter(|it| *it != "_" || name != "OIDC-Claim-Email") {
                    assert_eq!(of(&name.replace('-', byte)), Some(Claim::Gateway), "{name} {byte}");
                }
            }
        }
    }

    #[test]
    fn names_that_proxies_write_with_underscores_are_theirs_so_too() {
        for name in ["SM_USER", "SM_UNIVERSALID", "OAM_REMOTE_USER", "OIDC_CLAIM_sub", "MELLON_uid", "MELLON_NAME_ID"] {
            assert_eq!(of(name), Some(Claim::Proxies), "{name}");
            assert_eq!(of(&name.replace('_', ".")), Some(Claim::Gateway), "{name}");
            assert_eq!(of(&name.replacen('_', "~", 1)), Some(Claim::Gateway), "{name}");
        }
    }

    #[test]
    fn what_differs_from_one_request_to_the_next_parts_none() {
        let parts = |name: &str| parts_requests(&name.parse().unwrap());
        for name in ["CF-Connecting-IP", "cf-connecting-ipv6", "True-Client-IP", "X-Envoy-Attempt-Count"] {
            assert!(!parts(name), "{name}");
        }
        for name in ["X-Original-URL", "X-Forwarded-User", "X-Amzn-Mtls-Clientcert", "X-Envoy-Original-Path"] {
            assert!(parts(name), "{name}");
        }
        assert!(PASSING.iter().all(|it| of(&it.replace('*', "")).is_some()));
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
