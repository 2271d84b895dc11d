//! Reading a request's whole body before it goes anywhere, for steps that have to see all of it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::protocols::http::ServerSession;

use crate::base::Deadline;
use crate::client::Client;
use crate::exchange::policy::Policy;
use crate::exchange::pump::{Ended, INVALID_CHUNKS};
use crate::pipeline::{Exchange, Refusal};

/// Reads the body into [`Exchange::body`], at most [`Policy::body_limit`] bytes of it.
///
/// # Errors
/// When it is too large or too slow, when its chunks are malformed, and when the client leaves.
pub async fn hold_body(client: &mut Client<'_>, exchange: &mut Exchange, policy: &Policy) -> Result<(), Ended> {
    if exchange.body.is_some() {
        return Ok(());
    }
    if client.broke_off() {
        return Err(Ended::ClientGone);
    }
    let too_large = || Ended::Unanswered(Refusal::BodyTooLarge { limit: policy.body_limit });
    if client.declared_length() > policy.body_limit {
        return Err(too_large());
    }
    if let Some(body) = client.whole_body() {
        exchange.body = Some(body);
        return Ok(());
    }
    let declared = client.request().headers.contains_key(CONTENT_LENGTH).then(|| client.declared_length());
    let session = client.session().await.map_err(|_| Ended::ClientGone)?;
    session.set_read_timeout(None); // deadlines are ours
    go_on(session).await?;
    let total = exchange.started + policy.request;
    let mut deadline = Deadline::idle();
    let mut body = BytesMut::new();
    while !session.is_body_done() {
        deadline.arm_at((Instant::now() + policy.idle).min(total));
        match next(session, &mut deadline).await? {
            Some(piece) => body.extend_from_slice(&piece),
            None => break,
        }
        if body.len() as u64 > policy.body_limit {
            return Err(too_large());
        }
    }
    // In HTTP/2 a body that was reset ends like any other.
    if session.is_http2() && declared.is_some_and(|it| it != body.len() as u64) {
        return Err(Ended::ClientGone);
    }
    exchange.body = Some(body.freeze());
    Ok(())
}

/// Waits for something, for as long as the client does. The request's body has to be read.
///
/// # Errors
/// When the client leaves.
pub async fn unless_left<T>(client: &mut Client<'_>, wanted: impl Future<Output = T>) -> Result<T, Ended> {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        if let Poll::Ready(it) = wanted.as_mut().poll(cx) {
            return Poll::Ready(Ok(it));
        }
        client.poll_left(cx).map(|()| Err(Ended::ClientGone))
    })
    .await
}

/// Says `100 Continue` to a client that waits for it (RFC 9110, section 10.1.1). The upstream is not
/// asked: by the time it is, the body is here.
async fn go_on(session: &mut ServerSession) -> Result<(), Ended> {
    if !session.req_header().headers.contains_key(EXPECT) {
        return Ok(());
    }
    if !session.is_body_done() && session.req_header().version == Version::HTTP_11 {
        session.set_close_on_response_before_downstream_finish(false);
        session.write_continue_response().await.map_err(|_| Ended::ClientGone)?;
    }
    session.req_header_mut().remove_header(&EXPECT);
    Ok(())
}

async fn next(session: &mut ServerSession, deadline: &mut Deadline) -> Result<Option<Bytes>, Ended> {
    let mut read = pin!(session.read_request_body());
    let piece = poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(piece) => Poll::Ready(Some(piece)),
        Poll::Pending => deadline.poll_expired(cx).map(|()| None),
    });
    match piece.await {
        Some(Ok(piece)) => Ok(piece),
        Some(Err(error)) if INVALID_CHUNKS.contains(&error.etype().as_str()) => {
            Err(Ended::Unanswered(Refusal::BadRequest("the body's chunks are malformed")))
        }
        Some(Err(_)) => Err(Ended::ClientGone),
        None => Err(Ended::Unanswered(Refusal::RequestTimeout)),
    }
}
