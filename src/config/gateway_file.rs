//! `gateway.yaml` as an operator writes it: the process itself, read once at start.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alerts::AlertsConfig;
use crate::base::{At, Diagnostics, Period};
use crate::cache::{CacheRoomConfig, Room};
use crate::config::trusted::{TrustedFields, TrustedFieldsConfig, TrustedProxies};
use crate::guard::{GuardConfig, GuardRules};
use crate::http::authority_is_plain;
use crate::identity::{Roles, Tokens, TokensConfig};
use crate::listener::{Listener, ListenerConfig};
use crate::secrets::SecretsConfig;
use crate::services::auth::{AuthConfig, Rules as AuthRules};
use crate::state::{Backend, StateConfig};
use crate::store::{Place, StoreConfig};
use crate::telemetry::LogConfig;
use crate::upstream::{ResolverConfig, ResolverRules};

/// The process itself. Every scalar can come from the environment as `${NAME}` or
/// `${NAME:-default}`; secrets should.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "gateway.yaml")]
pub struct GatewayFile {
    /// Where clients and operators come in.
    pub listeners: ListenersConfig,
    /// Networks of proxies in front of us, such as `10.0.0.0/8`: their `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`
    /// and `-Prefix`, their `Forwarded` and their `X-Request-Id` count.
    pub trusted_proxies: Vec<String>,
    /// Header fields that only trusted proxies may send.
    pub trusted_fields: TrustedFieldsConfig,
    /// The address that clients reach the gateway under, such as `https://api.example.org`: what the gateway's own
    /// answers name where they have to name it whole. Default: `tokens.issuer`, if that is one.
    pub public_url: Option<String>,
    /// The zone that the gateway stands in, such as `eu-a`: upstreams with `zones: { prefer: same }` prefer endpoints in it.
    /// Default: `MOONGATE_ZONE` from the environment, or none.
    #[schemars(extend("examples" = ["eu-a"]))]
    pub zone: Option<String>,
    /// Worker threads: `auto` for one a core, or a number.
    pub threads: Threads,
    /// Blocks addresses that flood. Without it nobody is watched; operators can block all the same.
    pub guard: GuardConfig,
    /// Who is told of what happens to upstreams, beside the log.
    pub alerts: AlertsConfig,
    /// Where short-lived values are kept, such as the counters of rate limits.
    pub state: StateConfig,
    /// Where records that last are kept. Default: SQLite in `data/moongate.db`, if something needs it.
    pub store: Option<StoreConfig>,
    /// Where the key comes from that seals the secrets in the store. Default: the variable `SECRET_KEY`.
    /// Wherever a value may be a credential, `secret:NAME` stands for the one that is kept under this name.
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
    /// but the probes' requires a token or an API key of this gateway, without a tenant: with the role `admin` or
    /// `operator`, or with a role that permits the page (`metrics.read`, `admin.read`, `admin.write`).
    #[schemars(extend("examples" = ["127.0.0.1:9090"]))]
    pub address: String,
    /// The names under which it is called, beside `localhost` and addresses. A request for another name is refused,
    /// since a page of another site could have sent it (DNS rebinding).
    pub hosts: Vec<String>,
    /// Connections open at once. They are apart from those of the public listeners.
    pub connections: u32,
    /// Connections open at once from one address (IPv6: from one /64); 0 is no limit. At a limit, the connection that
    /// has been idle longest makes room for a new one, so that probes get in.
    pub per_address: u32,
    /// From a new connection, or the first byte of a later request, to its whole header.
    pub header_timeout: Period,
    /// How long a connection may stay without a request after its first. One that was refused is closed at once.
    pub keep_alive: Period,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:9090".to_owned(),
            hosts: Vec::new(),
            connections: 256,
            per_address: 64,
            header_timeout: Period::secs(10),
            keep_alive: Period::secs(20),
        }
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
    /// The listener for operators.
    pub admin: Listener,
    /// Whose claims about clients count.
    pub trusted_proxies: TrustedProxies,
    /// Which header fields are claims.
    pub trusted_fields: TrustedFields,
    /// The address that clients reach the gateway under, without a slash at its end.
    pub public_url: Option<String>,
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
    /// The zone that it stands in; empty if it does not know.
    pub zone: String,
    /// As written, for what needs no compilation and to see what a reload would change.
    pub written: GatewayFile,
}

impl GatewayFile {
    /// The roles that it gives by name.
    pub fn given_roles(&self) -> Vec<String> {
        [self.tokens.given_roles(), self.auth.given_roles()].concat()
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
            written.compile(&name, number, &list.index(number), diagnostics)
        };
        let public = file.listeners.public.iter().enumerate().filter_map(compile).collect();
        let process = Self {
            public,
            admin: admin(file, &listeners.key("admin"), diagnostics),
            trusted_proxies: TrustedProxies::compile(
                &file.trusted_proxies,
                &At::ROOT.key("trusted_proxies"),
                diagnostics,
            ),
            trusted_fields: TrustedFields::compile(&file.trusted_fields, &At::ROOT.key("trusted_fields"), diagnostics),
            public_url: public_url(file, &At::ROOT.key("public_url"), diagnostics),
            threads: threads(file.threads, diagnostics),
            guard: GuardRules::compile(&file.guard, &At::ROOT.key("guard"), diagnostics),
            state: Backend::compile(&file.state, &At::ROOT.key("state"), diagnostics),
            cache: file.cache.compile(&At::ROOT.key("cache"), diagnostics),
            mode: file.mode.unwrap_or_else(Mode::of_environment),
            mocks: file.mocks.unwrap_or_else(|| std::env::var("MOONGATE_MOCKS").is_ok_and(|it| it == "true")),
            tokens: file.tokens.compile(&At::ROOT.key("tokens"), diagnostics),
            auth: file.auth.compile(&At::ROOT.key("auth"), diagnostics),
            store: Place::compile(file.store.as_ref(), &At::ROOT.key("store"), diagnostics),
            resolver: ResolverRules::compile(&file.resolver, &At::ROOT.key("resolver"), diagnostics),
            zone: file.zone.clone().or_else(|| std::env::var("MOONGATE_ZONE").ok()).unwrap_or_default(),
            written: file.clone(),
        };
        file.alerts.check(&At::ROOT.key("alerts"), diagnostics);
        check_admin(&process, diagnostics);
        check_addresses(&process, diagnostics);
        process
    }

    /// Looks for what a start needs of the machine, as a start does: certificates that can be used, addresses that are
    /// the machine's, a folder for the store. Not for a reload, which keeps what it has.
    pub fn check_machine(&self, diagnostics: &mut Diagnostics) {
        let listeners = At::ROOT.key("listeners");
        let list = listeners.key("public");
        for listener in &self.public {
            check_local(listener.address, &list.index(listener.number), diagnostics);
        }
        check_local(self.admin.address, &listeners.key("admin"), diagnostics);
        if let (Place::Sqlite(path), Some(_)) = (&self.store, &self.written.store)
            && let Some(above) = path.ancestors().skip(1).find(|it| it.exists())
            && !above.is_dir()
        {
            let message = format!("`{}` is no folder, so there can be no file in it", above.display());
            diagnostics.error(&At::ROOT.key("store").key("sqlite").key("path"), message).help("name another file");
        }
        for listener in &self.public {
            if let Some(tls) = &listener.tls {
                tls.check(&list.index(listener.number).key("tls"), diagnostics);
            }
        }
    }

    /// Reports roles that are given and that `roles` in routes.yaml has in another spelling.
    pub fn check_roles(&self, roles: &Roles, diagnostics: &mut Diagnostics) {
        let mut check = |list: &[String], at: &At<'_>| {
            for (number, role) in list.iter().enumerate() {
                if let Some(near) = roles.misspelt(role) {
                    let diagnostic = diagnostics.error(&at.index(number), format!("no role `{role}`"));
                    diagnostic.help(format!("did you mean `{near}`? else list it under `roles` in routes.yaml"));
                }
            }
        };
        let (tokens, auth) = (At::ROOT.key("tokens"), At::ROOT.key("auth"));
        let (trust, session, providers) = (tokens.key("trust"), auth.key("session_token"), auth.key("oidc"));
        for (number, issuer) in self.written.tokens.trust.iter().enumerate() {
            check(issuer.roles.as_deref().unwrap_or_default(), &trust.index(number).key("roles"));
        }
        check(&self.written.auth.session_token.roles, &session.key("roles"));
        for (name, provider) in &self.written.auth.oidc {
            let at = providers.key(name);
            check(provider.roles.as_deref().unwrap_or_default(), &at.key("roles"));
            check(&provider.default_roles, &at.key("default_roles"));
        }
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
        differs(old.trusted_fields == new.trusted_fields, &At::ROOT.key("trusted_fields"), "trusted fields");
        differs(old.public_url == new.public_url, &At::ROOT.key("public_url"), "the public address");
        differs(old.zone == new.zone, &At::ROOT.key("zone"), "the gateway's zone");
        differs(old.threads == new.threads, &At::ROOT.key("threads"), "the number of threads");
        differs(old.guard == new.guard, &At::ROOT.key("guard"), "the guard");
        differs(old.alerts == new.alerts, &At::ROOT.key("alerts"), "who is told");
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

fn admin(file: &GatewayFile, at: &At<'_>, diagnostics: &mut Diagnostics) -> Listener {
    let written = &file.listeners.admin;
    let address = written.address.parse().unwrap_or_else(|_| {
        let diagnostic = diagnostics.error(&at.key("address"), "not an address and port");
        diagnostic.help("write it as 127.0.0.1:9090 or [::1]:9090");
        SocketAddr::from(([127, 0, 0, 1], 0))
    });
    for (number, host) in written.hosts.iter().enumerate() {
        if rustls::pki_types::DnsName::try_from(host.as_str()).is_err() {
            let diagnostic = diagnostics.error(&at.key("hosts").index(number), "not a host name");
            diagnostic.help("write it as admin.example.com, without a port");
        }
    }
    if written.connections == 0 {
        diagnostics.error(&at.key("connections"), "zero lets nobody in");
    }
    for (key, period) in [("header_timeout", written.header_timeout), ("keep_alive", written.keep_alive)] {
        if period.0.is_zero() {
            diagnostics.error(&at.key(key), "zero leaves no time").help("write a long period instead");
        }
    }
    let mut listener = Listener::plain("admin", address);
    listener.limits.connections = written.connections as usize;
    listener.limits.header_timeout = written.header_timeout.0;
    listener.limits.keep_alive = written.keep_alive.0;
    listener.limits.per_address = (written.per_address > 0).then_some(written.per_address);
    listener.limits.idle_make_room = true;
    listener
}

fn public_url(file: &GatewayFile, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<String> {
    let written = file.public_url.as_ref()?;
    let uri: Option<Uri> = written.parse().ok();
    let sound = uri.is_some_and(|it| {
        let scheme = it.scheme_str().is_some_and(|it| it == "https" || it == "http");
        scheme && it.query().is_none() && it.authority().is_some_and(|it| authority_is_plain(it.as_str().as_bytes()))
    });
    if !sound || written.contains('#') {
        diagnostics.error(at, "not the address of a site").help("write it as https://api.example.org");
        return None;
    }
    Some(written.trim_end_matches('/').to_owned())
}

/// More worker threads than that are of no use on any machine, and each costs memory and descriptors.
const THREADS_MAX: usize = 1024;

fn threads(written: Threads, diagnostics: &mut Diagnostics) -> usize {
    match written {
        Threads::Number(number) if number.get() > THREADS_MAX => {
            let message = format!("more than {THREADS_MAX} worker threads");
            diagnostics.error(&At::ROOT.key("threads"), message).help("write `auto` for one a core");
            1
        }
        Threads::Number(number) => number.get(),
        Threads::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

fn check_admin(process: &Process, diagnostics: &mut Diagnostics) {
    // Where it can't be told who calls, that is a fault, below.
    if !process.admin.address.ip().is_loopback() && process.tokens.can_sign() {
        let at = At::ROOT.key("listeners");
        let at = at.key("admin");
        diagnostics
            .warn(
                &at.key("address"),
                "credentials of operators cross the network as plain text: this listener has no TLS",
            )
            .help("listen on 127.0.0.1, or on a network that nobody else is in, behind something that speaks TLS");
    }
    if process.written.registry.open && !process.admin.address.ip().is_loopback() {
        diagnostics
            .error(&At::ROOT.key("registry").key("open"), "the registry can be open on loopback alone")
            .help("let the admin listener be on 127.0.0.1, or remove this: services register with a token that has the permission registry.write");
    }
    if !process.admin.address.ip().is_loopback() && !process.tokens.can_sign() {
        let at = At::ROOT.key("listeners");
        let message = "an admin listener away from loopback needs tokens.hs256_secret or tokens.signing_key";
        let diagnostic = diagnostics.error(&at.key("admin"), message);
        diagnostic.help("listen on 127.0.0.1, or set tokens.hs256_secret to \"${PROXY_JWT_SECRET}\"");
    }
}

/// An address that no interface of this machine has can't be listened on. A socket of UDP takes it from nobody who
/// listens there.
fn check_local(address: SocketAddr, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let bound = std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0));
    if bound.is_err_and(|it| it.kind() == std::io::ErrorKind::AddrNotAvailable) {
        let message = format!("no interface of this machine has the address {}", address.ip());
        diagnostics.error(&at.key("address"), message).help("write 0.0.0.0 or [::] for every interface");
    }
}

/// One address can be listened on once. That of no interface in particular is that of each.
fn check_addresses(process: &Process, diagnostics: &mut Diagnostics) {
    let listeners = At::ROOT.key("listeners");
    let (list, admin) = (listeners.key("public"), listeners.key("admin"));
    // What was not written has no line: then the other one is told.
    let admin_first = process.written.listeners.admin == AdminConfig::default();
    let mut taken: Vec<SocketAddr> = if admin_first { vec![process.admin.address] } else { Vec::new() };
    let mut take = |address: SocketAddr, at: &At<'_>| match taken.iter().find(|it| collide(**it, address)) {
        Some(first) => {
            let diagnostic = diagnostics.error(&at.key("address"), format!("{first} is listened on already"));
            diagnostic.help("give each listener, the one for operators too, a port of its own");
        }
        None => taken.push(address),
    };
    for listener in &process.public {
        take(listener.address, &list.index(listener.number));
    }
    if !admin_first {
        take(process.admin.address, &admin);
    }
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (left, right) = (one.ip().to_canonical(), other.ip().to_canonical());
    // `[::]` takes IPv4, too.
    let all = |it: IpAddr, with: IpAddr| it.is_unspecified() && (it.is_ipv6() || with.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (left == right || all(left, right) || all(right, left))
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_collide_where_the_system_says_so() {
        let collide = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(super::collide(one, other), super::collide(other, one));
            super::collide(one, other)
        };
        for (one, other) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("[::]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
        ] {
            assert!(collide(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("0.0.0.0:80", "[::1]:80"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert!(!collide(one, other), "{one} {other}");
        }
    }
}
