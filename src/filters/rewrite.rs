//! Changes a request before the upstream gets it: its path, its host, its header fields.

use http::Version;
use http::header::{HOST, HeaderValue};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filling::{Filling, named_host};
use super::header_edits::{HeaderEdits, HeaderEditsConfig};
use super::request_headers::edit_request;
use super::settings::{BuiltIn, Layer, StepDescription};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Exchange, Filter, PathBack, Refusal, RequestContext, Scope, Step};
use crate::routing::{Captures, HostName, Params, Template, join_query};

/// What changes in a request before the upstream gets it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewriteConfig {
    /// The new path, with captures of the match in braces: `/players/{rest}`. The query is kept, behind one that stands
    /// here: `/item?id={id}`.
    pub path: Option<String>,
    /// Whether what the upstream says of its own paths (`Location`, `Content-Location`, the `Path` of cookies) is written
    /// back to what the client knows, where `path` changes it. Default true.
    pub back: Option<bool>,
    /// The new `Host`.
    pub host: Option<String>,
    /// Header fields of the request.
    pub headers: HeaderEditsConfig,
}

/// A compiled `rewrite` section.
pub struct Rewrite {
    path: Option<Template>,
    back: bool,
    host: Option<HeaderValue>,
    headers: HeaderEdits,
}

impl Filter for Rewrite {
    const NAME: &'static str = "rewrite";
    const SUMMARY: &'static str = "Changes the request's path, host and header fields for the upstream.";
    type Config = RewriteConfig;

    fn compile(config: &RewriteConfig, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if config.back.is_some() && config.path.is_none() {
            diagnostics
                .error_at_key(&at.key("back"), "there is no `path` here that could be written back")
                .help("write the new `path` beside it, or leave it out");
        }
        let path = config.path.as_deref().map(|text| path(text, scope.all_captures(), &at.key("path"), diagnostics));
        let host = config.host.as_deref().and_then(|text| host(text, &at.key("host"), diagnostics));
        let headers = HeaderEdits::compile(&config.headers, scope.all_captures(), &at.key("headers"), diagnostics);
        Some(Self { path, back: config.back.unwrap_or(true), host, headers })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        let RequestContext { exchange, request, params, .. } = context;
        if request.version == Version::HTTP_2 && (self.path.is_some() || self.host.is_some()) {
            keep_authority(request);
        }
        if let Some(path) = &self.path {
            let host = named_host(exchange, request);
            let values = Filling::of(exchange, host.as_ref().map(HostName::as_str), request.uri.path(), params);
            let Some(target) = target(path, params, request, &values) else {
                return Err(Refusal::BadRequest("the target can't be rewritten").into());
            };
            exchange.target_received = Some(request.uri.clone());
            request.set_uri(target);
        }
        // Upstreams receive the host that the client used.
        if let Some(host) = &self.host {
            exchange.host_received = request.headers.get(HOST).cloned();
            let _ = request.insert_header(HOST, host.clone());
        }
        if let Some(received) = &exchange.target_received {
            exchange.path_back = self.path_back(received, request, params);
        }
        edit_request(&self.headers, context);
        Ok(())
    }
}

impl BuiltIn for Rewrite {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a RewriteConfig> {
        layer.rewrite
    }

    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        let settings = Self::settings(layers, scope);
        let shown = settings.map(|it| RewriteConfig { headers: it.headers.shown(), ..it });
        shown.iter().map(|it| StepDescription::new(Self::NAME, it)).collect()
    }
}

impl Rewrite {
    /// How the upstream's own paths become the client's; `request` is as the upstream gets it.
    fn path_back(&self, received: &http::Uri, request: &RequestHeader, params: &Params) -> Option<Box<PathBack>> {
        let tail = self.path.as_ref().filter(|_| self.back)?.tail(params, received.path()).map(str::len);
        let host = request.headers.get(HOST).cloned();
        Some(Box::new(PathBack { received: received.clone(), sent: request.uri.clone(), tail, host }))
    }

    /// Of a request whose response is cached, and that is not going to be rewritten.
    pub fn path_back_of(&self, exchange: &Exchange, request: &RequestHeader, params: &Params) -> Option<Box<PathBack>> {
        let host = named_host(exchange, request);
        let values = Filling::of(exchange, host.as_ref().map(HostName::as_str), request.uri.path(), params);
        let sent = target(self.path.as_ref()?, params, request, &values)?;
        let tail = self.path.as_ref().filter(|_| self.back)?.tail(params, request.uri.path()).map(str::len);
        let host = self.host.clone().or_else(|| request.headers.get(HOST).cloned());
        Some(Box::new(PathBack { received: request.uri.clone(), sent, tail, host }))
    }
}

fn path(text: &str, captures: Captures<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Template {
    if text.starts_with('/') {
        return Template::compile_with(text, captures, at, diagnostics);
    }
    let address = text.split_once("://").map(|(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let help = match address {
        Some(path) => format!("write `{path}`: where the upstream is stands under `upstreams`"),
        None => format!("write `/{text}`"),
    };
    diagnostics.error(at, "a path begins with a slash").help(help);
    let path = address.map_or_else(|| format!("/{text}"), str::to_owned);
    Template::compile_with(&path, captures, at, diagnostics)
}

fn host(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<HeaderValue> {
    let plain = !text.is_empty() && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-.:[]_".contains(&it));
    let host = HeaderValue::from_str(text).ok().filter(|_| plain);
    if host.is_none() {
        let diagnostic = diagnostics.error(at, "not a host name");
        match text.split_once("://") {
            _ if text.contains(['$', '{']) => diagnostic
                .help("nothing is filled in here; without it, the upstream gets the host that the client used"),
            Some((_, rest)) => {
                diagnostic.help(format!("a host alone: `{}`", rest.split('/').next().unwrap_or_default()))
            }
            None => diagnostic.help("write it as api.example.org or api.example.org:8080"),
        }
    }
    host
}

/// The new path, and the query behind its own; `None` if it can't be sent.
fn target(path: &Template, params: &Params, request: &RequestHeader, values: &Filling<'_>) -> Option<http::Uri> {
    let old = request.uri.path();
    let mut target = String::with_capacity(old.len() + 32);
    path.expand_with(params, old, values, &mut target);
    join_query(&mut target, request.uri.query());
    target.parse().ok()
}

/// In HTTP/2 the authority is a part of the target: it stays when the path is written anew.
pub fn keep_authority(request: &mut RequestHeader) {
    let authority = request.uri.authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    if let Some(authority) = authority
        && !request.headers.contains_key(HOST)
    {
        let _ = request.insert_header(HOST, authority);
    }
}
