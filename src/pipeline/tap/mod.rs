//! The contract for taps: where a filter sees text on its way, and holds, replaces, appends to or ends it.
//!
//! A filter hands out a [`Tap`] for one direction of one exchange ([`Filter::tap_request`], [`Filter::tap_response`]).
//! The tap names the [`Unit`] that it wants and decides on each of them; how a body, a stream of events or a WebSocket
//! is cut into units, what is kept back and what bounds that is [`Taps`]' business.
//!
//! [`Filter::tap_request`]: crate::pipeline::Filter::tap_request
//! [`Filter::tap_response`]: crate::pipeline::Filter::tap_response

mod chain;
mod decoding;
mod events;

use bytes::Bytes;

pub use chain::{Shown, TapError, Taps};
pub use decoding::{DECODERS_MAX, DecodersBusy};
pub use events::{event, event_data};

/// What a tap sees at a time. Over a WebSocket that is a message, whatever it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The whole body: nothing goes on, not even its head, before the verdict on all of it.
    Body,
    /// One server-sent event (WHATWG HTML, section 9.2.6).
    Event,
    /// One message of a WebSocket; elsewhere the whole body.
    Message,
    /// The body as it comes, cut anywhere.
    Piece,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole body.
    Body,
    /// An event with the blank line behind it. Without one if the stream broke off there.
    Event,
    /// A comment or a blank line between two events, which no client takes for one. It passes, is replaced or dropped
    /// by itself: what is held is not touched, so that heartbeats go on.
    Comment,
    /// A piece of a body.
    Piece,
    /// A message of text, which is UTF-8, and has to stay it.
    Text,
    /// A message of bytes.
    Binary,
}

/// What becomes of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, behind all that is held.
    Pass,
    /// It is kept back, with what is held already, for a later verdict or the end.
    Hold,
    /// These bytes go on in the place of it and of all that is held.
    Replace(Bytes),
    /// Neither it nor what is held goes on.
    Drop,
    /// Neither it nor what is held goes on, and the stream ends, in good order. A request that has not been answered is
    /// refused, and its upstream never gets the end of it.
    End {
        /// What goes out as the last unit. Of a request that is not a WebSocket it goes nowhere.
        last: Option<Bytes>,
        /// With which code a WebSocket is closed, on both sides (RFC 6455, section 7.4).
        code: u16,
    },
}

impl Verdict {
    /// Ends the stream; a WebSocket with 1008, a violation of policy.
    pub const fn end() -> Self {
        Self::End { last: None, code: 1008 }
    }

    /// Likewise, with a last word.
    pub fn end_with(last: impl Into<Bytes>) -> Self {
        Self::End { last: Some(last.into()), code: 1008 }
    }
}

/// What a tap leaves at the end of a stream that it did not end itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtEnd {
    /// Whether what is held goes on; else it is dropped.
    pub release: bool,
    /// What goes out behind it as a unit of its own.
    pub append: Option<Bytes>,
}

impl Default for AtEnd {
    fn default() -> Self {
        Self { release: true, append: None }
    }
}

impl AtEnd {
    /// Behind all that is held.
    pub fn append(last: impl Into<Bytes>) -> Self {
        Self { release: true, append: Some(last.into()) }
    }
}

/// Sees one direction of one exchange. It has no clock and no socket, and does not wait.
pub trait Tap: Send + Sync + 'static {
    /// What it wants to see at a time.
    fn unit(&self) -> Unit;

    /// So many bytes at most are kept for it: of a unit that is not whole yet, and of those that it holds. What is
    /// larger never passes: a request is refused with 413, a response with 502, or cut if it has begun, and a WebSocket
    /// is closed with 1009.
    fn limit(&self) -> usize {
        256 * 1024
    }

    /// Decides what becomes of a unit.
    fn on_unit(&mut self, kind: Kind, unit: &Bytes) -> Verdict;

    /// The stream has ended as it should. Not called behind [`Verdict::End`] of its own, nor for what breaks off.
    fn on_end(&mut self) -> AtEnd {
        AtEnd::default()
    }

    /// More came than [`limit`](Self::limit) allows; nothing of it went on, and nothing will.
    fn on_overflow(&mut self) {}
}
