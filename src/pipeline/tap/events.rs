//! Cutting a stream of events where its grammar does (WHATWG HTML, section 9.2.5): a line ends with CR, LF or both, and
//! an event with an empty line. Not a byte is changed.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr2;

/// A part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// An event, with the empty line behind it.
    Event(Bytes),
    /// A line that is a comment or empty, between two events.
    Comment(Bytes),
    /// The LF of a CRLF whose CR was taken for the end of a line already: there is no wait for what may never come.
    LineFeed,
}

/// What has arrived and is not cut yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    buffer: BytesMut,
    /// Where the current line begins.
    line: usize,
    /// So far no line ends.
    seen: usize,
    /// The byte before `seen` is a CR whose LF may be yet to come.
    after_cr: bool,
}

impl Events {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next part that is whole.
    pub(super) fn next(&mut self) -> Option<Cut> {
        if self.after_cr
            && let Some(next) = self.buffer.get(self.seen)
        {
            self.after_cr = false;
            if *next == b'\n' {
                if self.seen == 0 {
                    self.buffer.advance(1);
                    return Some(Cut::LineFeed);
                }
                self.seen += 1;
                self.line = self.seen;
            }
        }
        loop {
            let Some(at) = memchr2(b'\r', b'\n', &self.buffer[self.seen..]) else {
                self.seen = self.buffer.len();
                return None;
            };
            let at = self.seen + at;
            let pair = self.buffer[at] == b'\r' && self.buffer.get(at + 1) == Some(&b'\n');
            let end = at + 1 + usize::from(pair);
            self.after_cr = self.buffer[at] == b'\r' && end == self.buffer.len() && !pair;
            let first = self.line == 0;
            if at == self.line || (first && self.buffer[0] == b':') {
                (self.line, self.seen) = (0, 0);
                let part = self.buffer.split_to(end).freeze();
                return Some(if first { Cut::Comment(part) } else { Cut::Event(part) });
            }
            (self.line, self.seen) = (end, end);
        }
    }

    /// What the stream ended in the middle of.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(self).buffer.freeze()
    }
}

/// The data of an event, its lines joined by LF as a client gets them; `None` if there is none.
pub fn event_data(event: &[u8]) -> Option<Vec<u8>> {
    let event = event.strip_prefix(b"\xef\xbb\xbf").unwrap_or(event);
    let mut data: Option<Vec<u8>> = None;
    let mut rest = event;
    while !rest.is_empty() {
        let at = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..at];
        let pair = rest[at..].starts_with(b"\r\n");
        rest = rest.get(at + 1 + usize::from(pair)..).unwrap_or_default();
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => continue,
        };
        match &mut data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => data = Some(value.to_vec()),
        }
    }
    data
}

/// An event with this data, and a name if it is not `message`.
pub fn event(name: Option<&str>, data: &str) -> Bytes {
    let mut text = String::new();
    if let Some(name) = name {
        text += &format!("event: {name}\n");
    }
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        text += &format!("data: {line}\n");
    }
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]]) -> (Vec<Cut>, Bytes) {
        let mut events = Events::default();
        let mut cuts = Vec::new();
        for piece in pieces {
            events.push(piece);
            cuts.extend(std::iter::from_fn(|| events.next()));
        }
        (cuts, events.rest())
    }

    fn bytes_of(cut: &Cut) -> &[u8] {
        match cut {
            Cut::Event(it) | Cut::Comment(it) => it,
            Cut::LineFeed => b"\n",
        }
    }

    /// What clients make of it, line by line as the standard writes it: an algorithm of another kind.
    fn dispatched(stream: &[u8]) -> Vec<Vec<u8>> {
        let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<&str> = text.split('\n').collect();
        lines.pop(); // what no line end follows
        let (mut found, mut data) = (Vec::new(), None::<String>);
        for line in lines {
            if line.is_empty() {
                found.extend(data.take().map(String::into_bytes));
            } else if let Some(value) = line.strip_prefix("data") {
                let value = if value.is_empty() { Some("") } else { value.strip_prefix(':') };
                let Some(value) = value.map(|it| it.strip_prefix(' ').unwrap_or(it)) else { continue };
                data = Some(data.map_or(value.to_owned(), |it| it + "\n" + value));
            }
        }
        found
    }

    #[test]
    fn each_line_end_ends_a_line_and_an_empty_line_an_event() {
        for (stream, expected, rest) in [
            ("data: a\n\ndata: b\n\n", &["data: a\n\n", "data: b\n\n"][..], ""),
            ("data: a\r\n\r\ndata", &["data: a\r\n\r\n"], "data"),
            ("data: a\r\rdata: b\r\r", &["data: a\r\r", "data: b\r\r"], ""),
            ("data: a\r\n\ndata: b\n\r", &["data: a\r\n\n", "data: b\n\r"], ""),
            ("data: a\ndata: b\nid: 1\n\n", &["data: a\ndata: b\nid: 1\n\n"], ""),
            (": hi\ndata: a\n: in\n\n", &[": hi\n", "data: a\n: in\n\n"], ""),
            ("\n\ndata: a\n\n", &["\n", "\n", "data: a\n\n"], ""),
            ("data: a\n", &[], "data: a\n"),
        ] {
            let (cuts, left) = cut(&[stream.as_bytes()]);
            let texts: Vec<_> = cuts.iter().map(|it| std::str::from_utf8(bytes_of(it)).unwrap()).collect();
            assert_eq!((&texts[..], &left[..]), (expected, rest.as_bytes()), "{stream:?}");
        }
    }

    #[test]
    fn an_event_does_not_wait_for_the_second_half_of_its_line_end() {
        let (cuts, _) = cut(&[b"data: a\r\n\r"]);
        assert_eq!(cuts, [Cut::Event(Bytes::from_static(b"data: a\r\n\r"))]);
        let (cuts, rest) = cut(&[b"data: a\r\n\r", b"\ndata: b\r", b"\n", b"\r", b"\n"]);
        let [Cut::Event(_), Cut::LineFeed, Cut::Event(second), Cut::LineFeed] = &cuts[..] else { panic!("{cuts:?}") };
        assert_eq!((&second[..], &rest[..]), (&b"data: b\r\n\r"[..], &b""[..]));
    }

    #[test]
    fn an_event_is_made_of_its_data_and_gives_it_again() {
        for (text, data) in [("a", "a"), ("a\nb", "a\nb"), ("a\r\nb\rc\n", "a\nb\nc\n"), ("", ""), (" a", " a")] {
            assert_eq!(event_data(&event(None, text)).unwrap(), data.as_bytes());
            assert_eq!(event_data(&event(Some("x"), text)).unwrap(), data.as_bytes());
        }
        assert_eq!(event_data(b"id: 1\ndatax: 2\n\n"), None);
        assert_eq!(event_data(b"\xef\xbb\xbfdata:a\r\ndata\rdata: b"), Some(b"a\n\nb".to_vec()));
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        const WORDS: [&str; 12] =
            ["data: a", "data:b", "data", ":c", "id: 1", "datum: x", "\n", "\r", "\r\n", "\n\n", "x", ": "];
        vec(prop::sample::select(&WORDS[..]), 0..40).prop_map(|it| it.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn however_it_is_split_nothing_is_lost_and_clients_get_the_same(
            stream in streams(), sizes in vec(1..7_usize, 1..20)
        ) {
            let mut pieces = Vec::new();
            let mut left = &stream[..];
            for size in sizes.iter().cycle() {
                if left.is_empty() { break }
                let (piece, rest) = left.split_at((*size).min(left.len()));
                pieces.push(piece);
                left = rest;
            }
            let (cuts, rest) = cut(&pieces);
            let whole: Vec<u8> = cuts.iter().flat_map(bytes_of).chain(&rest[..]).copied().collect();
            prop_assert_eq!(&whole, &stream);
            let events = cuts.iter().filter_map(|it| match it { Cut::Event(it) => event_data(it), _ => None });
            prop_assert_eq!(events.collect::<Vec<_>>(), dispatched(&stream));
            for it in &cuts {
                if let Cut::Comment(it) = it {
                    prop_assert!(event_data(it).is_none());
                }
            }
        }
    }
}
