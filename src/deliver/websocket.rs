//! Where WebSocket frames end in a stream of bytes (RFC 6455, section 5.2).
//!
//! A tunnel passes bytes; only where something of ours is said does it matter where a frame stops, because a word of
//! ours in the middle of one would be taken for its payload. So this counts and understands nothing else.
//!
//! What a route may want to have said stands here, too: pings, and a message at a stop.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period};

/// How the route's WebSockets are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "ping": "30s", "shutdown_message": true }]))]
pub struct WebSocketConfig {
    /// A client that is silent for so long gets a ping, and is gone if nothing comes of it for as long again. Without
    /// it, a peer that vanished is noticed after `timeouts.idle`.
    pub ping: Option<Period>,
    /// Whether clients get a message as soon as the gateway begins to stop, a text with
    /// `{"type": "server_shutting_down", …}`. Default false: they get a close frame, 1001, in the end.
    pub shutdown_message: bool,
}

/// Compiled.
#[derive(Clone, Copy, Debug, Default)]
pub struct WebSocketRules {
    ping: Option<Duration>,
    pub(super) shutdown_message: bool,
}

impl WebSocketRules {
    /// Reports what can't be kept.
    pub fn compile(config: &WebSocketConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if config.ping.is_some_and(|it| it.0.is_zero()) {
            diagnostics.error(&at.key("ping"), "a time of zero").help("write how long a client may be silent");
        }
        Self { ping: config.ping.map(|it| it.0), shutdown_message: config.shutdown_message }
    }

    /// What looks after a client that begins now.
    pub(super) fn pings(&self) -> Option<Pings> {
        self.ping.map(|period| Pings { period, since: Instant::now(), asked: false })
    }
}

/// Whether a client is still there: asked when it is silent.
#[derive(Debug)]
pub(super) struct Pings {
    period: Duration,
    /// When it was last heard of, or asked.
    since: Instant,
    asked: bool,
}

impl Pings {
    /// It said something, whatever that was.
    pub(super) fn heard(&mut self) {
        (self.since, self.asked) = (Instant::now(), false);
    }

    /// When to look.
    pub(super) fn next_look(&self) -> Instant {
        self.since + self.period
    }

    /// Whether it was asked and has not answered in time.
    pub(super) fn is_lost(&self) -> bool {
        self.asked && self.is_due()
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next_look()
    }

    /// It is asked now, if a frame could be put in; else it is looked again later.
    pub(super) fn ask(&mut self, asked: bool) {
        (self.since, self.asked) = (Instant::now(), asked);
    }
}

/// The longest head: two bytes, a length of eight, a mask of four.
const HEAD_MAX: usize = 14;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;
const FIN: u8 = 0x80;

/// Follows one direction of a tunnel.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_MAX],
    /// Bytes of the current head that have passed.
    head_seen: usize,
    /// Bytes of the current frame's payload that are still to come.
    payload_left: u64,
    /// The last frame of a message has not passed.
    in_message: bool,
    closed: bool,
}

impl Frames {
    /// Takes note of bytes that pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let now = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= now as u64;
                bytes = &bytes[now..];
                continue;
            }
            self.head[self.head_seen] = first;
            self.head_seen += 1;
            bytes = rest;
            if self.head_seen == self.head_length() {
                self.payload_left = self.payload_length();
                self.closed |= self.head[0] & OPCODE == CLOSE;
                if self.head[0] & OPCODE < CLOSE {
                    self.in_message = self.head[0] & FIN == 0;
                }
                self.head_seen = 0;
            }
        }
    }

    /// Whether a frame of ours may come next: the last one is whole, and was not a farewell.
    pub(super) fn may_close(&self) -> bool {
        self.head_seen == 0 && self.payload_left == 0 && !self.closed
    }

    /// Whether a message of ours may come next: frames of control may stand between the fragments of one, but no other
    /// message (section 5.4).
    pub(super) fn may_speak(&self) -> bool {
        self.may_close() && !self.in_message
    }

    /// Whether a farewell has passed.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// How long the current head will be, as far as its bytes show.
    fn head_length(&self) -> usize {
        if self.head_seen < 2 {
            return 2;
        }
        let mask = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        2 + self.length_bytes() + mask
    }

    fn length_bytes(&self) -> usize {
        match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn payload_length(&self) -> u64 {
        match self.length_bytes() {
            0 => u64::from(self.head[1] & !MASKED),
            bytes => self.head[2..2 + bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::write_close;
    use super::*;
    use bytes::BytesMut;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn frame(opcode: u8, length: usize, masked: bool, long: u8) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![0x80 | opcode];
        // Lengths may be written longer than they need to be: that is wrong, but countable.
        match (length, long) {
            (0..=125, 0) => frame.push(mask | length as u8),
            (0..=0xffff, 0 | 1) => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(if masked { &[1, 2, 3, 4][..] } else { &[] });
        frame.extend(std::iter::repeat_n(0x88, length)); // looks like farewells
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![0..200_usize, 65_000..66_000_usize];
        vec((0..3_u8, length, any::<bool>(), 0..3_u8).prop_map(|(o, n, m, l)| frame(o, n, m, l)), 1..6)
    }

    proptest! {
        #[test]
        fn every_boundary_is_found_however_the_bytes_are_split(frames in frames(), cuts in vec(1..5_000_usize, 1..40)) {
            let ends: Vec<usize> = frames.iter().scan(0, |end, it| { *end += it.len(); Some(*end) }).collect();
            let bytes = frames.concat();
            let (mut tracker, mut at) = (Frames::default(), 0);
            for cut in cuts.iter().cycle() {
                let next = (at + cut).min(bytes.len());
                tracker.pass(&bytes[at..next]);
                at = next;
                prop_assert_eq!(tracker.may_close(), ends.contains(&at), "at {}", at);
                if at == bytes.len() { break }
            }
        }

        #[test]
        fn any_bytes_can_be_counted(pieces in vec(vec(any::<u8>(), 0..64), 0..64)) {
            let mut tracker = Frames::default();
            for piece in pieces { tracker.pass(&piece); }
        }
    }

    #[test]
    fn every_single_byte_before_the_end_is_inside_the_frame() {
        for (length, masked, long) in [(5, false, 0), (5, true, 0), (126, true, 1), (300, false, 2), (300, true, 2)] {
            let bytes = frame(2, length, masked, long);
            let mut tracker = Frames::default();
            assert!(tracker.may_close());
            for (at, byte) in bytes.iter().enumerate() {
                tracker.pass(&[*byte]);
                assert_eq!(tracker.may_close(), at + 1 == bytes.len(), "{at} of {length}");
            }
        }
    }

    fn close(masked: bool) -> BytesMut {
        let mut frame = BytesMut::new();
        write_close(1001, masked, &mut frame);
        frame
    }

    #[test]
    fn after_a_farewell_nothing_may_follow() {
        let mut tracker = Frames::default();
        tracker.pass(&close(false));
        assert!(!tracker.may_close());
    }

    #[test]
    fn a_farewell_is_a_whole_frame() {
        assert_eq!(&close(false)[..], b"\x88\x02\x03\xe9");
        let masked = close(true);
        assert_eq!((masked[0], masked[1]), (0x88, 0x82));
        assert_eq!([masked[6] ^ masked[2], masked[7] ^ masked[3]], 1001_u16.to_be_bytes());
    }
}
