//! `gateway.yaml` as an operator writes it: the process itself, read once at start.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period, networks};
use crate::cache::{CacheRoomConfig, Room};
use crate::guard::{GuardConfig, GuardRules};
use crate::identity::{Tokens, TokensConfig};
use crate::listener::{Listener, ListenerConfig};
use crate::secrets::SecretsConfig;
use crate::services::auth::{AuthConfig, Rules as AuthRules};
use crate::state::{Backend, StateConfig};
use crate::store::{Place, StoreConfig};
use crate::telemetry::LogConfig;
use crate::upstream::{ResolverConfig, ResolverRules};

/// The process itself. Every value can come from the environment as `${NAME}` or
/// `${NAME:-default}`; secrets should.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "gateway.yaml")]
pub struct GatewayFile {
    /// Where clients and operators come in.
    pub listeners: ListenersConfig,
    /// Networks of proxies in front of us, such as `10.0.0.0/8`: their `X-Forwarded-For` and
    /// `X-Request-Id` count.
    pub trusted_proxies: Vec<String>,
    /// Worker threads: `auto` for one a core, or a number.
    pub threads: Threads,
    /// Blocks addresses that flood. Without it nobody is watched; operators can block all the same.
    pub guard: GuardConfig,
    /// Where short-lived values are kept, such as the counters of rate limits.
    pub state: StateConfig,
    /// Where records that last are kept. Default: SQLite in `data/moongate.db`, if something needs it.
    pub store: Option<StoreConfig>,
    /// Where the key comes from that seals the secrets in the store. Default: the variable `SECRET_KEY`.
    /// Wherever a secret is written, `secret:NAME` stands for the one that is kept under this name.
    pub secrets: SecretsConfig,
    /// How names are looked up where an endpoint has one.
    pub resolver: ResolverConfig,
    /// Instances of services that register themselves.
    pub registry: RegistryConfig,
    /// Our own tokens: who they are from, and the keys that sign and check them.
    pub tokens: TokensConfig,
    /// How the local service `auth` lets people in.
    pub auth: AuthConfig,
    /// The room for cached responses.
    pub cache: CacheRoomConfig,
    /// `production`, or `dev` for what is of use while developing, and nowhere else:
    /// `POST /api/cache/clear`. Default: `MOONGATE_MODE` from the environment, or `production`.
    pub mode: Option<Mode>,
    /// Whether mocks are on, for those who try out their clients: a request whose body contains
    /// `TRIGGER_RATE_LIMIT` gets 429. Default: whether `MOONGATE_MOCKS` is `true` in the environment.
    pub mocks: Option<bool>,
    /// Logs.
    pub telemetry: TelemetryConfig,
    /// How the process stops.
    pub shutdown: ShutdownConfig,
}

/// Instances of services that register themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Whether services need no token to register, if the admin listener is on loopback. Default: they need one with
    /// the permission `registry.write`.
    pub open: bool,
}

/// What a gateway is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Traffic.
    #[default]
    Production,
    /// Developing.
    Dev,
}

impl Mode {
    /// `MOONGATE_MODE` from the environment; what is no mode is `production`.
    pub fn of_environment() -> Self {
        if std::env::var("MOONGATE_MODE").is_ok_and(|it| it == "dev") { Self::Dev } else { Self::Production }
    }
}

/// Where clients and operators come in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenersConfig {
    /// For clients. Default: `0.0.0.0:8080`.
    pub public: Vec<ListenerConfig>,
    /// For operators: metrics, probes, admin API.
    pub admin: AdminConfig,
}

impl Default for ListenersConfig {
    fn default() -> Self {
        Self { public: vec![ListenerConfig::plain("0.0.0.0:8080")], admin: AdminConfig::default() }
    }
}

/// The listener for operators.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port. Away from loopback, `tokens.hs256_secret` or `tokens.signing_key` is needed, and every call
    /// but the probes' requires a token with the role `admin` or `operator`.
    pub address: String,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:9090".to_owned() }
    }
}

/// Worker threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Threads {
    /// So many.
    Number(NonZeroUsize),
    /// One a core.
    #[default]
    #[serde(with = "auto")]
    #[schemars(with = "Auto")]
    Auto,
}

/// The word `auto`.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Auto {
    /// One a core.
    Auto,
}

mod auto {
    use super::Auto;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        Auto::Auto.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        Auto::deserialize(deserializer).map(|Auto::Auto| ())
    }
}

/// Logs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The log on standard output.
    pub log: LogConfig,
}

/// How the process stops.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long new connections are still taken after SIGTERM, while the readiness probe already
    /// says no, so that load balancers notice. Default 2s.
    pub delay: Period,
    /// How long requests under way may go on after that. Default 30s.
    pub grace: Period,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { delay: Period::secs(2), grace: Period::secs(30) }
    }
}

/// Compiled: the process.
#[derive(Debug)]
pub struct Process {
    /// The listeners for clients.
    pub public: Vec<Listener>,
    /// The address for operators.
    pub admin: SocketAddr,
    /// Whose claims about clients count.
    pub trusted_proxies: TrustedProxies,
    /// Worker threads.
    pub threads: usize,
    /// What is watched for floods.
    pub guard: GuardRules,
    /// Where short-lived values are kept.
    pub state: Backend,
    /// The room for cached responses.
    pub cache: Room,
    /// What it is for.
    pub mode: Mode,
    /// Whether mocks are on.
    pub mocks: bool,
    /// Our own tokens; a reload may bring others.
    pub tokens: Tokens,
    /// How the local service `auth` lets people in.
    pub auth: AuthRules,
    /// Where records that last are kept.
    pub store: Place,
    /// How names are looked up.
    pub resolver: ResolverRules,
    /// As written, for what needs no compilation and to see what a reload would change.
    pub written: GatewayFile,
}

/// Networks whose claims about the clients behind them count.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Whether this address is one of theirs.
    pub fn hold(&self, address: IpAddr) -> bool {
        self.0.iter().any(|it| it.contains(&address))
    }

    /// The networks.
    pub fn networks(&self) -> &[IpNet] {
        &self.0
    }
}

impl Process {
    /// Reports every fault; what could not be compiled is left out.
    pub fn compile(file: &GatewayFile, diagnostics: &mut Diagnostics) -> Self {
        let listeners = At::ROOT.key("listeners");
        let list = listeners.key("public");
        if file.listeners.public.is_empty() {
            diagnostics
                .error(&list, "no listener for clients")
                .help("write at least one, such as { address: \"0.0.0.0:8080\" }");
        }
        let several = file.listeners.public.len() > 1;
        let compile = |(number, written): (usize, &ListenerConfig)| {
            let name = if several && number > 0 { format!("public-{}", number + 1) } else { "public".to_owned() };
            written.compile(&name, &list.index(number), diagnostics)
        };
        let public = file.listeners.public.iter().enumerate().filter_map(compile).collect();
        let process = Self {
            public,
            admin: admin(file, &listeners.key("admin"), diagnostics),
            trusted_proxies: TrustedProxies(networks(
                &file.trusted_proxies,
                &At::ROOT.key("trusted_proxies"),
                diagnostics,
            )),
            threads: threads(file.threads),
            guard: GuardRules::compile(&file.guard, &At::ROOT.key("guard"), diagnostics),
            state: Backend::compile(&file.state, &At::ROOT.key("state"), diagnostics),
            cache: file.cache.compile(&At::ROOT.key("cache"), diagnostics),
            mode: file.mode.unwrap_or_else(Mode::of_environment),
            mocks: file.mocks.unwrap_or_else(|| std::env::var("MOONGATE_MOCKS").is_ok_and(|it| it == "true")),
            tokens: file.tokens.compile(&At::ROOT.key("tokens"), diagnostics),
            auth: file.auth.compile(&At::ROOT.key("auth"), diagnostics),
            store: Place::compile(file.store.as_ref(), &At::ROOT.key("store"), diagnostics),
            resolver: ResolverRules::compile(&file.resolver, &At::ROOT.key("resolver"), diagnostics),
            written: file.clone(),
        };
        check_admin(&process, diagnostics);
        process
    }

    /// The files that TLS listeners read.
    pub fn certificate_files(&self) -> Vec<std::path::PathBuf> {
        let tls = self.public.iter().filter_map(|it| it.tls.as_ref());
        tls.flat_map(|it| it.files()).collect()
    }

    /// What of `new` can't take effect while the process runs.
    pub fn refuse_changes(&self, new: &GatewayFile, diagnostics: &mut Diagnostics) {
        let old = &self.written;
        let mut differs = |same: bool, at: &At<'_>, what: &str| {
            if !same {
                diagnostics
                    .error(at, format!("{what} can't change while the process runs"))
                    .help("restart the gateway");
            }
        };
        let listeners = At::ROOT.key("listeners");
        let list = listeners.key("public");
        let count = old.listeners.public.len();
        differs(count == new.listeners.public.len(), &list, "the number of listeners");
        for (number, (old, new)) in old.listeners.public.iter().zip(&new.listeners.public).enumerate() {
            let at = list.index(number);
            differs(old.address == new.address, &at.key("address"), "a listener's address");
            differs(old.address != new.address || old == new, &at, "a listener's settings");
        }
        let admin = listeners.key("admin");
        differs(old.listeners.admin == new.listeners.admin, &admin.key("address"), "the admin listener's address");
        differs(old.trusted_proxies == new.trusted_proxies, &At::ROOT.key("trusted_proxies"), "trusted proxies");
        differs(old.threads == new.threads, &At::ROOT.key("threads"), "the number of threads");
        differs(old.guard == new.guard, &At::ROOT.key("guard"), "the guard");
        differs(old.state == new.state, &At::ROOT.key("state"), "the place of the state");
        differs(old.auth == new.auth, &At::ROOT.key("auth"), "how people are let in");
        differs(old.secrets == new.secrets, &At::ROOT.key("secrets"), "the key to the secrets");
        differs(old.store == new.store, &At::ROOT.key("store"), "the store");
        differs(old.resolver == new.resolver, &At::ROOT.key("resolver"), "the resolver");
        differs(old.registry == new.registry, &At::ROOT.key("registry"), "who may register");
        differs(old.cache == new.cache, &At::ROOT.key("cache"), "the cache's room");
        differs(old.mode == new.mode, &At::ROOT.key("mode"), "the mode");
        differs(old.mocks == new.mocks, &At::ROOT.key("mocks"), "mocks");
        differs(old.telemetry == new.telemetry, &At::ROOT.key("telemetry"), "the log");
        differs(old.shutdown == new.shutdown, &At::ROOT.key("shutdown"), "the stop's times");
    }
}

fn admin(file: &GatewayFile, at: &At<'_>, diagnostics: &mut Diagnostics) -> SocketAddr {
    let written = &file.listeners.admin.address;
    written.parse().unwrap_or_else(|_| {
        let diagnostic = diagnostics.error(&at.key("address"), "not an address and port");
        diagnostic.help("write it as 127.0.0.1:9090 or [::1]:9090");
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn threads(written: Threads) -> usize {
    match written {
        Threads::Number(number) => number.get(),
        Threads::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

fn check_admin(process: &Process, diagnostics: &mut Diagnostics) {
    if process.written.registry.open && !process.admin.ip().is_loopback() {
        diagnostics
            .error(&At::ROOT.key("registry").key("open"), "the registry can be open on loopback alone")
            .help("let the admin listener be on 127.0.0.1, or remove this: services register with a token that has the permission registry.write");
    }
    if !process.admin.ip().is_loopback() && !process.tokens.can_sign() {
        let at = At::ROOT.key("listeners");
        let message = "an admin listener away from loopback needs tokens.hs256_secret or tokens.signing_key";
        let diagnostic = diagnostics.error(&at.key("admin"), message);
        diagnostic.help("listen on 127.0.0.1, or set tokens.hs256_secret to \"${PROXY_JWT_SECRET}\"");
    }
}
