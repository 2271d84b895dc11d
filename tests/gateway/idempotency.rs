//! Idempotent requests: repetitions, duplicates at the same time, and what goes wrong on the way.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::exchange::{H2C, in_front_of, routes};
use crate::support::http1::request;
use crate::support::redis::Redis;
use crate::support::tokens;
use crate::support::upstream::{answer_bytes, chunk, chunked_head, last_chunk};
use crate::support::waiting::{eventually, figure};
use crate::support::{Gateway, H2Client, RawClient, RawUpstream, Response, Script, Signal};

fn upstream_that_counts() -> RawUpstream {
    RawUpstream::start(|it| {
        let body = format!("order {}", it.number);
        Script::new().read_body().send(answer_bytes(
            201,
            &[("x-order", "done"), ("set-cookie", "a=1")],
            body.as_bytes(),
        ))
    })
}

fn order(gateway: &Gateway, key: &str, body: &str) -> Response {
    gateway.request("POST", "/orders", &[("Idempotency-Key", key)], body)
}

fn code(answer: &Response) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn s2s_13_the_same_key_returns_the_same_answer_and_no_second_request() {
    let upstream = upstream_that_counts();
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let first = order(&gateway, "one", "{}");
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    // The second way to write the same header.
    let again = gateway.request("POST", "/orders", &[("X-Idempotency-Key", "\"one\"")], "{}");
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(again.body, first.body, "byte for byte");
    for name in ["x-order", "set-cookie", "content-length"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"), "an answer has an id of its own");
    assert_eq!(order(&gateway, "two", "{}").body, b"order 1");
    assert_eq!(upstream.requests().len(), 2);
    assert_eq!(figure(&gateway, "idempotency_miss_total"), Some(2.0));
    assert_eq!(figure(&gateway, "idempotency_hit_total"), Some(1.0));
}

#[test]
fn decision_4_the_same_key_with_another_request_gets_422() {
    let upstream = upstream_that_counts();
    let gateway = in_front_of(&upstream, "idempotency: {}");
    order(&gateway, "one", "{}");
    for (method, path, body) in [("POST", "/orders", "{ }"), ("PUT", "/orders", "{}"), ("POST", "/orders?x=1", "{}")] {
        let answer = gateway.request(method, path, &[("Idempotency-Key", "one")], body);
        assert_eq!((answer.status, code(&answer).as_str()), (422, "idempotency_mismatch"), "{method} {path} {body}");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_key_that_is_missing_or_odd_is_refused_where_one_is_needed() {
    let upstream = upstream_that_counts();
    let gateway = in_front_of(&upstream, "idempotency: { required: true, from: [header, body.assignment_id] }");
    for fields in [&[][..], &[("Idempotency-Key", "")], &[("Idempotency-Key", "a"), ("X-Idempotency-Key", "b")]] {
        let answer = gateway.request("POST", "/orders", fields, "{}");
        assert_eq!((answer.status, code(&answer).as_str()), (400, "idempotency_key"), "{fields:?}");
    }
    for malformed in ["\"unterminated", "\"\"x", "(\"a\" \"b\")", "\"a\", \"b\"", "a, b", "a b", "a;x=1"] {
        for name in ["Idempotency-Key", "X-Idempotency-Key"] {
            let answer = gateway.request("POST", "/orders", &[(name, malformed)], "{}");
            assert_eq!((answer.status, code(&answer).as_str()), (400, "idempotency_key"), "{name}: {malformed}");
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    let by_body = || gateway.request("POST", "/orders", &[], r#"{"assignment_id":"a-1"}"#);
    assert_eq!((by_body().body, by_body().body), (b"order 0".to_vec(), b"order 0".to_vec()));
    assert_eq!(gateway.get("/orders").status, 201, "reading is not idempotency's business");
}

#[test]
fn rfc_8941_parameters_do_not_change_a_key_and_a_host_has_many_forms() {
    let upstream = upstream_that_counts();
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let first = order(&gateway, "\"k\";x=1", "{}").body;
    for key in ["\"k\"", "k", "\"k\"; y=\"2\"", "\"k\";x=1"] {
        assert_eq!(order(&gateway, key, "{}").body, first, "{key}");
    }
    assert_ne!(order(&gateway, "\"k;x=1\"", "{}").body, first, "in the quotes it is a part of the key");
    for host in ["a.test", "A.test", "a.test.", "a.test:80", "a.test:8080"] {
        let answer = gateway.request("POST", "/orders", &[("host", host), ("Idempotency-Key", "h")], "{}");
        assert_eq!(answer.body, b"order 2", "{host}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn cp2_b_a_repetition_with_a_new_token_of_the_same_caller_is_one() {
    use crate::support::tokens::{SECRET, claims, sign_hs256, with};
    let upstream = upstream_that_counts();
    let config = format!("{H2C}tokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n");
    let settings = "auth: { jwt: {}, from: [header, { cookie: session }] }, idempotency: { impersonal: [x-member] }";
    let gateway =
        Gateway::with(routes(&[upstream.address()], settings)).config(config).env("PROXY_JWT_SECRET", SECRET).start();
    let token = |jti: &str| {
        let claims = with(claims("ada", &["user"]), serde_json::json!({ "jti": jti }));
        sign_hs256("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", &claims.to_string(), SECRET.as_bytes())
    };
    let ask = |key: &str, fields: [(&str, &str); 2]| {
        gateway.request("POST", "/orders", &[&[("Idempotency-Key", key)], &fields[..]].concat(), "{}")
    };
    for (jti, member) in [("one", "a"), ("two", "b")] {
        let answer = ask("k", [("authorization", &format!("Bearer {}", token(jti))), ("x-member", member)]);
        assert_eq!((answer.status, answer.text().as_str()), (201, "order 0"));
        let answer = ask("c", [("cookie", &format!("a={jti}; session={}", token(jti))), ("x-member", member)]);
        assert_eq!((answer.status, answer.text().as_str()), (201, "order 1"));
    }
    let bearer = format!("Bearer {}", token("three"));
    let answer = ask("k", [("authorization", &bearer), ("x-patient-id", "7")]);
    assert_eq!((answer.status, code(&answer).as_str()), (422, "idempotency_mismatch"), "for somebody else");
}

#[test]
fn server_errors_are_not_kept() {
    let upstream = RawUpstream::start(|it| match it.number {
        0 => Script::new().read_body().send(answer_bytes(503, &[], b"later")),
        1 => Script::new().read_body().close(),
        _ => Script::new().read_body().send(answer_bytes(200, &[], b"done")),
    });
    let gateway = in_front_of(&upstream, "idempotency: {}");
    assert_eq!(order(&gateway, "one", "{}").status, 503);
    assert_eq!(order(&gateway, "one", "{}").status, 502);
    assert_eq!(
        (order(&gateway, "one", "{}").body, order(&gateway, "one", "{}").body),
        (b"done".to_vec(), b"done".to_vec())
    );
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn duplicates_at_the_same_time_wait_for_the_first_answer() {
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |_| Script::new().read_body().wait(&go_on).send(answer_bytes(200, &[], b"done"))
    });
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let address = gateway.public();
    let asking: Vec<_> = (0..20)
        .map(|_| thread::spawn(move || request(address, "POST", "/orders", &[("Idempotency-Key", "one")], "{}")))
        .collect();
    upstream.wait_for_requests(1);
    go_on.give();
    let answers: Vec<Response> = asking.into_iter().map(|it| it.join().unwrap()).collect();
    assert!(answers.iter().all(|it| it.body == b"done"));
    assert_eq!(answers.iter().filter(|it| it.header("idempotency-replayed").is_none()).count(), 1);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_duplicate_that_has_waited_long_enough_is_told_to_come_again() {
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |_| Script::new().read_body().wait(&go_on).send(answer_bytes(200, &[], b"done"))
    });
    let gateway = in_front_of(&upstream, "idempotency: { wait: 100ms }");
    let address = gateway.public();
    let first = thread::spawn(move || request(address, "POST", "/orders", &[("Idempotency-Key", "one")], "{}"));
    upstream.wait_for_requests(1);
    let answer = order(&gateway, "one", "{}");
    assert_eq!((answer.status, code(&answer).as_str()), (409, "idempotency_running"));
    assert!(answer.header("retry-after").is_some());
    go_on.give();
    assert_eq!(first.join().unwrap().body, b"done");
}

#[test]
fn an_idempotent_request_goes_on_though_its_client_leaves() {
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |_| Script::new().read_body().wait(&go_on).send(answer_bytes(200, &[], b"done"))
    });
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let mut client = RawClient::connect(gateway.public());
    client.send("POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: one\r\nContent-Length: 2\r\n\r\n{}");
    upstream.wait_for_requests(1);
    client.reset();
    gateway.wait_for_event("request", |it| it["end"] == "client_gone");
    go_on.give();
    let again = order(&gateway, "one", "{}");
    assert_eq!((again.body.as_slice(), again.header("idempotency-replayed")), (&b"done"[..], Some("true")));
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_answer_that_is_too_large_passes_and_its_request_is_not_done_again() {
    let large = vec![b'x'; 200_000];
    let upstream = RawUpstream::start({
        let large = large.clone();
        move |_| Script::new().read_body().send(answer_bytes(200, &[], &large))
    });
    let gateway = in_front_of(&upstream, "idempotency: { record: 100KiB }");
    assert_eq!(order(&gateway, "one", "{}").body, large);
    let again = order(&gateway, "one", "{}");
    assert_eq!((again.status, code(&again).as_str()), (409, "idempotency_not_kept"));
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn streams_are_refused_or_kept_as_the_route_says() {
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |_| {
            let head = String::from_utf8(chunked_head(200)).unwrap().replacen(
                "\r\n",
                "\r\ncontent-type: text/event-stream\r\n",
                1,
            );
            let script = Script::new().read_body().send(head).send(chunk(b"data: 1\n\n"));
            script.wait(&go_on).send(chunk(b"data: 2\n\n")).send(last_chunk(&[]))
        }
    });
    let refusing = in_front_of(&upstream, "idempotency: {}");
    let fields = [("Idempotency-Key", "one"), ("Accept", "text/event-stream")];
    assert_eq!(code(&refusing.request("POST", "/chat", &fields, "{}")), "idempotency_key");
    assert_eq!(upstream.requests().len(), 0);

    let keeping = in_front_of(&upstream, "idempotency: { streams: record }");
    let mut client = RawClient::connect(keeping.public());
    client.send("POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: one\r\nAccept: text/event-stream\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 1\n\n", "events pass as they come");
    go_on.give();
    assert_eq!(client.try_read_piece().unwrap().unwrap(), b"data: 2\n\n");
    let again = eventually("the kept stream", || {
        let again = keeping.request("POST", "/chat", &fields, "{}");
        (again.status == 200).then_some(again)
    });
    assert_eq!((again.text().as_str(), again.header("idempotency-replayed")), ("data: 1\n\ndata: 2\n\n", Some("true")));
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_idempotent_request_over_http_2_is_done_once_too() {
    let upstream = upstream_that_counts();
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let mut client = H2Client::connect(gateway.public());
    let ask = |client: &mut H2Client| client.request("POST", "/orders", &[("idempotency-key", "one")], b"{}", None);
    assert_eq!((ask(&mut client).body, ask(&mut client).body), (b"order 0".to_vec(), b"order 0".to_vec()));
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_body_that_comes_late_and_in_chunks_is_held_whole() {
    let upstream = RawUpstream::start(|_| Script::new().read_body().send(answer_bytes(200, &[], b"done")));
    let gateway = in_front_of(&upstream, "idempotency: {}");
    let mut client = RawClient::connect(gateway.public());
    client.send("POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: one\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_head().status, 100);
    client.send("5\r\nhello\r\n");
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response().body, b"done");
    assert_eq!(crate::exchange::body_of(&upstream.requests()[0]), b"hello");
    assert_eq!(order(&gateway, "one", "hello").header("idempotency-replayed"), Some("true"));
}

#[test]
fn a_claim_is_given_up_when_the_upstream_can_not_be_reached() {
    let nobody = crate::support::upstream::nobody();
    let gateway = Gateway::with(routes(&[nobody], "idempotency: {}")).config(H2C).start();
    assert_eq!(order(&gateway, "one", "{}").status, 502);
    assert_eq!(order(&gateway, "one", "{}").status, 502, "not 409: nobody is at it");
}

// ── Several gateways ────────────────────────────────────────────────────────────────────────────

fn sharing(redis: &Redis, upstream: &RawUpstream, settings: &str) -> Gateway {
    sharing_with(redis, upstream, settings, "")
}

fn sharing_with(redis: &Redis, upstream: &RawUpstream, settings: &str, state: &str) -> Gateway {
    let config = format!("{H2C}\nstate: {{ redis: {{ url: \"{}\"{state} }} }}\n", redis.url());
    Gateway::with(routes(&[upstream.address()], settings)).config(config).start()
}

#[test]
fn cp2_b_a_thousand_duplicates_over_two_gateways_are_one_request() {
    const STREAMS: usize = 100;
    /// For a machine that does something else.
    const BUSY: Duration = Duration::from_secs(600);
    let redis = Redis::start();
    let go_on = Signal::new();
    let upstream = RawUpstream::start({
        let go_on = go_on.clone();
        move |it| {
            let body = format!("order {}", it.number);
            Script::new().read_body().wait(&go_on).send(answer_bytes(201, &[], body.as_bytes()))
        }
    });
    // However long a busy machine takes to bring all of them together.
    let settings = "idempotency: { wait: 10m }, timeouts: { first_byte: 10m, request: 20m, idle: 20m }";
    let patient = || sharing_with(&redis, &upstream, settings, ", timeout: 10s");
    let gateways = [patient(), patient()];
    let addresses = [gateways[0].public(), gateways[1].public()];
    let asking: Vec<_> = (0..10)
        .map(|number| {
            let client = H2Client::connect(addresses[number % 2]);
            let key = [("idempotency-key", "one")];
            thread::spawn(move || client.at_once_within(BUSY, STREAMS, "POST", "/orders", &key, b"{}"))
        })
        .collect();
    let sum = |series| gateways.iter().filter_map(|it| figure(it, series)).sum::<f64>();
    while sum("moongate_requests_in_flight") < 1000.0 {
        assert!(asking.iter().all(|it| !it.is_finished()), "one was answered before the first one was done");
    }
    go_on.give();
    let answers: Vec<Response> = asking.into_iter().flat_map(|it| it.join().unwrap()).collect();
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|it| (it.status, it.body.as_slice()) == (201, b"order 0")));
    assert_eq!(answers.iter().filter(|it| it.header("idempotency-replayed").is_none()).count(), 1);
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!((sum("idempotency_miss_total"), sum("idempotency_hit_total")), (1.0, 999.0));
}

#[test]
fn cp2_b_tenants_share_no_keys_and_no_answers_end_to_end() {
    let redis = Redis::start();
    let upstream = RawUpstream::start(|it| {
        let body = format!("{} for {}", it.number, it.header("x-moongate-tenant").unwrap());
        Script::new().read_body().send(answer_bytes(201, &[], body.as_bytes()))
    });
    let tokens_of_ours = "tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }\n";
    let settings = "auth: { jwt: {} }, idempotency: { from: [header, body.assignment_id] }";
    let gateways = [(); 2].map(|()| {
        let config = format!("{H2C}{tokens_of_ours}state: {{ redis: {{ url: \"{}\" }} }}\n", redis.url());
        let builder = Gateway::with(routes(&[upstream.address()], settings)).config(config);
        builder.env("PROXY_JWT_SECRET", tokens::SECRET).start()
    });
    // The same name in two tenants: two people.
    let bearer = ["north", "south"].map(|tenant| {
        let claims = tokens::with(tokens::claims("ada", &["player"]), json!({ "tenant": tenant }));
        let token = tokens::sign_hs256("{\"alg\":\"HS256\"}", &claims.to_string(), tokens::SECRET.as_bytes());
        format!("Bearer {token}")
    });
    let ask = |gateway: usize, tenant: usize, key: Option<&str>, body: &str| {
        let mut fields = vec![("authorization", bearer[tenant].as_str()), ("content-type", "application/json")];
        fields.extend(key.map(|it| ("idempotency-key", it)));
        let answer = gateways[gateway].request("POST", "/orders", &fields, body);
        (answer.status, answer.text(), answer.header("idempotency-replayed").is_some())
    };
    for (number, (key, body)) in [(Some("one"), "{}"), (None, "{\"assignment_id\":\"three\"}")].into_iter().enumerate()
    {
        let done = |tenant: usize| (201, format!("{} for {}", 2 * number + tenant, ["north", "south"][tenant]), false);
        assert_eq!(ask(0, 0, key, body), done(0));
        assert_eq!(ask(0, 1, key, body), done(1), "not what the other tenant got");
        for (gateway, tenant) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (status, text, _) = done(tenant);
            assert_eq!(ask(gateway, tenant, key, body), (status, text, true), "each its own, from either gateway");
        }
    }
    // What one tenant makes of a key is not the other one's mistake.
    assert_eq!(ask(0, 0, Some("two"), "{\"n\":1}").0, 201);
    assert_eq!(ask(1, 1, Some("two"), "{\"n\":2}").0, 201);
    assert_eq!((ask(1, 0, Some("two"), "{\"n\":2}").0, ask(0, 1, Some("two"), "{\"n\":1}").0), (422, 422));
    assert_eq!(upstream.requests().len(), 6);
}

#[test]
fn a_gateway_that_is_killed_blocks_its_key_no_longer_than_its_lease() {
    let redis = Redis::start();
    let upstream = RawUpstream::start(|it| match it.number {
        0 => Script::silence(),
        _ => Script::new().read_body().send(answer_bytes(200, &[], b"done")),
    });
    let mut killed = sharing(&redis, &upstream, "idempotency: { wait: 30s }");
    let heir = sharing(&redis, &upstream, "idempotency: { wait: 100ms }");
    let mut client = RawClient::connect(killed.public());
    client.send("POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: one\r\nContent-Length: 2\r\n\r\n{}");
    upstream.wait_for_requests(1);
    killed.process().signal("KILL");
    killed.wait_exit();
    // The heir waits for the claim to lapse, and then does what was left undone.
    assert_eq!(order(&heir, "one", "{}").status, 409, "the dead one's claim still holds");
    let answer = eventually("the end of the lease", || {
        let answer = order(&heir, "one", "{}");
        (answer.status != 409).then_some(answer)
    });
    assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, None));
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn without_the_state_a_keyed_request_is_refused_and_others_pass() {
    let mut redis = Redis::start();
    let upstream = upstream_that_counts();
    let gateway = sharing(&redis, &upstream, "idempotency: {}");
    assert_eq!(order(&gateway, "one", "{}").status, 201);
    redis.stop();
    let answer = order(&gateway, "two", "{}");
    assert_eq!((answer.status, code(&answer).as_str()), (503, "state_unavailable"));
    assert_eq!(gateway.request("POST", "/orders", &[], "{}").status, 201, "no key, no promise");
    redis.restart();
    eventually("the state is back", || (order(&gateway, "three", "{}").status == 201).then_some(()));
}
