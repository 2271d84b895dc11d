//! An idempotent request: it goes on though its client leaves, and its answer is stored for repetitions before the client
//! gets the end of it (CP2-B).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::client::Client;
use crate::deliver::{Undelivered, deliver_parts};
use crate::filters::{Deed, Kept};
use crate::forward::{
    Collected, Destination, Destinations, ForwardError, Forwarder, Frame, Policy, RequestBody, UpstreamBody,
    UpstreamResponse, Worker, unless_gone,
};
use crate::http as codec;
use crate::pipeline::{AttemptInfo, Context, EndState, Exchange, Recording, Refusal};
use crate::proxy::way::Admitted;
use crate::proxy::{Proxy, Unfinished, cached, cut, stopped, undelivered};

/// What an idempotent request needs, owned: it may outlive the client that asked for it.
struct Order {
    worker: Arc<Worker>,
    destination: Destination,
    upstreams: Arc<Destinations>,
    request: Arc<RequestHeader>,
    body: Bytes,
    policy: Policy,
    context: Context,
    /// How far it is, also for the line of a client that has left.
    report: Arc<Mutex<AttemptInfo>>,
}

/// What became of one.
struct Performed {
    answer: Result<UpstreamResponse, ForwardError>,
    policy: Policy,
    /// Where the answer is a stream that is stored when it has ended: what it is stored in.
    recorded: Option<Deed>,
}

/// A future that is brought to its end whatever becomes of whoever waits for it.
struct Unstoppable<F: Future<Output = Performed> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output = Performed> + Send + 'static> Unstoppable<F> {
    async fn done(&mut self) -> Performed {
        let performed = poll_fn(|cx| match &mut self.0 {
            Some(work) => work.as_mut().poll(cx),
            None => Poll::Pending, // it is asked once
        })
        .await;
        self.0 = None;
        performed
    }
}

impl<F: Future<Output = Performed> + Send + 'static> Drop for Unstoppable<F> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let Performed { answer, recorded, policy, .. } = work.await;
                if let (Ok(response), Some(deed)) = (answer, recorded) {
                    record_rest(deed, response, policy).await;
                }
            });
        }
    }
}

impl Proxy {
    /// Has an idempotent request done, and gives its client the answer.
    pub(super) async fn once(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        deed: Deed,
    ) -> Result<(), Unfinished> {
        let upstream = Some(admitted.destination().name().clone());
        let report = Arc::new(Mutex::new(AttemptInfo { upstream, ..AttemptInfo::default() }));
        let order = Order {
            worker: self.worker.clone(),
            destination: admitted.destination().clone(),
            upstreams: admitted.serving.upstreams.clone(),
            request: client.shared_request(),
            body: exchange.body.clone().unwrap_or_default(),
            policy: admitted.route().policy.clone(),
            context: exchange.context.clone(),
            report: report.clone(),
        };
        let mut work = Unstoppable(Some(Box::pin(claimed(deed, order))));
        let performed = unless_gone(client, work.done()).await;
        exchange.attempt.clone_from(&report.lock());
        let Performed { answer, recorded, .. } = match performed {
            Ok(performed) => performed,
            Err(why) => return stopped(client, exchange, admitted, why).await,
        };
        match (answer, recorded) {
            (Ok(response), None) => self.deliver(response, client, exchange, admitted).await,
            (Ok(response), Some(deed)) => self.deliver_and_record(client, exchange, admitted, response, deed).await,
            (Err(why), _) => stopped(client, exchange, admitted, why).await,
        }
    }

    /// Passes a stream on as it comes, and stores it when it has ended: also when its client has left by then.
    async fn deliver_and_record(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        response: UpstreamResponse,
        deed: Deed,
    ) -> Result<(), Unfinished> {
        let UpstreamResponse { head, mut body } = response;
        let policy = &admitted.route().policy;
        exchange.recording = Some(Box::new(Recording::new(deed.record_max())));
        let ending = self.worker.ending();
        let ended = deliver_parts(head, &mut body, client, exchange, policy, admitted, ending).await;
        let recording = exchange.recording.take();
        match ended {
            Ok(()) => {
                body.finish().await;
                store(deed, recording).await;
                cached::finish(exchange);
                exchange.end.get_or_insert(EndState::Done);
                Ok(())
            }
            Err(Undelivered::Cut(end @ (EndState::ClientGone | EndState::ClientTimeout))) => {
                tokio::spawn(drain(deed, body, recording, policy.clone()));
                cut(exchange, end)
            }
            Err(why) => {
                // Half a stream was seen: what it stands for may be done.
                deed.keep_nothing().await;
                undelivered(client, exchange, admitted, why).await
            }
        }
    }
}

/// Does it, and renews the claim meanwhile.
async fn claimed(deed: Deed, order: Order) -> Performed {
    let (records, key, running) = deed.claim();
    let mut performed = pin!(perform(deed, order));
    let mut renewed = pin!(Deed::renew(records, key, running));
    poll_fn(|cx| {
        if let Poll::Ready(performed) = performed.as_mut().poll(cx) {
            return Poll::Ready(performed);
        }
        let _ = renewed.as_mut().poll(cx); // it never ends
        Poll::Pending
    })
    .await
}

async fn perform(deed: Deed, order: Order) -> Performed {
    let Order { worker, destination, upstreams, request, body, policy, context, report } = order;
    let forwarder = Forwarder { worker: &worker, destination: &destination, policy: &policy, upstreams: &upstreams };
    let (mut recorded, mut info) = (None, AttemptInfo::default());
    let forwarded = forwarder.forward(&request, RequestBody::bytes(body).reporting_to(&report), &context, &mut info);
    let forwarded = forwarded.await;
    *report.lock() = info;
    let answer = match forwarded {
        // Server errors are not stored: the request may be tried again (decision 4).
        Ok(response) if response.head.status.is_server_error() => {
            deed.give_up().await;
            Ok(response)
        }
        Ok(response) if codec::is_event_stream(&response.head.headers) => {
            if deed.keeps_streams() {
                recorded = Some(deed);
            } else {
                deed.keep_nothing().await;
            }
            Ok(response)
        }
        Ok(response) => whole(deed, response, &policy, &context).await,
        Err(why) => {
            deed.give_up().await;
            Err(why)
        }
    };
    Performed { answer, policy, recorded }
}

/// Reads the whole answer and stores it, before anybody gets it.
async fn whole(
    deed: Deed,
    response: UpstreamResponse,
    policy: &Policy,
    context: &Context,
) -> Result<UpstreamResponse, ForwardError> {
    let UpstreamResponse { head, mut body } = response;
    let until = Instant::max(Instant::now(), context.started) + policy.request;
    match body.collect(deed.record_max(), policy, until).await {
        Ok(Collected::Whole(body)) => {
            deed.keep(&kept(&head, body.clone())).await;
            let mut head = head;
            // What came in chunks is at hand now, and its length known.
            if !head.headers.contains_key(CONTENT_LENGTH) && head.status != http::StatusCode::NO_CONTENT {
                let _ = head.insert_header(CONTENT_LENGTH, body.len());
            }
            Ok(UpstreamResponse::of(head, body))
        }
        Ok(Collected::TooLarge) => {
            deed.keep_nothing().await;
            Ok(UpstreamResponse { head, body })
        }
        Err(_) => {
            body.finish().await;
            deed.give_up().await;
            Err(ForwardError::Refused(Refusal::UpstreamClosed))
        }
    }
}

fn kept(head: &ResponseHeader, body: Bytes) -> Kept {
    let mut headers = head.headers.clone();
    headers.remove(CONTENT_LENGTH); // it is that of the body
    Kept { status: head.status, headers, body }
}

async fn store(deed: Deed, recording: Option<Box<Recording>>) {
    match recording.and_then(|it| it.into_answer()) {
        Some((head, body)) => deed.keep(&kept(&head, body)).await,
        None => deed.keep_nothing().await,
    }
}

/// Reads the rest of a stream whose client has left.
async fn drain(deed: Deed, mut body: UpstreamBody, recording: Option<Box<Recording>>, policy: Policy) {
    let mut recording = recording;
    loop {
        match body.frame(&policy).await {
            Ok(Frame::Data(piece)) => {
                if let Some(recording) = &mut recording {
                    recording.on_body(&piece);
                }
            }
            Ok(Frame::End(_)) => {
                if let Some(recording) = &mut recording {
                    recording.on_end();
                }
                return store(deed, recording).await;
            }
            Err(_) => return deed.keep_nothing().await,
        }
    }
}

/// Reads a stream whose client left before it began.
async fn record_rest(deed: Deed, response: UpstreamResponse, policy: Policy) {
    let UpstreamResponse { head, body } = response;
    let mut recording = Box::new(Recording::new(deed.record_max()));
    recording.on_head(&head);
    drain(deed, body, Some(recording), policy).await;
}
