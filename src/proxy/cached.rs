//! What the cache has to do with a request's way: kept answers are given, what is to be kept is taken down, what
//! may still hold is asked for.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{Response, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::{self, Asked, Given, Lead, Visit, Visited};
use crate::client::Client;
use crate::config::Action;
use crate::exchange::{Called, Destination, Ended, Policy, WayOut, Worker, call, respond, unless_left};
use crate::filters::{Deed, Kept};
use crate::pipeline::{EndState, Exchange, Recording, Refusal, Scheme};
use crate::proxy::way::Admitted;
use crate::proxy::{Proxy, Shared, answer, refuse, stopped};
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
    client: &mut Client<'_>,
    subject: Subject,
) -> Result<Option<Box<Given>>, Ended> {
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
            unless_left(client, visit).await?
        }
    };
    let (told, lead) = match visited {
        Visited::Given(given) => return Ok(Some(given)),
        Visited::Pass(told) => (Some(told), None),
        Visited::Lead(lead) => (None, Some(lead)),
        Visited::NotKept(told) => {
            exchange.cache = Some(Box::new(Visit::told(told)));
            return Err(Ended::Unanswered(Refusal::NotCached));
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
        client: &mut Client<'_>,
        exchange: &mut Exchange,
        admitted: &Admitted,
        given: Given,
        deed: Option<Deed>,
    ) -> pingora::Result<()> {
        let Given { mut head, body, told, refresh } = given;
        if let Some(lead) = refresh {
            self.refresh(lead, client.request(), exchange, admitted);
        }
        if let Some(deed) = deed {
            let mut headers = head.headers.clone();
            headers.remove(http::header::CONTENT_LENGTH); // it is that of the body
            deed.keep(&Kept { status: head.status, headers, body: body.clone() }).await;
        }
        exchange.cache = Some(Box::new(Visit::told(told)));
        admitted.on_response(exchange, &mut head);
        client.settle_body();
        answer(client, exchange, (head, body), admitted.route().policy.request, EndState::Done).await
    }

    /// Asks the upstream for a whole answer or for word that what is kept still holds (RFC 9111, section 4.3),
    /// and gives the client what comes of it.
    pub(super) async fn ask(
        &self,
        client: &mut Client<'_>,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> pingora::Result<()> {
        let lead = exchange.cache.as_mut().and_then(|it| it.lead.take());
        let Some(mut lead) = lead else { return refuse(client, exchange, admitted, Refusal::Internal).await };
        let destination = admitted.destination();
        let policy = &admitted.route().policy;
        exchange.upstream = Some(destination.name());
        let mut request = client.request().clone();
        exchange.introduce_in(&mut request);
        lead.ask_for(&mut request);
        let body = exchange.body.clone().unwrap_or_default();
        let called = call(&self.worker, destination, &request, body, policy);
        let upstreams = match unless_left(client, called).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(refusal)) => {
                return match lead.failed(None) {
                    Some(given) => self.give(client, exchange, admitted, given, None).await,
                    None => refuse(client, exchange, admitted, refusal).await,
                };
            }
            Err(why) => return stopped(client, exchange, admitted, why).await,
        };
        if let Some(called) = upstreams.extensions().get::<Called>() {
            exchange.endpoint = called.endpoint;
            exchange.attempts = called.attempts;
            exchange.timings.first_byte = Some(called.first_byte);
        }
        let Ok(head) = head_of(&upstreams) else { return refuse(client, exchange, admitted, Refusal::Internal).await };
        if let Some(given) = lead.failed(Some(head.status)) {
            return self.give(client, exchange, admitted, given, None).await;
        }
        if head.status == StatusCode::NOT_MODIFIED && lead.has_kept() {
            return match lead.confirmed(&head) {
                Some(given) => self.give(client, exchange, admitted, given, None).await,
                None => refuse(client, exchange, admitted, Refusal::UpstreamProtocol).await,
            };
        }
        if lead.is_known_to_client(&head) && lead.fits(&head) {
            return self.only_for_the_cache(client, exchange, admitted, (*lead, head), upstreams).await;
        }
        exchange.recording = Some(Box::new(Recording::new(lead.body_max())));
        exchange.cache = Some(Box::new(Visit { told: None, lead: Some(lead), change: None, word: None }));
        match respond(&self.worker, client, exchange, upstreams, policy, admitted).await {
            Ok(()) => {
                finish(exchange);
                exchange.end.get_or_insert(EndState::Done);
                Ok(())
            }
            Err(why) => stopped(client, exchange, admitted, why).await,
        }
    }

    /// The client has the answer already: its body is read for the cache alone.
    async fn only_for_the_cache(
        &self,
        client: &mut Client<'_>,
        exchange: &mut Exchange,
        admitted: &Admitted,
        (mut lead, head): (Lead, ResponseHeader),
        upstreams: Response<Body>,
    ) -> pingora::Result<()> {
        let body_max = lead.body_max();
        if !lead.on_head(&head) {
            let told = lead.told();
            exchange.cache = Some(Box::new(Visit::told(told)));
            let policy = &admitted.route().policy;
            return match respond(&self.worker, client, exchange, upstreams, policy, admitted).await {
                Ok(()) => {
                    exchange.end.get_or_insert(EndState::Done);
                    Ok(())
                }
                Err(why) => stopped(client, exchange, admitted, why).await,
            };
        }
        let body = match unless_left(client, to_bytes(upstreams.into_body(), body_max)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return refuse(client, exchange, admitted, Refusal::UpstreamClosed).await,
            Err(why) => return stopped(client, exchange, admitted, why).await,
        };
        match lead.finish_and_give(body) {
            Some(given) => self.give(client, exchange, admitted, given, None).await,
            None => refuse(client, exchange, admitted, Refusal::Internal).await,
        }
    }

    /// Fetches an answer anew, beside the requests.
    fn refresh(&self, lead: Lead, request: &RequestHeader, exchange: &Exchange, admitted: &Admitted) {
        let Some(room) = lead.in_background() else { return };
        let mut request = request.clone();
        exchange.introduce_in(&mut request);
        lead.ask_for(&mut request);
        request.set_method(lead.fetches_with());
        let body = exchange.body.clone().unwrap_or_default();
        let (worker, destination) = (self.worker.clone(), admitted.destination().clone());
        let policy = admitted.route().policy.clone();
        tokio::spawn(async move {
            fetch(lead, worker, destination, request, body, policy).await;
            drop(room);
        });
    }
}

async fn fetch(
    mut lead: Lead,
    worker: Arc<Worker>,
    destination: Destination,
    request: RequestHeader,
    body: Bytes,
    policy: Policy,
) {
    let Ok(answer) = call(&worker, &destination, &request, body, &policy).await else { return };
    let Ok(head) = head_of(&answer) else { return };
    if head.status == StatusCode::NOT_MODIFIED {
        lead.confirmed(&head);
    } else if !head.status.is_server_error() && lead.on_head(&head) {
        let body_max = lead.body_max();
        if let Ok(body) = to_bytes(answer.into_body(), body_max).await {
            lead.finish(body);
        }
    }
}

fn head_of(answer: &Response<Body>) -> pingora::Result<ResponseHeader> {
    let mut head = ResponseHeader::build_no_case(answer.status(), Some(answer.headers().len()))?;
    for (name, value) in answer.headers() {
        head.append_header(name.clone(), value.clone())?;
    }
    Ok(head)
}
