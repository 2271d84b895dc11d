//! The messages of a WebSocket (RFC 6455, section 5), for tunnels with taps: read from frames, and written as frames.
//!
//! Strict about what comes, since what two sides read in two ways a tap has not seen: no extension is spoken here, the
//! handshake's offers of them were taken out.

use bytes::{BufMut, Bytes, BytesMut};

use crate::pipeline::Kind;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
const PONG: u8 = 10;
const CONTROL_MAX: usize = 125;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message.
    Message(Kind, Bytes),
    /// A close, ping or pong, by its opcode; it may come between the fragments of a message.
    Control(u8, Bytes),
}

/// What came is no WebSocket, or not one for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// It does not keep to the protocol.
    Protocol,
    /// A text is not UTF-8.
    NotText,
    /// A message is longer than it may be.
    TooLong,
}

impl Violation {
    /// The code to close with (section 7.4.1).
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotText => 1007,
            Self::TooLong => 1009,
        }
    }
}

/// Reads one direction.
#[derive(Debug)]
pub(super) struct Messages {
    /// Whether its frames have to be masked, or must not be.
    masked: bool,
    /// The longest message, in bytes.
    max: usize,
    /// The fragments of a message so far.
    begun: Option<(Kind, BytesMut)>,
}

impl Messages {
    pub(super) fn new(masked: bool, max: usize) -> Self {
        Self { masked, max, begun: None }
    }

    /// The next message or control frame in what was read.
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Incoming>, Violation> {
        loop {
            let Some(head) = self.head(read)? else { return Ok(None) };
            if read.len() < head.length + head.payload {
                return Ok(None);
            }
            let frame = read.split_to(head.length + head.payload);
            let mut payload = BytesMut::from(&frame[head.length..]);
            if self.masked {
                let mask: [u8; 4] = frame[head.length - 4..head.length].try_into().unwrap_or_default();
                apply_mask(&mut payload, mask);
            }
            if head.opcode >= CLOSE {
                return Ok(Some(Incoming::Control(head.opcode, payload.freeze())));
            }
            let (kind, mut message) = match (head.opcode, self.begun.take()) {
                (CONTINUATION, Some(begun)) => begun,
                (TEXT, None) => (Kind::Text, BytesMut::new()),
                (BINARY, None) => (Kind::Binary, BytesMut::new()),
                _ => return Err(Violation::Protocol),
            };
            if message.is_empty() {
                message = payload;
            } else {
                message.extend_from_slice(&payload);
            }
            if !head.last {
                self.begun = Some((kind, message));
                continue;
            }
            if kind == Kind::Text && std::str::from_utf8(&message).is_err() {
                return Err(Violation::NotText);
            }
            return Ok(Some(Incoming::Message(kind, message.freeze())));
        }
    }

    /// The head of the next frame, once it is there. What is wrong or too long is refused before its payload comes.
    fn head(&self, read: &[u8]) -> Result<Option<Head>, Violation> {
        let [first, second, rest @ ..] = read else { return Ok(None) };
        let opcode = first & OPCODE;
        let last = first & FIN != 0;
        let short = usize::from(second & !MASKED);
        let known = matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG);
        let control = opcode >= CLOSE;
        if !known
            || first & RESERVED != 0
            || (second & MASKED != 0) != self.masked
            || (control && (!last || short > CONTROL_MAX))
        {
            return Err(Violation::Protocol);
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let length = 2 + length_bytes + if self.masked { 4 } else { 0 };
        if read.len() < length {
            return Ok(None);
        }
        let payload = match length_bytes {
            0 => short as u64,
            _ => rest[..length_bytes].iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte)),
        };
        // The shortest way to write a length is the only one (section 5.2).
        if (length_bytes == 2 && payload < 126) || (length_bytes == 8 && payload <= 0xffff) {
            return Err(Violation::Protocol);
        }
        let before = if control { 0 } else { self.begun.as_ref().map_or(0, |it| it.1.len()) };
        let payload = usize::try_from(payload).unwrap_or(usize::MAX);
        if !control && before.saturating_add(payload) > self.max {
            return Err(Violation::TooLong);
        }
        Ok(Some(Head { opcode, last, length, payload }))
    }
}

struct Head {
    opcode: u8,
    last: bool,
    /// Of itself.
    length: usize,
    payload: usize,
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Writes a message in one frame; clients mask, and so do we towards upstreams.
pub(super) fn write_message(kind: Kind, message: &[u8], masked: bool, out: &mut BytesMut) {
    write_frame(if kind == Kind::Text { TEXT } else { BINARY }, message, masked, out);
}

/// Writes a close frame with this code.
pub(super) fn write_close(code: u16, masked: bool, out: &mut BytesMut) {
    write_frame(CLOSE, &code.to_be_bytes(), masked, out);
}

/// Writes a frame that is the whole of something.
pub(super) fn write_frame(opcode: u8, payload: &[u8], masked: bool, out: &mut BytesMut) {
    out.reserve(payload.len() + 14);
    out.put_u8(FIN | opcode);
    let mask_bit = if masked { MASKED } else { 0 };
    match payload.len() {
        length @ 0..=125 => out.put_u8(mask_bit | length as u8),
        length @ 126..=0xffff => {
            out.put_u8(mask_bit | 126);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(mask_bit | 127);
            out.put_u64(length as u64);
        }
    }
    if !masked {
        out.put_slice(payload);
        return;
    }
    let mask = fastrand::u32(..).to_be_bytes();
    out.put_slice(&mask);
    let at = out.len();
    out.put_slice(payload);
    apply_mask(&mut out[at..], mask);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MAX: usize = 100_000;

    fn read(messages: &mut Messages, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Incoming>, Violation> {
        let (mut read, mut found, mut left) = (BytesMut::new(), Vec::new(), bytes);
        for cut in cuts.iter().cycle() {
            let (piece, rest) = left.split_at((*cut).min(left.len()));
            read.extend_from_slice(piece);
            while let Some(it) = messages.next(&mut read)? {
                found.push(it);
            }
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// A message in so many fragments, with a ping behind each.
    fn fragmented(kind: Kind, message: &[u8], size: usize, masked: bool) -> Vec<u8> {
        let mut out = BytesMut::new();
        let mut pieces: Vec<&[u8]> = message.chunks(size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        for (at, piece) in pieces.iter().enumerate() {
            let opcode = if at > 0 {
                CONTINUATION
            } else if kind == Kind::Text {
                TEXT
            } else {
                BINARY
            };
            let begin = out.len();
            write_frame(opcode, piece, masked, &mut out);
            if at + 1 < pieces.len() {
                out[begin] &= !FIN;
                write_frame(9, b"ping", masked, &mut out);
            }
        }
        out.to_vec()
    }

    fn messages() -> impl Strategy<Value = Vec<(Kind, Vec<u8>, usize)>> {
        let text = "[a-zäöü€ ]{0,80}".prop_map(|it| (Kind::Text, it.into_bytes()));
        let binary = prop_oneof![vec(any::<u8>(), 0..300), vec(any::<u8>(), 65_530..65_540)];
        let message = prop_oneof![text, binary.prop_map(|it| (Kind::Binary, it))];
        vec((message, prop_oneof![1..50_usize, Just(MAX)]).prop_map(|((kind, it), size)| (kind, it, size)), 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn messages_are_found_however_they_are_fragmented_masked_and_split(
            sent in messages(), masked in any::<bool>(), cuts in vec(1..3_000_usize, 1..20)
        ) {
            let bytes: Vec<u8> =
                sent.iter().flat_map(|(kind, it, size)| fragmented(*kind, it, (*size).max(it.len() / 30 + 1), masked)).collect();
            let found = read(&mut Messages::new(masked, MAX), &bytes, &cuts).unwrap();
            let found: Vec<_> = found
                .into_iter()
                .filter_map(|it| match it {
                    Incoming::Message(kind, it) => Some((kind, it.to_vec())),
                    Incoming::Control(opcode, it) => { assert_eq!((opcode, &it[..]), (9, &b"ping"[..])); None }
                })
                .collect();
            let sent: Vec<_> = sent.into_iter().map(|(kind, it, _)| (kind, it)).collect();
            prop_assert_eq!(found, sent);
        }

        #[test]
        fn any_bytes_can_be_read(bytes in vec(any::<u8>(), 0..200), masked in any::<bool>(), cut in 1..20_usize) {
            let _ = read(&mut Messages::new(masked, 50), &bytes, &[cut]);
        }
    }

    #[test]
    fn what_is_not_by_the_book_is_refused() {
        for (bytes, violation) in [
            (&b"\xc1\x00"[..], Violation::Protocol), // compressed
            (b"\x83\x00", Violation::Protocol),      // no such opcode
            (b"\x8b\x00", Violation::Protocol),
            (b"\x81\x81", Violation::Protocol),           // masked
            (b"\x08\x00", Violation::Protocol),           // a control frame in parts
            (b"\x88\x7e", Violation::Protocol),           // a long one
            (b"\x80\x00", Violation::Protocol),           // goes on with nothing
            (b"\x01\x01a\x81\x01b", Violation::Protocol), // begins within another
            (b"\x81\x7e\x00\x05", Violation::Protocol),   // a length that is written too long
            (b"\x81\x7f\0\0\0\0\0\0\xff\xff", Violation::Protocol),
            (b"\x81\x01\xff", Violation::NotText),
            (b"\x82\x33", Violation::TooLong),
            (b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Violation::TooLong),
            (b"\x02\x30000000000000000000000000000000000000000000000000\x80\x03", Violation::TooLong),
        ] {
            let found = read(&mut Messages::new(false, 50), bytes, &[1]);
            assert_eq!(found.err(), Some(violation), "{}", bytes.escape_ascii());
        }
        let unmasked = read(&mut Messages::new(true, 50), b"\x81\x01a", &[1]);
        assert_eq!(unmasked.err(), Some(Violation::Protocol));
    }
}
