//! Services that live inside the process and are addressed from `routes.yaml` like any upstream.

pub mod auth;

mod cache_clear;
mod static_files;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pipeline::LocalService;

pub use cache_clear::CacheClear;
pub use static_files::StaticFiles;
pub use status::{HealthStatus, MetricsStatus};

/// The local services by name: what `local:` in an upstream may say.
#[derive(Clone, Default)]
pub struct ServiceRegistry {
    services: BTreeMap<&'static str, Arc<dyn LocalService>>,
}

impl ServiceRegistry {
    /// The services that every gateway has: `health`, `metrics` and, with nothing to clear yet, `cache_clear`;
    /// and `auth`, in whose place [`auth::AuthService`] is put before it is called.
    pub fn standard() -> Self {
        let mut registry = Self::default();
        registry.add("health", Arc::new(HealthStatus));
        registry.add("metrics", Arc::new(MetricsStatus));
        registry.add("auth", Arc::new(auth::NotYet));
        registry.add("cache_clear", Arc::new(CacheClear::default()));
        registry
    }

    /// Adds a service under a name, or replaces the one that had it.
    pub fn add(&mut self, name: &'static str, service: Arc<dyn LocalService>) {
        self.services.insert(name, service);
    }

    /// The service of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<dyn LocalService>> {
        self.services.get(name)
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.services.keys().copied()
    }
}
