//! Upstreams and sources of endpoints that misbehave: what they do stays bounded, and costs nobody else anything.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::Response as HttpResponse;
use serde_json::{Value, json};

use crate::exchange::H2C;
use crate::http2::H2Upstream;
use crate::support::dns::Zone;
use crate::support::http1::try_request;
use crate::support::*;

const LISTENERS: &str = "listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }\n";
/// So many interim answers of one attempt pass.
const INTERIM_MAX: usize = 32;

/// Two upstreams, `/bad` and everything else.
fn beside(bad: &str, good: SocketAddr, of_bad: &str) -> String {
    format!(
        "version: 1
upstreams:
  bad: {{ discovery: {bad} }}
  good: {{ discovery: {{ static: [\"{good}\"] }} }}
routes:
  - {{ name: bad, match: {{ path: \"/bad/{{*rest}}\" }}, upstream: bad{of_bad} }}
  - {{ name: good, match: {{ path: \"/{{*rest}}\" }}, upstream: good }}
"
    )
}

fn fixed(upstream: &RawUpstream) -> String {
    format!("{{ static: [\"{}\"] }}", upstream.address())
}

fn with_dns(dns: &DnsServer) -> String {
    format!("{LISTENERS}resolver: {{ servers: [\"{}\"], timeout: 2s }}\n", dns.address())
}

fn endpoints(gateway: &Gateway, name: &str) -> Vec<String> {
    let page = gateway.admin_get("/admin/upstreams").json();
    let upstream = page["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
    upstream["endpoints"].as_array().unwrap().iter().map(|it| it["address"].as_str().unwrap().to_owned()).collect()
}

/// All endpoints that metrics know of an upstream.
fn in_metrics(gateway: &Gateway, name: &str) -> HashSet<String> {
    let text = gateway.admin_get("/metrics").text();
    let of_it = text.lines().filter(|it| it.contains(&format!("upstream=\"{name}\"")));
    of_it.filter_map(|it| Some(it.split("endpoint=\"").nth(1)?.split('"').next()?.to_owned())).collect()
}

#[test]
fn a_flood_of_interim_answers_ends_the_attempt_and_nothing_else() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n".repeat(50_000);
    let upstream = RawUpstream::start(move |request| match request.target().as_str() {
        "/bad/103" => Script::new().send(&hints),
        "/bad/100" => Script::new().send("HTTP/1.1 100 Continue\r\n\r\n".repeat(50_000)),
        "/bad/fat" => Script::new()
            .send(format!("HTTP/1.1 103 Early Hints\r\nx-fat: {}\r\n\r\n", "f".repeat(8_000)).repeat(2_000)),
        _ => Script::ok("good"),
    });
    let gateway = Gateway::with(beside(&fixed(&upstream), upstream.address(), "")).config(H2C).start();
    for path in ["/bad/103", "/bad/100", "/bad/fat"] {
        let answer = gateway.get(path);
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (502, Some("upstream_protocol_error")),
            "{path}"
        );
        assert!(answer.informational.len() <= INTERIM_MAX, "{path}: {}", answer.informational.len());
        assert_eq!(gateway.get("/").text(), "good");
    }
    // Who only wants the head, or speaks another version, is none the worse for it.
    assert_eq!(H2Client::connect(gateway.public()).get("/bad/103").status, 502);
    assert_eq!(gateway.request("POST", "/bad/103", &[], b"x").status, 502);
}

/// The h2 crate shows nobody an interim answer, so none can be counted: here the time for an answer is the bound.
#[test]
fn a_flood_of_interim_answers_over_http2_ends_with_the_time_for_an_answer() {
    let flooded = Arc::new(AtomicUsize::new(0));
    let sent = flooded.clone();
    let upstream = H2Upstream::start(move |request, mut respond, _| {
        let sent = sent.clone();
        Box::pin(async move {
            if request.uri().path() == "/" {
                return respond.send_response(HttpResponse::new(()), true).map(drop);
            }
            // In batches, so that they leave while there are more; until the gateway gives up.
            loop {
                for _ in 0..100 {
                    let hint = HttpResponse::builder().status(103).header("link", "</a.css>; rel=preload");
                    respond.send_informational(hint.body(()).unwrap())?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    });
    let gateway = upstream.gateway("timeouts: { first_byte: 700ms }");
    let before = resident(&gateway);
    for version in [1, 2] {
        let answer = match version {
            1 => gateway.get("/flood"),
            _ => H2Client::connect(gateway.public()).get("/flood"),
        };
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &json!("upstream_timeout")));
        assert!(answer.informational.is_empty());
        assert_eq!(gateway.get("/").status, 200, "the others go on");
    }
    let flooded = flooded.load(Ordering::Relaxed);
    assert!(flooded > 2_000, "it was no flood: {flooded}");
    // What came is forgotten as it comes.
    let more = resident(&gateway).saturating_sub(before);
    assert!(more < 32 << 20, "{more} bytes more");
}

fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn interim_answers_do_not_put_the_answer_off() {
    let upstream = RawUpstream::start(|request| match request.target().as_str() {
        "/" => Script::ok("good"),
        _ => (0..30).fold(Script::new(), |script, _| {
            script.send("HTTP/1.1 103 Early Hints\r\n\r\n").pause(Duration::from_millis(100))
        }),
    });
    let gateway = Gateway::start(beside(&fixed(&upstream), upstream.address(), ", timeouts: { first_byte: 400ms }"));
    let answer = gateway.get("/bad/trickle");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (504, Some("upstream_timeout")));
    assert!(answer.informational.len() < 30, "the time had run out: {}", answer.informational.len());
}

#[test]
fn a_body_that_breaks_off_is_never_made_to_look_whole_however_it_breaks_off() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let upstream = RawUpstream::start(move |request| match request.target().as_str() {
        "/bad/length/half-closed" => Script::new().send(head).finish_sending().await_close(),
        "/bad/length/reset" => Script::new().send(head).pause(Duration::from_millis(50)).reset(),
        "/bad/chunked/half-closed" => Script::new().send(chunked).finish_sending().await_close(),
        "/bad/chunked/reset" => Script::new().send(chunked).pause(Duration::from_millis(50)).reset(),
        "/bad/until-close/reset" => {
            Script::new().send("HTTP/1.1 200 OK\r\n\r\nhalf").pause(Duration::from_millis(50)).reset()
        }
        "/bad/until-close/half-closed" => {
            Script::new().send("HTTP/1.1 200 OK\r\n\r\nhalf").finish_sending().await_close()
        }
        "/bad/head/half-closed" => Script::new().send("HTTP/1.1 200 OK\r\nx: ").finish_sending().await_close(),
        "/bad/head/reset" => Script::new().send("HTTP/1.1 200 OK\r\nx: ").pause(Duration::from_millis(50)).reset(),
        _ => Script::ok("good"),
    });
    let gateway = Gateway::with(beside(&fixed(&upstream), upstream.address(), "")).config(H2C).start();
    for body in ["length/half-closed", "length/reset", "chunked/half-closed", "chunked/reset", "until-close/reset"] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET /bad/{body} HTTP/1.1\r\nhost: x\r\n\r\n"));
        let seen = client.try_read_response("GET");
        assert!(seen.is_err(), "{body} looks whole: {seen:?}");
        gateway.wait_for_event("request", |it| it["path"] == format!("/bad/{body}") && it["end"] == "truncated");
        let reset = H2Client::connect(gateway.public()).try_request("GET", &format!("/bad/{body}"), &[], b"", None);
        assert!(reset.as_ref().is_err_and(h2::Error::is_reset), "{body} looks whole: {reset:?}");
        assert_eq!(gateway.get("/").text(), "good", "{body}");
    }
    // What the connection's end delimits is whole when that half is closed in good order (RFC 9112, section 6.3).
    assert_eq!(gateway.get("/bad/until-close/half-closed").text(), "half");
    for head in ["head/half-closed", "head/reset"] {
        assert_eq!(gateway.get(&format!("/bad/{head}")).status, 502, "{head}");
    }
}

#[test]
fn more_services_than_the_registry_holds_are_refused_while_everybody_else_is_served() {
    const CLIENTS: usize = 4;
    let good = RawUpstream::start(|_| Script::ok("good"));
    let gateway = Gateway::with(beside("{ registry: {} }", good.address(), ""))
        .config(format!("{LISTENERS}registry: {{ open: true }}\n"))
        .start();
    let ended = AtomicBool::new(false);
    let put = |name: String| {
        let body = json!({ "address": "127.0.0.1:9", "ttl": "1h" }).to_string();
        let fields = [("content-type", "application/json")];
        try_request(gateway.admin(), "PUT", &format!("/admin/registry/{name}"), &fields, body).unwrap()
    };
    let created: usize = thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut requests = 0;
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(gateway.get("/").text(), "good");
                requests += 1;
            }
            requests
        });
        let attack = |client: usize| {
            let answers = (0..300).map(|number| put(format!("service-{client}-{number}/one")));
            let mut created = 0;
            for answer in answers {
                match answer.status {
                    201 => created += 1,
                    _ => assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &json!("registry_full"))),
                }
            }
            created
        };
        let attackers: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || attack(client))).collect();
        let created = attackers.into_iter().map(|it| it.join().unwrap()).sum();
        ended.store(true, Ordering::Relaxed);
        assert!(served.join().unwrap() > 0);
        created
    });
    assert_eq!(created, 1_000, "not one more, however many come at once");
    assert_eq!(figure(&gateway, "moongate_registry_instances"), Some(1_000.0));
    let refused = put("one-more/one".to_owned());
    assert!(refused.status == 409 && refused.text().contains("1,000 services"), "{}", refused.text());
    assert_eq!(put("service-0-0/one".to_owned()).status, 200, "who is there may stay");
}

/// The registry at its real bound: one place is left, and thousands want it.
#[test]
fn ten_thousand_instances_are_all_that_there_are_and_attempts_beyond_cost_the_state_nothing() {
    const ATTEMPTS: u64 = 5_000;
    let redis = Redis::start();
    // As ten services would have left it, but for the last instance of the last one.
    let fill = "local index = {}
        for service = 0, 9 do
            local names = {}
            for number = 1, 1000 do
                if service * 1000 + number < 10000 then
                    local record = string.format('{\"address\":\"10.%d.%d.%d:80\",\"weight\":1,\"ttl_ms\":3600000,\"expires_at\":4000000000}', service, math.floor(number / 250), number % 250 + 1)
                    redis.call('SET', 'moongate:registry:instance:s' .. service .. '/i' .. number, record, 'PX', 3600000)
                    names[#names + 1] = 'i' .. number
                end
            end
            index['s' .. service] = names
        end
        redis.call('SET', 'moongate:registry:index', cjson.encode(index), 'PX', 3600000)
        return redis.call('DBSIZE')";
    assert_eq!(redis.ask::<u64>(&["EVAL", fill, "0"]), 10_000, "9,999 and their index");
    let good = RawUpstream::start(|_| Script::ok("good"));
    let gateway = Gateway::with(beside("{ registry: {} }", good.address(), ""))
        .config(format!("{LISTENERS}registry: {{ open: true }}\nstate: {{ redis: {{ url: \"{}\" }} }}\n", redis.url()))
        .start();
    let known = || figure(&gateway, "moongate_registry_instances");
    eventually("it knows them all", || (known() == Some(9_999.0)).then_some(()));
    let body = json!({ "address": "127.0.0.1:9", "ttl": "1h" }).to_string();
    let put = |name: &str| {
        let request =
            ["PUT /admin/registry/", name, " HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"].concat();
        format!("{request}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let mut client = RawClient::connect(gateway.admin());
    let mut ask = |name: &str| {
        client.send(put(name));
        client.read_response()
    };
    assert_eq!(ask("s9/i1000").status, 201, "the last place");
    let before: u64 = commands(&redis);
    for number in 0..ATTEMPTS {
        let name = format!("s{}/more-{number}", number % 20); // of services that are there, and of others
        let answer = ask(&name);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &json!("registry_full")), "{name}");
    }
    let cost = commands(&redis) - before;
    assert!(cost < ATTEMPTS / 5, "{ATTEMPTS} attempts cost {cost} commands");
    assert_eq!(redis.ask::<u64>(&["DBSIZE"]), 10_001);
    assert_eq!(ask("s9/i1000").status, 200, "who is there may stay");
    assert_eq!((known(), gateway.get("/").text().as_str()), (Some(10_000.0), "good"));
}

/// How many commands of clients it has carried out.
fn commands(redis: &Redis) -> u64 {
    let stats: String = redis.ask(&["INFO", "stats"]);
    let line = stats.lines().find_map(|it| it.strip_prefix("total_commands_processed:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_time_to_live_of_nothing_keeps_neither_us_nor_the_resolver_busy() {
    let (one, dns) = (Demo::start("one"), DnsServer::start());
    dns.addresses("backend.internal", 0, &["127.0.0.1"]);
    let discovery = format!("{{ dns: {{ name: backend.internal, port: {} }} }}", one.address().port());
    let began = Instant::now();
    let gateway = Gateway::with(beside(&discovery, one.address(), "")).config(with_dns(&dns)).start();
    eventually("it is asked again and again", || {
        assert_eq!(gateway.get("/bad/x").status, 200);
        (dns.asked("backend.internal") >= 4).then_some(())
    });
    // Once a second, give or take a tenth; by as many requests as there may have been.
    let most = 2.0 + began.elapsed().as_secs_f64() / 0.9;
    assert!(dns.asked("backend.internal") as f64 <= most, "{} of {most}", dns.asked("backend.internal"));
}

#[test]
fn names_that_never_answer_are_waited_for_by_nobody_else() {
    let (one, dns) = (Demo::start("one"), DnsServer::start());
    let mut text = "version: 1\nupstreams:\n".to_owned();
    for number in 0..300 {
        let name = format!("silent-{number}.internal");
        dns.set(&name, Zone::Silent);
        text += &format!("  a{number}: {{ discovery: {{ dns: {{ name: {name}, port: 1 }} }} }}\n");
    }
    dns.addresses("known.internal", 60, &["127.0.0.1"]);
    text +=
        &format!("  known: {{ discovery: {{ dns: {{ name: known.internal, port: {} }} }} }}\n", one.address().port());
    text += "routes:\n  - { name: lost, match: { path: \"/lost\" }, upstream: a0 }\n";
    text += "  - { name: known, match: { path: \"/{*rest}\" }, upstream: known }\n";
    let gateway = Gateway::with(text).config(with_dns(&dns)).start();
    // All others are asked first, and none of them answers within seconds: no request waits for that.
    assert_eq!(gateway.get("/echo").status, 200, "the first request already");
    assert_eq!(gateway.get("/lost").status, 503);
    assert_eq!(gateway.reload().status, 200, "and no reload");
    let files = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    assert!(files < 500, "{files} open files");
}

#[test]
fn addresses_that_flap_leave_nothing_behind_and_cost_no_request() {
    let (first, dns) = (Demo::start_at("one", SocketAddr::from(([127, 0, 0, 1], 0))), DnsServer::start());
    let port = first.address().port();
    let others: Vec<Demo> =
        (2..5).map(|it| Demo::start_at("more", SocketAddr::from(([127, 0, 0, it], port)))).collect();
    let addresses: Vec<String> = [&first].into_iter().chain(&others).map(|it| it.address().ip().to_string()).collect();
    dns.addresses("backend.internal", 0, &[&addresses[0]]);
    let discovery = format!("{{ dns: {{ name: backend.internal, port: {port} }} }}");
    let gateway = Gateway::with(beside(&discovery, first.address(), "")).config(with_dns(&dns)).start();
    for address in addresses.iter().cycle().skip(1).take(5) {
        dns.addresses("backend.internal", 0, &[address]);
        let wanted = format!("{address}:{port}");
        eventually("it is followed", || {
            assert_eq!(gateway.get("/bad/x").status, 200);
            (endpoints(&gateway, "bad") == [wanted.clone()]).then_some(())
        });
        assert_eq!(in_metrics(&gateway, "bad"), HashSet::from([wanted]));
    }
}

#[test]
fn instances_that_flap_leave_nothing_behind() {
    let good = RawUpstream::start(|_| Script::ok("good"));
    let gateway = Gateway::with(beside("{ registry: {} }", good.address(), ""))
        .config(format!("{LISTENERS}registry: {{ open: true }}\n"))
        .start();
    for number in 0..150_u8 {
        let body = json!({ "address": SocketAddr::from(([127, 1, 0, number], 9)), "ttl": "1h" }).to_string();
        let fields = [("content-type", "application/json")];
        let call = |method: &str, body: &str| {
            try_request(gateway.admin(), method, "/admin/registry/bad/one", &fields, body).unwrap().status
        };
        assert_eq!((call("PUT", &body), call("DELETE", "")), (201, 204));
        assert_eq!(gateway.get("/").text(), "good");
    }
    eventually("nothing is left", || endpoints(&gateway, "bad").is_empty().then_some(()));
    assert_eq!(in_metrics(&gateway, "bad"), HashSet::new());
    assert_eq!(figure(&gateway, "moongate_registry_instances"), Some(0.0));
    assert_eq!(gateway.admin_get("/admin/registry").json()["services"], Value::Object(serde_json::Map::new()));
}
