//! Copies of requests for another upstream, whose answers nobody gets.

use std::net::SocketAddr;

use crate::accounts::moongate;
use crate::support::upstream::{chunk, last_chunk};
use crate::support::*;

fn routes(original: SocketAddr, copy: SocketAddr, mirror: &str, more: &str) -> String {
    format!(
        "version: 1
upstreams:
  live: {{ discovery: {{ static: [\"{original}\"] }} }}
  next: {{ discovery: {{ static: [\"{copy}\"] }} }}
routes:
  - name: all
    match: {{ path: \"/{{*rest}}\" }}
    upstream: live
    mirror: {{ upstream: next, percent: 100{mirror} }}
{more}
"
    )
}

fn live() -> RawUpstream {
    RawUpstream::start(|_| Script::new().read_body().send(upstream::answer_bytes(200, &[], b"live")))
}

fn mirrored(gateway: &Gateway, result: &str) -> f64 {
    let series = format!("moongate_mirrored_requests_total{{result=\"{result}\",route=\"all\"}}");
    figure(gateway, &series).unwrap_or_default()
}

#[track_caller]
fn wait_for(gateway: &Gateway, result: &str, count: f64) {
    eventually(result, || (mirrored(gateway, result) == count).then_some(()));
}

fn text(request: &[u8]) -> String {
    String::from_utf8_lossy(request).into_owned()
}

#[test]
fn mirror_the_copy_is_marked_and_whole_and_its_answer_goes_to_nobody() {
    let (original, copy) = (
        live(),
        RawUpstream::start(|_| {
            Script::new().read_body().send(upstream::answer_bytes(500, &[("set-cookie", "a=1")], b"next"))
        }),
    );
    let gateway =
        Gateway::start(routes(original.address(), copy.address(), "", "    rewrite: { path: \"/v2/{rest}\" }"));
    let fields = [("x-moongate-mirror", "0"), ("authorization", "Bearer x")];
    let answer = gateway.request("POST", "/a?b=1", &fields, b"some body");
    assert_eq!((answer.status, answer.text().as_str(), answer.header("set-cookie")), (200, "live", None));
    wait_for(&gateway, "answered", 1.0);
    let (sent, copied) = (text(&original.requests()[0]), text(&copy.requests()[0]));
    assert!(!sent.to_lowercase().contains("x-moongate-mirror"), "clients can't mark theirs: {sent}");
    assert!(copied.to_lowercase().contains("x-moongate-mirror: 1\r\n"), "{copied}");
    for one in [&sent, &copied] {
        assert!(one.starts_with("POST /v2/a?b=1 HTTP/1.1\r\n") && one.ends_with("\r\n\r\nsome body"), "{one}");
        assert!(one.contains("Bearer x"), "{one}");
    }
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(gateway.access_log_for(id)["upstream"], "live");
    let lines = gateway.events("request").into_iter().filter(|it| it["request_id"] == id).count();
    assert_eq!(lines, 1, "one request, one line");
    assert_eq!(figure(&gateway, "moongate_mirrors_in_flight"), Some(0.0));
}

#[test]
fn mirror_a_streamed_body_is_copied_up_to_the_limit_and_a_larger_one_is_dropped_and_counted() {
    let (original, copy) =
        (live(), RawUpstream::start(|_| Script::new().read_body().send(upstream::answer_bytes(200, &[], b""))));
    let gateway = Gateway::start(routes(original.address(), copy.address(), ", body_limit: 1KiB", ""));
    let send = |pieces: &[&[u8]]| {
        let mut client = RawClient::connect(gateway.public());
        client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        pieces.iter().for_each(|it| client.send(chunk(it)));
        client.send(last_chunk(&[]));
        assert_eq!(client.read_response().text(), "live");
    };
    send(&[b"one ", b"two"]);
    wait_for(&gateway, "answered", 1.0);
    assert!(text(&copy.requests()[0]).contains("one two") || text(&copy.received()[0]).contains("two"));
    send(&[&[b'x'; 800], &[b'y'; 800]]);
    assert_eq!(gateway.request("POST", "/", &[], vec![b'z'; 2_000]).text(), "live");
    wait_for(&gateway, "body_too_large", 2.0);
    assert_eq!(mirrored(&gateway, "answered"), 1.0);
}

#[test]
fn mirror_one_that_hangs_or_is_not_there_changes_nothing_and_holds_no_more_than_its_places() {
    let (original, hangs) = (live(), RawUpstream::start(|_| Script::new().await_close()));
    let gateway = Gateway::start(routes(
        original.address(),
        hangs.address(),
        ", concurrency: 2",
        "    timeouts: { request: 20s }",
    ));
    for _ in 0..6 {
        assert_eq!(gateway.get("/").text(), "live", "nobody waits for the copy");
    }
    wait_for(&gateway, "busy", 4.0);
    assert_eq!(figure(&gateway, "moongate_mirrors_in_flight"), Some(2.0));
    let gateway = Gateway::start(routes(original.address(), nobody(), "", ""));
    assert_eq!(gateway.get("/").text(), "live");
    wait_for(&gateway, "failed", 1.0);
}

#[test]
fn mirror_only_what_is_forwarded_is_copied_and_a_share_of_nothing_is_nothing() {
    let (original, copy) = (live(), live());
    let gateway = Gateway::start(routes(original.address(), copy.address(), "", "    cache: { ttl: 1h }"));
    assert_eq!([gateway.get("/").text(), gateway.get("/").text()], ["live", "live"]);
    wait_for(&gateway, "answered", 1.0);
    let text = routes(original.address(), copy.address(), "", "").replace("percent: 100", "percent: 0");
    let gateway = Gateway::start(text);
    assert_eq!(gateway.get("/").text(), "live");
    assert_eq!(["answered", "failed", "busy"].map(|it| mirrored(&gateway, it)), [0.0; 3]);
    assert_eq!(copy.requests().len(), 1);
}

#[test]
fn us_013_a_stop_waits_for_copies_under_way() {
    let signal = Signal::new();
    let waits = signal.clone();
    let (original, copy) = (
        live(),
        RawUpstream::start(move |_| Script::new().wait(&waits).send(upstream::answer_bytes(200, &[], b"late"))),
    );
    let config = format!("{}\nshutdown: {{ delay: 0s, grace: 20s }}\n", gateway::CONFIG);
    let mut gateway = Gateway::with(routes(original.address(), copy.address(), "", "")).config(config).start();
    assert_eq!(gateway.get("/").text(), "live");
    copy.wait_for_requests(1);
    gateway.sigterm();
    gateway.wait_for_event("draining", |_| true);
    signal.give();
    assert_eq!(gateway.wait_exit(), 0);
    assert_eq!(copy.failures(), Vec::<String>::new(), "the copy was answered, not cut");
}

#[test]
fn mirror_is_explained_and_faults_say_what_to_do() {
    let folder = Folder::new();
    folder.write("gateway.yaml", gateway::CONFIG);
    let [one, two] = [1, 2].map(|it| SocketAddr::from(([127, 0, 0, 1], it)));
    folder.write("routes.yaml", routes(one, two, "", ""));
    let files = ["--config", "gateway.yaml", "--routes", "routes.yaml"];
    let run = moongate(&folder, &[&["explain", "GET", "/x"][..], &files[..]].concat(), "", &[]);
    assert!(run.stdout.contains("copied     100 % to next"), "{}", run.stdout);
    folder.write(
        "routes.yaml",
        "version: 1
upstreams: { a: { discovery: { static: [\"127.0.0.1:1\"] } } }
routes:
  - { name: one, match: { path: /1 }, upstream: a, mirror: { upstream: a, percent: 5 } }
  - { name: two, match: { path: /2 }, respond: { body: x }, mirror: { upstream: b, percent: 5 } }
",
    );
    let run = moongate(&folder, &[&["check"][..], &files[..]].concat(), "", &[]);
    for said in
        ["upstream `a` has the original already", "only requests that go to an upstream are copied", "no upstream `b`"]
    {
        assert!(run.code == 1 && run.stderr.contains(said), "{said}\n{}", run.stderr);
    }
}
