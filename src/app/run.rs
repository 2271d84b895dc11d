//! `moongate run`: the start as a story, and the stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pingora::server::configuration::ServerConf;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::admin::{self, Admin};
use crate::alerts::Alerts;
use crate::app::signals::{SignalAction, Signals};
use crate::app::{Failure, Files};
use crate::base::ClockWatch;
use crate::cache::Cache;
use crate::config::{Compiled, Configuration, Snapshot, Watcher, compile_files};
use crate::connections::Connections;
use crate::filters::auth::Auth;
use crate::filters::rate_limit::Limits;
use crate::forward::{Worker, mirrors_under_way};
use crate::guard::Guard;
use crate::identity::Identity;
use crate::listener::{self, Certificates, Descriptors, Drain, Listener, Socket};
use crate::maintenance::Maintenance;
use crate::pipeline::Filters;
use crate::proxy::{EarlyResponses, Front, Orphans, Proxy, Shared};
use crate::services::auth::{AuthParts, AuthService};
use crate::services::{CacheClear, ServiceRegistry};
use crate::state::{Backend, State};
use crate::store::Store;
use crate::telemetry;
use crate::upstream::{Discovery, Instances, Resolver, UpstreamKind, UpstreamRegistry};

/// How often the system's clock is looked at.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// What streams get of the grace at its end, to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves until a signal stops it, with these filters beside the built-in ones.
///
/// # Errors
/// When it can't start: faults in the files, an address in use, a bad certificate.
pub fn run(files: &Files, filters: Filters) -> Result<(), Failure> {
    // The provider of cryptography is chosen before anything could ask for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut services = ServiceRegistry::standard();
    let compiled = compile_files(&files.gateway, &files.routes, &services, &filters);
    let compiled = compiled.map_err(|it| Failure(it.to_string()))?;

    // Sockets before threads: what can't be bound ends the process before it serves anybody.
    let sockets = listener::bind(&compiled.process.public).map_err(|it| Failure(it.to_string()))?;
    let admin_socket = bind_admin(&compiled.process.admin)?;
    telemetry::start(&compiled.process.written.telemetry.log);
    count_open_files(&compiled, &sockets)?;

    let side = side_runtime()?;
    let store = Store::new(compiled.process.store.clone(), side.handle().clone());
    let upstreams = Arc::new(UpstreamRegistry::new());
    upstreams.start(side.handle());
    let guard = compiled.process.guard.clone().allowing(compiled.process.trusted_proxies.networks());
    let guard = Guard::begin(&guard, side.handle());
    sockets.iter().for_each(|it| it.guarded_by(guard.clone()));
    let state = State::open(&compiled.process.state, side.handle());
    let maintenance = Maintenance::new(state.clone());
    side.block_on(maintenance.look()); // before anybody is served
    side.spawn(maintenance.clone().follow());
    let instances = Instances::new(&state);
    side.spawn(instances.clone().follow());
    let resolver = Arc::new(Resolver::new(&compiled.process.resolver));
    if let Some(webhook) = compiled.process.written.alerts.health.clone() {
        upstreams.alert(Alerts::begin("health", webhook, None, side.handle()));
    }
    upstreams.discover(Discovery::new(side.handle().clone(), resolver, instances));
    let cache = Cache::new(compiled.process.cache, &state, matches!(compiled.process.state, Backend::Redis(_)));
    side.spawn(cache.clone().listen());
    services.add("cache_clear", Arc::new(CacheClear::new(cache.clone())));
    let identity = Identity::begin(compiled.process.tokens.clone());
    identity.start(side.handle());
    if needs_store(&compiled) {
        side.block_on(open(&store, &identity))?;
    }
    identity.use_accounts(Arc::new(store.clone()));
    side.spawn(identity.clone().follow(store.clone(), state.pubsub.clone()));
    let auth = AuthService::new(AuthParts {
        rules: compiled.process.auth.clone(),
        public_url: compiled.process.public_url.clone(),
        identity: identity.clone(),
        state: state.clone(),
        store,
        runtime: side.handle().clone(),
    });
    services.add("auth", Arc::new(auth));
    let mocks = compiled.process.mocks;
    let connections = Connections::new(identity.clone());
    side.spawn(connections.clone().watch());
    let shared = Arc::new(Shared {
        guard: guard.clone(),
        state,
        identity: identity.clone(),
        cache: cache.clone(),
        orphans: Orphans::default(),
        connections: connections.clone(),
        maintenance: maintenance.clone(),
        mocks,
    });
    let certificates: Vec<Arc<Certificates>> = sockets.iter().filter_map(|it| it.certificates().cloned()).collect();
    certificates.iter().for_each(|it| drop(side.spawn(it.clone().watch_ends())));
    let (gateway, routes) = (files.gateway.clone(), files.routes.clone());
    let runtime =
        crate::config::Runtime { upstreams, limits: Limits::new(&shared.state), certificates, identity, filters };
    side.spawn(Limits::adapt(Arc::downgrade(&runtime.limits)));
    side.spawn(watch_clock());
    let configuration = Configuration::begin(compiled, gateway, routes, services, runtime);
    let configuration = Arc::new(configuration);
    let drain = Drain::new();
    let admin = Admin::new(configuration.clone(), drain.clone(), guard, cache, connections.clone(), maintenance);

    // Before readiness is reported: from then on a signal may come.
    let mut signals = {
        let _inside = side.enter();
        Signals::listen().map_err(|error| Failure(format!("signals can't be listened to: {error}")))?
    };
    let workers = start_workers(&configuration, &shared, &sockets, &drain)?;
    admin.started();
    announce(sockets.iter().chain([&admin_socket]));
    drop(sockets);
    let refuse = EarlyResponses { guard: shared.guard.clone(), configuration: configuration.clone() };
    side.spawn(serve_admin(admin_socket, admin, Arc::new(refuse)));

    side.block_on(steer(&configuration, &drain, &connections, &mut signals))?;
    for worker in workers {
        let _ = worker.join();
    }
    tracing::info!(event = "stopped", "all connections are closed");
    telemetry::stop();
    side.shutdown_background();
    Ok(())
}

/// Raises the limit of open files, and counts what clients hold against it.
fn count_open_files(compiled: &Compiled, sockets: &[Socket]) -> Result<(), Failure> {
    let descriptors = Descriptors::raise(&compiled.process.admin);
    let descriptors = descriptors.map_err(|error| Failure(format!("the limit of open files is not known: {error}")))?;
    descriptors.tell(&compiled.process.public);
    let descriptors = Arc::new(descriptors);
    sockets.iter().for_each(|it| it.count_against(descriptors.clone()));
    Ok(())
}

/// What needs no store leaves none behind: a gateway that only passes requests on has nothing to keep.
fn needs_store(compiled: &Compiled) -> bool {
    let Snapshot { upstreams, routes, .. } = &compiled.snapshot;
    compiled.process.written.store.is_some()
        || upstreams.iter().any(|it| matches!(&it.kind, UpstreamKind::Local(local) if *local.service == *"auth"))
        || routes.iter().filter_map(|it| it.chain.auth.as_ref()).any(Auth::needs_store)
}

/// Opens the store and learns what was taken back, before anybody is served: what can't be opened ends
/// the process.
async fn open(store: &Store, identity: &Identity) -> Result<(), Failure> {
    let opened = async {
        store.open().await?;
        identity.learn(store, 0).await
    };
    opened.await.map_err(|error| Failure(format!("{error}; see `store` in gateway.yaml")))
}

fn bind_admin(admin: &Listener) -> Result<Socket, Failure> {
    let bound = listener::bind(std::slice::from_ref(admin));
    let bound = bound.map_err(|error| Failure(format!("{error}; see listeners.admin")))?;
    bound.into_iter().next().ok_or_else(|| Failure("the admin listener is not bound".to_owned()))
}

async fn serve_admin(socket: Socket, admin: Arc<Admin>, refuse: Arc<EarlyResponses>) {
    if let Err(error) = admin::serve(socket, admin, refuse).await {
        tracing::error!(event = "listener_failed", listener = "admin", error = %error);
    }
}

/// For everything that is not a request: admin, health checks, signals, reloads.
fn side_runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread().worker_threads(1).thread_name("side").enable_all().build();
    built.map_err(|error| Failure(format!("no thread can be started: {error}")))
}

/// Tells when the system's clock was set back.
async fn watch_clock() {
    let mut watch = ClockWatch::begin();
    loop {
        tokio::time::sleep(CLOCK_LOOK).await;
        if let Some(back) = watch.look() {
            tracing::error!(
                event = "clock_set_back",
                seconds = back.as_secs_f64(),
                "the later time counts until the clock has caught up; restart the gateway if the earlier one is right"
            );
        }
    }
}

fn announce<'s>(sockets: impl Iterator<Item = &'s Socket>) {
    for socket in sockets {
        tracing::info!(event = "listening", listener = %socket.name(), address = %socket.address());
    }
}

/// One thread a core, each with a runtime, upstream connections and accept loops of its own: nothing
/// on a request's way crosses threads. Returns when all of them accept.
fn start_workers(
    configuration: &Arc<Configuration>,
    shared: &Arc<Shared>,
    sockets: &[Socket],
    drain: &Drain,
) -> Result<Vec<JoinHandle<()>>, Failure> {
    let count = configuration.process().threads;
    let serving = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for number in 0..count {
        let sockets: Result<Vec<Socket>, _> = sockets.iter().map(Socket::try_clone).collect();
        let sockets = sockets.map_err(|error| Failure(format!("a socket can't be shared: {error}")))?;
        let (configuration, drain) = (configuration.clone(), drain.clone());
        let (shared, serving) = (shared.clone(), serving.clone());
        let work = move || work(configuration, shared, sockets, drain, &serving);
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(work);
        workers.push(thread.map_err(|error| Failure(format!("no thread can be started: {error}")))?);
    }
    while serving.load(Ordering::Acquire) < count {
        std::thread::yield_now();
    }
    Ok(workers)
}

fn work(
    configuration: Arc<Configuration>,
    shared: Arc<Shared>,
    sockets: Vec<Socket>,
    drain: Drain,
    serving: &AtomicUsize,
) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a thread can have a runtime");
    runtime.block_on(async {
        telemetry::spawn_flusher();
        let conf = Arc::new(ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() });
        let mut accepting = Vec::new();
        for socket in sockets {
            let proxy = Proxy::new(configuration.clone(), shared.clone(), Worker::new());
            let app = Arc::new(Front::new(proxy, &conf));
            let served = listener::serve(
                socket,
                app,
                Arc::new(EarlyResponses { guard: shared.guard.clone(), configuration: configuration.clone() }),
                drain.clone(),
            );
            accepting.push(tokio::spawn(served));
        }
        serving.fetch_add(1, Ordering::Release);
        for accepting in accepting {
            if let Ok(Err(error)) = accepting.await {
                tracing::error!(event = "listener_failed", error = %error);
            }
        }
    });
    telemetry::flush();
}

/// Follows signals and changed files until the process has to stop, and then until it may.
async fn steer(
    configuration: &Arc<Configuration>,
    drain: &Drain,
    connections: &Connections,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let (changed, mut changes) = mpsc::channel(1);
    let files = configuration.files();
    let watcher = Watcher::start(&files, changed.clone())
        .map_err(|error| Failure(format!("the configuration can't be watched: {error}")))?;
    let mut watched = (files, watcher);
    // A file may have changed since it was read.
    reload_if_changed(configuration).await;
    loop {
        tokio::select! {
            wish = signals.next() => match wish {
                SignalAction::Reload => reload(configuration).await,
                SignalAction::Stop => return stop(configuration, drain, connections, signals, true).await,
                SignalAction::StopNow => return stop(configuration, drain, connections, signals, false).await,
            },
            Some(()) = changes.recv() => reload_if_changed(configuration).await,
            () = configuration.reloaded() => {
                let files = configuration.files();
                if files == watched.0 {
                    continue;
                }
                match Watcher::start(&files, changed.clone()) {
                    Ok(watcher) => watched = (files, watcher),
                    Err(error) => tracing::error!(event = "config_watch_failed", error = %error),
                }
                reload_if_changed(configuration).await;
            }
        }
    }
}

async fn reload(configuration: &Arc<Configuration>) {
    let configuration = configuration.clone();
    // What it comes to is logged where it is known.
    let _ = tokio::task::spawn_blocking(move || configuration.reload()).await;
}

async fn reload_if_changed(configuration: &Arc<Configuration>) {
    let configuration = configuration.clone();
    let _ = tokio::task::spawn_blocking(move || configuration.reload_if_changed()).await;
}

/// US-013: not ready at once; new connections a while longer; then only what is under way.
async fn stop(
    configuration: &Configuration,
    drain: &Drain,
    connections: &Connections,
    signals: &mut Signals,
    delay: bool,
) -> Result<(), Failure> {
    let times = &configuration.process().written.shutdown;
    drain.begin();
    connections.drain();
    tracing::info!(event = "draining", delay = %times.delay, grace = %times.grace, "a signal stops the gateway");
    let orderly = async {
        if delay {
            tokio::time::sleep(times.delay.0).await;
        }
        drain.close_listeners();
        let goodbye = GOODBYE.min(times.grace.0 / 2);
        let finished = async {
            while drain.open() > 0 || mirrors_under_way() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(times.grace.0 - goodbye, finished).await.is_err() {
            connections.end_all(); // streams end whole
        }
        let cut = drain.wait_empty(goodbye).await;
        if cut > 0 {
            tracing::warn!(event = "connections_cut", connections = cut, "the grace is over");
        }
    };
    tokio::select! {
        () = orderly => {}
        _ = signals.next_stop() => {
            tracing::warn!(event = "stopped_at_once", connections = drain.open(), "a second signal");
            drain.close_listeners();
            drain.wait_empty(Duration::ZERO).await;
        }
    }
    Ok(())
}
