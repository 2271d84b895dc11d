//! What an upgraded connection is: two sockets, two counters and a deadline.
//!
//! A direction without taps passes as it comes, and its frames are counted only; of a protocol that is no WebSocket
//! nothing is known, and nothing is said in it. Where a tap ends it, or what comes is
//! no WebSocket, or the process stops, both sides get a close frame that says why.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::OpenStream;
use super::messages::{self, PING, Violation};
use super::stream_error::{end_state, shutdown_message};
use super::tapped_tunnel::{Ended, Tapped};
use super::websocket::{Frames, Pings, WebSocketRules};
use crate::base::Deadline;
use crate::client::Client;
use crate::connections::{Cause, Open, Signal};
use crate::forward::{Upgraded, UpstreamBody, progressed};
use crate::listener::Downstream;
use crate::pipeline::{EndState, Exchange, Kind, Taps};
use crate::transport::{acknowledged, poll_read_body};

/// How long a side may take for the last words, and to close in turn.
const FAREWELL: Duration = Duration::from_secs(1);
/// The same when the process stops: it has a second left itself.
const FAREWELL_AT_STOP: Duration = Duration::from_millis(500);
/// The endpoint is going away.
const GOING_AWAY: u16 = 1001;
/// Whoever has opened it may not have it (RFC 6455, section 7.4.1).
const POLICY_VIOLATION: u16 = 1008;
/// So many bytes wait for a side before more is read from the other.
const WRITE_AHEAD: usize = 64 * 1024;

/// An upgraded connection whose answer 101 waits for its client.
pub struct Tunnel {
    body: UpstreamBody,
    /// Of what the client sends, and of what the upstream does.
    taps: (Option<Box<Taps>>, Option<Box<Taps>>),
    /// How it is kept, if it is a WebSocket.
    websocket: Option<WebSocketRules>,
    idle: Duration,
    open: Open,
}

impl Tunnel {
    pub(super) fn new(
        body: UpstreamBody,
        taps: (Option<Box<Taps>>, Option<Box<Taps>>),
        websocket: Option<WebSocketRules>,
        idle: Duration,
        open: Open,
    ) -> Self {
        Self { body, taps, websocket, idle, open }
    }

    /// Moves bytes both ways until either side ends, or somebody else wants it.
    ///
    /// # Errors
    /// Says how it ended, if not in good order.
    pub async fn run(&mut self, client: &mut Client, exchange: &mut Exchange) -> Result<(), EndState> {
        let ended = self.run_open(client, exchange).await;
        self.body.finish().await;
        ended
    }

    async fn run_open(&mut self, client: &mut Client, exchange: &mut Exchange) -> Result<(), EndState> {
        let Self { body, taps, websocket, idle, open } = self;
        let (client_taps, upstream_taps) = std::mem::take(taps);
        let _open = OpenStream::new();
        announce(client, *idle).await?;
        let (Some(mut upstream), Some((downstream, read))) = (body.upgraded(), client.tunnel()) else {
            return Err(EndState::Truncated);
        };
        let rules = websocket.unwrap_or_default();
        let mut sides = Sides {
            up: Direction::new(Side::Client, websocket.is_some(), client_taps, std::mem::take(read)),
            down: Direction::new(Side::Upstream, websocket.is_some(), upstream_taps, upstream.take_read()),
            downstream,
            upstream: &mut upstream,
        };
        let ended = sides.run(open, (rules, *idle), exchange).await;
        exchange.body_received += sides.down.received;
        let (received, sent) = (sides.up.received, sides.down.sent);
        client.count_tunnel(received, sent);
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

/// Both connections, and what goes on between them.
struct Sides<'a> {
    /// What the client sends.
    up: Direction,
    /// What the upstream sends.
    down: Direction,
    downstream: &'a mut Downstream,
    upstream: &'a mut Upgraded,
}

impl Sides<'_> {
    /// Moves what comes both ways until either side ends, a tap does, or somebody else wants it.
    async fn run(
        &mut self,
        open: &mut Open,
        (rules, idle): (WebSocketRules, Duration),
        exchange: &mut Exchange,
    ) -> Result<(), EndState> {
        let mut silence = Instant::now() + idle;
        let mut pings = rules.pings();
        let mut heard = self.up.received;
        let mut deadline = Deadline::idle();
        let mut taken = [None, None];
        // What clients are still to be told, once a message of ours may stand.
        let mut message = None;
        loop {
            if message.is_some() && self.down.tell(message.as_ref()) {
                message = None;
            }
            deadline.arm_at(pings.as_ref().map_or(silence, |it| it.next_look().min(silence)));
            let moved = poll_fn(|cx| {
                if let Poll::Ready(signal) = open.poll_signal(cx) {
                    return Poll::Ready(Some(Moved::Told(signal)));
                }
                self.poll(&mut deadline, cx)
            })
            .await;
            open.passed(self.up.received, self.down.sent);
            if let Some(pings) = pings.as_mut().filter(|_| self.up.received > heard) {
                heard = self.up.received;
                pings.heard();
            }
            match moved {
                Some(Moved::Some) => silence = Instant::now() + idle,
                Some(Moved::Over) => return Ok(()),
                // Behind a farewell it does not matter how a connection ends.
                Some(Moved::Broken(_)) if self.up.closed() || self.down.closed() => return Ok(()),
                Some(Moved::Broken(end)) => return Err(end),
                Some(Moved::Told(Signal::Draining)) => {
                    let wanted = rules.shutdown_message;
                    message = wanted.then(|| shutdown_message(exchange.request_id.as_str()));
                }
                Some(Moved::Told(Signal::End(cause))) => return self.end_for(cause, exchange).await,
                Some(Moved::Ended(end, code)) => {
                    exchange.end = Some(end);
                    self.close(code).await;
                    return Ok(());
                }
                None if pings.as_ref().is_some_and(Pings::is_lost) => return Err(EndState::ClientGone),
                None if Instant::now() < silence => {
                    if let Some(pings) = pings.as_mut().filter(|it| it.is_due()) {
                        pings.ask(self.down.ping());
                    }
                }
                // Silence is when no byte is taken, not when a socket has no room for more.
                None if !self.down.waiting.is_empty() => {
                    if !progressed(acknowledged(self.downstream), &mut taken[0]) {
                        return Err(EndState::ClientTimeout);
                    }
                    silence = Instant::now() + idle;
                }
                None if !self.up.waiting.is_empty() && progressed(self.upstream.acknowledged(), &mut taken[1]) => {
                    silence = Instant::now() + idle;
                }
                None => return Err(EndState::Truncated),
            }
        }
    }

    fn poll(&mut self, deadline: &mut Deadline, cx: &mut Context<'_>) -> Poll<Option<Moved>> {
        let down = self.down.poll(self.upstream, self.downstream, cx);
        let up = self.up.poll(self.downstream, self.upstream, cx);
        match (down, up) {
            // A connection says once that it is broken, and what else has come has no reader.
            (_, Poll::Ready(moved @ Moved::Broken(EndState::ClientGone))) => Poll::Ready(Some(moved)),
            (Poll::Ready(moved), _) | (Poll::Pending, Poll::Ready(moved)) => Poll::Ready(Some(moved)),
            _ => deadline.poll_expired(cx).map(|()| None),
        }
    }

    /// Others end it. Both sides are told where they can be; what is no WebSocket is cut.
    async fn end_for(&mut self, cause: Cause, exchange: &mut Exchange) -> Result<(), EndState> {
        exchange.end = Some(end_state(cause));
        match cause {
            Cause::Stopped => {
                Box::pin(Deadline::within(FAREWELL_AT_STOP, self.farewell(GOING_AWAY))).await;
                Ok(())
            }
            _ if !self.down.is_websocket() => Err(end_state(cause)),
            Cause::Revoked | Cause::Expired => {
                self.close(POLICY_VIOLATION).await;
                Ok(())
            }
            Cause::Closed => {
                self.close(GOING_AWAY).await;
                Ok(())
            }
        }
    }

    /// Tells both sides that it ends, and why, and waits a little for them to close in turn.
    async fn close(&mut self, code: u16) {
        Box::pin(Deadline::within(FAREWELL, self.farewell(code))).await;
        let Self { downstream, upstream, .. } = self;
        let closed = async { tokio::join!(wait_for_close(*downstream), wait_for_close(*upstream)) };
        Box::pin(Deadline::within(FAREWELL, closed)).await;
    }

    /// Closes both sides, and writes what they are still to get.
    async fn farewell(&mut self, code: u16) {
        let Self { up, down, downstream, upstream } = self;
        up.close(code);
        down.close(code);
        let (mut up_done, mut down_done) = (false, false);
        poll_fn(|cx| {
            down_done |=
                down.poll_write(*downstream, cx).is_ready() && Pin::new(&mut **downstream).poll_flush(cx).is_ready();
            up_done |= up.poll_write(*upstream, cx).is_ready() && Pin::new(&mut **upstream).poll_flush(cx).is_ready();
            if up_done && down_done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[derive(Clone, Copy)]
enum Moved {
    Some,
    /// A side has ended in good order.
    Over,
    /// A side's connection is broken.
    Broken(EndState),
    /// Somebody else has something to say.
    Told(Signal),
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

    fn is_websocket(&self) -> bool {
        !matches!(self.through, Through::Bytes)
    }

    /// Asks whether its receiver is there; whether that could be put in here, between two frames.
    fn ping(&mut self) -> bool {
        let may = match &self.through {
            Through::Bytes => false,
            Through::Frames(frames) => frames.may_close(),
            Through::Taps(tapped) => !tapped.closed,
        };
        if may {
            messages::write_frame(PING, b"", self.from == Side::Client, &mut self.waiting);
        }
        may
    }

    /// Says something of ours, between two messages; whether that could be.
    fn tell(&mut self, message: Option<&Bytes>) -> bool {
        let may = match &self.through {
            Through::Bytes => return true, // it is said to nobody
            Through::Frames(frames) => frames.may_speak(),
            Through::Taps(tapped) => !tapped.closed,
        };
        if let Some(message) = message.filter(|_| may) {
            messages::write_message(Kind::Text, message, self.from == Side::Client, &mut self.waiting);
        }
        may
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
