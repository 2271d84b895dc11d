//! Header fields of responses, as the operator wants them: the last word about them.

use std::collections::{BTreeMap, BTreeSet};

use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::header_edits::{HeaderEdits, HeaderEditsConfig, brought};
use super::security_headers::Security;
use super::settings::{BuiltIn, Layer, StepDescription};
use crate::base::{At, Diagnostics, Secret};
use crate::pipeline::{Exchange, Filter, Scope};

/// Header fields of answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadersConfig {
    /// The security fields for browsers. Default `strict`.
    pub security: Option<Security>,
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
    /// Makes the edits, in interim responses too.
    pub fn edit(&self, response: &mut ResponseHeader) {
        self.0.on_response(response);
    }
}

impl Filter for ResponseHeaders {
    const NAME: &'static str = "response_headers";
    const SUMMARY: &'static str = "Sets, adds and removes header fields of responses.";
    const RESPONSES_ONLY: bool = true;
    type Config = HeaderEditsConfig;

    fn compile(config: &HeaderEditsConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(Self(HeaderEdits::compile(config, at, diagnostics))).filter(|it| !it.0.is_empty())
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        exchange.edited.response = Some(self.0.names().clone());
        self.edit(response);
    }
}

impl BuiltIn for ResponseHeaders {
    /// A later layer's word about a field replaces that of an earlier one.
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<HeaderEditsConfig> {
        let mut edits = HeaderEditsConfig::default();
        for HeadersConfig { set, add, remove, brought, .. } in layers.iter().map(|it| &it.settings.headers) {
            let lower = |fields: &BTreeMap<String, String>| -> BTreeMap<String, String> {
                fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
            };
            let (set, add) = (lower(set), lower(add));
            let remove: Vec<String> = remove.iter().map(|it| it.to_ascii_lowercase()).collect();
            let named = |name: &String| set.contains_key(name) || add.contains_key(name) || remove.contains(name);
            edits.set.retain(|name, _| !named(name));
            edits.add.retain(|name, _| !named(name));
            edits.remove.retain(|name| !named(name));
            edits.brought.retain(|name| !named(name));
            edits.brought.extend(brought.iter().cloned());
            edits.set.extend(set);
            edits.add.extend(add);
            edits.remove.extend(remove);
        }
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
