//! Endpoints: how requests are spread, what is noticed about them, how long they may take, what a
//! client is told when none will do.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use super::support::http1::request_bytes;
use super::support::upstream::{answer_bytes, chunk, chunked_head};
use super::support::*;

/// One worker, so that which connection is used again is not a matter of luck.
const ONE_THREAD: &str = r#"
listeners:
  public: [{ address: "127.0.0.1:0" }]
  admin: { address: "127.0.0.1:0" }
threads: 1
"#;

/// Everything goes to one upstream with these settings.
fn routes(upstream: &str, timeouts: &str) -> String {
    format!(
        "version: 1\nupstreams:\n  back: {{ {upstream} }}\nroutes:\n  \
         - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: back, timeouts: {{ {timeouts} }} }}\n"
    )
}

fn fixed(addresses: &[SocketAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(|it| format!("\"{it}\"")).collect();
    format!("discovery: {{ static: [{}] }}", list.join(", "))
}

fn named(name: &'static str) -> RawUpstream {
    RawUpstream::start(move |_| Script::ok(name))
}

/// What `/admin/upstreams` shows of the one upstream.
fn report(gateway: &Gateway) -> Value {
    let all = gateway.admin_get("/admin/upstreams").json();
    all["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == "back").unwrap().clone()
}

#[track_caller]
fn refused(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str().unwrap()), (status, code));
}

// ── Which endpoint ──────────────────────────────────────────────────────────────────────────────

#[test]
fn r1_2_round_robin_is_smooth_and_by_weight() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let upstream = format!(
        "discovery: {{ static: [{{ address: \"{}\", weight: 5 }}, \"{}\", \"{}\"] }}",
        a.address(),
        b.address(),
        c.address()
    );
    let gateway = Gateway::start(routes(&upstream, ""));
    let served: String = (0..14).map(|_| gateway.get("/").text()).collect();
    assert_eq!(served, "aabacaaaabacaa");
}

#[test]
fn r1_2_random_serves_every_endpoint() {
    let (a, b) = (named("a"), named("b"));
    let upstream = format!("{}, balance: random", fixed(&[a.address(), b.address()]));
    let gateway = Gateway::start(routes(&upstream, ""));
    let served: String = (0..200).map(|_| gateway.get("/").text()).collect();
    // A fair coin shows one side less than 40 times in 200 once in 10^18 runs.
    assert!(served.matches('a').count() > 40 && served.matches('b').count() > 40, "{served}");
    assert!(!"ab".repeat(100).contains(&served), "that is in turn, not at random");
}

#[test]
fn r1_2_least_request_counts_weights_among_equals() {
    let (a, b) = (named("a"), named("b"));
    let upstream = format!(
        "balance: least_request, discovery: {{ static: [{{ address: \"{}\", weight: 5 }}, \"{}\"] }}",
        a.address(),
        b.address()
    );
    let gateway = Gateway::start(routes(&upstream, ""));
    let mut served = String::new();
    for _ in 0..120 {
        served += &gateway.get("/").text();
        // One at a time: the next one is picked when this one counts no more.
        eventually("it ended", || {
            let flights = report(&gateway)["endpoints"].as_array().unwrap().clone();
            flights.iter().all(|it| it["in_flight"] == 0).then_some(())
        });
    }
    assert_eq!((served.matches('a').count(), served.matches('b').count()), (100, 20), "{served}");
}

#[test]
fn r1_2_least_request_leaves_a_busy_endpoint_alone() {
    let release = Signal::new();
    let slow = |name: &'static str, release: &Signal| {
        let release = release.clone();
        RawUpstream::start(move |request| match request.target().as_str() {
            "/slow" => Script::new().read_body().wait(&release).send(answer_bytes(200, &[], name.as_bytes())),
            _ => Script::ok(name),
        })
    };
    let (a, b) = (slow("a", &release), slow("b", &release));
    let upstream = format!("{}, balance: least_request", fixed(&[a.address(), b.address()]));
    let gateway = Gateway::start(routes(&upstream, ""));
    let mut held = RawClient::connect(gateway.public());
    held.send(request_bytes(gateway.public(), "GET", "/slow", &[], b""));
    eventually("one request in flight", || {
        let endpoints = report(&gateway)["endpoints"].as_array().unwrap().clone();
        endpoints.iter().any(|it| it["in_flight"] == 1).then_some(())
    });
    let mut served = String::new();
    for _ in 0..20 {
        served += &gateway.get("/fast").text();
        // The next one is picked when this one counts no more.
        eventually("the fast one ended", || {
            let flights = report(&gateway)["endpoints"].as_array().unwrap().clone();
            (flights.iter().map(|it| it["in_flight"].as_u64().unwrap()).sum::<u64>() == 1).then_some(())
        });
    }
    release.give();
    let busy = held.read_response().text();
    assert!(!served.contains(&busy), "{busy} was busy, but {served}");
}

#[test]
fn r1_3_one_dead_endpoint_costs_no_request() {
    let (live, dead) = (named("live"), nobody());
    let gateway = Gateway::start(routes(&fixed(&[dead, live.address()]), ""));
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "live");
        // What never reached anybody may be repeated whatever the method.
        assert_eq!(gateway.request("POST", "/", &[], "body").text(), "live");
    }
    let line = gateway.log_lines().into_iter().filter_map(|it| it.json).find(|it| it["attempts"] == 2);
    let line = line.unwrap_or_else(|| gateway.wait_for_event("request", |it| it["attempts"] == 2));
    assert_eq!(line["endpoint"], live.address().to_string());
}

#[test]
fn r1_3_a_back_end_that_dies_under_load_is_noticed_without_a_failure() {
    let (mut one, two) = (Demo::start("one"), Demo::start("two"));
    let health = "health: { http: /health, every: 300ms, timeout: 290ms, fail_after: 2 }";
    let upstream = format!("{}, {health}", fixed(&[one.address(), two.address()]));
    let gateway = Gateway::start(routes(&upstream, ""));
    let failed = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = RawClient::connect(gateway.public());
                while !over.load(Ordering::Relaxed) {
                    client.send(request_bytes(gateway.public(), "GET", "/echo", &[("connection", "keep-alive")], b""));
                    if client.read_response().status != 200 {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let address = one.address().to_string();
        for round in 1..=2 {
            one.stop();
            eventually("it is out", || {
                (gateway.events("endpoint_unhealthy").iter().filter(|it| it["endpoint"] == address).count() >= round)
                    .then_some(())
            });
            one.restart();
            eventually("it is in", || (report(&gateway)["eligible"] == 2).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.into_inner(), 0, "{}", gateway.log_tail());
}

// ── Health ──────────────────────────────────────────────────────────────────────────────────────

/// An endpoint whose health can be switched, and that counts how often it was asked.
fn switched() -> (RawUpstream, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (well, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_well, count) = (well.clone(), asked.clone());
    let upstream = RawUpstream::start(move |request| {
        if request.target() != "/health?deep=1" {
            return Script::ok("switched");
        }
        count.fetch_add(1, Ordering::Relaxed);
        Script::answer(if is_well.load(Ordering::Relaxed) { 204 } else { 500 }, &[], "")
    });
    (upstream, well, asked)
}

#[test]
fn r6_3_r6_4_an_endpoint_goes_out_and_comes_back_by_its_checks() {
    let (sick, well, _) = switched();
    let other = named("other");
    let health = "health: { http: \"/health?deep=1\", every: 200ms, timeout: 190ms, fail_after: 2, pass_after: 2, expect: [200, 204] }";
    let gateway = Gateway::start(routes(&format!("{}, {health}", fixed(&[sick.address(), other.address()])), ""));
    let address = sick.address().to_string();
    let series = format!("moongate_endpoint_healthy{{endpoint=\"{address}\",upstream=\"back\"}}");
    gateway.wait_for_event("endpoint_healthy", |it| it["endpoint"] == address);
    assert_eq!(figure(&gateway, &series), Some(1.0));

    well.store(false, Ordering::Relaxed);
    let out = gateway.wait_for_event("endpoint_unhealthy", |it| it["endpoint"] == address);
    assert_eq!((&out["upstream"], &out["level"]), (&json!("back"), &json!("warn")));
    assert!(out["reason"].as_str().unwrap().contains("500"), "{out}");
    assert_eq!(figure(&gateway, &series), Some(0.0));
    for _ in 0..6 {
        assert_eq!(gateway.get("/").text(), "other");
    }
    let shown = report(&gateway);
    assert_eq!((&shown["eligible"], &shown["endpoints"][0]["health"]), (&json!(1), &json!("unhealthy")));
    assert!(shown["endpoints"][0]["last_error"].as_str().unwrap().contains("500"));

    well.store(true, Ordering::Relaxed);
    eventually("it serves again", || (gateway.get("/").text() == "switched").then_some(()));
    assert_eq!(figure(&gateway, &series), Some(1.0));
    let changes = figure(&gateway, "moongate_endpoint_changes_total{upstream=\"back\"}").unwrap();
    assert!(changes >= 3.0, "{changes}");
}

#[test]
fn r6_2_a_single_failed_check_is_below_the_threshold() {
    let failures = Arc::new(AtomicUsize::new(0));
    let (count, asked) = (failures.clone(), Arc::new(AtomicUsize::new(0)));
    let number = asked.clone();
    // Every third check fails; three in a row would be needed.
    let upstream = RawUpstream::start(move |request| {
        if request.target() != "/health" {
            return Script::ok("served");
        }
        let fails = number.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        if fails {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Script::answer(if fails { 503 } else { 200 }, &[], "")
    });
    let health = "health: { http: /health, every: 300ms, timeout: 290ms, fail_after: 3, jitter: 0% }";
    let gateway = Gateway::start(routes(&format!("{}, {health}", fixed(&[upstream.address()])), ""));
    eventually("two checks failed", || (failures.load(Ordering::Relaxed) >= 2).then_some(()));
    eventually("and the next passed", || (asked.load(Ordering::Relaxed) >= 7).then_some(()));
    assert!(gateway.events("endpoint_unhealthy").is_empty(), "{}", gateway.log_tail());
    assert_eq!(report(&gateway)["endpoints"][0]["health"], "healthy");
}

#[test]
fn r6_2_a_tcp_check_sees_who_listens() {
    let mut demo = Demo::start("one");
    let health = "health: { tcp: true, every: 200ms, timeout: 190ms, fail_after: 2, pass_after: 2 }";
    let gateway = Gateway::start(routes(&format!("{}, {health}", fixed(&[demo.address()])), ""));
    assert_eq!(gateway.get("/echo").status, 200);
    demo.stop();
    gateway.wait_for_event("endpoint_unhealthy", |_| true);
    let answer = gateway.get("/echo");
    refused(&answer, 503, "upstream_unavailable");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    demo.restart();
    eventually("it serves again", || (gateway.get("/echo").status == 200).then_some(()));
    let checks =
        |result| figure(&gateway, &format!("moongate_health_checks_total{{result=\"{result}\",upstream=\"back\"}}"));
    assert!(checks("pass").unwrap() >= 2.0 && checks("fail").unwrap() >= 2.0);
}

#[test]
fn no_healthy_endpoint_is_a_503_that_says_when_to_come_back() {
    let health = "health: { tcp: true, every: 1h }";
    let gateway = Gateway::start(routes(&format!("{}, {health}", fixed(&[nobody(), nobody()])), ""));
    eventually("both are out", || (report(&gateway)["eligible"] == 0).then_some(()));
    let answer = gateway.get("/");
    refused(&answer, 503, "upstream_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

// ── Time limits ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_connection_that_does_not_come_about_is_a_504() {
    // Whoever listens but never shakes hands keeps the connection from coming about.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = "tls: { sni: back.test, ca: ca.pem }";
    let upstream = format!("{}, {tls}", fixed(&[deaf.local_addr().unwrap()]));
    let gateway = Gateway::with(routes(&upstream, "connect: 200ms, request: 1h, first_byte: 1h"))
        .file("ca.pem", Ca::new("one").pem())
        .start();
    refused(&gateway.get("/"), 504, "upstream_connect_timeout");
}

#[test]
fn an_endpoint_that_takes_no_connection_is_a_504() {
    // A queue that nobody empties: once it is full, the kernel answers no more.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let waiting = std::iter::from_fn(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok());
    let _waiting: Vec<_> = waiting.collect();
    let gateway = Gateway::start(routes(&fixed(&[address]), "connect: 200ms, request: 1h, first_byte: 1h"));
    refused(&gateway.request("POST", "/", &[], "x"), 504, "upstream_connect_timeout");
    // And it costs no request if there is another one.
    let live = named("live");
    let gateway = Gateway::start(routes(&fixed(&[address, live.address()]), "connect: 200ms"));
    assert_eq!(gateway.request("POST", "/", &[], "x").text(), "live");
}

#[test]
fn an_answer_that_does_not_begin_is_a_504() {
    let upstream = RawUpstream::start(|_| Script::silence());
    let gateway = Gateway::start(routes(&fixed(&[upstream.address()]), "first_byte: 300ms"));
    refused(&gateway.get("/"), 504, "upstream_timeout");
    upstream.wait_for_closed(1);
    assert_eq!(upstream.requests().len(), 1, "what may have been worked on is not repeated");
}

#[test]
fn a_request_that_takes_too_long_in_all_is_a_504() {
    let upstream = RawUpstream::start(|_| Script::silence());
    let gateway = Gateway::start(routes(&fixed(&[upstream.address()]), "request: 300ms, first_byte: 1h"));
    refused(&gateway.get("/"), 504, "request_deadline");
    upstream.wait_for_closed(1);
}

#[test]
fn an_answer_that_falls_silent_is_cut_and_the_log_says_so() {
    let upstream =
        RawUpstream::start(|_| Script::new().read_body().send(chunked_head(200)).send(chunk(b"half")).await_close());
    let gateway = Gateway::start(routes(&fixed(&[upstream.address()]), "idle: 300ms, request: 1h"));
    let mut client = RawClient::connect(gateway.public());
    client.send(request_bytes(gateway.public(), "GET", "/", &[], b""));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"half");
    assert!(client.try_read_piece().is_err(), "cut, so that nobody takes half for whole");
    upstream.wait_for_closed(1);
    assert_eq!(gateway.wait_for_event("request", |_| true)["end"], "truncated");
}

// ── What goes wrong ─────────────────────────────────────────────────────────────────────────────

#[test]
fn an_upstream_that_can_not_be_reached_is_a_502() {
    let gateway = Gateway::start(routes(&fixed(&[nobody()]), ""));
    refused(&gateway.get("/"), 502, "upstream_unreachable");
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_a_502() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().close());
    let gateway = Gateway::start(routes(&fixed(&[upstream.address()]), ""));
    refused(&gateway.request("POST", "/", &[], "x"), 502, "upstream_closed");
    assert_eq!(upstream.requests().len(), 1, "a POST that may have been worked on is not repeated");
}

#[test]
fn an_upstream_that_answers_nonsense_is_a_502() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().send("nonsense\r\n\r\n").close());
    let gateway = Gateway::start(routes(&fixed(&[upstream.address()]), ""));
    refused(&gateway.get("/"), 502, "upstream_protocol_error");
}

#[test]
fn the_upstreams_own_errors_pass_untouched_and_are_not_held_against_it() {
    let upstream = RawUpstream::start(|_| Script::answer(503, &[("x-own", "1")], "mine"));
    let gateway = Gateway::start(routes(&fixed(&[upstream.address()]), ""));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-own")), (503, "mine", Some("1")));
    assert_eq!(upstream.requests().len(), 1);
}

// ── Connections ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn connections_to_upstreams_are_kept_and_used_again() {
    let upstream = named("kept");
    let gateway = Gateway::with(routes(&fixed(&[upstream.address()]), "")).config(ONE_THREAD).start();
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "kept");
        assert_eq!(gateway.request("POST", "/", &[], "body").text(), "kept");
    }
    assert_eq!(upstream.connections(), 1);
    gateway.wait_for_event("request", |it| it["reused"] == true);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    const IDLE: Duration = Duration::from_millis(300);
    let upstream = named("kept");
    let settings = format!("{}, keep_alive: {{ idle: 300ms }}", fixed(&[upstream.address()]));
    let gateway = Gateway::with(routes(&settings, "")).config(ONE_THREAD).start();
    let begin = Instant::now();
    assert_eq!(gateway.get("/").text(), "kept");
    upstream.wait_for_closed(1);
    // Not before; a busy machine makes it later only.
    assert!(begin.elapsed() >= IDLE, "closed after {:?}", begin.elapsed());
    assert_eq!(gateway.get("/").text(), "kept");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_kept_connection_that_died_costs_no_request() {
    // Each connection serves one request and is closed behind the gateway's back.
    let upstream = RawUpstream::start(|_| Script::ok("once").close());
    let gateway = Gateway::with(routes(&fixed(&[upstream.address()]), "")).config(ONE_THREAD).start();
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "once");
    }
}

// ── TLS and HTTP/2 ──────────────────────────────────────────────────────────────────────────────

#[test]
fn an_upstream_over_tls_is_verified() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let upstream = RawUpstream::start_tls(&ca.leaf(&["back.test"]), &[], |_| Script::ok("secret"));
    let with = |sni: &str, ca: &str| {
        let tls = format!("tls: {{ sni: {sni}, ca: {ca} }}");
        let routes = routes(&format!("{}, {tls}", fixed(&[upstream.address()])), "");
        Gateway::with(routes)
    };
    let files = |it: gateway::GatewayBuilder| it.file("ca.pem", ca.pem()).file("other.pem", other.pem());
    let right = files(with("back.test", "ca.pem")).start();
    assert_eq!(right.get("/").text(), "secret");
    refused(&files(with("back.test", "other.pem")).start().get("/"), 502, "upstream_unreachable");
    refused(&files(with("wrong.test", "ca.pem")).start().get("/"), 502, "upstream_unreachable");
    assert_eq!(upstream.requests().len(), 1, "nothing was sent to whom nobody vouched for");
}

#[test]
fn an_http2_upstream_serves_many_requests_over_one_connection() {
    let upstream = Http2Upstream::start();
    let settings = format!("{}, protocol: http2", fixed(&[upstream.address]));
    let gateway = Gateway::with(routes(&settings, "")).config(ONE_THREAD).start();
    for _ in 0..5 {
        assert_eq!(gateway.get("/hello?a=b").text(), "GET /hello?a=b 0");
        assert_eq!(gateway.request("POST", "/up", &[], "12345").text(), "POST /up 5");
    }
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 1);
}

#[test]
fn an_http2_upstream_is_checked_over_http2() {
    let upstream = Http2Upstream::start();
    let health = "health: { http: /health, every: 1h }";
    let settings = format!("{}, protocol: http2, {health}", fixed(&[upstream.address]));
    let gateway = Gateway::start(routes(&settings, ""));
    gateway.wait_for_event("endpoint_healthy", |it| it["upstream"] == "back");
}

#[test]
fn an_http2_upstream_over_tls_is_spoken_to_by_alpn() {
    let ca = Ca::new("one");
    let upstream = Http2Upstream::start_tls(&ca.leaf(&["back.test"]));
    let tls = "protocol: http2, tls: { sni: back.test, ca: ca.pem }, health: { http: /health, every: 1h }";
    let settings = format!("{}, {tls}", fixed(&[upstream.address]));
    let gateway = Gateway::with(routes(&settings, "")).file("ca.pem", ca.pem()).start();
    gateway.wait_for_event("endpoint_healthy", |it| it["upstream"] == "back");
    assert_eq!(gateway.request("POST", "/up", &[], "12345").text(), "POST /up 5");
}

#[test]
fn r6_3_checks_verify_certificates_as_requests_do() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let upstream = RawUpstream::start_tls(&ca.leaf(&["back.test"]), &[], |_| Script::ok("secret"));
    let with = |file: &str| {
        let tls = format!("tls: {{ sni: back.test, ca: {file} }}, health: {{ http: /health, every: 1h }}");
        let routes = routes(&format!("{}, {tls}", fixed(&[upstream.address()])), "");
        Gateway::with(routes).file("ca.pem", ca.pem()).file("other.pem", other.pem()).start()
    };
    with("ca.pem").wait_for_event("endpoint_healthy", |it| it["upstream"] == "back");
    assert_eq!(upstream.requests().len(), 1);
    with("other.pem").wait_for_event("endpoint_unhealthy", |it| it["upstream"] == "back");
    assert_eq!(upstream.requests().len(), 1);
}

/// Speaks HTTP/2, with prior knowledge or behind TLS; answers with method, target and the length of the body.
struct Http2Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Http2Upstream {
    fn start() -> Self {
        Self::listen(None)
    }

    fn start_tls(leaf: &Leaf) -> Self {
        Self::listen(Some(leaf.server(&["h2"])))
    }

    fn listen(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                match tls.clone().map(tokio_rustls::TlsAcceptor::from) {
                    None => drop(tokio::spawn(serve_http2(socket))),
                    Some(tls) => {
                        drop(tokio::spawn(async move { serve_http2(tls.accept(socket).await.unwrap()).await }));
                    }
                }
            }
        });
        Self { address, connections, _runtime: runtime }
    }
}

async fn serve_http2(socket: impl AsyncRead + AsyncWrite + Unpin) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut length = 0;
            while let Some(Ok(piece)) = body.data().await {
                length += piece.len();
                let _ = body.flow_control().release_capacity(piece.len());
            }
            let text = format!("{} {} {length}", head.method, head.uri.path_and_query().unwrap());
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(Bytes::from(text), true).unwrap();
        });
    }
}

// ── What an operator sees ───────────────────────────────────────────────────────────────────────

#[test]
fn the_admin_page_shows_endpoints_as_they_are() {
    let (one, dead) = (named("one"), nobody());
    let upstream = format!(
        "discovery: {{ static: [{{ address: \"{}\", weight: 3, zone: north }}, \"{dead}\"] }}, \
         health: {{ tcp: true, every: 1h }}",
        one.address()
    );
    let gateway = Gateway::start(routes(&upstream, ""));
    gateway.wait_for_event("endpoint_unhealthy", |_| true);
    gateway.wait_for_event("endpoint_healthy", |_| true);
    assert_eq!(gateway.get("/").text(), "one");
    let shown = eventually("the request counts and is over", || {
        let over = |it: &Value| it["endpoints"][0]["requests"] == 1 && it["endpoints"][0]["in_flight"] == 0;
        Some(report(&gateway)).filter(over)
    });
    assert_eq!((&shown["kind"], &shown["balance"]), (&json!("remote"), &json!("round_robin")));
    let (first, second) = (&shown["endpoints"][0], &shown["endpoints"][1]);
    assert_eq!(first["address"], one.address().to_string());
    assert_eq!((&first["weight"], &first["zone"], &first["health"]), (&json!(3), &json!("north"), &json!("healthy")));
    assert_eq!((&first["in_flight"], &first["failures"]), (&json!(0), &json!(0)));
    assert!(
        first["latency_ms"].as_f64().unwrap() > 0.0 && first["last_check"].as_str().is_some_and(|it| it.ends_with('Z'))
    );
    assert_eq!((&second["health"], &second["requests"]), (&json!("unhealthy"), &json!(0)));
    assert!(!second["last_error"].as_str().unwrap().is_empty());
}

#[test]
fn endpoints_come_and_go_with_reloads_and_so_do_their_series() {
    let (one, two) = (named("one"), named("two"));
    let health = "health: { tcp: true, every: 200ms, timeout: 190ms }";
    let of = |upstream: &RawUpstream| routes(&format!("{}, {health}", fixed(&[upstream.address()])), "");
    let gateway = Gateway::start(of(&one));
    assert_eq!(gateway.get("/").text(), "one");
    gateway.write_routes(&of(&two));
    eventually("the other serves", || (gateway.get("/").text() == "two").then_some(()));
    gateway.wait_for_event("endpoint_removed", |it| it["endpoint"] == one.address().to_string());
    gateway.wait_for_event("endpoint_added", |it| it["endpoint"] == two.address().to_string());
    let metrics = gateway.admin_get("/metrics").text();
    assert!(!metrics.contains(&one.address().to_string()), "series of what is gone go, too");
    assert!(metrics.contains(&two.address().to_string()));
}
