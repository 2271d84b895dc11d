//! What an upgraded connection is: two sockets, two counters and a deadline.
//!
//! A direction without taps passes as it comes, and its frames are counted only; of a protocol that is no WebSocket
//! nothing is known, and nothing is said in it. Where a tap ends it, or what comes is
//! no WebSocket, or the process stops, both sides get a close frame that says why.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::OpenStream;
use super::messages::{self, Violation};
use super::tapped_tunnel::{Ended, Tapped};
use super::websocket::Frames;
use crate::base::Deadline;
use crate::client::Client;
use crate::forward::{Upgraded, UpstreamBody, progressed};
use crate::pipeline::{EndState, Exchange, Taps};
use crate::transport::{acknowledged, poll_read_body};

/// How long a side may take for the last words, and to close in turn.
const FAREWELL: Duration = Duration::from_secs(1);
/// The same when the process stops: it has a second left itself.
const FAREWELL_AT_STOP: Duration = Duration::from_millis(500);
/// The endpoint is going away.
const GOING_AWAY: u16 = 1001;
/// So many bytes wait for a side before more is read from the other.
const WRITE_AHEAD: usize = 64 * 1024;

/// An upgraded connection whose answer 101 waits for its client.
pub struct Tunnel {
    body: UpstreamBody,
    /// Of what the client sends, and of what the upstream does.
    taps: (Option<Box<Taps>>, Option<Box<Taps>>),
    websocket: bool,
    idle: Duration,
    ending: watch::Receiver<bool>,
}

impl Tunnel {
    pub(super) fn new(
        body: UpstreamBody,
        taps: (Option<Box<Taps>>, Option<Box<Taps>>),
        websocket: bool,
        idle: Duration,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Self { body, taps, websocket, idle, ending }
    }

    /// Moves bytes both ways until either side ends, or the process does.
    ///
    /// # Errors
    /// Says how it ended, if not in good order.
    pub async fn run(&mut self, client: &mut Client, exchange: &mut Exchange) -> Result<(), EndState> {
        let Self { body, taps, websocket, idle, ending } = self;
        let taps = std::mem::take(taps);
        let ended = run(body, client, exchange, (*websocket, taps.0, taps.1), *idle, ending).await;
        self.body.finish().await;
        ended
    }
}

/// Until the answer 101 has gone out.
async fn announce(client: &mut Client, idle: Duration) -> Result<(), EndState> {
    match Deadline::within(idle, poll_fn(|cx| client.poll_flush(cx))).await {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(EndState::ClientGone),
        None => Err(EndState::ClientTimeout),
    }
}

/// Moves what comes both ways until either side ends, a tap does, or the process. Whether they speak WebSocket, and the
/// taps of what the client sends, and of what the upstream does.
async fn run(
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    (websocket, client_taps, upstream_taps): (bool, Option<Box<Taps>>, Option<Box<Taps>>),
    idle: Duration,
    ending: &watch::Receiver<bool>,
) -> Result<(), EndState> {
    let _open = OpenStream::new();
    announce(client, idle).await?;
    let (Some(mut upstream), Some((downstream, read))) = (body.upgraded(), client.tunnel()) else {
        return Err(EndState::Truncated);
    };
    let mut up = Direction::new(Side::Client, websocket, client_taps, std::mem::take(read));
    let mut down = Direction::new(Side::Upstream, websocket, upstream_taps, upstream.take_read());
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
                let words = farewell(GOING_AWAY, (&mut up, &mut down), (downstream, &mut upstream));
                Box::pin(Deadline::within(FAREWELL_AT_STOP, words)).await;
                break Ok(());
            }
            Some(Moved::Ended(end, code)) => {
                exchange.end = Some(end);
                let words = farewell(code, (&mut up, &mut down), (&mut *downstream, &mut upstream));
                Box::pin(Deadline::within(FAREWELL, words)).await;
                let closed = async { tokio::join!(wait_for_close(downstream), wait_for_close(&mut upstream)) };
                Box::pin(Deadline::within(FAREWELL, closed)).await;
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
pub(super) enum Side {
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
    /// Nobody knows what it means.
    Bytes,
    /// No tap looks.
    Frames(Frames),
    Taps(Box<Tapped>),
}

impl Direction {
    fn new(from: Side, websocket: bool, taps: Option<Box<Taps>>, read: BytesMut) -> Self {
        let received = read.len() as u64;
        let (waiting, through) = match taps {
            _ if !websocket => (read, Through::Bytes),
            None => {
                let mut frames = Frames::default();
                frames.pass(&read);
                (read, Through::Frames(frames))
            }
            Some(taps) => (BytesMut::new(), Through::Taps(Box::new(Tapped::new(from, taps, read)))),
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
                Through::Bytes | Through::Frames(_) => &mut self.waiting,
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
            Through::Bytes => false,
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
            Through::Bytes => false,
            Through::Frames(frames) => frames.may_close(),
            Through::Taps(tapped) => !tapped.closed,
        };
        if open {
            messages::write_close(code, self.from == Side::Client, &mut self.waiting);
        }
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
    poll_fn(|cx| {
        down_done |= down.poll_write(client, cx).is_ready() && Pin::new(&mut *client).poll_flush(cx).is_ready();
        up_done |= up.poll_write(upstream, cx).is_ready() && Pin::new(&mut *upstream).poll_flush(cx).is_ready();
        if up_done && down_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Until a side has closed in turn: a connection that is closed while bytes of it are unread is reset, and a reset
/// may overtake the close frame.
async fn wait_for_close(side: &mut (impl AsyncRead + Unpin)) {
    let mut read = BytesMut::new();
    while let Ok(1..) = poll_fn(|cx| poll_read_body(side, cx, &mut read)).await {
        read.clear();
    }
}

impl Upgraded {
    /// What was read of it before it became a tunnel.
    pub(super) fn take_read(&mut self) -> BytesMut {
        match self {
            Self::Remote(_, read) => std::mem::take(read),
            Self::Local(_) => BytesMut::new(),
        }
    }

    pub(super) fn acknowledged(&self) -> Option<u64> {
        match self {
            Self::Remote(stream, _) => acknowledged(stream),
            Self::Local(_) => None,
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Remote(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Remote(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Remote(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Remote(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
