//! The `match:` section of a route, as written. What its words mean is compiled in the files
//! beside; nothing is checked here beyond the shape.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{REDACTED, Secret, names_credential};

/// The `match:` section of a route: which requests it takes. All that is written must hold; the
/// most specific route wins, whatever the order in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchConfig {
    /// Pattern of the path: literal segments, `{name}` for one segment, and `{*rest}` at the end
    /// for whatever follows, also nothing: `/api/v1/players/{*rest}`. Without it and without `paths`: any path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Several of them, in place of `path`: the route takes what any of them takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Host names: `api.example.org`, `*.example.org` for every name below, `{tenant}.example.org` for one label that can
    /// be filled in as `{host.tenant}`, or `*` for any host; none: any host. Ports do not count.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// How the client came: `http` or `https`, to us or to the trusted proxy that says so; none: either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<SchemeMatch>,
    /// The listener that it came to, by the name that the log has for it: `public` for the first one, `public-2` for the
    /// second; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Methods, such as `GET`, which includes `HEAD`; none: any method.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Conditions on header fields, by name. A repeated field counts with its first line.
    #[serde(default)]
    pub headers: BTreeMap<String, ValueMatch>,
    /// Conditions on query parameters, by name. A repeated parameter counts with its first value.
    #[serde(default)]
    pub query: BTreeMap<String, ValueMatch>,
    /// Media types that the route can produce, `application/json` or `text/*`, held against the
    /// request's `Accept`; none: whatever the client accepts.
    #[serde(default)]
    pub accept: Vec<String>,
    /// `true`: the route takes WebSocket handshakes only. `allow`: it takes them beside plain requests. Default
    /// `false`: none.
    #[serde(default)]
    pub websocket: WebSocketMatch,
}

/// How a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemeMatch {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl SchemeMatch {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Whether a route takes handshakes of WebSockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum WebSocketMatch {
    /// Nothing else, or none.
    Only(bool),
    /// And plain requests.
    Allow(AllowWord),
}

/// The word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AllowWord {
    /// Handshakes and plain requests alike.
    Allow,
}

impl Default for WebSocketMatch {
    fn default() -> Self {
        Self::Only(false)
    }
}

impl WebSocketMatch {
    /// Whether the route takes nothing but handshakes.
    pub fn only(self) -> bool {
        self == Self::Only(true)
    }

    /// Whether the route takes handshakes.
    pub fn takes(self) -> bool {
        self != Self::Only(false)
    }
}

/// A condition on one value: plain text for exactly this, or a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ValueMatch {
    /// Exactly this text.
    Exact(#[schemars(with = "Secret")] String),
    /// One of the other rules.
    Rule(ValueRule),
}

/// A condition on one value, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ValueRule {
    /// Exactly this text.
    Exact(#[schemars(with = "Secret")] String),
    /// A text that starts so.
    Prefix(#[schemars(with = "Secret")] String),
    /// `true`: there, with any value; `false`: not there.
    Present(bool),
}

impl MatchConfig {
    /// The pattern that takes every path.
    const ANY_PATH: &'static str = "/{*rest}";

    /// The patterns of its paths: `paths`, or `path`, or any path where the rest of it says which requests are meant.
    pub fn patterns(&self) -> Vec<&str> {
        match (self.path.as_str(), &self.paths[..]) {
            ("", []) => vec![Self::ANY_PATH],
            ("", paths) => paths.iter().map(String::as_str).collect(),
            (path, _) => vec![path],
        }
    }

    /// Whether it says nothing at all of where requests go.
    pub(super) fn says_nothing(&self) -> bool {
        self.path.is_empty()
            && self.paths.is_empty()
            && self.hosts.is_empty()
            && self.scheme.is_none()
            && self.listener.is_none()
    }

    /// Whether it takes whatever comes to its paths.
    pub fn is_unconditional(&self) -> bool {
        let any_host = self.hosts.is_empty() || self.hosts == ["*"];
        any_host
            && self.scheme.is_none()
            && self.listener.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
            && !self.websocket.only()
    }

    /// The same for people's eyes: without the values of fields and parameters that carry credentials.
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        for (name, value) in shown.headers.iter_mut().chain(&mut shown.query) {
            if names_credential(name.as_bytes()) {
                value.redact();
            }
        }
        shown
    }
}

impl ValueMatch {
    fn redact(&mut self) {
        match self {
            Self::Exact(text) | Self::Rule(ValueRule::Exact(text) | ValueRule::Prefix(text)) => {
                REDACTED.clone_into(text);
            }
            Self::Rule(ValueRule::Present(_)) => {}
        }
    }
}
