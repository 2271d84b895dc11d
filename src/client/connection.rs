//! A connection that speaks HTTP/2: its streams, one request each.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use h2::server::{self, Connection as H2, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use pingora::server::ShutdownWatch;

use super::control::Counted;
use super::http2::Http2;
use super::{Client, Side};
use crate::base::Deadline;
use crate::listener::{Connection, Downstream, Room};

/// What a client may send of one body before it is read, in bytes (RFC 9113, section 6.9).
const STREAM_WINDOW: u32 = 256 * 1024;
/// What a client may send of all its bodies before they are read, in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What the bookkeeping of small frames may cost before they are read, in bytes: many small messages in one segment,
/// as streams of gRPC and of chats send them, are no attack.
const FRAME_BUDGET: usize = 4 * 1024 * 1024;
/// The fields of a request, unpacked, in bytes.
const FIELDS_MAX: u32 = 64 * 1024;
/// Requests under way at once.
const STREAMS_MAX: u32 = 128;
/// What waits in one stream for its client, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection that speaks HTTP/2.
pub struct H2Connection {
    inner: H2<Counted, Bytes>,
    /// It brought too many frames that move no request.
    flooded: Arc<AtomicBool>,
    connection: Arc<Connection>,
    shutdown: ShutdownWatch,
    going_away: bool,
    /// Requests under way.
    active: Arc<AtomicUsize>,
    idle: Deadline,
}

/// Holds its connection for busy as long as it lives.
pub struct Busy {
    active: Arc<AtomicUsize>,
    /// Its own, if it is not the only request of its connection.
    _room: Option<Room>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Relaxed);
    }
}

impl H2Connection {
    /// At its beginning; `None` if the client does not keep to the protocol.
    pub async fn begin(stream: Box<Downstream>, shutdown: ShutdownWatch) -> Option<Self> {
        let connection = stream.connection().clone();
        let mut settings = server::Builder::new();
        settings
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(FRAME_BUDGET)
            .max_header_list_size(FIELDS_MAX)
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol();
        let stream = Counted::new(stream);
        let flooded = stream.flooded();
        let inner = settings.handshake(stream).await.ok()?;
        let idle = Deadline::after(connection.keep_alive());
        Some(Self { inner, flooded, connection, shutdown, going_away: false, active: Arc::default(), idle })
    }

    /// The next request; `None` at the connection's end. To be polled again at once: it moves the bytes of all streams.
    pub async fn next(&mut self) -> Option<(Client, Busy)> {
        loop {
            let accepted = match self.accept_or_stop().await {
                Some(accepted) => accepted,
                None => {
                    // What is under way may finish (RFC 9113, section 6.8).
                    self.inner.graceful_shutdown();
                    self.going_away = true;
                    continue;
                }
            };
            let (request, mut respond) = accepted?.ok()?;
            self.idle.arm(self.connection.keep_alive());
            match self.busy() {
                Some(busy) => {
                    self.connection.admitted();
                    let stream = Http2::new(self.connection.clone(), request, respond);
                    return Some((Client::of(Side::Http2(stream)), busy));
                }
                // Nothing was done for it, so it may be sent again (RFC 9113, section 8.7).
                None => respond.send_reset(Reason::REFUSED_STREAM),
            }
        }
    }

    /// A place for a request. One at a time stands in its connection's own.
    fn busy(&self) -> Option<Busy> {
        let room = match self.active.load(Relaxed) {
            0 => None,
            _ => Some(self.connection.room_for_another()?),
        };
        self.active.fetch_add(1, Relaxed);
        Some(Busy { active: self.active.clone(), _room: room })
    }

    /// What the connection brings next; `None` when it is to end soon, said once. A connection that idled too long has
    /// ended.
    async fn accept_or_stop(
        &mut self,
    ) -> Option<Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>> {
        let Self { inner, flooded, shutdown, going_away, active, idle, connection } = self;
        let quiet = *going_away;
        let mut stopped = pin!(async {
            if quiet || shutdown.wait_for(|it| *it).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(accepted) = inner.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            if flooded.load(Relaxed) {
                connection.flooded();
                inner.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // What the client does not take at once, it does not get.
                let _ = inner.poll_closed(cx);
                return Poll::Ready(Some(None));
            }
            if active.load(Relaxed) > 0 {
                idle.arm(connection.keep_alive());
            }
            idle.poll_expired(cx).map(|()| Some(None))
        })
        .await
    }
}
