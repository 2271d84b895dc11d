//! Waiting for a place at an upstream that works on as many requests as it may.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{Call, ForwardError, breaker_open};
use crate::base::Deadline;
use crate::pipeline::Refusal;
use crate::upstream::{Admission, Concurrency, Live, Permit, Turn};

/// How the waiting ended.
enum Waited {
    Turn(Option<Permit>),
    TooLong,
    ClientGone,
}

impl Call<'_> {
    /// A place at the upstream, at once or by the priority of the route.
    ///
    /// # Errors
    /// When there is no room to wait in, or the turn does not come in time, or the client leaves.
    pub(super) async fn turn(&mut self, live: &Live, limit: &Arc<Concurrency>) -> Result<Permit, ForwardError> {
        match limit.admit(self.policy.priority) {
            Admission::Now(permit) => Ok(permit),
            Admission::Later(turn) => Box::pin(self.wait(live, turn)).await,
            Admission::Shed => Err(ForwardError::Refused(Refusal::UpstreamOverloaded)),
        }
    }

    async fn wait(&mut self, live: &Live, turn: Turn) -> Result<Permit, ForwardError> {
        // Whoever waits for an upstream that is known to fail waits in vain.
        if let Some(wait) = live.breaker_closed_for() {
            return Err(breaker_open(wait));
        }
        let began = Instant::now();
        let mut limit = turn.timeout;
        if let Some(deadline) = self.context.deadline {
            limit = limit.min(deadline.saturating_duration_since(began));
        }
        let mut turn = pin!(turn);
        let permit = match self.waited(turn.as_mut(), limit).await {
            Waited::Turn(permit) => permit,
            Waited::TooLong => turn.give_up(),
            Waited::ClientGone => return Err(ForwardError::ClientGone),
        };
        self.info.queued = Some(began.elapsed());
        match permit {
            Some(permit) => Ok(permit),
            None if self.is_past_deadline() => Err(ForwardError::Refused(Refusal::CallDeadline)),
            None => Err(ForwardError::Refused(Refusal::UpstreamOverloaded)),
        }
    }

    async fn waited(&mut self, mut turn: std::pin::Pin<&mut Turn>, limit: Duration) -> Waited {
        let mut deadline = Deadline::after(limit);
        poll_fn(|cx| {
            if let Poll::Ready(permit) = turn.as_mut().poll(cx) {
                return Poll::Ready(Waited::Turn(permit));
            }
            if let Some(client) = &mut self.client
                && client.body_is_done()
                && client.poll_gone(cx).is_ready()
            {
                return Poll::Ready(Waited::ClientGone);
            }
            deadline.poll_expired(cx).map(|()| Waited::TooLong)
        })
        .await
    }
}
