//! HTTP/2 on either side: trailers, resets, flow control, and translation to and from HTTP/1.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse};
use tokio::runtime::Runtime;

use crate::exchange::{H2C, body_of, in_front_of, pattern, routes};
use crate::support::upstream::{chunk, last_chunk};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Script, Signal};

type Answering = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// What is known about an upstream's calls.
#[derive(Default)]
pub struct Book {
    pub heads: Mutex<Vec<http::request::Parts>>,
    pub bodies: Mutex<Vec<(Vec<u8>, Option<HeaderMap>)>>,
    pub resets: Mutex<Vec<Option<Reason>>>,
    pub connections: AtomicUsize,
}

/// An HTTP/2 upstream by prior knowledge, each request answered by a function.
pub struct H2Upstream {
    pub address: SocketAddr,
    pub book: Arc<Book>,
    _runtime: Runtime,
}

impl H2Upstream {
    pub fn start(
        answer: impl Fn(HttpRequest<RecvStream>, SendResponse<Bytes>, Arc<Book>) -> Answering + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let book = Arc::new(Book::default());
        let (shared, answer) = (book.clone(), Arc::new(answer));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (book, answer) = (shared.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let mut head = HttpRequest::new(());
                        *head.method_mut() = request.method().clone();
                        *head.uri_mut() = request.uri().clone();
                        *head.headers_mut() = request.headers().clone();
                        book.heads.lock().unwrap().push(head.into_parts().0);
                        tokio::spawn(answer(request, respond, book.clone()));
                    }
                });
            }
        });
        Self { address, book, _runtime: runtime }
    }

    /// Reads every request and answers with this body and these trailers.
    pub fn answering(body: Vec<u8>, trailers: &'static [(&'static str, &'static str)]) -> Self {
        let body = Bytes::from(body);
        Self::start(move |request, mut respond, book| {
            let body = body.clone();
            Box::pin(async move {
                read_all(request.into_body(), &book).await?;
                let mut stream = respond.send_response(HttpResponse::new(()), false)?;
                if trailers.is_empty() {
                    return stream.send_data(body, true);
                }
                stream.send_data(body, false)?;
                stream.send_trailers(fields(trailers))
            })
        })
    }

    pub fn gateway(&self, settings: &str) -> Gateway {
        let text = routes(&[self.address], settings).replace("up: {", "up: { protocol: http2,");
        Gateway::with(text).config(H2C).start()
    }
}

async fn read_all(mut body: RecvStream, book: &Book) -> Result<(), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend(piece);
    }
    let trailers = body.trailers().await?;
    book.bodies.lock().unwrap().push((bytes, trailers));
    Ok(())
}

fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

// ── Trailers ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn trailers_of_an_answer_pass_from_http2_to_http2() {
    let upstream = H2Upstream::answering(b"message".to_vec(), &[("grpc-status", "0"), ("grpc-message", "fine")]);
    let gateway = upstream.gateway("");
    let mut client = H2Client::connect(gateway.public());
    for _ in 0..3 {
        let answer = client.request("POST", "/pkg.Service/Call", &[("te", "trailers")], b"question", None);
        assert_eq!((answer.status, answer.text().as_str()), (200, "message"));
        assert_eq!((answer.trailer("grpc-status"), answer.trailer("grpc-message")), (Some("0"), Some("fine")));
    }
    let heads = upstream.book.heads.lock().unwrap();
    assert!(heads.iter().all(|it| it.headers["te"] == "trailers" && it.uri.path() == "/pkg.Service/Call"));
    assert_eq!(upstream.book.connections.load(Ordering::SeqCst), 1);
    drop(heads);
    // HTTP/1 clients get the same without them: Pingora can't write trailers there.
    assert_eq!(gateway.get("/").text(), "message");
}

#[test]
fn an_answer_that_is_all_trailers_passes() {
    let upstream = H2Upstream::start(|_, mut respond, _| {
        Box::pin(async move {
            let answer = HttpResponse::builder().header("content-type", "application/grpc").header("grpc-status", "12");
            respond.send_response(answer.body(()).unwrap(), true).map(drop)
        })
    });
    let gateway = upstream.gateway("");
    let mut client = H2Client::connect(gateway.public());
    let answer = client.request("POST", "/x", &[("te", "trailers")], b"question", None);
    assert_eq!((answer.status, answer.header("grpc-status"), answer.body.len()), (200, Some("12"), 0));
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
}

#[test]
fn rfc_9110_6_5_trailers_of_a_request_pass_on() {
    let upstream = H2Upstream::answering(b"ok".to_vec(), &[]);
    let gateway = upstream.gateway("");
    let mut client = H2Client::connect(gateway.public());
    assert_eq!(client.request("POST", "/", &[], b"body", Some(&[("x-sum", "1")])).text(), "ok");
    assert_eq!(client.request("POST", "/", &[], b"", Some(&[("x-sum", "1")])).text(), "ok");
    let bodies = upstream.book.bodies.lock().unwrap();
    assert_eq!(bodies.iter().map(|it| &it.0[..]).collect::<Vec<_>>(), [&b"body"[..], b""]);
    let http1 = RawUpstream::start(|_| Script::ok("ok"));
    let gateway = in_front_of(&http1, "");
    let mut client = H2Client::connect(gateway.public());
    for _ in 0..3 {
        assert_eq!(client.request("POST", "/", &[], b"body", Some(&[("x-sum", "1")])).text(), "ok");
    }
    let whole = b"4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n";
    assert!(http1.requests().iter().all(|it| it.ends_with(whole)));
    assert_eq!(http1.connections(), 1);
}

// ── HTTP/2 to HTTP/1 and back ───────────────────────────────────────────────────────────────────

#[test]
fn an_http2_client_reaches_an_http1_upstream() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let gateway = in_front_of(&upstream, "body_limit: 64MiB");
    let mut client = H2Client::connect(gateway.public());
    assert_eq!(client.get("/plain?a=b").text(), "/plain?a=b");
    let big = pattern(3 << 20);
    assert_eq!(client.request("POST", "/big", &[], &big, None).text(), "/big");
    assert_eq!(client.request("POST", "/len", &[("content-length", "4")], b"four", None).text(), "/len");
    assert_eq!(
        client.request("GET", "/cookies", &[("cookie", "a=1"), ("cookie", "b=2")], b"", None).text(),
        "/cookies"
    );
    let requests = upstream.requests();
    let heads: Vec<String> = requests.iter().map(|it| String::from_utf8_lossy(it).to_lowercase()).collect();
    let host = format!("\r\nhost: {}\r\n", gateway.public());
    for head in &heads {
        assert_eq!(head.matches("\r\nhost: ").count(), 1, "{head}");
        assert!(head.contains(&host) && head.contains(" http/1.1\r\n"), "{head}");
    }
    assert!(!heads[0].contains("transfer-encoding") && !heads[0].contains("content-length"), "{}", heads[0]);
    assert!(body_of(&requests[1]) == big);
    assert!(heads[2].contains("\r\ncontent-length: 4\r\n") && !heads[2].contains("chunked"));
    assert!(heads[3].contains("\r\ncookie: a=1; b=2\r\n"), "one field, as HTTP/1 wants it: {}", heads[3]);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_end_that_comes_late_and_empty_is_one_end() {
    let upstream = RawUpstream::start(|request| Script::ok(request.target()));
    let gateway = in_front_of(&upstream, "");
    let client = H2Client::connect(gateway.public());
    for target in ["/one", "/two", "/three"] {
        let mut sender = client.sender();
        let text = client.run(async {
            let request = HttpRequest::post(format!("http://x{target}")).body(()).unwrap();
            let (answer, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"piece"), false).unwrap();
            body.send_data(Bytes::new(), false).unwrap();
            body.send_data(Bytes::new(), true).unwrap();
            let mut stream = answer.await.unwrap().into_body();
            stream.data().await.unwrap().unwrap()
        });
        assert_eq!(&text[..], target.as_bytes());
    }
    assert!(upstream.requests().iter().all(|it| body_of(it) == b"piece"));
    assert_eq!(upstream.connections(), 1, "the connection was left clean each time");
}

#[test]
fn an_http1_client_reaches_an_http2_upstream() {
    let upstream = H2Upstream::answering(pattern(2 << 20), &[]);
    let gateway = upstream.gateway("body_limit: 64MiB");
    let mut client = RawClient::connect(gateway.public());
    let body = pattern(1 << 20);
    client.send("GET /a?b=c HTTP/1.1\r\nhost: x.example\r\nte: trailers, deflate\r\nconnection: te\r\n\r\n");
    assert!(client.read_response().body == pattern(2 << 20));
    client.send(format!("POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert!(client.read_response().body == pattern(2 << 20));
    client.send("POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send([chunk(&body), last_chunk(&[])].concat());
    assert!(client.read_response().body == pattern(2 << 20));
    client.send("POST /d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(client.read_response().body == pattern(2 << 20));
    client.send("HEAD /e HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_response_to("HEAD").status, 200);
    let bodies: Vec<_> = upstream.book.bodies.lock().unwrap().iter().map(|it| it.0.clone()).collect();
    assert!(bodies == [vec![], body.clone(), body, vec![], vec![]]);
    let heads = upstream.book.heads.lock().unwrap();
    assert_eq!((heads[0].uri.authority().unwrap().as_str(), heads[0].uri.query()), ("x.example", Some("b=c")));
    assert_eq!(heads[0].headers["te"], "trailers", "no other coding goes through");
    for head in heads.iter() {
        assert!(!head.headers.contains_key("connection") && !head.headers.contains_key("transfer-encoding"));
    }
    assert_eq!(upstream.book.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_hundred_streams_at_once_share_connections() {
    let upstream = H2Upstream::answering(b"ok".to_vec(), &[]);
    let gateway = upstream.gateway("");
    let client = H2Client::connect(gateway.public());
    let sender = client.sender();
    client.run(async {
        let calls = (0..100).map(|_| {
            let sender = sender.clone();
            async move {
                let request = HttpRequest::get("http://x/").body(()).unwrap();
                let (answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
                let mut body = answer.await.unwrap().into_body();
                let piece = body.data().await.unwrap().unwrap();
                assert_eq!(&piece[..], b"ok");
            }
        });
        futures_util::future::join_all(calls).await;
    });
    assert_eq!(upstream.book.bodies.lock().unwrap().len(), 100);
}

#[test]
fn a_client_that_waits_for_100_gets_one_though_http2_upstreams_show_none() {
    let upstream = H2Upstream::answering(b"thanks".to_vec(), &[]);
    let gateway = upstream.gateway("");
    let mut client = RawClient::connect(gateway.public());
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(client.read_head().status, 100);
        client.send("hello");
        let answer = client.read_response();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("thanks", None));
    }
    let heads = upstream.book.heads.lock().unwrap();
    assert!(heads.iter().all(|it| !it.headers.contains_key("expect")));
    drop(heads);
    assert!(upstream.book.bodies.lock().unwrap().iter().all(|it| it.0 == b"hello"));
}

// ── Resets ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_upstreams_reset_in_mid_answer_is_the_clients() {
    let arrived = Arc::new(tokio::sync::Notify::new());
    let upstream = {
        let arrived = arrived.clone();
        H2Upstream::start(move |_, mut respond, _| {
            let arrived = arrived.clone();
            Box::pin(async move {
                let mut stream = respond.send_response(HttpResponse::new(()), false)?;
                stream.send_data(Bytes::from_static(b"half"), false)?;
                arrived.notified().await; // a reset overtakes what is still in the queue
                stream.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            })
        })
    };
    let gateway = upstream.gateway("");
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    client.run(async {
        let (answer, _) = sender.send_request(HttpRequest::get("http://x/").body(()).unwrap(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"half");
        arrived.notify_one();
        assert!(body.data().await.unwrap().unwrap_err().is_reset());
    });
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"half");
    arrived.notify_one();
    assert!(client.try_read_piece().is_err(), "it looks whole");
}

#[test]
fn a_stream_that_was_refused_is_tried_again_whatever_the_method() {
    let calls = Arc::new(AtomicUsize::new(0));
    let upstream = H2Upstream::start(move |_, mut respond, _| {
        let first = calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        Box::pin(async move {
            if first {
                respond.send_reset(Reason::REFUSED_STREAM);
                return Ok(());
            }
            respond.send_response(HttpResponse::new(()), true).map(drop)
        })
    });
    let gateway = upstream.gateway("");
    for method in ["GET", "POST", "PATCH"] {
        assert_eq!(gateway.request(method, "/", &[], "").status, 200, "{method}");
    }
    assert_eq!(upstream.book.heads.lock().unwrap().len(), 6);
}

#[test]
fn a_reset_before_the_answer_is_a_502_and_no_post_is_repeated() {
    let upstream = H2Upstream::start(|_, mut respond, _| {
        Box::pin(async move {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        })
    });
    let gateway = upstream.gateway("");
    assert_eq!(gateway.request("POST", "/", &[], "").status, 502);
    assert_eq!(upstream.book.heads.lock().unwrap().len(), 1);
    assert_eq!(H2Client::connect(gateway.public()).request("POST", "/", &[], b"x", None).status, 502);
}

#[test]
fn a_client_that_leaves_resets_the_upstreams_stream() {
    let (arrived, reset) = (Signal::new(), Signal::new());
    let upstream = {
        let (arrived, reset) = (arrived.clone(), reset.clone());
        H2Upstream::start(move |_, mut respond, book| {
            let (arrived, reset) = (arrived.clone(), reset.clone());
            Box::pin(async move {
                arrived.give();
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                book.resets.lock().unwrap().push(reason.ok());
                reset.give();
                Ok(())
            })
        })
    };
    let gateway = upstream.gateway("");
    let mut client = RawClient::connect(gateway.public());
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(arrived.wait());
    drop(client);
    assert!(reset.wait());
    assert_eq!(*upstream.book.resets.lock().unwrap(), [Some(Reason::CANCEL)]);
}

#[test]
fn an_answer_before_the_uploads_end_comes_through() {
    let upstream = H2Upstream::start(|_, mut respond, _| {
        Box::pin(async move {
            let answer = HttpResponse::builder().status(413).body(()).unwrap();
            // Its end resets what is left of the upload, with NO_ERROR.
            respond.send_response(answer, true).map(drop)
        })
    });
    let gateway = upstream.gateway("body_limit: 64MiB");
    let mut client = RawClient::connect(gateway.public());
    client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    client.send([b'x'; 1000]);
    assert_eq!(client.read_response().status, 413);
    let mut client = H2Client::connect(gateway.public());
    assert_eq!(client.request("POST", "/", &[], &pattern(500_000), None).status, 413);
    assert_eq!(client.get("/").status, 413, "the connection goes on");
}

// ── Flow control ────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_upload_waits_for_an_upstream_that_does_not_read() {
    let go_on = Arc::new(tokio::sync::Notify::new());
    let upstream = {
        let go_on = go_on.clone();
        H2Upstream::start(move |request, mut respond, book| {
            let go_on = go_on.clone();
            Box::pin(async move {
                go_on.notified().await;
                read_all(request.into_body(), &book).await?;
                respond.send_response(HttpResponse::new(()), true).map(drop)
            })
        })
    };
    let gateway = upstream.gateway("body_limit: 64MiB");
    let body = pattern(2 << 20);
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()));
    // More than a window and all buffers of the gateway, less than the sockets take.
    client.send(&body[..300_000]);
    go_on.notify_one();
    client.send(&body[300_000..]);
    assert_eq!(client.read_response().status, 200);
    assert!(upstream.book.bodies.lock().unwrap()[0].0 == body);
}

#[test]
fn an_answer_waits_for_a_client_that_shuts_its_window() {
    let body = pattern(5 << 20);
    let upstream = {
        let body = body.clone();
        RawUpstream::start(move |_| Script::ok(&body))
    };
    let gateway = in_front_of(&upstream, "");
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    client.run(async {
        let request = HttpRequest::get("http://x/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let mut stream = answer.await.unwrap().into_body();
        let mut received = Vec::new();
        // A window's worth without a word of thanks, then all the rest.
        while received.len() < 65_535 {
            received.extend(stream.data().await.unwrap().unwrap());
        }
        stream.flow_control().release_capacity(65_535).unwrap();
        while let Some(piece) = stream.data().await {
            let piece = piece.unwrap();
            stream.flow_control().release_capacity(piece.len()).unwrap();
            received.extend(piece);
        }
        assert!(received == body);
    });
}

#[test]
fn a_client_that_shuts_its_window_for_good_is_cut() {
    let upstream = RawUpstream::start(|_| Script::ok(pattern(5 << 20)));
    let gateway = in_front_of(&upstream, "timeouts: { idle: 300ms }");
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    client.run(async {
        let request = HttpRequest::get("http://x/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let mut stream = answer.await.unwrap().into_body();
        let error = loop {
            match stream.data().await.expect("an end that looks whole") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_reset(), "{error}");
    });
    upstream.wait_for_closed(1);
    gateway.wait_for_event("request", |it| it["end"] == "client_timeout");
}
