//! What of HTTP/1 Pingora's parser mends or overlooks, seen in the bytes before it gets them.
//!
//! It escapes blanks and control bytes in a request's target before anybody else sees that they were
//! there, and it takes chunk sizes without digits, bare line feeds in chunk extensions and trailers
//! that end in one. A proxy in front of us may read such bytes in another way, and two readings are a
//! request hidden in another (RFC 9112, section 11.2). So this follows the framing of the connection,
//! no more than it must: what it does not understand is refused elsewhere.

/// Longer lines end elsewhere with 414 or 431.
const LINE_MAX: usize = 16 * 1024;

/// What a piece of the stream comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// A request line that is not three words; the request is to be refused.
    BadRequestLine,
    /// From this byte of the piece on, the body is not chunked as RFC 9112, section 7.1, says.
    BadChunks(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RequestLine,
    Fields,
    Body(u64),
    Size,
    /// A chunk's bytes and the CR LF behind them, which Pingora checks.
    Data(u64),
    Trailers,
    /// Not HTTP/1 any more, or refused already.
    Off,
}

/// Follows one connection's requests.
#[derive(Debug)]
pub(super) struct Wire {
    state: State,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    length: u64,
    chunked: bool,
    tunnel: bool,
}

impl Default for Wire {
    fn default() -> Self {
        Self { state: State::RequestLine, line: Vec::new(), length: 0, chunked: false, tunnel: false }
    }
}

impl Wire {
    /// Takes the next bytes of the client.
    pub(super) fn read(&mut self, piece: &[u8]) -> Verdict {
        let mut at = 0;
        while at < piece.len() {
            let rest = &piece[at..];
            match &mut self.state {
                State::Off => return Verdict::Fine,
                State::Body(left) | State::Data(left) => {
                    let taken = (*left).min(rest.len() as u64);
                    *left -= taken;
                    at += taken as usize;
                    if *left == 0 {
                        self.state =
                            if matches!(self.state, State::Data(_)) { State::Size } else { self.next_request() };
                    }
                }
                State::RequestLine | State::Fields | State::Size | State::Trailers => {
                    let end = rest.iter().position(|it| *it == b'\n');
                    let length = end.map_or(rest.len(), |it| it + 1);
                    if !self.gather(&rest[..length], end.is_some()) {
                        if self.state == State::Trailers {
                            self.state = State::Off;
                            return Verdict::BadChunks(at);
                        }
                        self.state = State::Off;
                        return Verdict::Fine;
                    }
                    if end.is_some() {
                        let begun = std::mem::take(&mut self.line);
                        let line = if begun.is_empty() { &rest[..length] } else { &begun };
                        match self.on_line(line) {
                            Verdict::Fine => {}
                            Verdict::BadRequestLine => {
                                // Nothing behind it is read any more.
                                self.state = State::Off;
                                return Verdict::BadRequestLine;
                            }
                            Verdict::BadChunks(_) => {
                                self.state = State::Off;
                                return Verdict::BadChunks(at);
                            }
                        }
                    }
                    at += length;
                }
            }
        }
        Verdict::Fine
    }

    /// Keeps what belongs to a line that came, or will come, in pieces; false when it is too long.
    fn gather(&mut self, part: &[u8], ends: bool) -> bool {
        if self.line.len() + part.len() > LINE_MAX {
            return false;
        }
        if !ends || !self.line.is_empty() {
            self.line.extend_from_slice(part);
        }
        true
    }

    fn next_request(&mut self) -> State {
        (self.length, self.chunked, self.tunnel) = (0, false, false);
        State::RequestLine
    }

    /// A whole line, with its end.
    fn on_line(&mut self, line: &[u8]) -> Verdict {
        let text = line.strip_suffix(b"\r\n");
        match self.state {
            State::RequestLine => match text.unwrap_or(line) {
                [] => Verdict::Fine, // an empty line or two in front are no harm
                line => {
                    self.state = State::Fields;
                    if is_request_line(line) { Verdict::Fine } else { Verdict::BadRequestLine }
                }
            },
            State::Fields => {
                match text.unwrap_or(line) {
                    [] | b"\n" => self.state = self.after_head(),
                    field => self.on_field(field),
                }
                Verdict::Fine
            }
            State::Size => match text.and_then(chunk_size) {
                Some(0) => {
                    self.state = State::Trailers;
                    Verdict::Fine
                }
                Some(size) => {
                    self.state = State::Data(size + 2);
                    Verdict::Fine
                }
                None => Verdict::BadChunks(0),
            },
            State::Trailers => match text {
                Some([]) => {
                    self.state = self.next_request();
                    Verdict::Fine
                }
                Some(field) if !field.iter().any(|it| is_control(*it)) => Verdict::Fine,
                _ => Verdict::BadChunks(0),
            },
            State::Body(_) | State::Data(_) | State::Off => Verdict::Fine,
        }
    }

    fn on_field(&mut self, field: &[u8]) {
        // Most fields are none of ours; their first byte says so.
        if !matches!(field[0] | 0x20, b'c' | b't' | b'u') {
            return;
        }
        let Some(colon) = field.iter().position(|it| *it == b':') else { return };
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            // One that is no number is refused as soon as the head is whole.
            self.length = std::str::from_utf8(value).ok().and_then(|it| it.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.tunnel = value.eq_ignore_ascii_case(b"websocket");
        }
    }

    fn after_head(&mut self) -> State {
        match (self.tunnel, self.chunked, self.length) {
            (true, ..) => State::Off,
            (_, true, _) => State::Size,
            (_, _, 0) => self.next_request(),
            (_, _, length) => State::Body(length),
        }
    }
}

/// `method SP target SP version`, without a blank or control byte too many.
fn is_request_line(line: &[u8]) -> bool {
    let mut words = 0;
    line.split(|it| *it == b' ').all(|word| {
        words += 1;
        !word.is_empty() && word.iter().all(u8::is_ascii_graphic)
    }) && words == 3
}

/// `1*HEXDIG [ chunk-ext ]`; an extension is not looked into, but it must not end any line.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().position(|it| !it.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at(digits);
    let extension_is_one = extension.is_empty() || extension.trim_ascii_start().starts_with(b";");
    if digits.is_empty() || digits.len() > 15 || !extension_is_one || extension.iter().any(|it| is_control(*it)) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same verdict however the bytes are cut.
    #[track_caller]
    fn check(bytes: &[u8], verdict: Verdict) {
        assert_eq!(Wire::default().read(bytes), verdict, "{}", bytes.escape_ascii());
        let mut wire = Wire::default();
        let one_by_one: Vec<_> = bytes.iter().map(|it| wire.read(&[*it])).filter(|it| *it != Verdict::Fine).collect();
        match verdict {
            Verdict::Fine => assert!(one_by_one.is_empty()),
            Verdict::BadRequestLine => assert_eq!(one_by_one, [Verdict::BadRequestLine]),
            Verdict::BadChunks(_) => assert_eq!(one_by_one, [Verdict::BadChunks(0)]),
        }
    }

    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn requests_one_after_the_other_are_followed() {
        check(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.0\r\n\r\n", Verdict::Fine);
        check(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na bGET / HTTP/1.1\r\n\r\n", Verdict::Fine);
        let chunks = "5;a=\"b\" ;c\r\nhello\r\n00A\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        check(format!("{POST}{chunks}GET / HTTP/1.1\r\n\r\n{POST}0\r\n\r\n").as_bytes(), Verdict::Fine);
    }

    #[test]
    fn a_request_line_is_three_words_wherever_it_stands() {
        let lines = [
            "GET  / HTTP/1.1",
            "GET / x HTTP/1.1",
            "GET /\u{b} HTTP/1.1",
            "GET /",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
        ];
        for line in lines {
            check(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), Verdict::BadRequestLine);
            let second = format!("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi{line}\r\n\r\n");
            check(second.as_bytes(), Verdict::BadRequestLine);
        }
    }

    #[test]
    fn chunks_are_refused_at_the_line_that_is_none() {
        for body in
            ["\r\n", ";a\r\n", "5 \r\n", "5\nhello\r\n", "5;a\nb\r\n", "5;\0\r\n", "1000000000000000\r\n", "0\n\r\n"]
        {
            check(format!("{POST}{body}").as_bytes(), Verdict::BadChunks(POST.len()));
        }
        check(format!("{POST}0\r\n\n").as_bytes(), Verdict::BadChunks(POST.len() + 3));
        check(format!("{POST}0\r\nx: y\n\r\n").as_bytes(), Verdict::BadChunks(POST.len() + 3));
    }

    #[test]
    fn a_tunnel_is_not_looked_into() {
        check(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x81\n x y z\n", Verdict::Fine);
    }
}
