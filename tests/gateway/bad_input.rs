//! **Bad input**: what is malformed is refused or cut, and nothing of it, and no second request hidden
//! in it, reaches an upstream.

mod answers;
mod corpus;
pub mod exact;
pub mod http2;
mod legal;

use super::support::http1::field;
use super::support::*;
use corpus::{Case, Want};

const HIDDEN: &[u8] = b"GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n";

pub const CONFIG_H2C: &str = r#"
listeners:
  public:
    - { address: "127.0.0.1:0", h2c: true }
  admin: { address: "127.0.0.1:0" }
"#;

/// Everything goes to this upstream.
pub fn routes(upstream: &RawUpstream) -> String {
    let address = upstream.address();
    format!(
        "version: 1
upstreams:
  up: {{ discovery: {{ static: [\"{address}\"] }} }}
routes:
  - {{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: up }}
"
    )
}

/// Sends the case with a second request hidden behind it, and reads until the gateway has closed.
fn ask(gateway: &Gateway, case: &Case) -> Vec<u8> {
    let mut client = RawClient::connect(gateway.public());
    // It may close before it has read all.
    let _ = client.try_send([&case.bytes[..], HIDDEN].concat());
    client.finish_sending();
    client.read_until_close()
}

/// Takes one answer off the front: its status, its fields, its body.
fn split(bytes: &[u8]) -> Option<(u16, exact::Fields, Vec<u8>, Vec<u8>)> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let fields = lines.map(|it| it.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())));
    let fields: Vec<_> = fields.collect::<Option<_>>()?;
    let length: usize = field(&fields, "content-length")?.parse().ok()?;
    let body = bytes.get(end + 4..end + 4 + length)?.to_vec();
    Some((status, fields, body, bytes[end + 4 + length..].to_vec()))
}

/// The answer has the shape of decision 8, names the request, ends the connection, and is in the log
/// exactly once.
fn judge_answer(gateway: &Gateway, answer: &[u8], want: u16) -> Result<(), String> {
    let (status, fields, body, rest) =
        split(answer).ok_or_else(|| format!("no answer: '{}'", answer.escape_ascii()))?;
    if status != want {
        return Err(format!("{status} instead of {want}: {}", String::from_utf8_lossy(&body)));
    }
    if !rest.is_empty() {
        return Err(format!("a second answer: '{}'", rest.escape_ascii()));
    }
    let error = serde_json::from_slice::<serde_json::Value>(&body).map_err(|it| it.to_string())?["error"].clone();
    let id = error["request_id"].as_str().unwrap_or_default().to_owned();
    let complete = ["code", "message", "suggested_action"].iter().all(|it| error[it].is_string());
    if !complete || error.get("details").is_none() || id.is_empty() {
        return Err(format!("not an error of ours: {error}"));
    }
    if field(&fields, "x-request-id") != Some(&id) {
        return Err(format!("the request id {id} is not in {fields:?}"));
    }
    if field(&fields, "content-type") != Some("application/json") || field(&fields, "connection") != Some("close") {
        return Err(format!("the fields {fields:?}"));
    }
    let line = gateway.access_log_for(&id);
    if line["status"] != want || line["error"] != error["code"] || line["event"] != "request" {
        return Err(format!("the log says {line}"));
    }
    Ok(())
}

/// Runs the cases that come to this, and tells what the upstream got when the gateway is gone.
fn run(chosen: impl Fn(Want) -> bool) -> Vec<Vec<u8>> {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let mut gateway = Gateway::start(routes(&upstream));
    let mut cases = corpus::all();
    cases.retain(|it| chosen(it.want));
    let mut wrong = Vec::new();
    for case in &cases {
        let want = if let Want::No(status) = case.want { status } else { 400 };
        let answer = ask(&gateway, case);
        if let Err(what) = judge_answer(&gateway, &answer, want) {
            wrong.push(format!("{}: {what}", case.name));
        }
        if case.want != Want::Cut && upstream.connections() > 0 {
            wrong.push(format!("{}: it, or one before it, arrived", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // It serves as before.
    let marker = gateway.get("/marker");
    assert_eq!(marker.status, 200);
    let one_each = gateway.process().log().wait_for(|lines| {
        let told = lines.iter().filter_map(|it| it.json.as_ref());
        let told = told.filter(|it| it["event"] == "request").count();
        (told > cases.len()).then_some(told)
    });
    assert_eq!(one_each, Some(cases.len() + 1), "one line a case, and the marker's");
    // When the gateway is gone, whatever was on its way has arrived.
    drop(gateway);
    upstream.wait_for_closed(upstream.connections());
    upstream.received()
}

#[test]
fn bad_input_nothing_of_a_malformed_request_and_none_hidden_in_it_arrives() {
    assert!(corpus::all().len() >= 120);
    let received = run(|want| matches!(want, Want::No(_)));
    // One connection, the marker's.
    let requests: Vec<_> = received.iter().flat_map(|it| exact::requests(it).unwrap()).collect();
    let targets: Vec<_> = requests.iter().map(|it| &*it.target).collect();
    assert_eq!(targets, ["/marker"]);
    assert_eq!(received.len(), 1);
}

#[test]
fn bad_input_a_body_of_malformed_chunks_never_arrives_whole() {
    for bytes in run(|want| want == Want::Cut) {
        match &exact::requests(&bytes).unwrap_or_else(|it| panic!("{it}"))[..] {
            [request] if request.target == "/case" && request.cut => {}
            [request] if request.target == "/marker" => {}
            other => panic!("arrived: {other:?}"),
        }
    }
}

#[test]
fn bad_input_what_is_legal_arrives_in_one_canonical_form() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = Gateway::start(routes(&upstream));
    let mut wrong = Vec::new();
    for (number, case) in legal::all().iter().enumerate() {
        let mut client = RawClient::connect(gateway.public());
        client.send(&case.bytes);
        let answer = client.try_read_response(case.method);
        if !answer.as_ref().is_ok_and(|it| it.status == 200) {
            wrong.push(format!("{}: {answer:?}", case.name));
            continue;
        }
        let request = exact::requests(upstream.requests().last().unwrap());
        match request.as_deref() {
            Ok([request]) => {
                if (&*request.method, &*request.target, &*request.body, request.cut)
                    != (case.method, case.target, case.body, false)
                {
                    wrong.push(format!("{}: {request:?}", case.name));
                }
                for (name, values) in &case.fields {
                    if request.all(name) != *values {
                        wrong.push(format!("{}: {name} is {:?}", case.name, request.all(name)));
                    }
                }
            }
            other => wrong.push(format!("{} ({number}): {other:?}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // All that ever arrived, on every connection, is canonical.
    for bytes in upstream.received() {
        exact::requests(&bytes).unwrap();
    }
}

#[test]
fn bad_input_http_1_0_without_a_host_is_for_the_address_it_came_to() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = Gateway::start(routes(&upstream));
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /case HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    let requests = exact::requests(&upstream.requests()[0]).unwrap();
    assert_eq!(requests[0].all("host"), [gateway.public().to_string()]);
}

#[test]
fn bad_input_what_may_go_no_further_ends_here() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = Gateway::start(routes(&upstream));
    for (method, target) in [("TRACE", "/case"), ("OPTIONS", "/case"), ("OPTIONS", "*")] {
        let answer = gateway.request(method, target, &[("Max-Forwards", "0")], "");
        assert_eq!(answer.status, 404, "{method} {target}");
    }
    assert_eq!(upstream.connections(), 0);
}
