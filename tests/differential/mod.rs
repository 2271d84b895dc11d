//! The same requests through Moongate, stock Pingora and nginx, each before an upstream of its own.
//!
//! What the client sees and what reached the upstream is compared, case by case. Where we differ on
//! purpose, [`INTENDED`] says so and why; a difference that is not in that table fails, and so does
//! a line of the table that is no longer true. What never depends on the case (`Date`, our request id,
//! who forwarded) is left out by [`observe`].

mod cases;
mod observe;
mod peers;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::thread;

use cases::Case;
use observe::Observation;
use peers::Peer;

/// Cases (one, or all that begin so: `name*`), peers, aspects, and why we differ there.
type Difference = (&'static str, &'static str, &'static str, &'static str);

const OWN_WORDS: &str = "what we say ourselves is JSON, and a refusal is no reason to close";
const BOTH: &str = "pingora nginx";
const ANSWER: &str = "headers body connection";
const ALL: &str = "status headers body connection arrived";

/// Every difference that we mean.
const INTENDED: &[Difference] = &[
    // One path has one spelling: what is matched is what is sent on.
    ("path_lower_case_hex", BOTH, "arrived", "percent-encodings are written in upper case (RFC 3986, 6.2.2.1)"),
    ("path_encoded_letter", BOTH, "arrived", "what needs no encoding has none (RFC 3986, 6.2.2.2)"),
    ("path_dot_segments", BOTH, "arrived", "dot segments are resolved before the match"),
    ("path_double_slash", BOTH, "arrived", "doubled slashes are one"),
    ("path_encoded_slash", BOTH, ALL, "it would be one segment to us and two to the upstream: 400"),
    ("path_bad_encoding", "pingora", ALL, "it can be read in two ways: 400"),
    ("path_bad_encoding", "nginx", "headers body", OWN_WORDS),
    ("query_quotes", "pingora", "headers body", OWN_WORDS),
    ("query_quotes", "nginx", ALL, "characters that no URI may hold: 400"),
    ("absolute_form", "pingora", "arrived", "an origin gets the origin form (RFC 9112, 3.2.1)"),
    ("absolute_form_bare", "pingora", "arrived", "an origin gets the origin form (RFC 9112, 3.2.1)"),
    // Framing is each connection's own.
    ("head_chunked", "pingora", "headers", "HEAD has no body that could be chunked; both are right"),
    ("answer_chunked_http10", "pingora", "headers", "HTTP/1.0 does not know chunks"),
    ("post_chunked", "nginx", "arrived", "nginx counts bodies that came whole; we pass them on as they come"),
    ("post_chunked_empty", "nginx", "arrived", "as before"),
    ("post_chunk_extension", "nginx", "arrived", "as before"),
    ("post_chunked_trailers", BOTH, "arrived", "trailers pass on (RFC 9110, 6.5); others drop them"),
    ("answer_204_with_length", BOTH, "status body connection", "a 204 must not have a length (RFC 9110, 8.6)"),
    ("answer_two_lengths", "nginx", "status headers body", "nginx believes the last one; we believe neither"),
    // Fields of one connection stay there.
    ("authorization", "nginx", "arrived", "Proxy-Authorization is meant for a proxy, not for the origin"),
    ("connection_names_a_field", "nginx", "arrived", "what Connection names goes (RFC 9110, 7.6.1)"),
    ("proxy_connection", "nginx", "arrived", "it is the connection's, whoever invented it"),
    ("upgrade_h2c", "nginx", "arrived", "HTTP2-Settings is the connection's"),
    ("upgrade_websocket", BOTH, "status headers body arrived", "no answer to its GET is what its client waits for"),
    ("answer_hop_by_hop", BOTH, "headers", "an answer's connection is not the client's either"),
    ("forwarded_claims", BOTH, "arrived", "a client's own word on who it is goes no further"),
    // Interim answers.
    ("expect", "nginx", "status arrived", "nginx says 100 by itself and keeps Expect to itself"),
    ("expect_refused", "nginx", "status arrived", "as before: its client sends a body that nobody wants"),
    // Our own words.
    ("post_unanswered", "pingora", ANSWER, OWN_WORDS),
    ("post_unanswered", "nginx", "headers body", OWN_WORDS),
    ("answer_garbage", "pingora", ANSWER, OWN_WORDS),
    ("answer_garbage", "nginx", "status headers body connection", "nginx passes it on as HTTP/0.9"),
    ("answer_two_lengths", "pingora", ANSWER, OWN_WORDS),
];

#[test]
fn requests_and_answers_pass_as_through_pingora_and_nginx() {
    let cases = &cases::all();
    assert!(cases.len() >= 40);
    let names: BTreeSet<_> = cases.iter().map(|it| it.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");

    let ours = Peer::moongate();
    let others = [Peer::pingora(), Peer::nginx()];
    let mut unexpected = String::new();
    let mut used = BTreeSet::new();
    // Each peer goes through the cases in order; beside one another they take as long as one.
    let all = [&ours, &others[0], &others[1]];
    let seen = thread::scope(|scope| {
        let walk = |peer| scope.spawn(move || cases.iter().map(|it| observe::run(peer, it)).collect::<Vec<_>>());
        all.map(walk).map(|it| it.join().unwrap())
    });
    let [mine, theirs @ ..] = &seen;
    for (other, theirs) in others.iter().zip(theirs) {
        for ((case, mine), theirs) in cases.iter().zip(mine).zip(theirs) {
            compare(case, other.name, mine, theirs, &mut used, &mut unexpected);
        }
    }
    for (at, (case, peers, aspects, _)) in INTENDED.iter().enumerate() {
        for (peer, aspect) in peers.split(' ').flat_map(|peer| aspects.split(' ').map(move |aspect| (peer, aspect))) {
            if !used.contains(&(at, peer, aspect)) {
                let _ = writeln!(unexpected, "{case} / {peer} / {aspect}: listed as intended, but nothing differs");
            }
        }
    }
    assert!(unexpected.is_empty(), "\n{unexpected}");
}

/// What was found of the table: its line, the peer, the aspect.
type Used = BTreeSet<(usize, &'static str, &'static str)>;

fn compare(
    case: &Case,
    peer: &'static str,
    mine: &Observation,
    other: &Observation,
    used: &mut Used,
    out: &mut String,
) {
    for ((aspect, mine), (_, other)) in mine.aspects().iter().zip(other.aspects()) {
        if *mine == other {
            continue;
        }
        let listed = INTENDED.iter().position(|(cases, peers, aspects, _)| {
            covers(cases, case.name)
                && peers.split(' ').any(|it| it == peer)
                && aspects.split(' ').any(|it| it == *aspect)
        });
        match listed {
            Some(at) => drop(used.insert((at, peer, aspect))),
            None => {
                let name = case.name;
                let _ = writeln!(out, "{name} / {peer} / {aspect}:\n    moongate: {mine}\n    {peer}: {other}");
            }
        }
    }
}

fn covers(pattern: &str, case: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == case, |start| case.starts_with(start))
}
