//! A request's body on its way from a client to an upstream, and what is kept of it for another attempt.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;

use super::mirror::BodyCopy;
use super::response::Link;
use crate::client::{Client, ClientError};
use crate::pipeline::{Shown, TapError, Taps};

/// What is kept of a body that streams, for another attempt, in bytes. Beyond it there is none.
const REPLAY_MAX: usize = 64 * 1024;

/// Why an upload does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadError {
    /// The client is gone, or sends what is no body.
    Client(ClientError),
    /// It is larger than the route allows.
    TooLarge,
    /// It is not what its `Content-Encoding` says, and a tap has to read it.
    Undecodable,
    /// A tap ended it.
    Stopped,
}

impl From<TapError> for UploadError {
    fn from(error: TapError) -> Self {
        match error {
            TapError::TooLong { .. } => Self::TooLarge,
            TapError::Malformed => Self::Undecodable,
        }
    }
}

/// How far the body of a request has come.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// All of it, where it was at hand.
    whole: Option<Bytes>,
    /// Those who see what a client sends before it goes on.
    taps: Option<Box<Taps>>,
    /// Takes down what goes on, for a copy of the request.
    copy: Option<Box<BodyCopy>>,
    /// Fields whose place no trailer may take.
    edited: Option<Arc<[HeaderName]>>,
    /// What was handed to an upstream, as long as all of it fits.
    kept: Vec<Bytes>,
    /// Bytes that were taken from the client, and that went on.
    taken: u64,
    passed: u64,
    limit: u64,
    /// The client's side has come to its end.
    read_to_end: bool,
    /// The end was handed to the upstream.
    pub(super) done: bool,
}

impl Upload {
    /// Of a body that is at hand; an empty one is none.
    pub(super) fn whole(body: Bytes) -> Self {
        Self { whole: Some(body), read_to_end: true, ..Self::default() }
    }

    /// Of a body that a client is going to send, at most `limit` bytes of it; no trailer may take the place of an `edited`
    /// field.
    pub(super) fn streaming(limit: u64, taps: Option<Box<Taps>>, edited: Option<Arc<[HeaderName]>>) -> Self {
        Self { limit, taps, edited, ..Self::default() }
    }

    /// With one that takes down what goes on.
    pub(super) fn with_copy(self, copy: Option<Box<BodyCopy>>) -> Self {
        Self { copy, ..self }
    }

    /// Of a connection that is going to change protocols: there is nothing to send.
    pub(super) fn none() -> Self {
        Self { read_to_end: true, done: true, ..Self::default() }
    }

    /// Bytes that were taken from the client.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn whole_body(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }

    /// Whether everything that was taken of the body can be sent once more.
    pub(super) fn can_be_sent_again(&self) -> bool {
        self.whole.is_some() || self.passed as usize == self.kept.iter().map(Bytes::len).sum::<usize>()
    }

    /// Begins an attempt: what the ones before have taken goes out again.
    pub(super) fn begin(&mut self, link: &mut Link) {
        if let Some(whole) = &self.whole {
            link.send(whole.clone());
            link.end(None);
            self.done = true;
            return;
        }
        for piece in &self.kept {
            link.send(piece.clone());
        }
        if self.read_to_end && !self.done {
            link.end(None);
        }
        self.done |= self.read_to_end;
    }

    /// Moves one piece; ready when something moved.
    pub(super) fn poll(
        &mut self,
        client: &mut Client,
        link: &mut Link,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        if self.done || !link.room() {
            return Poll::Pending; // the link wakes the task when it has room again
        }
        match ready!(client.poll_body(cx)) {
            Ok(Some(piece)) => {
                self.taken += piece.len() as u64;
                if self.taken > self.limit {
                    return Poll::Ready(Err(UploadError::TooLarge));
                }
                match &mut self.taps {
                    None => self.pass(piece, link),
                    Some(taps) => {
                        let shown = taps.piece(piece)?;
                        self.pass_shown(shown, link)?;
                    }
                }
            }
            Ok(None) => {
                if let Some(mut taps) = self.taps.take() {
                    self.pass_shown(taps.end()?, link)?;
                }
                if let Some(copy) = self.copy.take() {
                    copy.end();
                }
                self.read_to_end = true;
                self.done = true;
                link.end(client.take_trailers(self.edited.as_deref()));
            }
            Err(error) => return Poll::Ready(Err(UploadError::Client(error))),
        }
        Poll::Ready(Ok(()))
    }

    fn pass(&mut self, piece: Bytes, link: &mut Link) {
        if let Some(copy) = &mut self.copy {
            copy.push(&piece);
        }
        self.passed += piece.len() as u64;
        if self.passed as usize <= REPLAY_MAX {
            self.kept.push(piece.clone());
        } else {
            self.forget();
        }
        link.send(piece);
    }

    /// A body that a tap ends never gets its end: it must not be taken for whole.
    fn pass_shown(&mut self, shown: Shown, link: &mut Link) -> Result<(), UploadError> {
        if shown.ended.is_some() {
            return Err(UploadError::Stopped);
        }
        shown.units.into_iter().for_each(|(_, unit)| self.pass(unit, link));
        Ok(())
    }

    /// Nothing is going to be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = Vec::new();
    }

    /// Another attempt begins.
    pub(super) fn rewind(&mut self) {
        self.done = false;
    }
}
