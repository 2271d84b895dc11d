//! The kinds of upstream behind one small interface.
//!
//! Nothing here waits: what is sent goes into a bounded buffer (ask [`Link::room`] first), and both
//! `poll_` functions make cancel-safe futures anew at each poll.

mod http1;
mod http2;
mod local;

use std::task::{Context, Poll};

use bytes::Bytes;
use pingora::Result;
use pingora::protocols::http::HttpTask;

pub(super) use http1::Http1;
pub(super) use http2::Http2;
pub(super) use local::Local;

/// A client is read only while less than this waits for the upstream.
const HIGH_WATER: usize = 64 * 1024;

/// A request's connection to whatever answers it.
pub(super) enum Link {
    Http1(Http1),
    Http2(Http2),
    Local(Local),
}

impl Link {
    /// Whether a piece of body may be sent.
    pub(super) fn room(&self) -> bool {
        match self {
            Self::Http1(link) => link.waiting() < HIGH_WATER,
            Self::Http2(link) => link.waiting() == 0,
            Self::Local(link) => link.waiting() < HIGH_WATER,
        }
    }

    /// Sends a piece of the request's body, or of an upgraded connection; `end` is its last.
    pub(super) async fn send(&mut self, piece: Bytes, end: bool) -> Result<()> {
        match self {
            Self::Http1(link) => link.send(piece, end).await,
            Self::Http2(link) => {
                link.send(piece, end);
                Ok(())
            }
            Self::Local(link) => {
                link.send(piece, end);
                Ok(())
            }
        }
    }

    /// Moves what waits towards the upstream.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(link) => link.poll_out(cx),
            Self::Http2(link) => link.poll_out(cx),
            Self::Local(link) => link.poll_out(cx),
        }
    }

    /// The next part of the answer.
    pub(super) fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpTask>> {
        match self {
            Self::Http1(link) => link.poll_in(cx),
            Self::Http2(link) => link.poll_in(cx),
            Self::Local(link) => link.poll_in(cx),
        }
    }

    /// Whether the upstream's own `100 Continue` comes through: from HTTP/2 it does not (h2 #167), and a
    /// local service says none.
    pub(super) fn relays_continue(&self) -> bool {
        matches!(self, Self::Http1(_))
    }

    /// After a 101: turns into a raw byte stream. False if this upstream can't, or was not asked to.
    pub(super) fn upgrade(&mut self) -> bool {
        match self {
            Self::Http1(link) => link.upgrade(),
            Self::Http2(_) => false,
            Self::Local(link) => link.upgraded(),
        }
    }

    /// The client is gone, or the exchange was given up: tells the upstream at once.
    pub(super) fn cancel(&mut self) {
        match self {
            Self::Http1(_) => {} // dropping the connection says it
            Self::Http2(link) => link.reset(h2::Reason::CANCEL),
            Self::Local(link) => link.cut(),
        }
    }
}
