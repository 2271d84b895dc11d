//! How long an exchange may take, and how large a request's body may be.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, ByteSize, Diagnostics, Period};
use crate::upstream::Priority;

/// The `timeouts` section of a route, of a policy, or of `defaults`. None of them can be switched off.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "request": "30s" }]))]
pub struct TimeoutsConfig {
    /// Until a connection to an endpoint is there, TLS included. Default 2s.
    pub connect: Option<Period>,
    /// From the end of the request until the answer's head. Default 10s.
    pub first_byte: Option<Period>,
    /// From the request's begin until the answer's head, tries included; where the request's body streams, from its
    /// end. A body that moves is bound by `idle` and `min_rate` alone. Default 30s.
    pub request: Option<Period>,
    /// The longest silence while a body or a stream is under way. Default 60s; for WebSockets the
    /// default is 1h, and only the route's own setting (or that of a policy it uses) counts.
    pub idle: Option<Period>,
    /// What a client has to send of a request's body, or take of an answer that waits for it, in bytes a second, on
    /// average over each `request` of time. Calls of gRPC are exempt. Default 240B.
    pub min_rate: Option<ByteSize>,
    /// The longest deadline that a client of gRPC may set for a call (`grpc-timeout`): a longer one is shortened to
    /// this, for the upstream too. Default: none, calls last for as long as their clients wait.
    pub grpc_timeout_max: Option<Period>,
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
    /// What a client has to move, in bytes a second.
    pub min_rate: u64,
    /// The longest deadline of a gRPC call, if there is a longest.
    pub grpc_timeout_max: Option<Duration>,
    /// The longest silence of a WebSocket.
    pub websocket_idle: Duration,
    /// The largest request body, in bytes.
    pub body_limit: u64,
    /// The largest response body, in bytes, if there is a largest.
    pub response_limit: Option<u64>,
    /// Who is served first where an upstream is at its limit (R5.2).
    pub priority: Priority,
}

/// How fast a peer moves what it has to, while nothing else is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    moved: Instant,
    bytes: u64,
    /// Begin of the time over which the rate is taken, and what had moved by then.
    window: (Instant, u64),
}

impl Pace {
    /// From a moment on, at which nothing had moved.
    pub fn since(began: Instant) -> Self {
        Self { moved: began, bytes: 0, window: (began, 0) }
    }

    /// So many bytes have moved by now, in all.
    pub fn saw(&mut self, bytes: u64) {
        if bytes > self.bytes {
            (self.bytes, self.moved) = (bytes, Instant::now());
        }
    }

    /// When to look again.
    pub fn next_look(&self, policy: &Policy) -> Instant {
        (self.moved + policy.idle).min(self.window.0 + policy.request)
    }

    /// Whether it is not worth waiting for any more: nothing moved for too long, or too little in a time in which
    /// something should have. A `steady` flow has its rate; messages have none.
    pub fn is_lost(&mut self, policy: &Policy, steady: bool) -> bool {
        let now = Instant::now();
        let (began, before) = self.window;
        let time = now - began;
        if time < policy.request {
            return now >= self.moved + policy.idle;
        }
        self.window = (now, self.bytes);
        let too_little = ((self.bytes - before) as f64) < time.as_secs_f64() * policy.min_rate as f64;
        (steady && too_little) || now >= self.moved + policy.idle
    }
}

impl Policy {
    /// The limit on request bodies unless a route sets its own (S2S-39).
    pub const BODY_LIMIT: u64 = 256 * 1024;

    /// What a client has to move unless a route sets its own, in bytes a second: as slow as a modem of 1985.
    const MIN_RATE: u64 = 240;

    /// Later layers win: `defaults`, then each policy in use, then the route. Each layer is given
    /// with its place; the first is `defaults`.
    pub fn compile(layers: &[(&TimeoutsConfig, At<'_>)], body_limit: u64, diagnostics: &mut Diagnostics) -> Self {
        let mut policy = Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(10),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            min_rate: Self::MIN_RATE,
            grpc_timeout_max: None,
            websocket_idle: Duration::from_secs(3600),
            body_limit,
            response_limit: None,
            priority: Priority::default(),
        };
        for (number, (layer, at)) in layers.iter().enumerate() {
            let mut set = |place: &mut Duration, written: Option<Period>, name: &str| {
                let Some(Period(length)) = written else { return };
                if length.is_zero() {
                    let help = "no timeout can be switched off; write how long you would wait at most";
                    diagnostics.error(&at.key(name), "a timeout of zero").help(help);
                }
                *place = length;
            };
            set(&mut policy.connect, layer.connect, "connect");
            set(&mut policy.first_byte, layer.first_byte, "first_byte");
            set(&mut policy.request, layer.request, "request");
            set(&mut policy.idle, layer.idle, "idle");
            if let Some(ByteSize(rate)) = layer.min_rate {
                policy.min_rate = rate;
            }
            if layer.grpc_timeout_max.is_some() {
                set(policy.grpc_timeout_max.get_or_insert_default(), layer.grpc_timeout_max, "grpc_timeout_max");
            }
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
        let mut diagnostics = Diagnostics::default();
        let policy = Policy::compile(&[(&defaults, At::ROOT), (&route, At::ROOT)], 1, &mut diagnostics);
        assert_eq!((policy.request.as_secs(), policy.idle.as_secs()), (9, 7));
        assert!(diagnostics.is_empty());
    }

    #[test]
    fn a_websocket_has_an_idle_limit_of_its_own() {
        let (defaults, route) = (layer("{ idle: 7s }"), layer("{ idle: 10m }"));
        let mut diagnostics = Diagnostics::default();
        let plain = Policy::compile(&[(&defaults, At::ROOT)], 1, &mut diagnostics);
        let set = Policy::compile(&[(&defaults, At::ROOT), (&route, At::ROOT)], 1, &mut diagnostics);
        assert_eq!((plain.websocket_idle.as_secs(), set.websocket_idle.as_secs()), (3600, 600));
    }

    #[test]
    fn no_timeout_can_be_switched_off() {
        let mut diagnostics = Diagnostics::default();
        let route = layer("{ connect: 0s }");
        Policy::compile(&[(&route, At::ROOT.key("timeouts"))], 1, &mut diagnostics);
        assert_eq!(diagnostics.iter().next().unwrap().path, "/timeouts/connect");
    }
}
