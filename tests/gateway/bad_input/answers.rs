//! Malformed answers: the client is told or cut, and the upstream's connection is not used again.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The client is told that the upstream failed.
    BadGateway,
    /// The answer had begun: the client sees that it broke off.
    Cut,
    /// The answer is good; what came after it is not.
    Body(&'static str),
}
use Outcome::{BadGateway, Body, Cut};

fn cases() -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let head = |line: &str| format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\nhello").into_bytes();
    let chunks = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
    let raw = |text: &str| text.as_bytes().to_vec();
    let long = "a".repeat(100_000);
    let many: String = (0..10_000).map(|it| format!("x-{it}: y\r\n")).collect();
    vec![
        ("two lengths", head("Content-Length: 5\r\nContent-Length: 6"), BadGateway),
        ("a list of lengths", head("Content-Length: 5, 6"), BadGateway),
        ("a signed length", head("Content-Length: +5"), BadGateway),
        ("a negative length", head("Content-Length: -5"), BadGateway),
        ("a length that is none", head("Content-Length: five"), BadGateway),
        ("a length of 2^64 + 5", head("Content-Length: 18446744073709551621"), BadGateway),
        ("no status", raw("HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"), BadGateway),
        ("a status of letters", raw("HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nhello"), BadGateway),
        ("a status of four digits", raw("HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello"), BadGateway),
        ("another version", raw("HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"), BadGateway),
        ("no HTTP at all", raw("220 mail ready\r\n\r\nhello"), BadGateway),
        ("HTML alone", raw("<html><body>hello</body></html>\r\n\r\n"), BadGateway),
        ("NUL in the status line", raw("HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello"), BadGateway),
        ("NUL in a name", head("X\0: y\r\nContent-Length: 5"), BadGateway),
        ("NUL in a value", head("X: a\0b\r\nContent-Length: 5"), BadGateway),
        ("a field without a colon", head("X\r\nContent-Length: 5"), BadGateway),
        ("a field without a name", head(": y\r\nContent-Length: 5"), BadGateway),
        ("a space in a name", head("X Y: z\r\nContent-Length: 5"), BadGateway),
        ("a bare CR in a value", head("X: a\rb\r\nContent-Length: 5"), BadGateway),
        (
            "a status line of 2 MB",
            format!("HTTP/1.1 200 {}\r\nContent-Length: 5\r\n\r\nhello", long.repeat(20)).into(),
            BadGateway,
        ),
        ("a field of 2 MB", head(&format!("X: {}\r\nContent-Length: 5", long.repeat(20))), BadGateway),
        ("10,000 fields", head(&format!("{many}Content-Length: 5")), BadGateway),
        (
            "a switch that nobody asked for",
            raw("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello"),
            BadGateway,
        ),
        ("nothing", raw(""), BadGateway),
        ("half a head", raw("HTTP/1.1 200 OK\r\nContent-"), BadGateway),
        ("less than its length", raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), Cut),
        ("chunks without the last", chunks("5\r\nhello\r\n"), Cut),
        ("a chunk size that is none", chunks("xyz\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a negative chunk size", chunks("-5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a chunk size of 2^68", chunks("100000000000000000\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a chunk longer than its size", chunks("5\r\nhello world\r\n0\r\n\r\n"), Cut),
        ("a chunk size that ends in LF", chunks("5\nhello\r\n0\r\n\r\n"), Cut),
        ("half a chunk", chunks("9\r\nhel"), Cut),
        (
            "an answer after the answer",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
            Body("hello"),
        ),
        (
            "an answer after the chunks",
            chunks("5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
            Body("hello"),
        ),
        ("junk after the answer", raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\r\n"), Body("hello")),
        ("a 204 with a body", raw("HTTP/1.1 204 No Content\r\n\r\npoison"), Body("")),
        ("a 304 with a body", raw("HTTP/1.1 304 Not Modified\r\n\r\npoison"), Body("")),
        (
            "chunks and a length",
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            BadGateway,
        ),
    ]
}

fn outcome(client: &mut RawClient) -> Result<String, Outcome> {
    match client.try_read_response("POST") {
        Ok(answer) if answer.status == 502 => Err(BadGateway),
        Ok(answer) => Ok(answer.text()),
        Err(_) => Err(Cut),
    }
}

#[test]
fn bad_input_malformed_answers_are_told_or_cut_and_their_connection_is_not_used_again() {
    let upstream = RawUpstream::start(|request| {
        let number = request.target()[1..].parse::<usize>();
        let Ok(number) = number else { return Script::ok("fine") };
        let (_, bytes, _) = cases().swap_remove(number);
        // The end tells truncation from patience; the gateway may close first.
        Script::new().read_body().send(bytes).finish_sending().await_close()
    });
    let gateway = Gateway::start(routes(&upstream));
    let mut wrong = Vec::new();
    for (number, (name, _, want)) in cases().into_iter().enumerate() {
        let mut client = RawClient::connect(gateway.public());
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi"));
        let got = outcome(&mut client);
        let as_wanted = match (&got, want) {
            (Ok(body), Body(want)) => body == want,
            (Err(got), want) => *got == want,
            _ => false,
        };
        let fine = gateway.get("/fine").text();
        if !as_wanted || fine != "fine" {
            let told = gateway.wait_for_event("request", |it| it["path"] == format!("/{number}"));
            wrong.push(format!("{name}: {got:?} instead of {want:?}, then {fine:?}; the log says {told}"));
        }
        // What it was sent on is never heard of again.
        let asked = format!("POST /{number} ");
        let received = upstream.received();
        let mut used = received.iter().filter(|it| String::from_utf8_lossy(it).contains(&asked));
        match (used.next().map(|it| exact::requests(it)), used.next()) {
            (Some(Ok(requests)), None) if requests.last().is_some_and(|it| it.target == format!("/{number}")) => {}
            other => wrong.push(format!("{name}: its connection was used again, or it was sent twice: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The answer to a request that was not sent yet: it must not become the next request's.
#[test]
fn bad_input_an_answer_before_its_request_is_nobodys() {
    let late = Signal::new();
    let upstream = {
        let late = late.clone();
        RawUpstream::start(move |request| match request.number {
            0 => {
                let poison = upstream_answer("poison");
                Script::ok("first").wait(&late).send(poison).await_close()
            }
            _ => Script::ok("second"),
        })
    };
    let gateway = Gateway::start(routes(&upstream));
    assert_eq!(gateway.get("/1").text(), "first");
    late.give();
    // The gateway sees that an idle connection speaks, and lets go of it.
    upstream.wait_for_closed(1);
    assert_eq!(gateway.get("/2").text(), "second");
}

fn upstream_answer(body: &str) -> Vec<u8> {
    super::super::support::upstream::answer_bytes(200, &[], body.as_bytes())
}

#[test]
fn bad_input_a_flood_of_interim_answers_is_no_answer() {
    let upstream = RawUpstream::start(|request| {
        if request.target() == "/fine" {
            return Script::ok("fine");
        }
        let mut script = Script::new();
        for _ in 0..400 {
            script = script.send("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(200));
        }
        script.await_close()
    });
    let gateway = Gateway::start(routes(&upstream));
    let mut client = RawClient::connect(gateway.public());
    client.send("GET /flood HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let answer = client.read_response();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &"upstream_protocol_error".into()));
    let line = gateway.wait_for_event("request", |it| it["path"] == "/flood");
    assert_ne!(line["end"], "done");
    assert_eq!(gateway.get("/fine").text(), "fine");
}
