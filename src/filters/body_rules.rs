//! What a request's body must be: its media type, and its shape by a JSON Schema (S2S-38).

mod counted;
mod expansion;
mod metrics;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::schema::Schema;
use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Exchange, Filter, MediaTypes, Refusal, RequestContext, Scope, Step};

/// The `schema` section of a route or of a policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SchemaConfig {
    /// A file with the JSON Schema (draft 2020-12 unless it names another) of request bodies. What does not fit gets
    /// 400 with the places that failed; unless `content_types` says otherwise, bodies must be JSON. References must
    /// point into the same file; patterns are matched in linear time, so without look-around and backreferences. At
    /// most 10,000 schemas may apply to one value, through references and `allOf`, `anyOf` and their like, and none
    /// of them itself. A body nested deeper than 64 levels, or that takes more work to check than its length
    /// warrants, does not fit; nor does one that has a name twice in an object.
    pub request: Option<PathBuf>,
}

/// What `content_types` and `schema` say together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct BodyRulesConfig {
    /// Media types.
    pub content_types: Option<Vec<String>>,
    /// The shape.
    pub schema: Option<SchemaConfig>,
}

/// Compiled: what bodies must be.
#[derive(Clone, Debug, Default)]
pub struct BodyRules {
    types: Vec<MediaTypes>,
    schema: Option<Arc<Schema>>,
}

impl Filter for BodyRules {
    const NAME: &'static str = "body_rules";
    const SUMMARY: &'static str = "Takes only bodies of some media types (`content_types`) and shapes (`schema`).";
    type Config = BodyRulesConfig;

    /// Reads the schema's file. Reports every media type that is none, and a schema that can't be used.
    fn compile(config: &BodyRulesConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let schema = config.schema.as_ref().and_then(|it| it.request.as_deref());
        let schema = schema.and_then(|path| match Schema::read(path) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(bad) => {
                diagnostics.error(&at.key("schema").key("request"), bad.why).help(bad.help);
                None
            }
        });
        let json = || vec![MediaTypes::Exact("application/json".to_owned()), MediaTypes::Suffix("+json".to_owned())];
        let types = match &config.content_types {
            Some(types) => MediaTypes::compile_list(types, &at.key("content_types"), diagnostics),
            None if schema.is_some() => json(),
            None => Vec::new(),
        };
        (!types.is_empty() || schema.is_some()).then_some(Self { types, schema })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        Ok(self.check_type(&context.request.headers, context.has_body)?)
    }

    fn needs_body(&self, _: &Method) -> bool {
        self.schema.is_some()
    }

    async fn on_body(&self, exchange: &mut Exchange, request: &RequestHeader, body: &Bytes) -> Step {
        let Some(schema) = &self.schema else { return Ok(()) };
        // Of these nobody expects a body (RFC 9110, section 9.3).
        if body.is_empty() && [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS].contains(&request.method) {
            return Ok(());
        }
        Ok(schema.check(body, exchange.client_ip).await?)
    }
}

impl BuiltIn for BodyRules {
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<BodyRulesConfig> {
        let layers = || layers.iter().rev().map(|it| it.settings);
        let content_types = layers().find_map(|it| it.content_types.clone());
        let schema = layers().find_map(|it| it.schema.clone());
        (content_types.is_some() || schema.is_some()).then_some(BodyRulesConfig { content_types, schema })
    }

    fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        let (content_types, schema) = (layer.settings.content_types.clone(), layer.settings.schema.clone());
        Self::compile(&BodyRulesConfig { content_types, schema }, scope, &layer.at, diagnostics);
    }
}

impl BodyRules {
    /// The files that were read.
    pub fn files(&self) -> Option<&Path> {
        self.schema.as_ref().map(|it| it.file())
    }

    /// Checks the media type, of requests with a body.
    ///
    /// # Errors
    /// 415 for one that is not taken, or is missing.
    fn check_type(&self, headers: &HeaderMap, has_body: bool) -> Result<(), Refusal> {
        if self.types.is_empty() || !has_body {
            return Ok(());
        }
        if headers.get_all(CONTENT_TYPE).iter().count() <= 1 && MediaTypes::any_takes(&self.types, headers) {
            return Ok(());
        }
        let accepted: Vec<String> = self.types.iter().map(ToString::to_string).collect();
        Err(Refusal::UnsupportedMediaType { accepted: accepted.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn compiled(types: &[&str]) -> (Option<BodyRules>, Diagnostics) {
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        let config = BodyRulesConfig { content_types: Some(types), schema: None };
        let mut diagnostics = Diagnostics::default();
        (BodyRules::compile(&config, &Scope::nowhere(), &At::ROOT, &mut diagnostics), diagnostics)
    }

    fn rules(types: &[&str]) -> BodyRules {
        let (rules, diagnostics) = compiled(types);
        assert!(diagnostics.is_empty());
        rules.unwrap()
    }

    #[test]
    fn only_what_is_listed_is_taken() {
        for (types, sent, taken) in [
            (&["application/json"][..], "application/json", true),
            (&["application/json"], "Application/JSON; charset=utf-8", true),
            (&["application/json"], "application/json-seq", false),
            (&["application/json"], "", false),
            (&["image/*"], "image/png", true),
            (&["image/*"], "images/png", false),
            (&["application/*+json"], "application/problem+json", true),
            (&["application/*+json"], "text/problem+json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(sent))]);
            assert_eq!(rules(types).check_type(&headers, true).is_ok(), taken, "{types:?} {sent}");
        }
    }

    #[test]
    fn what_is_not_a_media_type_is_found() {
        let (_, diagnostics) = compiled(&["json", "*/json", "application/*json", "a b/c"]);
        assert_eq!(diagnostics.iter().count(), 4);
    }
}
