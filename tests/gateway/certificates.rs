//! Certificates of listeners as operators see them: when they end, which are in use, and why clients don't come in.

use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

use crate::accounts::moongate;
use crate::support::tokens::now;
use crate::support::*;

const ROUTES: &str = "version: 1\nroutes: [{ name: all, match: { path: \"/{*rest}\" }, respond: { body: hello } }]\n";
const CONFIG: &str = "
listeners:
  public:
    - { address: \"127.0.0.1:0\", tls: { cert: one/cert.pem, key: one/key.pem }, limits: { handshake_timeout: 1s } }
    - address: \"127.0.0.1:0\"
      tls: { cert: one/cert.pem, key: one/key.pem, client_ca: one/ca.pem, client_auth: required }
  admin: { address: \"127.0.0.1:0\" }
telemetry: { log: { level: debug } }
";
const DAY: u64 = 86_400;

/// Writes a certificate for `one.test` that ends then, in seconds since 1970.
fn write_ending(ca: &Ca, folder: &Folder, end: u64) {
    let mut params = CertificateParams::new(vec!["one.test".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca.issuer()).unwrap();
    folder.write("one/ca.pem", ca.pem());
    folder.write("one/cert.pem", cert.pem());
    folder.write("one/key.pem", key.serialize_pem());
}

fn shown_end(gateway: &Gateway, listener: &str) -> f64 {
    let labels = format!("{{certificate=\"one/cert.pem\",listener=\"{listener}\"}}");
    figure(gateway, &format!("moongate_tls_certificate_expiry_timestamp_seconds{labels}")).unwrap()
}

#[test]
fn the_end_of_a_certificate_is_shown_by_check_by_the_metrics_and_by_the_log() {
    let ca = Ca::new("one");
    let builder = Gateway::with(ROUTES).config(CONFIG);
    let end = now() + 3 * DAY + DAY / 2;
    write_ending(&ca, builder.folder(), end);
    builder.folder().write("conf/gateway.yaml", CONFIG);
    builder.folder().write("routes.yaml", ROUTES);
    let said = moongate(builder.folder(), &["check"], "", &[]);
    let all = [said.stdout, said.stderr].concat();
    assert_eq!(said.code, 0, "a warning is no fault: {all}");
    assert!(all.contains("the certificate in one/cert.pem ends at 20") && all.contains("in 3 days"), "{all}");

    let gateway = builder.start();
    for listener in ["public", "public-2"] {
        assert_eq!(shown_end(&gateway, listener), end as f64);
        let line = gateway.wait_for_event("certificate_expires", |it| it["listener"] == listener);
        assert_eq!((&line["level"], &line["cert"], &line["days"]), (&json!("warn"), &json!("one/cert.pem"), &json!(3)));
    }
    assert!(gateway.events("certificate_loaded").is_empty(), "nothing was renewed yet");

    // One that was renewed in time is announced, and nobody complains of it.
    let renewed = now() + 90 * DAY;
    write_ending(&ca, gateway.folder(), renewed);
    assert_eq!(gateway.reload().status, 200);
    let line = gateway.wait_for_event("certificate_loaded", |it| it["listener"] == "public-2");
    assert!(line["cert"] == "one/cert.pem" && line["not_after"].as_str().unwrap().starts_with("20"), "{line}");
    assert_eq!(shown_end(&gateway, "public"), renewed as f64);
    let complaints = gateway.events("certificate_expires").len();
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.events("certificate_loaded").len(), 2, "one for each listener, once");
    assert_eq!(gateway.events("certificate_expires").len(), complaints);
}

#[test]
fn what_is_kept_of_certificates_stands_on_the_admin_page_as_long_as_it_is() {
    let ca = Ca::new("one");
    let builder = Gateway::with(ROUTES).config(CONFIG);
    let end = now() + 90 * DAY;
    write_ending(&ca, builder.folder(), end);
    let gateway = builder.start();
    let kept = || gateway.admin_get("/admin/config").json()["certificates_kept"].clone();
    assert_eq!(kept(), json!([]));
    let sound = std::fs::read_to_string(gateway.folder().path().join("one/cert.pem")).unwrap();
    gateway.folder().write("one/cert.pem", "half of a certif");
    assert_eq!(gateway.reload().status, 200);
    let is = kept();
    assert!(is.as_array().unwrap().len() == 2 && is[0].as_str().unwrap().contains("one/cert.pem holds no certificate"));
    assert_eq!(shown_end(&gateway, "public"), end as f64, "the one that is in use");
    gateway.folder().write("one/cert.pem", sound);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(kept(), json!([]));
}

#[test]
fn why_clients_do_not_come_in_is_told_in_words_now_and_then_and_counted_by_cause() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let builder = Gateway::with(ROUTES).config(CONFIG);
    ca.write_leaf(builder.folder(), "one", &["one.test"]);
    let gateway = builder.start();
    let second = gateway.wait_for_event("listening", |it| it["listener"] == "public-2");
    let second = second["address"].as_str().unwrap().parse().unwrap();
    // In TLS 1.3 a client may learn of a refusal after its own handshake.
    let shake = |address, config| {
        if let Ok(mut client) = RawClient::try_connect_tls(address, "one.test", config) {
            let _ = client.try_send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n");
            assert!(client.try_read_response("GET").is_err());
        }
    };
    let told = |listener: &str, cause: &str, words: &str| {
        let is = |line: &serde_json::Value| line["listener"] == listener && line["cause"] == cause;
        let line = gateway.wait_for_event("tls_handshake_failed", is);
        assert!(line["reason"].as_str().unwrap().contains(words) && line["client"] == "127.0.0.1", "{line}");
        let labels = format!("{{cause=\"{cause}\",listener=\"{listener}\"}}");
        assert_eq!(figure(&gateway, &format!("moongate_tls_handshake_failures_total{labels}")), Some(1.0), "{line}");
    };
    shake(gateway.public(), other.client(&[], None));
    told("public", "certificate_refused", "does not trust the authority");
    shake(gateway.public(), ca.client(&["spdy/3"], None));
    told("public", "protocol", "none of the protocols in `alpn`");
    let mut clear = RawClient::connect(gateway.public());
    clear.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n");
    told("public", "no_tls", "may speak in the clear");
    drop(RawClient::connect(gateway.public()));
    told("public", "client_left", "leaves during the handshake");
    let _silent = RawClient::connect(gateway.public());
    told("public", "timeout", "does not finish the handshake in time");

    shake(second, ca.client(&[], None));
    told("public-2", "no_client_certificate", "shows no certificate");
    shake(second, ca.client(&[], Some(&other.leaf(&["billing"]))));
    told("public-2", "client_certificate", "not in `client_ca`");

    // Of each listener the first one is said to everybody, the others to those who look closely.
    let loud: Vec<_> = gateway.events("tls_handshake_failed").into_iter().filter(|it| it["level"] == "info").collect();
    let said = |it: &serde_json::Value| (it["listener"].clone(), it["cause"].clone(), it["count"].clone());
    let expected = [
        (json!("public"), json!("certificate_refused"), json!(1)),
        (json!("public-2"), json!("no_client_certificate"), json!(1)),
    ];
    assert_eq!(loud.iter().map(said).collect::<Vec<_>>(), expected);
}
