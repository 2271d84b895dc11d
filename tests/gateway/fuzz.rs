//! Mutated requests, always the same ones: whatever comes in, the gateway lives, forwards nothing but
//! canonical requests, and only such as a strict reader finds in what was sent.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use moongate::routing::Target;

use super::bad_input::{exact, routes};
use super::support::*;

const THREADS: u64 = 3;
const CASES: u64 = 400;
/// How long a connection may say nothing before it is taken to wait for more.
const SILENCE: Duration = Duration::from_millis(40);

const PIECES: [&[u8]; 40] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b": ",
    b",",
    b";",
    b"0",
    b"5",
    b"-1",
    b"0x",
    b"%",
    b"%2f",
    b"..",
    b"/../",
    b"\\",
    b"#",
    b"?",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\x0b",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n",
    b"chunked",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n",
    b" HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"http://b",
];

fn seed(number: u64) -> Vec<u8> {
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: a.example\r\nX-One: 1\r\n{more}\r\n");
    match number % 6 {
        0 => head(&format!("GET /f/{number}?q=1"), "Accept: */*\r\n"),
        1 => head(&format!("POST /f/{number}"), "Content-Length: 11\r\n") + "hello world",
        2 => {
            head(&format!("POST /f/{number}"), "Transfer-Encoding: chunked\r\n")
                + "5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"
        }
        3 => head(&format!("GET http://a.example/f/{number}"), "Connection: keep-alive, X-One\r\n"),
        4 => head(&format!("GET /f/{number}/one"), "") + &head(&format!("GET /f/{number}/two"), ""),
        _ => format!("POST /f/{number} HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
    }
    .into_bytes()
}

fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.usize(1..=3) {
        let at = random.usize(0..=bytes.len());
        let end = (at + random.usize(1..=8)).min(bytes.len());
        match random.u8(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            4 => {
                // At the beginning of a line, where fields are.
                let starts: Vec<_> =
                    bytes.windows(2).enumerate().filter(|it| it.1 == b"\r\n").map(|it| it.0 + 2).collect();
                let at = if starts.is_empty() { at } else { starts[random.usize(..starts.len())] };
                bytes.splice(at..at, random.choice(PIECES).unwrap_or_default().iter().copied());
            }
            _ => drop(bytes.splice(at..at, random.choice(PIECES).unwrap_or_default().iter().copied())),
        }
    }
}

/// Sends, waits for the end or for silence, and leaves.
fn ask(gateway: &Gateway, bytes: &[u8]) {
    let mut socket = TcpStream::connect(gateway.public()).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let _ = socket.write_all(bytes);
    let mut room = [0; 4096];
    while matches!(socket.read(&mut room), Ok(1..)) {}
    let _ = socket.shutdown(Shutdown::Both);
}

/// What a strict reader takes the bytes for, up to the first thing that it does not take.
fn readings(mut bytes: &[u8]) -> Vec<exact::Exact> {
    let mut found = Vec::new();
    while let Some((request, rest)) = reading(bytes) {
        found.push(request);
        bytes = rest;
    }
    found
}

fn reading(mut bytes: &[u8]) -> Option<(exact::Exact, &[u8])> {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head: String = bytes[..end].iter().map(|it| char::from(*it)).collect();
    let mut rest = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let (method, line) = lines.next()?.split_once(' ')?;
    let (target, version) = line.split_once(' ')?;
    let mut lengths = Vec::new();
    let mut codings = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let value = value.trim_matches([' ', '\t']).to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    let mut body = Vec::new();
    let mut cut = false;
    let codings: Vec<_> = codings.iter().map(String::as_str).collect();
    match (&lengths[..], &codings[..], version) {
        ([], [], "HTTP/1.0" | "HTTP/1.1") => {}
        ([length], [], "HTTP/1.0" | "HTTP/1.1") => {
            let length = length.parse::<usize>().ok()?;
            cut = rest.len() < length;
            body = rest[..length.min(rest.len())].to_vec();
            rest = &rest[length.min(rest.len())..];
        }
        ([], ["chunked"], "HTTP/1.1") => match chunks(rest, &mut body) {
            Some(after) => rest = after,
            None => (cut, rest) = (true, &[]),
        },
        _ => return None,
    }
    Some((exact::Exact { method: method.into(), target: canonical(target)?, fields: Vec::new(), body, cut }, rest))
}

/// `None`: the body is not whole, or not well formed from here on.
fn chunks<'a>(mut rest: &'a [u8], body: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let end = rest.windows(2).position(|it| it == b"\r\n")?;
        let line = rest[..end].split(|it| *it == b';').next()?.trim_ascii_end();
        let digits = std::str::from_utf8(line).ok().filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()))?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if rest[..end].contains(&b'\n') {
            return None;
        }
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let end = rest.windows(2).position(|it| it == b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.is_empty() {
            return Some(rest);
        }
        if line.contains(&b'\n') {
            return None;
        }
    }
}

/// The target as it is sent on.
fn canonical(target: &str) -> Option<String> {
    let lower = target.to_ascii_lowercase();
    let path = match lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://")) {
        Some(rest) => &target[target.len() - rest.len() + rest.find('/')?..],
        None => target,
    };
    Target::normalise(path.as_bytes()).ok().map(|it| it.to_string())
}

fn may_be(forwarded: &exact::Exact, reading: &exact::Exact) -> bool {
    // Pingora escapes these three, when there is something else that it escapes.
    let same_target = forwarded.target == reading.target
        || forwarded.target == reading.target.replace('<', "%3C").replace('>', "%3E").replace('"', "%22");
    let same_body =
        if forwarded.cut { reading.body.starts_with(&forwarded.body) } else { reading.body == forwarded.body };
    // Half a body must not be made whole.
    forwarded.method == reading.method && same_target && same_body && (forwarded.cut || !reading.cut)
}

fn run(thread: u64) {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let mut gateway = Gateway::start(routes(&upstream));
    let mut random = fastrand::Rng::with_seed(thread);
    let mut possible = Vec::new();
    let mut sent = Vec::new();
    for number in 0..CASES {
        let mut bytes = seed(thread * CASES + number);
        mutate(&mut random, &mut bytes);
        ask(&gateway, &bytes);
        let marker = gateway.request("POST", &format!("/marker/{number}"), &[], "hello");
        assert_eq!((marker.status, &*marker.text()), (200, "fine"), "after '{}'", bytes.escape_ascii());
        possible.extend(readings(&bytes));
        sent.push(bytes);
    }
    assert!(gateway.process().running());
    assert!(!gateway.log_lines().iter().any(|it| it.text.contains("panicked")), "{}", gateway.log_tail());
    drop(gateway);
    upstream.wait_for_closed(upstream.connections());
    let mut forwarded = 0;
    for bytes in upstream.received() {
        for request in exact::requests(&bytes).unwrap() {
            if request.target.starts_with("/marker/") {
                assert_eq!((&*request.body, request.cut), (&b"hello"[..], false));
                continue;
            }
            forwarded += 1;
            let place = possible.iter().position(|reading| may_be(&request, reading));
            let Some(place) = place else {
                let start = request.target.as_bytes().get(..6).unwrap_or_default().to_vec();
                let near = sent.iter().filter(|it| it.windows(6).any(|it| it == start));
                let sent: Vec<_> = near.map(|it| it.escape_ascii().to_string()).collect();
                panic!("nobody sent {request:?}; near: {sent:#?}");
            };
            // Each may arrive once.
            possible.swap_remove(place);
        }
    }
    // Else it would show nothing.
    assert!(forwarded > CASES / 10, "{forwarded} of {CASES} were forwarded");
}

#[test]
fn fuzz_what_is_forwarded_is_canonical_and_was_sent() {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|it| scope.spawn(move || run(it))).collect();
        threads.into_iter().for_each(|it| it.join().unwrap());
    });
}
