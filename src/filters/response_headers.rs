//! Header fields of responses, as the operator wants them: the last word about them.

use std::collections::{BTreeMap, BTreeSet};

use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filling::{Filling, named_host};
use super::header_edits::{HeaderEdits, HeaderEditsConfig, brought};
use super::security_headers::{Hsts, Security};
use super::settings::{BuiltIn, Layer, StepDescription};
use crate::base::{At, Diagnostics, Secret};
use crate::pipeline::{Exchange, Filter, MatchedTarget, RequestContext, Scope, Step};

/// Header fields of answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadersConfig {
    /// The security fields for browsers. Default `standard`.
    pub security: Option<Security>,
    /// For whom browsers are told to come by TLS alone (`Strict-Transport-Security`), where they did. Default `host`.
    pub hsts: Option<Hsts>,
    /// Fields that get this value, whatever the upstream said: a text, `"${NAME}"`, or `"secret:NAME"`.
    #[schemars(with = "BTreeMap<String, Secret>")]
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside those of the upstream.
    #[schemars(with = "BTreeMap<String, Secret>")]
    pub add: BTreeMap<String, String>,
    /// Fields that go.
    pub remove: Vec<String>,
    /// Fields whose value the environment or the store has brought, in small letters.
    #[serde(skip)]
    brought: BTreeSet<String>,
}

impl HeadersConfig {
    fn edits(&self) -> HeaderEditsConfig {
        let Self { set, add, remove, brought, .. } = self.clone();
        HeaderEditsConfig { set, add, remove, brought }
    }

    /// Notes the values that people do not see as they are sent: `shown` has them as they are written.
    pub fn note_brought(&mut self, shown: &Self) {
        self.brought = brought([(&self.set, &shown.set), (&self.add, &shown.add)]);
    }
}

/// The compiled edits of a `headers` section.
pub struct ResponseHeaders(HeaderEdits);

impl ResponseHeaders {
    /// Makes the edits in an interim response, but for what would have to be filled in.
    pub fn edit_interim(&self, response: &mut ResponseHeader) {
        self.0.on_response(response, None);
    }
}

impl Filter for ResponseHeaders {
    const NAME: &'static str = "response_headers";
    const SUMMARY: &'static str = "Sets, adds and removes header fields of responses.";
    const RESPONSES_ONLY: bool = true;
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

    /// An answer does not know what it answers: what its fields say of that is kept.
    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        if self.0.need_target() {
            let host = named_host(context.exchange, context.request).map(|it| it.as_str().into());
            let path = context.request.uri.path().into();
            let params = *context.params;
            context.exchange.matched_target = Some(Box::new(MatchedTarget { host, path, params }));
        }
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        exchange.edited.response = Some(self.0.names().clone());
        self.0.on_response(response, Some(&Filling::of_answer(exchange)));
    }
}

impl BuiltIn for ResponseHeaders {
    /// A later layer's word about a field replaces that of an earlier one.
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<HeaderEditsConfig> {
        let edits = HeaderEditsConfig::merged(layers.iter().map(|it| it.settings.headers.edits()));
        Some(edits).filter(|it| *it != HeaderEditsConfig::default())
    }

    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        let shown = Self::settings(layers, scope).map(HeaderEditsConfig::shown);
        shown.iter().map(|it| StepDescription::new(Self::NAME, it)).collect()
    }

    fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        Self::compile(&layer.settings.headers.edits(), scope, &layer.at.key("headers"), diagnostics);
    }
}
