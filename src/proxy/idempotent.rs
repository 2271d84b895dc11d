//! An idempotent request: it goes on though its client leaves, and its response is stored for repetitions before the
//! client gets the end of it (CP2-B).

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::client::Client;
use crate::deliver::{Undelivered, deliver_parts};
use crate::filters::{Reservation, StoredResponse};
use crate::forward::{
    Collected, Destination, Destinations, ForwardError, Forwarder, Frame, Policy, RequestBody, UpstreamBody,
    UpstreamResponse, Worker, unless_gone,
};
use crate::http as codec;
use crate::pipeline::{AttemptInfo, Context, EndState, Exchange, Recording, Refusal};
use crate::proxy::orphans::Orphans;
use crate::proxy::way::Admitted;
use crate::proxy::{Proxy, Unfinished, cached, cut, stopped, undelivered};

/// What an idempotent request needs, owned: it may outlive the client that sent it.
struct IdempotentRequest {
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
    /// Where the response is a stream that is stored when it has ended: what it is stored in.
    recorded: Option<Reservation>,
}

/// A future that is brought to its end even if the task that waits for it is dropped.
struct Unstoppable<F: Future<Output = Performed> + Send + 'static> {
    work: Option<Pin<Box<F>>>,
    orphans: Orphans,
    network: IpAddr,
}

impl<F: Future<Output = Performed> + Send + 'static> Unstoppable<F> {
    async fn done(&mut self) -> Performed {
        let performed = poll_fn(|cx| match &mut self.work {
            Some(work) => work.as_mut().poll(cx),
            None => Poll::Pending, // it is polled to its end once
        })
        .await;
        self.work = None;
        performed
    }
}

impl<F: Future<Output = Performed> + Send + 'static> Drop for Unstoppable<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let orphan = self.orphans.begin(self.network);
            runtime.spawn(async move {
                let _counted = orphan;
                let Performed { answer, recorded, policy, .. } = work.await;
                if let (Ok(response), Some(reservation)) = (answer, recorded) {
                    record_rest(reservation, response, policy).await;
                }
            });
        }
    }
}

impl Proxy {
    /// Forwards an idempotent request, and sends its client the response.
    pub(super) async fn forward_idempotent(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        reservation: Reservation,
    ) -> Result<(), Unfinished> {
        let upstream = Some(admitted.destination().name().clone());
        let report = Arc::new(Mutex::new(AttemptInfo { upstream, ..AttemptInfo::default() }));
        let idempotent = IdempotentRequest {
            worker: self.worker.clone(),
            destination: admitted.destination().clone(),
            upstreams: admitted.active.upstreams.clone(),
            request: client.shared_request(),
            body: exchange.body.clone().unwrap_or_default(),
            policy: admitted.route().policy.clone(),
            context: exchange.context.clone(),
            report: report.clone(),
        };
        if let Some(copy) = self.copy(client, exchange, admitted) {
            copy.whole(&idempotent.body);
        }
        let (orphans, network) = (self.shared.orphans.clone(), reservation.network());
        let work = Some(Box::pin(perform(reservation, idempotent)));
        let mut work = Unstoppable { work, orphans, network };
        let performed = unless_gone(client, work.done()).await;
        exchange.attempt.clone_from(&report.lock());
        let Performed { answer, recorded, .. } = match performed {
            Ok(performed) => performed,
            Err(why) => return stopped(client, exchange, admitted, why).await,
        };
        match (answer, recorded) {
            (Ok(response), None) => self.deliver(response, client, exchange, admitted).await,
            (Ok(response), Some(reservation)) => {
                self.deliver_and_record(client, exchange, admitted, response, reservation).await
            }
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
        reservation: Reservation,
    ) -> Result<(), Unfinished> {
        let UpstreamResponse { head, mut body } = response;
        let policy = &admitted.route().policy;
        exchange.recording = Some(Box::new(Recording::new(reservation.record_max())));
        let streaming = admitted.streaming(&self.shared);
        let ended = deliver_parts(head, &mut body, client, exchange, policy, admitted, &streaming).await;
        let recording = exchange.recording.take();
        match ended {
            Ok(()) => {
                body.finish().await;
                store(reservation, recording).await;
                cached::finish(exchange, admitted);
                exchange.end.get_or_insert(EndState::Done);
                Ok(())
            }
            Err(Undelivered::Cut(end @ (EndState::ClientGone | EndState::ClientTimeout))) => {
                let (orphan, policy) = (self.shared.orphans.begin(reservation.network()), policy.clone());
                tokio::spawn(async move {
                    let _counted = orphan;
                    drain(reservation, body, recording, policy).await;
                });
                cut(exchange, end)
            }
            Err(why) => {
                // Half a stream was seen: what it stands for may be done.
                reservation.store_nothing().await;
                undelivered(client, exchange, admitted, why).await
            }
        }
    }
}

async fn perform(reservation: Reservation, idempotent: IdempotentRequest) -> Performed {
    let IdempotentRequest { worker, destination, upstreams, request, body, policy, context, report } = idempotent;
    let forwarder = Forwarder { worker: &worker, destination: &destination, policy: &policy, upstreams: &upstreams };
    let (mut recorded, mut info) = (None, AttemptInfo::default());
    let forwarded = forwarder.forward(&request, RequestBody::bytes(body).reporting_to(&report), &context, &mut info);
    let forwarded = forwarded.await;
    *report.lock() = info;
    let answer = match forwarded {
        // Server errors are not stored: the request may be tried again (decision 4).
        Ok(response) if response.head.status.is_server_error() => {
            reservation.release().await;
            Ok(response)
        }
        Ok(response) if codec::is_event_stream(&response.head.headers) => {
            if reservation.stores_streams() {
                recorded = Some(reservation);
            } else {
                reservation.store_nothing().await;
            }
            Ok(response)
        }
        Ok(response) => whole(reservation, response, &policy, &context).await,
        Err(why) => {
            reservation.release().await;
            Err(why)
        }
    };
    Performed { answer, policy, recorded }
}

/// Reads the whole response and stores it, before the client gets it.
async fn whole(
    reservation: Reservation,
    response: UpstreamResponse,
    policy: &Policy,
    context: &Context,
) -> Result<UpstreamResponse, ForwardError> {
    let UpstreamResponse { head, mut body } = response;
    let until = Instant::max(Instant::now(), context.started) + policy.request;
    match body.collect(reservation.record_max(), policy, until).await {
        Ok(Collected::Whole(body)) => {
            reservation.store(&stored_response(&head, body.clone())).await;
            let mut head = head;
            // What came in chunks is at hand now, and its length known.
            if !head.headers.contains_key(CONTENT_LENGTH) && head.status != http::StatusCode::NO_CONTENT {
                let _ = head.insert_header(CONTENT_LENGTH, body.len());
            }
            Ok(UpstreamResponse::of(head, body))
        }
        Ok(Collected::TooLarge) => {
            reservation.store_nothing().await;
            Ok(UpstreamResponse { head, body })
        }
        Err(_) => {
            body.finish().await;
            reservation.release().await;
            Err(ForwardError::Refused(Refusal::UpstreamClosed))
        }
    }
}

fn stored_response(head: &ResponseHeader, body: Bytes) -> StoredResponse {
    let mut headers = head.headers.clone();
    headers.remove(CONTENT_LENGTH); // it is that of the body
    StoredResponse { status: head.status, headers, body }
}

async fn store(reservation: Reservation, recording: Option<Box<Recording>>) {
    match recording.and_then(|it| it.into_answer()) {
        Some((head, body)) => reservation.store(&stored_response(&head, body)).await,
        None => reservation.store_nothing().await,
    }
}

/// Reads the rest of a stream whose client has left.
async fn drain(reservation: Reservation, mut body: UpstreamBody, recording: Option<Box<Recording>>, policy: Policy) {
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
                return store(reservation, recording).await;
            }
            Err(_) => return reservation.store_nothing().await,
        }
    }
}

/// Reads a stream whose client left before it began.
async fn record_rest(reservation: Reservation, response: UpstreamResponse, policy: Policy) {
    let UpstreamResponse { head, body } = response;
    let mut recording = Box::new(Recording::new(reservation.record_max()));
    recording.on_head(&head);
    drain(reservation, body, Some(recording), policy).await;
}
