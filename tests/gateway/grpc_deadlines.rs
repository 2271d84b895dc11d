//! The deadline of a gRPC call, which its client sets: kept towards the client, passed on to the upstream, bounded by
//! the route, and nobody's failure.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request as HttpRequest;

use crate::exchange::in_front_of;
use crate::http2::H2Upstream;
use crate::support::upstream::chunk;
use crate::support::{Gateway, H2Client, RawUpstream, Request, Response, Script, eventually, figure};

const CALL: &[u8] = b"\0\0\0\0\x05hello";

fn call(gateway: &Gateway, path: &str, timeout: &str) -> Response {
    let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout)];
    H2Client::connect(gateway.public()).request("POST", path, &fields, CALL, None)
}

/// What the upstream was told, in microseconds.
fn passed_on(upstream: &RawUpstream) -> u64 {
    upstream.wait_for_requests(1);
    let head = upstream.requests().remove(0);
    micros(&Request { head, connection: 0, turn: 0, number: 0 }.header("grpc-timeout").unwrap())
}

fn micros(field: &str) -> u64 {
    let (number, unit) = field.split_at(field.len() - 1);
    let unit = [("u", 1), ("m", 1_000), ("S", 1_000_000)].iter().find(|it| it.0 == unit).unwrap().1;
    number.parse::<u64>().unwrap() * unit
}

#[test]
fn a_call_ends_at_its_clients_deadline_and_its_upstream_is_told_what_is_left() {
    let upstream = RawUpstream::start(|_| Script::silence());
    let gateway = in_front_of(&upstream, "");
    let answer = call(&gateway, "/pkg.Service/Slow", "300m");
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")));
    assert!(answer.header("grpc-message").is_some() && answer.body.is_empty());
    let told = passed_on(&upstream);
    assert!((1..300_000).contains(&told), "{told}");
    upstream.wait_for_closed(1);
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!((&line["error"], &line["attempts"]), (&"call_deadline".into(), &1.into()), "{line}");
    // A client that waits for next to nothing says nothing about the endpoint.
    let of = |result: &str| {
        let endpoint = upstream.address();
        let labels = format!("{{endpoint=\"{endpoint}\",result=\"{result}\",upstream=\"up\"}}");
        figure(&gateway, &format!("moongate_upstream_requests_total{labels}"))
    };
    eventually("it is counted", || (of("abandoned") == Some(1.0)).then_some(()));
    assert_eq!((of("failure"), of("success")), (Some(0.0), Some(0.0)));
}

#[test]
fn an_http2_upstream_is_told_what_is_left_and_its_stream_is_cancelled() {
    let upstream = H2Upstream::start(|request, mut respond, book| {
        Box::pin(async move {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            book.resets.lock().unwrap().push(Some(reason));
            drop(request);
            Ok(())
        })
    });
    let gateway = upstream.gateway("");
    assert_eq!(call(&gateway, "/pkg.Service/Slow", "300m").header("grpc-status"), Some("4"));
    let cancelled = || (*upstream.book.resets.lock().unwrap() == [Some(h2::Reason::CANCEL)]).then_some(());
    eventually("its stream is cancelled", cancelled);
    let heads = upstream.book.heads.lock().unwrap();
    assert!((1..300_000).contains(&micros(heads[0].headers["grpc-timeout"].to_str().unwrap())));
    // Its connection serves the next call.
    drop(heads);
    assert_eq!(call(&gateway, "/pkg.Service/Slow", "100m").header("grpc-status"), Some("4"));
    assert_eq!(upstream.book.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_deadline_that_is_over_sends_nothing_to_anybody() {
    let upstream = RawUpstream::start(|_| Script::ok("never"));
    let gateway = in_front_of(&upstream, "");
    assert_eq!(call(&gateway, "/pkg.Service/Late", "0n").header("grpc-status"), Some("4"));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_route_bounds_the_deadline_and_its_own_limits_hold_beside_it() {
    for (settings, code) in [
        ("timeouts: { grpc_timeout_max: 200ms }", "call_deadline"),
        ("timeouts: { request: 200ms }", "request_deadline"),
        ("timeouts: { first_byte: 200ms }", "upstream_timeout"),
    ] {
        let upstream = RawUpstream::start(|_| Script::silence());
        let gateway = in_front_of(&upstream, settings);
        let answer = call(&gateway, "/pkg.Service/Slow", "1H");
        assert_eq!(answer.header("grpc-status"), Some("4"), "{settings}");
        let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!(line["error"], code, "{settings}");
        let bounded = passed_on(&upstream) <= 200_000;
        assert_eq!(bounded, code == "call_deadline", "{settings}: what bounds the head alone is not passed on");
    }
}

#[test]
fn a_stream_that_outlasts_its_deadline_ends_with_the_status_in_its_trailers() {
    let upstream = RawUpstream::start(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";
        Script::new().read_body().send(head).send(chunk(CALL)).await_close()
    });
    let gateway = in_front_of(&upstream, "");
    let answer = call(&gateway, "/pkg.Service/Stream", "500m");
    assert_eq!((answer.status, answer.body.as_slice()), (200, CALL));
    assert_eq!(answer.trailer("grpc-status"), Some("4"));
    assert!(answer.trailer("grpc-message").is_some());
    upstream.wait_for_closed(1);
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!((&line["error"], &line["status"]), (&"call_deadline".into(), &200.into()), "{line}");
}

#[test]
fn a_call_whose_client_is_still_sending_ends_at_the_deadline_too() {
    // Where the body goes on as it comes, and where it is held first.
    for (settings, reached) in [("", true), ("idempotency: {}", false)] {
        let upstream = RawUpstream::start(|_| Script::silence());
        let gateway = in_front_of(&upstream, settings);
        assert_eq!(ends_while_sending(&gateway), "4", "{settings}");
        upstream.wait_for_closed(usize::from(reached));
        assert_eq!(upstream.connections(), usize::from(reached), "{settings}");
    }
}

/// The status of a call that never stops sending.
fn ends_while_sending(gateway: &Gateway) -> String {
    let client = H2Client::connect(gateway.public());
    let mut sender = client.sender();
    client.run(async {
        let request = HttpRequest::post("http://x/pkg.Service/Up")
            .header("content-type", "application/grpc")
            .header("idempotency-key", "one")
            .header("grpc-timeout", "300m")
            .body(())
            .unwrap();
        let (answer, mut stream) = sender.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(CALL), false).unwrap();
        answer.await.unwrap().headers()["grpc-status"].to_str().unwrap().to_owned()
    })
}

#[test]
fn what_is_no_deadline_is_refused_and_what_is_no_call_has_none() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = in_front_of(&upstream, "");
    for wrong in ["", "5", "5s", "123456789S", "-1S", "1.5S"] {
        let answer = call(&gateway, "/pkg.Service/Odd", wrong);
        assert_eq!(answer.header("grpc-status"), Some("3"), "{wrong:?}");
    }
    assert_eq!(upstream.connections(), 0);
    // Another protocol's field of the same name is none of ours.
    let fields = [("content-type", "application/json"), ("grpc-timeout", "1n")];
    assert_eq!(gateway.request("POST", "/plain", &fields, "{}").text(), "fine");
    let head = String::from_utf8(upstream.requests().remove(0)).unwrap();
    assert!(head.contains("grpc-timeout: 1n\r\n"), "{head}");
}
