//! Doing a deed once: it goes on though its client leaves, and its answer is left for repetitions
//! before the client gets the end of it (CP2-B).

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::response::Parts;
use pingora::http::RequestHeader;
use tokio::sync::{mpsc, oneshot};

use crate::exchange::{Destination, Policy, Worker, call};
use crate::filters::{Deed, Kept};
use crate::pipeline::Refusal;

/// What waits between an upstream's stream and a slow client, in pieces.
const PIECES: usize = 16;

type Answer = Result<Response<Body>, Refusal>;

/// What a deed needs, owned: it may outlive the request that asked for it.
pub(super) struct Order {
    pub(super) worker: Arc<Worker>,
    pub(super) destination: Destination,
    pub(super) request: RequestHeader,
    pub(super) body: Bytes,
    pub(super) policy: Policy,
}

/// Begins the deed in a task of its own. What is received is the answer; whether anybody receives it
/// makes no difference to the deed.
pub(super) fn begin(deed: Deed, order: Order) -> oneshot::Receiver<Answer> {
    let (tell, told) = oneshot::channel();
    let (records, key, running) = deed.claim();
    tokio::spawn(async move {
        tokio::select! {
            () = perform(deed, order, tell) => {}
            () = Deed::renew(records, key, running) => {}
        }
    });
    told
}

async fn perform(deed: Deed, order: Order, tell: oneshot::Sender<Answer>) {
    let Order { worker, destination, request, body, policy } = order;
    let answer = match call(&worker, &destination, &request, body, &policy).await {
        // Server errors are not kept: the deed may be tried again (decision 4).
        Ok(answer) if answer.status().is_server_error() => {
            deed.give_up().await;
            Ok(answer)
        }
        Ok(answer) if is_stream(&answer) && !deed.keeps_streams() => {
            deed.keep_nothing().await;
            Ok(answer)
        }
        Ok(answer) if is_stream(&answer) => return pass_on(deed, answer, tell).await,
        Ok(answer) => whole(deed, answer).await,
        Err(refusal) => {
            deed.give_up().await;
            Err(refusal)
        }
    };
    let _ = tell.send(answer); // the client may have left
}

fn is_stream(answer: &Response<Body>) -> bool {
    answer.headers().get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"))
}

/// Reads the whole answer and keeps it, before anybody gets it.
async fn whole(deed: Deed, answer: Response<Body>) -> Answer {
    let (parts, body) = answer.into_parts();
    let mut pieces = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            deed.give_up().await;
            return Err(Refusal::UpstreamClosed);
        };
        read.extend_from_slice(&piece);
        if read.len() > deed.record_max() {
            deed.keep_nothing().await;
            return Ok(Response::from_parts(parts, prefixed(read.freeze(), pieces)));
        }
    }
    let body = read.freeze();
    deed.keep(&kept(&parts, body.clone())).await;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn prefixed(read: Bytes, rest: BodyDataStream) -> Body {
    Body::from_stream(stream::once(std::future::ready(Ok(read))).chain(rest))
}

fn kept(parts: &Parts, body: Bytes) -> Kept {
    let mut headers = parts.headers.clone();
    headers.remove(CONTENT_LENGTH); // it is that of the body
    Kept { status: parts.status, headers, body }
}

/// Passes a stream on as it comes, and keeps it when it has ended.
async fn pass_on(deed: Deed, answer: Response<Body>, tell: oneshot::Sender<Answer>) {
    let (parts, body) = answer.into_parts();
    let (feed, fed) = mpsc::channel(PIECES);
    let passed = stream::unfold(fed, |mut fed| async move { fed.recv().await.map(|piece| (piece, fed)) });
    let head = kept(&parts, Bytes::new());
    let _ = tell.send(Ok(Response::from_parts(parts, Body::from_stream(passed))));
    let mut read = Some(BytesMut::new());
    let mut pieces = body.into_data_stream();
    let mut listening = true;
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            // Half a stream was seen: what it stands for may be done.
            deed.keep_nothing().await;
            let _ = feed.send(Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))).await;
            return;
        };
        read = read.filter(|it| it.len() + piece.len() <= deed.record_max());
        if let Some(read) = &mut read {
            read.extend_from_slice(&piece);
        }
        listening = listening && feed.send(Ok(piece)).await.is_ok();
    }
    match read {
        Some(read) => deed.keep(&Kept { body: read.freeze(), ..head }).await,
        None => deed.keep_nothing().await,
    }
}
