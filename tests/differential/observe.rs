//! What one case comes to: the client's side and the upstream's, without what differs every time.

use super::cases::Case;
use super::peers::Peer;
use crate::support::RawClient;
use crate::support::http1::{Fields, Response};

/// Fields of answers that say nothing about the case: clocks, names, and our own additions.
const ANSWER_NOISE: [&str; 5] = ["date", "server", "connection", "keep-alive", "x-request-id"];
/// Fields of requests that each proxy makes anew or adds.
const REQUEST_NOISE: [&str; 9] = [
    "connection",
    "x-request-id",
    "traceparent",
    "tracestate",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-case",
];

/// Both sides of one case, each aspect as text that can be compared and read.
pub(super) struct Observation {
    status: String,
    headers: String,
    body: String,
    connection: String,
    arrived: String,
}

impl Observation {
    pub(super) fn aspects(&self) -> [(&'static str, &str); 5] {
        [
            ("status", &self.status),
            ("headers", &self.headers),
            ("body", &self.body),
            ("connection", &self.connection),
            ("arrived", &self.arrived),
        ]
    }
}

/// Sends the case to a peer and looks at both ends.
pub(super) fn run(peer: &Peer, case: &Case) -> Observation {
    let before = peer.upstream.requests().len();
    let mut client = RawClient::connect(peer.address);
    let _ = client.try_send(&case.request); // it may be refused before its end
    let method = case.request.split(|it| *it == b' ').next().unwrap_or_default();
    let answer = client.try_read_response(&String::from_utf8_lossy(method));
    let (status, headers, body, framed) = match &answer {
        Ok(answer) => {
            let interim: Vec<u16> = answer.informational.iter().map(|it| it.status).collect();
            let status = format!("{} after {interim:?}", answer.status);
            let (headers, body) = match is_own_word(answer) {
                true => (OWN_WORD.to_owned(), OWN_WORD.to_owned()),
                false => (fields(&answer.headers, &ANSWER_NOISE), shown(&answer.body) + &trailers(answer)),
            };
            (status, headers, body, true)
        }
        Err(_) => ("cut".to_owned(), String::new(), String::new(), false),
    };
    let connection = match framed {
        _ if UNASKED.contains(&case.name) => "not asked",
        true if survives(&mut client) => "kept",
        _ => "closed",
    };
    let connection = connection.to_owned();
    drop(client);
    let requests = peer.upstream.requests();
    let mark = format!("\r\nx-case: {}\r\n", case.name);
    let of_this = |it: &&Vec<u8>| String::from_utf8_lossy(it).to_ascii_lowercase().contains(&mark);
    let arrived: Vec<String> = requests[before..].iter().filter(of_this).filter_map(|it| arrival(it)).collect();
    Observation { status, headers, body, connection, arrived: arrived.join(" AND ") }
}

/// After interim answers nginx leaves the connection open and silent, and each try would cost the whole
/// patience; ours goes on, as other tests show.
const UNASKED: [&str; 3] = ["expect", "early_hints", "answer_interim_two"];

const PROBE: &str = "GET /probe HTTP/1.1\r\nhost: probe\r\nx-case: probe\r\n\r\n";

/// In place of what a proxy says by itself: each has words of its own for the same status.
const OWN_WORD: &str = "(its own words)";

/// Ours are JSON, those of nginx and HAProxy pages with a headline, and Pingora has none.
fn is_own_word(answer: &Response) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    let silent = answer.body.is_empty() && answer.header("cache-control").is_some_and(|it| it == "private, no-store");
    answer.status >= 400 && (silent || text.starts_with("{\"error\":{\"code\":") || text.contains("<h1>"))
}

/// Whether the next request on the connection gets its own answer.
fn survives(client: &mut RawClient) -> bool {
    client.try_send(PROBE).is_ok() && client.try_read_response("GET").is_ok_and(|it| it.text() == "probe")
}

fn fields(fields: &Fields, noise: &[&str]) -> String {
    let mut lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .filter(|(name, _)| !noise.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    // Stable: the order of fields with one name means something, that of others does not.
    lines.sort_by(|left, right| left.split(':').next().cmp(&right.split(':').next()));
    lines.join(" | ")
}

/// A request as the upstream got it: line, fields, and the body without its framing. Of one that broke off it is a
/// matter of moments how much arrived.
fn arrival(request: &[u8]) -> Option<String> {
    let end = request.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let list: Fields =
        lines.filter_map(|it| it.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        unchunk(&request[end + 4..])?
    } else {
        shown(&request[end + 4..])
    };
    Some(format!("{line} | {} | {body}", fields(&list, &REQUEST_NOISE)))
}

fn unchunk(mut rest: &[u8]) -> Option<String> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|it| it == b"\r\n") {
        let size = std::str::from_utf8(&rest[..at]).ok().and_then(|it| usize::from_str_radix(it, 16).ok());
        match size {
            Some(0) if rest == b"0\r\n\r\n" => return Some(shown(&body)),
            Some(0) if rest.ends_with(b"\r\n\r\n") => {
                return Some(format!("{} then '{}'", shown(&body), rest.escape_ascii()));
            }
            Some(size) if size > 0 && rest.len() >= at + 4 + size => {
                body.extend(&rest[at + 2..at + 2 + size]);
                rest = &rest[at + 4 + size..];
            }
            _ => break,
        }
    }
    None
}

fn trailers(answer: &Response) -> String {
    let fields = fields(&answer.trailers, &[]);
    if fields.is_empty() { fields } else { format!(" then {fields}") }
}

/// Short bodies as they are, long ones by their length and a sum.
fn shown(body: &[u8]) -> String {
    if body.len() <= 200 {
        return format!("'{}'", body.escape_ascii());
    }
    let sum = body.iter().fold(0_u64, |sum, it| sum.wrapping_mul(31).wrapping_add(u64::from(*it)));
    format!("{} bytes, {sum:016x}", body.len())
}
