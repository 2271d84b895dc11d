//! How long an exchange may take, and how large a request's body may be.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Findings, Period};

/// The `timeouts` section of a route, of a policy, or of `defaults`. None of them can be switched off.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// Until a connection to an endpoint is there, TLS included. Default 2s.
    pub connect: Option<Period>,
    /// From the end of the request until the answer's head. Default 10s.
    pub first_byte: Option<Period>,
    /// For the whole exchange, slow clients included; event streams and upgraded connections are
    /// bound by `idle` alone. Default 30s.
    pub request: Option<Period>,
    /// The longest silence while a body or a stream is under way. Default 60s; for WebSockets the
    /// default is 1h, and only the route's own setting (or that of a policy it uses) counts.
    pub idle: Option<Period>,
}

/// Compiled: what bounds an exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Until a connection is there.
    pub connect: Duration,
    /// Until the answer's head, once the request is out.
    pub first_byte: Duration,
    /// For the whole exchange.
    pub request: Duration,
    /// The longest silence of a body or a stream.
    pub idle: Duration,
    /// The longest silence of a WebSocket.
    pub websocket_idle: Duration,
    /// The largest request body, in bytes.
    pub body_limit: u64,
}

impl Policy {
    /// The limit on request bodies unless a route sets its own (S2S-39).
    pub const BODY_LIMIT: u64 = 256 * 1024;

    /// Later layers win: `defaults`, then each policy in use, then the route. Each layer is given
    /// with its place; the first is `defaults`.
    pub fn compile(layers: &[(&TimeoutsConfig, At<'_>)], body_limit: u64, findings: &mut Findings) -> Self {
        let mut policy = Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(10),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            websocket_idle: Duration::from_secs(3600),
            body_limit,
        };
        for (number, (layer, at)) in layers.iter().enumerate() {
            let mut set = |place: &mut Duration, written: Option<Period>, name: &str| {
                let Some(Period(length)) = written else { return };
                if length.is_zero() {
                    let help = "no timeout can be switched off; write how long you would wait at most";
                    findings.error(&at.key(name), "a timeout of zero").help(help);
                }
                *place = length;
            };
            set(&mut policy.connect, layer.connect, "connect");
            set(&mut policy.first_byte, layer.first_byte, "first_byte");
            set(&mut policy.request, layer.request, "request");
            set(&mut policy.idle, layer.idle, "idle");
            if number > 0 {
                set(&mut policy.websocket_idle, layer.idle, "idle");
            }
        }
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(yaml: &str) -> TimeoutsConfig {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn the_route_wins_over_the_defaults() {
        let (defaults, route) = (layer("{ request: 5s, idle: 7s }"), layer("{ request: 9s }"));
        let mut findings = Findings::default();
        let policy = Policy::compile(&[(&defaults, At::ROOT), (&route, At::ROOT)], 1, &mut findings);
        assert_eq!((policy.request.as_secs(), policy.idle.as_secs()), (9, 7));
        assert!(findings.is_empty());
    }

    #[test]
    fn a_websocket_has_an_idle_limit_of_its_own() {
        let (defaults, route) = (layer("{ idle: 7s }"), layer("{ idle: 10m }"));
        let mut findings = Findings::default();
        let plain = Policy::compile(&[(&defaults, At::ROOT)], 1, &mut findings);
        let set = Policy::compile(&[(&defaults, At::ROOT), (&route, At::ROOT)], 1, &mut findings);
        assert_eq!((plain.websocket_idle.as_secs(), set.websocket_idle.as_secs()), (3600, 600));
    }

    #[test]
    fn no_timeout_can_be_switched_off() {
        let mut findings = Findings::default();
        let route = layer("{ connect: 0s }");
        Policy::compile(&[(&route, At::ROOT.key("timeouts"))], 1, &mut findings);
        assert_eq!(findings.iter().next().unwrap().path, "/timeouts/connect");
    }
}
