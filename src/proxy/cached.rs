//! What the cache has to do with a request's way: kept answers are given, what is to be kept is taken down, what
//! may still hold is asked for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::{self, Asked, Given, Lead, Visit, Visited};
use crate::client::Client;
use crate::config::Action;
use crate::filters::{Deed, Kept};
use crate::forward::{
    Collected, Destination, Destinations, ForwardError, Forwarder, Policy, RequestBody, UpstreamResponse, Worker,
    unless_gone,
};
use crate::pipeline::{AttemptInfo, Context, Exchange, Recording, Refusal, Scheme};
use crate::proxy::way::Admitted;
use crate::proxy::{Proxy, Shared, Unfinished, refuse, stopped};
use crate::routing::Params;

/// What a request is about, for the cache: the target as the client named it, and the tags that its route gives it.
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
    if !matches!(admitted.route().action, Action::Upstream(_)) {
        return None;
    }
    let rules = admitted.route().chain.cache.as_deref();
    let about = || {
        let field = request.headers.get(http::header::HOST).and_then(|it| it.to_str().ok());
        let host = field.or_else(|| request.uri.authority().map(|it| it.as_str())).unwrap_or_default();
        let target = cache::Target::new(exchange.scheme == Scheme::Https, host, &request.uri);
        (target, rules.map(|it| it.tags(params, request.uri.path())).unwrap_or_default())
    };
    let change = shared.cache.change(&request.method, rules, about);
    if rules.is_none() && change.is_none() {
        return None;
    }
    let (target, tags) = about();
    Some(Subject { target, tags, change })
}

/// Asks the cache for a kept answer.
pub(super) async fn visit(
    admitted: &Admitted,
    shared: &Shared,
    exchange: &mut Exchange,
    client: &mut Client,
    subject: Subject,
) -> Result<Option<Box<Given>>, ForwardError> {
    let Subject { target, tags, change } = subject;
    let Some(rules) = &admitted.route().chain.cache else {
        exchange.cache = Some(Box::new(Visit { told: None, lead: None, change, word: None }));
        return Ok(None);
    };
    exchange.introduce_principal_in(client.request_mut());
    let (principal, body) = (exchange.principal.clone(), exchange.body.clone());
    let asked = Asked::new(&target, client.request(), principal.as_deref(), body.as_deref());
    let visited = match shared.cache.look(rules, asked, &tags) {
        Some(visited) => visited,
        None => {
            // What has to be waited for is waited for only as long as the client does.
            let request = Box::new(client.request().clone());
            let asked = Asked::new(&target, &request, principal.as_deref(), body.as_deref());
            let visit = Box::pin(shared.cache.visit(rules, asked, &tags));
            unless_gone(client, visit).await?
        }
    };
    let (told, lead) = match visited {
        Visited::Given(given) => return Ok(Some(given)),
        Visited::Pass(told) => (Some(told), None),
        Visited::Lead(lead) => (None, Some(lead)),
        Visited::NotKept(told) => {
            exchange.cache = Some(Box::new(Visit::told(told)));
            return Err(ForwardError::Refused(Refusal::NotCached));
        }
    };
    exchange.cache = Some(Box::new(Visit { told, lead, change, word: None }));
    Ok(None)
}

/// Prepares to take the answer down, if it may be kept. True if the upstream has to be asked in another way
/// than the client has: for the whole answer, or whether what is kept still holds.
pub(super) fn begin(exchange: &mut Exchange) -> bool {
    let Some(lead) = exchange.cache.as_ref().and_then(|it| it.lead.as_ref()) else { return false };
    exchange.recording = Some(Box::new(Recording::new(lead.body_max())));
    lead.asks()
}

/// The answer has passed.
pub(super) fn finish(exchange: &mut Exchange) {
    let Some(visit) = &mut exchange.cache else { return };
    let answer = exchange.recording.take().and_then(|it| it.into_answer());
    visit.finish(answer.map(|it| it.1));
}

/// There is no answer to take down.
pub(super) fn forsake(exchange: &mut Exchange) {
    if let Some(visit) = &mut exchange.cache {
        visit.forsake();
    }
    exchange.recording = None;
}

impl Proxy {
    /// Gives a client what is kept.
    pub(super) async fn give(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        given: Given,
        deed: Option<Deed>,
    ) -> Result<(), Unfinished> {
        let Given { head, body, told, refresh } = given;
        if let Some(lead) = refresh {
            self.refresh(lead, client.request(), exchange, admitted);
        }
        if let Some(deed) = deed {
            let mut headers = head.headers.clone();
            headers.remove(http::header::CONTENT_LENGTH); // it is that of the body
            deed.keep(&Kept { status: head.status, headers, body: body.clone() }).await;
        }
        exchange.cache = Some(Box::new(Visit::told(told)));
        self.give_again(client, exchange, admitted, (head, body)).await
    }

    /// Asks the upstream for a whole answer or for word that what is kept still holds (RFC 9111, section 4.3),
    /// and gives the client what comes of it.
    pub(super) async fn ask(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> Result<(), Unfinished> {
        let lead = exchange.cache.as_mut().and_then(|it| it.lead.take());
        let Some(mut lead) = lead else { return refuse(client, exchange, admitted, Refusal::Internal).await };
        let mut request = RequestHeader::clone(&client.shared_request());
        lead.ask_on_conditions(&mut request);
        let interim = |head: &mut ResponseHeader| admitted.on_interim(head);
        let taps = exchange.request_taps.take();
        let body = RequestBody::of(client, exchange.body.clone()).with_taps(taps).with_interim(&interim);
        let Exchange { context, attempt, .. } = &mut *exchange;
        let response = match self.forwarder(admitted).forward(&request, body, context, attempt).await {
            Ok(response) => response,
            Err(ForwardError::Refused(refusal)) => {
                return match lead.failed(None) {
                    Some(given) => self.give(client, exchange, admitted, given, None).await,
                    None => refuse(client, exchange, admitted, refusal).await,
                };
            }
            Err(why) => return stopped(client, exchange, admitted, why).await,
        };
        if let Some(given) = lead.failed(Some(response.head.status)) {
            let UpstreamResponse { mut body, .. } = response;
            body.finish().await;
            return self.give(client, exchange, admitted, given, None).await;
        }
        if response.head.status == StatusCode::NOT_MODIFIED && lead.has_kept() {
            let UpstreamResponse { head, mut body } = response;
            body.finish().await;
            return match lead.confirmed(&head) {
                Some(given) => self.give(client, exchange, admitted, given, None).await,
                None => refuse(client, exchange, admitted, Refusal::UpstreamProtocol).await,
            };
        }
        if lead.is_known_to_client(&response.head) {
            return self.only_for_the_cache(client, exchange, admitted, *lead, response).await;
        }
        exchange.recording = Some(Box::new(Recording::new(lead.body_max())));
        exchange.cache = Some(Box::new(Visit { told: None, lead: Some(lead), change: None, word: None }));
        self.deliver(response, client, exchange, admitted).await
    }

    /// The client has the answer already: its body is read for the cache alone.
    async fn only_for_the_cache(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        mut lead: Lead,
        response: UpstreamResponse,
    ) -> Result<(), Unfinished> {
        let body_max = lead.body_max();
        let fits = lead.fits(&response.head);
        let wanted = lead.on_head(&response.head) && fits;
        let UpstreamResponse { head, mut body } = response;
        if !wanted {
            let told = lead.told();
            exchange.cache = Some(Box::new(Visit::told(told)));
            body.finish().await;
            let known = UpstreamResponse::of(cache::not_modified_of(&head), Bytes::new());
            return self.deliver(known, client, exchange, admitted).await;
        }
        let policy = &admitted.route().policy;
        let until = Instant::now() + policy.request;
        match unless_gone(client, body.collect(body_max, policy, until)).await {
            Ok(Ok(Collected::Whole(body))) => match lead.finish_and_give(body) {
                Some(given) => self.give(client, exchange, admitted, given, None).await,
                None => refuse(client, exchange, admitted, Refusal::Internal).await,
            },
            Ok(_) => refuse(client, exchange, admitted, Refusal::UpstreamClosed).await,
            Err(why) => stopped(client, exchange, admitted, why).await,
        }
    }

    /// Fetches an answer anew, beside the requests.
    fn refresh(&self, lead: Lead, request: &RequestHeader, exchange: &Exchange, admitted: &Admitted) {
        let Some(room) = lead.in_background() else { return };
        let mut request = request.clone();
        lead.ask_for(&mut request);
        request.set_method(lead.fetches_with());
        let fetch = Fetch {
            lead,
            worker: self.worker.clone(),
            destination: admitted.destination().clone(),
            upstreams: admitted.serving.upstreams.clone(),
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

/// An answer that is fetched beside the requests.
struct Fetch {
    lead: Lead,
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
        let Self { mut lead, worker, destination, upstreams, request, body, policy, context } = self;
        let forwarder =
            Forwarder { worker: &worker, destination: &destination, policy: &policy, upstreams: &upstreams };
        let mut info = AttemptInfo::default();
        let forwarded = forwarder.forward(&request, RequestBody::bytes(body), &context, &mut info).await;
        let Ok(UpstreamResponse { head, mut body }) = forwarded else { return };
        if head.status == StatusCode::NOT_MODIFIED {
            body.finish().await;
            lead.confirmed(&head);
        } else if !head.status.is_server_error() && lead.on_head(&head) {
            let until = Instant::now() + policy.request;
            if let Ok(Collected::Whole(body)) = body.collect(lead.body_max(), &policy, until).await {
                lead.finish(body);
            }
        }
    }
}
