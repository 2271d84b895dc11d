//! Services with and without settings, behind one pointer: what the registry of all of them needs.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use crate::base::{At, Diagnostics};
use crate::pipeline::{Configurable, LocalService, ServiceScope};
use crate::upstream::LocalUpstream;

/// The compiled settings of a service for one upstream; the service alone knows their type.
#[derive(Clone)]
pub struct ServiceSettings(Arc<dyn Any + Send + Sync>);

impl fmt::Debug for ServiceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceSettings(..)")
    }
}

/// A service, whatever its settings are.
pub(super) trait AnyService: Send + Sync {
    /// The schema of its settings.
    fn schema(&self, generator: &mut SchemaGenerator) -> Value;
    /// Compiles what an upstream at `at` says; `None` if there is a fault, which is reported.
    fn compile(
        &self,
        local: &LocalUpstream,
        scope: &ServiceScope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ServiceSettings>;
    /// The service under settings that it compiled.
    fn activate(&self, settings: &ServiceSettings) -> Arc<dyn LocalService>;
}

/// A service that has no settings.
pub(super) struct Plain(pub(super) Arc<dyn LocalService>);

impl AnyService for Plain {
    fn schema(&self, _: &mut SchemaGenerator) -> Value {
        json!({ "type": "object", "properties": {}, "additionalProperties": false })
    }

    fn compile(
        &self,
        _: &LocalUpstream,
        _: &ServiceScope<'_>,
        _: &At<'_>,
        _: &mut Diagnostics,
    ) -> Option<ServiceSettings> {
        Some(ServiceSettings(Arc::new(()))) // any key would have been refused by the schema
    }

    fn activate(&self, _: &ServiceSettings) -> Arc<dyn LocalService> {
        self.0.clone()
    }
}

/// A service that has some.
pub(super) struct Typed<S>(pub(super) S);

impl<S: Configurable> AnyService for Typed<S> {
    fn schema(&self, generator: &mut SchemaGenerator) -> Value {
        generator.subschema_for::<S::Config>().to_value()
    }

    fn compile(
        &self,
        local: &LocalUpstream,
        scope: &ServiceScope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ServiceSettings> {
        let written = local.settings.as_ref().map_or_else(|| json!({}), |it| it.value().clone());
        let config: S::Config = match serde_json::from_value(written) {
            Ok(config) => config,
            Err(error) => {
                let key = if local.settings.is_some() { local.written_as } else { "local" };
                diagnostics.error(&at.key(key), format!("the settings of `{}`: {error}", local.service));
                return None;
            }
        };
        let settings = S::compile(&config, scope, &at.key(local.written_as), diagnostics)?;
        Some(ServiceSettings(Arc::new(settings)))
    }

    fn activate(&self, settings: &ServiceSettings) -> Arc<dyn LocalService> {
        let settings = settings.0.clone().downcast::<S::Settings>();
        self.0.activate(settings.expect("a name stands for one service, and this one compiled them"))
    }
}
