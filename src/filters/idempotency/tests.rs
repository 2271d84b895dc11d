use super::*;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use crate::identity::{Kind, Principal};
use crate::pipeline::Scheme;

fn compiled(yaml: &str) -> Idempotency {
    let mut diagnostics = Diagnostics::default();
    let config = serde_yaml::from_str(yaml).unwrap();
    let compiled = Idempotency::compile(&config, &Scope::nowhere(), &At::ROOT, &mut diagnostics);
    assert!(diagnostics.is_empty());
    compiled.unwrap()
}

fn key_of(
    yaml: &str,
    fields: &[(&'static str, &str)],
    body: &'static str,
    principal: Option<(&str, &str)>,
) -> Result<Option<IdempotencyKey>, Refusal> {
    let mut request = RequestHeader::build("POST", b"/orders", None).unwrap();
    for (name, value) in fields {
        request.append_header(*name, *value).unwrap();
    }
    let mut exchange = Exchange::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Scheme::Http);
    exchange.body = Some(Bytes::from_static(body.as_bytes()));
    exchange.principal = principal.map(|(tenant, subject)| {
        Arc::new(Principal { tenant: Some(tenant.into()), ..Principal::new(Kind::User, subject) })
    });
    compiled(yaml).key(&exchange, &request)
}

#[test]
fn cp2_b_the_key_is_tenant_and_id() {
    let key =
        |tenant| key_of("{}", &[("idempotency-key", "one")], "", Some((tenant, "ann"))).unwrap().unwrap().record_key;
    assert_eq!(key("clinic"), "idempotency:6:clinic:one");
    assert_ne!(key("clinic"), key("hospital"));
    assert_ne!(http_id("a:b", "c"), http_id("a", "b:c"));
}

#[test]
fn both_headers_mean_the_same_and_quotes_do_not_count() {
    let key = |fields: &[(&'static str, &str)]| key_of("{}", fields, "", None).map(|it| it.map(|it| it.record_key));
    let plain = key(&[("idempotency-key", "one")]);
    assert!(plain.as_ref().is_ok_and(Option::is_some));
    assert_eq!(plain, key(&[("x-idempotency-key", "one")]));
    assert_eq!(plain, key(&[("idempotency-key", "\"one\"")]));
    assert_eq!(plain, key(&[("idempotency-key", "one"), ("x-idempotency-key", "one")]));
    assert!(key(&[("idempotency-key", "one"), ("x-idempotency-key", "two")]).is_err());
    assert!(key(&[("idempotency-key", "one"), ("idempotency-key", "one")]).is_err(), "a list is no string");
    for same in ["\"one\";x=1", "\"one\"; a; b=\"c\"", " one "] {
        assert_eq!(plain, key(&[("idempotency-key", same)]), "{same}");
    }
    assert_ne!(plain, key(&[("idempotency-key", "\"one;x=1\"")]));
    assert!(key(&[("idempotency-key", "\"with \\\" quotes and blanks\"")]).is_ok());
    assert_eq!(key(&[]), Ok(None));
}

#[test]
fn an_id_may_come_from_the_body() {
    let key = |from: &str, fields: &[(&'static str, &str)], body| {
        key_of(&format!("{{ required: true, from: {from} }}"), fields, body, None).map(|it| it.unwrap().record_key)
    };
    let body = r#"{"assignment_id":"a-1","usage_id":7}"#;
    assert_eq!(key("[header, body.assignment_id]", &[], body).unwrap(), http_id("", "a-1"));
    assert_eq!(key("[header, body.assignment_id]", &[("idempotency-key", "h")], body).unwrap(), http_id("", "h"));
    assert_eq!(key("[body.usage_id]", &[], body).unwrap(), http_id("", "7"));
    assert!(key("[body.ack_id]", &[], body).is_err());
    assert!(key("[body.ack_id]", &[], "not json").is_err());
}

#[test]
fn another_request_or_another_person_has_another_fingerprint() {
    let print = |body, subject| {
        key_of("{}", &[("idempotency-key", "one")], body, Some(("clinic", subject))).unwrap().unwrap().fingerprint
    };
    assert_eq!(print("a", "ann"), print("a", "ann"));
    assert_ne!(print("a", "ann"), print("b", "ann"));
    assert_ne!(print("a", "ann"), print("a", "bob"));
    let with = |fields: &[(&'static str, &str)]| {
        key_of("{}", &[&[("idempotency-key", "one")], fields].concat(), "a", None).unwrap().unwrap().fingerprint
    };
    for (name, one, other) in [
        ("host", "a.test", "b.test"),
        ("content-type", "text/plain", "application/json"),
        ("content-encoding", "gzip", "br"),
        ("content-range", "bytes 0-0/2", "bytes 1-1/2"),
        ("if-match", "\"1\"", "\"2\""),
        ("if-none-match", "*", "\"2\""),
        ("soapaction", "add", "remove"),
        ("authorization", "Bearer anne", "Bearer ben"),
        ("cookie", "who=anne", "who=ben"),
        ("x-api-key", "anne", "ben"),
        ("proxy-authorization", "anne", "ben"),
        ("x-patient-id", "1", "2"),
    ] {
        assert_eq!(with(&[(name, one)]), with(&[(name, one)]), "{name}");
        assert_ne!(with(&[(name, one)]), with(&[(name, other)]), "{name}");
        assert_ne!(with(&[(name, one)]), with(&[]), "{name}");
    }
    for same in ["A.test", "a.test.", "a.test:80", "a.test:8443"] {
        assert_eq!(with(&[("host", same)]), with(&[("host", "a.test")]), "{same}");
    }
    assert_eq!(with(&[("accept", "a")]), with(&[("accept", "b")]));
    let known = |role| {
        let fields = [("idempotency-key", "one"), ("x-role", role)];
        key_of("{ impersonal: [x-role] }", &fields, "a", None).unwrap().unwrap().fingerprint
    };
    assert_eq!(known("button"), known("link"));
    let of_tenant = |subject| {
        let body = r#"{"ack_id":"x"}"#;
        key_of("{ from: [body.ack_id] }", &[], body, Some(("clinic", subject))).unwrap().unwrap().fingerprint
    };
    assert_eq!(of_tenant("ann"), of_tenant("bob"));
}

#[test]
fn an_id_that_can_be_none_is_refused() {
    for id in [
        "",
        "\"\"",
        "\"unterminated",
        "\"\"x",
        "(\"a\" \"b\")",
        "\"a\", \"b\"",
        "\"a\"x",
        "a, b",
        "a b",
        "a;b",
        "a\"",
        &"x".repeat(256),
    ] {
        assert!(key_of("{}", &[("idempotency-key", id)], "", None).is_err(), "{id}");
    }
    let body = "{\"ack_id\":\"a\\u0000b\"}";
    assert!(key_of("{ from: [body.ack_id] }", &[], body, None).is_err());
    assert!(key_of("{}", &[("idempotency-key", "one"), ("accept", "text/event-stream")], "", None).is_err());
}
