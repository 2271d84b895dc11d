//! The place of filters that a binary adds to the built-in ones ([`Filters`](crate::pipeline::Filters)).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::settings::{BuiltIn, Layer, StepDescription};
use crate::base::{At, Diagnostics};
use crate::pipeline::{AnyFilter, Exchange, Filter, RequestContext, Scope, Step, Taps};

/// The blocks of filters that were added, by name. Their shapes are known when the binary starts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct FiltersConfig(BTreeMap<String, Value>);

impl JsonSchema for FiltersConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FiltersConfig".into()
    }

    /// Without any that was added; the config room puts those in.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The blocks of filters that were added to the built-in ones, by name; see \
                            [FILTERS.md](FILTERS.md). The binary as it is shipped has none.",
            "type": "object",
            "properties": {},
            "additionalProperties": false,
        })
    }
}

/// The added filters of a route, in the order in which the binary names them.
pub struct Custom(Vec<Arc<dyn AnyFilter>>);

impl Filter for Custom {
    const NAME: &'static str = "filters";
    const SUMMARY: &'static str =
        "Filters that a binary adds to the built-in ones, in the order in which it names them.";
    type Config = FiltersConfig;

    fn compile(config: &FiltersConfig, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let filters = scope.filters.compile(&config.0, scope, at, diagnostics);
        (!filters.is_empty()).then_some(Self(filters))
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        for filter in &self.0 {
            filter.on_request(context).await?;
        }
        Ok(())
    }

    fn needs_body(&self, method: &Method) -> bool {
        self.0.iter().any(|it| it.needs_body(method))
    }

    async fn on_body(&self, exchange: &mut Exchange, request: &RequestHeader, body: &Bytes) -> Step {
        for filter in self.0.iter().filter(|it| it.needs_body(&request.method)) {
            filter.on_body(exchange, request, body).await?;
        }
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        self.0.iter().rev().for_each(|it| it.on_response(exchange, response));
    }

    fn taps_requests(&self) -> bool {
        self.0.iter().any(|it| it.taps_requests())
    }

    fn taps_responses(&self) -> bool {
        self.0.iter().any(|it| it.taps_responses())
    }

    fn tap_request(&self, exchange: &Exchange, request: &RequestHeader, taps: &mut Taps) {
        self.0.iter().for_each(|it| it.tap_request(exchange, request, taps));
    }

    fn tap_response(&self, exchange: &Exchange, response: &ResponseHeader, taps: &mut Taps) {
        self.0.iter().for_each(|it| it.tap_response(exchange, response, taps));
    }
}

impl BuiltIn for Custom {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a FiltersConfig> {
        Some(&layer.settings.filters)
    }

    /// Of each filter, the last layer's block.
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<FiltersConfig> {
        let blocks = layers.iter().flat_map(|it| it.settings.filters.0.clone());
        Some(FiltersConfig(blocks.collect())).filter(|it| !it.0.is_empty())
    }

    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        let Some(FiltersConfig(blocks)) = Self::settings(layers, scope) else { return Vec::new() };
        let line = |name| Some(StepDescription::new(name, &scope.filters.shown(name, blocks.get(name)?)));
        scope.filters.names().filter_map(line).collect()
    }
}
