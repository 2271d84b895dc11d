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
    /// for whatever follows, also nothing: `/api/v1/players/{*rest}`.
    pub path: String,
    /// Host names, `api.example.org`, or `*.example.org` for every name below; none: any host.
    /// Ports do not count.
    #[serde(default)]
    pub hosts: Vec<String>,
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
    /// Whether the route takes WebSocket handshakes only.
    #[serde(default)]
    pub websocket: bool,
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
