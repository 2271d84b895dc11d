//! Bodies that come compressed are decoded before taps see them.
//!
//! Decoders have windows of up to 16 MiB that a client can ask for with a few bytes: there are so many at once, and no
//! more.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use once_cell::sync::Lazy;
use prometheus::{IntGauge, register_int_gauge};

use super::chain::TapError;
use crate::http::{Coding, DecodeError, Decoder};

/// So many bodies are decoded at once.
pub const DECODERS_MAX: usize = 128;

static DECODERS_NOW: AtomicUsize = AtomicUsize::new(0);
static DECODERS: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Bodies that are decoded for taps, 128 at most.";
    register_int_gauge!("moongate_decoders_active", help).expect("a family is registered once")
});

/// As many bodies are decoded as may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodersBusy;

/// The decoder of one body.
pub(super) struct Decoding {
    decoder: Decoder,
    /// What is said of one that is too long, in bytes.
    limit: usize,
    _room: Room,
}

/// A decoder's room, until it is dropped.
struct Room(());

impl Room {
    fn take() -> Result<Self, DecodersBusy> {
        let before = DECODERS_NOW.fetch_add(1, Ordering::Relaxed);
        DECODERS.inc();
        let room = Self(());
        if before >= DECODERS_MAX { Err(DecodersBusy) } else { Ok(room) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        DECODERS_NOW.fetch_sub(1, Ordering::Relaxed);
        DECODERS.dec();
    }
}

impl Decoding {
    /// At most `max` bytes come out, if that is said; of one that is too long it is told that `limit` was the limit.
    pub(super) fn begin(coding: Coding, max: Option<usize>, limit: usize) -> Result<Self, DecodersBusy> {
        let room = Room::take()?;
        let decoder = Decoder::new(coding, max.unwrap_or(usize::MAX)).map_err(|_| DecodersBusy)?;
        Ok(Self { decoder, limit: max.unwrap_or(limit), _room: room })
    }

    pub(super) fn decode(&mut self, piece: &Bytes) -> Result<Bytes, TapError> {
        self.decoder.decode(piece).map(Bytes::from).map_err(|it| self.error(it))
    }

    pub(super) fn finish(&mut self) -> Result<Bytes, TapError> {
        self.decoder.finish().map(Bytes::from).map_err(|it| self.error(it))
    }

    fn error(&self, error: DecodeError) -> TapError {
        match error {
            DecodeError::TooLarge => TapError::TooLong { limit: self.limit },
            DecodeError::Malformed => TapError::Malformed,
        }
    }
}
