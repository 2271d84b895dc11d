//! What can't serve does not start: exit 1, and one clear message on standard error.

use std::net::TcpListener;

use super::support::*;

const ROUTES: &str = "version: 1\nroutes:\n  - { name: one, match: { path: /one }, respond: { body: hello } }\n";

/// It refuses, says one thing, names what is at fault, and never said that it listens.
#[track_caller]
fn refused(config: String, names: &[&str]) {
    let refused = Gateway::with(ROUTES).config(config).start_refused();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(refused.stderr.trim_end().lines().count(), 1, "one clear message: {refused:?}");
    assert!(names.iter().all(|it| refused.stderr.contains(it)), "{refused:?}");
    assert!(!refused.stdout.contains("listening"), "{refused:?}");
}

fn config(public: &str, admin: &str) -> String {
    format!("listeners:\n  public: [{public}]\n  admin: {{ address: \"{admin}\" }}\n")
}

#[test]
fn start_fails_on_an_address_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let plain = format!("{{ address: \"{address}\" }}");
    refused(config(&plain, "127.0.0.1:0"), &["public", &address, "in use"]);
    refused(config("{ address: \"127.0.0.1:0\" }", &address), &["admin", &address, "in use"]);
    // Not even one of two.
    let both = format!("{{ address: \"127.0.0.1:0\" }}, {plain}");
    refused(config(&both, "127.0.0.1:0"), &["public-2", &address, "in use"]);
}

#[test]
fn start_fails_on_the_address_of_another_gateway() {
    let first = Gateway::start(ROUTES);
    let address = first.public().to_string();
    refused(config(&format!("{{ address: \"{address}\" }}"), "127.0.0.1:0"), &[&address, "in use"]);
    assert_eq!(first.get("/one").text(), "hello");
}

#[test]
fn start_fails_on_a_bad_certificate() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let (leaf, stranger) = (ca.leaf(&["localhost"]), other.leaf(&["localhost"]));
    let tls = config("{ address: \"127.0.0.1:0\", tls: { cert: cert.pem, key: key.pem } }", "127.0.0.1:0");
    let refused = |files: &[(&str, &str)], names: &[&str]| {
        let builder = files.iter().fold(Gateway::with(ROUTES).config(&*tls), |it, (name, text)| it.file(name, text));
        let refused = builder.start_refused();
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(names.iter().all(|it| refused.stderr.contains(it)), "{refused:?}");
        assert!(!refused.stdout.contains("listening"), "{refused:?}");
    };
    let garbage = "not a certificate";
    refused(&[], &["gateway.yaml:2:", "read cert.pem", "read key.pem", "2 faults"]);
    refused(&[("cert.pem", &leaf.cert)], &["gateway.yaml:2:", "read key.pem", "1 fault"]);
    refused(&[("cert.pem", garbage), ("key.pem", &leaf.key)], &["cert.pem holds no certificate", "1 fault"]);
    refused(&[("cert.pem", &leaf.cert), ("key.pem", garbage)], &["key.pem holds no private key", "1 fault"]);
    refused(&[("cert.pem", &leaf.cert), ("key.pem", &stranger.key)], &["key.pem is not that of the", "1 fault"]);
}

#[test]
fn start_fails_on_faults_in_either_file_and_shows_all_of_them() {
    let bad_config = config("{ address: nonsense }", "127.0.0.1:0");
    let refused = Gateway::with("version: 1\nroutes:\n  - { nmae: one }\n").config(bad_config).start_refused();
    assert_eq!(refused.code, 1);
    for part in ["gateway.yaml:2:", "routes.yaml:3:", "nmae", "nonsense"] {
        assert!(refused.stderr.contains(part), "{part} is missing in {}", refused.stderr);
    }
    assert_eq!(refused.stdout, "");
}

#[test]
fn start_fails_without_its_files() {
    let folder = Folder::new();
    let arguments = ["run", "--config", "none.yaml", "--routes", "nothing.yaml"];
    let mut process = Process::moongate(folder.path(), &arguments, &[]);
    assert_eq!(process.wait_exit(), 1);
    let lines = process.log().lines();
    let stderr: Vec<_> = lines.iter().filter(|it| it.stderr).map(|it| it.text.as_str()).collect();
    assert!(stderr.iter().any(|it| it.contains("none.yaml")), "{stderr:?}");
    assert!(stderr.iter().any(|it| it.contains("nothing.yaml")), "{stderr:?}");
}

#[test]
fn an_admin_listener_away_from_loopback_needs_a_secret_to_start() {
    let open = config("{ address: \"127.0.0.1:0\" }", "0.0.0.0:0");
    let refused = Gateway::with(ROUTES).config(open).start_refused();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("tokens.hs256_secret"), "{refused:?}");
}
