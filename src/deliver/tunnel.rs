//! What an upgraded connection is: two sockets, two counters and a deadline.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::OpenStream;
use super::tapped_tunnel;
use super::websocket::{self, Frames};
use crate::base::Deadline;
use crate::client::Client;
use crate::forward::{Upgraded, UpstreamBody, progressed};
use crate::pipeline::{EndState, Exchange, Taps};
use crate::transport::{acknowledged, poll_read_body};

/// An upgraded connection whose answer 101 waits for its client.
pub struct Tunnel {
    body: UpstreamBody,
    /// Of what the client sends, and of what the upstream does.
    taps: (Option<Box<Taps>>, Option<Box<Taps>>),
    idle: Duration,
    ending: watch::Receiver<bool>,
}

impl Tunnel {
    pub(super) fn new(
        body: UpstreamBody,
        taps: (Option<Box<Taps>>, Option<Box<Taps>>),
        idle: Duration,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Self { body, taps, idle, ending }
    }

    /// Moves bytes both ways until either side ends, or the process does.
    ///
    /// # Errors
    /// Says how it ended, if not in good order.
    pub async fn run(&mut self, client: &mut Client, exchange: &mut Exchange) -> Result<(), EndState> {
        let Self { body, taps, idle, ending } = self;
        let ended = match std::mem::take(taps) {
            (None, None) => run(body, client, exchange, *idle, ending).await,
            taps => Box::pin(tapped_tunnel::run(body, client, exchange, taps, *idle, ending)).await,
        };
        self.body.finish().await;
        ended
    }
}

/// Until the answer 101 has gone out.
pub(super) async fn announce(client: &mut Client, idle: Duration) -> Result<(), EndState> {
    match Deadline::within(idle, poll_fn(|cx| client.poll_flush(cx))).await {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(EndState::ClientGone),
        None => Err(EndState::ClientTimeout),
    }
}

async fn run(
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    idle: Duration,
    ending: &watch::Receiver<bool>,
) -> Result<(), EndState> {
    let _open = OpenStream::new();
    announce(client, idle).await?;
    let (Some(mut upstream), Some((downstream, read))) = (body.upgraded(), client.tunnel()) else {
        return Err(EndState::Truncated);
    };
    let mut up = Direction::new(std::mem::take(read));
    let mut down = Direction::new(upstream.take_read());
    let mut ending = ending.clone();
    let mut stopped = pin!(ending.wait_for(|it| *it));
    let mut deadline = Deadline::after(idle);
    let mut taken = [None, None];
    let ended = loop {
        let moved = poll_fn(|cx| {
            if let Poll::Ready(Ok(_)) = stopped.as_mut().poll(cx) {
                return Poll::Ready(Moved::Stopped);
            }
            let down = down.poll(&mut upstream, &mut *downstream, cx);
            let up = up.poll(&mut *downstream, &mut upstream, cx);
            let down = down.map(|it| it.moved(EndState::Truncated, EndState::ClientGone));
            let up = up.map(|it| it.moved(EndState::ClientGone, EndState::Truncated));
            // A connection says once that it is broken, and what else has come has no reader.
            if let Poll::Ready(Moved::Broken(EndState::ClientGone)) = up {
                return up;
            }
            if down.is_ready() {
                return down;
            }
            if up.is_ready() {
                return up;
            }
            deadline.poll_expired(cx).map(|()| Moved::Nothing)
        })
        .await;
        match moved {
            Moved::Some => deadline.arm(idle),
            Moved::Over => break Ok(()),
            // Behind a farewell it does not matter how a connection ends.
            Moved::Broken(_) if up.frames.closed() || down.frames.closed() => break Ok(()),
            Moved::Broken(end) => break Err(end),
            Moved::Stopped => {
                exchange.end = Some(EndState::Drained);
                farewell(&mut up, &mut down, downstream, &mut upstream).await;
                break Ok(());
            }
            // Silence is when no byte is taken, not when a socket has no room for more.
            Moved::Nothing if !down.waiting.is_empty() => {
                if !progressed(acknowledged(downstream), &mut taken[0]) {
                    break Err(EndState::ClientTimeout);
                }
                deadline.arm(idle);
            }
            Moved::Nothing if !up.waiting.is_empty() && progressed(upstream.acknowledged(), &mut taken[1]) => {
                deadline.arm(idle);
            }
            Moved::Nothing => break Err(EndState::Truncated),
        }
    };
    exchange.body_received += down.count;
    client.count_tunnel(up.count, down.count);
    ended
}

enum Moved {
    Some,
    Over,
    Broken(EndState),
    Stopped,
    Nothing,
}

/// What became of a direction.
enum Step {
    Moved,
    /// Who sends has ended in good order.
    Ended,
    /// The connection that is read is broken.
    FromBroken,
    /// The connection that is written to is.
    ToBroken,
}

impl Step {
    fn moved(self, from: EndState, to: EndState) -> Moved {
        match self {
            Self::Moved => Moved::Some,
            Self::Ended => Moved::Over,
            Self::FromBroken => Moved::Broken(from),
            Self::ToBroken => Moved::Broken(to),
        }
    }
}

/// One direction: what was read and is not written yet.
struct Direction {
    waiting: BytesMut,
    frames: Frames,
    count: u64,
    unflushed: bool,
}

impl Direction {
    fn new(read: BytesMut) -> Self {
        let mut frames = Frames::default();
        frames.pass(&read);
        Self { count: read.len() as u64, waiting: read, frames, unflushed: false }
    }

    /// Moves what it can.
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        if self.waiting.is_empty() {
            if self.unflushed {
                match Pin::new(&mut *to).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Step::ToBroken),
                    Poll::Pending => {}
                }
            }
            match ready!(poll_read_body(from, cx, &mut self.waiting)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Step::Ended),
                Err(_) => return Poll::Ready(Step::FromBroken),
            }
            self.frames.pass(&self.waiting);
            self.count += self.waiting.len() as u64;
        }
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting)) {
                Ok(written @ 1..) => self.waiting.advance(written),
                Ok(0) | Err(_) => return Poll::Ready(Step::ToBroken),
            }
            self.unflushed = true;
        }
        Poll::Ready(Step::Moved)
    }

    /// Whether a frame of ours may come next.
    fn may_close(&self) -> bool {
        self.waiting.is_empty() && self.frames.may_close()
    }
}

/// Says to both sides that the endpoint is going away, where that is not in the middle of a frame.
async fn farewell(
    up: &mut Direction,
    down: &mut Direction,
    client: &mut (impl AsyncWrite + Unpin),
    upstream: &mut (impl AsyncWrite + Unpin),
) {
    if up.may_close() {
        write_once(upstream, &websocket::close_to_upstream()).await;
    }
    if down.may_close() {
        let word = websocket::close_to_client();
        down.count += word.len() as u64;
        write_once(client, &word).await;
    }
}

/// One attempt: whether it arrives is no longer our business.
async fn write_once(to: &mut (impl AsyncWrite + Unpin), word: &[u8]) {
    poll_fn(|cx| {
        let _ = Pin::new(&mut *to).poll_write(cx, word);
        let _ = Pin::new(&mut *to).poll_flush(cx);
        Poll::Ready(())
    })
    .await;
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
