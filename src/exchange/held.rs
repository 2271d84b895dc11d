//! Reading a request's whole body before it goes anywhere, for steps that have to see all of it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::protocols::http::ServerSession;

use crate::base::Deadline;
use crate::exchange::policy::Policy;
use crate::exchange::pump::{Ended, INVALID_CHUNKS};
use crate::pipeline::{Exchange, Refusal};

/// Reads the body into [`Exchange::body`], at most [`Policy::body_limit`] bytes of it.
///
/// # Errors
/// When it is too large or too slow, when its chunks are malformed, and when the client leaves.
pub async fn hold_body(session: &mut ServerSession, exchange: &mut Exchange, policy: &Policy) -> Result<(), Ended> {
    if exchange.body.is_some() {
        return Ok(());
    }
    if broke_off(session) {
        return Err(Ended::ClientGone);
    }
    let too_large = || Ended::Unanswered(Refusal::BodyTooLarge { limit: policy.body_limit });
    if super::dispatch::declared_length(session) > policy.body_limit {
        return Err(too_large());
    }
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
    let declared = session.get_header(CONTENT_LENGTH).is_some().then(|| super::dispatch::declared_length(session));
    if session.is_http2() && declared.is_some_and(|it| it != body.len() as u64) {
        return Err(Ended::ClientGone);
    }
    exchange.body = Some(body.freeze());
    Ok(())
}

/// Whether the client has reset its stream, or broken its own word about the length, before anybody read
/// of it: in HTTP/2 such a body looks as if it had ended.
pub(super) fn broke_off(session: &mut ServerSession) -> bool {
    session.is_http2()
        && session.is_body_done()
        && session.get_header(CONTENT_LENGTH).is_some()
        && matches!(session.read_request_body().now_or_never(), Some(Err(_)))
}

/// Waits for something, for as long as the client does. The request's body has to be read.
///
/// # Errors
/// When the client leaves.
pub async fn unless_left<T>(session: &mut ServerSession, wanted: impl Future<Output = T>) -> Result<T, Ended> {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        if let Poll::Ready(it) = wanted.as_mut().poll(cx) {
            return Poll::Ready(Ok(it));
        }
        pin!(session.read_body_or_idle(true)).poll(cx).map(|_| Err(Ended::ClientGone))
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
