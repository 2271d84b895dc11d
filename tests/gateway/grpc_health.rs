//! Checks by gRPC's health protocol (R6.2), against a server that speaks it: grpc/health/v1/health.proto of
//! grpc/grpc-proto, over HTTP/2 with and without TLS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use crate::support::*;

const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// A call of `Check` as it came.
#[derive(Clone, Debug, PartialEq)]
struct Check {
    authority: String,
    content_type: String,
    te: String,
    service: String,
}

#[derive(Default)]
struct Known {
    /// By service; the server as a whole is the empty one.
    statuses: Mutex<HashMap<String, u8>>,
    checks: Mutex<Vec<Check>>,
}

/// A gRPC server with the health service and no other.
struct HealthServer {
    address: SocketAddr,
    known: Arc<Known>,
    _runtime: Runtime,
}

impl HealthServer {
    fn start(statuses: &[(&str, u8)], tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let known = Arc::new(Known::default());
        let server = Self { address, known: known.clone(), _runtime: runtime };
        statuses.iter().for_each(|(service, status)| server.set(service, *status));
        server._runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let known = known.clone();
                match tls.clone().map(tokio_rustls::TlsAcceptor::from) {
                    None => drop(tokio::spawn(serve(socket, known))),
                    Some(tls) => drop(tokio::spawn(async move {
                        if let Ok(socket) = tls.accept(socket).await {
                            serve(socket, known).await;
                        }
                    })),
                }
            }
        });
        server
    }

    fn set(&self, service: &str, status: u8) {
        self.known.statuses.lock().unwrap().insert(service.to_owned(), status);
    }

    fn checks(&self) -> Vec<Check> {
        self.known.checks.lock().unwrap().clone()
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, known: Arc<Known>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, known.clone()));
    }
}

async fn answer(request: HttpRequest<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>, known: Arc<Known>) {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        message.extend_from_slice(&piece);
    }
    if head.uri.path() != "/grpc.health.v1.Health/Check" {
        return refuse(&mut respond, 12);
    }
    let field = |name: &str| head.headers.get(name).map_or(String::new(), |it| it.to_str().unwrap().to_owned());
    let service = service_in(&message);
    let authority = head.uri.authority().map_or(String::new(), ToString::to_string);
    let check = Check { authority, content_type: field("content-type"), te: field("te"), service: service.clone() };
    known.checks.lock().unwrap().push(check);
    let Some(status) = known.statuses.lock().unwrap().get(&service).copied() else { return refuse(&mut respond, 5) };
    let head = HttpResponse::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    // HealthCheckResponse { ServingStatus status = 1 }
    stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]), false).unwrap();
    stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])).unwrap();
}

/// HealthCheckRequest { string service = 1 }
fn service_in(frame: &[u8]) -> String {
    let (head, message) = frame.split_at(5);
    assert_eq!((head[0], u32::from_be_bytes(head[1..].try_into().unwrap())), (0, message.len() as u32));
    if message.is_empty() {
        return String::new();
    }
    assert_eq!((message[0], usize::from(message[1])), (0x0a, message.len() - 2));
    String::from_utf8(message[2..].to_vec()).unwrap()
}

/// An answer that is nothing but trailers.
fn refuse(respond: &mut h2::server::SendResponse<Bytes>, status: u16) {
    let head = HttpResponse::builder().header("content-type", "application/grpc").header("grpc-status", status);
    respond.send_response(head.body(()).unwrap(), true).unwrap();
}

fn routes(address: SocketAddr, health: &str, rest: &str) -> String {
    format!(
        "version: 1
upstreams:
  back:
    discovery: {{ static: [\"{address}\"] }}
    protocol: http2
    health: {{ {health} }}
{rest}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: back }}]
"
    )
}

/// Why the endpoint gets no requests.
#[track_caller]
fn reason(gateway: &Gateway) -> String {
    gateway.wait_for_event("endpoint_unhealthy", |_| true)["reason"].as_str().unwrap().to_owned()
}

#[test]
fn r6_2_serving_passes_and_not_serving_fails() {
    let server = HealthServer::start(&[("", SERVING)], None);
    let health = "grpc: true, every: 200ms, timeout: 190ms, fail_after: 1";
    let gateway = Gateway::start(routes(server.address, health, ""));
    gateway.wait_for_event("endpoint_healthy", |it| it["endpoint"] == server.address.to_string());
    let check = server.checks().remove(0);
    let expected = ("back", "application/grpc", "trailers", "");
    assert_eq!((&*check.authority, &*check.content_type, &*check.te, &*check.service), expected);
    server.set("", NOT_SERVING);
    assert_eq!(reason(&gateway), "it says that it does not serve (NOT_SERVING)");
    assert_eq!(gateway.get("/").json()["error"]["code"], "upstream_unavailable");
    server.set("", SERVING);
    eventually("it is healthy again", || (gateway.events("endpoint_healthy").len() == 2).then_some(()));
    for event in ["endpoint_healthy", "endpoint_unhealthy"] {
        let series = format!("moongate_health_changes_total{{event=\"{event}\",upstream=\"back\"}}");
        assert_eq!(figure(&gateway, &series), Some(if event == "endpoint_healthy" { 2.0 } else { 1.0 }));
    }
}

#[test]
fn r6_2_a_service_is_asked_for_by_its_name() {
    let server = HealthServer::start(&[("tta.Narratives", SERVING), ("tta.Tales", NOT_SERVING)], None);
    let with = |service: &str, host: &str| {
        Gateway::start(routes(server.address, &format!("grpc: {service}, every: 1h, host: {host}"), ""))
    };
    with("tta.Narratives", "narratives.test").wait_for_event("endpoint_healthy", |_| true);
    let check = server.checks().remove(0);
    assert_eq!((&*check.service, &*check.authority), ("tta.Narratives", "narratives.test"));
    assert_eq!(reason(&with("tta.Tales", "x.test")), "it says that it does not serve (NOT_SERVING)");
    assert_eq!(reason(&with("tta.Nothing", "x.test")), "it does not know the service that `health.grpc` names");
}

#[test]
fn r6_3_grpc_checks_verify_certificates_as_requests_do() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let server = HealthServer::start(&[("", SERVING)], Some(ca.leaf(&["back.test"]).server(&["h2"])));
    let with = |file: &str| {
        let tls = format!("    tls: {{ sni: back.test, ca: {file} }}");
        let routes = routes(server.address, "grpc: true, every: 1h", &tls);
        Gateway::with(routes).file("ca.pem", ca.pem()).file("other.pem", other.pem()).start()
    };
    with("ca.pem").wait_for_event("endpoint_healthy", |_| true);
    assert_eq!(server.checks()[0].authority, "back.test");
    assert!(reason(&with("other.pem")).contains("an authority that is not trusted"));
    assert_eq!(server.checks().len(), 1);
}

#[test]
fn what_does_not_speak_the_protocol_fails_and_says_how() {
    let health = "grpc: true, every: 1h";
    let http1 = RawUpstream::start(|_| Script::ok("hello"));
    assert!(!reason(&Gateway::start(routes(http1.address(), health, ""))).is_empty(), "HTTP/1");
    let answers: [(&str, Vec<u8>, Option<&str>, &str); 5] = [
        ("no trailers", vec![0, 0, 0, 0, 2, 0x08, 1], None, "none of gRPC's health protocol"),
        ("no message", vec![], Some("0"), "none of gRPC's health protocol"),
        ("compressed", vec![1, 0, 0, 0, 2, 0x08, 1], Some("0"), "none of gRPC's health protocol"),
        ("too long", vec![0; 10_000], Some("0"), "none of gRPC's health protocol"),
        ("refused", vec![], Some("7"), "does not let the gateway ask"),
    ];
    for (what, body, status, expected) in answers {
        let server = raw_h2(body, status);
        let gateway = Gateway::start(routes(server.0, health, ""));
        let reason = reason(&gateway);
        assert!(reason.contains(expected), "{what}: {reason}");
    }
}

/// A server of HTTP/2 that answers everything with this body, and this `grpc-status` in its trailers.
fn raw_h2(body: Vec<u8>, status: Option<&'static str>) -> (SocketAddr, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let body = BytesMut::from(&body[..]).freeze();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    let mut stream = respond.send_response(HttpResponse::new(()), false).unwrap();
                    let _ = stream.send_data(body.clone(), status.is_none());
                    if let Some(status) = status {
                        let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
                        let _ = stream.send_trailers(status);
                    }
                }
            });
        }
    });
    (address, runtime)
}

#[test]
fn grpc_checks_that_make_no_sense_are_faults() {
    for (health, message) in [
        ("health: { grpc: true }", "a `grpc` check needs HTTP/2"),
        ("protocol: http2, health: { grpc: true, http: /health }", "not more than one"),
        ("protocol: http2, health: { grpc: false }", "it does not say what to check"),
        ("protocol: http2, health: { grpc: true, host: \"a b\" }", "is not a host name"),
    ] {
        let text = format!(
            "version: 1
upstreams: {{ back: {{ discovery: {{ static: [\"127.0.0.1:1\"] }}, {health} }} }}
routes: [{{ name: all, match: {{ path: \"/\" }}, upstream: back }}]
"
        );
        let refused = Gateway::with(text).start_refused();
        assert!(refused.stderr.contains(message), "{health}: {}", refused.stderr);
    }
}
