//! The active configuration: a snapshot, joined with the runtime state under its names, and the way
//! to replace it while requests are under way.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use crate::base::{At, Diagnostics};
use crate::config::gateway_file::{GatewayFile, Mode, Process};
use crate::config::routes_file::{RoutesFile, routes_schema};
use crate::config::secret_values::SecretValues;
use crate::config::snapshot::{Action, Known, Route, Snapshot};
use crate::filters::rate_limit::Limits;
use crate::filters::{Activation, BodyRules};
use crate::forward::{Destination, Destinations, MirrorRuntime};
use crate::identity::{Identity, Roles, Tokens};
use crate::listener::{Certificates, TlsError, report_kept};
use crate::pipeline::Filters;
use crate::services::{ServiceRegistry, ServiceSettings};
use crate::telemetry::{GENERATIONS_ALIVE, RouteMetrics, Timestamp, last_reload_failed, last_reload_succeeded};
use crate::upstream::{Live, Upstream, UpstreamKind, UpstreamRegistry};
use crate::yaml::{Document, Faults, MARK, schema_of};

/// A snapshot that serves. A request takes its `Arc` once and keeps it to its end.
pub struct ActiveConfig {
    /// The compiled configuration.
    pub snapshot: Snapshot,
    /// The runtime of each route, by its number.
    pub routes: Vec<RouteRuntime>,
    /// What local services can call: every upstream, by its name.
    pub upstreams: Arc<Destinations>,
    /// 1 for the configuration that the process began with, then one more with each reload.
    pub generation: u64,
    /// Of the text of `routes.yaml` with its variables filled in; equal on gateways that serve the same.
    pub hash: String,
    /// When it was loaded.
    pub loaded_at: Timestamp,
}

impl Drop for ActiveConfig {
    fn drop(&mut self) {
        GENERATIONS_ALIVE.dec();
    }
}

/// The runtime of a route.
pub struct RouteRuntime {
    /// Where its requests go: one, or the parts of a split in its order; none if they are answered at once.
    pub destinations: Vec<Destination>,
    /// What copies its requests.
    pub mirror: Option<Arc<MirrorRuntime>>,
    /// Its series.
    pub metrics: Arc<RouteMetrics>,
}

/// The runtime: what stays when a snapshot is replaced.
pub struct Runtime {
    /// All upstreams.
    pub upstreams: Arc<UpstreamRegistry>,
    /// All rate limits.
    pub limits: Arc<Limits>,
    /// Those of the TLS listeners.
    pub certificates: Vec<Arc<Certificates>>,
    /// Who is who.
    pub identity: Arc<Identity>,
    /// The filters that were added to the built-in ones.
    pub filters: Filters,
}

/// What a reload did.
#[derive(Debug, Default, Serialize)]
pub struct Changes {
    /// The generation that serves now.
    pub generation: u64,
    /// Routes that are new.
    pub added: Vec<String>,
    /// Routes that are not what they were.
    pub changed: Vec<String>,
    /// Routes that are gone.
    pub removed: Vec<String>,
    /// Upstreams that are new, changed or gone.
    pub upstreams: Vec<String>,
    /// What is wrong with files of certificates, so that what they held before stays in use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates_kept: Vec<String>,
}

/// Both files, read and compiled.
pub struct Compiled {
    /// The process.
    pub process: Process,
    /// The routes.
    pub snapshot: Snapshot,
    /// What works, and probably should not be so.
    pub warnings: Faults,
    hash: String,
    digests: Digests,
}

/// What a reload reads: all that can change while the process runs.
struct Read {
    tokens: Tokens,
    hash: String,
    snapshot: Snapshot,
    warnings: Faults,
}

/// A file, what it comes to, and what is wrong with it. What could not be compiled is left out.
struct Looked<T> {
    document: Document,
    content: T,
    diagnostics: Diagnostics,
    /// The faults of files that it includes and of which nothing can be made.
    unread: Faults,
}

impl<T> Looked<T> {
    /// The content and the warnings, if nothing is wrong; else all that is to be said.
    fn judged(self) -> Result<(T, Faults), Faults> {
        let warnings = self.document.place_warnings(&self.diagnostics);
        if self.diagnostics.is_empty() && self.unread.is_empty() {
            return Ok((self.content, warnings));
        }
        let mut faults = self.document.place(&self.diagnostics);
        faults.extend(self.unread);
        faults.extend(warnings);
        Err(faults)
    }
}

/// Both, or all faults of both.
fn both<A, B>(
    gateway: Result<(A, Faults), Faults>,
    routes: Result<(B, Faults), Faults>,
) -> Result<(A, B, Faults), Faults> {
    match (gateway, routes) {
        (Ok((gateway, mut warnings)), Ok((routes, more))) => {
            warnings.extend(more);
            Ok((gateway, routes, warnings))
        }
        (gateway, routes) => {
            let mut faults = said(gateway);
            faults.extend(said(routes));
            Err(faults)
        }
    }
}

fn said<T>(looked: Result<(T, Faults), Faults>) -> Faults {
    looked.map_or_else(|faults| faults, |(_, warnings)| warnings)
}

/// The digest of each file's content when it was last read; nothing if it could not be read.
type Digests = BTreeMap<PathBuf, Option<u64>>;

fn digests<'p>(files: impl IntoIterator<Item = &'p Path>) -> Digests {
    let digest = |path: &Path| {
        let mut hasher = DefaultHasher::new();
        std::fs::read(path).ok()?.hash(&mut hasher);
        Some(hasher.finish())
    };
    files.into_iter().map(|it| (it.to_owned(), digest(it))).collect()
}

/// The files that both files name: what they hold is a part of the configuration.
fn named_files(process: &Process, tokens: &Tokens, snapshot: &Snapshot) -> Vec<PathBuf> {
    let mut files = process.certificate_files();
    files.extend(
        snapshot
            .routes
            .iter()
            .filter_map(|it| it.chain.body_rules.as_ref().and_then(BodyRules::files))
            .map(Path::to_owned),
    );
    files.extend(snapshot.included.iter().cloned());
    let pages = snapshot.routes.iter().map(|it| &it.chain).chain([&snapshot.defaults]);
    files.extend(pages.filter_map(|it| it.error_pages.as_ref()).flat_map(|it| it.files().to_vec()));
    files.extend(snapshot.routes.iter().filter_map(|it| it.chain.basic.as_ref()).map(|it| it.file().to_owned()));
    files.extend_from_slice(tokens.files());
    files.extend(snapshot.upstreams.iter().filter_map(|it| it.tls.as_ref()).flat_map(|it| it.files().to_vec()));
    files
}

/// Reads and compiles both files.
///
/// # Errors
/// All faults of both files.
pub fn compile_files(
    gateway: &Path,
    routes: &Path,
    services: &ServiceRegistry,
    filters: &Filters,
) -> Result<Compiled, Faults> {
    // Before they are read: a change that falls between is seen as one later.
    let mut digests = digests([gateway, routes]);
    let secrets = SecretValues::of(gateway);
    let mut process = look_at_gateway(gateway, &secrets);
    if let Ok(Looked { content, diagnostics, .. }) = &mut process {
        content.check_machine(diagnostics);
    }
    let mode = process.as_ref().map_or_else(|_| Mode::of_environment(), |it| it.content.mode);
    let snapshot = look_at_both(&mut process, routes, (services, filters), mode, &secrets);
    let (process, (hash, snapshot), warnings) = both(process.and_then(Looked::judged), snapshot)?;
    digests.extend(self::digests(named_files(&process, &process.tokens, &snapshot).iter().map(PathBuf::as_path)));
    Ok(Compiled { process, snapshot, warnings, hash, digests })
}

/// Compiles `routes.yaml` with what `gateway.yaml` says, and checks what only both together show.
fn look_at_both(
    gateway: &mut Result<Looked<Process>, Faults>,
    routes: &Path,
    (services, filters): (&ServiceRegistry, &Filters),
    mode: Mode,
    secrets: &SecretValues,
) -> Result<((String, Snapshot), Faults), Faults> {
    let process = gateway.as_ref().ok();
    let issuers = process.and_then(issuers);
    let given_roles = process.map(|it| it.content.written.given_roles()).filter(|_| issuers.is_some());
    let own_key = process.map(|it| it.content.tokens.can_sign()).filter(|_| issuers.is_some());
    let zone = process.map(|it| &*it.content.zone);
    let known = Known { services, filters, issuers: issuers.as_deref(), own_key, given_roles, zone };
    let looked = look_at_routes(routes, Surroundings { known, mode, secrets: Some(secrets) })?;
    if let (Ok(Looked { content, diagnostics, .. }), Some((_, snapshot))) = (gateway, &looked.content) {
        content.check_roles(&snapshot.roles, diagnostics);
    }
    complete(looked)
}

/// The names in `tokens.trust`; `None` if something is wrong there, so that there may be others.
fn issuers(gateway: &Looked<Process>) -> Option<Vec<String>> {
    let doubtful = |path: &str| path.starts_with('@') || path.trim_start_matches('#').starts_with("/tokens");
    let known = !gateway.diagnostics.iter().any(|it| doubtful(&it.path));
    known.then(|| gateway.content.tokens.trusted().map(str::to_owned).collect())
}

/// What routes come to; if not even a list of them could be read, that is a fault already.
fn complete<T>(looked: Looked<Option<T>>) -> Result<(T, Faults), Faults> {
    let Looked { document, content, diagnostics, unread } = looked;
    match content {
        Some(content) => Looked { document, content, diagnostics, unread }.judged(),
        None => {
            let mut faults = document.place(&diagnostics);
            faults.extend(unread);
            Err(faults)
        }
    }
}

pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn look_at_gateway(path: &Path, secrets: &SecretValues) -> Result<Looked<Process>, Faults> {
    let mut document = Document::read(path, &schema_of::<GatewayFile>(), &environment)?;
    document.fill_secrets(&|path, name| secrets.value(path, name));
    let mut diagnostics = Diagnostics::default();
    let file: GatewayFile = document.load(&mut diagnostics).unwrap_or_default();
    let content = Process::compile(&file, &mut diagnostics);
    Ok(Looked { document, content, diagnostics, unread: Faults::default() })
}

/// Reads and compiles `routes.yaml` alone: the hash of its text, and the snapshot. The secrets that it
/// names are not looked up: it is only looked at.
///
/// # Errors
/// All its faults.
pub fn compile_routes(
    path: &Path,
    services: &ServiceRegistry,
    filters: &Filters,
    mode: Mode,
) -> Result<(String, Snapshot), Faults> {
    let known = Known { services, filters, issuers: None, own_key: None, given_roles: None, zone: None };
    let looked = look_at_routes(path, Surroundings { known, mode, secrets: None })?;
    complete(looked).map(|(routes, _)| routes)
}

/// What roles permit, for those who give them: as `routes.yaml` says it, with the roles that `gateway.yaml` gives.
///
/// # Errors
/// What is wrong with the section, or a file that can't be read. One that is not there says nothing.
pub fn known_roles(routes: &Path, given: Option<Vec<String>>) -> Result<Roles, Faults> {
    let mut diagnostics = Diagnostics::default();
    let mut written = None;
    if routes.exists() {
        let mut document = Document::read(routes, &schema_of::<RoutesFile>(), &environment)?;
        let file: Option<RoutesFile> = document.load(&mut diagnostics);
        written = file.and_then(|it| it.roles);
        let faults = document.place(&diagnostics).within(&["/roles"]);
        if !faults.is_empty() {
            return Err(faults);
        }
    }
    let roles = Roles::compile(written.as_ref(), &At::ROOT.key("roles"), &mut diagnostics);
    Ok(match given {
        Some(given) => roles.knowing(given),
        None => roles,
    })
}

/// What `routes.yaml` may refer to.
#[derive(Clone)]
struct Surroundings<'a> {
    known: Known<'a>,
    mode: Mode,
    secrets: Option<&'a SecretValues>,
}

fn look_at_routes(path: &Path, surroundings: Surroundings<'_>) -> Result<Looked<Option<(String, Snapshot)>>, Faults> {
    let Surroundings { known, mode, secrets } = surroundings;
    let schema = routes_schema(known.filters, known.services);
    let (mut document, included, unread) = Document::read_whole(path, &schema, &environment)?;
    document.fill_secrets(&|path, name| match secrets {
        Some(secrets) => secrets.value(path, name),
        None => Ok(format!("{MARK}{name}")),
    });
    let mut diagnostics = Diagnostics::default();
    let file: Option<RoutesFile> = document.load(&mut diagnostics);
    let content = file.map(|mut file| {
        let shown = shown(&document, &mut diagnostics);
        shown.iter().for_each(|it| file.note_brought(it));
        let mut snapshot = Snapshot::compile(&file, shown.as_ref().unwrap_or(&file), known, mode, &mut diagnostics);
        snapshot.included = included;
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(&file).unwrap_or_default().hash(&mut hasher);
        (format!("{:016x}", hasher.finish()), snapshot)
    });
    Ok(Looked { document, content, diagnostics, unread })
}

/// The file as people may see it, if that is not the file itself. One with faults is never described.
fn shown(document: &Document, diagnostics: &mut Diagnostics) -> Option<RoutesFile> {
    if !diagnostics.is_empty() {
        return None;
    }
    document.as_written().unwrap_or_else(|error| {
        let message = format!("this file can't be described without what the environment brings into it: {error}");
        diagnostics.error(&At::ROOT, message);
        None
    })
}

/// The files of certificates when they were read last, and what was wrong with them.
struct CertificatesSeen {
    files: Digests,
    kept: Vec<String>,
}

/// The cell that holds the configuration that serves.
pub struct Configuration {
    active: ArcSwap<ActiveConfig>,
    runtime: Runtime,
    services: ServiceRegistry,
    process: Process,
    gateway_path: PathBuf,
    routes_path: PathBuf,
    /// What their files held when they were loaded: an unchanged one keeps its tickets, and clients
    /// go on resuming their sessions.
    certificates_seen: Mutex<CertificatesSeen>,
    /// Held while a reload is under way: they come one after the other. What the last one read.
    reloading: Mutex<Digests>,
    last_error: Mutex<Option<(Timestamp, Faults)>>,
    reloaded: Notify,
}

impl Configuration {
    /// Brings what was compiled to life.
    pub fn begin(
        compiled: Compiled,
        gateway_path: PathBuf,
        routes_path: PathBuf,
        services: ServiceRegistry,
        runtime: Runtime,
    ) -> Self {
        let Compiled { process, snapshot, warnings, hash, digests } = compiled;
        warn(&warnings);
        let mut certificates_seen = digests.clone();
        certificates_seen.retain(|path, _| process.certificate_files().contains(path));
        let active = activate(snapshot, &runtime, &services, 1, hash);
        last_reload_succeeded();
        Self {
            active: ArcSwap::from_pointee(active),
            runtime,
            services,
            process,
            gateway_path,
            routes_path,
            certificates_seen: Mutex::new(CertificatesSeen { files: certificates_seen, kept: Vec::new() }),
            reloading: Mutex::new(digests),
            last_error: Mutex::new(None),
            reloaded: Notify::new(),
        }
    }

    /// The configuration that serves now.
    pub fn active(&self) -> Arc<ActiveConfig> {
        self.active.load_full()
    }

    /// The process, which no reload changes.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Who is who.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.runtime.identity
    }

    /// All upstreams that live.
    pub fn upstreams(&self) -> &UpstreamRegistry {
        &self.runtime.upstreams
    }

    /// All rate limits that live.
    pub fn limits(&self) -> &Limits {
        &self.runtime.limits
    }

    /// Why the last reload was refused, if it was, and when.
    pub fn last_error(&self) -> Option<(Timestamp, Faults)> {
        self.last_error.lock().clone()
    }

    /// What is wrong with files of certificates, so that what they held before is in use.
    pub fn certificates_kept(&self) -> Vec<String> {
        self.certificates_seen.lock().kept.clone()
    }

    /// The files that it was read from: `gateway.yaml`, `routes.yaml`.
    pub fn paths(&self) -> (&Path, &Path) {
        (&self.gateway_path, &self.routes_path)
    }

    /// Every file whose content decides what serves: these two, and those that they name.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.gateway_path.clone(), self.routes_path.clone()];
        files.extend(named_files(&self.process, &self.runtime.identity.tokens(), &self.active().snapshot));
        files.sort();
        files.dedup();
        files
    }

    /// Waits until another configuration serves: [`Configuration::files`] may be others, too. For one
    /// caller; a reload that it missed is reported at once.
    pub async fn reloaded(&self) {
        self.reloaded.notified().await;
    }

    /// Reads both files again and, if nothing is wrong with them, lets the new routes serve. Requests
    /// and sockets under way keep what they began with; upstreams that did not change live on.
    ///
    /// Reads files and compiles: not for a worker thread.
    ///
    /// # Errors
    /// All faults; the old configuration goes on serving.
    pub fn reload(&self) -> Result<Changes, Faults> {
        let mut seen = self.reloading.lock();
        *seen = self.digests();
        self.settle(&mut seen, self.read_again())
    }

    /// As [`Configuration::reload`], but only if a file holds something else than when it was last
    /// read: an event of the file system need not mean a change, and the writer of the files may have
    /// started a reload already. `None` if there is nothing new.
    pub fn reload_if_changed(&self) -> Option<Result<Changes, Faults>> {
        let mut seen = self.reloading.lock();
        let digests = self.digests();
        if digests != *seen {
            *seen = digests;
            return Some(self.settle(&mut seen, self.read_again()));
        }
        if self.last_error.lock().is_none() {
            tracing::debug!(event = "reload_needless", "no file holds anything else than before");
            return None;
        }
        // What was refused may be sound by now: the fault may have been in a file that it names. The
        // same refusal is not reported twice.
        let sound = self.read_again().ok()?;
        Some(self.settle(&mut seen, Ok(sound)))
    }

    fn digests(&self) -> Digests {
        digests(self.files().iter().map(PathBuf::as_path))
    }

    /// Lets what was read serve, or reports why it does not.
    fn settle(&self, seen: &mut Digests, read: Result<Read, Faults>) -> Result<Changes, Faults> {
        // Whatever else is wrong: a certificate that was renewed in time must not wait for a route that is mended.
        let certificates_kept = self.reload_certificates();
        match read {
            Ok(Read { tokens, hash, snapshot, warnings }) => {
                warn(&warnings);
                // Before the routes that may rely on them.
                self.runtime.identity.reload(tokens);
                let old = self.active();
                let changes = changes(&old.snapshot, &snapshot, old.generation + 1);
                let changes = Changes { certificates_kept, ..changes };
                let active = activate(snapshot, &self.runtime, &self.services, changes.generation, hash);
                self.active.store(Arc::new(active));
                *self.last_error.lock() = None;
                last_reload_succeeded();
                announce(&changes);
                // The new files may name others than the old.
                let files = self.files();
                seen.retain(|path, _| files.contains(path));
                let unseen = files.iter().filter(|it| !seen.contains_key(*it)).map(PathBuf::as_path);
                let unseen = digests(unseen);
                seen.extend(unseen);
                self.reloaded.notify_one();
                Ok(changes)
            }
            Err(faults) => {
                last_reload_failed();
                tracing::error!(
                    event = "reload_refused", faults = faults.len(), summary = %faults.summary(), detail = %faults,
                    "the old configuration goes on serving"
                );
                *self.last_error.lock() = Some((Timestamp::now(), faults.clone()));
                Err(faults)
            }
        }
    }

    fn read_again(&self) -> Result<Read, Faults> {
        let secrets = SecretValues::of(&self.gateway_path);
        let mut gateway = look_at_gateway(&self.gateway_path, &secrets);
        if let Ok(Looked { content, diagnostics, .. }) = &mut gateway {
            self.process.refuse_changes(&content.written, diagnostics);
        }
        let rooms = (&self.services, &self.runtime.filters);
        let routes = look_at_both(&mut gateway, &self.routes_path, rooms, self.process.mode, &secrets);
        let (process, (hash, snapshot), warnings) = both(gateway.and_then(Looked::judged), routes)?;
        Ok(Read { tokens: process.tokens, hash, snapshot, warnings })
    }
}

impl Configuration {
    /// New connections get what the files hold now. What can't be used keeps what was there, and nothing else from
    /// being loaded: certificates are written by programs of their own, in pieces and when they like.
    fn reload_certificates(&self) -> Vec<String> {
        let mut seen = self.certificates_seen.lock();
        let files = self.process.certificate_files();
        let digests = digests(files.iter().map(PathBuf::as_path));
        if digests == seen.files {
            return seen.kept.clone();
        }
        let kept: Vec<TlsError> = self.runtime.certificates.iter().flat_map(|it| it.reload()).collect();
        for error in &kept {
            tracing::error!(event = "certificate_kept", error = %error, "what the file held before stays in use");
        }
        report_kept(kept.len());
        *seen = CertificatesSeen { files: digests, kept: kept.iter().map(ToString::to_string).collect() };
        seen.kept.clone()
    }
}

/// Puts into the log what works and probably should not be so.
fn warn(warnings: &Faults) {
    for warning in warnings.iter() {
        tracing::warn!(
            event = "config_warning", file = %warning.file, line = warning.line, warning = %warning.message,
            "{}", warning.help.as_deref().unwrap_or_default()
        );
    }
}

/// Activates a snapshot: joins it with the runtime state under its names.
fn activate(
    mut snapshot: Snapshot,
    runtime: &Runtime,
    services: &ServiceRegistry,
    generation: u64,
    hash: String,
) -> ActiveConfig {
    runtime.identity.use_roles(snapshot.roles.clone());
    let lives = runtime.upstreams.apply(&snapshot.upstreams);
    let destination = |((upstream, settings), live): ((&Arc<Upstream>, &Option<ServiceSettings>), &Arc<Live>)| match (
        &upstream.kind,
        settings,
    ) {
        (UpstreamKind::Local(local), Some(settings)) => {
            Destination::Local(upstream.name.clone(), services.activate(local, settings))
        }
        _ => Destination::Upstream(live.clone()),
    };
    let destinations: Vec<Destination> =
        snapshot.upstreams.iter().zip(&snapshot.services).zip(&lives).map(destination).collect();
    let activate_route = |route: &mut Route| {
        let upstreams = route.action.upstreams();
        // Where it has several, what adapts to an upstream goes by the one with most of the requests.
        let upstream = match &route.action {
            Action::Split(split) => upstreams.get(split.heaviest()).copied(),
            _ => upstreams.first().copied(),
        };
        route.chain.activate(&Activation {
            identity: &runtime.identity,
            limits: &runtime.limits,
            route: &route.name,
            upstream: upstream.map(|it| &lives[it]),
        });
        RouteRuntime {
            destinations: match &route.action {
                Action::Aggregate(it) => vec![Destination::Local("aggregate".into(), Arc::new(it.clone()))],
                _ => upstreams.iter().map(|it| destinations[*it].clone()).collect(),
            },
            mirror: route.mirror.clone().map(|mirror| {
                let destination = destinations[mirror.upstream].clone();
                MirrorRuntime::new(mirror, destination, &route.policy, &route.name)
            }),
            metrics: RouteMetrics::of(&route.name),
        }
    };
    let routes = snapshot.routes.iter_mut().map(activate_route).collect();
    let upstreams = Arc::new(Destinations::new(destinations, snapshot.roles.clone()));
    GENERATIONS_ALIVE.inc();
    ActiveConfig { routes, upstreams, generation, hash, loaded_at: Timestamp::now(), snapshot }
}

fn changes(old: &Snapshot, new: &Snapshot, generation: u64) -> Changes {
    let by_name = |snapshot: &Snapshot| -> BTreeMap<Arc<str>, usize> {
        snapshot.routes.iter().enumerate().map(|(number, it)| (it.name.clone(), number)).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let mut changes = Changes { generation, ..Changes::default() };
    for (name, number) in &after {
        match before.get(name) {
            None => changes.added.push(name.to_string()),
            Some(former) if old.routes[*former].description != new.routes[*number].description => {
                changes.changed.push(name.to_string());
            }
            Some(_) => {}
        }
    }
    changes.removed = before.keys().filter(|it| !after.contains_key(*it)).map(|it| it.to_string()).collect();
    let differs = |left: &Snapshot, right: &Snapshot| -> Vec<String> {
        let missing = left.upstreams.iter().filter(|it| !right.upstreams.contains(it));
        missing.map(|it| it.name.to_string()).collect()
    };
    changes.upstreams = differs(new, old);
    changes.upstreams.extend(differs(old, new));
    changes.upstreams.sort();
    changes.upstreams.dedup();
    changes
}

fn announce(changes: &Changes) {
    let names = |list: &[String]| list.join(", ");
    tracing::info!(
        event = "reloaded",
        generation = changes.generation,
        added = %names(&changes.added),
        changed = %names(&changes.changed),
        removed = %names(&changes.removed),
        upstreams = %names(&changes.upstreams),
        "a new configuration serves"
    );
}
