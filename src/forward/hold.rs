//! Reading a request's whole body before it goes anywhere, for steps that have to see all of it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::attempts::ForwardError;
use super::policy::{Pace, Policy};
use crate::base::Deadline;
use crate::client::{Client, ClientError};
use crate::pipeline::{Exchange, Refusal, TapError, Taps};

/// What has to be read can't be.
pub(super) const UNDECODABLE: Refusal = Refusal::BadRequest("the body is not what Content-Encoding says");

/// Reads the body into [`Exchange::body`], at most [`Policy::body_limit`] bytes of it.
///
/// # Errors
/// When it is too large or too slow, when its chunks are malformed, and when the client leaves.
pub async fn hold_body(client: &mut Client, exchange: &mut Exchange, policy: &Policy) -> Result<(), ForwardError> {
    if exchange.body.is_some() {
        return Ok(());
    }
    let too_large = || ForwardError::Refused(Refusal::BodyTooLarge { limit: policy.body_limit });
    if client.declared_length().is_some_and(|it| it > policy.body_limit) {
        return Err(too_large());
    }
    if let Some(body) = client.body_at_hand() {
        exchange.body = Some(body);
        return Ok(());
    }
    // The upstream is not consulted: by the time it is called, the body is here.
    client.say_continue();
    client.forget_expectation();
    let mut deadline = Deadline::idle();
    let mut pace = Pace::since(exchange.started);
    let mut body = BytesMut::new();
    loop {
        let look = pace.next_look(policy);
        deadline.arm_at(exchange.deadline.map_or(look, |it| it.min(look)));
        let piece = poll_fn(|cx| {
            if client.unwritten() > 0
                && let Poll::Ready(Err(error)) = client.poll_flush(cx)
            {
                return Poll::Ready(Some(Err(error)));
            }
            if let Poll::Ready(piece) = client.poll_body(cx) {
                return Poll::Ready(Some(piece));
            }
            deadline.poll_expired(cx).map(|()| None)
        });
        match piece.await {
            Some(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Some(Ok(None)) => break,
            Some(Err(error)) => return Err(client_failed(error)),
            None => {}
        }
        if body.len() as u64 > policy.body_limit {
            return Err(too_large());
        }
        if exchange.deadline.is_some_and(|it| Instant::now() >= it) {
            return Err(ForwardError::Refused(Refusal::CallDeadline));
        }
        pace.saw(body.len() as u64);
        if pace.is_lost(policy, true) {
            return Err(ForwardError::Refused(Refusal::RequestTimeout));
        }
    }
    exchange.body = Some(body.freeze());
    Ok(())
}

/// Shows taps a body that is there as a whole, before anything of it is sent; what they make of it is what goes on.
///
/// # Errors
/// When one of them stops it, or can't look through all of it.
pub fn show_whole(taps: &mut Taps, body: Bytes) -> Result<Bytes, ForwardError> {
    match taps.whole(body) {
        Ok(shown) if shown.ended.is_some() => Err(ForwardError::Refused(Refusal::ContentStopped)),
        Ok(shown) => Ok(shown.joined()),
        Err(TapError::TooLong { limit }) => Err(ForwardError::Refused(Refusal::BodyTooLarge { limit: limit as u64 })),
        Err(TapError::Malformed) => Err(ForwardError::Refused(UNDECODABLE)),
    }
}

/// What a client's failure is, before it has an answer.
pub(super) fn client_failed(error: ClientError) -> ForwardError {
    match error {
        ClientError::Malformed(why) => ForwardError::Refused(Refusal::BadRequest(why)),
        ClientError::Gone | ClientError::Incomplete => ForwardError::ClientGone,
    }
}

/// Waits for something, for as long as the client does. The request's body has to be read.
///
/// # Errors
/// When the client leaves.
pub async fn unless_gone<T>(client: &mut Client, wanted: impl Future<Output = T>) -> Result<T, ForwardError> {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        if let Poll::Ready(it) = wanted.as_mut().poll(cx) {
            return Poll::Ready(Ok(it));
        }
        client.poll_gone(cx).map(|()| Err(ForwardError::ClientGone))
    })
    .await
}
