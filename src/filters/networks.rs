//! Who may call, by the network that the client calls from.
//!
//! Looks at the client's address alone; who may set it (trusted proxies) is decided long before, so that no field of a
//! request opens a door here.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics, networks};
use crate::pipeline::{Filter, Refusal, RequestContext, Scope, Step};

/// What `allow_ips` and `deny_ips` say together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct NetworksConfig {
    /// Those that may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_ips: Option<Vec<String>>,
    /// Those that may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_ips: Option<Vec<String>>,
}

/// Compiled.
pub struct Networks {
    /// `None`: everybody who is not denied.
    allow: Option<Vec<IpNet>>,
    deny: Vec<IpNet>,
}

impl Filter for Networks {
    const NAME: &'static str = "networks";
    const SUMMARY: &'static str = "Lets clients call from some networks only (`allow_ips`, `deny_ips`).";
    type Config = NetworksConfig;

    fn compile(config: &NetworksConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let list = |written: &Option<Vec<String>>, key, diagnostics: &mut Diagnostics| {
            written.as_ref().map(|it| networks(it, &at.key(key), diagnostics))
        };
        if config.allow_ips.as_ref().is_some_and(Vec::is_empty) {
            diagnostics.error(&at.key("allow_ips"), "nobody may call").help("leave it out, or name a network");
        }
        let allow = list(&config.allow_ips, "allow_ips", diagnostics);
        let deny = list(&config.deny_ips, "deny_ips", diagnostics).unwrap_or_default();
        let denied = |allowed: &IpNet| deny.iter().any(|it| it.contains(allowed));
        for (number, _) in allow.iter().flatten().enumerate().filter(|(_, it)| denied(it)) {
            diagnostics
                .warn(&at.key("allow_ips").index(number), "`deny_ips` holds all of this network, and wins")
                .help("leave it out of one of the two");
        }
        (allow.is_some() || !deny.is_empty()).then_some(Self { allow, deny })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        if self.lets_in(context.exchange.client_ip) { Ok(()) } else { Err(Refusal::AddressNotAllowed.into()) }
    }
}

impl BuiltIn for Networks {
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<NetworksConfig> {
        let last = |list: fn(&NetworksConfig) -> &Option<Vec<String>>| {
            layers.iter().rev().map(written).find_map(|it| list(&it).clone())
        };
        let config = NetworksConfig { allow_ips: last(|it| &it.allow_ips), deny_ips: last(|it| &it.deny_ips) };
        (config != NetworksConfig::default()).then_some(config)
    }

    fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        Self::compile(&written(layer), scope, &layer.at, diagnostics);
    }
}

fn written(layer: &Layer<'_>) -> NetworksConfig {
    NetworksConfig { allow_ips: layer.settings.allow_ips.clone(), deny_ips: layer.settings.deny_ips.clone() }
}

impl Networks {
    fn lets_in(&self, client: IpAddr) -> bool {
        // A listener for both reports clients of IPv4 as ::ffff:a.b.c.d, which no rule for IPv4 would match.
        let client = client.to_canonical();
        let held_by = |list: &[IpNet]| list.iter().any(|it| it.contains(&client));
        !held_by(&self.deny) && self.allow.as_ref().is_none_or(|it| held_by(it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, client: &str, lets_in: bool) {
        let config = serde_yaml::from_str(yaml).unwrap();
        let mut diagnostics = Diagnostics::default();
        let networks = Networks::compile(&config, &Scope::nowhere(), &At::ROOT, &mut diagnostics).unwrap();
        assert!(diagnostics.is_empty());
        assert_eq!(networks.lets_in(client.parse().unwrap()), lets_in, "{yaml} {client}");
    }

    #[test]
    fn what_is_denied_stays_out_and_what_is_allowed_alone_comes_in() {
        check("allow_ips: [10.0.0.0/8]", "10.255.255.255", true);
        check("allow_ips: [10.0.0.0/8]", "11.0.0.0", false);
        check("allow_ips: [10.0.0.0/8]", "::ffff:10.0.0.1", true);
        check("allow_ips: [10.0.0.0/8]", "::1", false);
        check("deny_ips: [10.0.0.7]", "10.0.0.7", false);
        check("deny_ips: [10.0.0.7]", "10.0.0.8", true);
        check("deny_ips: ['2001:db8::/32']", "2001:db8:1::1", false);
        check("{ allow_ips: [10.0.0.0/8], deny_ips: [10.1.0.0/16] }", "10.1.2.3", false);
        check("{ allow_ips: [10.0.0.0/8], deny_ips: [10.1.0.0/16] }", "10.2.2.3", true);
    }
}
