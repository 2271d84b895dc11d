//! What upstreams receive about the request and its client: `X-Request-Id`, `traceparent`, `Forwarded` and its like,
//! and the caller. They are written where the request is ([`Exchange::forwarded_headers`](crate::pipeline::Exchange)).

use http::header::UPGRADE;

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Filter, RequestContext, Scope, Step};

/// Every route has it.
pub struct Forwarded {
    websocket: bool,
}

impl Filter for Forwarded {
    const NAME: &'static str = "forwarded";
    const SUMMARY: &'static str =
        "Tells upstreams the request's id and trace, the client's address, and who is calling.";
    type Config = ();

    fn compile((): &(), scope: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(Self { websocket: scope.websocket })
    }

    /// Only a route for WebSockets upgrades: elsewhere the wish is ignored (RFC 9110, 7.8).
    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        if !self.websocket && context.request.headers.contains_key(UPGRADE) {
            context.request.remove_header(&UPGRADE);
        }
        Ok(())
    }
}

impl BuiltIn for Forwarded {
    fn settings(_: &[Layer<'_>], _: &Scope<'_>) -> Option<()> {
        Some(())
    }
}
