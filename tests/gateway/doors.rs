//! Who may come in by the network they call from, and by a name and a password.

use crate::accounts::moongate;
use crate::support::*;

/// A gateway whose peer, the test, is a trusted proxy: clients are whoever `X-Forwarded-For` says.
const BEHIND_A_PROXY: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\" }], admin: { address: \"127.0.0.1:0\" } }
trusted_proxies: [\"127.0.0.1/32\"]
";

fn from(gateway: &Gateway, client: &str, path: &str) -> Response {
    gateway.request("GET", path, &[("x-forwarded-for", client)], b"")
}

fn code(answer: &Response) -> String {
    answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn networks_let_in_those_they_name_and_nobody_else() {
    let routes = "version: 1
defaults: { deny_ips: [203.0.113.7] }
policies: { office: { allow_ips: [\"10.0.0.0/8\", \"2001:db8::/32\"] } }
routes:
  - { name: inner, match: { path: /inner }, use: [office], respond: { body: in } }
  - { name: part, match: { path: /part }, use: [office], deny_ips: [\"10.9.0.0/16\"], respond: { body: in } }
  - { name: open, match: { path: /open }, respond: { body: in } }
";
    let gateway = Gateway::with(routes).config(BEHIND_A_PROXY).start();
    for (path, client, lets_in) in [
        ("/inner", "10.1.2.3", true),
        ("/inner", "10.9.2.3", true),
        ("/inner", "192.0.2.1", false),
        ("/inner", "2001:db8::1", true),
        ("/inner", "2001:db9::1", false),
        ("/part", "10.1.2.3", true),
        ("/part", "10.9.2.3", false),
        ("/open", "192.0.2.1", true),
        ("/open", "203.0.113.7", false),
    ] {
        let answer = from(&gateway, client, path);
        assert_eq!(answer.status, if lets_in { 200 } else { 403 }, "{path} {client}: {}", answer.text());
        assert!(lets_in || code(&answer) == "address_not_allowed");
    }
    let line = gateway.access_log_for(from(&gateway, "192.0.2.1", "/inner").header("x-request-id").unwrap());
    assert_eq!((&line["error"], &line["client"]), (&"address_not_allowed".into(), &"192.0.2.1".into()));
}

#[test]
fn networks_are_not_opened_by_a_field_that_anybody_can_send() {
    let routes = "version: 1
routes:
  - { name: inner, match: { path: /inner }, allow_ips: [10.0.0.0/8], respond: { body: in } }
";
    let gateway = Gateway::start(routes);
    for field in ["x-forwarded-for", "x-real-ip", "forwarded", "true-client-ip", "x-client-ip"] {
        let value = if field == "forwarded" { "for=10.0.0.1" } else { "10.0.0.1" };
        assert_eq!(gateway.request("GET", "/inner", &[(field, value)], b"").status, 403, "{field}");
    }
}

/// `name:password` with the lowest cost.
fn user(name: &str, password: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
}

fn basic(pair: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn behind_a_password(upstream: &RawUpstream, more: &str) -> GatewayBuilder {
    let address = upstream.address();
    let routes = format!(
        "version: 1
upstreams: {{ inner: {{ discovery: {{ static: [\"{address}\"] }} }} }}
routes:
  - name: inner
    match: {{ path: \"/{{*rest}}\" }}
    upstream: inner
    basic: {{ realm: inner rooms, users: htpasswd{more} }}
"
    );
    Gateway::with(routes).file("htpasswd", format!("# people\n{}{}", user("ada", "sesame:2"), user("ben", "other")))
}

fn show(gateway: &Gateway, pair: &str) -> Response {
    gateway.request("GET", "/", &[("authorization", &*basic(pair))], b"")
}

#[test]
fn rfc_7617_a_name_with_its_password_comes_in_and_the_upstream_learns_the_name_alone() {
    let upstream = RawUpstream::start(|_| Script::ok("in"));
    let gateway = behind_a_password(&upstream, "").start();
    let answer = gateway.get("/");
    assert_eq!((answer.status, code(&answer)), (401, "unauthorized".to_owned()));
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"inner rooms\", charset=\"UTF-8\""));
    for wrong in ["ada:sesame", "ada:", "eve:sesame:2", "ben:sesame:2", "ada"] {
        let answer = show(&gateway, wrong);
        assert_eq!(answer.status, 401, "{wrong}");
        assert_eq!(answer.json()["error"]["details"]["reason"], "wrong_credentials");
    }
    let answer = show(&gateway, "ada:sesame:2");
    assert_eq!((answer.status, answer.text().as_str()), (200, "in"));
    let line = gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!((&line["principal"], &line["auth"]), (&"ada".into(), &"basic".into()));
    let seen = String::from_utf8(upstream.requests().remove(0)).unwrap().to_lowercase();
    assert!(!seen.contains("authorization"), "{seen}");
    assert!(
        seen.contains("x-moongate-subject: ada\r\n") && seen.contains("x-moongate-auth-method: basic\r\n"),
        "{seen}"
    );
    // The second time nothing is hashed.
    assert_eq!(show(&gateway, "ada:sesame:2").status, 200);
    let of = |result: &str| figure(&gateway, &format!("moongate_basic_auth_total{{result=\"{result}\"}}"));
    assert_eq!([of("right"), of("known"), of("wrong")], [Some(1.0), Some(1.0), Some(4.0)]);
    assert_eq!(figure(&gateway, "moongate_basic_auth_known"), Some(1.0));
    let log: Vec<_> = gateway.log_lines().into_iter().map(|it| it.text).collect();
    assert!(!log.iter().any(|it| it.contains("sesame")), "no password is logged");
}

#[test]
fn basic_credentials_that_can_be_read_in_two_ways_are_refused_and_forward_passes_them_on() {
    let upstream = RawUpstream::start(|_| Script::ok("in"));
    let gateway = behind_a_password(&upstream, ", forward: true").start();
    let (ada, ben) = (basic("ada:sesame:2"), basic("ben:other"));
    let answer = gateway.request("GET", "/", &[("authorization", &*ada), ("authorization", &*ben)], b"");
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(gateway.request("GET", "/", &[("authorization", "Bearer x.y.z")], b"").status, 401);
    assert_eq!(show(&gateway, "ben:other").status, 200);
    assert!(String::from_utf8(upstream.requests().remove(0)).unwrap().contains(&ben));
}

#[test]
fn basic_a_changed_file_counts_at_once_and_what_was_known_is_forgotten() {
    let upstream = RawUpstream::start(|_| Script::ok("in"));
    let gateway = behind_a_password(&upstream, "").start();
    assert_eq!(show(&gateway, "ada:sesame:2").status, 200);
    gateway.folder().write("htpasswd", user("ada", "new"));
    eventually("the new file counts", || (show(&gateway, "ada:new").status == 200).then_some(()));
    assert_eq!(show(&gateway, "ada:sesame:2").status, 401);
    // A broken file changes nothing.
    gateway.folder().write("htpasswd", "ada:plaintext\n");
    let refused = gateway.reload();
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("line 1: neither a hash of bcrypt") && !refused.text().contains("plaintext"));
    assert_eq!(show(&gateway, "ada:new").status, 200);
}

#[test]
fn r5_5_who_guesses_passwords_is_blocked_by_the_guard() {
    let upstream = RawUpstream::start(|_| Script::ok("in"));
    let config = format!("{BEHIND_A_PROXY}guard: {{ errors: {{ count: 5, every: 1m }} }}\n");
    let gateway = behind_a_password(&upstream, "").config(config).start();
    let guess = |number: usize| {
        let pair = basic(&format!("ada:guess-{number}"));
        gateway.request("GET", "/", &[("authorization", &*pair), ("x-forwarded-for", "192.0.2.77")], b"")
    };
    let mut tries = 0;
    eventually("the address is blocked", || {
        tries += 1;
        let answer = guess(tries);
        (code(&answer) == "address_blocked").then_some(())
    });
    assert_eq!(show(&gateway, "ada:sesame:2").status, 200, "others are not");
}

#[test]
fn r2_faults_of_doors_say_where_and_what_to_do() {
    let folder = Folder::new();
    folder.write("gateway.yaml", BEHIND_A_PROXY);
    folder.write("weak", "ada:$apr1$8sFt66rZ$X9EnsLh3\nben\n");
    folder.write("sound", user("ada", "x"));
    folder.write(
        "routes.yaml",
        "version: 1
routes:
  - { name: one, match: { path: /1 }, respond: { body: x }, basic: { realm: a, users: none } }
  - { name: two, match: { path: /2 }, respond: { body: x }, basic: { realm: a, users: weak } }
  - { name: three, match: { path: /3 }, respond: { body: x }, basic: { realm: 'a\"b', users: sound } }
  - { name: four, match: { path: /4 }, respond: { body: x }, basic: { realm: a, users: sound }, auth: { jwt: {} } }
  - { name: five, match: { path: /5 }, respond: { body: x }, allow_ips: [] }
  - { name: six, match: { path: /6 }, respond: { body: x }, deny_ips: [10.0.0.0/40] }
",
    );
    let arguments = ["check", "--config", "gateway.yaml", "--routes", "routes.yaml"];
    let run = moongate(&folder, &arguments, "", &[]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    for said in [
        "none can't be read",
        "weak, line 1: MD5 and SHA-1 are no hashes for passwords",
        "weak, line 2: no `:` behind a name",
        "not a name for a realm",
        "the route has `auth`, too",
        "nobody may call",
        "not a network",
    ] {
        assert!(run.stderr.contains(said), "{said}\n{}", run.stderr);
    }
    assert!(!run.stderr.contains("X9EnsLh3"), "no hash is shown");
}
