//! The room seen from its door, with endpoints that really listen.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Encoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::*;
use crate::base::{At, Diagnostics};

/// Checks often, and yet is patient with a busy machine.
const OFTEN: &str = "every: 250ms, timeout: 240ms";
/// The gateway's own zone.
const ZONE: &str = "a";
const PATIENCE: Duration = Duration::from_secs(20);

/// Names are shared by all tests of the process, as metrics are.
fn name(hint: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{hint}-{}", COUNT.fetch_add(1, SeqCst))
}

fn try_compile(name: &str, yaml: &str) -> (Option<Upstream>, Vec<String>) {
    let config: UpstreamConfig = serde_yaml::from_str(yaml).unwrap();
    let mut diagnostics = Diagnostics::default();
    let upstream = Upstream::compile(name, &config, Some(ZONE), &At::ROOT, &mut diagnostics);
    (upstream, diagnostics.iter().map(|it| format!("{}: {}", it.path, it.message)).collect())
}

#[track_caller]
fn compile(name: &str, yaml: &str) -> Arc<Upstream> {
    let (upstream, diagnostics) = try_compile(name, yaml);
    assert_eq!(diagnostics, [""; 0]);
    Arc::new(upstream.unwrap())
}

/// An upstream of made-up addresses with these weights, ports counting from 1.
fn weighted(balance: &str, weights: &[u32]) -> String {
    let mut yaml = format!("balance: {balance}\ndiscovery:\n  static:\n");
    for (index, weight) in weights.iter().enumerate() {
        writeln!(yaml, "    - {{ address: \"127.0.0.1:{}\", weight: {weight} }}", index + 1).unwrap();
    }
    yaml
}

fn live(balance: &str, weights: &[u32]) -> (UpstreamRegistry, Arc<Live>) {
    let (registry, name) = (UpstreamRegistry::new(), name(balance));
    let live = registry.apply(&[compile(&name, &weighted(balance, weights))]).remove(0);
    (registry, live)
}

fn picked_port(live: &Live, tried: &[SocketAddr]) -> u16 {
    live.pick(None, tried).unwrap().endpoint().address().port()
}

fn shares(live: &Live, picks: u32) -> HashMap<u16, u32> {
    let mut shares = HashMap::new();
    for _ in 0..picks {
        *shares.entry(picked_port(live, &[])).or_default() += 1;
    }
    shares
}

#[track_caller]
fn check_diagnostics(yaml: &str, expected: &[&str]) {
    let (upstream, diagnostics) = try_compile("faulty", yaml);
    assert!(upstream.is_none(), "{yaml} compiled");
    assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:?}");
    for (diagnostic, expected) in diagnostics.iter().zip(expected) {
        assert!(diagnostic.starts_with(expected), "{diagnostic} is not {expected}");
    }
}

#[test]
fn every_fault_is_found_at_its_place() {
    check_diagnostics("{}", &[": the upstream leads nowhere"]);
    check_diagnostics("{ local: x, discovery: { static: [\"1.2.3.4:5\"] } }", &["/local: an upstream is either"]);
    check_diagnostics("{ local: x, tls: { sni: a } }", &["/tls: a local service has no"]);
    check_diagnostics("{ files: {}, settings: {} }", &["/settings: only a local service has settings"]);
    check_diagnostics("discovery: {}", &["/discovery: there is no endpoint"]);
    check_diagnostics("discovery: { static: [] }", &["/discovery: there is no endpoint"]);
    check_diagnostics(
        "discovery: { static: [\"a/b:1\", { address: \"1.1.1.1:1\", weight: 0 }, \"1.1.1.1:1\", \"[::1]:1\", \"1.1.1.1\", \"1.1.1.1:0\"] }",
        &[
            "/discovery/static/0: `a/b:1` is not an address",
            "/discovery/static/1/weight: the weight 0",
            "/discovery/static/2: the address 1.1.1.1:1 is listed twice",
            "/discovery/static/4: `1.1.1.1` is not",
            "/discovery/static/5: port 0",
        ],
    );
    let with = |rest: &str| format!("{{ discovery: {{ static: [\"1.1.1.1:1\"] }}, {rest} }}");
    check_diagnostics(&with("health: {}"), &["/health: it does not say what"]);
    check_diagnostics(&with("health: { http: /, tcp: true }"), &["/health: a check is either"]);
    check_diagnostics(&with("health: { tcp: true, every: 1s, timeout: 1s }"), &["/health/timeout: 1s is not shorter"]);
    check_diagnostics(
        &with("health: { http: health, expect: [200, 42], fail_after: 0, pass_after: 0 }"),
        &["/health/expect/1: 42", "/health/http: `health`", "/health/fail_after", "/health/pass_after"],
    );
    check_diagnostics(&with("health: { http: \"/a b\" }"), &["/health/http: `/a b` is not a path"]);
    check_diagnostics(&with("tls: {}"), &["/tls/sni: the name to verify is missing"]);
    check_diagnostics(
        &with("tls: { sni: a.b, ca: /nowhere.pem, client_key: /nowhere.pem }"),
        &["/tls/ca: `/nowhere.pem` can not be read", "/tls/client_key: a key without"],
    );
    check_diagnostics(&with("keep_alive: { idle: 0s }"), &["/keep_alive/idle"]);
}

#[test]
fn an_upstream_needs_little_and_gets_defaults() {
    let upstream = compile("plain", "discovery: { static: [\"127.0.0.1:1\", { address: \"[::1]:2\", zone: b }] }");
    assert_eq!(upstream.balance, Balance::RoundRobin);
    assert_eq!(upstream.keep_alive, KeepAlive { idle: Duration::from_secs(30) });
    assert_eq!(upstream.endpoints[1].weight, 1);
    assert_eq!(upstream.endpoints[1].zone.as_deref(), Some("b"));
    let local = compile("local", "local: chat");
    assert!(matches!(&local.kind, UpstreamKind::Local(it) if &*it.service == "chat" && it.settings.is_none()));
    let unknown = serde_yaml::from_str::<UpstreamConfig>("discovery: { sttic: [] }");
    assert!(unknown.is_err());
}

#[test]
fn round_robin_is_smooth() {
    let (_fleet, live) = live("round_robin", &[5, 1, 1]);
    let ports: Vec<_> = (0..14).map(|_| picked_port(&live, &[])).collect();
    assert_eq!(ports, [1, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 3, 1, 1]);
}

#[test]
fn random_follows_the_weights() {
    fastrand::seed(7);
    let (_fleet, live) = live("random", &[5, 3, 2]);
    let shares = shares(&live, 10_000);
    for (port, expected) in [(1, 5000), (2, 3000), (3, 2000)] {
        assert!(shares[&port].abs_diff(expected) < 300, "{shares:?}");
    }
}

#[test]
fn least_request_avoids_the_busy_one() {
    let (_fleet, live) = live("least_request", &[1, 1, 1]);
    let mut held: Vec<Picked> = Vec::new();
    while held.len() < 30 {
        held.push(live.pick(None, &["127.0.0.1:2".parse().unwrap(), "127.0.0.1:3".parse().unwrap()]).unwrap());
    }
    assert_eq!(live.endpoints()[0].in_flight(), 30);
    // Of two that differ, the busy one never has fewer in flight.
    assert!(!shares(&live, 300).contains_key(&1));
}

#[test]
fn least_request_weighs_what_is_in_flight() {
    fastrand::seed(11);
    let (_fleet, live) = live("least_request", &[3, 1]);
    let _held: Vec<_> = (0..400).map(|_| live.pick(None, &[]).unwrap()).collect();
    assert!(live.endpoints()[0].in_flight().abs_diff(300) <= 2);
}

#[test]
fn an_endpoint_that_was_tried_is_never_picked_again() {
    for balance in ["round_robin", "random", "least_request"] {
        let (_fleet, live) = live(balance, &[1000, 1, 1, 7]);
        for _ in 0..200 {
            let mut tried = Vec::new();
            while let Some(picked) = live.pick(None, &tried) {
                assert!(!tried.contains(&picked.endpoint().address()), "{balance}");
                tried.push(picked.endpoint().address());
            }
            assert_eq!(tried.len(), 4, "{balance}");
        }
    }
}

#[test]
fn requests_are_counted_by_their_end() {
    let (registry, live) = live("random", &[1]);
    let pick = || live.pick(None, &[]).unwrap();
    pick().done(Outcome::Success, Duration::from_millis(20));
    pick().done(Outcome::Failure, Duration::from_secs(9));
    drop(pick());
    let mut stream = pick();
    stream.record(Outcome::Success, Duration::from_millis(20));
    let report = registry.report().remove(0).endpoints.remove(0);
    assert_eq!((report.requests, report.failures, report.in_flight), (4, 1, 1));
    assert_eq!(report.latency_ms, Some(20.0));
    assert_eq!((report.health, report.pending, report.last_check), (Health::Unknown, false, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_flight_returns_to_zero() {
    for balance in ["round_robin", "random", "least_request"] {
        let (_fleet, live) = live(balance, &[5, 1, 1]);
        let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(pick_and_drop(Arc::clone(&live)))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(live.endpoints().iter().all(|it| it.in_flight() == 0));
    }
}

async fn pick_and_drop(live: Arc<Live>) {
    for round in 0..500 {
        let first = live.pick(None, &[]).unwrap();
        let second = live.pick(None, &[first.endpoint().address()]).unwrap();
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        second.done(Outcome::Success, Duration::from_millis(1));
    }
}

#[test]
fn a_reload_keeps_what_did_not_change() {
    let (registry, names) = (UpstreamRegistry::new(), [name("kept"), name("changed"), name("local")]);
    let reload = |weights: &[u32]| {
        let kept = compile(&names[0], &weighted("random", &[1]));
        let changed = compile(&names[1], &weighted("random", weights));
        registry.apply(&[changed, compile(&names[2], "local: chat"), kept])
    };
    let before = reload(&[1, 1]);
    let held = before[0].pick(None, &["127.0.0.1:2".parse().unwrap()]).unwrap();
    before[0].pick(None, &["127.0.0.1:2".parse().unwrap()]).unwrap().done(Outcome::Failure, Duration::ZERO);
    let after = reload(&[7, 1, 1]);
    assert!(Arc::ptr_eq(&before[1], &after[1]) && Arc::ptr_eq(&before[2], &after[2]));
    assert!(!Arc::ptr_eq(&before[0], &after[0]));
    assert!(after[1].pick(None, &[]).is_none(), "a local service has no endpoints");

    let report = registry.report().remove(0).endpoints.remove(0);
    assert_eq!((report.weight, report.in_flight, report.failures), (7, 1, 1));
    drop(held);
    assert_eq!(after[0].endpoints()[0].in_flight(), 0);
    assert_eq!(before[0].endpoints()[0].key(), after[0].endpoints()[0].key(), "connections are kept");
}

#[test]
fn connections_are_not_shared_across_upstreams_and_protocols() {
    let key = |name: &str, rest: &str| {
        let upstream = compile(name, &format!("{{ discovery: {{ static: [\"127.0.0.1:1\"] }}{rest} }}"));
        UpstreamRegistry::new().apply(&[upstream]).remove(0).endpoints()[0].key()
    };
    let keys = [key("a", ""), key("b", ""), key("a", ", protocol: http2"), key("a", ", tls: { sni: x.y }")];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key));
    }
    assert_eq!(keys[0], key("a", ", balance: random"));
}

#[test]
fn series_go_with_their_owner() {
    let (registry, name) = (UpstreamRegistry::new(), name("series"));
    let both = compile(&name, &weighted("random", &[1, 1]));
    let one = compile(&name, &weighted("random", &[1]));
    let _held = registry.apply(&[both]).remove(0).pick(None, &["127.0.0.1:2".parse().unwrap()]).unwrap();
    registry.refresh_metrics();
    let series = format!("moongate_endpoint_in_flight{{endpoint=\"127.0.0.1:1\",upstream=\"{name}\"}} 1");
    assert!(scrape().contains(&series), "{}", scrape());
    registry.apply(&[one]);
    let of_upstream = || scrape().lines().filter(|it| it.contains(&name)).map(str::to_owned).collect::<Vec<_>>();
    assert!(of_upstream().iter().all(|it| !it.contains("127.0.0.1:2")), "{:?}", of_upstream());
    assert!(of_upstream().iter().any(|it| it.contains("127.0.0.1:1")));
    registry.apply(&[]);
    assert_eq!(of_upstream(), [""; 0]);
}

fn scrape() -> String {
    let mut text = Vec::new();
    prometheus::TextEncoder::new().encode(&prometheus::gather(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// An endpoint whose answer the test decides.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let (answer, count) = (Arc::clone(&status), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, count, tls) = (Arc::clone(&answer), Arc::clone(&count), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &answer, &count).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &answer, &count).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, status, asked, task }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &AtomicU16, asked: &AtomicUsize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    assert!(head.starts_with(b"GET /health HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
    asked.fetch_add(1, SeqCst);
    let answer = format!("HTTP/1.1 {} X\r\nContent-Length: 2\r\n\r\nok", status.load(SeqCst));
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn checked(addresses: &[SocketAddr], health: &str) -> String {
    let list: Vec<_> = addresses.iter().map(|it| format!("\"{it}\"")).collect();
    format!("{{ discovery: {{ static: [{}] }}, health: {{ {health}, {OFTEN} }} }}", list.join(", "))
}

fn fleet_of(name: &str, yaml: &str) -> (UpstreamRegistry, Arc<Live>) {
    let registry = UpstreamRegistry::new();
    let live = registry.apply(&[compile(name, yaml)]).remove(0);
    registry.start(&Handle::current());
    (registry, live)
}

async fn becomes(live: &Live, index: usize, health: Health) {
    until(&format!("{index} becomes {health:?}"), || live.endpoints()[index].health() == health).await;
}

#[tokio::test]
async fn an_unhealthy_endpoint_is_skipped_until_it_is_back() {
    let (good, bad, name) = (Server::start().await, Server::start().await, name("flip"));
    let (registry, live) = fleet_of(&name, &checked(&[good.address, bad.address], "http: /health, fail_after: 2"));
    let first = registry.report().remove(0).endpoints.remove(0);
    assert_eq!((first.health, first.pending), (Health::Unknown, true));
    assert_eq!(live.eligible(), 2, "endpoints get requests before their first check");
    becomes(&live, 0, Health::Healthy).await;
    becomes(&live, 1, Health::Healthy).await;

    bad.answers(503);
    becomes(&live, 1, Health::Unhealthy).await;
    until("one is left", || live.eligible() == 1).await;
    let picks = shares(&live, 10);
    assert_eq!(picks.get(&bad.address.port()), None);
    assert!(live.pick(None, &[good.address]).is_none(), "the only healthy one was tried");
    let reason = || registry.report().remove(0).endpoints.remove(1).last_error;
    until("the reason is reported", || reason().as_deref() == Some("it answered with status 503")).await;
    let gauge = format!("moongate_endpoint_healthy{{endpoint=\"{}\",upstream=\"{name}\"}} 0", bad.address);
    assert!(scrape().contains(&gauge));

    good.answers(500);
    becomes(&live, 0, Health::Unhealthy).await;
    assert!(live.pick(None, &[]).is_none(), "there is no panic mode");

    bad.answers(200);
    becomes(&live, 1, Health::Healthy).await;
    until("one is back", || live.eligible() == 1).await;
    assert_eq!(picked_port(&live, &[]), bad.address.port());
    assert!(scrape().contains(&format!("moongate_endpoint_changes_total{{upstream=\"{name}\"}} ")));
}

#[tokio::test]
async fn other_statuses_pass_when_they_are_expected() {
    let server = Server::start().await;
    server.answers(204);
    let (_fleet, live) = fleet_of(&name("expect"), &checked(&[server.address], "http: /health, expect: [200, 204]"));
    becomes(&live, 0, Health::Healthy).await;
}

#[tokio::test]
async fn a_tcp_check_sees_a_port_close_and_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_fleet, live) = fleet_of(&name("tcp"), &checked(&[address], "tcp: true, fail_after: 1"));
    becomes(&live, 0, Health::Healthy).await;
    drop(listener);
    becomes(&live, 0, Health::Unhealthy).await;
    let _listener = TcpListener::bind(address).await.unwrap();
    becomes(&live, 0, Health::Healthy).await;
}

#[tokio::test]
async fn the_first_check_decides_at_once() {
    let server = Server::start().await;
    server.answers(503);
    let yaml = checked(&[server.address], "http: /health, fail_after: 1000");
    let (_fleet, live) = fleet_of(&name("first"), &yaml);
    becomes(&live, 0, Health::Unhealthy).await;
}

#[tokio::test]
async fn health_lives_on_in_a_changed_upstream_and_is_checked_there() {
    let (server, name) = (Server::start().await, name("changing"));
    server.answers(503);
    let yaml = checked(&[server.address], "http: /health");
    let (registry, old) = fleet_of(&name, &yaml);
    becomes(&old, 0, Health::Unhealthy).await;
    let new = registry.apply(&[compile(&name, &yaml.replace("/health", "/health, pass_after: 2"))]).remove(0);
    assert!(!Arc::ptr_eq(&old, &new));
    assert!(new.pick(None, &[]).is_none(), "unhealthy before, unhealthy after");
    server.answers(200);
    until("the new one has it back", || new.eligible() == 1).await;

    server.answers(503);
    until("it is lost again", || new.eligible() == 0).await;
    let unchecked = format!("discovery: {{ static: [\"{}\"] }}", server.address);
    let new = registry.apply(&[compile(&name, &unchecked)]).remove(0);
    assert_eq!(new.endpoints()[0].health(), Health::Unknown);
    assert!(new.pick(None, &[]).is_some(), "what nobody checks can not be unhealthy");
}

#[tokio::test]
async fn checks_stop_with_their_upstream_and_with_the_fleet() {
    for drop_fleet in [false, true] {
        let server = Server::start().await;
        let (registry, live) = fleet_of(&name("gone"), &checked(&[server.address], "http: /health"));
        until("it is probed", || server.asked() > 1).await;
        let checked = Arc::downgrade(&live);
        drop(live);
        let _fleet = if drop_fleet {
            drop(registry);
            None
        } else {
            registry.apply(&[]);
            Some(registry)
        };
        // Only a checker could still hold it, and without a checker nobody asks.
        until("its checker ends", || checked.upgrade().is_none()).await;
    }
}

#[tokio::test]
async fn checks_speak_http2_and_reuse_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (connected, count) = (Arc::clone(&connections), Arc::clone(&asked));
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connected.fetch_add(1, SeqCst);
            let count = Arc::clone(&count);
            let answer = service_fn(move |_| {
                count.fetch_add(1, SeqCst);
                async { Ok::<_, std::convert::Infallible>(hyper::Response::new(Empty::<&[u8]>::new())) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let yaml = checked(&[address], "http: /health").replacen('{', "{ protocol: http2,", 1);
    let (_fleet, live) = fleet_of(&name("h2"), &yaml);
    becomes(&live, 0, Health::Healthy).await;
    until("it is probed again", || asked.load(SeqCst) > 2).await;
    assert!(connections.load(SeqCst) < asked.load(SeqCst));
    server.abort();
}

/// A directory that goes when the test ends.
struct Files(std::path::PathBuf);

impl Files {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("{}-{}", name("moongate-upstream"), std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn checks_trust_the_authority_that_the_upstream_names() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = Files::new();
    let own = rcgen::generate_simple_self_signed(["backend.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["backend.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let server = Server::start_with(Some(Arc::new(config).into())).await;
    for (certificate, health) in [(&own, Health::Healthy), (&other, Health::Unhealthy)] {
        let ca = files.write("ca.pem", &certificate.cert.pem());
        let tls = format!("{{ tls: {{ sni: backend.test, ca: {ca} }},");
        let yaml = checked(&[server.address], "http: /health").replacen('{', &tls, 1);
        let (_fleet, live) = fleet_of(&name("tls"), &yaml);
        becomes(&live, 0, health).await;
    }
}

#[test]
fn certificate_files_are_judged_by_what_is_in_them() {
    let files = Files::new();
    let pair = rcgen::generate_simple_self_signed(["client.test".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["client.test".to_owned()]).unwrap();
    let cert = files.write("cert.pem", &pair.cert.pem());
    let key = files.write("key.pem", &pair.signing_key.serialize_pem());
    let wrong = files.write("wrong.pem", &stranger.signing_key.serialize_pem());
    let junk = files.write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let yaml = |tls: &str| format!("{{ discovery: {{ static: [\"1.1.1.1:1\"] }}, tls: {{ sni: a.b, {tls} }} }}");

    let with_key = yaml(&format!("client_cert: {cert}, client_key: {key}"));
    let first = compile("mtls", &with_key);
    assert_eq!(first, compile("mtls", &with_key));
    let both = files.write("both.pem", &format!("{}{}", pair.cert.pem(), pair.signing_key.serialize_pem()));
    assert_ne!(first, compile("mtls", &yaml(&format!("client_cert: {both}"))));
    files.write("cert.pem", &format!("{}\n", pair.cert.pem()));
    assert_ne!(first, compile("mtls", &with_key), "a file's new contents are a change");

    let fault = |tls: &str, expected: &str| check_diagnostics(&yaml(tls), &[expected]);
    fault(&format!("client_cert: {cert}, client_key: {wrong}"), "/tls/client_cert: the key does not fit");
    fault(&format!("client_cert: {cert}"), "/tls/client_cert: the key is no private key");
    fault(&format!("ca: {junk}"), "/tls/ca: `");
    fault(&format!("ca: {key}"), "/tls/ca: `");
    fault(&format!("client_cert: {junk}, client_key: {key}"), "/tls/client_cert: ");
}
