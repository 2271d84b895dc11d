//! Continues the client's trace, or begins one: `traceparent` and `tracestate` (W3C Trace Context, R10.1).

use http::header::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::filters::value_of;
use crate::pipeline::{Exchange, TraceContext};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `tracestate` belongs to its `traceparent`: it passes with one that is continued and goes with one
/// that is not (section 4.3).
pub fn on_request(exchange: &mut Exchange, request: &mut RequestHeader) {
    let sent = sole(request, &TRACEPARENT).and_then(|it| TraceContext::continued(it.as_bytes()));
    match sent {
        Some(trace) => exchange.trace = trace,
        None if request.headers.contains_key(&TRACESTATE) => drop(request.remove_header(&TRACESTATE)),
        None => {}
    }
    let field = exchange.trace.traceparent();
    let field = std::str::from_utf8(&field).expect("hex digits and dashes are UTF-8");
    let _ = request.insert_header(TRACEPARENT, value_of(field));
}

/// The field's value if it is there exactly once.
fn sole<'r>(request: &'r RequestHeader, name: &HeaderName) -> Option<&'r HeaderValue> {
    let mut values = request.headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
