//! **The matrix**: each way that a request may take, from each kind of client, to each kind of upstream, in each
//! situation. What comes of it hangs on the way and the situation alone, and stands in one table: the ways may differ in
//! speed, in nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Request as HttpRequest, Response as HttpResponse};
use serde_json::Value;

use crate::exchange::H2C;
use crate::http2::H2Upstream;
use crate::support::upstream::{answer_bytes, chunk, last_chunk};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Script, Signal, eventually, figure, nobody};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Get,
    /// Its body comes in pieces, after its head has arrived.
    Post,
    Socket,
    /// The first of its kind, which fetches what is then kept.
    Cached,
    /// With an idempotency key.
    Once,
    /// To a service inside the process.
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Situation {
    Well,
    /// The first endpoint that is asked is not there.
    ConnectionRefused,
    /// The first stream is answered with REFUSED_STREAM; HTTP/2 upstreams only.
    StreamRefused,
    ServerError,
    /// The answer breaks off behind its head.
    Truncated,
    /// The client goes away before there is an answer; of a socket, when it is open.
    ClientGone,
    /// The routes are changed while the upstream works on it.
    Reload,
    /// The gateway stops while the upstream works on it.
    Drain,
}

use Situation::*;

const SITUATIONS: [Situation; 8] =
    [Well, ConnectionRefused, StreamRefused, ServerError, Truncated, ClientGone, Reload, Drain];

/// What becomes of a request.
#[derive(Debug)]
struct Outcome {
    /// What the client is told, and whether all of it came; nothing if it did not stay to hear it.
    heard: Option<(u16, bool)>,
    /// In the access log.
    status: u16,
    attempts: Option<u64>,
    end: &'static str,
    /// As what it counts for its endpoint, where that is certain.
    result: Option<&'static str>,
    /// Which of [`FIELDS`] stand in the log's line.
    fields: Vec<&'static str>,
}

/// Fields of a line that are there or not.
const FIELDS: [&str; 8] =
    ["route", "upstream", "endpoint", "attempts", "reused", "connect_ms", "first_byte_ms", "cache"];

/// The table.
fn expected(way: Way, situation: Situation) -> Outcome {
    let good = if way == Way::Socket { 101 } else { 200 };
    let (heard, status, attempts, end, result) = match situation {
        Well | Reload => (Some((good, true)), good, 1, "done", Some("success")),
        ConnectionRefused | StreamRefused => (Some((good, true)), good, 2, "done", Some("success")),
        // It passes as it is: the client has got what it was meant to get. The upstream has failed.
        ServerError => (Some((500, true)), 500, 1, "done", Some("failure")),
        // Its answer is held until all of it is stored, and nothing has gone out by then: an error in so many words is
        // better for a client than half an answer, and the request may be tried again under the same key.
        Truncated if way == Way::Once => (Some((502, true)), 502, 1, "upstream_error", Some("failure")),
        Truncated => (Some((200, false)), 200, 1, "truncated", Some("failure")),
        ClientGone if way == Way::Socket => (None, 101, 1, "client_gone", None),
        // Nobody was told anything.
        ClientGone => (None, 0, 1, "client_gone", None),
        // A socket has no end of its own that could be waited for.
        Drain if way == Way::Socket => (Some((101, true)), 101, 1, "drained", None),
        Drain => (Some((good, true)), good, 1, "done", None),
    };
    let local = way == Way::Local;
    let mut fields = FIELDS.to_vec();
    fields.retain(|field| match *field {
        "route" | "upstream" => true,
        "cache" => way == Way::Cached && situation != ClientGone,
        "first_byte_ms" => situation != ClientGone || way == Way::Socket,
        _ => !local,
    });
    Outcome { heard, status, attempts: (!local).then_some(attempts), end, result: result.filter(|_| !local), fields }
}

// ── The upstream's side ─────────────────────────────────────────────────────────────────────────

/// What a test and its upstream tell each other.
#[derive(Clone, Default)]
struct Word {
    /// The head of a request that will be answered is there.
    arrived: Signal,
    /// Now the answer may come, or break off.
    go_on: Signal,
}

/// Kept for as long as it is to answer.
enum Upstream {
    Http1(RawUpstream),
    Http2(H2Upstream),
}

impl Upstream {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Http1(it) => it.address(),
            Self::Http2(it) => it.address,
        }
    }

    fn start(server: Server, way: Way, situation: Situation, word: &Word) -> Self {
        let word = word.clone();
        match server {
            Server::Http1 => Self::Http1(RawUpstream::start(move |_| script(way, situation, &word))),
            Server::Http2 => {
                let calls = Arc::new(AtomicUsize::new(0));
                Self::Http2(H2Upstream::start(move |request, respond, _| {
                    let (word, first) = (word.clone(), calls.fetch_add(1, Ordering::SeqCst) == 0);
                    Box::pin(answer(request.into_body(), respond, situation, first, word))
                }))
            }
        }
    }
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const FROM_CLIENT: &[u8] = b"\x81\x82\0\0\0\0hi";
const FROM_UPSTREAM: &[u8] = b"\x81\x02ho";
const GOODBYE: &[u8] = b"\x88\x80\0\0\0\0";

fn script(way: Way, situation: Situation, word: &Word) -> Script {
    let script = Script::new().give(&word.arrived).read_body();
    match situation {
        ServerError => script.send(answer_bytes(500, &[], b"broken")),
        Truncated => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
            script.send(head).send("half").close()
        }
        ClientGone | Drain if way == Way::Socket => script.send(SWITCHED).await_close(),
        _ if way == Way::Socket => {
            let talk = script.send(SWITCHED).read_more(FROM_CLIENT.len()).send(FROM_UPSTREAM);
            talk.read_more(GOODBYE.len()).send(b"\x88\0").close()
        }
        ClientGone | Reload | Drain => script.wait(&word.go_on).send(answer_bytes(200, &[], b"whole")),
        Well | ConnectionRefused | StreamRefused => script.send(answer_bytes(200, &[], b"whole")),
    }
}

async fn answer(
    mut body: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    situation: Situation,
    first: bool,
    word: Word,
) -> Result<(), h2::Error> {
    if situation == StreamRefused && first {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    word.arrived.give();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
    }
    let go_on = async {
        let go_on = word.go_on.clone();
        tokio::task::spawn_blocking(move || go_on.wait()).await.unwrap()
    };
    let status = if situation == ServerError { 500 } else { 200 };
    let head = HttpResponse::builder().status(status).body(()).unwrap();
    match situation {
        Truncated => {
            // Not a reset: it would overtake what is still in the queue.
            let head = HttpResponse::builder().header("content-length", "100").body(()).unwrap();
            return respond.send_response(head, false)?.send_data(Bytes::from_static(b"half"), true);
        }
        ClientGone | Reload | Drain => drop(go_on.await),
        _ => {}
    }
    respond.send_response(head, false)?.send_data(Bytes::from_static(b"whole"), true)
}

// ── The client's side ───────────────────────────────────────────────────────────────────────────

/// A request under way.
enum Asking {
    Http1(RawClient),
    Http2 { client: H2Client, answer: ResponseFuture, body: SendStream<Bytes> },
}

impl Asking {
    fn begin(gateway: &Gateway, client: Client, way: Way, path: &str) -> Self {
        let method = if matches!(way, Way::Post | Way::Once) { "POST" } else { "GET" };
        let key = path.replace('/', "-");
        if client == Client::Http1 {
            let fields = match way {
                Way::Post => "transfer-encoding: chunked\r\n\r\n",
                // Its body is there at once: what is done once is held whole before it goes on.
                Way::Once => &format!("idempotency-key: {key}\r\ncontent-length: 6\r\n\r\nabcdef"),
                Way::Socket => {
                    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                }
                _ => "\r\n",
            };
            let mut client = RawClient::connect(gateway.public());
            client.send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{fields}"));
            return Self::Http1(client);
        }
        let client = H2Client::connect(gateway.public());
        let mut request = HttpRequest::builder().method(method).uri(format!("http://x{path}"));
        if way == Way::Once {
            request = request.header("idempotency-key", &key);
        }
        let bare = method == "GET";
        let mut sender = client.sender();
        let (answer, mut body) = sender.send_request(request.body(()).unwrap(), bare).unwrap();
        if way == Way::Once {
            body.send_data(Bytes::from_static(b"abcdef"), true).unwrap();
        }
        Self::Http2 { client, answer, body }
    }

    /// The pieces of a body that was not sent with the head.
    fn send_body(&mut self) {
        match self {
            Self::Http1(client) => {
                for piece in [chunk(b"abc"), chunk(b"def"), last_chunk(&[])] {
                    client.send(piece);
                }
            }
            Self::Http2 { body, .. } => {
                body.send_data(Bytes::from_static(b"abc"), false).unwrap();
                body.send_data(Bytes::from_static(b"def"), true).unwrap();
            }
        }
    }

    fn leave(self) {
        match self {
            Self::Http1(client) => client.reset(),
            // The connection stays, as that of a browser does that leaves a page.
            Self::Http2 { client, answer, mut body } => {
                body.send_reset(Reason::CANCEL);
                drop(answer);
                client.run(async { tokio::task::yield_now().await });
                // Its thread sends what is to be sent before it goes.
                drop(client);
            }
        }
    }

    /// Reads the answer.
    fn finish(self, way: Way, situation: Situation) -> (u16, bool) {
        match self {
            Self::Http1(mut client) => {
                let Ok(head) = client.try_read_head("GET") else { return (0, false) };
                if way == Way::Socket && head.status == 101 {
                    return (101, talk(&mut client, situation));
                }
                loop {
                    match client.try_read_piece() {
                        Ok(Some(_)) => {}
                        end => return (head.status, end.is_ok()),
                    }
                }
            }
            Self::Http2 { client, answer, .. } => client.run(async {
                let Ok(answer) = answer.await else { return (0, false) };
                let status = answer.status().as_u16();
                let mut stream = answer.into_body();
                while let Some(piece) = stream.data().await {
                    let Ok(piece) = piece else { return (status, false) };
                    let _ = stream.flow_control().release_capacity(piece.len());
                }
                (status, true)
            }),
        }
    }
}

/// A few words over an open socket; whether all of them came.
fn talk(client: &mut RawClient, situation: Situation) -> bool {
    if situation == Drain {
        // Told that it goes away, or just closed.
        return client.read_until_close().len() <= 4;
    }
    client.send(FROM_CLIENT);
    let answered = client.try_read_exactly(FROM_UPSTREAM.len()).is_ok_and(|it| it == FROM_UPSTREAM);
    client.send(GOODBYE);
    answered && client.read_until_close() == b"\x88\0"
}

// ── One cell ────────────────────────────────────────────────────────────────────────────────────

fn name(way: Way) -> &'static str {
    match way {
        Way::Get => "get",
        Way::Post => "post",
        Way::Socket => "socket",
        Way::Cached => "cached",
        Way::Once => "once",
        Way::Local => "local",
    }
}

fn routes(endpoints: &[SocketAddr], server: Server) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|it| format!("\"{it}\"")).collect();
    let protocol = if server == Server::Http2 { "http2" } else { "http1" };
    format!(
        "version: 1
upstreams:
  up: {{ protocol: {protocol}, discovery: {{ static: [{}] }} }}
  health: {{ local: health }}
routes:
  - {{ name: get, match: {{ path: \"/get/{{*rest}}\" }}, upstream: up }}
  - {{ name: post, match: {{ path: \"/post/{{*rest}}\" }}, upstream: up }}
  - {{ name: socket, match: {{ path: \"/socket/{{*rest}}\", websocket: true }}, upstream: up }}
  - {{ name: cached, match: {{ path: \"/cached/{{*rest}}\" }}, upstream: up, cache: {{ ttl: 1h }} }}
  - {{ name: once, match: {{ path: \"/once/{{*rest}}\" }}, upstream: up, idempotency: {{}} }}
  - {{ name: local, match: {{ path: \"/local/{{*rest}}\" }}, upstream: health, rewrite: {{ path: /api/health }} }}
",
        endpoints.join(", ")
    )
}

/// What differs from the table.
fn difference(line: &Value, heard: Option<(u16, bool)>, want: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    if heard != want.heard {
        wrong.push(format!("the client heard {heard:?}"));
    }
    for (field, value) in [
        ("status", want.status.into()),
        ("end", want.end.into()),
        ("attempts", want.attempts.map_or(Value::Null, Value::from)),
    ] {
        if line[field] != value {
            wrong.push(format!("{field} is {}", line[field]));
        }
    }
    let there: Vec<_> = FIELDS.into_iter().filter(|it| !line[*it].is_null()).collect();
    if there != want.fields {
        let missing: Vec<_> = want.fields.iter().filter(|it| !there.contains(it)).collect();
        let more: Vec<_> = there.iter().filter(|it| !want.fields.contains(it)).collect();
        wrong.push(format!("fields missing {missing:?}, too many {more:?}"));
    }
    wrong
}

/// Waits a while for the metrics to tell this, of so many requests beside which there were others; what they tell
/// otherwise.
fn uncounted(
    gateway: &Gateway,
    way: Way,
    endpoint: SocketAddr,
    want: &Outcome,
    [requests, others]: [f64; 2],
) -> Vec<String> {
    let code = if want.status == 0 { 499 } else { want.status };
    let class = code / 100;
    let mut series = vec![
        (format!("moongate_requests_total{{class=\"{class}xx\",code=\"{code}\",route=\"{}\"}}", name(way)), requests),
        (format!("moongate_exchange_ends_total{{end=\"{}\"}}", want.end), requests + others),
        (format!("moongate_request_duration_seconds_count{{route=\"{}\"}}", name(way)), requests),
        ("moongate_requests_in_flight".to_owned(), 0.0),
    ];
    if way != Way::Local {
        series.push((format!("moongate_endpoint_in_flight{{endpoint=\"{endpoint}\",upstream=\"up\"}}"), 0.0));
    }
    if let Some(result) = want.result {
        let of = format!("{{endpoint=\"{endpoint}\",result=\"{result}\",upstream=\"up\"}}");
        series.push((format!("moongate_upstream_requests_total{of}"), requests));
    }
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let told = |(name, want): &(String, f64)| {
            let value = figure(gateway, name);
            (value != Some(*want)).then(|| format!("{name} is {value:?}"))
        };
        let wrong: Vec<_> = series.iter().filter_map(told).collect();
        if wrong.is_empty() || Instant::now() > end {
            return wrong;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn cell(client: Client, server: Server, way: Way, situation: Situation) -> Vec<String> {
    let want = expected(way, situation);
    let word = Word::default();
    let upstream = Upstream::start(server, way, situation, &word);
    let endpoint = upstream.address();
    let endpoints = if situation == ConnectionRefused { vec![nobody(), endpoint] } else { vec![endpoint] };
    let text = routes(&endpoints, server);
    let grace = if way == Way::Socket { "2s" } else { "1h" };
    let config = format!("{H2C}shutdown: {{ delay: 0s, grace: {grace} }}\n");
    let mut gateway = Gateway::with(&*text).config(config).start();
    let path = |number: u32| format!("/{}/{number}", name(way));
    // Of two endpoints in turn, one of two requests begins with the one that is not there.
    let turns: u32 = if situation == ConnectionRefused { 2 } else { 1 };
    let mut lines = Vec::new();
    for turn in 0..turns {
        let path = path(turn);
        let mut asking = Asking::begin(&gateway, client, way, &path);
        if way != Way::Local && !word.arrived.wait() {
            return vec!["it did not arrive".to_owned()];
        }
        if way == Way::Post {
            asking.send_body();
        }
        match situation {
            Reload => {
                gateway.write_routes(
                    &(text.clone() + "  - { name: new, match: { path: /new }, respond: { body: new } }\n"),
                );
                assert_eq!(gateway.reload().status, 200);
                assert_eq!(gateway.get("/new").text(), "new");
                word.go_on.give();
            }
            Drain => {
                gateway.sigterm();
                eventually("new connections are refused", || {
                    RawClient::try_connect(gateway.public()).is_err().then_some(())
                });
                word.go_on.give();
            }
            _ => {}
        }
        let heard = if situation == ClientGone {
            if let (Way::Socket, Asking::Http1(client)) = (way, &mut asking) {
                assert_eq!(client.read_head().status, 101);
            }
            asking.leave();
            None
        } else {
            Some(asking.finish(way, situation))
        };
        if situation == Drain {
            gateway.wait_exit();
        }
        lines.push((gateway.wait_for_event("request", |it| it["path"] == path.as_str()), heard));
        // What goes on without its client may now end.
        word.go_on.give();
    }
    // The one that needed more, if there are two.
    lines.sort_by_key(|it| it.0["attempts"].as_u64());
    let (line, heard) = lines.pop().unwrap();
    let mut wrong = difference(&line, heard, &want);
    if situation != Drain {
        // Whether the new routes serve was asked, too.
        let others = if situation == Reload { 1.0 } else { 0.0 };
        wrong.extend(uncounted(&gateway, way, endpoint, &want, [f64::from(turns), others]));
    }
    if !wrong.is_empty() {
        wrong.push(line.to_string());
    }
    wrong
}

/// Every client and upstream there is for this way, in every situation.
fn check(way: Way, clients: &[Client], servers: &[Server], situations: &[Situation]) {
    let mut wrong = Vec::new();
    for situation in situations {
        for client in clients {
            for server in servers {
                if *situation == StreamRefused && *server == Server::Http1 {
                    continue;
                }
                let found = cell(*client, *server, way, *situation);
                if !found.is_empty() {
                    wrong.push(format!("{situation:?} from {client:?} to {server:?}:\n    {}", found.join("\n    ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{way:?}, {} cells:\n{}", wrong.len(), wrong.join("\n"));
}

const CLIENTS: [Client; 2] = [Client::Http1, Client::Http2];
const SERVERS: [Server; 2] = [Server::Http1, Server::Http2];

#[test]
fn s2s_40_a_plain_get_comes_to_the_same_whoever_asks_and_whoever_answers() {
    check(Way::Get, &CLIENTS, &SERVERS, &SITUATIONS);
}

#[test]
fn s2s_40_a_streamed_post_comes_to_the_same_whoever_asks_and_whoever_answers() {
    check(Way::Post, &CLIENTS, &SERVERS, &SITUATIONS);
}

#[test]
fn s2s_40_what_is_fetched_for_the_cache_comes_to_the_same_whoever_asks_and_whoever_answers() {
    check(Way::Cached, &CLIENTS, &SERVERS, &SITUATIONS);
}

#[test]
fn s2s_40_what_is_done_once_comes_to_the_same_whoever_asks_and_whoever_answers() {
    check(Way::Once, &CLIENTS, &SERVERS, &SITUATIONS);
}

/// WebSockets are HTTP/1's on both sides.
#[test]
fn s2s_40_a_websocket_comes_to_what_every_request_comes_to() {
    let situations = [Well, ConnectionRefused, ServerError, Truncated, ClientGone, Reload, Drain];
    check(Way::Socket, &[Client::Http1], &[Server::Http1], &situations);
}

/// Nothing of it is ever under way for long enough to be overtaken by anything.
#[test]
fn s2s_40_a_local_service_comes_to_what_every_request_comes_to() {
    check(Way::Local, &CLIENTS, &[Server::Http1], &[Well, Reload]);
}

/// What is kept, or was done before, comes from nowhere else, and says so the same to every client.
#[test]
fn s2s_40_a_hit_and_a_replay_have_a_line_without_an_upstreams_part() {
    let upstream = RawUpstream::start(|_| Script::ok("whole"));
    let gateway = Gateway::with(routes(&[upstream.address()], Server::Http1)).config(H2C).start();
    let mut wrong = Vec::new();
    for way in [Way::Cached, Way::Once] {
        for client in [Client::Http1, Client::Http1, Client::Http2] {
            let path = format!("/{}/same", name(way));
            let before = gateway.events("request").len();
            let heard = Asking::begin(&gateway, client, way, &path).finish(way, Well);
            assert_eq!(heard, (200, true), "{way:?} {client:?}");
            let line = eventually("its line", || gateway.events("request").into_iter().nth(before));
            let first = gateway.events("request").iter().filter(|it| it["path"] == path.as_str()).count() == 1;
            let of_upstream = ["endpoint", "attempts", "reused", "connect_ms", "first_byte_ms"];
            for field in of_upstream {
                if line[field].is_null() == first {
                    wrong.push(format!("{way:?} {client:?}, first {first}: {field}: {line}"));
                }
            }
            if (line["status"].as_u64(), line["end"].as_str()) != (Some(200), Some("done")) {
                wrong.push(format!("{way:?} {client:?}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(upstream.requests().len(), 2);
}
