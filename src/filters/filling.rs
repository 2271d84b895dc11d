//! Where the [values](Value) that operators write in braces come from.

use std::fmt::Write;

use http::header::HOST;
use pingora::http::RequestHeader;

use crate::pipeline::{Exchange, MatchedTarget};
use crate::routing::{HostName, Params, Value, Values};

static NO_PARAMS: once_cell::sync::Lazy<Params> = once_cell::sync::Lazy::new(Params::default);

/// What is known of one request.
pub struct Filling<'a> {
    exchange: &'a Exchange,
    host: Option<&'a str>,
    path: &'a str,
    params: &'a Params,
}

impl<'a> Filling<'a> {
    /// Of a request whose path was matched with these captures.
    pub fn of(exchange: &'a Exchange, host: Option<&'a str>, path: &'a str, params: &'a Params) -> Self {
        Self { exchange, host, path, params }
    }

    /// Of a request that has become an answer: of its target there is what was kept.
    pub fn of_answer(exchange: &'a Exchange) -> Self {
        match exchange.matched_target.as_deref() {
            Some(MatchedTarget { host, path, params }) => Self::of(exchange, host.as_deref(), path, params),
            None => Self::of(exchange, None, "", &NO_PARAMS),
        }
    }
}

impl Values for Filling<'_> {
    fn fill(&self, value: &Value, out: &mut String) {
        match value {
            Value::ClientIp => _ = write!(out, "{}", self.exchange.client_ip),
            Value::RequestId => out.push_str(self.exchange.request_id.as_str()),
            Value::PrincipalSub => out.push_str(self.exchange.principal.as_ref().map_or("", |it| &it.subject)),
            Value::Host => out.push_str(self.host.unwrap_or_default()),
            Value::Scheme => out.push_str(self.exchange.scheme.as_str()),
            Value::Path(_, index) => out.push_str(self.params.at(*index, self.path).unwrap_or_default()),
            Value::HostLabel(_) => {
                out.push_str(self.host.and_then(|it| it.split('.').next()).unwrap_or_default());
            }
        }
    }
}

/// The host that a client names, in its normal form: `None` if it names none that could be one.
pub fn named_host(exchange: &Exchange, request: &RequestHeader) -> Option<HostName> {
    let field = exchange.host_received.as_ref().or_else(|| request.headers.get(HOST)).and_then(|it| it.to_str().ok());
    HostName::of(field.or_else(|| request.uri.authority().map(|it| it.as_str())))
}
