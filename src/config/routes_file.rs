//! `routes.yaml` as an operator writes it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::ByteSize;
use crate::cache::CacheConfig;
use crate::filters::auth::AuthConfig;
use crate::filters::{CorsConfig, HeaderEditsConfig, IdempotencyConfig, RateLimitConfig, SchemaConfig, Security};
use crate::forward::TimeoutsConfig;
use crate::identity::RolesConfig;
use crate::routing::MatchConfig;
use crate::upstream::UpstreamConfig;

/// What goes where. Editing this file takes effect without a restart and without losing a request.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "routes.yaml")]
pub struct RoutesFile {
    /// The version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// What each role permits, by the role's name: `notes.read`, `notes.*`, or `*` for everything. Without it,
    /// roles permit what docs/AUTH.md lists.
    #[serde(default)]
    pub roles: Option<RolesConfig>,
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

/// Settings that `defaults`, policies and routes share. A route's own setting wins over those of the
/// policies it uses (the last one named first), and these win over `defaults`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// How long each part of an exchange may take.
    pub timeouts: TimeoutsConfig,
    /// The largest request body. Default 256KiB.
    pub body_limit: Option<ByteSize>,
    /// Header fields of answers.
    pub headers: HeadersConfig,
    /// Which pages of other origins may call. Without it, none.
    pub cors: Option<CorsConfig>,
    /// Who may call. Without it, everybody.
    pub auth: Option<AuthConfig>,
    /// How many requests may come. The lists of `defaults`, of policies and of the route all apply, but
    /// where a list speaks of a `per`, earlier lists have no say about it. A limit counts over all
    /// routes that take it from the same place.
    pub rate_limits: Vec<RateLimitConfig>,
    /// Media types of request bodies, such as `application/json`, `image/*` or `application/*+json`;
    /// others get 415. Default: any, and JSON where there is a `schema`.
    pub content_types: Option<Vec<String>>,
    /// What request bodies must look like.
    pub schema: Option<SchemaConfig>,
    /// Deeds that are done once, however often they are asked for.
    pub idempotency: Option<IdempotencyConfig>,
    /// Which answers are kept and given again. Without it, none.
    pub cache: Option<CacheConfig>,
}

/// Header fields of answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadersConfig {
    /// The fields that tell browsers to be careful. Default `strict`.
    pub security: Option<Security>,
    /// Fields that get this value, whatever the upstream said.
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside those of the upstream.
    pub add: BTreeMap<String, String>,
    /// Fields that go.
    pub remove: Vec<String>,
}

/// One match and what follows from it: exactly one of `upstream`, `redirect` and `respond`.
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
    /// Sends the client elsewhere.
    #[serde(default)]
    pub redirect: Option<RedirectConfig>,
    /// Answers at once.
    #[serde(default)]
    pub respond: Option<RespondConfig>,
    /// What changes in the request before the upstream gets it.
    #[serde(default)]
    pub rewrite: Option<RewriteConfig>,
    /// How long each part of an exchange may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// The largest request body.
    #[serde(default)]
    pub body_limit: Option<ByteSize>,
    /// Header fields of answers.
    #[serde(default)]
    pub headers: HeadersConfig,
    /// Which pages of other origins may call.
    #[serde(default)]
    pub cors: Option<CorsConfig>,
    /// Who may call. Takes the place of what its policies and `defaults` say, as a whole.
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// How many requests may come, beside the limits of `defaults` and of policies for another `per`.
    #[serde(default)]
    pub rate_limits: Vec<RateLimitConfig>,
    /// Media types of request bodies; others get 415.
    #[serde(default)]
    pub content_types: Option<Vec<String>>,
    /// What request bodies must look like.
    #[serde(default)]
    pub schema: Option<SchemaConfig>,
    /// Deeds that are done once, however often they are asked for.
    #[serde(default)]
    pub idempotency: Option<IdempotencyConfig>,
    /// Which answers are kept and given again. Without it, none.
    #[serde(default)]
    pub cache: Option<CacheConfig>,
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectConfig {
    /// The new place: a path or a URL, with captures of the match in braces. The query is kept.
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

/// What changes in a request before the upstream gets it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewriteConfig {
    /// The new path, with captures of the match in braces: `/players/{rest}`. The query is kept.
    pub path: Option<String>,
    /// The new `Host`.
    pub host: Option<String>,
    /// Header fields of the request.
    pub headers: HeaderEditsConfig,
}
