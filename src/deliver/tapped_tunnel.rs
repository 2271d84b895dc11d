//! One direction of a WebSocket whose messages taps see: read from frames, shown, and written as frames again.

use bytes::BytesMut;

use super::messages::{self, CLOSE, Incoming, Messages, Violation};
use super::tunnel::Side;
use crate::pipeline::{Shown, TapError, Taps};

/// What has arrived and was not shown yet, and who is to see it.
pub(super) struct Tapped {
    pub(super) read: BytesMut,
    messages: Messages,
    taps: Box<Taps>,
    /// A close frame has passed: nothing may follow it.
    pub(super) closed: bool,
}

/// Why nothing more of what has arrived may pass.
pub(super) enum Ended {
    Overflow,
    Violation(Violation),
}

impl From<TapError> for Ended {
    fn from(_: TapError) -> Self {
        Self::Overflow
    }
}

impl Tapped {
    pub(super) fn new(from: Side, taps: Box<Taps>, read: BytesMut) -> Self {
        Self { read, messages: Messages::new(from == Side::Client, taps.message_max()), taps, closed: false }
    }

    /// Takes one message or control frame; `None` if none is whole. With the code, if a tap ended it.
    pub(super) fn next(&mut self, out: &mut BytesMut, from: Side) -> Result<Option<Option<u16>>, Ended> {
        let masked = from == Side::Client; // as it came, so it goes on
        let incoming = match self.messages.next(&mut self.read) {
            Ok(Some(incoming)) => incoming,
            Ok(None) => {
                if self.read.is_empty() {
                    self.read = BytesMut::new(); // who waits owns no buffer
                }
                return Ok(None);
            }
            Err(Violation::TooLong) => return Err(self.taps.overflow().into()),
            Err(violation) => return Err(Ended::Violation(violation)),
        };
        let (shown, control) = match incoming {
            Incoming::Message(kind, message) => (self.taps.message(kind, message)?, None),
            Incoming::Control(CLOSE, reason) => {
                self.closed = true;
                (self.taps.end_messages()?, Some((CLOSE, reason)))
            }
            Incoming::Control(opcode, payload) => (Shown::default(), Some((opcode, payload))),
        };
        for (kind, unit) in &shown.units {
            messages::write_message(*kind, unit, masked, out);
        }
        if shown.ended.is_some() {
            self.closed = false;
            return Ok(Some(shown.ended));
        }
        if let Some((opcode, payload)) = control {
            messages::write_frame(opcode, &payload, masked, out);
        }
        Ok(Some(None))
    }
}
