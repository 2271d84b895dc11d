//! `routes.yaml` as an operator writes it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::filters::{PolicyConfig, RewriteConfig};
use crate::forward::MirrorConfig;
use crate::identity::RolesConfig;
use crate::pipeline::Filters;
use crate::routing::MatchConfig;
use crate::services::{AggregatePartConfig, ServiceRegistry};
use crate::upstream::{SplitBy, SplitPartConfig, UpstreamConfig};
use crate::yaml::schema_by;

/// The JSON Schema of `routes.yaml`, with what only its parts can say: the blocks of filters that were added to the
/// built-in ones, and the settings of local services.
pub fn routes_schema(filters: &Filters, services: &ServiceRegistry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let blocks = filters.schemas(&mut generator);
    let settings = services.schemas(&mut generator);
    let mut schema = schema_by::<RoutesFile>(generator);
    schema["$defs"]["FiltersConfig"]["properties"] = Value::Object(blocks);
    let upstream = &mut schema["$defs"]["UpstreamConfig"];
    if let Some((_, files)) = settings.iter().find(|it| it.0 == "files") {
        upstream["properties"]["files"]["anyOf"][0] = files.clone();
    }
    let of_service = |(name, settings): (&str, Value)| {
        json!({
            "if": { "properties": { "local": { "const": name } }, "required": ["local"] },
            "then": { "properties": { "settings": settings } },
        })
    };
    upstream["allOf"] = settings.into_iter().map(of_service).collect();
    schema
}

/// What goes where. Editing this file takes effect without a restart and without losing a request.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "routes.yaml")]
pub struct RoutesFile {
    /// The version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Further files with `policies`, `upstreams` and `routes`, which count as if they stood here: `teams/players.yaml`, or
    /// `routes.d/*.yaml` for all of a folder, in alphabetical order. Paths are relative to the folder of this file.
    #[serde(default)]
    pub include: Vec<String>,
    /// What each role permits, by the role's name: `notes.read`, `notes.*`, or `*` for everything. Without it,
    /// roles permit what docs/AUTH.md lists.
    #[serde(default)]
    pub roles: Option<RolesConfig>,
    /// Which of its own routes the gateway has.
    #[serde(default)]
    pub built_in: BuiltInConfig,
    /// What every route starts from.
    #[serde(default)]
    pub defaults: PolicyConfig,
    /// Named sets of settings that routes take over with `use`.
    #[serde(default)]
    pub policies: BTreeMap<String, PolicyConfig>,
    /// Where traffic goes, by name.
    #[serde(default)]
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    /// Which request goes where. The most specific match wins, whatever the order here.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
}

impl RoutesFile {
    /// Notes which values of header fields the environment or the store has brought: in `shown` they are as they are
    /// written.
    pub(super) fn note_brought(&mut self, shown: &Self) {
        self.defaults.headers.note_brought(&shown.defaults.headers);
        self.defaults.request_headers.note_brought(&shown.defaults.request_headers);
        for (policy, shown) in self.policies.values_mut().zip(shown.policies.values()) {
            policy.headers.note_brought(&shown.headers);
            policy.request_headers.note_brought(&shown.request_headers);
        }
        for (route, shown) in self.routes.iter_mut().zip(&shown.routes) {
            route.settings.headers.note_brought(&shown.settings.headers);
            route.settings.request_headers.note_brought(&shown.settings.request_headers);
            if let Some((rewrite, shown)) = route.rewrite.as_mut().zip(shown.rewrite.as_ref()) {
                rewrite.headers.note_brought(&shown.headers);
            }
        }
    }
}

/// Routes that the gateway has without being told. A route of the file with the same path takes the place of one, if
/// it takes `GET` and has no further conditions.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuiltInConfig {
    /// `GET /api/health`. Default true.
    pub health: bool,
    /// `GET /api/metrics`. Default true.
    pub metrics: bool,
}

impl Default for BuiltInConfig {
    fn default() -> Self {
        Self { health: true, metrics: true }
    }
}

/// One match and what follows from it: exactly one of `upstream`, `split`, `aggregate`, `redirect` and `respond`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Names the route in logs, metrics and commands. Unique.
    pub name: String,
    /// Which requests it takes.
    pub r#match: MatchConfig,
    /// Policies whose settings it takes over, in this order.
    #[serde(default)]
    pub r#use: Vec<String>,
    /// The upstream that answers.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Upstreams that share the requests by weight: a canary.
    #[serde(default)]
    pub split: Option<Vec<SplitPartConfig>>,
    /// What callers keep their part of the `split` by. Without it, each request goes its own way; idempotent requests
    /// always stay where they are.
    #[serde(default)]
    pub split_by: Option<SplitBy>,
    /// Several upstreams that answer together: their JSON under the names of the parts.
    #[serde(default)]
    pub aggregate: Option<BTreeMap<String, AggregatePartConfig>>,
    /// Another upstream that gets a copy of the requests, and whose answers nobody gets.
    #[serde(default)]
    pub mirror: Option<MirrorConfig>,
    /// Sends the client elsewhere.
    #[serde(default)]
    pub redirect: Option<RedirectConfig>,
    /// Answers at once.
    #[serde(default)]
    pub respond: Option<RespondConfig>,
    /// Protocols beside WebSocket that a connection may change to (RFC 9110, section 7.8), as clients name them in
    /// `Upgrade`: `tcp`. What passes then passes unseen.
    #[serde(default)]
    pub upgrade: Vec<String>,
    /// What changes in the request before the upstream gets it.
    #[serde(default)]
    pub rewrite: Option<RewriteConfig>,
    /// Its own settings.
    #[serde(flatten)]
    pub settings: PolicyConfig,
}

impl RouteConfig {
    /// Whether its requests are forwarded, and not answered at once.
    pub(super) fn forwards(&self) -> bool {
        self.upstream.is_some() || self.split.is_some() || self.aggregate.is_some()
    }

    /// The names of the upstreams that its requests go to, copies included.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &str> {
        let parts = self.split.iter().flatten().map(|it| it.upstream.as_str());
        let aggregated = self.aggregate.iter().flatten().map(|it| it.1.upstream.as_str());
        let mirror = self.mirror.iter().map(|it| it.upstream.as_str());
        self.upstream.as_deref().into_iter().chain(parts).chain(aggregated).chain(mirror)
    }
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RedirectConfig {
    /// The same place by TLS.
    Word(RedirectWord),
    /// Another place.
    To(RedirectTo),
}

/// A place that needs no more words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedirectWord {
    /// The same host, path and query, by TLS and at its own port, 443.
    Https,
}

/// Another place.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectTo {
    /// The new place: a path or a URL, with captures of the match in braces: `/v2/{rest}`, `https://{host}:8443/{rest}`. The
    /// query is kept.
    pub to: String,
    /// 301, 302, 303, 307 or 308. Default 308: the method and the body stay.
    #[serde(default)]
    pub status: Option<u16>,
}

/// Answers at once.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RespondConfig {
    /// 200 to 599. Default 200.
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// The body, as text.
    pub body: Option<String>,
    /// The body's media type. Default `text/plain; charset=utf-8`.
    pub content_type: Option<String>,
}
