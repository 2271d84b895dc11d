//! What the cache has to do with a request's way: cached responses are served, what is to be stored is recorded, what
//! may still hold is revalidated.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::{self, CacheRequest, CachedResponse, Fill, Lookup, LookupResult};
use crate::client::Client;
use crate::filters::{Reservation, StoredResponse};
use crate::forward::{
    Collected, Destination, Destinations, ForwardError, Forwarder, Policy, RequestBody, UpstreamResponse, Worker,
    unless_gone,
};
use crate::pipeline::{AttemptInfo, Context, Exchange, Recording, Refusal, Scheme};
use crate::proxy::way::Admitted;
use crate::proxy::{Proxy, Shared, Unfinished, refuse, stopped};
use crate::routing::Params;

/// What a request is about, for the cache: the target as the client named it, and the tags of its route.
pub(super) struct Subject {
    target: cache::Target,
    tags: Vec<u64>,
    change: Option<Box<cache::Change>>,
}

/// `None` if the cache has nothing to do with the request.
pub(super) fn subject(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &Exchange,
    request: &RequestHeader,
    params: &Params,
) -> Option<Subject> {
    if !admitted.route().action.forwards() {
        return None;
    }
    let rules = admitted.route().chain.cache.as_deref();
    let about = || {
        let target = cache::Target::of(exchange.scheme == Scheme::Https, request, &request.uri);
        (target, rules.map(|it| it.tags(params, request.uri.path())).unwrap_or_default())
    };
    let change = shared.cache.change(&request.method, rules, about);
    if rules.is_none() && change.is_none() {
        return None;
    }
    let (target, tags) = about();
    Some(Subject { target, tags, change })
}

/// Looks up a cached response.
pub(super) async fn lookup(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
    subject: Subject,
) -> Result<Option<Box<CachedResponse>>, ForwardError> {
    let Subject { target, tags, change } = subject;
    let Some(rules) = &admitted.route().chain.cache else {
        admitted.set_lookup(Lookup { status: None, fill: None, change, word: None });
        return Ok(None);
    };
    exchange.set_identity_headers(client.request_mut());
    let (principal, body) = (exchange.principal.clone(), exchange.body.clone());
    let verified = exchange.verified_field.clone();
    let caller = (principal.as_deref(), verified.as_ref());
    let claims = exchange.claims.clone();
    let part = admitted.part();
    let asked = CacheRequest::new(&target, client.request(), caller, &claims, body.as_deref()).at_part(part);
    let result = match shared.cache.lookup_in_memory(rules, asked, &tags) {
        Some(result) => result,
        None => {
            // What has to be waited for is waited for only as long as the client does.
            let request = Box::new(client.request().clone());
            let asked = CacheRequest::new(&target, &request, caller, &claims, body.as_deref()).at_part(part);
            let lookup = Box::pin(shared.cache.lookup(rules, asked, &tags));
            unless_gone(client, lookup).await?
        }
    };
    let (status, fill) = match result {
        LookupResult::Hit(cached) => return Ok(Some(cached)),
        LookupResult::Pass(status) => (Some(status), None),
        LookupResult::Fill(fill) => (None, Some(fill)),
        LookupResult::NotCached(status) => {
            admitted.set_lookup(Lookup::status(status));
            return Err(ForwardError::Refused(Refusal::NotCached));
        }
    };
    admitted.set_lookup(Lookup { status, fill, change, word: None });
    Ok(None)
}

/// Prepares to record the response, if it may be stored. True if the upstream request has to be another one
/// than the client's: for the whole response, or a revalidation of the stored one.
pub(super) fn begin(exchange: &mut Exchange, admitted: &Admitted) -> bool {
    let lookup = admitted.lookup();
    let Some(fill) = lookup.as_ref().and_then(|it| it.fill.as_ref()) else { return false };
    exchange.recording = Some(Box::new(Recording::new(fill.body_max())));
    fill.asks()
}

/// The response has passed.
pub(super) fn finish(exchange: &mut Exchange, admitted: &Admitted) {
    let Some(lookup) = &mut *admitted.lookup() else { return };
    let answer = exchange.recording.take().and_then(|it| it.into_answer());
    lookup.finish(answer.map(|it| it.1));
}

/// There is no response to record.
pub(super) fn abandon(exchange: &mut Exchange, admitted: &Admitted) {
    if let Some(lookup) = &mut *admitted.lookup() {
        lookup.abandon();
    }
    exchange.recording = None;
}

impl Proxy {
    /// Sends a client a cached response.
    pub(super) async fn send_cached(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        cached: CachedResponse,
        reservation: Option<Reservation>,
    ) -> Result<(), Unfinished> {
        let CachedResponse { head, body, status, refresh } = cached;
        if let Some(fill) = refresh {
            self.refresh(fill, client.request(), exchange, admitted);
        }
        if let Some(reservation) = reservation {
            let mut headers = head.headers.clone();
            headers.remove(http::header::CONTENT_LENGTH); // it is that of the body
            reservation.store(&StoredResponse { status: head.status, headers, body: body.clone() }).await;
        }
        admitted.set_lookup(Lookup::status(status));
        self.give_again(client, exchange, admitted, (head, body)).await
    }

    /// Fetches a whole response, or revalidates the stored one (RFC 9111, section 4.3),
    /// and sends the client what comes of it.
    pub(super) async fn fetch_for_cache(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> Result<(), Unfinished> {
        let fill = admitted.lookup().as_mut().and_then(|it| it.fill.take());
        let Some(mut fill) = fill else { return refuse(client, exchange, admitted, Refusal::Internal).await };
        let response = match self.ask_for_cache(client, exchange, admitted, &mut fill).await {
            Ok(response) => response,
            Err(ForwardError::Refused(refusal)) => {
                return match fill.failed(None) {
                    Some(cached) => self.send_cached(client, exchange, admitted, cached, None).await,
                    None => refuse(client, exchange, admitted, refusal).await,
                };
            }
            Err(why) => return stopped(client, exchange, admitted, why).await,
        };
        if let Some(cached) = fill.failed(Some(response.head.status)) {
            let UpstreamResponse { mut body, .. } = response;
            body.finish().await;
            return self.send_cached(client, exchange, admitted, cached, None).await;
        }
        if response.head.status == StatusCode::NOT_MODIFIED && fill.has_kept() {
            let UpstreamResponse { head, mut body } = response;
            body.finish().await;
            return match fill.confirmed(&head) {
                Some(cached) => self.send_cached(client, exchange, admitted, cached, None).await,
                None => refuse(client, exchange, admitted, Refusal::UpstreamProtocol).await,
            };
        }
        if fill.is_known_to_client(&response.head) {
            return self.only_for_the_cache(client, exchange, admitted, *fill, response).await;
        }
        exchange.recording = Some(Box::new(Recording::new(fill.body_max())));
        admitted.set_lookup(Lookup { status: None, fill: Some(fill), change: None, word: None });
        self.deliver(response, client, exchange, admitted).await
    }

    /// Asks the upstream; once more and without a condition, if its 304 is about something else than what is kept.
    async fn ask_for_cache(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        fill: &mut Fill,
    ) -> Result<UpstreamResponse, ForwardError> {
        let mut request = RequestHeader::clone(&client.shared_request());
        fill.ask_on_conditions(&mut request);
        let mut copy = self.copy(client, exchange, admitted);
        loop {
            let interim = |head: &mut ResponseHeader| admitted.on_interim(head);
            let taps = exchange.request_taps.take();
            let edited = exchange.edited.request.clone();
            let body = RequestBody::of(client, exchange.body.clone());
            let body = body.with_taps(taps).with_copy(copy.take()).with_edited(edited).with_interim(&interim);
            let Exchange { context, attempt, .. } = &mut *exchange;
            let response = self.forwarder(admitted).forward(&request, body, context, attempt).await?;
            if !is_about_something_else(fill, &response.head) {
                return Ok(response);
            }
            let UpstreamResponse { mut body, .. } = response;
            body.finish().await;
            fill.ask_for(&mut request); // nothing is kept any more: this was the last condition
        }
    }

    /// The client has the response already: its body is read for the cache alone.
    async fn only_for_the_cache(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        mut fill: Fill,
        response: UpstreamResponse,
    ) -> Result<(), Unfinished> {
        let body_max = fill.body_max();
        let fits = fill.fits(&response.head);
        let wanted = fill.on_head(&response.head) && fits;
        let UpstreamResponse { head, mut body } = response;
        if !wanted {
            let status = fill.status();
            admitted.set_lookup(Lookup::status(status));
            body.finish().await;
            let known = UpstreamResponse::of(cache::not_modified_of(&head), Bytes::new());
            return self.deliver(known, client, exchange, admitted).await;
        }
        let policy = &admitted.route().policy;
        let until = Instant::now() + policy.request;
        match unless_gone(client, body.collect(body_max, policy, until)).await {
            Ok(Ok(Collected::Whole(body))) => match fill.finish_and_give(body) {
                Some(cached) => self.send_cached(client, exchange, admitted, cached, None).await,
                None => refuse(client, exchange, admitted, Refusal::Internal).await,
            },
            Ok(_) => refuse(client, exchange, admitted, Refusal::UpstreamClosed).await,
            Err(why) => stopped(client, exchange, admitted, why).await,
        }
    }

    /// Fetches a response anew, in the background.
    fn refresh(&self, fill: Fill, request: &RequestHeader, exchange: &Exchange, admitted: &Admitted) {
        let Some(room) = fill.in_background() else { return };
        let mut request = request.clone();
        fill.ask_for(&mut request);
        request.set_method(fill.fetches_with());
        let fetch = Fetch {
            fill,
            worker: self.worker.clone(),
            destination: admitted.destination().clone(),
            upstreams: admitted.active.upstreams.clone(),
            request,
            body: exchange.body.clone().unwrap_or_default(),
            policy: admitted.route().policy.clone(),
            context: Context { started: Instant::now(), ..exchange.context.clone() },
        };
        tokio::spawn(async move {
            fetch.run().await;
            drop(room);
        });
    }
}

/// Whether it is a 304 about another version than the one that is kept, and that is now gone.
fn is_about_something_else(fill: &mut Fill, head: &ResponseHeader) -> bool {
    head.status == StatusCode::NOT_MODIFIED && fill.has_kept() && !fill.is_confirmed_by(head)
}

/// A refresh: a response that is fetched in the background.
struct Fetch {
    fill: Fill,
    worker: Arc<Worker>,
    destination: Destination,
    upstreams: Arc<Destinations>,
    request: RequestHeader,
    body: Bytes,
    policy: Policy,
    context: Context,
}

impl Fetch {
    async fn run(self) {
        let Self { mut fill, worker, destination, upstreams, mut request, body, policy, context } = self;
        let forwarder =
            Forwarder { worker: &worker, destination: &destination, policy: &policy, upstreams: &upstreams };
        let (head, mut body) = loop {
            let body = RequestBody::bytes(body.clone());
            let forwarded = forwarder.forward(&request, body, &context, &mut AttemptInfo::default()).await;
            let Ok(UpstreamResponse { head, mut body }) = forwarded else { return };
            if !is_about_something_else(&mut fill, &head) {
                break (head, body);
            }
            body.finish().await;
            fill.ask_for(&mut request);
        };
        if head.status == StatusCode::NOT_MODIFIED {
            body.finish().await;
            fill.confirmed(&head);
        } else if !head.status.is_server_error() && fill.on_head(&head) {
            let until = Instant::now() + policy.request;
            if let Ok(Collected::Whole(body)) = body.collect(fill.body_max(), &policy, until).await {
                fill.finish(body);
            }
        }
    }
}
