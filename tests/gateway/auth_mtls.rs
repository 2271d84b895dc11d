//! Client certificates as credentials, and those that were revoked.

use rcgen::{
    CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber,
};
use serde_json::{Value, json};

use crate::support::tokens::*;
use crate::support::*;

fn config(tls: &str) -> String {
    format!(
        "listeners:\n  public:\n    - address: \"127.0.0.1:0\"\n      \
         tls: {{ cert: one/cert.pem, key: one/key.pem, client_ca: one/ca.pem, {tls} }}\n  \
         admin: {{ address: \"127.0.0.1:0\" }}\ntokens: {{ hs256_secret: \"${{PROXY_JWT_SECRET}}\" }}\n"
    )
}

fn routes(upstream: std::net::SocketAddr) -> String {
    format!(
        "version: 1
upstreams: {{ up: {{ discovery: {{ static: [\"{upstream}\"] }} }} }}
routes:
  - {{ name: both, match: {{ path: /echo/both }}, upstream: up, auth: {{ mtls: {{}}, service_token: {{}} }} }}
  - name: billing
    match: {{ path: /echo/billing }}
    upstream: up
    auth: {{ mtls: {{ names: [\"spiffe://tta/billing/*\"], roles: [biller], tenant: north }}, roles: [biller] }}
  - {{ name: open, match: {{ path: /echo/open }}, upstream: up }}
"
    )
}

/// A client's certificate with these names and this serial number.
fn leaf(ca: &Ca, names: &[&str], serial: u64) -> Leaf {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    for name in names {
        params.subject_alt_names.push(if name.contains("://") {
            SanType::URI((*name).try_into().unwrap())
        } else {
            SanType::DnsName((*name).try_into().unwrap())
        });
    }
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca.issuer()).unwrap();
    Leaf { cert: cert.pem(), key: key.serialize_pem() }
}

struct Stage {
    gateway: Gateway,
    ca: Ca,
    _upstream: Demo,
}

impl Stage {
    fn new(tls: &str, files: impl FnOnce(&Ca, &Folder)) -> Self {
        let (upstream, ca) = (Demo::start("up"), Ca::new("one"));
        let builder = Gateway::with(routes(upstream.address())).config(config(tls)).env("PROXY_JWT_SECRET", SECRET);
        ca.write_leaf(builder.folder(), "one", &["one.test"]);
        files(&ca, builder.folder());
        Self { gateway: builder.start(), ca, _upstream: upstream }
    }

    fn connect(&self, leaf: Option<&Leaf>) -> Option<RawClient> {
        RawClient::try_connect_tls(self.gateway.public(), "one.test", self.ca.client(&[], leaf)).ok()
    }

    /// `None` if the listener lets nobody in with this certificate.
    fn ask(&self, leaf: Option<&Leaf>, path: &str, more: &str) -> Option<Response> {
        let mut client = self.connect(leaf)?;
        // In TLS 1.3 the client learns of a refused certificate after its own handshake.
        client.try_send(format!("GET {path} HTTP/1.1\r\nhost: one.test\r\n{more}\r\n")).ok()?;
        client.try_read_response("GET").ok()
    }
}

#[test]
fn r7_2_a_certificate_or_a_token_opens_a_route_for_services() {
    let stage = Stage::new("", |_, _| {});
    let billing = leaf(&stage.ca, &["billing.tta", "spiffe://tta/billing/eu"], 7);
    let told = |answer: Response| answer.json()["headers"].clone();
    let answer = stage.ask(Some(&billing), "/echo/both", "x-moongate-subject: root\r\n").unwrap();
    let line = stage.gateway.access_log_for(answer.header("x-request-id").unwrap());
    assert_eq!((&line["principal"], &line["auth"]), (&json!("spiffe://tta/billing/eu"), &json!("mtls")));
    let answer = told(answer);
    assert_eq!(answer["x-moongate-subject"], "spiffe://tta/billing/eu");
    assert_eq!((&answer["x-moongate-auth-method"], &answer["x-moongate-roles"]), (&json!("mtls"), &json!("service")));
    let answer = told(stage.ask(Some(&billing), "/echo/billing", "").unwrap());
    assert_eq!((&answer["x-moongate-roles"], &answer["x-moongate-tenant"]), (&json!("biller"), &json!("north")));

    let bearer = |roles: &[&str]| format!("authorization: Bearer {}\r\n", token("meter", roles));
    let answer = told(stage.ask(None, "/echo/both", &bearer(&["service"])).unwrap());
    assert_eq!(answer["x-moongate-auth-method"], "service_token");
    // A token that was sent is the one that counts, even if there is a certificate.
    assert_eq!(stage.ask(Some(&billing), "/echo/both", &bearer(&["user"])).unwrap().status, 401);

    // Without any of them, or with one that is somebody else's.
    let other = leaf(&stage.ca, &["spiffe://tta/reports"], 8);
    let nameless = leaf(&stage.ca, &[], 9);
    let reason = |answer: Option<Response>| {
        let answer = answer.unwrap();
        (answer.status, answer.json()["error"]["details"]["reason"].clone())
    };
    assert_eq!(reason(stage.ask(None, "/echo/both", "")), (401, json!("missing")));
    assert_eq!(reason(stage.ask(None, "/echo/billing", &bearer(&["biller"]))), (401, json!("missing")));
    assert_eq!(reason(stage.ask(Some(&other), "/echo/billing", "")), (401, json!("certificate")));
    assert_eq!(reason(stage.ask(Some(&nameless), "/echo/both", "")), (401, json!("certificate")));
    assert_eq!(stage.ask(None, "/echo/open", "").unwrap().status, 200);
    // One of another authority is refused before any request.
    let stranger = leaf(&Ca::new("one"), &["spiffe://tta/billing/eu"], 7);
    assert!(stage.ask(Some(&stranger), "/echo/open", "").is_none());
}

#[test]
fn r7_2_a_listener_may_want_a_certificate_of_everybody() {
    let stage = Stage::new("client_auth: required", |_, _| {});
    assert!(stage.ask(None, "/echo/open", "").is_none());
    let billing = leaf(&stage.ca, &["billing.tta"], 7);
    assert_eq!(stage.ask(Some(&billing), "/echo/open", "").unwrap().status, 200);
}

#[test]
fn r7_2_revoked_certificates_are_refused_from_the_next_connection_on() {
    let revoke = |ca: &Ca, serials: &[u64]| {
        let revoked = serials.iter().map(|it| RevokedCertParams {
            serial_number: SerialNumber::from(*it),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(ca.issuer()).unwrap().pem().unwrap()
    };
    let stage = Stage::new("client_crl: one/revoked.pem", |ca, folder| {
        folder.write("one/revoked.pem", revoke(ca, &[8]));
    });
    let [seven, eight, nine] =
        [(7, "seven.tta"), (8, "eight.tta"), (9, "nine.tta")].map(|(serial, name)| leaf(&stage.ca, &[name], serial));
    // Each time somebody else gets in: it is this certificate that is refused, and nothing else.
    let admitted = |leaf: &Leaf| stage.ask(Some(leaf), "/echo/both", "").map(|it| it.status);
    assert_eq!([admitted(&seven), admitted(&eight), admitted(&nine)], [Some(200), None, Some(200)]);
    assert_eq!(stage.ask(None, "/echo/open", "").unwrap().status, 200);
    stage.gateway.folder().write("one/revoked.pem", revoke(&stage.ca, &[7, 8]));
    assert_eq!(stage.gateway.reload().status, 200);
    assert_eq!([admitted(&seven), admitted(&eight), admitted(&nine)], [None, None, Some(200)]);
    // A list that can't be read keeps the last one, and says so.
    stage.gateway.folder().write("one/revoked.pem", "nonsense");
    let answer = stage.gateway.reload();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("one/revoked.pem holds no revocation list"), "{}", answer.text());
    assert_eq!([admitted(&seven), admitted(&eight), admitted(&nine)], [None, None, Some(200)]);
    // And one that is taken off the list is good again.
    stage.gateway.folder().write("one/revoked.pem", revoke(&stage.ca, &[8]));
    assert_eq!(stage.gateway.reload().status, 200);
    assert_eq!([admitted(&seven), admitted(&eight), admitted(&nine)], [Some(200), None, Some(200)]);
}
