//! A WebSocket whose messages taps see: read from frames, shown, and written as frames again.
//!
//! A direction without taps passes as it comes, and its frames are counted only. Where a tap ends it, or what comes is
//! no WebSocket, both sides get a close frame that says why.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::OpenStream;
use super::messages::{self, CLOSE, Incoming, Messages, Violation};
use super::tunnel::announce;
use super::websocket::Frames;
use crate::base::Deadline;
use crate::client::Client;
use crate::forward::{UpstreamBody, progressed};
use crate::pipeline::{EndState, Exchange, Overflow, Shown, Taps};
use crate::transport::{acknowledged, poll_read_body};

/// How long a side may take for the last words, and to close in turn.
const FAREWELL: Duration = Duration::from_secs(1);
/// The endpoint is going away.
const GOING_AWAY: u16 = 1001;
/// So many bytes wait for a side before more is read from the other.
const WRITE_AHEAD: usize = 64 * 1024;

/// Moves messages both ways until either side ends, a tap does, or the process; `taps` are those of what the client
/// sends, and of what the upstream does.
pub(super) async fn run(
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    taps: (Option<Box<Taps>>, Option<Box<Taps>>),
    idle: Duration,
    ending: &watch::Receiver<bool>,
) -> Result<(), EndState> {
    let _open = OpenStream::new();
    announce(client, idle).await?;
    let (Some(mut upstream), Some((downstream, read))) = (body.upgraded(), client.tunnel()) else {
        return Err(EndState::Truncated);
    };
    let mut up = Direction::new(Side::Client, taps.0, std::mem::take(read));
    let mut down = Direction::new(Side::Upstream, taps.1, upstream.take_read());
    let mut ending = ending.clone();
    let mut stopped = pin!(ending.wait_for(|it| *it));
    let mut deadline = Deadline::after(idle);
    let mut taken = [None, None];
    let ended = loop {
        let moved = poll_fn(|cx| {
            if let Poll::Ready(Ok(_)) = stopped.as_mut().poll(cx) {
                return Poll::Ready(Some(Moved::Stopped));
            }
            let down = down.poll(&mut upstream, &mut *downstream, cx);
            let up = up.poll(&mut *downstream, &mut upstream, cx);
            match (down, up) {
                // A connection says once that it is broken, and what else has come has no reader.
                (_, Poll::Ready(moved @ Moved::Broken(EndState::ClientGone))) => Poll::Ready(Some(moved)),
                (Poll::Ready(moved), _) | (Poll::Pending, Poll::Ready(moved)) => Poll::Ready(Some(moved)),
                _ => deadline.poll_expired(cx).map(|()| None),
            }
        })
        .await;
        match moved {
            Some(Moved::Some) => deadline.arm(idle),
            Some(Moved::Over) => break Ok(()),
            // Behind a farewell it does not matter how a connection ends.
            Some(Moved::Broken(_)) if up.closed() || down.closed() => break Ok(()),
            Some(Moved::Broken(end)) => break Err(end),
            Some(Moved::Stopped) => {
                exchange.end = Some(EndState::Drained);
                farewell(GOING_AWAY, (&mut up, &mut down), (downstream, &mut upstream)).await;
                break Ok(());
            }
            Some(Moved::Ended(end, code)) => {
                exchange.end = Some(end);
                farewell(code, (&mut up, &mut down), (&mut *downstream, &mut upstream)).await;
                let closed = async { tokio::join!(wait_for_close(downstream), wait_for_close(&mut upstream)) };
                Deadline::within(FAREWELL, closed).await;
                break Ok(());
            }
            // Silence is when no byte is taken, not when a socket has no room for more.
            None if !down.waiting.is_empty() => {
                if !progressed(acknowledged(downstream), &mut taken[0]) {
                    break Err(EndState::ClientTimeout);
                }
                deadline.arm(idle);
            }
            None if !up.waiting.is_empty() && progressed(upstream.acknowledged(), &mut taken[1]) => {
                deadline.arm(idle);
            }
            None => break Err(EndState::Truncated),
        }
    };
    exchange.body_received += down.received;
    client.count_tunnel(up.received, down.sent);
    ended
}

#[derive(Clone, Copy)]
enum Moved {
    Some,
    /// A side has ended in good order.
    Over,
    /// A side's connection is broken.
    Broken(EndState),
    /// The process stops.
    Stopped,
    /// It is to be closed with this code.
    Ended(EndState, u16),
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    /// How it ends when this side's connection is broken, or does not speak the protocol.
    const fn gone(self) -> EndState {
        match self {
            Self::Client => EndState::ClientGone,
            Self::Upstream => EndState::Truncated,
        }
    }
}

/// One direction: what goes on and is not written yet.
struct Direction {
    from: Side,
    waiting: BytesMut,
    through: Through,
    /// Said behind all that waits: it is over then.
    last: Option<Moved>,
    received: u64,
    sent: u64,
    unflushed: bool,
}

enum Through {
    /// No tap looks.
    Frames(Frames),
    Taps(Box<Tapped>),
}

struct Tapped {
    read: BytesMut,
    messages: Messages,
    taps: Box<Taps>,
    /// A close frame has passed: nothing may follow it.
    closed: bool,
}

impl Direction {
    fn new(from: Side, taps: Option<Box<Taps>>, read: BytesMut) -> Self {
        let received = read.len() as u64;
        let (waiting, through) = match taps {
            None => {
                let mut frames = Frames::default();
                frames.pass(&read);
                (read, Through::Frames(frames))
            }
            Some(taps) => {
                let messages = Messages::new(from == Side::Client, taps.message_max());
                (BytesMut::new(), Through::Taps(Box::new(Tapped { read, messages, taps, closed: false })))
            }
        };
        let mut direction = Self { from, waiting, through, last: None, received, sent: 0, unflushed: false };
        direction.take();
        direction
    }

    /// Moves what it can.
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Moved> {
        if self.waiting.is_empty() {
            self.take(); // what was too much to be written at once
        }
        if self.waiting.is_empty() {
            if let Some(last) = self.last {
                return Poll::Ready(last);
            }
            if self.unflushed {
                match Pin::new(&mut *to).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Moved::Broken(self.from.other().gone())),
                    Poll::Pending => {}
                }
            }
            let into = match &mut self.through {
                Through::Frames(_) => &mut self.waiting,
                Through::Taps(tapped) => &mut tapped.read,
            };
            let before = into.len();
            match ready!(poll_read_body(from, cx, into)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Moved::Over),
                Err(_) => return Poll::Ready(Moved::Broken(self.from.gone())),
            }
            self.received += (into.len() - before) as u64;
            if let Through::Frames(frames) = &mut self.through {
                frames.pass(&self.waiting);
            }
            self.take();
        }
        match ready!(self.poll_write(to, cx)) {
            Ok(()) => Poll::Ready(Moved::Some),
            Err(_) => Poll::Ready(Moved::Broken(self.from.other().gone())),
        }
    }

    /// Whether a farewell has passed.
    fn closed(&self) -> bool {
        match &self.through {
            Through::Frames(frames) => frames.closed(),
            Through::Taps(tapped) => tapped.closed,
        }
    }

    fn poll_write(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
            self.sent += written as u64;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Shows taps what has arrived, as long as what goes on can be written.
    fn take(&mut self) {
        let Through::Taps(tapped) = &mut self.through else { return };
        while self.last.is_none() && self.waiting.len() < WRITE_AHEAD {
            if tapped.closed {
                tapped.read.clear();
                return;
            }
            match tapped.next(&mut self.waiting, self.from) {
                Ok(Some(None)) => {}
                Ok(Some(Some(code))) => self.last = Some(Moved::Ended(EndState::Stopped, code)),
                Ok(None) => return,
                Err(Ended::Overflow) => {
                    self.last = Some(Moved::Ended(EndState::Stopped, Violation::TooLong.code()));
                }
                Err(Ended::Violation(violation)) => {
                    self.last = Some(Moved::Ended(self.from.gone(), violation.code()));
                }
            }
        }
    }

    /// Says that it ends, behind all that waits, where that is not in the middle of a frame.
    fn close(&mut self, code: u16) {
        let open = match &self.through {
            Through::Frames(frames) => frames.may_close(),
            Through::Taps(tapped) => !tapped.closed,
        };
        if open {
            messages::write_close(code, self.from == Side::Client, &mut self.waiting);
        }
    }
}

/// Why nothing more of what has arrived may pass.
enum Ended {
    Overflow,
    Violation(Violation),
}

impl From<Overflow> for Ended {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

impl Tapped {
    /// Takes one message or control frame; `None` if none is whole. With the code, if a tap ended it.
    fn next(&mut self, out: &mut BytesMut, from: Side) -> Result<Option<Option<u16>>, Ended> {
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

/// Closes both sides, and writes what they are still to get.
async fn farewell(
    code: u16,
    (up, down): (&mut Direction, &mut Direction),
    (client, upstream): (&mut (impl AsyncWrite + Unpin), &mut (impl AsyncWrite + Unpin)),
) {
    up.close(code);
    down.close(code);
    let (mut up_done, mut down_done) = (false, false);
    let written = poll_fn(|cx| {
        down_done |= down.poll_write(client, cx).is_ready() && Pin::new(&mut *client).poll_flush(cx).is_ready();
        up_done |= up.poll_write(upstream, cx).is_ready() && Pin::new(&mut *upstream).poll_flush(cx).is_ready();
        if up_done && down_done { Poll::Ready(()) } else { Poll::Pending }
    });
    Deadline::within(FAREWELL, written).await;
}

/// Until a side has closed in turn: a connection that is closed while bytes of it are unread is reset, and a reset
/// may overtake the close frame.
async fn wait_for_close(side: &mut (impl AsyncRead + Unpin)) {
    let mut read = BytesMut::new();
    while let Ok(1..) = poll_fn(|cx| poll_read_body(side, cx, &mut read)).await {
        read.clear();
    }
}
