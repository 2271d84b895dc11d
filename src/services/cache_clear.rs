//! Purges all cached responses, for developers (S2S-15).

use std::sync::Arc;

use axum::body::Body;

use crate::cache::{Cache, Purge};
use crate::pipeline::{Context, LocalFuture, LocalService};

/// `POST /api/cache/clear`: 204 when everything is purged.
#[derive(Default)]
pub struct CacheClear {
    cache: Option<Arc<Cache>>,
}

impl CacheClear {
    /// Clears this cache.
    pub fn new(cache: Arc<Cache>) -> Self {
        Self { cache: Some(cache) }
    }
}

impl LocalService for CacheClear {
    fn call(&self, _: http::Request<Body>, _: Context) -> LocalFuture {
        let cache = self.cache.clone();
        Box::pin(async move {
            if let Some(cache) = cache {
                let purged = cache.purge(Purge::All).await;
                tracing::info!(
                    event = "cache_purged",
                    what = "all",
                    count = purged.count,
                    everywhere = purged.everywhere
                );
            }
            let mut answer = http::Response::new(Body::empty());
            *answer.status_mut() = http::StatusCode::NO_CONTENT;
            answer
        })
    }
}
