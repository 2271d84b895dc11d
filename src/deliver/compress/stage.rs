//! One response on its way through its encoder.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use tokio::sync::oneshot;

use super::encoder::{Encoder, Levels, Then};
use super::metrics;
use super::pool::Room;
use crate::client::Part;
use crate::deliver::DIGESTS;
use crate::http::Coding;

/// What is known to be short is compressed where it is, in bytes: to hand it over would take as long.
const INLINE_MAX: usize = 4 * 1024;
/// Of a body whose length is known so much is gathered before it is compressed, in bytes.
const BATCH: usize = 64 * 1024;

/// A body that is being compressed.
pub(in crate::deliver) struct Stage {
    coding: Coding,
    encoder: State,
    /// What has come and was not compressed yet.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// How much there is going to be, if that is known: then nobody has to see what there is so far.
    length: Option<u64>,
    ended: bool,
    trailers: Option<Box<HeaderMap>>,
    room: Arc<Room>,
}

enum State {
    /// Not made yet: that is part of the work.
    New(Levels),
    Ready(Encoder),
    Working(oneshot::Receiver<(Encoder, io::Result<Bytes>)>),
    /// All of it was compressed.
    Over,
}

impl Stage {
    /// `None` if too much is being compressed already.
    pub(super) fn begin(coding: Coding, levels: Levels, length: Option<u64>) -> Option<Self> {
        let room = Arc::new(Room::take()?);
        metrics::of(coding).responses.inc();
        let encoder = State::New(levels);
        Some(Self {
            coding,
            encoder,
            waiting: Vec::new(),
            waiting_bytes: 0,
            length,
            ended: false,
            trailers: None,
            room,
        })
    }

    /// The next part of the body.
    pub(in crate::deliver) fn take(&mut self, part: Part) {
        match part {
            Part::Data(piece) => {
                self.waiting_bytes += piece.len();
                self.waiting.push(piece);
            }
            Part::End(trailers) => {
                self.ended = true;
                self.trailers = trailers.and_then(without_digests);
            }
            Part::Head(..) => {} // it went out before there was a body
        }
    }

    /// Whether more of the body is wanted now.
    pub(in crate::deliver) fn has_room(&self) -> bool {
        !self.ended && self.waiting_bytes < BATCH && !matches!(self.encoder, State::Working(_))
    }

    /// Whether all of it went out.
    pub(in crate::deliver) fn is_over(&self) -> bool {
        matches!(self.encoder, State::Over)
    }

    /// The trailers behind the body.
    pub(in crate::deliver) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// Goes on with what has come. Whoever calls has nothing more at hand, so that what is there must not wait for what
    /// may come much later. `Some` if it was done at once.
    pub(in crate::deliver) fn advance(&mut self) -> Option<io::Result<Bytes>> {
        let then = match self.length {
            _ if self.ended => Then::Finish,
            Some(_) if self.waiting_bytes < BATCH => return None,
            Some(_) => Then::Gather,
            None if self.waiting.is_empty() => return None,
            None => Then::Flush,
        };
        let (coding, length) = (self.coding, self.length);
        let short = then == Then::Finish && self.waiting_bytes <= INLINE_MAX && matches!(self.encoder, State::New(_));
        let encoder = match std::mem::replace(&mut self.encoder, State::Over) {
            State::New(levels) => Err(levels),
            State::Ready(encoder) => Ok(encoder),
            other @ (State::Working(_) | State::Over) => {
                self.encoder = other;
                return None;
            }
        };
        let pieces = std::mem::take(&mut self.waiting);
        metrics::of(coding).input.inc_by(std::mem::take(&mut self.waiting_bytes) as u64);
        let work = move || {
            let made = encoder.or_else(|levels| Encoder::new(coding, levels, length));
            match made {
                Ok(mut encoder) => {
                    let encoded = encoder.encode(&pieces, then);
                    (encoder, encoded)
                }
                Err(error) => (Encoder::Finished, Err(error)),
            }
        };
        if short {
            let (encoder, encoded) = work();
            return Some(self.done(encoder, encoded));
        }
        let (tell, done) = oneshot::channel();
        let room = self.room.clone();
        self.room.run(move || {
            let _room = room; // whoever waited may have gone: the work still takes its place
            let _ = tell.send(work());
        });
        self.encoder = State::Working(done);
        None
    }

    /// The next output; pending for ever where nothing is being done.
    pub(in crate::deliver) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let State::Working(done) = &mut self.encoder else { return Poll::Pending };
        let (encoder, encoded) = ready!(done.poll_unpin(cx))
            .unwrap_or_else(|_| (Encoder::Finished, Err(io::Error::other("the encoder broke"))));
        Poll::Ready(self.done(encoder, encoded))
    }

    fn done(&mut self, encoder: Encoder, encoded: io::Result<Bytes>) -> io::Result<Bytes> {
        self.encoder = if matches!(encoder, Encoder::Finished) { State::Over } else { State::Ready(encoder) };
        let encoded = encoded?;
        metrics::of(self.coding).output.inc_by(encoded.len() as u64);
        Ok(encoded)
    }
}

/// They are of the bytes as they were.
fn without_digests(mut trailers: Box<HeaderMap>) -> Option<Box<HeaderMap>> {
    DIGESTS.iter().for_each(|it| {
        trailers.remove(*it);
    });
    (!trailers.is_empty()).then_some(trailers)
}
