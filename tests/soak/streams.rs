//! WebSockets and event streams that stay open throughout, and notice every word that is missing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::ledger::Ledger;

/// Silence that is too long to be work.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between a message and the next.
const EVERY: Duration = Duration::from_millis(300);
/// What a socket of ours reads at once; the library would keep 128 KiB for each of them.
const READ_BUFFER: usize = 1024;
/// Idle sockets that are opened, or closed, at once.
const AT_ONCE: usize = 100;

/// How far the streams are, for the one who waits.
#[derive(Default)]
pub struct Progress {
    /// Streams that have carried a message.
    pub open: AtomicUsize,
    /// Streams that carried one more after they were told to end.
    pub ended_well: AtomicUsize,
}

/// Echoes until told to stop, then once more, and closes by the book.
pub async fn websocket(
    number: usize,
    gateway: SocketAddr,
    ledger: Arc<Ledger>,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) {
    match echo(number, gateway, &ledger, &progress, stop).await {
        Ok(()) => _ = progress.ended_well.fetch_add(1, Relaxed),
        Err(fault) => ledger.fault(format!("websocket {number}: {fault}")),
    }
}

async fn echo(
    number: usize,
    gateway: SocketAddr,
    ledger: &Ledger,
    progress: &Progress,
    mut stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut socket = open(gateway).await?;
    for turn in 0u64.. {
        let last = *stop.borrow();
        exchange(&mut socket, &format!("socket {number} turn {turn}"))
            .await
            .map_err(|it| format!("turn {turn}: {it}"))?;
        ledger.messages.fetch_add(1, Relaxed);
        if turn == 0 {
            progress.open.fetch_add(1, Relaxed);
        }
        if last {
            break;
        }
        let _ = timeout(EVERY, stop.changed()).await;
    }
    close(socket).await
}

async fn open(gateway: SocketAddr) -> Result<WebSocketStream<TcpStream>, String> {
    let socket = TcpStream::connect(gateway).await.map_err(|it| it.to_string())?;
    let config = Some(WebSocketConfig::default().read_buffer_size(READ_BUFFER));
    let opened = timeout(PATIENCE, client_async_with_config(format!("ws://{gateway}/ws"), socket, config)).await;
    let (socket, _) = opened.map_err(|it| it.to_string())?.map_err(|it| format!("no upgrade: {it}"))?;
    Ok(socket)
}

async fn close(mut socket: WebSocketStream<TcpStream>) -> Result<(), String> {
    socket.close(None).await.map_err(|it| format!("close: {it}"))?;
    while let Some(message) = timeout(PATIENCE, socket.next()).await.map_err(|_| "no closing handshake")? {
        message.map_err(|it| format!("closing handshake: {it}"))?;
    }
    Ok(())
}

/// Who may open or close an idle socket now.
pub fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

/// Says one word when it is opened and one when it is told to end; in between, nobody says anything for as long as all
/// the reloads take.
pub async fn idle(
    number: usize,
    gateway: SocketAddr,
    ledger: Arc<Ledger>,
    progress: Arc<Progress>,
    mut stop: watch::Receiver<bool>,
    turns: Arc<Semaphore>,
) {
    let whole = async {
        let turn = turns.acquire().await;
        let mut socket = open(gateway).await?;
        exchange(&mut socket, &format!("idle {number}")).await?;
        progress.open.fetch_add(1, Relaxed);
        drop(turn);
        tokio::select! {
            _ = stop.wait_for(|it| *it) => {}
            early = socket.next() => return Err(format!("not the silence that was expected: {early:?}")),
        }
        let _turn = turns.acquire().await;
        exchange(&mut socket, &format!("idle {number} again")).await.map_err(|it| format!("at its end: {it}"))?;
        close(socket).await
    };
    match whole.await {
        Ok(()) => _ = progress.ended_well.fetch_add(1, Relaxed),
        Err(fault) => ledger.fault(format!("idle websocket {number}: {fault}")),
    }
}

async fn exchange(socket: &mut WebSocketStream<TcpStream>, text: &str) -> Result<(), String> {
    socket.send(Message::text(text)).await.map_err(|it| format!("send: {it}"))?;
    let answer = timeout(PATIENCE, socket.next()).await.map_err(|_| "no echo".to_owned())?;
    match answer {
        Some(Ok(Message::Text(echo))) if echo.as_str() == text => Ok(()),
        other => Err(format!("instead of the echo: {other:?}")),
    }
}

/// Reads events until told to stop, then one more, and leaves.
pub async fn events(
    number: usize,
    gateway: SocketAddr,
    ledger: Arc<Ledger>,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) {
    match follow(gateway, &ledger, &progress, stop).await {
        Ok(()) => _ = progress.ended_well.fetch_add(1, Relaxed),
        Err(fault) => ledger.fault(format!("event stream {number}: {fault}")),
    }
}

async fn follow(
    gateway: SocketAddr,
    ledger: &Ledger,
    progress: &Progress,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let socket = TcpStream::connect(gateway).await.map_err(|it| it.to_string())?;
    let (mut sender, driver) = handshake(TokioIo::new(socket)).await.map_err(|it| it.to_string())?;
    tokio::spawn(driver);
    let path = format!("/sse?events=1000000&every_ms={}", EVERY.as_millis());
    let request = Request::builder().uri(path).header("host", "soak").body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request)).await.map_err(|_| "no head")?;
    let answer = answer.map_err(|it| format!("{it:?}"))?;
    if answer.status() != 200 {
        return Err(format!("status {}", answer.status()));
    }
    let mut body = answer.into_body();
    let mut text = String::new();
    let mut expected = 1u64;
    loop {
        let last = *stop.borrow();
        let begun = expected;
        while expected == begun {
            let frame = timeout(PATIENCE, body.frame()).await.map_err(|_| format!("silence before {expected}"))?;
            let frame = frame.ok_or(format!("it ended before {expected}"))?.map_err(|it| format!("{it:?}"))?;
            text.push_str(std::str::from_utf8(frame.data_ref().map_or(&[][..], |it| it)).map_err(|it| it.to_string())?);
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                if !event.contains(&format!("id: {expected}\n")) {
                    return Err(format!("instead of {expected}: {event:?}"));
                }
                expected += 1;
                ledger.events.fetch_add(1, Relaxed);
            }
        }
        if begun == 1 {
            progress.open.fetch_add(1, Relaxed);
        }
        if last {
            return Ok(());
        }
    }
}
