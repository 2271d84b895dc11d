//! Event streams whose route says how they are kept (`sse`): they are told apart event by event (WHATWG HTML, section
//! 9.2.5), so that a word of ours never gets into an event of the upstream's.
//!
//! Events pass whole: what is the beginning of one waits for its end, up to [`HOLD_MAX`]. So a stream that breaks off can
//! still end with an error event, and no client takes half an event for one.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use memchr::memchr2;
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period};
use crate::http as codec;

/// So much of an event waits for the rest of it, in bytes; a larger one passes as it comes.
const HOLD_MAX: usize = 64 * 1024;
/// What is said while there is nothing to say.
pub(super) const HEARTBEAT: Bytes = Bytes::from_static(b": heartbeat\n\n");
/// `event: ` and the like before a marker.
const FIELD_MAX: usize = 8;
/// The longest marker, in bytes.
const MARKER_MAX: usize = 256;
/// At the very beginning of a stream only.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the route's event streams (`text/event-stream`) are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "heartbeat": "30s", "idle": "120s", "terminal": "[DONE]" }]))]
pub struct SseConfig {
    /// While nothing is sent for so long, the client gets a comment, `: heartbeat`. Default 30s.
    pub heartbeat: Option<Period>,
    /// The longest silence of the upstream: behind it the stream ends with an error event. Takes the place of
    /// `timeouts.idle`. Default 120s.
    pub idle: Option<Period>,
    /// What a complete stream ends with: the data of its last event, as in `[DONE]`, or that event's name, as in
    /// `message_stop`. A stream that ends without it ends with an error event. Default: any end is one.
    pub terminal: Option<String>,
}

/// Compiled.
#[derive(Clone, Debug)]
pub struct EventRules {
    heartbeat: Duration,
    idle: Duration,
    terminal: Option<Box<[u8]>>,
}

impl EventRules {
    /// Reports what can't be kept.
    pub fn compile(config: &SseConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let SseConfig { heartbeat, idle, terminal } = config;
        for (name, period) in [("heartbeat", heartbeat), ("idle", idle)] {
            if period.is_some_and(|it| it.0.is_zero()) {
                diagnostics.error(&at.key(name), "a time of zero").help("write how long a silence may be at most");
            }
        }
        let unfit = |it: &&String| it.is_empty() || it.len() > MARKER_MAX || it.contains(['\r', '\n']);
        if terminal.as_ref().filter(unfit).is_some() {
            diagnostics
                .error(&at.key("terminal"), "not what a line of an event could say")
                .help("write one line of at most 256 bytes, such as \"[DONE]\"");
        }
        let default = |it: &Option<Period>, seconds| it.map_or(Duration::from_secs(seconds), |it| it.0);
        Self {
            heartbeat: default(heartbeat, 30),
            idle: default(idle, 120),
            terminal: terminal.as_ref().map(|it| it.as_bytes().into()),
        }
    }
}

/// Whether a head begins a stream that can be kept so: what is encoded can't be told apart.
pub(super) fn follows_rules(head: &ResponseHeader) -> bool {
    head.status == StatusCode::OK && codec::is_event_stream(&head.headers) && !codec::is_encoded(&head.headers)
}

/// Whether a piece ends with an event, as far as it shows by itself.
pub(super) fn ends_event(piece: &[u8]) -> bool {
    [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"].iter().any(|it| piece.ends_with(it))
}

/// Nobody knows how long it is going to be, with what is said in it by us.
pub(super) fn without_length(mut head: Box<ResponseHeader>) -> Box<ResponseHeader> {
    head.remove_header(&CONTENT_LENGTH);
    head
}

/// What a stream is due when it has been quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Heartbeat,
    /// Its end: the upstream has been silent for too long.
    End,
}

/// One stream on its way.
pub(super) struct EventStream<'a> {
    rules: &'a EventRules,
    lines: Lines,
    held: BytesMut,
    /// The client has the beginning of an event.
    open: bool,
    /// The upstream has said its marker, if there is one.
    terminated: bool,
    /// Something of ours went out before the upstream's first byte.
    spoke_first: bool,
    begun: bool,
    heard: Instant,
    said: Instant,
}

impl<'a> EventStream<'a> {
    pub(super) fn new(rules: &'a EventRules) -> Self {
        let now = Instant::now();
        let line_max = rules.terminal.as_ref().map_or(1, |it| it.len() + FIELD_MAX);
        Self {
            rules,
            lines: Lines { max: line_max, ..Lines::default() },
            held: BytesMut::new(),
            open: false,
            terminated: rules.terminal.is_none(),
            spoke_first: false,
            begun: false,
            heard: now,
            said: now,
        }
    }

    /// The upstream has said something, whatever becomes of it.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// What of the stream may go out, now that this has come.
    pub(super) fn pass(&mut self, mut piece: Bytes) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) && self.spoke_first && piece.starts_with(BYTE_ORDER_MARK) {
            piece = piece.slice(BYTE_ORDER_MARK.len()..);
        }
        let marker = self.rules.terminal.as_deref();
        let terminated = &mut self.terminated;
        let border = self.lines.pass(&piece, |line| *terminated |= marker.is_some_and(|it| says(line, it)));
        let out = match border {
            Some(end) => {
                self.open = false;
                let rest = piece.split_off(end);
                let out = self.with_held(piece);
                self.held.extend_from_slice(&rest);
                out
            }
            None if self.open => piece,
            None => {
                self.held.extend_from_slice(&piece);
                Bytes::new()
            }
        };
        if self.held.len() <= HOLD_MAX {
            return self.sent(out);
        }
        self.open = true;
        let held = std::mem::take(&mut self.held).freeze();
        self.sent(if out.is_empty() { held } else { [out, held].concat().into() })
    }

    fn with_held(&mut self, piece: Bytes) -> Bytes {
        if self.held.is_empty() {
            return piece;
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(&piece);
        held.freeze()
    }

    fn sent(&mut self, out: Bytes) -> Option<Bytes> {
        if out.is_empty() {
            return None;
        }
        self.said = Instant::now();
        Some(out)
    }

    /// The upstream has ended it: what is left to go out; `None` if it is not complete.
    pub(super) fn end(&mut self) -> Option<Bytes> {
        let marker = self.rules.terminal.as_deref();
        self.terminated |= marker.is_some_and(|it| self.lines.current().is_some_and(|line| says(line, it)));
        self.terminated.then(|| std::mem::take(&mut self.held).freeze())
    }

    /// Whether a word of ours may go out: the client is between two events.
    pub(super) fn is_at_border(&self) -> bool {
        !self.open
    }

    /// When to look what it is due.
    pub(super) fn next_look(&self) -> Instant {
        let end = self.heard + self.rules.idle;
        if self.open { end } else { end.min(self.said + self.rules.heartbeat) }
    }

    /// What it is due now.
    pub(super) fn due(&mut self) -> Due {
        let now = Instant::now();
        if now >= self.heard + self.rules.idle {
            return Due::End;
        }
        if self.open || now < self.said + self.rules.heartbeat {
            return Due::Nothing;
        }
        self.said = now;
        self.spoke_first |= !self.begun;
        Due::Heartbeat
    }
}

/// Whether a line says the marker: as an event's data, or as its name.
fn says(line: &[u8], marker: &[u8]) -> bool {
    let value = line.strip_prefix(b"data:").or_else(|| line.strip_prefix(b"event:"));
    value.is_some_and(|it| it.strip_prefix(b" ").unwrap_or(it) == marker)
}

/// Tells lines apart, and borders between events.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of the current line, as far as anybody wants to know it.
    line: Vec<u8>,
    /// So much of it, in bytes.
    max: usize,
    /// The line is longer.
    longer: bool,
    /// The current event has a line that is no comment.
    in_event: bool,
    /// The last byte was a CR, whose LF may be yet to come.
    after_cr: bool,
}

impl Lines {
    /// Follows what comes, and tells of every line that ends; where the last border in it is.
    fn pass(&mut self, piece: &[u8], mut on_line: impl FnMut(&[u8])) -> Option<usize> {
        let (mut at, mut border) = (0, None);
        if std::mem::take(&mut self.after_cr) && piece.first() == Some(&b'\n') {
            at = 1;
            border = self.is_border().then_some(at);
        }
        while let Some(length) = memchr2(b'\r', b'\n', &piece[at..]) {
            let end = at + length;
            self.add(&piece[at..end]);
            if let Some(line) = self.current() {
                on_line(line);
            }
            self.end_line();
            let pair = piece[end] == b'\r' && piece.get(end + 1) == Some(&b'\n');
            at = end + 1 + usize::from(pair);
            self.after_cr = piece[end] == b'\r' && at == piece.len() && !pair;
            if self.is_border() {
                border = Some(at);
            }
        }
        self.add(&piece[at..]);
        border
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = self.max - self.line.len();
        self.longer |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The current line, if it is all there.
    fn current(&self) -> Option<&[u8]> {
        (!self.longer).then_some(&self.line[..])
    }

    fn end_line(&mut self) {
        match self.line.first() {
            None => self.in_event = false,
            Some(b':') => {}
            Some(_) => self.in_event = true,
        }
        self.line.clear();
        self.longer = false;
    }

    fn is_border(&self) -> bool {
        self.line.is_empty() && !self.in_event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(yaml: &str) -> EventRules {
        let mut diagnostics = Diagnostics::default();
        let rules = EventRules::compile(&serde_yaml::from_str(yaml).unwrap(), &At::ROOT, &mut diagnostics);
        assert!(diagnostics.is_empty());
        rules
    }

    fn passed(rules: &EventRules, pieces: &[&[u8]]) -> (Vec<u8>, Option<Bytes>) {
        let mut stream = EventStream::new(rules);
        let out: Vec<u8> =
            pieces.iter().filter_map(|it| stream.pass(Bytes::copy_from_slice(it))).flat_map(|it| it.to_vec()).collect();
        (out, stream.end())
    }

    #[test]
    fn only_whole_events_pass() {
        let rules = rules("{}");
        for (pieces, out, rest) in [
            (&[&b"data: a\n\nda"[..], b"ta: b\n"][..], "data: a\n\n", "data: b\n"),
            (&[b"data: a\r\n", b"\r\n"], "data: a\r\n\r\n", ""),
            (&[b"data: a\r\n\r", b"\n"], "data: a\r\n\r\n", ""),
            (&[b"data: a\r\r"], "data: a\r\r", ""),
            (&[b": comment\n"], ": comment\n", ""),
            (&[b"data: a\n: aside\n"], "", "data: a\n: aside\n"),
            (&[b"retry: 1\n", b"\n\n"], "retry: 1\n\n\n", ""),
        ] {
            let (passed, end) = passed(&rules, pieces);
            assert_eq!((&*String::from_utf8_lossy(&passed), end.as_deref()), (out, Some(rest.as_bytes())));
        }
    }

    #[test]
    fn an_end_counts_with_its_marker_alone() {
        for (marker, stream, whole) in [
            ("[DONE]", "data: [DONE]\n\n", true),
            ("[DONE]", "data:[DONE]\r\n\r\n", true),
            ("[DONE]", "data: a\n\ndata: [DONE]", true),
            ("[DONE]", "data: a [DONE]\n\n", false),
            ("[DONE]", ": [DONE]\n\n", false),
            ("[DONE]", "data: a\n\n", false),
            ("[DONE]", "", false),
            ("message_stop", "event: message_stop\ndata: {}\n\n", true),
            ("message_stop", "event: message_stop_not\ndata: {}\n\n", false),
        ] {
            let rules = rules(&format!("{{ terminal: \"{marker}\" }}"));
            let (_, end) = passed(&rules, &[stream.as_bytes()]);
            assert_eq!(end.is_some(), whole, "{marker} {stream:?}");
        }
    }

    #[test]
    fn an_event_that_is_too_large_passes_as_it_comes_and_lets_nothing_between() {
        let rules = rules("{ heartbeat: 1ms, idle: 1h }");
        let mut stream = EventStream::new(&rules);
        assert_eq!(stream.pass(Bytes::from(vec![b'x'; HOLD_MAX])), None);
        assert_eq!(stream.pass(Bytes::from_static(b"yz")).unwrap().len(), HOLD_MAX + 2);
        assert!(!stream.is_at_border());
        assert_eq!(stream.pass(Bytes::from_static(b"more")).unwrap(), "more");
        assert_eq!(stream.pass(Bytes::from_static(b"\n\ndata")).unwrap(), "\n\n");
        assert!(stream.is_at_border());
    }

    #[test]
    fn a_byte_order_mark_behind_a_heartbeat_goes() {
        let rules = rules("{ heartbeat: 1ms, idle: 1h }");
        let mut stream = EventStream::new(&rules);
        stream.said -= Duration::from_secs(1);
        assert_eq!(stream.due(), Due::Heartbeat);
        assert_eq!(stream.pass(Bytes::from_static(b"\xef\xbb\xbfdata: a\n\n")).unwrap(), "data: a\n\n");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_changed_however_it_is_cut(
            text in "([a-z:]{0,4}(\n|\r|\r\n)){0,12}[a-z]{0,3}", cuts in proptest::collection::vec(1..5_usize, 1..8)
        ) {
            let rules = rules("{}");
            let mut stream = EventStream::new(&rules);
            let (mut out, mut left) = (Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                if left.is_empty() { break }
                let (piece, rest) = left.split_at((*cut).min(left.len()));
                out.extend(stream.pass(Bytes::copy_from_slice(piece)).into_iter().flatten());
                left = rest;
            }
            out.extend(stream.end().unwrap());
            prop_assert_eq!(out, text.into_bytes());
        }
    }
}
