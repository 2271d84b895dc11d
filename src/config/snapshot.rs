//! `routes.yaml`, compiled: immutable, everything parsed, nothing that remembers traffic.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::base::{At, ByteSize, Findings, Period};
use crate::cache::{CacheConfig, Rules};
use crate::config::gateway_file::Mode;
use crate::config::routes_file::{HeadersConfig, PolicyConfig, RedirectConfig, RespondConfig, RouteConfig, RoutesFile};
use crate::filters::auth::{Auth, AuthConfig};
use crate::filters::rate_limit::{self, Written};
use crate::filters::{
    BodyRules, Chain, Cors, CorsConfig, HeaderEdits, HeaderEditsConfig, Idempotency, IdempotencyConfig,
    RateLimitConfig, RateLimits, Rbac, Rewrite, SchemaConfig, Security,
};
use crate::forward::{Policy, TimeoutsConfig};
use crate::identity::Roles;
use crate::routing::{MatchConfig, Table, Template};
use crate::services::Directory;
use crate::upstream::{Upstream, UpstreamKind};

/// All routes and upstreams, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// Which route takes a request; routes by their number.
    pub table: Table,
    /// The routes, in the order of the file; then those that every gateway has.
    pub routes: Vec<Route>,
    /// The upstreams, in alphabetical order; then those that every gateway has.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What answers pass that belong to no route.
    pub defaults: Chain,
    /// What roles permit.
    pub roles: Arc<Roles>,
}

/// One route, compiled.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// What its requests pass.
    pub chain: Chain,
    /// What bounds its exchanges.
    pub policy: Policy,
    /// What becomes of its requests.
    pub action: Action,
    /// The methods it takes; none: any.
    pub methods: Vec<Method>,
    /// Everything above in words, for operators; also tells whether a reload changed the route.
    pub description: Description,
}

/// What becomes of a route's requests.
#[derive(Debug)]
pub enum Action {
    /// They go to the upstream of this number.
    Upstream(usize),
    /// They are sent elsewhere.
    Redirect(Redirect),
    /// They are answered at once.
    Respond(Respond),
}

/// Where clients are sent.
#[derive(Debug)]
pub struct Redirect {
    /// One of the redirecting statuses.
    pub status: StatusCode,
    /// The new place.
    pub to: Template,
}

/// An answer that is always the same.
#[derive(Debug)]
pub struct Respond {
    /// Its status.
    pub status: StatusCode,
    /// Its media type.
    pub content_type: HeaderValue,
    /// Its body.
    pub body: bytes::Bytes,
}

/// A route in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Which requests it takes.
    pub r#match: MatchConfig,
    /// The policies that it uses.
    pub r#use: Vec<String>,
    /// What becomes of its requests: `{"upstream": …}`, `{"redirect": …}` or `{"respond": …}`.
    pub action: Value,
    /// The steps that its requests pass, in order, each with its settings.
    pub steps: Vec<StepDescription>,
    /// Limits of the exchange.
    pub timeouts: BTreeMap<&'static str, Period>,
    /// The largest request body.
    pub body_limit: ByteSize,
}

/// One step in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepDescription {
    /// The step's name.
    pub step: &'static str,
    /// Its settings.
    pub settings: Value,
}

impl Snapshot {
    /// The only way to a snapshot, for start, reload and `check` alike. Reports all faults; what has
    /// any must not serve. `issuers` are the names in `tokens.trust` of `gateway.yaml`, if that is known.
    pub fn compile(
        file: &RoutesFile,
        services: &Directory,
        mode: Mode,
        issuers: Option<&[String]>,
        findings: &mut Findings,
    ) -> Self {
        let roles = Roles::compile(file.roles.as_ref(), &At::ROOT.key("roles"), findings);
        let known = Known { roles: &roles, issuers };
        let upstreams = upstreams(file, services, findings);
        let built_in = built_in_routes(mode);
        let written: Vec<&RouteConfig> = file.routes.iter().chain(&built_in).collect();
        let at = At::ROOT.key("routes");
        check_settings(file, known, findings);
        unique_names(&written, &at, findings);
        let matches: Vec<(&str, &MatchConfig)> = written.iter().map(|it| (&*it.name, &it.r#match)).collect();
        let table = Table::compile(&matches, &at, findings);
        let mut all = upstreams;
        all.extend(built_in_upstreams(mode));
        let compiler = Compiler { file, upstreams: &all, table: &table, known };
        let compile =
            |(number, route): (usize, &&RouteConfig)| compiler.route(number, route, &at.index(number), findings);
        let routes = written.iter().enumerate().map(compile).collect();
        let defaults = Layer::of(&file.defaults, At::ROOT);
        Self { table, routes, upstreams: all, defaults: way_out(&[defaults]), roles: Arc::new(roles) }
    }
}

/// `GET /api/health` and `GET /api/metrics`, which every gateway answers on its public listeners; and while
/// developing, `POST /api/cache/clear` (S2S-15).
fn built_in_routes(mode: Mode) -> Vec<RouteConfig> {
    let route = |name: &str, method: &str, path: &str| RouteConfig {
        name: name.to_owned(),
        r#match: MatchConfig { path: path.to_owned(), methods: vec![method.to_owned()], ..MatchConfig::default() },
        upstream: Some(name.to_owned()),
        ..RouteConfig::default()
    };
    // Whoever asks after the gateway's health has no credentials, whatever `defaults` say.
    let open = AuthConfig { open: true, ..AuthConfig::default() };
    let health = RouteConfig { auth: Some(open), ..route(HEALTH, "GET", "/api/health") };
    let mut routes = vec![health, route(METRICS, "GET", "/api/metrics")];
    if mode == Mode::Dev {
        routes.push(route(CACHE_CLEAR, "POST", "/api/cache/clear"));
    }
    routes
}

const HEALTH: &str = "moongate-health";
const METRICS: &str = "moongate-metrics";
const CACHE_CLEAR: &str = "moongate-cache-clear";

fn built_in_upstreams(mode: Mode) -> Vec<Arc<Upstream>> {
    let mut services = vec![(HEALTH, "health"), (METRICS, "metrics")];
    if mode == Mode::Dev {
        services.push((CACHE_CLEAR, "cache_clear"));
    }
    let upstreams = services.into_iter().map(|(name, service)| {
        let config = crate::upstream::UpstreamConfig { local: Some(service.to_owned()), ..Default::default() };
        let upstream = Upstream::compile(name, &config, &At::ROOT, &mut Findings::default());
        Arc::new(upstream.expect("a local upstream has nothing that could be wrong"))
    });
    upstreams.collect()
}

fn upstreams(file: &RoutesFile, services: &Directory, findings: &mut Findings) -> Vec<Arc<Upstream>> {
    let at = At::ROOT.key("upstreams");
    let mut upstreams = Vec::new();
    for (name, written) in &file.upstreams {
        let at = at.key(name);
        let Some(upstream) = Upstream::compile(name, written, &at, findings) else { continue };
        if let UpstreamKind::Local(service) = &upstream.kind
            && services.find(service).is_none()
        {
            let finding = findings.error(&at.key("local"), format!("no local service `{service}`"));
            finding.suggest(service, services.names());
        }
        upstreams.push(Arc::new(upstream));
    }
    upstreams
}

fn unique_names(routes: &[&RouteConfig], at: &At<'_>, findings: &mut Findings) {
    let mut seen = BTreeMap::new();
    for (number, route) in routes.iter().enumerate() {
        let at = at.index(number);
        let plain = !route.name.is_empty()
            && route.name.len() <= 100
            && route.name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it));
        if !plain {
            findings
                .error(&at.key("name"), "not a name for a route")
                .help("letters, digits, `-`, `_` and `.`, at most 100");
        }
        if let Some(first) = seen.insert(route.name.as_str(), number) {
            let finding = findings.error(&at.key("name"), format!("two routes are called `{}`", route.name));
            finding
                .help(format!("the first one is number {} in the list; names appear in metrics and logs", first + 1));
        }
    }
}

/// Settings are checked where they stand and once, also those that no route uses.
fn check_settings(file: &RoutesFile, known: Known<'_>, findings: &mut Findings) {
    Layer::of(&file.defaults, At::ROOT.key("defaults")).check(known, findings);
    let policies = At::ROOT.key("policies");
    for (name, policy) in &file.policies {
        Layer::of(policy, policies.key(name)).check(known, findings);
    }
    let routes = At::ROOT.key("routes");
    for (number, route) in file.routes.iter().enumerate() {
        Layer::of_route(route, routes.index(number)).check(known, findings);
    }
}

/// Names that settings may use and that stand elsewhere.
#[derive(Clone, Copy)]
struct Known<'a> {
    roles: &'a Roles,
    /// In `gateway.yaml`, if that is known.
    issuers: Option<&'a [String]>,
}

struct Compiler<'a> {
    known: Known<'a>,
    file: &'a RoutesFile,
    upstreams: &'a [Arc<Upstream>],
    table: &'a Table,
}

/// The settings of one layer, and its place.
struct Layer<'a> {
    timeouts: &'a TimeoutsConfig,
    body_limit: Option<ByteSize>,
    headers: &'a HeadersConfig,
    cors: Option<&'a CorsConfig>,
    auth: Option<&'a AuthConfig>,
    rate_limits: &'a [RateLimitConfig],
    content_types: Option<&'a Vec<String>>,
    schema: Option<&'a SchemaConfig>,
    idempotency: Option<&'a IdempotencyConfig>,
    cache: Option<&'a CacheConfig>,
    at: At<'a>,
}

impl Compiler<'_> {
    fn route(&self, number: usize, written: &RouteConfig, at: &At<'_>, findings: &mut Findings) -> Route {
        let defaults_at = At::ROOT.key("defaults");
        let policies_at = At::ROOT.key("policies");
        let mut layers = vec![Layer::of(&self.file.defaults, defaults_at)];
        let uses = at.key("use");
        for (place, name) in written.r#use.iter().enumerate() {
            match self.file.policies.get_key_value(name) {
                Some((name, policy)) => layers.push(Layer::of(policy, policies_at.key(name))),
                None => {
                    let finding = findings.error(&uses.index(place), format!("no policy `{name}`"));
                    finding.suggest(name, self.file.policies.keys().map(String::as_str));
                }
            }
        }
        layers.push(Layer::of_route(written, *at));
        let chain = self.chain(number, written, &layers, at, findings);
        let policy = policy(&layers);
        let action = self.action(number, written, at, findings);
        let description = describe(written, &layers, &policy);
        let methods = written.r#match.methods.iter().filter_map(|it| Method::from_bytes(it.as_bytes()).ok()).collect();
        Route { name: written.name.as_str().into(), chain, policy, action, methods, description }
    }

    fn chain(
        &self,
        number: usize,
        written: &RouteConfig,
        layers: &[Layer<'_>],
        at: &At<'_>,
        findings: &mut Findings,
    ) -> Chain {
        let rewrite = written.rewrite.clone().unwrap_or_default();
        let rewrite_at = at.key("rewrite");
        let captures = self.table.captures(number);
        let mut told = Findings::default(); // each was checked where it stands
        Chain {
            auth: auth(layers).and_then(|it| Auth::compile(it, None, &At::ROOT, &mut told)),
            rbac: auth(layers).and_then(|it| Rbac::compile(it, self.known.roles, &At::ROOT, &mut told)),
            rewrite: Rewrite::compile(
                rewrite.path.as_deref(),
                rewrite.host.as_deref(),
                captures,
                &rewrite_at,
                findings,
            ),
            request_headers: HeaderEdits::compile(&rewrite.headers, &rewrite_at.key("headers"), findings),
            rate_limits: RateLimits::join(&limit_lists(written, layers)),
            body: body_rules(layers),
            idempotency: idempotency(layers).map(|it| Idempotency::compile(it, &At::ROOT, &mut Findings::default())),
            cache: cache(layers).map(|(config, at)| {
                Rules::check_tags(&config.tags, captures, &at.key("tags"), findings);
                let rules = Rules::compile(&written.name, config, captures, &At::ROOT, &mut Findings::default());
                Arc::new(rules)
            }),
            ..way_out(layers)
        }
    }

    fn action(&self, number: usize, written: &RouteConfig, at: &At<'_>, findings: &mut Findings) -> Action {
        let chosen = [written.upstream.is_some(), written.redirect.is_some(), written.respond.is_some()];
        if chosen.iter().filter(|it| **it).count() != 1 {
            let finding = findings
                .error(at, format!("route `{}` needs exactly one of upstream, redirect and respond", written.name));
            finding.help("say where its requests go, or how they are answered");
        }
        if let Some(redirect) = &written.redirect {
            return Action::Redirect(self.redirect(number, redirect, &at.key("redirect"), findings));
        }
        if let Some(name) = &written.upstream {
            return Action::Upstream(self.upstream(name, &at.key("upstream"), findings));
        }
        let respond = written.respond.clone().unwrap_or_default();
        Action::Respond(Respond::compile(&respond, &at.key("respond"), findings))
    }

    fn upstream(&self, name: &str, at: &At<'_>, findings: &mut Findings) -> usize {
        let found = self.upstreams.iter().position(|it| &*it.name == name);
        // An upstream that did not compile is reported where it stands, not at every route.
        if found.is_none() && !self.file.upstreams.contains_key(name) {
            let finding = findings.error(at, format!("no upstream `{name}`"));
            finding.suggest(name, self.file.upstreams.keys().map(String::as_str));
        }
        found.unwrap_or(0)
    }

    fn redirect(&self, number: usize, written: &RedirectConfig, at: &At<'_>, findings: &mut Findings) -> Redirect {
        let status = written.status.unwrap_or(308);
        if ![301, 302, 303, 307, 308].contains(&status) {
            findings.error(&at.key("status"), "not a status that redirects").help("301, 302, 303, 307 or 308");
        }
        let to = Template::compile(&written.to, self.table.captures(number), &at.key("to"), findings);
        Redirect { status: StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT), to }
    }
}

impl<'a> Layer<'a> {
    fn of(policy: &'a PolicyConfig, at: At<'a>) -> Self {
        Self {
            timeouts: &policy.timeouts,
            body_limit: policy.body_limit,
            headers: &policy.headers,
            cors: policy.cors.as_ref(),
            auth: policy.auth.as_ref(),
            rate_limits: &policy.rate_limits,
            content_types: policy.content_types.as_ref(),
            schema: policy.schema.as_ref(),
            idempotency: policy.idempotency.as_ref(),
            cache: policy.cache.as_ref(),
            at,
        }
    }

    fn of_route(route: &'a RouteConfig, at: At<'a>) -> Self {
        Self {
            timeouts: &route.timeouts,
            body_limit: route.body_limit,
            headers: &route.headers,
            cors: route.cors.as_ref(),
            auth: route.auth.as_ref(),
            rate_limits: &route.rate_limits,
            content_types: route.content_types.as_ref(),
            schema: route.schema.as_ref(),
            idempotency: route.idempotency.as_ref(),
            cache: route.cache.as_ref(),
            at,
        }
    }

    fn check(&self, known: Known<'_>, findings: &mut Findings) {
        if let Some(cors) = self.cors {
            Cors::compile(cors, &self.at.key("cors"), findings);
        }
        if let Some(auth) = self.auth {
            let at = self.at.key("auth");
            Auth::compile(auth, known.issuers, &at, findings);
            Rbac::compile(auth, known.roles, &at, findings);
        }
        RateLimits::check(self.rate_limits, &self.at.key("rate_limits"), findings);
        let places = (&self.at.key("content_types"), &self.at.key("schema"));
        BodyRules::compile(self.content_types, self.schema, places, findings);
        if let Some(idempotency) = self.idempotency {
            Idempotency::compile(idempotency, &self.at.key("idempotency"), findings);
        }
        if let Some(cache) = self.cache {
            // What tags name is known only where a path is: with each route.
            let config = CacheConfig { tags: Vec::new(), ..cache.clone() };
            Rules::compile("", &config, &[], &self.at.key("cache"), findings);
        }
        let HeadersConfig { set, add, remove, .. } = self.headers.clone();
        HeaderEdits::compile(&HeaderEditsConfig { set, add, remove }, &self.at.key("headers"), findings);
        Policy::compile(&[(self.timeouts, self.at.key("timeouts"))], 0, findings);
    }
}

impl Respond {
    fn compile(written: &RespondConfig, at: &At<'_>, findings: &mut Findings) -> Self {
        let status = written.status.unwrap_or(200);
        let status = StatusCode::from_u16(status).ok().filter(|it| (200..600).contains(&it.as_u16()));
        if status.is_none() {
            findings.error(&at.key("status"), "not a final status").help("200 to 599");
        }
        // RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
        if [204, 205, 304].contains(&written.status.unwrap_or(200)) && written.body.is_some() {
            let finding = findings.error(&at.key("body"), "an answer of this status has no body");
            finding.help("leave the body out, or choose another status");
        }
        let media = written.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
        let content_type = HeaderValue::from_str(media);
        if content_type.is_err() {
            findings.error(&at.key("content_type"), "not a media type").help("write it as application/json");
        }
        Self {
            status: status.unwrap_or_default(),
            content_type: content_type.unwrap_or(HeaderValue::from_static("text/plain")),
            body: bytes::Bytes::from(written.body.clone().unwrap_or_default()),
        }
    }
}

/// What answers pass. Each layer was checked where it stands.
fn way_out(layers: &[Layer<'_>]) -> Chain {
    let mut told = Findings::default();
    let cors = layers.iter().rev().find_map(|it| it.cors);
    Chain {
        cors: cors.map(|it| Cors::compile(it, &At::ROOT, &mut told)),
        response_headers: HeaderEdits::compile(&merged_edits(layers), &At::ROOT, &mut told),
        security: security(layers),
        ..Chain::default()
    }
}

fn body_rules(layers: &[Layer<'_>]) -> BodyRules {
    let types = layers.iter().rev().find_map(|it| it.content_types);
    let schema = layers.iter().rev().find_map(|it| it.schema);
    BodyRules::compile(types, schema, (&At::ROOT, &At::ROOT), &mut Findings::default())
}

/// The last layer's, as a whole: halves of two could let somebody in whom neither means.
fn auth<'a>(layers: &[Layer<'a>]) -> Option<&'a AuthConfig> {
    layers.iter().rev().find_map(|it| it.auth)
}

fn idempotency<'a>(layers: &[Layer<'a>]) -> Option<&'a IdempotencyConfig> {
    layers.iter().rev().find_map(|it| it.idempotency)
}

/// The lists of limits, and where each counts: that is where it is written.
fn limit_lists<'a>(written: &RouteConfig, layers: &[Layer<'a>]) -> Vec<Written<'a>> {
    // What every gateway has by itself is for those who watch over it.
    if [HEALTH, METRICS].contains(&&*written.name) {
        return Vec::new();
    }
    let list = |(number, layer): (usize, &Layer<'a>)| Written {
        scope: match number {
            0 => "defaults".to_owned(),
            // A policy that is not there is reported elsewhere, and nothing serves then.
            _ if number + 1 < layers.len() => format!("policy/{}", written.r#use.get(number - 1).map_or("", |it| it)),
            _ => format!("route/{}", written.name),
        },
        limits: layer.rate_limits,
    };
    layers.iter().enumerate().map(list).collect()
}

fn cache<'l, 'a>(layers: &'l [Layer<'a>]) -> Option<(&'a CacheConfig, At<'l>)> {
    layers.iter().rev().find_map(|it| Some((it.cache?, it.at.key("cache"))))
}

fn policy(layers: &[Layer<'_>]) -> Policy {
    let places: Vec<At<'_>> = layers.iter().map(|it| it.at).collect();
    let timeouts: Vec<(&TimeoutsConfig, At<'_>)> =
        layers.iter().zip(&places).map(|(layer, at)| (layer.timeouts, at.key("timeouts"))).collect();
    let body_limit = layers.iter().rev().find_map(|it| it.body_limit).map_or(Policy::BODY_LIMIT, |it| it.0);
    Policy::compile(&timeouts, body_limit, &mut Findings::default()) // each was checked where it stands
}

fn security(layers: &[Layer<'_>]) -> Security {
    layers.iter().rev().find_map(|it| it.headers.security).unwrap_or_default()
}

/// A later layer's word about a field replaces that of an earlier one.
fn merged_edits(layers: &[Layer<'_>]) -> HeaderEditsConfig {
    let mut edits = HeaderEditsConfig::default();
    for HeadersConfig { set, add, remove, .. } in layers.iter().map(|it| it.headers) {
        let lower = |fields: &BTreeMap<String, String>| -> BTreeMap<String, String> {
            fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
        };
        let (set, add) = (lower(set), lower(add));
        let remove: Vec<String> = remove.iter().map(|it| it.to_ascii_lowercase()).collect();
        let named = |name: &String| set.contains_key(name) || add.contains_key(name) || remove.contains(name);
        edits.set.retain(|name, _| !named(name));
        edits.add.retain(|name, _| !named(name));
        edits.remove.retain(|name| !named(name));
        edits.set.extend(set);
        edits.add.extend(add);
        edits.remove.extend(remove);
    }
    edits
}

fn describe(written: &RouteConfig, layers: &[Layer<'_>], policy: &Policy) -> Description {
    let action = match (&written.upstream, &written.redirect, &written.respond) {
        (Some(upstream), ..) => serde_json::json!({ "upstream": upstream }),
        (_, Some(redirect), _) => serde_json::json!({ "redirect": json(redirect) }),
        (_, _, respond) => serde_json::json!({ "respond": json(respond) }),
    };
    let cors = layers.iter().rev().find_map(|it| it.cors);
    let edits = merged_edits(layers);
    // The order of `proxy/way.rs`.
    let mut steps = vec![StepDescription { step: "request_id", settings: Value::Null }];
    steps.push(StepDescription { step: "trace_context", settings: Value::Null });
    if let Some(cors) = cors {
        steps.push(StepDescription { step: "cors", settings: json(cors) });
    }
    let lists = limit_lists(written, layers);
    let limits = |by_principal: bool| {
        let part = rate_limit::applying(&lists).filter(|(_, it)| it.counts_by_principal() == by_principal);
        let limits: Vec<Value> = part.map(|(scope, it)| serde_json::json!({ "scope": scope, "limit": it })).collect();
        let settings = Value::Array(limits);
        (settings != Value::Array(Vec::new())).then_some(StepDescription { step: "rate_limits", settings })
    };
    steps.extend(limits(false));
    if let Some(auth) = auth(layers) {
        steps.push(StepDescription { step: "auth", settings: json(auth) });
    }
    steps.extend(limits(true));
    let types = layers.iter().rev().find_map(|it| it.content_types);
    let schema = layers.iter().rev().find_map(|it| it.schema);
    if types.is_some() || schema.is_some() {
        let settings = serde_json::json!({ "content_types": types, "schema": schema });
        steps.push(StepDescription { step: "body_rules", settings });
    }
    if let Some(idempotency) = idempotency(layers) {
        steps.push(StepDescription { step: "idempotency", settings: json(idempotency) });
    }
    if let Some((cache, _)) = cache(layers) {
        steps.push(StepDescription { step: "cache", settings: json(cache) });
    }
    steps.push(StepDescription { step: "forwarded", settings: Value::Null });
    if let Some(rewrite) = &written.rewrite {
        steps.push(StepDescription { step: "rewrite", settings: json(rewrite) });
    }
    steps.push(StepDescription { step: "security_headers", settings: json(&security(layers)) });
    if edits != HeaderEditsConfig::default() {
        steps.push(StepDescription { step: "response_headers", settings: json(&edits) });
    }
    Description {
        name: written.name.clone(),
        r#match: written.r#match.clone(),
        r#use: written.r#use.clone(),
        action,
        steps,
        timeouts: BTreeMap::from([
            ("connect", Period(policy.connect)),
            ("first_byte", Period(policy.first_byte)),
            ("request", Period(policy.request)),
            ("idle", Period(if written.r#match.websocket { policy.websocket_idle } else { policy.idle })),
        ]),
        body_limit: ByteSize(policy.body_limit),
    }
}

fn json(settings: &impl Serialize) -> Value {
    serde_json::to_value(settings).unwrap_or(Value::Null)
}
