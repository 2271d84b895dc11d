//! Whose word about clients counts, and about what.

use std::net::IpAddr;

use http::header::HeaderName;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, networks};
use crate::http::{Claim, by_spelling, claim, is_hop_by_hop, takes};
use crate::pipeline::is_gateway_header;

/// Networks whose claims about the clients behind them count.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reports every entry that is no network.
    pub fn compile(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let networks = networks(written, at, diagnostics);
        if networks.iter().any(|it| it.prefix_len() == 0) {
            diagnostics
                .warn(at, "everybody is a trusted proxy: any client can claim any address, and any identity")
                .help("list the networks of your own proxies alone, such as 10.0.0.0/8");
        }
        Self(networks)
    }

    /// Whether this address is one of theirs.
    pub fn hold(&self, address: IpAddr) -> bool {
        self.0.iter().any(|it| it.contains(&address))
    }

    /// The networks.
    pub fn networks(&self) -> &[IpNet] {
        &self.0
    }
}

/// Header fields of requests that only trusted proxies may send, beside those that docs/CONFIG.md lists. From everybody
/// else they are taken away before anything looks at them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrustedFieldsConfig {
    /// More of them: names such as `x-acme-user`, or beginnings such as `x-acme-*`.
    pub more: Vec<String>,
    /// Some of those that docs/CONFIG.md lists, which everybody may send all the same, such as
    /// `x-http-method-override`.
    pub anybody: Vec<String>,
}

/// Compiled: which fields are claims.
#[derive(Clone, Debug, Default)]
pub struct TrustedFields {
    more: Vec<String>,
    anybody: Vec<String>,
}

impl TrustedFields {
    /// Reports every name that can't be one, and those that nobody may give away.
    pub fn compile(config: &TrustedFieldsConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        Self {
            more: names(&config.more, &at.key("more"), diagnostics, frames, "belongs to every request"),
            anybody: names(&config.anybody, &at.key("anybody"), diagnostics, is_gateway_header, "is the gateway's own"),
        }
    }

    /// Whose claim a field is; none for what everybody may send.
    pub fn claim(&self, name: &HeaderName) -> Option<Claim> {
        let bytes = name.as_str().as_bytes();
        let listed = |list: &[String]| list.iter().position(|it| takes(it, bytes));
        match claim(name) {
            // What is made anew for upstreams is never anybody's.
            Some(Claim::Proxies) if listed(&self.anybody).is_some() && !is_gateway_header(name) => Some(Claim::Anybody),
            None => listed(&self.more).map(|it| by_spelling(&self.more[it], bytes)),
            claim => claim,
        }
    }
}

/// What frames a message or says where it goes is nobody's claim.
fn frames(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || ["host", "content-length", "x-request-id", "traceparent"].contains(&name.as_str())
}

fn names(
    written: &[String],
    at: &At<'_>,
    diagnostics: &mut Diagnostics,
    forbidden: impl Fn(&HeaderName) -> bool,
    why: &str,
) -> Vec<String> {
    let mut names = Vec::new();
    for (number, text) in written.iter().enumerate() {
        let bare = text.strip_suffix('*').unwrap_or(text);
        match HeaderName::from_bytes(bare.as_bytes()).ok().filter(|_| !bare.contains('*')) {
            Some(name) if forbidden(&name) => {
                diagnostics.error(&at.index(number), format!("`{text}` {why}")).help("leave it out");
            }
            Some(_) => names.push(text.to_ascii_lowercase()),
            None => diagnostics
                .error(&at.index(number), "not a header name, nor the beginning of some")
                .help("write it as x-acme-user or x-acme-*"),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_extend_the_list_and_open_parts_of_it() {
        let config: TrustedFieldsConfig =
            serde_yaml::from_str("{ more: [X-Acme-*, x-org], anybody: [X-HTTP-Method-Override] }").unwrap();
        let mut diagnostics = Diagnostics::default();
        let fields = TrustedFields::compile(&config, &At::ROOT, &mut diagnostics);
        assert_eq!(diagnostics.iter().count(), 0);
        let of = |name: &str| fields.claim(&name.parse().unwrap());
        for name in ["x-acme-user", "x-org", "x-forwarded-user"] {
            assert_eq!(of(name), Some(Claim::Proxies), "{name}");
        }
        for name in ["x_acme_user", "X.Org", "x_http_method_override"] {
            assert_eq!(of(name), Some(Claim::Gateway), "{name}");
        }
        assert_eq!(of("x-http-method-override"), Some(Claim::Anybody));
        for name in ["x-orgs", "accept"] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn what_can_not_be_meant_is_reported() {
        let config: TrustedFieldsConfig = serde_yaml::from_str(
            "{ more: [host, 'a b', 'x-*-y', x-a], anybody: [x-forwarded-for, x-moongate-*, '*'] }",
        )
        .unwrap();
        let mut diagnostics = Diagnostics::default();
        TrustedFields::compile(&config, &At::ROOT, &mut diagnostics);
        let places: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(places, ["/more/0", "/more/1", "/more/2", "/anybody/0", "/anybody/1", "/anybody/2"]);
    }
}
