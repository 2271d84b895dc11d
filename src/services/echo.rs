//! Answers with what it received, for operators who want to see what becomes of a request on its way.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::{At, ByteSize, Diagnostics};
use crate::pipeline::{Configurable, Context, LocalFuture, LocalService, Refusal, ServiceScope, refused, whole_body};

/// The settings of the local service `echo`, which answers with what it received.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EchoConfig {
    /// The largest body that is read; a larger one is refused. A route's own `body_limit` comes first.
    max_body: ByteSize,
    /// An upstream that is called first, with the same request: the response reports what came of it.
    upstream: Option<String>,
}

impl Default for EchoConfig {
    fn default() -> Self {
        Self { max_body: ByteSize(64 * 1024), upstream: None }
    }
}

/// Compiled.
pub(super) struct EchoSettings {
    max_body: u64,
    upstream: Option<Arc<str>>,
}

/// The local service `echo`.
pub(super) struct Echo;

impl Configurable for Echo {
    type Config = EchoConfig;
    type Settings = EchoSettings;

    fn compile(
        config: &EchoConfig,
        scope: &ServiceScope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<EchoSettings> {
        let upstream = match &config.upstream {
            Some(name) => Some(scope.upstream(name, &at.key("upstream"), diagnostics)?),
            None => None,
        };
        Some(EchoSettings { max_body: config.max_body.0, upstream })
    }

    fn activate(&self, settings: Arc<EchoSettings>) -> Arc<dyn LocalService> {
        Arc::new(Mirror(settings))
    }
}

/// The service under settings.
struct Mirror(Arc<EchoSettings>);

impl LocalService for Mirror {
    fn call(&self, request: http::Request<Body>, context: Context) -> LocalFuture {
        let settings = self.0.clone();
        Box::pin(async move { answer(&settings, request, &context).await.unwrap_or_else(refused) })
    }
}

async fn answer(
    settings: &EchoSettings,
    request: http::Request<Body>,
    context: &Context,
) -> Result<http::Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let body = whole_body(body, settings.max_body).await?;
    let (mut report, length) = (report_of(&head, context), body.len());
    let upstream = match &settings.upstream {
        Some(name) => Some(call_upstream(name, head, body, settings.max_body, context).await?),
        None => None,
    };
    report["body_bytes"] = json!(length);
    report["upstream"] = json!(upstream);
    let mut answer = http::Response::new(Body::from(format!("{report:#}\n")));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn report_of(head: &Parts, context: &Context) -> Value {
    json!({
        "request_id": context.request_id.as_str(),
        "route": context.route.as_deref(),
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": fields(&head.headers),
    })
}

/// Each field with its values. A page that can make a browser send a request must not read here what the browser hides
/// from it, and nobody what the operator keeps in the environment or the store.
fn fields(headers: &HeaderMap) -> Value {
    let hidden = |name: &HeaderName| {
        [AUTHORIZATION, COOKIE].contains(name) || ["x-api-key", "x-moongate-identity"].contains(&name.as_str())
    };
    let shown = |name: &HeaderName, value: &HeaderValue| match hidden(name) || value.is_sensitive() {
        true => "(hidden)".to_owned(),
        false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    let values =
        |name: &HeaderName| -> Vec<String> { headers.get_all(name).iter().map(|it| shown(name, it)).collect() };
    headers.keys().map(|name| (name.as_str().to_owned(), json!(values(name)))).collect::<serde_json::Map<_, _>>().into()
}

/// Sends the request on; returns the status, and how much of a body came, `max_body` at most.
async fn call_upstream(
    name: &str,
    head: Parts,
    body: Bytes,
    max_body: u64,
    context: &Context,
) -> Result<Value, Refusal> {
    let response = context.call(name, http::Request::from_parts(head, Body::from(body))).await?;
    let status = response.status().as_u16();
    let mut pieces = response.into_body().into_data_stream();
    let (mut length, mut whole) = (0, true);
    while let Some(piece) = pieces.next().await {
        length += piece.map_err(|_| Refusal::UpstreamClosed)?.len() as u64;
        if length > max_body {
            whole = false;
            break;
        }
    }
    Ok(json!({ "name": name, "status": status, "body_bytes": length, "whole": whole }))
}
