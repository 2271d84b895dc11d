//! Continues the client's trace, or begins one: `traceparent` and `tracestate` (W3C Trace Context, R10.1).

use http::header::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::base::{At, Diagnostics};
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step, TRACEPARENT, TraceContext};

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Every request has one.
pub struct Traces;

impl Filter for Traces {
    const NAME: &'static str = "trace_context";
    const SUMMARY: &'static str = "Continues the client's trace, or begins one.";
    type Config = ();

    fn compile((): &(), _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(Self)
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        on_request(context.exchange, context.request);
        Ok(())
    }
}

/// `tracestate` belongs to its `traceparent`: it passes with one that is continued and goes with one
/// that is not (section 4.3).
pub fn on_request(exchange: &mut Exchange, request: &mut RequestHeader) {
    let sent = sole(request, &TRACEPARENT).and_then(|it| TraceContext::continued(it.as_bytes()));
    match sent {
        Some(trace) => exchange.trace = trace,
        None => [TRACEPARENT, TRACESTATE].iter().for_each(|it| {
            if request.headers.contains_key(it) {
                request.remove_header(it);
            }
        }),
    }
}

/// The field's value if it is there exactly once.
fn sole<'r>(request: &'r RequestHeader, name: &HeaderName) -> Option<&'r HeaderValue> {
    let mut values = request.headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
