//! Continues the client's trace, or begins one: `traceparent` and `tracestate` (W3C Trace Context, R10.1).

use http::header::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use crate::base::{At, Diagnostics};
use crate::http as codec;
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step, TRACEPARENT, TraceContext};

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// So many members may a `tracestate` have (section 3.3.1.1).
const MEMBERS_MAX: usize = 32;
/// The longest key, and the longest value, in bytes (sections 3.3.1.3.1 and 3.3.1.3.2).
const PART_MAX: usize = 256;

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

/// `tracestate` belongs to its `traceparent`: it passes with one that is continued, as long as it is well-formed, and
/// goes with one that is not (section 4.3).
pub fn on_request(exchange: &mut Exchange, request: &mut RequestHeader) {
    if !request.headers.contains_key(&TRACEPARENT) {
        return drop_field(request, &TRACESTATE);
    }
    let sent = sole(request, &TRACEPARENT).and_then(|it| TraceContext::continued(it.as_bytes()));
    let continued = sent.is_some();
    match sent {
        Some(trace) => exchange.trace = trace,
        None => drop_field(request, &TRACEPARENT),
    }
    if !continued || !is_well_formed(request) {
        drop_field(request, &TRACESTATE);
    }
}

fn drop_field(request: &mut RequestHeader, name: &HeaderName) {
    if request.headers.contains_key(name) {
        request.remove_header(name);
    }
}

/// Whether `tracestate`, over all of its lines, is a list as the standard writes it (level 2, section 3.3.1). One that
/// is not is dropped whole: nobody knows what its members would mean.
fn is_well_formed(request: &RequestHeader) -> bool {
    let mut keys: SmallVec<[&[u8]; MEMBERS_MAX]> = SmallVec::new();
    for member in codec::tokens(&request.headers, &TRACESTATE) {
        let Some(key) = key_of(member) else { return false };
        if keys.len() == MEMBERS_MAX || keys.contains(&key) {
            return false;
        }
        keys.push(key);
    }
    true
}

/// The key of a list's member; `None` if the member is not written as section 3.3.1.3 has it.
fn key_of(member: &[u8]) -> Option<&[u8]> {
    let at = member.iter().position(|it| *it == b'=')?;
    let (key, value) = (&member[..at], &member[at + 1..]);
    let begins = |it: &u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    let is_key = key.first().is_some_and(begins)
        && key.len() <= PART_MAX
        && key.iter().all(|it| begins(it) || b"_-*/@".contains(it));
    let is_value = !value.is_empty()
        && value.len() <= PART_MAX
        && value.iter().all(|it| matches!(it, b' '..=b'~') && !b",=".contains(it));
    (is_key && is_value).then_some(key)
}

/// The field's value if it is there exactly once.
fn sole<'r>(request: &'r RequestHeader, name: &HeaderName) -> Option<&'r HeaderValue> {
    let mut values = request.headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], well_formed: bool) {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for line in lines {
            request.append_header(TRACESTATE, *line).unwrap();
        }
        assert_eq!(is_well_formed(&request), well_formed, "{lines:?}");
    }

    #[test]
    fn a_tracestate_is_a_list_of_keys_with_values() {
        check(&[], true);
        check(&["congo=t61rcWkgMzE, rojo=00f067aa0ba902b7"], true);
        check(&["a=1", "", " , b=a b\t,,0@c*d/e_f-g=~"], true);
        check(&[&format!("{}={}", "k".repeat(256), "v".repeat(256))], true);
        check(&[&(0..32).map(|it| format!("k{it}=1,")).collect::<String>()], true);
    }

    #[test]
    fn what_is_not_well_formed_is_found_wherever_it_stands() {
        for wrong in ["foo =1", "FOO=1", "foo", "=1", "foo=", "foo=1=2", "@a=1", "-a=1", "a.b=1", "a=\u{e9}", "a=1\t2"]
        {
            check(&[wrong], false);
            check(&["bar=1", wrong], false);
            check(&[&format!("bar=1,{wrong},baz=2")], false);
        }
        check(&["a=1, b=2, a=3"], false);
        check(&["a=1", "a=1"], false);
        check(&[&format!("{}=1", "k".repeat(257))], false);
        check(&[&format!("k={}", "v".repeat(257))], false);
        check(&[&(0..33).map(|it| format!("k{it}=1,")).collect::<String>()], false);
    }
}
