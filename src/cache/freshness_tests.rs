use super::*;
use crate::base::{At, Diagnostics};
use crate::cache::config::CacheConfig;
use http::HeaderValue;
use http_cache_semantics::{CacheOptions, CachePolicy};
use proptest::prelude::*;

const DATE_NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn now() -> SystemTime {
    httpdate::parse_http_date(DATE_NOW).unwrap()
}

fn later(secs: u64) -> SystemTime {
    now() + Duration::from_secs(secs)
}

fn rules(yaml: &str) -> Rules {
    let config: CacheConfig = serde_yaml::from_str(yaml).unwrap();
    Rules::compile("a", &config, &[], &At::ROOT, &mut Diagnostics::default())
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn freshness(yaml: &str, status: u16, lines: &[(&str, &str)]) -> Result<Freshness, NotStorable> {
    let status = StatusCode::from_u16(status).unwrap();
    Freshness::of(&rules(yaml), Credentials::default(), status, &headers(lines), now())
}

#[track_caller]
fn lifetime(yaml: &str, status: u16, lines: &[(&str, &str)], expected: Result<u64, NotStorable>) {
    let found = freshness(yaml, status, lines).map(|it| it.lifetime.as_secs());
    assert_eq!(found, expected, "{yaml} {status} {lines:?}");
}

fn cc(value: &str) -> [(&str, &str); 1] {
    [("cache-control", value)]
}

#[test]
fn rfc_9111_lifetimes_come_from_the_first_that_says_one() {
    lifetime("{}", 200, &cc("max-age=60"), Ok(60));
    lifetime("{}", 200, &cc("max-age=60, s-maxage=5"), Ok(5));
    let expires = [("date", DATE_NOW), ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")];
    lifetime("{}", 200, &expires, Ok(60));
    lifetime("{}", 200, &[expires[0], expires[1], ("cache-control", "max-age=3")], Ok(3));
    lifetime("{}", 200, &[("expires", "0"), ("etag", "\"a\"")], Ok(0));
    lifetime("{}", 200, &[("expires", "Sunday, 06-Nov-94 08:49:47 GMT")], Ok(10));
    lifetime("{}", 200, &[("last-modified", "Sat, 05 Nov 1994 08:49:37 GMT")], Err(NotStorable::NoLifetime));
    lifetime("{}", 200, &[], Err(NotStorable::NoLifetime));
    lifetime("{}", 404, &cc("max-age=9"), Ok(9));
    lifetime("{}", 500, &cc("max-age=9"), Err(NotStorable::Status));
    lifetime("{}", 206, &cc("max-age=9"), Err(NotStorable::NotWhole));
}

#[test]
fn rfc_9111_3_any_final_status_is_kept_that_says_how_long_and_errors_by_the_routes_word() {
    for status in [201, 202, 299, 302, 307, 404, 410, 451, 501] {
        lifetime("{}", status, &cc("max-age=9"), Ok(9));
        lifetime("{ ttl: 30s }", status, &[], Err(NotStorable::NoLifetime));
    }
    for status in [400, 403, 418, 429, 499, 500, 503, 599] {
        lifetime("{}", status, &cc("max-age=9"), Err(NotStorable::Status));
        lifetime("{ errors: true }", status, &cc("max-age=9"), Ok(9));
        lifetime("{ errors: true, ttl: 30s }", status, &[], Err(NotStorable::NoLifetime));
    }
    for status in [103, 304] {
        lifetime("{ errors: true }", status, &cc("max-age=9"), Err(NotStorable::Status));
    }
}

#[test]
fn rfc_9111_4_2_2_a_lifetime_is_guessed_only_where_the_route_wants_it_and_nothing_says_one() {
    let modified = [("date", DATE_NOW), ("last-modified", "Sun, 06 Nov 1994 08:48:37 GMT")];
    let rules = "{ heuristic: 5m }";
    lifetime("{}", 200, &modified, Err(NotStorable::NoLifetime));
    lifetime(rules, 200, &modified, Ok(6));
    lifetime("{ heuristic: 2s }", 200, &modified, Ok(2));
    lifetime(rules, 404, &modified, Ok(6));
    lifetime(rules, 302, &modified, Err(NotStorable::NoLifetime));
    lifetime(rules, 302, &[modified[0], modified[1], ("cache-control", "public")], Ok(6));
    lifetime(rules, 200, &[modified[0], modified[1], ("cache-control", "max-age=0")], Ok(0));
    lifetime(rules, 200, &[modified[0], modified[1], ("cache-control", "private")], Err(NotStorable::Private));
    lifetime(
        rules,
        200,
        &[modified[0], ("last-modified", "Sun, 06 Nov 1994 08:50:37 GMT")],
        Err(NotStorable::NoLifetime),
    );
    lifetime(rules, 200, &[("date", DATE_NOW)], Err(NotStorable::NoLifetime));
}

#[test]
fn rfc_9111_4_2_dates_are_read_in_any_case() {
    for written in [
        "SUN, 06 NOV 1994 08:49:37 gMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "SUNDAY, 06-nov-94 08:49:37 GmT",
        "SUN NOV  6 08:49:37 1994",
    ] {
        assert_eq!(date(&HeaderValue::from_static(written)), Some(now()), "{written}");
    }
    for written in [
        "",
        "gmt",
        "Sun, 06 Nov 1994",
        "Sun, 06 Noe 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMTSun, 06 Nov 1994 08:49:37 GMT",
    ] {
        assert_eq!(date(&HeaderValue::from_static(written)), None, "{written}");
    }
}

#[test]
fn a_routes_ttl_wins_but_not_over_what_forbids_keeping() {
    lifetime("{ ttl: 30s }", 200, &[], Ok(30));
    lifetime("{ ttl: 30s }", 200, &cc("max-age=5"), Ok(30));
    lifetime("{ ttl: 30s }", 404, &[], Err(NotStorable::NoLifetime));
    lifetime("{ ttl: 30s }", 404, &cc("max-age=5"), Ok(5));
    lifetime("{ ttl: 30s }", 200, &cc("no-store"), Err(NotStorable::NoStore));
    lifetime("{ ttl: 30s }", 200, &cc("private"), Err(NotStorable::Private));
    lifetime("{ ttl: 30s, per: user }", 200, &cc("private"), Ok(30));
    lifetime("{ ttl: 30s, per: public }", 200, &cc("private"), Err(NotStorable::Private));
    lifetime("{ ttl: 30s }", 200, &[("content-type", "text/event-stream")], Err(NotStorable::NotWhole));
}

#[test]
fn rfc_9213_the_targeted_field_replaces_the_others() {
    let both = |targeted| [("cache-control", "no-store"), ("cdn-cache-control", targeted), ("expires", DATE_NOW)];
    lifetime("{}", 200, &both("max-age=60"), Ok(60));
    lifetime("{}", 200, &both("must-revalidate"), Err(NotStorable::NoLifetime));
    lifetime("{}", 200, &both("max-age=60,"), Err(NotStorable::NoStore));
}

#[test]
fn r9_2_set_cookie_is_never_shared() {
    let cookie = [("cache-control", "max-age=60"), ("set-cookie", "id=1")];
    lifetime("{}", 200, &cookie, Err(NotStorable::SetCookie));
    lifetime("{ per: public, ttl: 1m }", 200, &cookie, Err(NotStorable::SetCookie));
    lifetime("{ set_cookie: strip }", 200, &cookie, Ok(60));
}

#[test]
fn rfc_9111_answers_to_credentials_are_shared_only_if_they_say_so() {
    let with = |yaml: &str, value: &str| {
        let credentials = Credentials { outside_key: true };
        Freshness::of(&rules(yaml), credentials, StatusCode::OK, &headers(&cc(value)), now()).map(|it| it.for_everybody)
    };
    assert_eq!(with("{}", "max-age=60"), Err(NotStorable::Credentials));
    assert_eq!(with("{ ttl: 1m }", "max-age=60"), Err(NotStorable::Credentials));
    assert_eq!(with("{}", "max-age=60, must-revalidate"), Err(NotStorable::Credentials));
    assert_eq!(with("{}", "max-age=60, public"), Ok(true));
    assert_eq!(with("{}", "s-maxage=60"), Ok(true));
    assert_eq!(with("{ per: public }", "max-age=60"), Ok(true));
    assert!(!freshness("{}", 200, &cc("max-age=60")).unwrap().for_everybody);
}

#[test]
fn rfc_9111_vary_names_the_variants() {
    let fields = |lines: &[(&str, &str)]| {
        let names = vary(&headers(lines));
        names.map(|it| it.iter().map(|it| it.as_str().to_owned()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(fields(&[("vary", "B, a"), ("vary", "A")]), Ok("a b".to_owned()));
    assert_eq!(fields(&[("vary", "a, *")]), Err(NotStorable::Vary));
    assert_eq!(fields(&[("vary", "a b")]), Err(NotStorable::Vary));
    assert_eq!(fields(&[("vary", "a, X-Forwarded-For")]), Err(NotStorable::Vary), "each client has another one");
    assert_eq!(fields(&[("content-encoding", "gzip")]), Ok("accept-encoding".to_owned()));
}

#[test]
fn rfc_9111_age_counts_what_was_spent_on_the_way() {
    let freshness =
        freshness("{}", 200, &[("cache-control", "max-age=60"), ("age", "50"), ("date", DATE_NOW)]).unwrap();
    assert_eq!((freshness.age(now()).as_secs(), freshness.age(later(5)).as_secs()), (50, 55));
    assert_eq!(freshness.seconds_left(later(5)), 5);
    let old = Freshness::of(
        &rules("{}"),
        Credentials::default(),
        StatusCode::OK,
        &headers(&[("cache-control", "max-age=60"), ("date", DATE_NOW)]),
        later(40),
    );
    assert!(old.unwrap().age(later(40)).as_secs() >= 39);
}

#[test]
fn rfc_5861_stale_answers_are_given_as_long_as_they_allow() {
    let swr = freshness("{}", 200, &cc("max-age=10, stale-while-revalidate=5, stale-if-error=20")).unwrap();
    let none = RequestDirectives::default();
    assert_eq!(swr.verdict(&none, later(9)), Use::Fresh);
    assert_eq!(swr.verdict(&none, later(10)), Use::WhileRevalidate);
    assert_eq!(swr.verdict(&none, later(15)), Use::Ask(true));
    assert_eq!(swr.verdict(&none, later(30)), Use::Ask(false));
    let strict =
        freshness("{ stale_if_error: 1h }", 200, &cc("max-age=10, must-revalidate, stale-if-error=99")).unwrap();
    assert_eq!(strict.verdict(&none, later(11)), Use::Ask(false));
    let shared = freshness("{ stale_if_error: 1h }", 200, &cc("s-maxage=10")).unwrap();
    assert_eq!(shared.verdict(&none, later(11)), Use::Ask(false));
    let route = freshness("{ stale_if_error: 1h }", 200, &cc("max-age=10")).unwrap();
    assert_eq!(route.verdict(&none, later(11)), Use::Ask(true));
    let asks = freshness("{ ttl: 1m }", 200, &[("cache-control", "no-cache"), ("etag", "\"a\"")]).unwrap();
    assert_eq!(asks.verdict(&none, now()), Use::Ask(false));
}

#[test]
fn rfc_9111_clients_may_be_choosy() {
    let freshness = freshness("{}", 200, &[("cache-control", "max-age=10"), ("etag", "\"a\"")]).unwrap();
    let wish = |text: &str| RequestDirectives::of(&headers(&cc(text)));
    assert_eq!(freshness.verdict(&wish("no-cache"), now()), Use::Ask(false));
    assert_eq!(freshness.verdict(&wish("max-age=3"), later(4)), Use::Ask(false));
    assert_eq!(freshness.verdict(&wish("max-age=5"), later(4)), Use::Fresh);
    assert_eq!(freshness.verdict(&wish("min-fresh=7"), later(4)), Use::Ask(false));
    assert_eq!(freshness.verdict(&wish("max-stale=7"), later(14)), Use::Fresh);
    assert_eq!(freshness.verdict(&wish("max-stale=3"), later(14)), Use::Ask(false));
}

proptest! {
    /// A second opinion. It differs where we are careful on purpose: those cases are left out.
    #[test]
    fn rfc_9111_another_cache_would_decide_the_same(
        directives in proptest::collection::vec(
            prop_oneof![
                Just("no-store".to_owned()), Just("private".to_owned()), Just("public".to_owned()),
                (0_u32..50).prop_map(|it| format!("max-age={it}")), (0_u32..50).prop_map(|it| format!("s-maxage={it}")),
            ],
            0..4,
        ),
        expires in proptest::option::of(0_u64..50),
        authorized in any::<bool>(),
        age in 0_u64..60,
    ) {
        let mut kinds: Vec<&str> = directives.iter().map(|it| it.split('=').next().unwrap()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        prop_assume!(kinds.len() == directives.len());
        let value = directives.join(", ");
        let mut answer = headers(&[("cache-control", &value), ("date", DATE_NOW), ("etag", "\"a\"")]);
        if let Some(secs) = expires {
            answer.insert("expires", HeaderValue::from_str(&httpdate::fmt_http_date(later(secs))).unwrap());
        }
        let mut request = http::Request::get("/").body(()).unwrap();
        if authorized {
            request.headers_mut().insert("authorization", HeaderValue::from_static("x"));
        }
        let mut response = http::Response::new(());
        *response.headers_mut() = answer.clone();
        let options = CacheOptions { shared: true, cache_heuristic: 0.0, ..CacheOptions::default() };
        let theirs = CachePolicy::new_options(&request, &response, now(), options);
        let ours = Freshness::of(&rules("{}"), Credentials { outside_key: authorized }, StatusCode::OK, &answer, now());
        // Without any lifetime we keep nothing.
        let says_nothing = ours == Err(NotStorable::NoLifetime);
        prop_assert!(says_nothing || ours.is_ok() == theirs.is_storable(), "{value} {ours:?}");
        if let Ok(freshness) = ours {
            let at = later(age);
            let fresh = freshness.verdict(&RequestDirectives::default(), at) == Use::Fresh;
            prop_assert_eq!(fresh, !theirs.is_stale(at), "{} at {}", value, age);
        }
    }
}
