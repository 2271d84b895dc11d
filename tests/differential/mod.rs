//! The same requests through Moongate, stock Pingora, nginx and HAProxy, each before an upstream of its own.
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

/// Cases (names, and beginnings of names: `name*`), peers, aspects, and why we differ there.
type Difference = (&'static str, &'static str, &'static str, &'static str);

const ALL_PEERS: &str = "pingora nginx haproxy";
const BOTH: &str = "pingora nginx";
const ALL: &str = "status headers body connection arrived";
/// We refuse what the other does; of a request that was the last on its connection anyway.
const REFUSED: &str = "status headers body arrived";
/// We refuse what came from the upstream.
const ANSWER: &str = "status headers body";

/// Every difference that we mean. What a proxy says by itself is equal to what another says with the same status.
const INTENDED: &[Difference] = &[
    // One path has one spelling: what is matched is what is sent on.
    ("path_lower_case_hex", ALL_PEERS, "arrived", "percent-encodings are written in upper case (RFC 3986, 6.2.2.1)"),
    ("path_encoded_letter", ALL_PEERS, "arrived", "what needs no encoding has none (RFC 3986, 6.2.2.2)"),
    ("path_dot_segments", ALL_PEERS, "arrived", "dot segments are resolved before the match"),
    ("path_double_slash", ALL_PEERS, "arrived", "doubled slashes are one"),
    ("path_encoded_slash", ALL_PEERS, ALL, "it would be one segment to us and two to the upstream: 400"),
    ("path_bad_encoding", "pingora haproxy", ALL, "it can be read in two ways: 400"),
    ("query_quotes", "nginx haproxy", ALL, "characters that no URI may hold: 400"),
    // One request has one host.
    (
        "absolute_form absolute_form_bare",
        "pingora haproxy",
        "arrived",
        "an origin gets the origin form (RFC 9112, 3.2.1)",
    ),
    ("absolute_form_default_port absolute_form_upper_case", "pingora", ALL, "a host is the same however it is spelled"),
    (
        "absolute_form_default_port absolute_form_upper_case",
        "haproxy",
        "arrived",
        "Host becomes what the target says (RFC 9112, 3.2.2)",
    ),
    ("absolute_form_port absolute_form_other_host", "nginx", ALL, "the target says one host and Host another: 400"),
    ("absolute_form_user host_user", "haproxy", ALL, "a host has no user (RFC 9110, 4.2.4): 400"),
    ("host_user", "nginx", ALL, "as before"),
    ("host_empty host_missing host_list", "pingora haproxy", ALL, "a request needs one host (RFC 9112, 3.2): 400"),
    ("host_twice", "haproxy", ALL, "as before"),
    ("host_bad_port", ALL_PEERS, ALL, "a port is a number: 400"),
    // Framing is each connection's own.
    ("head_chunked", "pingora haproxy", "headers", "HEAD has no body that could be chunked; both are right"),
    ("answer_chunked_http10", "pingora haproxy", "headers", "HTTP/1.0 does not know chunks"),
    ("http10* answer_chunked_http10", "haproxy", "arrived", "the version is each connection's own (RFC 9110, 2.5)"),
    (
        "answer_until_close answer_http10_until_close",
        "haproxy",
        "headers connection",
        "by chunks it is seen that all came",
    ),
    (
        "post_chunked post_chunked_empty post_chunk_extension coding_upper_case chunk_leading_zeros chunk_upper_case \
         chunk_extension_quoted chunk_extension_space chunk_trailer_of_framing",
        "nginx",
        "arrived",
        "nginx counts bodies that came whole; we pass them on as they come",
    ),
    (
        "post_chunked_trailers chunk_trailers_undeclared",
        BOTH,
        "arrived",
        "trailers pass on (RFC 9110, 6.5); others drop them",
    ),
    ("answer_trailers_wanted", BOTH, "body", "as before"),
    (
        "answer_chunked_trailers answer_trailer_of_framing",
        "haproxy",
        "body",
        "trailers are for who asks for them (RFC 9110, 6.5.1)",
    ),
    ("post_chunked_trailers", "haproxy", "arrived", "Trailer announces what our own chunks may have or not"),
    (
        "chunk_trailer_of_framing",
        "haproxy",
        "arrived",
        "no trailer says how long a body is, or who asks (RFC 9110, 6.5.1)",
    ),
    ("length_leading_zero", "pingora haproxy", "arrived", "a length is written anew: a zero in front may mean octal"),
    ("answer_length_leading_zero", "pingora haproxy", "headers", "as before"),
    ("coding_upper_case", "haproxy", "arrived", "chunks are our own, and so is their name"),
    ("answer_coding_upper_case", "pingora haproxy", "headers", "as before"),
    ("answer_204_with_length", BOTH, "status body connection", "a 204 must not have a length (RFC 9110, 8.6)"),
    // What could be framed in two ways is not passed on in either.
    ("length_twice", "pingora haproxy", REFUSED, "a length that is said twice is no length (RFC 9110, 8.6): 400"),
    ("length_list", "haproxy", REFUSED, "as before"),
    ("length_list", "pingora", "status arrived", "Pingora sends it on, for the upstream to find out"),
    (
        "length_and_chunks",
        "pingora haproxy",
        REFUSED,
        "two framings are how requests are smuggled (RFC 9112, 6.1): 400",
    ),
    ("coding_twice coding_other coding_lines", "pingora", REFUSED, "we undo chunks, once, and nothing else: 400"),
    ("coding_other coding_lines", "haproxy", "status", "422 says that the body is wrong; it is the head"),
    (
        "coding_twice coding_other coding_unknown coding_identity coding_control",
        "nginx",
        "status",
        "501 would be right for a coding that there is; 400 is for all of them, and both close",
    ),
    ("coding_http10", "haproxy", REFUSED, "HTTP/1.0 does not know chunks (RFC 9112, 6.1): 400"),
    ("chunk_extension_control", ALL_PEERS, REFUSED, "no control character is in an extension: 400"),
    ("chunk_extension_bare_lf", "nginx haproxy", REFUSED, "a bare LF ends no line in a body (RFC 9112, 2.2): 400"),
    ("chunk_extension_bare_lf", "pingora", ANSWER, "Pingora takes what follows for the extension, and waits"),
    ("answer_length_twice answer_length_list", ALL_PEERS, ANSWER, "as with requests: 502"),
    ("answer_two_lengths", "nginx", ANSWER, "nginx believes the last one; we believe neither"),
    ("answer_length_and_chunks answer_http10_chunked", ALL_PEERS, ANSWER, "as with requests: 502"),
    ("answer_http10_chunked", "haproxy", "connection", "our own refusal has a length"),
    ("answer_coding_other", BOTH, ANSWER, "as with requests: 502"),
    (
        "answer_chunk_bad",
        "haproxy",
        "status headers body connection",
        "the head is passed on before a chunk is looked at",
    ),
    // Lines and what is in them.
    ("line_bare_lf", ALL_PEERS, ALL, "a bare LF ends no line of a head that is read by others, too: 400"),
    ("fold", "haproxy", ALL, "folded lines are obsolete (RFC 9112, 5.2): 400"),
    ("fold_first", "haproxy", "status headers body connection", "as before"),
    ("answer_folded", "pingora haproxy", ANSWER, "as before: 502"),
    ("answer_name_with_space", "pingora", ANSWER, "a name has no space behind it (RFC 9112, 5.1): 502"),
    ("http12", "nginx haproxy", ALL, "there is no HTTP/1.2, and nobody knows what it would mean: 400"),
    // Fields of one connection stay there.
    ("authorization", "nginx haproxy", "arrived", "Proxy-Authorization is meant for a proxy, not for the origin"),
    (
        "connection_names_a_field connection_lines connection_lines_close",
        "nginx haproxy",
        "arrived",
        "what Connection names goes, on whichever of its lines (RFC 9110, 7.6.1)",
    ),
    ("connection_lines_close", "pingora", "connection", "Pingora looks at the first line of Connection"),
    ("connection_names_host", "nginx haproxy", ALL, "taken at its word, the request would lose its host: 400"),
    ("connection_keep_alive", "haproxy", "arrived", "it is the connection's"),
    ("proxy_connection", "nginx haproxy", "arrived", "it is the connection's, whoever invented it"),
    ("te te_only te_unnamed answer_trailers_wanted", "haproxy", "arrived", "TE is the connection's (RFC 9110, 10.1.4)"),
    ("upgrade_h2c", "nginx haproxy", "arrived", "HTTP2-Settings is the connection's"),
    ("upgrade_websocket", BOTH, "status headers body arrived", "no answer to its GET is what its client waits for"),
    ("upgrade_websocket", "haproxy", "connection", "a refusal is no reason to close"),
    (
        "answer_hop_by_hop answer_connection_lines",
        ALL_PEERS,
        "headers",
        "an answer's connection is not the client's either",
    ),
    (
        "host_upper host_port host_default_port host_empty_port host_ipv6 host_ipv6_upper_case",
        ALL_PEERS,
        "arrived",
        "one host has one form (RFC 3986, 6.2.2 and 6.2.3), whoever looks at it",
    ),
    ("forwarded_claims", ALL_PEERS, "arrived", "a client's own word on who it is goes no further"),
    ("answer_switch_unasked", BOTH, ANSWER, "nobody asked for another protocol: 502"),
    ("answer_switch_unasked", "pingora", "connection", "as before"),
    // Interim answers.
    ("expect", "nginx", "status arrived", "nginx says 100 by itself and keeps Expect to itself"),
    ("expect_refused", "nginx", "status arrived", "as before: its client sends a body that nobody wants"),
    // Refusals.
    (
        "post_unanswered answer_garbage answer_two_lengths answer_length_twice answer_length_list answer_coding_other",
        "pingora",
        "connection",
        "a refusal is no reason to close",
    ),
    ("answer_garbage", "nginx", "status headers body connection", "nginx passes it on as HTTP/0.9"),
];

#[test]
fn requests_and_answers_pass_as_through_pingora_nginx_and_haproxy() {
    let cases = &cases::all();
    assert!(cases.len() >= 40);
    let names: BTreeSet<_> = cases.iter().map(|it| it.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");

    let ours = Peer::moongate();
    let others = [Peer::pingora(), Peer::nginx(), Peer::haproxy()];
    let mut unexpected = String::new();
    let mut used = BTreeSet::new();
    // Each peer goes through the cases in order; beside one another they take as long as one.
    let all = [&ours, &others[0], &others[1], &others[2]];
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
    for (at, (cases, peers, aspects, _)) in INTENDED.iter().enumerate() {
        for (peer, aspect) in peers.split(' ').flat_map(|peer| aspects.split(' ').map(move |aspect| (peer, aspect))) {
            if !used.contains(&(at, peer, aspect)) {
                let _ = writeln!(unexpected, "{cases} / {peer} / {aspect}: listed as intended, but nothing differs");
            }
        }
        for case in cases.split(' ').filter(|case| !peers.split(' ').any(|peer| used.contains(&(at, peer, *case)))) {
            let _ = writeln!(unexpected, "{case}: listed as intended, but nothing differs");
        }
    }
    assert!(unexpected.is_empty(), "\n{unexpected}");
}

/// What was found of the table: its line, the peer, the aspect or the case.
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
            cases.split(' ').any(|it| covers(it, case.name))
                && peers.split(' ').any(|it| it == peer)
                && aspects.split(' ').any(|it| it == *aspect)
        });
        match listed {
            Some(at) => {
                used.insert((at, peer, aspect));
                let covering = INTENDED[at].0.split(' ').find(|it| covers(it, case.name));
                used.insert((at, peer, covering.unwrap_or_default()));
            }
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
