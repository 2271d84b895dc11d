//! Header fields of requests, as `defaults`, policies and routes want them before an upstream gets them.

use super::filling::{Filling, named_host};
use super::header_edits::{HeaderEdits, HeaderEditsConfig};
use super::settings::{BuiltIn, Layer, StepDescription};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Filter, RequestContext, Scope, Step};
use crate::routing::HostName;

/// The compiled edits of `request_headers`.
pub struct RequestHeaders(HeaderEdits);

impl Filter for RequestHeaders {
    const NAME: &'static str = "request_headers";
    const SUMMARY: &'static str = "Sets, adds and removes header fields of requests.";
    type Config = HeaderEditsConfig;

    fn compile(
        config: &HeaderEditsConfig,
        scope: &Scope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let edits = HeaderEdits::compile(config, scope.all_captures(), at, diagnostics);
        Some(Self(edits)).filter(|it| !it.0.is_empty())
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        edit_request(&self.0, context);
        Ok(())
    }
}

/// Makes the edits, behind the forwarded headers: the operator may change those, too.
pub(super) fn edit_request(edits: &HeaderEdits, context: &mut RequestContext<'_>) {
    if edits.is_empty() {
        return;
    }
    let RequestContext { exchange, request, params, .. } = context;
    if !exchange.forwarded_headers_set {
        exchange.set_forwarded_headers(request);
        exchange.forwarded_headers_set = true;
    }
    let before = exchange.edited.request.take();
    exchange.edited.request = Some(match before {
        Some(before) => before.iter().chain(edits.names().iter()).cloned().collect(),
        None => edits.names().clone(),
    });
    let host = named_host(exchange, request);
    let matched = exchange.target_received.clone();
    let path = matched.as_ref().map_or_else(|| request.uri.path().to_owned(), |it| it.path().to_owned());
    edits.on_request(request, &Filling::of(exchange, host.as_ref().map(HostName::as_str), &path, params));
}

impl BuiltIn for RequestHeaders {
    /// A later layer's word about a field replaces that of an earlier one.
    fn settings(layers: &[Layer<'_>], scope: &Scope<'_>) -> Option<HeaderEditsConfig> {
        let edits = HeaderEditsConfig::merged(layers.iter().map(|it| it.settings.request_headers.clone()));
        Some(edits).filter(|it| scope.forwards && *it != HeaderEditsConfig::default())
    }

    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        let shown = Self::settings(layers, scope).map(HeaderEditsConfig::shown);
        shown.iter().map(|it| StepDescription::new(Self::NAME, it)).collect()
    }

    fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        Self::compile(&layer.settings.request_headers, scope, &layer.at.key(Self::NAME), diagnostics);
    }

    /// What a policy fills in has to be captured where the policy is used.
    fn check_on_route(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        for layer in layers.iter().take(layers.len().saturating_sub(1)) {
            let at = layer.at.key(Self::NAME);
            HeaderEdits::compile(&layer.settings.request_headers, scope.all_captures(), &at, diagnostics);
        }
    }
}
