//! The place of the cache among the steps. What may be kept is the cache room's business; the request path calls it
//! (`proxy/cached.rs`).

use std::sync::Arc;

use http::Method;

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::cache::{CacheConfig, Rules};
use crate::pipeline::{Filter, Scope};

impl Filter for Arc<Rules> {
    const NAME: &'static str = "cache";
    const SUMMARY: &'static str = "Caches responses and serves them again.";
    type Config = CacheConfig;

    fn compile(config: &CacheConfig, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(Self::new(Rules::compile(scope.route, config, scope.captures, at, diagnostics)))
    }

    fn needs_body(&self, method: &Method) -> bool {
        Rules::needs_body(self, method)
    }
}

impl BuiltIn for Arc<Rules> {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a CacheConfig> {
        layer.settings.cache.as_ref()
    }

    /// What tags name is known only where a path is: with each route.
    fn check(layer: &Layer<'_>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        if let Some(cache) = Self::block(layer) {
            let config = CacheConfig { tags: Vec::new(), ..cache.clone() };
            Self::compile(&config, scope, &layer.at.key(Self::NAME), diagnostics);
        }
    }

    fn check_on_route(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        let counting = layers.iter().rev().find_map(|it| Some((Self::block(it)?, &it.at)));
        if let Some((cache, at)) = counting {
            Rules::check_tags(&cache.tags, scope.captures, &at.key(Self::NAME).key("tags"), diagnostics);
        }
    }
}
