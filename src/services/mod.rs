//! Services that live inside the process and are addressed from `routes.yaml` like any upstream.

pub mod auth;

mod aggregate;
mod cache_clear;
mod echo;
mod settings;
mod static_files;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::base::{At, Diagnostics};
use crate::pipeline::{Configurable, LocalService, ServiceScope};
use crate::upstream::LocalUpstream;

use settings::{AnyService, Plain, Typed};
use static_files::StaticFiles;

pub use aggregate::{Aggregate, AggregatePartConfig};
pub use cache_clear::CacheClear;
pub use settings::ServiceSettings;
pub use status::{HealthStatus, MetricsStatus};

/// The local services by name: what `local:` in an upstream may say.
#[derive(Clone, Default)]
pub struct ServiceRegistry {
    services: BTreeMap<&'static str, Arc<dyn AnyService>>,
}

impl ServiceRegistry {
    /// The services that every gateway has: `health`, `metrics`, `echo`, `files` and, with nothing to clear yet,
    /// `cache_clear`; and `auth`, in whose place [`auth::AuthService`] is put before it is called.
    pub fn standard() -> Self {
        let mut registry = Self::default();
        registry.add("health", Arc::new(HealthStatus));
        registry.add("metrics", Arc::new(MetricsStatus));
        registry.add("auth", Arc::new(auth::NotYet));
        registry.add("cache_clear", Arc::new(CacheClear::default()));
        registry.add_configurable("echo", echo::Echo);
        registry.add_configurable("files", StaticFiles);
        registry
    }

    /// Adds a service without settings under a name, or replaces the one that had it.
    pub fn add(&mut self, name: &'static str, service: Arc<dyn LocalService>) {
        self.services.insert(name, Arc::new(Plain(service)));
    }

    /// The same for a service with settings. What replaces one has to have settings of the same type: they are
    /// compiled before all parts of the services are there.
    pub fn add_configurable(&mut self, name: &'static str, service: impl Configurable) {
        self.services.insert(name, Arc::new(Typed(service)));
    }

    /// The schema of each service's settings, by the service's name.
    pub fn schemas(&self, generator: &mut SchemaGenerator) -> Vec<(&'static str, Value)> {
        self.services.iter().map(|(name, service)| (*name, service.schema(generator))).collect()
    }

    /// Compiles what the upstream at `at` says of its service.
    pub fn compile(
        &self,
        local: &LocalUpstream,
        scope: &ServiceScope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ServiceSettings> {
        let Some(service) = self.services.get(&*local.service) else {
            let diagnostic = diagnostics.error(&at.key("local"), format!("no local service `{}`", local.service));
            diagnostic.suggest(&local.service, self.names());
            return None;
        };
        service.compile(local, scope, at, diagnostics)
    }

    /// The service of an upstream, under the settings that were compiled for it.
    pub fn activate(&self, local: &LocalUpstream, settings: &ServiceSettings) -> Arc<dyn LocalService> {
        self.services.get(&*local.service).expect("the compilation looked it up").activate(settings)
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.services.keys().copied()
    }
}
