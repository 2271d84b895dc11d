//! The support itself under test: against the demo back end, and clients against upstreams.

use std::time::Duration;

use super::upstream::answer_bytes;
use super::*;

#[test]
fn the_demo_announces_its_port_and_stops_when_told() {
    for signal in ["TERM", "INT"] {
        let mut demo = DemoProcess::start("one");
        let health = get(demo.address, "/health");
        assert_eq!((health.status, health.header("x-backend")), (200, Some("one")));
        demo.process.signal(signal);
        assert_eq!(demo.process.wait_exit(), 0);
    }
}

#[test]
fn the_demo_announces_itself_with_level_and_time() {
    let demo = DemoProcess::start("one");
    let line = demo.process.wait_for_event("listening", |_| true);
    assert_eq!(line["level"], "info");
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn the_demo_stops_though_a_stream_is_open() {
    let mut demo = DemoProcess::start("one");
    let mut client = RawClient::connect(demo.address);
    client.send("GET /sse?events=1000&every_ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    demo.process.signal("TERM");
    assert_eq!(demo.process.wait_exit(), 0);
}

#[test]
fn the_demo_comes_back_on_its_port() {
    let mut demo = Demo::start("one");
    assert_eq!(get(demo.address(), "/health").status, 200);
    let mut kept = RawClient::connect(demo.address());
    demo.stop();
    kept.expect_closed();
    assert!(RawClient::try_connect(demo.address()).is_err());
    demo.restart();
    assert_eq!(get(demo.address(), "/health").status, 200);
}

#[test]
fn the_demo_echoes_what_arrived() {
    let demo = Demo::start("one");
    let headers = [("x-one", "1"), ("x-two", "a"), ("x-two", "b")];
    let echo = request(demo.address(), "PUT", "/echo/a%20b?c=d&e", &headers, "grüß").json();
    assert_eq!(echo["name"], "one");
    assert_eq!(echo["method"], "PUT");
    assert_eq!(echo["path"], "/echo/a%20b");
    assert_eq!(echo["query"], "c=d&e");
    assert_eq!(echo["headers"]["x-one"], "1");
    assert_eq!(echo["headers"]["x-two"], serde_json::json!(["a", "b"]));
    assert_eq!(echo["body_bytes"], 6);
    assert_eq!(echo["body"], "grüß");
    assert_eq!(request(demo.address(), "POST", "/health", &[], "x").json()["path"], "/health");
}

#[test]
fn the_demo_refuses_bodies_that_are_too_large() {
    let demo = Demo::start("one");
    let length = ((16 << 20) + 1).to_string();
    let mut client = RawClient::connect(demo.address());
    client.send(format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"));
    assert_eq!(client.read_response().status, 413);
}

#[test]
fn the_demo_answers_with_any_status() {
    let demo = Demo::start("one");
    for status in [200, 204, 304, 404, 503, 599] {
        let answer = get(demo.address(), &format!("/status/{status}"));
        assert_eq!((answer.status, answer.header("x-backend")), (status, Some("one")));
    }
    for wrong in ["100", "600", "99999", "abc"] {
        assert_eq!(get(demo.address(), &format!("/status/{wrong}")).status, 400);
    }
}

#[test]
fn the_demo_sends_as_many_bytes_as_asked() {
    let demo = Demo::start("one");
    for count in [0, 1, 65_536, 1_000_003] {
        let answer = get(demo.address(), &format!("/bytes/{count}"));
        assert_eq!(answer.header("content-length"), Some(count.to_string().as_str()));
        assert_eq!(answer.body.len(), count);
        assert!(answer.body.iter().enumerate().all(|(at, it)| *it == answer.body[at % 64]));
    }
    assert_eq!(get(demo.address(), "/bytes/1073741825").status, 400);
    let head = request(demo.address(), "HEAD", "/bytes/7", &[], "");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("7"), 0));
}

#[test]
fn the_demo_answers_late() {
    let demo = Demo::start("one");
    assert_eq!(get(demo.address(), "/slow?ms=5").json()["slow_ms"], 5);
}

#[test]
fn the_demo_streams_events_with_ids() {
    let demo = Demo::start("one");
    let answer = get(demo.address(), "/sse?events=3&every_ms=1");
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    assert_eq!(text.matches("\n\n").count(), 3);
    assert!(text.contains("id: 1\n") && text.contains("id: 3\n"), "{text}");
}

#[test]
fn the_demo_lets_go_of_a_stream_whose_client_is_gone() {
    let demo = Demo::start("one");
    let in_progress = || get(demo.address(), "/health").json()["in_progress"].as_u64().unwrap();
    let mut client = RawClient::connect(demo.address());
    client.send("GET /sse?events=1000&every_ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert!(client.try_read_piece().unwrap().unwrap().starts_with(b"id: 1\n"));
    assert_eq!(in_progress(), 1);
    drop(client);
    let end = std::time::Instant::now() + DEADLINE;
    while in_progress() > 0 {
        assert!(std::time::Instant::now() < end, "the stream outlives its client");
    }
}

#[test]
fn a_websocket_echoes_and_closes() {
    let demo = Demo::start("one");
    let mut socket = WsClient::connect(demo.address(), "/ws", &[]);
    socket.send_text("grüß");
    assert_eq!(socket.read(), Message::text("grüß"));
    socket.send_binary(&[0, 255]);
    assert_eq!(socket.read(), Message::binary(vec![0, 255]));
    socket.close(1000, "done");
    let offer = [("sec-websocket-protocol", "chat.v2, chat.v1")];
    let socket = WsClient::connect(demo.address(), "/ws", &offer);
    assert_eq!(http1::field(&socket.headers, "sec-websocket-protocol"), Some("chat.v2"));
}

#[test]
fn a_refused_websocket_gives_the_answer() {
    let demo = Demo::start("one");
    assert_eq!(WsClient::try_connect(demo.address(), "/status/403", &[]).err().unwrap().status, 403);
}

#[test]
fn an_upstream_records_every_byte_and_keeps_the_connection() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let mut client = RawClient::connect(upstream.address());
    let first = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
    let second = "POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nt: 1\r\n\r\n";
    client.send(format!("{first}{second}"));
    assert_eq!(client.read_response().text(), "/a");
    assert_eq!(client.read_response().text(), "/b");
    assert_eq!(upstream.requests(), [first.as_bytes(), second.as_bytes()]);
    assert_eq!(upstream.received(), [format!("{first}{second}").into_bytes()]);
    drop(client);
    upstream.wait_for_closed(1);
    assert_eq!((upstream.connections(), upstream.failures().len()), (1, 0));
}

#[test]
fn a_client_reads_chunks_trailers_and_interim_answers() {
    let upstream = RawUpstream::start(|request| {
        let answer = Script::chunked(200, &[b"one", b"two"], &[("x-sum", "6")]);
        match request.target().as_str() {
            "/hints" => Script::early_hints_then("</a.css>", answer),
            _ => Script::continue_then(answer),
        }
    });
    for (path, status) in [("/hints", 103), ("/go", 100)] {
        let answer = get(upstream.address(), path);
        assert_eq!((answer.text().as_str(), answer.trailer("X-Sum")), ("onetwo", Some("6")));
        assert_eq!(answer.informational[0].status, status);
    }
}

#[test]
fn a_client_notices_answers_that_are_cut() {
    let upstream = RawUpstream::start(|request| match request.target().as_str() {
        "/length" => Script::cut_length(10, "123"),
        "/chunked" => Script::cut_chunked(&[b"123"]),
        "/reset" => Script::new().read_body().send("HTTP/1.1 200 OK\r\n").reset(),
        "/twice" => Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n")
            .send("transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "/signed" => Script::new().send(chunked_with_size("+3")),
        _ => Script::until_close(200, "all of it"),
    });
    for path in ["/length", "/chunked", "/reset", "/twice", "/signed"] {
        let answer = http1::try_request(upstream.address(), "GET", path, &[], "");
        assert!(answer.is_err(), "{path}: {answer:?}");
    }
    assert_eq!(get(upstream.address(), "/").text(), "all of it");
}

fn chunked_with_size(size: &str) -> Vec<u8> {
    [&upstream::chunked_head(200)[..], format!("{size}\r\nabc\r\n0\r\n\r\n").as_bytes()].concat()
}

#[test]
fn scripts_and_tests_wait_for_each_other() {
    let (arrived, go) = (Signal::new(), Signal::new());
    let upstream = {
        let (arrived, go) = (arrived.clone(), go.clone());
        RawUpstream::start(move |_| {
            let script = Script::new().give(&arrived).wait(&go);
            script.read_more(2).send(answer_bytes(200, &[], b"ok")).await_close()
        })
    };
    let mut client = RawClient::connect(upstream.address());
    client.send("POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n");
    assert!(arrived.wait());
    client.expect_silence(Duration::from_millis(20));
    client.send("xy");
    go.give();
    assert_eq!(client.read_response().text(), "ok");
    client.reset();
    upstream.wait_for_closed(1);
}

#[test]
fn tls_needs_a_certificate_of_the_trusted_authority() {
    let (ca, other) = (Ca::new("Test CA"), Ca::new("Other CA"));
    let leaf = ca.leaf(&["localhost", "127.0.0.1"]);
    let upstream = RawUpstream::start_tls(&leaf, &["http/1.1"], |_| Script::ok("secret"));
    let config = ca.client(&["http/1.1"], None);
    let mut client = RawClient::try_connect_tls(upstream.address(), "localhost", config).unwrap();
    client.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(client.read_response().text(), "secret");
    let config = other.client(&["http/1.1"], None);
    assert!(RawClient::try_connect_tls(upstream.address(), "localhost", config).is_err());
}

#[test]
fn files_are_written_and_replaced() {
    let folder = Folder::new();
    Ca::new("Test CA").write_leaf(&folder, "tls", &["localhost"]);
    let cert = std::fs::read_to_string(folder.path().join("tls/cert.pem")).unwrap();
    assert!(cert.starts_with("-----BEGIN CERTIFICATE-----"));
    folder.replace("tls/cert.pem", "new");
    assert_eq!(std::fs::read(folder.path().join("tls/cert.pem")).unwrap(), b"new");
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn a_client_speaks_http2_both_ways() {
    let (ca, server) = (Ca::new("Test CA"), h2_echo::start(None));
    let mut client = H2Client::connect(server.address);
    let trailers: &[(&str, &str)] = &[("x-end", "yes")];
    let answer = client.request("POST", "/a?b", &[("x-one", "1")], b"body", Some(trailers));
    assert_eq!((answer.status, answer.text().as_str()), (200, "POST /a?b body"));
    assert_eq!(answer.trailer("x-end"), Some("yes"));

    let leaf = ca.leaf(&["localhost"]);
    let server = h2_echo::start(Some(leaf.server(&["h2"])));
    let config = ca.client(&["h2"], None);
    let mut client = H2Client::try_connect_tls(server.address, "localhost", config).unwrap();
    assert_eq!(client.get("/tls").text(), "GET /tls ");
}

/// Just enough of an HTTP/2 server to prove the client.
mod h2_echo {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use bytes::Bytes;
    use http::Response;
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::TcpListener;
    use tokio::runtime::Runtime;

    pub struct Server {
        pub address: SocketAddr,
        _runtime: Runtime,
    }

    pub fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            match tls {
                None => serve(socket).await,
                Some(tls) => {
                    serve(tokio_rustls::TlsAcceptor::from(tls).accept(socket).await.unwrap()).await;
                }
            }
        });
        Server { address, _runtime: runtime }
    }

    async fn serve(wire: impl AsyncRead + AsyncWrite + Unpin) {
        let mut connection = h2::server::handshake(wire).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let (head, mut stream) = request.into_parts();
                let target = head.uri.path_and_query().unwrap();
                let mut text = format!("{} {target} ", head.method).into_bytes();
                while let Some(piece) = stream.data().await {
                    text.extend(piece.unwrap());
                }
                let trailers = stream.trailers().await.unwrap().unwrap_or_default();
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                answer.send_data(Bytes::from(text), false).unwrap();
                answer.send_trailers(trailers).unwrap();
            });
        }
    }
}
