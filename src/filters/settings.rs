//! The settings that `defaults`, policies and routes share, as an operator writes them, and how a built-in filter
//! finds its own among them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::AuthConfig;
use super::custom::FiltersConfig;
use super::rate_limit::{Limits, RateLimitConfig};
use super::{
    BasicConfig, CorsConfig, DeprecatedConfig, ErrorPagesConfig, HeaderEditsConfig, HeadersConfig, IdempotencyConfig,
    RewriteConfig, SchemaConfig,
};
use crate::base::{At, ByteSize, Diagnostics};
use crate::cache::CacheConfig;
use crate::deliver::{CompressConfig, SseConfig, WebSocketConfig};
use crate::forward::TimeoutsConfig;
use crate::identity::Identity;
use crate::pipeline::{Filter, Scope};
use crate::upstream::{Live, Priority};

/// Settings that `defaults`, policies and routes share. A route's own setting wins over those of the
/// policies it uses (the last one named first), and these win over `defaults`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// How long each part of an exchange may take.
    pub timeouts: TimeoutsConfig,
    /// Whether paths may have parameters, `/a;v=1/b`. Without it, such a path gets 400 where it is protected by `auth`,
    /// or would belong to another route without its parameters: many servers cut them off.
    pub path_parameters: Option<bool>,
    /// Whose requests are served first, and shed last, where an upstream is at its `concurrency` (R5.2). Default `normal`.
    pub priority: Option<Priority>,
    /// The largest request body. Default 256KiB.
    pub body_limit: Option<ByteSize>,
    /// The largest response body of an upstream. One that says that it is larger gets the client 502, and one that turns
    /// out to be is cut off. Event streams and upgraded connections have none. Default: none.
    pub response_limit: Option<ByteSize>,
    /// What becomes of errors (4xx and 5xx) that the upstream answers with. Default `pass`.
    pub upstream_errors: Option<UpstreamErrors>,
    /// Whether `check` warns of paths below `/api` without a version, or with verbs. Default true.
    pub lint: Option<bool>,
    /// Header fields of answers.
    pub headers: HeadersConfig,
    /// Header fields of requests, before the upstream gets them. What `rewrite` of a route says comes behind.
    pub request_headers: HeaderEditsConfig,
    /// Which pages of other origins may call. Without it, none.
    pub cors: Option<CorsConfig>,
    /// Who may call. Without it, everybody. A route's own takes the place of what its policies and `defaults` say, as
    /// a whole.
    pub auth: Option<AuthConfig>,
    /// Asks for a name and a password, which are checked against a file. In the place of `auth`.
    pub basic: Option<BasicConfig>,
    /// Networks that clients may call from, such as `10.0.0.0/8`: those and no others. Without it, any. The list of the
    /// route takes the place of that of its policies, and so on.
    pub allow_ips: Option<Vec<String>>,
    /// Networks that clients may not call from. It wins over `allow_ips`.
    pub deny_ips: Option<Vec<String>>,
    /// Since when the route is on its way out. Clients are told, and it is counted who still calls.
    pub deprecated: Option<DeprecatedConfig>,
    /// How many requests may come. The lists of `defaults`, of policies and of the route all apply, but
    /// where a list speaks of a `per`, earlier lists have no say about it. A limit counts over all
    /// routes that take it from the same place.
    pub rate_limits: Vec<RateLimitConfig>,
    /// Media types of request bodies, such as `application/json`, `image/*` or `application/*+json`;
    /// others get 415. Default: any, and JSON where there is a `schema`.
    pub content_types: Option<Vec<String>>,
    /// What request bodies must look like.
    pub schema: Option<SchemaConfig>,
    /// Filters that this binary adds to the built-in ones.
    pub filters: FiltersConfig,
    /// Idempotent requests: each is done once, however often it is sent.
    pub idempotency: Option<IdempotencyConfig>,
    /// Which responses are cached and served again. Without it, none.
    pub cache: Option<CacheConfig>,
    /// In which codings answers go out to clients that accept one. Without it, as they come.
    pub compress: Option<CompressConfig>,
    /// Pages for people in the place of errors. Without it, errors are JSON for everybody.
    pub error_pages: Option<ErrorPagesConfig>,
    /// `ignore`: requests pass while the gateway is in maintenance. Default `obey`: they get 503.
    pub maintenance: Option<OnMaintenance>,
    /// How event streams are kept. Without it, they pass as they come.
    pub sse: Option<SseConfig>,
    /// Takes calls of gRPC-Web, as browsers make them, and hands them on as calls of gRPC. Without it, they pass as they
    /// are.
    pub grpc_web: Option<bool>,
    /// How WebSockets are kept. Without it, they pass as they come.
    pub websocket: Option<WebSocketConfig>,
}

/// What maintenance means for requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMaintenance {
    /// They get 503.
    #[default]
    Obey,
    /// They pass.
    Ignore,
}

/// What becomes of errors that an upstream answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamErrors {
    /// They pass as they are.
    #[default]
    Pass,
    /// They keep their status, and get a body in the shape of the gateway's own errors (code `upstream_error`).
    Wrap,
}

/// The settings of one place, which is `defaults`, a policy or a route.
pub struct Layer<'a> {
    /// `defaults`, `policy/NAME` or `route/NAME`.
    pub scope: String,
    /// The settings.
    pub settings: &'a PolicyConfig,
    /// What a route alone can say.
    pub rewrite: Option<&'a RewriteConfig>,
    /// Where they are written.
    pub at: At<'a>,
}

/// A step in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepDescription {
    /// The step's name.
    pub step: &'static str,
    /// Its settings.
    pub settings: Value,
}

impl StepDescription {
    pub(super) fn new(step: &'static str, settings: &impl Serialize) -> Self {
        Self { step, settings: serde_json::to_value(settings).unwrap_or_default() }
    }
}

/// What a compiled route meets when it begins to serve.
pub struct Activation<'a> {
    /// Who is who.
    pub identity: &'a Arc<Identity>,
    /// All rate limits that live.
    pub limits: &'a Arc<Limits>,
    /// The route's name.
    pub route: &'a Arc<str>,
    /// Where its requests go, if that is an upstream.
    pub upstream: Option<&'a Arc<Live>>,
}

/// A filter of this house: a [`Filter`], and where its settings stand. The provided methods are for one with a block
/// under its own name, of which the last layer's counts as a whole.
pub trait BuiltIn: Filter<Config: Clone> {
    /// Its block in one layer.
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a Self::Config> {
        let _ = layer;
        None
    }

    /// What all layers of a route come to; `None` if the route does without.
    fn settings(layers: &[Layer<'_>], scope: &Scope<'_>) -> Option<Self::Config> {
        let _ = scope;
        layers.iter().rev().find_map(Self::block).cloned()
    }

    /// Reports what is wrong with one layer by itself, also with one that no route uses.
    fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        if let Some(block) = Self::block(layer) {
            Self::compile(block, scope, &layer.at.key(Self::NAME), diagnostics);
        }
    }

    /// Reports what is wrong with a layer's settings on this route alone.
    fn check_on_route(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        let _ = (layers, scope, diagnostics);
    }

    /// Its lines in `moongate explain`.
    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        let settings = Self::settings(layers, scope);
        settings.iter().map(|it| StepDescription::new(Self::NAME, it)).collect()
    }

    /// Takes hold of what it needs to serve.
    fn activate(&mut self, activation: &Activation<'_>) {
        let _ = activation;
    }
}
