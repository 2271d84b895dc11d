//! Pages for people in the place of errors.

use crate::support::{Gateway, RawUpstream, Response, Script, eventually, figure, nobody};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
const PAGE: &str = "<h1>{status} {reason}</h1><p>{message}</p><i>{request_id}</i>";

fn routes(upstream: std::net::SocketAddr) -> String {
    format!(
        "version: 1\ndefaults: {{ error_pages: {{ 404: pages/404.html, 4xx: pages/any.html, 5xx: pages/any.html }} }}\n\
         upstreams:\n  app: {{ discovery: {{ static: [\"{upstream}\"] }} }}\n  \
         down: {{ discovery: {{ static: [\"{}\"] }} }}\n  site: {{ files: {{ root: site }} }}\nroutes:\n  \
         - {{ name: own, match: {{ path: \"/own/{{*rest}}\" }}, upstream: app, body_limit: 1 }}\n  \
         - {{ name: theirs, match: {{ path: \"/theirs/{{*rest}}\" }}, upstream: app, error_pages: {{ 4xx: pages/any.html, 503: pages/any.html, upstream: true }} }}\n  \
         - {{ name: down, match: {{ path: /down }}, upstream: down }}\n  \
         - {{ name: site, match: {{ path: \"/site/{{*rest}}\" }}, upstream: site }}\n",
        nobody()
    )
}

fn upstream() -> RawUpstream {
    RawUpstream::start(|it| {
        let status = it.target().rsplit('/').next().unwrap().parse().unwrap();
        let fields = [("content-type", "application/json"), ("retry-after", "7"), ("x-theirs", "secret")];
        Script::answer(status, &fields, "{\"theirs\": true}")
    })
}

fn gateway(upstream: &RawUpstream) -> Gateway {
    Gateway::with(routes(upstream.address()))
        .file("pages/404.html", "<h1>not here</h1>{request_id}")
        .file("pages/any.html", PAGE)
        .file("site/index.html", "home")
        .start()
}

fn ask(gateway: &Gateway, path: &str) -> Response {
    gateway.request("GET", path, &[BROWSER], b"")
}

#[test]
fn people_get_pages_and_programs_get_json() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    let page = ask(&gateway, "/nowhere");
    let id = page.header("x-request-id").unwrap();
    assert_eq!((page.status, page.text()), (404, format!("<h1>not here</h1>{id}")));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("vary"), Some("Accept"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert!(page.header("content-security-policy").unwrap().contains("style-src 'self' 'unsafe-inline'"));
    assert!(!page.header("content-security-policy").unwrap().contains("script-src 'self' 'unsafe-inline'"));
    for accept in ["*/*", "application/json", "application/json, text/html;q=0.5"] {
        let json = gateway.request("GET", "/nowhere", &[("accept", accept)], b"");
        assert_eq!((json.status, json.json()["error"]["code"].as_str()), (404, Some("route_not_found")), "{accept}");
        assert_eq!(json.header("vary"), Some("Accept"), "{accept}");
    }
    let down = ask(&gateway, "/down");
    assert_eq!(down.status, 502);
    assert!(
        down.text().starts_with("<h1>502 Bad Gateway</h1><p>the service can&#39;t be reached</p>"),
        "{}",
        down.text()
    );
    let large = gateway.request("POST", "/own/200", &[BROWSER], b"too large");
    assert!(large.status == 413 && large.text().contains("<h1>413 "), "{}", large.text());
    let head = gateway.request("HEAD", "/nowhere", &[BROWSER], b"");
    assert_eq!(head.header("content-length"), Some(&*page.body.len().to_string()));
    eventually("pages are counted", || {
        let of = |source| figure(&gateway, &format!("moongate_error_pages_total{{of=\"{source}\"}}"));
        (of("gateway") == Some(4.0) && of("upstream").is_none()).then_some(())
    });
}

/// A local service is the gateway's own, so its errors are, too.
#[test]
fn a_missing_file_is_an_error_of_the_gateway() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    assert!(ask(&gateway, "/site/nothing.css").text().starts_with("<h1>not here</h1>"));
    assert_eq!(gateway.get("/site/nothing.css").json()["error"]["code"], "route_not_found");
}

#[test]
fn errors_of_upstreams_get_pages_where_the_route_says_so() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    for path in ["/own/404", "/own/503", "/theirs/500", "/theirs/200"] {
        assert_eq!(ask(&gateway, path).text(), "{\"theirs\": true}", "{path}");
    }
    for (path, expected) in [("/theirs/404", "<h1>404 Not Found</h1>"), ("/theirs/503", "<h1>503 Service Unavailable")]
    {
        let page = ask(&gateway, path);
        assert!(page.text().starts_with(expected), "{path}: {}", page.text());
        assert_eq!((page.header("retry-after"), page.header("x-theirs")), (Some("7"), None), "{path}");
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(gateway.get(path).text(), "{\"theirs\": true}", "programs get it as it is");
    }
    let of = || figure(&gateway, "moongate_error_pages_total{of=\"upstream\"}");
    eventually("pages are counted", || (of() == Some(2.0)).then_some(()));
}

#[test]
fn pages_are_checked_and_change_without_a_restart() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    gateway.folder().write("pages/404.html", "<h1>gone</h1>");
    eventually("the new page is there", || ask(&gateway, "/nowhere").text().starts_with("<h1>gone").then_some(()));
    let with = |pages: &str| {
        gateway.write_routes(&format!("version: 1\ndefaults: {{ error_pages: {{ {pages} }} }}\nroutes: []\n"));
        gateway.reload()
    };
    for (pages, expected) in [
        ("404: pages/missing.html", "can't be read"),
        ("40: pages/404.html", "is not the status of an error"),
        ("200: pages/404.html", "is not the status of an error"),
        ("6xx: pages/404.html", "is not the status of an error"),
    ] {
        let refused = with(pages);
        assert!(refused.status == 422 && refused.text().contains(expected), "{pages}: {}", refused.text());
    }
    gateway.folder().write("pages/large.html", "x".repeat(256 * 1024 + 1));
    assert!(with("404: pages/large.html").text().contains("larger than 256 KiB"));
    gateway.folder().write("pages/near.html", "{requestId}");
    assert_eq!(with("404: pages/near.html").status, 200);
    gateway.wait_for_event("config_warning", |it| it["warning"].as_str().unwrap().contains("`{requestId}`"));
}
