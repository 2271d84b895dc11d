//! Names each request: `X-Request-Id`, taken over from trusted proxies only (R10.1, S2S-40).

use pingora::http::{RequestHeader, ResponseHeader};

use crate::base::{At, Diagnostics, RequestId};
use crate::filters::value_of;
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step, X_REQUEST_ID};

/// Every request has one.
pub struct RequestIds;

impl Filter for RequestIds {
    const NAME: &'static str = "request_id";
    const SUMMARY: &'static str = "Names the request: `X-Request-Id`, taken over from trusted proxies only.";
    type Config = ();

    fn compile((): &(), _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(Self)
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        on_request(context.exchange, context.request, context.peer_trusted);
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        on_response(exchange, response);
    }
}

/// A stranger's id is replaced: it could be made to collide with another request's in the logs.
/// No step that follows sees it.
pub fn on_request(exchange: &mut Exchange, request: &mut RequestHeader, peer_trusted: bool) {
    if peer_trusted
        && let Some(foreign) = request.headers.get(&X_REQUEST_ID)
        && let Some(id) = RequestId::parse(foreign.as_bytes())
    {
        exchange.request_id = id;
    } else if request.headers.contains_key(&X_REQUEST_ID) {
        request.remove_header(&X_REQUEST_ID);
    }
}

/// Every answer carries the id, the gateway's own refusals included.
pub fn on_response(exchange: &Exchange, answer: &mut ResponseHeader) {
    let _ = answer.insert_header(X_REQUEST_ID, value_of(exchange.request_id.as_str()));
}
