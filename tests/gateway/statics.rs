//! Files of a folder: what lets clients keep them, and what must never get out.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::exchange::{H2C, pattern};
use crate::support::http1::Response;
use crate::support::{Gateway, H2Client, RawClient};

fn text(settings: &str, route: &str) -> String {
    format!(
        "version: 1\nupstreams:\n  site: {{ files: {{ root: public, {settings} }} }}\nroutes:\n  \
         - {{ name: site, match: {{ path: \"/{{*rest}}\" }}, upstream: site, headers: {{ security: off }}, {route} }}\n"
    )
}

fn site(settings: &str, files: &[(&str, &[u8])]) -> Gateway {
    let mut gateway = Gateway::with(text(settings, "")).config(H2C);
    fs::create_dir_all(gateway.folder().path().join("public/sub")).unwrap();
    for (name, contents) in files {
        gateway = gateway.file(&format!("public/{name}"), contents);
    }
    gateway.start()
}

fn ask(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Response {
    gateway.request("GET", path, fields, "")
}

#[test]
fn r9_3_files_are_given_with_what_lets_clients_keep_them() {
    let gateway =
        site("", &[("page.html", b"<p>"), ("app.3f2a9c1b.js", b"js"), ("index.html", b"home"), ("x.unknown", b"?")]);
    let page = ask(&gateway, "/page.html", &[]);
    assert_eq!((page.status, page.text()), (200, "<p>".to_owned()));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!((page.header("accept-ranges"), page.header("vary")), (Some("bytes"), None));
    let (etag, modified) = (page.header("etag").unwrap(), page.header("last-modified").unwrap());
    assert!(etag.starts_with('"'), "a strong one: {etag}");
    for condition in [("if-none-match", etag), ("if-modified-since", modified)] {
        let known = ask(&gateway, "/page.html", &[condition]);
        assert_eq!((known.status, known.header("etag"), known.body.len()), (304, Some(etag), 0));
        assert_eq!(known.header("content-length"), None, "RFC 9110, 8.6: none, or that of the file");
    }
    assert_eq!(ask(&gateway, "/page.html", &[("if-match", "\"x\"")]).status, 412);
    let hashed = ask(&gateway, "/app.3f2a9c1b.js", &[]);
    assert_eq!(hashed.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(hashed.header("cdn-cache-control"), Some("max-age=31536000, immutable"));
    assert_eq!(hashed.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(ask(&gateway, "/x.unknown", &[]).header("content-type"), Some("application/octet-stream"));
    let head = gateway.request("HEAD", "/page.html", &[], "");
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, Some("3"), Some(etag)));
    assert_eq!(ask(&gateway, "/", &[]).text(), "home");
    let refused = gateway.request("POST", "/page.html", &[], "x");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    let nothing = ask(&gateway, "/nothing.html", &[]);
    let error = &nothing.json()["error"];
    assert_eq!((nothing.status, error["code"].as_str()), (404, Some("route_not_found")));
    assert_eq!(error["request_id"].as_str(), nothing.header("x-request-id"));
    assert_eq!(nothing.header("cache-control"), None);
}

#[test]
fn r9_3_lifetimes_are_the_operators() {
    let gateway =
        site("max_age: 5m, cdn_max_age: 1h, immutable: ['*-[hash].js']", &[("a.js", b""), ("a-BrT3x9Qa.js", b"")]);
    let plain = ask(&gateway, "/a.js", &[]);
    assert_eq!(plain.header("cache-control"), Some("public, max-age=300"));
    assert_eq!(plain.header("cdn-cache-control"), Some("max-age=3600"));
    assert!(ask(&gateway, "/a-BrT3x9Qa.js", &[]).header("cache-control").unwrap().contains("immutable"));
}

#[test]
fn r9_3_large_files_pass_whole_and_in_parts() {
    let contents = pattern(1_000_003);
    let gateway = site("", &[("large.bin", &contents), ("empty.bin", b"")]);
    let whole = ask(&gateway, "/large.bin", &[]);
    assert!(whole.body == contents && whole.header("content-length") == Some("1000003"));
    assert!(H2Client::connect(gateway.public()).get("/large.bin").body == contents);
    for (range, expected) in
        [("bytes=0-0", 0..1), ("bytes=70000-300000", 70_000..300_001), ("bytes=-3", 1_000_000..1_000_003)]
    {
        let part = ask(&gateway, "/large.bin", &[("range", range)]);
        assert_eq!(part.status, 206, "{range}");
        let place = format!("bytes {}-{}/1000003", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), Some(&place[..]));
        assert!(part.body == contents[expected], "{range}");
    }
    let etag = whole.header("etag").unwrap();
    let if_range = |condition| ask(&gateway, "/large.bin", &[("range", "bytes=0-0"), ("if-range", condition)]).status;
    assert_eq!((if_range(etag), if_range("\"old\"")), (206, 200));
    let beyond = ask(&gateway, "/large.bin", &[("range", "bytes=1000003-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */1000003")));
    assert_eq!(ask(&gateway, "/large.bin", &[("range", "bytes=0-1,4-5")]).body.len(), 1_000_003);
    assert_eq!(ask(&gateway, "/empty.bin", &[]).status, 200);
    assert_eq!(gateway.request("HEAD", "/large.bin", &[("range", "bytes=0-0")], "").status, 200);
}

#[test]
fn r9_3_packed_files_are_given_to_those_who_take_them() {
    let files: &[(&str, &[u8])] = &[("a.css", b"plain"), ("a.css.gz", b"gz"), ("a.css.br", b"br"), ("b.css", b"plain")];
    let gateway = site("precompressed: [br, gz]", files);
    for (accepted, coding, body) in [
        ("gzip, br", Some("br"), "br"),
        ("gzip", Some("gzip"), "gz"),
        ("br;q=0, gzip", Some("gzip"), "gz"),
        ("identity", None, "plain"),
    ] {
        let answer = ask(&gateway, "/a.css", &[("accept-encoding", accepted)]);
        assert_eq!((answer.header("content-encoding"), answer.text().as_str()), (coding, body), "{accepted}");
        assert_eq!(answer.header("content-type"), Some("text/css; charset=utf-8"));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    }
    let etag = |accepted| ask(&gateway, "/a.css", &[("accept-encoding", accepted)]).header("etag").unwrap().to_owned();
    assert!(etag("br") != etag("gzip") && etag("gzip") != etag("identity"));
    assert_eq!(ask(&gateway, "/b.css", &[("accept-encoding", "br")]).header("content-encoding"), None);
    // Packed before the file changed: not what it is now.
    let folder = gateway.folder().path().join("public");
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    fs::File::options().write(true).open(folder.join("a.css.br")).unwrap().set_modified(past).unwrap();
    assert_eq!(ask(&gateway, "/a.css", &[("accept-encoding", "gzip, br")]).text(), "gz");
}

#[test]
fn r9_3_nothing_outside_of_the_folder_gets_out() {
    let gateway = site(
        "precompressed: [gz]",
        &[("a.txt", b"a"), (".env", b"secret"), ("sub/.hidden", b"secret"), ("sub/b.txt", b"b")],
    );
    let folder = gateway.folder().path();
    fs::write(folder.join("secret.txt"), "secret").unwrap();
    fs::write(folder.join("a.txt.gz"), "secret").unwrap();
    let public = folder.join("public");
    symlink("../secret.txt", public.join("out.txt")).unwrap();
    symlink("..", public.join("up")).unwrap();
    symlink("/etc", public.join("etc")).unwrap();
    symlink("../secret.txt", public.join("a.txt.gz")).unwrap();
    symlink(".env", public.join("env.txt")).unwrap();
    symlink("sub/b.txt", public.join("in.txt")).unwrap();
    Command::new("mkfifo").arg(public.join("pipe")).status().unwrap();
    for path in [
        "/out.txt",
        "/up/secret.txt",
        "/up/",
        "/up",
        "/etc/passwd",
        "/etc/",
        "/.env",
        "/sub/.hidden",
        "/env.txt",
        "/pipe",
        "/%2e%2e/secret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "/a.txt%00.html",
        "/a.txt/",
        "/sub/",
        "//etc/passwd",
        "/%2fetc/passwd",
    ] {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n"));
        let answer = client.read_response();
        assert!([400, 404].contains(&answer.status), "{path} {}", answer.status);
        assert!(!answer.text().contains("\"secret") && !answer.text().contains("root:"), "{path}");
    }
    assert_eq!(ask(&gateway, "/in.txt", &[]).text(), "b", "links within the folder are fine");
    assert_eq!(ask(&gateway, "/a.txt", &[("accept-encoding", "gzip")]).text(), "a");
}

#[test]
fn r9_3_a_folder_is_its_index() {
    let gateway = site("", &[("sub/index.html", b"sub"), ("index.html", b"top")]);
    assert_eq!(ask(&gateway, "/sub/", &[]).text(), "sub");
    let answer = ask(&gateway, "/sub?a=b", &[]);
    assert_eq!((answer.status, answer.header("location")), (308, Some("./sub/?a=b")));
    let without = site("index: ''", &[("sub/index.html", b"sub")]);
    assert_eq!((ask(&without, "/sub/", &[]).status, ask(&without, "/sub", &[]).status), (404, 404));
}

#[test]
fn r9_3_files_can_be_kept_in_memory() {
    let route = "rewrite: { path: \"/{rest}\" }, cache: {}";
    let text = text("max_age: 1m", route).replace("path: \"/{*rest}\"", "path: \"/assets/{*rest}\"");
    let gateway = Gateway::with(text).config(H2C);
    fs::create_dir_all(gateway.folder().path().join("public")).unwrap();
    let gateway = gateway.file("public/a.css", "old").start();
    assert_eq!(ask(&gateway, "/assets/a.css", &[]).header("x-cache"), Some("miss"));
    let kept = ask(&gateway, "/assets/a.css", &[]);
    assert_eq!((kept.header("x-cache"), kept.text()), (Some("hit"), "old".to_owned()));
    assert_eq!(ask(&gateway, "/assets/a.css", &[("if-none-match", kept.header("etag").unwrap())]).status, 304);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_a_place() {
    let refused = Gateway::with(text("index: a/b", "")).config(H2C).start_refused();
    assert_eq!(refused.code, 1);
    for expected in ["no folder `public`", "not the name of a file", "routes.yaml:3"] {
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
}

#[test]
fn a_single_page_application_answers_navigations_and_nothing_else() {
    let files: &[(&str, &[u8])] = &[
        ("index.html", b"<app>"),
        ("index.html.br", b"packed"),
        ("app.3f2a9c1b.js", b"js"),
        ("sub/page.html", b"sub"),
        (".env", b"secret"),
    ];
    let gateway = site("fallback: index.html", files);
    let browser = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    for path in ["/players/7", "/players/john.doe", "/sub/", "/a/b/c?d=e"] {
        for fields in [&[browser][..], &[("accept", "*/*")], &[browser, ("sec-fetch-mode", "navigate")], &[]] {
            let page = ask(&gateway, path, fields);
            assert_eq!((page.status, page.text().as_str()), (200, "<app>"), "{path} {fields:?}");
            assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
            assert_eq!(page.header("cache-control"), Some("no-cache"), "a new release has to be seen");
        }
    }
    let packed = ask(&gateway, "/players/7", &[browser, ("accept-encoding", "br")]);
    assert_eq!((packed.header("content-encoding"), packed.text().as_str()), (Some("br"), "packed"));
    let etag = packed.header("etag").unwrap().to_owned();
    let known = ask(&gateway, "/players/8", &[browser, ("accept-encoding", "br"), ("if-none-match", &etag)]);
    assert_eq!(known.status, 304);
    assert_eq!(gateway.request("HEAD", "/players/7", &[browser], "").header("content-length"), Some("5"));
    for (path, fields) in [
        ("/app.0f2a9c1b.js", &[browser][..]),
        ("/img/logo.png", &[("accept", "*/*")]),
        ("/players/7", &[("accept", "application/json")]),
        ("/players/7", &[browser, ("sec-fetch-mode", "cors")]),
        ("/.env", &[browser]),
        ("/.well-known/acme-challenge/x", &[browser]),
    ] {
        let answer = ask(&gateway, path, fields);
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("route_not_found")), "{path}");
    }
    assert_eq!(gateway.request("POST", "/players/7", &[browser], "x").status, 405);
    assert_eq!(ask(&gateway, "/app.3f2a9c1b.js", &[browser]).text(), "js");
    gateway.write_routes(&text("fallback: app.html", ""));
    let refused = gateway.reload();
    assert!(refused.status == 422 && refused.text().contains("no file `app.html`"), "{}", refused.text());
}
