//! A request whose answer is late goes to a second endpoint as well, and the answer that comes first is taken.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http::Method;

use super::{Answered, Call, Failed, Tried, Upload};
use crate::base::Deadline;
use crate::pipeline::AttemptInfo;
use crate::upstream::{Live, Outcome, Permit, Picked};

/// How a race of two endpoints ended.
enum Race {
    /// What the first one says counts.
    First(Result<Answered, Failed>),
    Second(Answered),
}

impl Call<'_> {
    /// An attempt; where the upstream has `hedge`, of two endpoints if the first is late. Those that were asked are in
    /// `tried`.
    pub(super) async fn first_of_two(
        &mut self,
        live: &Live,
        picked: Picked,
        tried: &mut Tried,
    ) -> Result<Answered, Failed> {
        if live.upstream().hedge.is_none() || !self.may_be_hedged(tried) {
            return self.attempt(live, picked).await;
        }
        match live.hedge_after() {
            Some(after) => Box::pin(self.race(live, picked, after, tried)).await,
            None => {
                let answered = self.attempt(live, picked).await;
                note(live, &answered);
                answered
            }
        }
    }

    /// A request that changes nothing, and is there as a whole; the first time that it is sent.
    fn may_be_hedged(&self, tried: &[SocketAddr]) -> bool {
        let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&self.request.method);
        safe && tried.len() == 1 && !self.upgrade && self.upload.whole_body().is_some()
    }

    async fn race(
        &mut self,
        live: &Live,
        picked: Picked,
        after: Duration,
        tried: &mut Tried,
    ) -> Result<Answered, Failed> {
        let (began, endpoint, late) = (Instant::now(), picked.endpoint().clone(), Arc::new(AtomicBool::new(false)));
        let (worker, policy, request, context) = (self.worker, self.policy, self.request, self.context);
        let body = self.upload.whole_body().cloned().unwrap_or_default();
        let mut info = AttemptInfo { upstream: self.info.upstream.clone(), ..AttemptInfo::default() };
        self.outrun = Some(Arc::clone(&late));
        let race = {
            let mut first = pin!(self.attempt(live, picked));
            if let Some(answered) = Deadline::within(after, &mut first).await {
                Race::First(answered)
            } else if let Some((other, permit)) = second(live, context.balance_key, tried) {
                tried.push(other.endpoint().address());
                info.endpoint = Some(other.endpoint().address());
                let call = Call {
                    worker,
                    policy,
                    request,
                    context,
                    info: &mut info,
                    report: None,
                    client: None,
                    upload: Upload::whole(body),
                    declared: None,
                    upgrade: false,
                    interim: None,
                    interims: None,
                    permit,
                    outrun: Some(Arc::clone(&late)),
                };
                let race = call.against(first.as_mut(), live, other).await;
                live.count_hedge(&endpoint, began.elapsed(), matches!(race, Race::Second(_)));
                late.store(true, Relaxed);
                // It gives its connection back, if it has come to one.
                if matches!(race, Race::Second(_)) {
                    let _ = first.now_or_never();
                }
                race
            } else {
                Race::First(first.await)
            }
        };
        self.outrun = None;
        let attempts = tried.len() as u8;
        self.info.attempts = self.info.attempts.max(attempts);
        match race {
            Race::First(answered) => {
                note(live, &answered);
                answered
            }
            Race::Second(answered) => {
                let AttemptInfo { endpoint, reused, connected, first_byte, .. } = info;
                (self.info.endpoint, self.info.reused) = (endpoint, reused);
                (self.info.connected, self.info.first_byte) = (connected, first_byte);
                Ok(answered)
            }
        }
    }
}

impl Call<'_> {
    /// Asks the second endpoint, while the first one goes on. Only an answer that is no failure wins; the first one's
    /// word counts in all other cases.
    async fn against(
        mut self,
        mut first: Pin<&mut impl Future<Output = Result<Answered, Failed>>>,
        live: &Live,
        other: Picked,
    ) -> Race {
        let late = self.outrun.clone();
        let mut second = pin!(self.attempt(live, other));
        match select(first.as_mut(), second.as_mut()).await {
            Either::Left((Ok(answered), _)) => {
                late.iter().for_each(|it| it.store(true, Relaxed));
                let _ = second.now_or_never();
                Race::First(Ok(answered))
            }
            Either::Left((Err(failed), _)) => match second.await {
                Ok(answered) if is_success(&answered) => Race::Second(answered),
                _ => Race::First(Err(failed)),
            },
            Either::Right((Ok(answered), _)) if is_success(&answered) => Race::Second(answered),
            Either::Right(_) => Race::First(first.await),
        }
    }
}

fn is_success((_, _, attempt): &Answered) -> bool {
    attempt.outcome == Outcome::Success
}

fn note(live: &Live, answered: &Result<Answered, Failed>) {
    if let Ok((_, _, attempt)) = answered {
        live.saw_first(attempt.latency);
    }
}

/// A second endpoint, with a place there, if there is one and the budget of retries allows for it.
fn second(live: &Live, key: Option<u64>, tried: &[SocketAddr]) -> Option<(Picked, Option<Permit>)> {
    if live.eligible() <= tried.len() {
        return None;
    }
    let permit = match live.concurrency() {
        Some(limit) => Some(limit.try_admit()?),
        None => None,
    };
    // What is picked counts as sent, so the budget has its say before.
    let other = live.may_retry().then(|| live.pick(key, tried))??;
    Some((other, permit))
}
