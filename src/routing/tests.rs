//! The room from outside: tables as an operator writes them, and the table against a plain matcher.

use http::header::{ACCEPT, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use crate::base::{At, Diagnostics};

use super::pattern::{HostName, Nearness, Segment};
use super::route::Route;
use super::written::WebSocketMatch;
use super::{MatchConfig, Outcome, Params, Request, Table, Target, Template, Verdict};

/// Routes by name and `match:` section in YAML.
fn compile(routes: &[(&str, &str)]) -> (Table, Diagnostics) {
    let written: Vec<(&str, MatchConfig)> =
        routes.iter().map(|(name, yaml)| (*name, serde_yaml::from_str(yaml).unwrap())).collect();
    let list: Vec<(&str, &MatchConfig)> = written.iter().map(|it| (it.0, &it.1)).collect();
    let mut diagnostics = Diagnostics::default();
    let table = Table::compile(&list, &At::ROOT.key("routes"), &mut diagnostics);
    (table, diagnostics)
}

#[track_caller]
fn table(routes: &[(&str, &str)]) -> Table {
    let (table, diagnostics) = compile(routes);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    table
}

/// `GET api.example.org/a?b=1`, with headers.
struct Sent {
    method: Method,
    host: Option<String>,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    websocket: bool,
}

impl Sent {
    fn new(line: &str, headers: &[(&str, &str)]) -> Self {
        let (method, url) = line.split_once(' ').unwrap();
        let (url, query) = match url.split_once('?') {
            Some((url, query)) => (url, Some(query.to_owned())),
            None => (url, None),
        };
        let (host, path) = url.split_at(url.find('/').unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let websocket = map.contains_key("upgrade");
        let host = (!host.is_empty()).then(|| host.to_owned());
        let method = method.parse().unwrap();
        Self { method, host, path: path.to_owned(), query, headers: map, websocket }
    }

    fn request(&self) -> Request<'_> {
        Request {
            host: self.host.as_deref(),
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
            websocket: self.websocket,
            https: false,
            listener: None,
        }
    }
}

/// The winner and its captures as `name a=1 b=2`, or `404`, `405 GET, …`, `406`.
fn answer(table: &Table, sent: &Sent) -> String {
    match table.find(&sent.request()) {
        Outcome::Found { route, params } => {
            let captures = table.captures(route).iter();
            let shown = captures.map(|name| {
                let value = table.param(route, &params, &sent.path, name).unwrap();
                format!(" {name}={value}")
            });
            table.name(route).to_owned() + &shown.collect::<String>()
        }
        Outcome::NotFound => "404".to_owned(),
        Outcome::MethodNotAllowed { allow } => format!("405 {allow}"),
        Outcome::NotAcceptable => "406".to_owned(),
    }
}

#[track_caller]
fn check(table: &Table, line: &str, headers: &[(&str, &str)], expected: &str) {
    assert_eq!(answer(table, &Sent::new(line, headers)), expected, "{line}");
}

#[test]
fn the_more_specific_path_wins_whatever_the_order() {
    let mut routes = vec![
        ("all", "path: '/{*all}'"),
        ("rest", "path: '/a/{*rest}'"),
        ("name", "path: '/a/{x}'"),
        ("literal", "path: /a/b"),
        ("deep", "path: '/a/{x}/c'"),
        ("slash", "path: /a/b/"),
    ];
    for _ in 0..routes.len() {
        routes.rotate_left(1);
        let table = table(&routes);
        check(&table, "GET /a/b", &[], "literal");
        check(&table, "GET /a/b/", &[], "slash");
        check(&table, "GET /a/x", &[], "name x=x");
        check(&table, "GET /a/b/c", &[], "deep x=b");
        check(&table, "GET /a/b/d", &[], "rest rest=b/d");
        check(&table, "GET /a/", &[], "rest rest=");
        check(&table, "GET /a", &[], "rest rest=");
        check(&table, "GET /", &[], "all all=");
        check(&table, "GET /b/c/", &[], "all all=b/c/");
    }
}

#[test]
fn a_dead_end_leads_back_to_the_next_best() {
    let table = table(&[
        ("literal", "{ path: /a/b/d, methods: [PUT] }"),
        ("flagged", "{ path: '/a/b/{*rest}', headers: { x-flag: { present: true } } }"),
        ("capture", "path: '/a/{x}/c'"),
        ("two", "path: '/{y}/{x}/d'"),
    ]);
    check(&table, "GET /a/b/c", &[], "capture x=b");
    check(&table, "GET /a/b/c", &[("x-flag", "")], "flagged rest=c");
    check(&table, "GET /a/b/d", &[], "two y=a x=b");
    check(&table, "PUT /a/b/d", &[], "literal");
    check(&table, "GET /a/b/e", &[], "404");
    check(&table, "GET /a//c", &[], "404");
}

#[test]
fn the_more_specific_host_wins() {
    let table = table(&[
        ("any", "path: '/{*rest}'"),
        ("wide", "{ path: /a, hosts: ['*.example.org'] }"),
        ("long", "{ path: /a, hosts: ['*.eu.example.org'] }"),
        ("exact", "{ path: /a, hosts: [API.eu.example.org, '[::1]'], methods: [GET] }"),
    ]);
    check(&table, "GET api.EU.example.org.:80/a", &[], "exact");
    check(&table, "GET [::1]:80/a", &[], "exact");
    check(&table, "POST api.eu.example.org/a", &[], "long");
    check(&table, "GET x.y.eu.example.org/a", &[], "long");
    check(&table, "GET eu.example.org/a", &[], "wide");
    check(&table, "GET example.org/a", &[], "any rest=a");
    check(&table, "GET api.eu.example.org/b", &[], "any rest=b");
    check(&table, "GET /a", &[], "any rest=a");
}

#[test]
fn more_conditions_win_then_listed_methods() {
    let table = table(&[
        ("plain", "path: /a"),
        ("get", "{ path: /a, methods: [GET] }"),
        ("flag", "{ path: /a, headers: { X-Flag: { present: true } } }"),
        ("start", "{ path: /a, headers: { x-flag: { prefix: o } } }"),
        ("on", "{ path: /a, headers: { x-flag: 'on' } }"),
        ("both", "{ path: /a, headers: { x-flag: 'on' }, query: { v: '2' } }"),
    ]);
    check(&table, "POST /a", &[], "plain");
    check(&table, "GET /a", &[], "get");
    check(&table, "HEAD /a", &[], "get");
    check(&table, "GET /a", &[("x-flag", "1")], "flag");
    check(&table, "GET /a", &[("x-flag", "off")], "start");
    check(&table, "GET /a?v=1", &[("x-flag", "on"), ("x-flag", "off")], "on");
    check(&table, "GET /a?v=2", &[("x-flag", "on")], "both");
}

#[test]
fn a_miss_says_what_was_wrong() {
    let table = table(&[
        ("get", "{ path: /a, methods: [GET, PURGE] }"),
        ("post", "{ path: '/{x}', methods: [POST], accept: [text/html] }"),
        ("flag", "{ path: /a, methods: [PUT], headers: { x-flag: 'on' } }"),
    ]);
    check(&table, "DELETE /a", &[], "405 GET, HEAD, POST, PURGE");
    check(&table, "OPTIONS /b", &[], "405 POST");
    check(&table, "POST /b", &[("accept", "image/*")], "406");
    check(&table, "POST /b", &[("accept", "text/*;q=0.1")], "post x=b");
    check(&table, "GET /a/b", &[], "404");
    check(&table, "PUT /a", &[], "405 GET, HEAD, POST, PURGE");
}

#[test]
fn the_client_s_favourite_type_wins_among_equals() {
    let table = table(&[
        ("page", "{ path: /a, accept: [text/html] }"),
        ("data", "{ path: /a, accept: [application/json] }"),
        ("text", "{ path: /a, accept: ['text/*'] }"),
        ("other", "path: /a"),
    ]);
    let get = |accept: &str, expected| check(&table, "GET /a", &[("accept", accept)], expected);
    get("text/html;q=0.5, application/json", "data");
    get("text/html, application/json;q=0.9", "page");
    get("text/plain", "text");
    get("image/png", "other");
    get("*/*", "data");
    check(&table, "GET /a", &[], "data");
}

#[test]
fn a_route_that_lists_head_goes_before_one_that_lists_get() {
    let table = table(&[("a-get", "{ path: /a, methods: [GET] }"), ("b-head", "{ path: /a, methods: [HEAD] }")]);
    check(&table, "HEAD /a", &[], "b-head");
    check(&table, "GET /a", &[], "a-get");
}

#[test]
fn a_websocket_route_takes_handshakes_only() {
    let table = table(&[("plain", "path: '/ws/{*rest}'"), ("socket", "{ path: '/ws/{*rest}', websocket: true }")]);
    check(&table, "GET /ws/1", &[("upgrade", "websocket")], "socket rest=1");
    check(&table, "GET /ws/1", &[], "plain rest=1");
}

#[track_caller]
fn clash(left: &str, right: &str, expected: bool) {
    for pair in [[("l", left), ("r", right)], [("l", right), ("r", left)]] {
        let (_, diagnostics) = compile(&pair);
        let found: Vec<_> = diagnostics.iter().map(|it| (it.path.as_str(), &it.message)).collect();
        assert_eq!(found.len(), usize::from(expected), "{left} {right} {found:?}");
        if let Some((path, message)) = found.first() {
            assert_eq!(*path, "/routes/1/match");
            assert!(message.contains("`l` and `r`"));
        }
    }
}

#[test]
fn routes_that_cannot_be_told_apart_are_an_error() {
    clash("path: '/{a}'", "path: '/{b}'", true);
    clash("path: /a", "path: /b", false);
    clash("path: '/{a}'", "path: '/{*b}'", false);
    let path = |rest: &str| format!("{{ path: /a, {rest} }}");
    let pair = |left: &str, right: &str, expected| clash(&path(left), &path(right), expected);
    pair("methods: [GET, POST]", "methods: [POST]", true);
    pair("methods: [GET]", "methods: [POST]", false);
    pair("methods: [GET]", "hosts: []", false);
    pair("hosts: [a.b, c.d]", "hosts: [e.f, C.D]", true);
    pair("hosts: [a.b]", "hosts: ['*.b']", false);
    pair("headers: { x: '1' }", "headers: { X: '2' }", false);
    pair("headers: { x: '1' }", "headers: { y: '1' }", true);
    pair("headers: { x: { prefix: ab } }", "headers: { x: { prefix: a } }", false);
    pair("query: { x: { present: true } }", "query: { x: { present: false } }", false);
    pair("headers: { x: { present: true } }", "websocket: true", true);
    pair("accept: [text/html]", "accept: ['text/*']", false);
    pair("accept: [text/html, a/b]", "accept: [Text/HTML]", true);
}

#[test]
fn every_fault_of_every_route_is_told_at_its_place() {
    let (_, diagnostics) = compile(&[
        ("a", "{ path: '/{a}/{a}', hosts: ['a:80'], methods: [get] }"),
        ("b", "{ path: a, headers: { 'x y': z, x: { prefix: '' }, Host: a }, accept: [json] }"),
        ("c", "{ path: /c, websocket: true, methods: [POST] }"),
    ]);
    let places: Vec<&str> = diagnostics.iter().map(|it| it.path.as_str()).collect();
    let expected = [
        "/routes/0/match/path",
        "/routes/0/match/hosts/0",
        "/routes/0/match/methods/0",
        "/routes/1/match/path",
        "/routes/1/match/headers/Host",
        "/routes/1/match/headers/x",
        "/routes/1/match/headers/x y",
        "/routes/1/match/accept/0",
        "/routes/2/match/methods",
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_pattern_of_sixteen_captures_matches() {
    let path: String = (0..15).map(|it| format!("/{{x{it}}}")).collect();
    let yaml = format!("path: '{path}/{{*rest}}'");
    let table = table(&[("many", &yaml)]);
    let sent = Sent::new(&format!("GET {}", "/y".repeat(18)), &[]);
    assert!(answer(&table, &sent).ends_with("x14=y rest=y/y/y"));
}

#[test]
fn an_explanation_names_the_near_misses_and_why() {
    let table = table(&[
        ("won", "{ path: '/api/v1/{x}', methods: [POST] }"),
        ("rest", "path: '/api/{*rest}'"),
        ("get", "{ path: /api/v1/a, methods: [GET], headers: { x-a: '1', x-b: { prefix: s } } }"),
        ("host", "{ path: /api/v1/a, hosts: [a.example.org] }"),
        ("version", "path: '/api/v2/{x}'"),
        ("slash", "path: /api/v1/a/"),
        ("far", "path: /other"),
        ("socket", "{ path: '/api/v1/{x}', websocket: true, accept: [text/html] }"),
    ]);
    let headers = [("x-b", "secret"), ("accept", "image/png"), ("x-c", "1")];
    let sent = Sent::new("POST b.example.org/api/v1/a", &headers);
    let explanation = table.explain(&sent.request());
    let Verdict::Found { route, params, .. } = &explanation.outcome else { panic!() };
    assert_eq!((route.as_str(), params["x"].as_str()), ("won", "a"));
    let near: Vec<String> =
        explanation.near.iter().map(|it| format!("{}: {}", it.route, it.reasons.join("; "))).collect();
    assert_eq!(
        near,
        [
            "rest: less specific than route won",
            "host: host is b.example.org, not a.example.org",
            "get: method POST not in [GET]; header x-a missing",
            "socket: not a WebSocket handshake; header accept admits none of [text/html]",
            "version: path segment 2 is `v1`, not `v2`",
            "slash: path has no slash at its end",
        ]
    );
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["outcome"]["found"]["route"], "won");
    assert_eq!(json["near"][0]["path"], "/api/{*rest}");
}

fn expand(pattern: &str, template: &str, path: &str) -> String {
    let yaml = format!("path: '{pattern}'");
    let table = table(&[("r", &yaml)]);
    let mut diagnostics = Diagnostics::default();
    let template = Template::compile(template, table.captures(0), &At::ROOT, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let sent = Sent::new(&format!("GET {path}"), &[]);
    let Outcome::Found { params, .. } = table.find(&sent.request()) else { panic!("{path}") };
    let mut out = "> ".to_owned();
    template.expand(&params, path, &mut out);
    out.split_off(2)
}

#[test]
fn a_template_puts_captures_in_their_places() {
    assert_eq!(expand("/a/{x}/{*rest}", "/b/{rest}/{x}", "/a/1/2/3"), "/b/2/3/1");
    assert_eq!(expand("/a/{x}", "https://example.org/{x}.html", "/a/%2B"), "https://example.org/%2B.html");
    assert_eq!(expand("/a/{*rest}", "/players/{rest}", "/a"), "/players");
    assert_eq!(expand("/a/{*rest}", "/players/{rest}", "/a/"), "/players/");
    assert_eq!(expand("/a/{*rest}", "/{rest}", "/a"), "/");
    assert_eq!(expand("/a/{*rest}", "/b/{rest}/c", "/a"), "/b/c");
    assert_eq!(expand("/a/{*rest}", "/b/{rest}/c", "/a/x/"), "/b/x/c");
    assert_eq!(expand("/a/{*rest}", "/b/{rest}?x=1", "/a"), "/b?x=1");
    assert_eq!(expand("/a/{x}", "/b?x={x}", "/a/1&admin=1;2+3"), "/b?x=1%26admin%3D1%3B2%2B3");
}

#[test]
fn a_template_s_faults_are_told() {
    let check = |template: &str, expected: &str| {
        let names = ["rest".to_owned(), "player".to_owned()];
        let mut diagnostics = Diagnostics::default();
        Template::compile(template, &names, &At::ROOT, &mut diagnostics);
        let found: Vec<String> =
            diagnostics.iter().map(|it| format!("{} | {}", it.message, it.help.as_deref().unwrap_or(""))).collect();
        assert_eq!(found, [expected], "{template}");
    };
    check("/a/{plyer}", "the path captures no `plyer` | did you mean `player`?");
    check("/a/{*rest}", "the path captures no `*rest` | write `{rest}`");
    check("/a/{rest", "a brace is not closed | write captures as `{name}`");
    check("/a/{rest}}", "a brace is not opened | write captures as `{name}`");
    let form = "neither a path nor an address | start with a slash, or with `https://`, a host \
                without captures, and a slash";
    check("{rest}", form);
    check("https://{player}.org/", form);
    check("https://a.org{rest}", form);
    check("https://a@{player}/", form);
    check("//{rest}", "the path is not in its normal form | it would become `/x`");
    check("/%4{rest}", "the path is not in its normal form | percent sign without two hex digits");
    let dots = "an empty capture would leave a dot segment | put no dots alone beside a capture";
    check("/a/..{rest}", dots);
    check("/a/{rest}.", dots);
}

/// The documented order, once more and plainly: all that match, then the greatest.
fn naive(table: &Table, sent: &Sent) -> Option<String> {
    let request = sent.request();
    let host = HostName::of(request.host);
    let host_rank = |route: &Route| {
        let any = route.hosts.is_empty().then_some((false, 0));
        let ranks = route.hosts.iter().filter(|it| host.as_ref().is_some_and(|name| it.takes(name.as_str())));
        ranks.map(|it| (!it.text().starts_with('*'), it.text().len())).chain(any).max()
    };
    let path_rank = |route: &Route| -> Vec<u8> {
        let kind = |it: &Segment| match it {
            Segment::Literal(_) => 3,
            Segment::Name => 2,
            Segment::Rest => 1,
        };
        // The end of a pattern goes before a rest.
        route.pattern.segments.iter().map(kind).chain([2]).collect()
    };
    let matching = table.routes().iter().filter_map(|route| {
        let host = host_rank(route)?;
        (route.pattern.nearness(&sent.path) == Nearness::Matches).then_some(())?;
        let fit = route.fit(&request)?;
        Some((host, path_rank(route), route.weight, fit, std::cmp::Reverse(route.name.clone())))
    });
    matching.max().map(|it| it.4.0)
}

/// What stands in the place of each brace.
fn naive_captures<'p>(pattern: &str, path: &'p str) -> Vec<&'p str> {
    let places = pattern.split('/').enumerate().filter(|(_, it)| it.starts_with('{'));
    let capture = |(place, segment): (usize, &str)| {
        if segment.starts_with("{*") {
            path.splitn(place + 1, '/').nth(place).unwrap_or("")
        } else {
            path.split('/').nth(place).unwrap()
        }
    };
    places.map(capture).collect()
}

fn some_of(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let word = proptest::sample::select(words).prop_map(str::to_owned);
    prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(word, 1..3)]
}

fn any_match() -> impl Strategy<Value = MatchConfig> {
    let segment = proptest::sample::select(&["a", "b", "c", "{}", "{}"][..]);
    let end = proptest::sample::select(&["", "", "/", "/{*rest}"][..]);
    let path = (proptest::collection::vec(segment, 0..4), end).prop_map(|(segments, end)| {
        let named = segments.iter().enumerate().map(|(place, it)| match *it {
            "{}" => format!("/{{x{place}}}"),
            literal => format!("/{literal}"),
        });
        let path = named.collect::<String>() + end;
        if path.is_empty() { "/".to_owned() } else { path }
    });
    let rule = proptest::sample::select(&["'1'", "{ prefix: '1' }", "{ present: true }", "{ present: false }"][..]);
    let key = proptest::sample::select(&["x", "y"][..]).prop_map(str::to_owned);
    let value = rule.prop_map(|it| serde_yaml::from_str(it).unwrap());
    let conditions = || proptest::collection::btree_map(key.clone(), value.clone(), 0..2);
    let hosts = some_of(&["h.org", "i.h.org", "*.h.org", "*.org"]);
    let methods = some_of(&["GET", "POST", "HEAD"]);
    let accept = some_of(&["a/b", "a/*", "c/d"]);
    (path, hosts, methods, conditions(), conditions(), accept, any::<bool>()).prop_map(
        |(path, hosts, methods, headers, query, accept, coin)| {
            let websocket = coin && methods.is_empty();
            let websocket = WebSocketMatch::Only(websocket);
            MatchConfig { path, hosts, methods, headers, query, accept, websocket, ..MatchConfig::default() }
        },
    )
}

fn any_request() -> impl Strategy<Value = Sent> {
    let method = proptest::sample::select(&["GET", "HEAD", "POST", "PUT"][..]);
    let host = proptest::sample::select(&["", "h.org", "i.h.org:80", "j.i.h.org", "k.org"][..]);
    let segment = proptest::sample::select(&["/a", "/b", "/c", "/d"][..]);
    let path = (proptest::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(path, slash)| {
        let path = path.concat();
        if slash || path.is_empty() { path + "/" } else { path }
    });
    let query = proptest::sample::select(&["", "?x=1", "?y=12&x=2", "?x"][..]);
    let accept = proptest::sample::select(&["", "a/b", "a/*;q=0.2, c/d", "a/b;q=0, */*;q=0.5"][..]);
    let header = proptest::sample::select(&["", "1", "12", "2"][..]);
    (method, host, path, query, accept, header, any::<bool>()).prop_map(
        |(method, host, path, query, accept, header, websocket)| {
            let mut sent = Sent::new(&format!("{method} {host}{path}{query}"), &[]);
            if !accept.is_empty() {
                sent.headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            if !header.is_empty() {
                sent.headers.insert("x", HeaderValue::from_static(header));
            }
            sent.websocket = websocket;
            sent
        },
    )
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request().fmt(f)
    }
}

/// Compiles what can be distinguished: routes that clash with an earlier one are left out.
fn sound(routes: &[MatchConfig]) -> Table {
    let names: Vec<String> = (0..routes.len()).map(|it| format!("r{it}")).collect();
    let mut kept: Vec<(&str, &MatchConfig)> = Vec::new();
    let mut table = Table::default();
    for (name, route) in names.iter().zip(routes) {
        kept.push((name, route));
        let mut diagnostics = Diagnostics::default();
        let next = Table::compile(&kept, &At::ROOT, &mut diagnostics);
        if diagnostics.is_empty() {
            table = next;
        } else {
            kept.pop();
        }
    }
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_agrees_with_a_plain_matcher(
        routes in proptest::collection::vec(any_match(), 0..10),
        requests in proptest::collection::vec(any_request(), 1..30),
    ) {
        let table = sound(&routes);
        for sent in &requests {
            let found = match table.find(&sent.request()) {
                Outcome::Found { route, .. } => Some(table.name(route).to_owned()),
                _ => None,
            };
            prop_assert_eq!(&found, &naive(&table, sent), "{:?}", sent);
            if let Outcome::Found { route, params } = table.find(&sent.request()) {
                let captured = (0..params.len()).filter_map(|it| params.at(it, &sent.path));
                let expected = naive_captures(table.pattern(route), &sent.path);
                prop_assert_eq!(captured.collect::<Vec<_>>(), expected, "{:?}", sent);
            }
            let explained = match table.explain(&sent.request()).outcome {
                Verdict::Found { route, .. } => Some(route),
                _ => None,
            };
            prop_assert_eq!(found, explained);
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter(
        routes in proptest::collection::vec(any_match(), 0..8),
        sent in any_request(),
    ) {
        let table = sound(&routes);
        let names: Vec<String> = (0..table.len()).map(|it| table.name(it).to_owned()).collect();
        let written = |name: &String| &routes[name[1..].parse::<usize>().unwrap()];
        let turned: Vec<_> = names.iter().rev().map(|it| (it.as_str(), written(it))).collect();
        let other = Table::compile(&turned, &At::ROOT, &mut Diagnostics::default());
        prop_assert_eq!(answer(&table, &sent), answer(&other, &sent));
    }
}

proptest! {
    #[test]
    fn what_a_template_makes_is_normal_whatever_was_captured(
        parts in proptest::collection::vec(
            proptest::sample::select(
                &["/", ".", "..", ";", "%2e", "a", "x.", "&b=c", "%25", "%20", "{", "="][..],
            ),
            0..10,
        ),
        place in 0..8_usize,
    ) {
        let templates = [
            "/{rest}", "/b/{rest}", "/b/{rest}/{x}", "/{rest}/c/", "/.{x}", "/{x}{rest}", "/b{rest}.c",
            "/b/{x}?q={rest}&r={x}",
        ];
        let table = table(&[("r", "path: '/a/{x}/{*rest}'")]);
        let mut diagnostics = Diagnostics::default();
        let names = table.captures(0);
        let template = Template::compile(templates[place], names, &At::ROOT, &mut diagnostics);
        let raw = format!("/a/{}", parts.concat());
        if let Ok(target) = Target::normalise(raw.as_bytes())
            && diagnostics.is_empty()
        {
            let line = format!("GET {}", target.path());
            if let Outcome::Found { params, .. } = table.find(&Sent::new(&line, &[]).request()) {
                let mut out = String::new();
                template.expand(&params, target.path(), &mut out);
                let made = Target::normalise(out.as_bytes()).unwrap();
                prop_assert!(made.is_unchanged(), "{} {}", raw, out);
                let query = made.query().unwrap_or("");
                prop_assert!(query.matches(['&', '=', ';']).count() <= 3, "{}", out);
            }
        }
    }
}

#[test]
fn params_are_small_enough_to_copy() {
    assert!(size_of::<Params>() <= 136);
}
