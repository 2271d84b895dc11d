//! Answers that take their time: late ones, long ones, event streams and sockets.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::refuse;
use super::{BODY_BYTES_MAX, Backend};

const WAIT_MAX: Duration = Duration::from_secs(600);
const ANSWER_BYTES_MAX: usize = 1 << 30;
const EVENTS_MAX: u64 = 1_000_000;
const BLOCK_BYTES: usize = 64 << 10;
const SOCKET_BUFFER: usize = 1 << 10;

/// What `/bytes` sends over and over: a pattern, so that a lost or doubled byte shows.
static BLOCK: [u8; BLOCK_BYTES] = block();

const fn block() -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut at = 0;
    while at < BLOCK_BYTES {
        block[at] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n"[at % 64];
        at += 1;
    }
    block
}

#[derive(Deserialize)]
pub(super) struct SlowQuery {
    #[serde(default = "second")]
    ms: u64,
}

#[derive(Deserialize)]
pub(super) struct SseQuery {
    #[serde(default = "ten")]
    events: u64,
    #[serde(default = "second")]
    every_ms: u64,
}

fn ten() -> u64 {
    10
}

fn second() -> u64 {
    1000
}

/// Answers after `ms` milliseconds.
pub(super) async fn slow(State(backend): State<Backend>, Query(query): Query<SlowQuery>) -> Json<Value> {
    let _progress = backend.progress();
    tokio::time::sleep(wait(query.ms)).await;
    Json(json!({ "name": &*backend.name, "slow_ms": query.ms }))
}

/// Sends exactly `n` bytes, with their length announced.
pub(super) async fn bytes(Path(n): Path<String>) -> Response {
    let Some(n) = n.parse::<usize>().ok().filter(|n| *n <= ANSWER_BYTES_MAX) else {
        return refuse("the number of bytes is at most 1073741824");
    };
    let blocks = stream::unfold(n, |left| async move {
        let size = left.min(BLOCK_BYTES);
        let block = Bytes::from_static(&BLOCK[..size]);
        (size > 0).then(|| (Ok::<_, Infallible>(block), left - size))
    });
    let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, n.to_string())];
    (headers, Body::from_stream(blocks)).into_response()
}

/// Sends `events` events, the first at once, the others `every_ms` milliseconds apart. Nothing
/// runs beside the stream, so it is gone with its client.
pub(super) async fn sse(
    State(backend): State<Backend>,
    Query(query): Query<SseQuery>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (events, every) = (query.events.min(EVENTS_MAX), wait(query.every_ms));
    let progress = backend.progress();
    Sse::new(stream::unfold((1, progress, backend), move |(at, progress, backend)| async move {
        if at > events {
            return None;
        }
        if at > 1 {
            tokio::time::sleep(every).await;
        }
        let data = json!({ "name": &*backend.name, "event": at, "of": events }).to_string();
        let event = Event::default().id(at.to_string()).event("tick").data(data);
        Some((Ok(event), (at + 1, progress, backend)))
    }))
}

/// Echoes text and binary messages until the client closes; takes the first subprotocol offered.
pub(super) async fn ws(State(backend): State<Backend>, headers: HeaderMap, mut upgrade: WebSocketUpgrade) -> Response {
    // Not `requested_protocols`: that sorts them, and the order is the client's preference.
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let first = offered.and_then(|offered| offered.split(',').next());
    if let Some(Ok(protocol)) = first.map(|first| HeaderValue::from_str(first.trim())) {
        upgrade.set_selected_protocol(protocol);
    }
    let progress = backend.progress();
    // A socket owns its read buffer for as long as it lives, and most of them are silent.
    let upgrade = upgrade.read_buffer_size(SOCKET_BUFFER);
    upgrade.max_message_size(BODY_BYTES_MAX).max_frame_size(BODY_BYTES_MAX).on_upgrade(|socket| async move {
        let _progress = progress;
        echo_messages(socket).await;
    })
}

/// Pings and the closing handshake are answered by the socket itself while it is read.
async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn wait(ms: u64) -> Duration {
    Duration::from_millis(ms).min(WAIT_MAX)
}
