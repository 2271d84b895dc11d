//! `routes.yaml`, compiled: immutable, everything parsed, nothing that remembers traffic.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::base::{At, ByteSize, Diagnostics, Period};
use crate::config::gateway_file::Mode;
use crate::config::routes_file::{RedirectConfig, RedirectTo, RespondConfig, RouteConfig, RoutesFile};
use crate::config::{idle, lints};
use crate::filters::auth::{Auth, AuthConfig};
use crate::filters::{Chain, Layer, OnMaintenance, PolicyConfig, StepDescription, UpstreamErrors};
use crate::forward::{Mirror, MirrorConfig, Policy, TimeoutsConfig};
use crate::identity::Roles;
use crate::pipeline::{Filters, Scope, ServiceScope};
use crate::routing::{Captures, MatchConfig, SchemeMatch, Table, Template, known_variable};
use crate::services::{Aggregate, ServiceRegistry, ServiceSettings};
use crate::upstream::{Priority, Source, Split, SplitPartConfig, Upstream, UpstreamKind, check_dependencies, shares};

/// All routes and upstreams, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// Which route takes a request; routes by their number.
    pub table: Table,
    /// The routes, in the order of the file; then those that every gateway has.
    pub routes: Vec<Route>,
    /// The upstreams, in alphabetical order; then those that every gateway has.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The settings of the local services among them, by the upstream's number.
    pub services: Vec<Option<ServiceSettings>>,
    /// What answers pass that belong to no route.
    pub defaults: Chain,
    /// What roles permit.
    pub roles: Arc<Roles>,
    /// The files that the file includes.
    pub included: Vec<PathBuf>,
    /// How many routes every gateway has; so many upstreams are theirs.
    built_in: usize,
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
    /// Which of them are copied, and where to.
    pub mirror: Option<Mirror>,
    /// Whether it lists the hosts that it takes, each by its whole name: a request of its names one of ours.
    pub verifies_host: bool,
    /// Whether its requests pass while the gateway is in maintenance.
    pub ignores_maintenance: bool,
    /// Whether it takes only requests that accept what it can produce.
    pub negotiates: bool,
    /// Whether the upstream's errors become the gateway's own.
    pub wraps_errors: bool,
    /// Whether paths with parameters are for it to take: `/a;v=1/b`.
    takes_parameters: bool,
    /// Everything above in words, for operators; also shows whether a reload changed the route.
    pub description: Description,
}

/// What becomes of a route's requests.
#[derive(Debug)]
pub enum Action {
    /// They go to the upstream of this number.
    Upstream(usize),
    /// Several upstreams share them.
    Split(Split),
    /// Several upstreams answer them together.
    Aggregate(Aggregate),
    /// They are sent elsewhere.
    Redirect(Redirect),
    /// They are answered at once.
    Respond(Respond),
}

impl Action {
    /// The numbers of the upstreams that requests go to: none, one, or those of the parts.
    pub fn upstreams(&self) -> Vec<usize> {
        match self {
            Self::Upstream(number) => vec![*number],
            Self::Split(split) => split.parts().iter().map(|it| it.upstream).collect(),
            Self::Aggregate(aggregate) => aggregate.upstreams().collect(),
            Self::Redirect(_) | Self::Respond(_) => Vec::new(),
        }
    }

    /// Whether requests are forwarded, and not answered at once.
    pub fn forwards(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::Split(_) | Self::Aggregate(_))
    }
}

/// Where clients are sent.
#[derive(Debug)]
pub struct Redirect {
    /// One of the redirecting statuses.
    pub status: StatusCode,
    /// The new place; `None` for the same one by TLS.
    pub to: Option<Template>,
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
    /// What becomes of its requests: `{"upstream": …}`, `{"split": …}`, `{"aggregate": …}`, `{"redirect": …}` or `{"respond": …}`.
    pub action: Value,
    /// Which of its requests are copied, and where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorConfig>,
    /// The protocols that it changes to, WebSocket aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrade: Vec<String>,
    /// Whether it takes paths with parameters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub path_parameters: bool,
    /// What maintenance means for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<OnMaintenance>,
    /// Who is served first where its upstream is at its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The steps that its requests pass, in order, each with its settings.
    pub steps: Vec<StepDescription>,
    /// Limits of the exchange.
    pub timeouts: BTreeMap<&'static str, Period>,
    /// The largest request body.
    pub body_limit: ByteSize,
    /// The largest response, if there is a largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_limit: Option<ByteSize>,
    /// What becomes of the upstream's errors, if that is not that they pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_errors: Option<UpstreamErrors>,
    /// Of the route as it was compiled: whether a reload changes what is not shown.
    #[serde(skip)]
    digest: u64,
}

impl Route {
    /// Whether it is not for everybody.
    fn is_protected(&self) -> bool {
        self.chain.auth.is_some() || self.chain.basic.is_some() || self.chain.networks.is_some()
    }
}

impl Snapshot {
    /// Whether a path with parameters is for `route` to take. Servers that cut them off see another path: `other` is
    /// the route that would take that one. No request gets past a protected route so, and none to another route than
    /// its own, unless that one takes parameters.
    pub fn takes_parameters(&self, route: usize, other: Option<usize>) -> bool {
        let this = &self.routes[route];
        match other.filter(|it| *it != route) {
            Some(other) => this.takes_parameters && !self.routes[other].is_protected(),
            None => this.takes_parameters || !this.is_protected(),
        }
    }

    /// The only way to a snapshot, for start, reload and `check` alike. Reports all faults; what has
    /// any must not serve. `shown` is the same file as far as people may see it: it is what is described.
    pub fn compile(
        file: &RoutesFile,
        shown: &RoutesFile,
        known: Known<'_>,
        mode: Mode,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let Known { services, filters, issuers, own_key, given_roles, zone } = known;
        let roles = Roles::compile(file.roles.as_ref(), &At::ROOT.key("roles"), diagnostics);
        let roles = given_roles.into_iter().fold(roles, Roles::knowing);
        let nowhere = Scope { roles: &roles, issuers, own_key, filters, ..Scope::nowhere() };
        let (mut all, mut settings) = upstreams(file, services, zone, diagnostics);
        let built_in = built_in_routes(file, mode);
        let written: Vec<&RouteConfig> = file.routes.iter().chain(built_in.iter().map(|it| &it.route)).collect();
        let at = At::ROOT.key("routes");
        check_settings(file, nowhere, diagnostics);
        check_names(file, &built_in, diagnostics);
        let matches: Vec<(&str, &MatchConfig)> = written.iter().map(|it| (&*it.name, &it.r#match)).collect();
        let mut table = Table::compile(&matches, &at, diagnostics);
        table.explain_by(shown.routes.iter().chain(built_in.iter().map(|it| &it.route)).map(|it| it.r#match.shown()));
        for upstream in built_in.iter().map(BuiltInRoute::upstream) {
            settings.push(settings_of(&upstream, services, &[], &At::ROOT, &mut Diagnostics::default()).flatten());
            all.push(upstream);
        }
        let compiler = Compiler { file, shown, upstreams: &all, table: &table, nowhere };
        let compile =
            |(number, route): (usize, &&RouteConfig)| compiler.route(number, route, &at.index(number), diagnostics);
        let routes: Vec<Route> = written.iter().enumerate().map(compile).collect();
        warn_of_open_ways(&routes[..file.routes.len()], &all, &table, diagnostics);
        // A route with a fault may have been left out, and what it uses is not idle.
        if diagnostics.is_empty() {
            idle::warn(file, own_key, diagnostics);
            lints::warn(file, diagnostics);
        }
        let defaults = layer("defaults".to_owned(), &file.defaults, At::ROOT);
        // What is wrong with them was reported where they stand.
        let defaults = Chain::compile(&[defaults], &nowhere, &mut Diagnostics::default());
        let built_in = built_in.len();
        Self {
            table,
            routes,
            upstreams: all,
            services: settings,
            defaults,
            roles: Arc::new(roles),
            included: Vec::new(),
            built_in,
        }
    }

    /// The routes of the file.
    pub fn written_routes(&self) -> &[Route] {
        &self.routes[..self.routes.len() - self.built_in]
    }

    /// The upstreams of the file.
    pub fn written_upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams[..self.upstreams.len() - self.built_in]
    }
}

/// Where requests arrive: two upstreams may be the same server.
#[derive(PartialEq, Eq, Hash)]
enum Place<'u> {
    Upstream(usize),
    Address(SocketAddr),
    Source(&'u Source),
}

/// Where the requests of a route leave the process and arrive.
fn places<'u>(route: &Route, upstreams: &'u [Arc<Upstream>]) -> Vec<Place<'u>> {
    let mut places = Vec::new();
    for number in route.action.upstreams() {
        let Some(upstream) = upstreams.get(number).filter(|it| it.kind == UpstreamKind::Remote) else { continue };
        places.push(Place::Upstream(number));
        places.extend(upstream.endpoints.iter().map(|it| Place::Address(it.address)));
        places.extend(upstream.sources.iter().map(Place::Source));
    }
    places
}

/// Upstreams read paths in ways of their own. Where an open route leads to one whose other paths are protected, a path
/// that is read in two ways leads past the protection.
fn warn_of_open_ways(routes: &[Route], upstreams: &[Arc<Upstream>], table: &Table, diagnostics: &mut Diagnostics) {
    let is_open = |it: &Route| {
        let chain = &it.chain;
        let by_auth = chain.auth.as_ref().is_none_or(Auth::lets_everybody_pass);
        by_auth && chain.basic.is_none() && chain.networks.is_none()
    };
    let mut protected: HashMap<Place<'_>, Vec<usize>> = HashMap::new();
    for (number, route) in routes.iter().enumerate().filter(|(_, it)| !is_open(it)) {
        places(route, upstreams).into_iter().for_each(|it| protected.entry(it).or_default().push(number));
    }
    let at = At::ROOT.key("routes");
    for (number, route) in routes.iter().enumerate().filter(|(_, it)| is_open(it)) {
        let places = places(route, upstreams);
        let mut beside = places.iter().filter_map(|it| protected.get(it)).flatten().copied();
        let Some(other) = beside.find(|it| table.covers(number, *it)) else { continue };
        let message = format!(
            "route `{}` lets everybody reach an upstream of which route `{}` protects a part",
            route.name, routes[other].name
        );
        diagnostics
            .warn(&at.index(number).key("match").key("path"), message)
            .help("a path that the upstream reads in another way gets in: give the route `auth`, or list what is open");
    }
}

/// A route that every gateway has, and the local service that answers.
struct BuiltInRoute {
    route: RouteConfig,
    service: &'static str,
}

impl BuiltInRoute {
    fn new(name: &str, method: &str, path: &str, service: &'static str) -> Self {
        let r#match = MatchConfig { path: path.to_owned(), methods: vec![method.to_owned()], ..MatchConfig::default() };
        let (name, upstream) = (name.to_owned(), Some(name.to_owned()));
        Self { route: RouteConfig { name, r#match, upstream, ..RouteConfig::default() }, service }
    }

    /// Whether the operator has a route that would take the same requests.
    fn is_replaced(&self, file: &RoutesFile) -> bool {
        let own = &self.route.r#match;
        file.routes.iter().map(|it| &it.r#match).any(|it| {
            let method = it.methods.is_empty() || it.methods.iter().any(|it| own.methods.contains(it));
            it.patterns().contains(&&*own.path) && method && it.is_unconditional()
        })
    }

    fn upstream(&self) -> Arc<Upstream> {
        let config = crate::upstream::UpstreamConfig { local: Some(self.service.to_owned()), ..Default::default() };
        let upstream = Upstream::compile(&self.route.name, &config, None, &At::ROOT, &mut Diagnostics::default());
        Arc::new(upstream.expect("a local upstream has nothing that could be wrong"))
    }
}

/// `GET /api/health` and `GET /api/metrics`, which every gateway answers on its public listeners unless the file says
/// otherwise; and while developing, `POST /api/cache/clear` (S2S-15).
fn built_in_routes(file: &RoutesFile, mode: Mode) -> Vec<BuiltInRoute> {
    // Probes of the gateway's health have no credentials, whatever `defaults` say.
    let open = AuthConfig { open: true, ..AuthConfig::default() };
    let mut health = BuiltInRoute::new(HEALTH, "GET", "/api/health", "health");
    // Whoever probes it would take the gateway away, and with it what clients are told meanwhile.
    let maintenance = Some(OnMaintenance::Ignore);
    health.route.settings = PolicyConfig { auth: Some(open), maintenance, ..PolicyConfig::default() };
    let mut metrics = BuiltInRoute::new(METRICS, "GET", "/api/metrics", "metrics");
    metrics.route.settings.maintenance = maintenance;
    let routes = [
        (file.built_in.health, health),
        (file.built_in.metrics, metrics),
        (mode == Mode::Dev, BuiltInRoute::new(CACHE_CLEAR, "POST", "/api/cache/clear", "cache_clear")),
    ];
    routes.into_iter().filter(|(wanted, route)| *wanted && !route.is_replaced(file)).map(|(_, route)| route).collect()
}

const HEALTH: &str = "moongate-health";
const METRICS: &str = "moongate-metrics";
const CACHE_CLEAR: &str = "moongate-cache-clear";

type Upstreams = (Vec<Arc<Upstream>>, Vec<Option<ServiceSettings>>);

fn upstreams(
    file: &RoutesFile,
    services: &ServiceRegistry,
    zone: Option<&str>,
    diagnostics: &mut Diagnostics,
) -> Upstreams {
    let at = At::ROOT.key("upstreams");
    let names: Vec<&str> = file.upstreams.keys().map(String::as_str).collect();
    let (mut upstreams, mut all_settings) = (Vec::new(), Vec::new());
    check_dependencies(&file.upstreams, &at, diagnostics);
    for (name, written) in &file.upstreams {
        let at = at.key(name);
        let Some(upstream) = Upstream::compile(name, written, zone, &at, diagnostics) else { continue };
        let Some(settings) = settings_of(&upstream, services, &names, &at, diagnostics) else { continue };
        upstreams.push(Arc::new(upstream));
        all_settings.push(settings);
    }
    (upstreams, all_settings)
}

/// What an upstream says of its local service, if it has one; `None` if something is wrong with it.
fn settings_of(
    upstream: &Upstream,
    services: &ServiceRegistry,
    names: &[&str],
    at: &At<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Option<ServiceSettings>> {
    match &upstream.kind {
        UpstreamKind::Remote => Some(None),
        UpstreamKind::Local(local) => {
            services.compile(local, &ServiceScope { upstreams: names }, at, diagnostics).map(Some)
        }
    }
}

/// Names are unique, and none is that of a route that every gateway has.
fn check_names(file: &RoutesFile, built_in: &[BuiltInRoute], diagnostics: &mut Diagnostics) {
    let (list, upstreams) = (At::ROOT.key("routes"), At::ROOT.key("upstreams"));
    let ours = |name: &str| built_in.iter().any(|it| it.route.name == name);
    let mut seen = BTreeMap::new();
    for (number, route) in file.routes.iter().enumerate() {
        let at = list.index(number);
        let at = at.key("name");
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        if !(1..=100).contains(&route.name.len()) || !route.name.bytes().all(plain) {
            diagnostics.error(&at, "not a name for a route").help("letters, digits, `-`, `_` and `.`, at most 100");
        }
        if ours(&route.name) {
            diagnostics.error(&at, "a route of the gateway's own has this name").help("choose another one");
        }
        if let Some(first) = seen.insert(route.name.as_str(), number) {
            let diagnostic = diagnostics.error(&at, format!("two routes are called `{}`", route.name));
            diagnostic
                .help(format!("the first one is number {} in the list; names appear in metrics and logs", first + 1));
        }
    }
    for name in file.upstreams.keys().filter(|it| ours(it)) {
        let diagnostic =
            diagnostics.error_at_key(&upstreams.key(name), "an upstream of the gateway's own has this name");
        diagnostic.help("choose another one");
    }
}

/// Settings are checked where they stand and once, also those that no route uses. What a route alone can say is
/// checked with it, since it may use what its path captures.
fn check_settings(file: &RoutesFile, nowhere: Scope<'_>, diagnostics: &mut Diagnostics) {
    check(&layer("defaults".to_owned(), &file.defaults, At::ROOT.key("defaults")), &nowhere, diagnostics);
    let policies = At::ROOT.key("policies");
    for (name, policy) in &file.policies {
        check(&layer(format!("policy/{name}"), policy, policies.key(name)), &nowhere, diagnostics);
    }
}

fn layer<'a>(scope: String, settings: &'a PolicyConfig, at: At<'a>) -> Layer<'a> {
    Layer { scope, settings, rewrite: None, at }
}

fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
    if layer.settings.body_limit == Some(ByteSize(0)) {
        diagnostics
            .warn(&layer.at.key("body_limit"), "every request with a body is refused")
            .help("zero is a limit like any other: write the largest body that may come, such as `10M`");
    }
    Chain::check(layer, scope, diagnostics);
    Policy::compile(&[(&layer.settings.timeouts, layer.at.key("timeouts"))], 0, diagnostics);
}

/// What settings may refer to that stands elsewhere.
#[derive(Clone)]
pub struct Known<'a> {
    /// The local services.
    pub services: &'a ServiceRegistry,
    /// The filters that were added to the built-in ones.
    pub filters: &'a Filters,
    /// The names in `tokens.trust` of `gateway.yaml`, if they are known.
    pub issuers: Option<&'a [String]>,
    /// Whether `gateway.yaml` has a key for tokens of the gateway's own, if that is known.
    pub own_key: Option<bool>,
    /// The roles that `gateway.yaml` gives by name, if they are known.
    pub given_roles: Option<Vec<String>>,
    /// The zone that the gateway stands in, empty if it does not know, if `gateway.yaml` is known.
    pub zone: Option<&'a str>,
}

struct Compiler<'a> {
    /// What settings may refer to, before there is a route.
    nowhere: Scope<'a>,
    file: &'a RoutesFile,
    /// The same for people's eyes.
    shown: &'a RoutesFile,
    upstreams: &'a [Arc<Upstream>],
    table: &'a Table,
}

impl Compiler<'_> {
    fn route(&self, number: usize, written: &RouteConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Route {
        let uses = at.key("use");
        for (place, name) in written.r#use.iter().enumerate().filter(|it| !self.file.policies.contains_key(it.1)) {
            let diagnostic = diagnostics.error(&uses.index(place), format!("no policy `{name}`"));
            diagnostic.suggest(name, self.file.policies.keys().map(String::as_str));
            if self.file.policies.is_empty() {
                diagnostic.help(format!("there are no policies: write `{name}` under `policies`"));
            }
        }
        let policies_at = At::ROOT.key("policies");
        let layers = layers(self.file, &written.r#use, written, (&policies_at, at));
        let host_captures = self.table.host_captures(number);
        let scope = Scope {
            host_captures: &host_captures,
            route: &written.name,
            captures: self.table.captures(number),
            methods: &written.r#match.methods,
            websocket: written.r#match.websocket.takes(),
            forwards: written.forwards(),
            watches: [HEALTH, METRICS].contains(&&*written.name),
            ..self.nowhere
        };
        // Those that every gateway has have no place in the file, and no faults.
        check(&layers[layers.len() - 1], &scope, diagnostics);
        let chain = Chain::compile(&layers, &scope, diagnostics);
        let policy = policy(&layers);
        warn_of_times(&layers, &policy, diagnostics);
        let action = self.action((number, policy.request), written, at, diagnostics);
        let mirror = self.mirror(written, &at.key("mirror"), diagnostics);
        check_upgrade(written, &at.key("upgrade"), diagnostics);
        // Those that every gateway has are not in the file.
        let shown = self.shown.routes.get(number).unwrap_or(written);
        let shown_layers = self::layers(self.shown, &written.r#use, shown, (&policies_at, at));
        let description =
            Description { digest: digest(&layers, written), ..describe(shown, &shown_layers, &scope, &policy) };
        let hosts = &written.r#match.hosts;
        Route {
            name: written.name.as_str().into(),
            chain,
            policy,
            action,
            verifies_host: !hosts.is_empty() && !hosts.iter().any(|it| it.contains(['*', '{'])),
            ignores_maintenance: description.maintenance == Some(OnMaintenance::Ignore),
            mirror,
            negotiates: !written.r#match.accept.is_empty(),
            wraps_errors: upstream_errors(&layers) == UpstreamErrors::Wrap,
            takes_parameters: description.path_parameters,
            description,
        }
    }

    fn action(
        &self,
        (number, request): (usize, Duration),
        written: &RouteConfig,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Action {
        let chosen = [
            written.upstream.is_some(),
            written.split.is_some(),
            written.aggregate.is_some(),
            written.redirect.is_some(),
            written.respond.is_some(),
        ];
        if chosen.iter().filter(|it| **it).count() != 1 {
            let name =
                if written.name.is_empty() { "the route".to_owned() } else { format!("route `{}`", written.name) };
            let diagnostic = diagnostics
                .error(at, format!("{name} needs exactly one of upstream, split, aggregate, redirect and respond"));
            diagnostic.help("say where its requests go, or how they are answered");
        }
        if written.split_by.is_some() && written.split.is_none() {
            diagnostics
                .error_at_key(&at.key("split_by"), "there is no `split` that this could decide about")
                .help("list the upstreams that share the requests under `split`, or remove it");
        }
        if let Some(parts) = &written.split {
            let places = (&at.key("split"), &at.key("split_by"));
            let find = |name: &str, at: &At<'_>, diagnostics: &mut Diagnostics| self.upstream(name, at, diagnostics);
            return Action::Split(Split::compile(parts, written.split_by.as_ref(), places, diagnostics, find));
        }
        if let Some(parts) = &written.aggregate {
            check_aggregate(written, at, diagnostics);
            let find = |name: &str, at: &At<'_>, diagnostics: &mut Diagnostics| self.upstream(name, at, diagnostics);
            let of = (&*written.name, self.table.captures(number));
            return Action::Aggregate(Aggregate::compile(of, parts, request, &at.key("aggregate"), diagnostics, find));
        }
        if let Some(redirect) = &written.redirect {
            return Action::Redirect(self.redirect(number, written, redirect, at, diagnostics));
        }
        if let Some(name) = &written.upstream {
            return Action::Upstream(self.upstream(name, &at.key("upstream"), diagnostics));
        }
        let respond = written.respond.clone().unwrap_or_default();
        check_body(&respond, self.table.captures(number), &at.key("respond").key("body"), diagnostics);
        Action::Respond(Respond::compile(&respond, &at.key("respond"), diagnostics))
    }

    fn mirror(&self, written: &RouteConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Mirror> {
        let config = written.mirror.as_ref()?;
        if !written.forwards() {
            diagnostics
                .error(at, "only requests that go to an upstream are copied")
                .help("leave `mirror` out, or name an upstream");
        }
        let originals = RouteConfig { mirror: None, ..written.clone() };
        if originals.upstreams().any(|it| it == config.upstream) {
            diagnostics
                .error(&at.key("upstream"), format!("upstream `{}` has the original already", config.upstream))
                .help("name another upstream: everything would be done twice there");
        }
        let upstream = self.upstream(&config.upstream, &at.key("upstream"), diagnostics);
        Some(Mirror::compile(config, upstream, at, diagnostics))
    }

    fn upstream(&self, name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> usize {
        let found = self.upstreams.iter().position(|it| &*it.name == name);
        // An upstream that did not compile is reported where it stands, not at every route.
        if found.is_none() && !self.file.upstreams.contains_key(name) {
            let diagnostic = diagnostics.error(at, format!("no upstream `{name}`"));
            diagnostic.suggest(name, self.file.upstreams.keys().map(String::as_str));
            if let Some((_, rest)) = name.split_once("://") {
                let address = rest.split('/').next().unwrap_or_default();
                let form = format!("upstreams: {{ app: {{ discovery: {{ static: [\"{address}\"] }} }} }}");
                diagnostic.help(format!("an upstream has a name: write `upstream: app`, and `{form}`"));
            } else if self.file.upstreams.is_empty() {
                diagnostic.help(format!("there are none: write `{name}` under `upstreams`"));
            }
        }
        found.unwrap_or(0)
    }

    fn redirect(
        &self,
        number: usize,
        route: &RouteConfig,
        written: &RedirectConfig,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Redirect {
        let at = at.key("redirect");
        let RedirectConfig::To(written) = written else {
            if route.r#match.scheme != Some(SchemeMatch::Http) {
                let diagnostic = diagnostics.error(&at, "it would send clients in a circle that come by TLS already");
                diagnostic.help("write `scheme: http` in the route's `match`");
            }
            return Redirect { status: StatusCode::PERMANENT_REDIRECT, to: None };
        };
        let RedirectTo { to, status } = written;
        let status = status.unwrap_or(308);
        if ![301, 302, 303, 307, 308].contains(&status) {
            diagnostics.error(&at.key("status"), "not a status that redirects").help("301, 302, 303, 307 or 308");
        }
        let host = self.table.host_captures(number);
        let captures = Captures { path: self.table.captures(number), host: &host, any: false };
        let to = Template::compile_with(to, captures, &at.key("to"), diagnostics);
        Redirect { status: StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT), to: Some(to) }
    }
}

/// Parts are asked with GET, and what is asked of them stands in the parts.
fn check_aggregate(written: &RouteConfig, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let methods = &written.r#match.methods;
    if methods.is_empty() || methods.iter().any(|it| it != "GET" && it != "HEAD") {
        diagnostics
            .error(&at.key("aggregate"), "several upstreams can answer GET together, and nothing else")
            .help("write `methods: [GET]` in the route's `match`");
    }
    if written.rewrite.as_ref().is_some_and(|it| it.path.is_some()) {
        diagnostics
            .error(&at.key("rewrite").key("path"), "the parts have paths of their own")
            .help("leave it out; captures of the match can stand in the `path` of each part");
    }
}

/// Reports a body in which something was meant to be filled in. Braces and dollar signs alone are just text.
fn check_body(respond: &RespondConfig, captures: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) {
    let body = respond.body.as_deref().unwrap_or_default();
    let capture = captures.iter().map(|it| format!("{{{it}}}")).find(|it| body.contains(it.as_str()));
    if let Some(theirs) = capture.or_else(|| known_variable(body).map(str::to_owned)) {
        let diagnostic = diagnostics.error(at, format!("nothing fills in `{theirs}`"));
        diagnostic.help("a body is sent as it is written; an upstream can answer with what the path says");
    }
}

/// The settings that count for a route, which uses these policies.
fn layers<'a>(
    file: &'a RoutesFile,
    uses: &'a [String],
    written: &'a RouteConfig,
    (policies, at): (&'a At<'a>, &At<'a>),
) -> Vec<Layer<'a>> {
    let mut layers = vec![layer("defaults".to_owned(), &file.defaults, At::ROOT.key("defaults"))];
    let used = uses.iter().filter_map(|it| file.policies.get_key_value(it));
    layers.extend(used.map(|(name, policy)| layer(format!("policy/{name}"), policy, policies.key(name))));
    let own = layer(format!("route/{}", written.name), &written.settings, *at);
    layers.push(Layer { rewrite: written.rewrite.as_ref(), ..own });
    layers
}

/// Of everything that a route says and takes over, secrets included.
fn digest(layers: &[Layer<'_>], written: &RouteConfig) -> u64 {
    let mut hasher = DefaultHasher::new();
    json(written).to_string().hash(&mut hasher);
    layers.iter().for_each(|it| json(it.settings).to_string().hash(&mut hasher));
    hasher.finish()
}

impl Respond {
    fn compile(written: &RespondConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let status = written.status.unwrap_or(200);
        let status = StatusCode::from_u16(status).ok().filter(|it| (200..600).contains(&it.as_u16()));
        if status.is_none() {
            diagnostics.error(&at.key("status"), "not a final status").help("200 to 599");
        }
        // RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
        if [204, 205, 304].contains(&written.status.unwrap_or(200)) && written.body.is_some() {
            let diagnostic = diagnostics.error(&at.key("body"), "an answer of this status has no body");
            diagnostic.help("leave the body out, or choose another status");
        }
        let media = written.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
        let content_type = HeaderValue::from_str(media);
        if content_type.is_err() {
            diagnostics.error(&at.key("content_type"), "not a media type").help("write it as application/json");
        }
        Self {
            status: status.unwrap_or_default(),
            content_type: content_type.unwrap_or(HeaderValue::from_static("text/plain")),
            body: bytes::Bytes::from(written.body.clone().unwrap_or_default()),
        }
    }
}

/// HTTP in another version is no protocol for a tunnel: what is requested in it would pass every filter.
fn check_upgrade(written: &RouteConfig, at: &At<'_>, diagnostics: &mut Diagnostics) {
    for (number, protocol) in written.upgrade.iter().enumerate() {
        let at = at.index(number);
        let (name, version) = protocol.split_once('/').unwrap_or((protocol, "1"));
        let plain =
            |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.+".contains(&it));
        match name.to_ascii_lowercase().as_str() {
            "websocket" => diagnostics
                .error(&at, "WebSocket is no further protocol")
                .help("write `websocket: true` in the route's `match`"),
            "h2c" | "h2" | "http" | "tls" => diagnostics
                .error(&at, format!("`{protocol}` never passes: what is requested in it would pass every filter"))
                .help("leave it out; HTTP/2 needs no upgrade here"),
            _ if !plain(name) || !plain(version) => diagnostics
                .error(&at, "not the name of a protocol")
                .help("write it as clients do in `Upgrade`, such as `tcp`"),
            _ => continue,
        };
    }
    let alone = written.upstream.is_some() || written.split.is_some();
    if !written.upgrade.is_empty() && !alone {
        diagnostics.error(at, "only an upstream can change protocols").help("leave `upgrade` out, or name an upstream");
    }
}

fn upstream_errors(layers: &[Layer<'_>]) -> UpstreamErrors {
    layers.iter().rev().find_map(|it| it.settings.upstream_errors).unwrap_or_default()
}

fn policy(layers: &[Layer<'_>]) -> Policy {
    let places: Vec<At<'_>> = layers.iter().map(|it| it.at).collect();
    let timeouts: Vec<(&TimeoutsConfig, At<'_>)> =
        layers.iter().zip(&places).map(|(layer, at)| (&layer.settings.timeouts, at.key("timeouts"))).collect();
    let body_limit = layers.iter().rev().find_map(|it| it.settings.body_limit).map_or(Policy::BODY_LIMIT, |it| it.0);
    let priority = layers.iter().rev().find_map(|it| it.settings.priority).unwrap_or_default();
    // Each was checked where it stands.
    let response_limit = layers.iter().rev().find_map(|it| it.settings.response_limit).map(|it| it.0);
    Policy { priority, response_limit, ..Policy::compile(&timeouts, body_limit, &mut Diagnostics::default()) }
}

/// The answer's head can't be waited for longer than for the whole exchange.
fn warn_of_times(layers: &[Layer<'_>], policy: &Policy, diagnostics: &mut Diagnostics) {
    let writes = |it: &&Layer<'_>| it.settings.timeouts.first_byte.is_some();
    let Some(layer) = layers.iter().rfind(writes).filter(|_| policy.first_byte > policy.request) else { return };
    let message = format!("after {}, which `request` allows in all, nobody waits any more", Period(policy.request));
    diagnostics
        .warn(&layer.at.key("timeouts").key("first_byte"), message)
        .help(format!("write `request: {}` beside it, or a longer one", Period(policy.first_byte)));
}

fn describe(written: &RouteConfig, layers: &[Layer<'_>], scope: &Scope<'_>, policy: &Policy) -> Description {
    Description {
        name: written.name.clone(),
        r#match: written.r#match.shown(),
        r#use: written.r#use.clone(),
        action: describe_action(written),
        mirror: written.mirror.clone(),
        upgrade: written.upgrade.clone(),
        path_parameters: layers.iter().rev().find_map(|it| it.settings.path_parameters).unwrap_or_default(),
        maintenance: layers.iter().rev().find_map(|it| it.settings.maintenance),
        priority: layers.iter().rev().find_map(|it| it.settings.priority),
        steps: Chain::describe(layers, scope),
        timeouts: BTreeMap::from([
            ("connect", Period(policy.connect)),
            ("first_byte", Period(policy.first_byte)),
            ("request", Period(policy.request)),
            ("idle", Period(if written.r#match.websocket.only() { policy.websocket_idle } else { policy.idle })),
        ]),
        body_limit: ByteSize(policy.body_limit),
        response_limit: policy.response_limit.map(ByteSize),
        upstream_errors: Some(upstream_errors(layers)).filter(|it| *it != UpstreamErrors::Pass),
        digest: 0,
    }
}

fn describe_action(written: &RouteConfig) -> Value {
    let RouteConfig { upstream, split, aggregate, redirect, respond, .. } = written;
    if let Some(upstream) = upstream {
        return serde_json::json!({ "upstream": upstream });
    }
    if let Some(split) = split {
        let share = |(it, share): (&SplitPartConfig, (Arc<str>, f64))| serde_json::json!({ "upstream": it.upstream, "weight": it.weight, "percent": share.1 });
        let parts: Vec<Value> = split.iter().zip(shares(split)).map(share).collect();
        return serde_json::json!({ "split": parts, "split_by": json(&written.split_by) });
    }
    if let Some(parts) = aggregate {
        return serde_json::json!({ "aggregate": json(parts) });
    }
    match redirect {
        Some(redirect) => serde_json::json!({ "redirect": json(redirect) }),
        None => serde_json::json!({ "respond": json(respond) }),
    }
}

fn json(settings: &impl Serialize) -> Value {
    serde_json::to_value(settings).unwrap_or(Value::Null)
}
