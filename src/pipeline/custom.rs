//! Filters that a binary adds to the built-in ones.
//!
//! The same trait, behind a pointer: a gateway built from this crate names its filters before it starts, and
//! from then on they have blocks in `routes.yaml`, places in its schema, lines in `moongate explain` and a step on
//! the way like any other.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::Schema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

use crate::base::{At, Diagnostics};
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step, Taps};
use crate::yaml::without_secrets;

/// The filters that a binary adds, in the order in which requests pass them.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    list: Vec<Registered>,
}

/// What is known of a filter before it is compiled.
#[derive(Clone, Copy)]
struct Registered {
    name: &'static str,
    summary: &'static str,
    schema: fn(&mut SchemaGenerator) -> Schema,
    compile: Compile,
}

type Compile = fn(&Value, &Scope<'_>, &At<'_>, &mut Diagnostics) -> Option<Arc<dyn AnyFilter>>;

impl Filters {
    /// None but the built-in ones.
    pub const fn none() -> Self {
        Self { list: Vec::new() }
    }

    /// One more, behind those that are there already.
    ///
    /// # Panics
    /// When its name is not a key (`lower_case`), or another one has it.
    #[must_use]
    pub fn with<F: Filter>(mut self) -> Self {
        let plain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_';
        assert!(!F::NAME.is_empty() && F::NAME.bytes().all(plain), "`{}` is not a name for a filter", F::NAME);
        assert!(self.list.iter().all(|it| it.name != F::NAME), "two filters are called `{}`", F::NAME);
        self.list.push(Registered {
            name: F::NAME,
            summary: F::SUMMARY,
            schema: |generator| generator.subschema_for::<F::Config>(),
            compile: compile::<F>,
        });
        self
    }

    /// Their names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.list.iter().map(|it| it.name)
    }

    /// The schema of each block, by name; what they have in common is left with the generator.
    pub fn schemas(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut described = |it: &Registered| {
            let mut schema = (it.schema)(generator);
            schema.insert("description".to_owned(), it.summary.into());
            (it.name.to_owned(), schema.to_value())
        };
        self.list.iter().map(&mut described).collect()
    }

    /// A block for people's eyes: without what stands where its schema has a secret.
    pub fn shown(&self, name: &str, block: &Value) -> Value {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let schema = self.schemas(&mut generator).remove(name);
        let mut schema = schema.unwrap_or_default();
        schema["$defs"] = Value::Object(generator.take_definitions(true));
        without_secrets(block, &schema)
    }

    /// Compiles the blocks that are there, in the order of the filters; `at` is the place of them all.
    pub fn compile(
        &self,
        blocks: &BTreeMap<String, Value>,
        scope: &Scope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Vec<Arc<dyn AnyFilter>> {
        for name in blocks.keys().filter(|name| self.names().all(|it| it != *name)) {
            let diagnostic = diagnostics.error_at_key(&at.key(name), format!("no filter `{name}`"));
            diagnostic.suggest(name, self.names());
        }
        let compile = |it: &Registered| (it.compile)(blocks.get(it.name)?, scope, &at.key(it.name), diagnostics);
        self.list.iter().filter_map(compile).collect()
    }
}

fn compile<F: Filter>(
    block: &Value,
    scope: &Scope<'_>,
    at: &At<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<dyn AnyFilter>> {
    match serde_json::from_value::<F::Config>(block.clone()) {
        Ok(config) => Some(Arc::new(F::compile(&config, scope, at, diagnostics)?)),
        Err(error) => {
            diagnostics.error(at, error.to_string());
            None
        }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A [`Filter`] behind a pointer: every filter is one.
pub trait AnyFilter: Send + Sync {
    /// See [`Filter::on_request`].
    fn on_request<'a, 'r: 'a>(
        &'a self,
        context: &'a mut RequestContext<'r>,
    ) -> Pin<Box<dyn Future<Output = Step> + Send + 'a>>;
    /// See [`Filter::needs_body`].
    fn needs_body(&self, method: &Method) -> bool;
    /// See [`Filter::on_body`].
    fn on_body<'a>(
        &'a self,
        exchange: &'a mut Exchange,
        request: &'a RequestHeader,
        body: &'a Bytes,
    ) -> Pin<Box<dyn Future<Output = Step> + Send + 'a>>;
    /// See [`Filter::on_response`].
    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader);
    /// See [`Filter::taps_requests`].
    fn taps_requests(&self) -> bool;
    /// See [`Filter::taps_responses`].
    fn taps_responses(&self) -> bool;
    /// See [`Filter::tap_request`].
    fn tap_request(&self, exchange: &Exchange, request: &RequestHeader, taps: &mut Taps);
    /// See [`Filter::tap_response`].
    fn tap_response(&self, exchange: &Exchange, response: &ResponseHeader, taps: &mut Taps);
}

impl<F: Filter> AnyFilter for F {
    fn on_request<'a, 'r: 'a>(
        &'a self,
        context: &'a mut RequestContext<'r>,
    ) -> Pin<Box<dyn Future<Output = Step> + Send + 'a>> {
        Box::pin(Filter::on_request(self, context))
    }

    fn needs_body(&self, method: &Method) -> bool {
        Filter::needs_body(self, method)
    }

    fn on_body<'a>(
        &'a self,
        exchange: &'a mut Exchange,
        request: &'a RequestHeader,
        body: &'a Bytes,
    ) -> Pin<Box<dyn Future<Output = Step> + Send + 'a>> {
        Box::pin(Filter::on_body(self, exchange, request, body))
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        Filter::on_response(self, exchange, response);
    }

    fn taps_requests(&self) -> bool {
        Filter::taps_requests(self)
    }

    fn taps_responses(&self) -> bool {
        Filter::taps_responses(self)
    }

    fn tap_request(&self, exchange: &Exchange, request: &RequestHeader, taps: &mut Taps) {
        Filter::tap_request(self, exchange, request, taps);
    }

    fn tap_response(&self, exchange: &Exchange, response: &ResponseHeader, taps: &mut Taps) {
        Filter::tap_response(self, exchange, response, taps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named;

    impl Filter for Named {
        const NAME: &'static str = "named";
        const SUMMARY: &'static str = "Does nothing.";
        type Config = bool;

        fn compile(config: &bool, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
            config.then_some(Self)
        }
    }

    #[test]
    fn a_block_is_compiled_by_the_filter_of_its_name() {
        let filters = Filters::none().with::<Named>();
        for (blocks, count, faults) in [
            ("{}", 0, &[][..]),
            ("{ named: true }", 1, &[]),
            ("{ named: false }", 0, &[]),
            ("{ named: 1, nmaed: 1 }", 0, &["/nmaed", "/named"]),
        ] {
            let mut diagnostics = Diagnostics::default();
            let blocks = serde_yaml::from_str(blocks).unwrap();
            assert_eq!(filters.compile(&blocks, &Scope::nowhere(), &At::ROOT, &mut diagnostics).len(), count);
            let paths: Vec<_> = diagnostics.iter().map(|it| &*it.path).collect();
            assert_eq!(paths, faults);
        }
    }

    #[test]
    #[should_panic(expected = "two filters are called `named`")]
    fn a_name_stands_for_one_filter() {
        let _ = Filters::none().with::<Named>().with::<Named>();
    }
}
