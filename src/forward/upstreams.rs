//! The upstreams of one configuration by name, and how a local service calls them: through [`Forwarder::forward`], like
//! everybody.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::{HOST, HeaderValue};
use pingora::http::RequestHeader;

use super::attempts::{Destination, ForwardError, Forwarder, RequestBody};
use super::policy::Policy;
use super::response::{Frame, UpstreamBody, UpstreamResponse};
use super::worker::Worker;
use crate::http as codec;
use crate::identity::Roles;
use crate::pipeline::{AttemptInfo, CallFuture, Context, Refusal, Upstreams, whole_body};

/// So many local services may hand a request on, one to the other.
const DEPTH_MAX: u8 = 8;

/// Where everything in `upstreams:` leads, by its name, and what roles permit there.
#[derive(Default)]
pub struct Destinations {
    by_name: HashMap<Arc<str>, Destination>,
    roles: Arc<Roles>,
}

impl Destinations {
    /// Those of one configuration.
    pub fn new(destinations: impl IntoIterator<Item = Destination>, roles: Arc<Roles>) -> Self {
        Self { by_name: destinations.into_iter().map(|it| (it.name().clone(), it)).collect(), roles }
    }

    /// The destination of this name.
    pub fn find(&self, name: &str) -> Option<&Destination> {
        self.by_name.get(name)
    }
}

/// What one call of a local service can call in its turn.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) worker: Arc<Worker>,
    pub(super) upstreams: Arc<Destinations>,
    /// That of the route which the client's request came by.
    pub(super) policy: Arc<Policy>,
    /// That of the service's own call.
    pub(super) depth: u8,
}

impl Upstreams for Calls {
    fn call(&self, upstream: &str, request: http::Request<Body>, context: &Context) -> CallFuture {
        let Some(destination) = self.upstreams.find(upstream).cloned() else {
            tracing::error!(event = "unknown_upstream", request_id = context.request_id.as_str(), upstream);
            return Box::pin(std::future::ready(Err(Refusal::UnknownUpstream)));
        };
        if self.depth >= DEPTH_MAX {
            tracing::error!(event = "call_loop", request_id = context.request_id.as_str(), upstream);
            return Box::pin(std::future::ready(Err(Refusal::CallLoop)));
        }
        let calls = self.clone();
        // Counted here, and not where the service could forget it. The forwarded headers are written for each anew.
        let context =
            Context { depth: self.depth + 1, forwarded_headers_set: false, upstreams: None, ..context.clone() };
        Box::pin(async move { calls.send(&destination, request, &context).await })
    }

    fn roles(&self) -> &Roles {
        &self.upstreams.roles
    }
}

impl Calls {
    async fn send(
        &self,
        destination: &Destination,
        request: http::Request<Body>,
        context: &Context,
    ) -> Result<http::Response<Body>, Refusal> {
        let Self { worker, upstreams, policy, .. } = self;
        let (head, body) = request.into_parts();
        let head = request_head(&head, destination.name()).map_err(|_| Refusal::Internal)?;
        let body = RequestBody::bytes(whole_body(body, policy.body_limit).await?);
        let forwarder = Forwarder { worker, destination, policy, upstreams };
        let mut info = AttemptInfo::default();
        let own = Context { balance_key: balance_key(destination, &head, context), sticky: None, ..context.clone() };
        let response = forwarder.forward(&head, body, &own, &mut info).await;
        tracing::debug!(
            event = "upstream_called", request_id = context.request_id.as_str(),
            trace_id = context.trace.trace_id.as_str(), upstream = %destination.name(),
            endpoint = info.endpoint.map(|it| it.to_string()).unwrap_or_default(), attempts = info.attempts,
            upstream_status = response.as_ref().map_or(0, |it| it.head.status.as_u16()),
        );
        match response {
            Ok(response) => Ok(streaming(response, policy).await),
            Err(ForwardError::Refused(refusal)) => Err(refusal),
            Err(ForwardError::ClientGone) => Err(Refusal::Internal), // there is none
        }
    }
}

/// What its endpoint goes by, where this upstream balances by a key: that of the client's route is about another one.
fn balance_key(destination: &Destination, head: &RequestHeader, context: &Context) -> Option<u64> {
    let Destination::Upstream(live) = destination else { return context.balance_key };
    live.upstream().hash_on.as_ref()?.of_request(&head.headers, context.client_ip, |_| None)
}

/// A request that names no host is one to the upstream.
fn request_head(head: &http::request::Parts, upstream: &str) -> pingora::Result<RequestHeader> {
    let target = head.uri.path_and_query().map_or("/", |it| it.as_str());
    let mut request = RequestHeader::build_no_case(head.method.as_str(), target.as_bytes(), Some(head.headers.len()))?;
    for (name, value) in &head.headers {
        request.append_header(name.clone(), value.clone())?;
    }
    if !request.headers.contains_key(HOST) {
        let host = head.uri.authority().map_or(upstream, |it| it.as_str());
        if let Ok(host) = HeaderValue::from_str(host) {
            request.insert_header(HOST, host)?;
        }
    }
    Ok(request)
}

async fn streaming(response: UpstreamResponse, policy: &Arc<Policy>) -> http::Response<Body> {
    let UpstreamResponse { head, mut body } = response;
    let mut answer = http::Response::new(Body::empty());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers.clone();
    if body.has_ended() {
        body.finish().await;
        return answer;
    }
    if codec::is_event_stream(&head.headers) {
        body.record_head();
    }
    *answer.body_mut() = Body::from_stream(stream::unfold(Some((body, policy.clone())), next));
    answer
}

type Rest = Option<(UpstreamBody, Arc<Policy>)>;

/// After an error there is nothing more: half a body is never made to look whole.
async fn next(rest: Rest) -> Option<(io::Result<Bytes>, Rest)> {
    let (mut body, policy) = rest?;
    match body.frame(&policy).await {
        Ok(Frame::Data(piece)) => Some((Ok(piece), Some((body, policy)))),
        Ok(Frame::End(_)) => None,
        Err(_) => Some((Err(io::ErrorKind::ConnectionAborted.into()), None)),
    }
}
