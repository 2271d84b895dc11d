//! Several upstreams that share a route's requests by weight, and whom they keep.

use std::collections::BTreeSet;

use crate::resilience::Backend;
use crate::support::http1::request;
use crate::support::tokens::*;
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }
store: { sqlite: { path: moongate.db } }
";

/// Two back ends, `stable` and `canary`, and a route with these weights.
struct Canary {
    stable: Backend,
    canary: Backend,
    gateway: Gateway,
    more: String,
}

impl Canary {
    fn start(weights: [u32; 2], more: &str) -> Self {
        let (stable, canary) = (Backend::start("stable"), Backend::start("canary"));
        let text = routes([&stable, &canary], weights, more);
        let gateway = Gateway::with(text).config(CONFIG).env("PROXY_JWT_SECRET", SECRET).start();
        Self { stable, canary, gateway, more: more.to_owned() }
    }

    fn set(&self, weights: [u32; 2]) {
        self.gateway.write_routes(&routes([&self.stable, &self.canary], weights, &self.more));
        let reload = self.gateway.reload();
        assert_eq!(reload.status, 200, "{}", reload.text());
    }

    /// Those of these callers who are at the canary.
    fn at_canary(&self, callers: &[String]) -> BTreeSet<usize> {
        let at = |it: &(usize, &String)| {
            self.gateway.request("GET", "/", &[("authorization", it.1)], b"").text() == "canary"
        };
        callers.iter().enumerate().filter(at).map(|it| it.0).collect()
    }
}

fn routes(backends: [&Backend; 2], weights: [u32; 2], more: &str) -> String {
    let [stable, canary] = backends.map(|it| it.upstream.address());
    let health = "health: { http: /health, every: 500ms, timeout: 400ms, fail_after: 2, pass_after: 1 }";
    format!(
        "version: 1
upstreams:
  stable: {{ discovery: {{ static: [\"{stable}\"] }} }}
  canary: {{ discovery: {{ static: [\"{canary}\"] }}, {health} }}
routes:
  - name: all
    match: {{ path: \"/{{*rest}}\" }}
    split: [{{ upstream: stable, weight: {} }}, {{ upstream: canary, weight: {} }}]
{more}
",
        weights[0], weights[1]
    )
}

fn callers(count: usize) -> Vec<String> {
    (0..count).map(|it| format!("Bearer {}", token(&format!("user-{it}"), &["user"]))).collect()
}

#[test]
fn canary_callers_stay_and_a_larger_share_takes_only_new_ones() {
    let canary = Canary::start([95, 5], "    split_by: principal\n    auth: { jwt: {} }");
    let callers = callers(60);
    let few = canary.at_canary(&callers);
    assert_eq!(canary.at_canary(&callers), few, "everybody stays");
    let mut before = few;
    for weight in [20, 60, 100] {
        canary.set([100 - weight, weight]);
        let now = canary.at_canary(&callers);
        assert!(now.is_superset(&before), "{before:?} {now:?}");
        before = now;
    }
    assert_eq!(before.len(), callers.len(), "the whole share is everybody");
    canary.set([95, 5]);
    assert!(canary.at_canary(&callers).is_subset(&before));
    canary.set([1, 0]);
    assert_eq!(canary.at_canary(&callers), BTreeSet::new(), "a weight of nothing is nothing");
}

#[test]
fn canary_without_a_key_each_request_is_drawn_and_the_log_names_the_part() {
    let canary = Canary::start([1, 1], "");
    let mut seen = BTreeSet::new();
    eventually("both serve the same client", || {
        let answer = canary.gateway.get("/");
        let line = canary.gateway.access_log_for(answer.header("x-request-id").unwrap());
        assert_eq!(line["upstream"], answer.text());
        seen.insert(answer.text());
        (seen.len() == 2).then_some(())
    });
}

#[test]
fn canary_by_header_or_cookie_keeps_those_that_have_it() {
    for (by, name, value) in [("header: x-room", "x-room", ""), ("cookie: room", "cookie", "a=1; room=")] {
        let canary = Canary::start([1, 1], &format!("    split_by: {{ {by} }}"));
        let ask = |room: usize| canary.gateway.request("GET", "/", &[(name, &*format!("{value}{room}"))], b"").text();
        let first: Vec<String> = (0..24).map(ask).collect();
        assert_eq!((0..24).map(ask).collect::<Vec<_>>(), first);
        assert!(first.contains(&"canary".to_owned()) && first.contains(&"stable".to_owned()), "{first:?}");
    }
}

#[test]
fn canary_whose_part_can_not_serve_goes_elsewhere_and_comes_back() {
    let canary = Canary::start([1, 1], "    split_by: { header: x-room }");
    let ask = |room: usize| canary.gateway.request("GET", "/", &[("x-room", &*room.to_string())], b"");
    let room = (0..).find(|it| ask(*it).text() == "canary").unwrap();
    canary.canary.fail(true);
    eventually("the other part serves it", || (ask(room).text() == "stable").then_some(()));
    canary.canary.fail(false);
    eventually("it is at its own again", || (ask(room).text() == "canary").then_some(()));
}

#[test]
fn r9_2_a_canary_s_cached_responses_are_given_to_nobody_else_unless_that_is_said() {
    let of_room = |canary: &Canary, room: usize| {
        let answer = canary.gateway.request("GET", "/", &[("x-room", &*room.to_string())], b"");
        (answer.text(), answer.header("x-cache").unwrap_or_default().to_owned())
    };
    let apart = Canary::start([1, 1], "    split_by: { header: x-room }\n    cache: { ttl: 1h }");
    let rooms: Vec<(String, String)> = (0..24).map(|it| of_room(&apart, it)).collect();
    assert_eq!((apart.stable.asked(), rooms.iter().filter(|it| it.1 == "miss").count()), (1, 2), "{rooms:?}");
    let again: Vec<(String, String)> = (0..24).map(|it| of_room(&apart, it)).collect();
    assert!(rooms.iter().zip(&again).all(|(first, again)| first.0 == again.0 && again.1 == "hit"), "{again:?}");
    let told = "    split_by: { header: x-room }\n    cache: { ttl: 1h, across_split: true }";
    let alike = Canary::start([1, 1], told);
    let rooms: BTreeSet<String> = (0..24).map(|it| of_room(&alike, it).0).collect();
    assert_eq!(rooms.len(), 1, "{rooms:?}");
}

#[test]
fn decision_4_a_repeated_key_stays_at_its_part_also_when_that_can_not_serve() {
    let canary = Canary::start([1, 1], "    idempotency: {}");
    let ask = |key: usize| {
        let key = format!("key-{key}");
        canary.gateway.request("POST", "/", &[("idempotency-key", &*key)], b"{}")
    };
    canary.stable.fail(true);
    canary.canary.fail(true);
    // Errors are not stored: each of these is forwarded again.
    let first: Vec<String> = (0..16).map(|it| ask(it).text()).collect();
    let at_canary = |text: &String| text == "canary" || text.contains("upstream_unavailable");
    assert!(first.iter().any(at_canary) && first.iter().any(|it| it == "stable"), "{first:?}");
    let quoted = canary.gateway.request("POST", "/", &[("x-idempotency-key", "\"key-0\"")], b"{}").text();
    assert_eq!(at_canary(&quoted), at_canary(&first[0]));
    eventually("the canary is known to be ill", || {
        let again: Vec<String> = (0..16).map(|it| ask(it).text()).collect();
        assert!(first.iter().zip(&again).all(|(first, again)| at_canary(first) == at_canary(again)), "{again:?}");
        again.iter().any(|it| it.contains("upstream_unavailable")).then_some(())
    });
}

#[test]
fn canary_shares_are_explained_and_shown() {
    let canary = Canary::start([95, 5], "    split_by: principal");
    let routes = canary.gateway.admin_get("/admin/routes").json();
    let action = &routes["routes"][0]["action"];
    assert_eq!((&action["split"][1]["percent"], &action["split_by"]), (&5.0.into(), &"principal".into()), "{action}");
    let arguments = ["explain", "GET", "/x", "--config", "gateway.yaml", "--routes", "routes.yaml"];
    let run = crate::accounts::moongate(canary.gateway.folder(), &arguments, "", &[("PROXY_JWT_SECRET", SECRET)]);
    assert!(run.stdout.contains("split 95.0 % to stable, 5.0 % to canary, by principal"), "{}", run.stdout);
    assert!(run.stdout.contains("upstream   stable") && run.stdout.contains("upstream   canary"), "{}", run.stdout);
}

#[test]
fn r2_faults_of_splits_say_where_and_what_to_do() {
    let folder = Folder::new();
    folder.write("gateway.yaml", CONFIG);
    folder.write(
        "routes.yaml",
        "version: 1
upstreams: { a: { discovery: { static: [\"127.0.0.1:1\"] } } }
routes:
  - { name: one, match: { path: /1 }, split: [{ upstream: a, weight: 0 }] }
  - { name: two, match: { path: /2 }, split: [{ upstream: a, weight: 1 }, { upstream: a, weight: 2 }] }
  - { name: three, match: { path: /3 }, split: [{ upstream: b, weight: 1 }] }
  - { name: four, match: { path: /4 }, upstream: a, split_by: principal }
  - { name: five, match: { path: /5 }, split: [] }
  - { name: six, match: { path: /6 }, split: [{ upstream: a, weight: 1 }], split_by: { header: \"a b\" } }
  - { name: seven, match: { path: /7 }, split: [{ upstream: a, weight: 1 }], upstream: a }
",
    );
    let arguments = ["check", "--config", "gateway.yaml", "--routes", "routes.yaml"];
    let run = crate::accounts::moongate(&folder, &arguments, "", &[("PROXY_JWT_SECRET", SECRET)]);
    assert_eq!(run.code, 1);
    for said in [
        "every weight is 0",
        "upstream `a` is a part already",
        "no upstream `b`",
        "there is no `split` that this could decide about",
        "a split has 1 to 32 parts",
        "`a b` is not the name of a field",
        "route `seven` needs exactly one of",
    ] {
        assert!(run.stderr.contains(said), "{said}\n{}", run.stderr);
    }
}
