//! What monitors request on the public listener: is it up (S2S-7), and how is it doing (S2S-6).

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde_json::json;

use crate::pipeline::{Context, LocalFuture, LocalService};
use crate::telemetry::{Timestamp, summary};

/// `GET /api/health`: 200 with the time.
pub struct HealthStatus;

/// `GET /api/metrics`: totals, streams, errors by code, percentiles.
pub struct MetricsStatus;

impl LocalService for HealthStatus {
    fn call(&self, _: http::Request<Body>, _: Context) -> LocalFuture {
        let answer = answer(&json!({ "status": "ok", "timestamp": Timestamp::now().as_str() }));
        Box::pin(std::future::ready(answer))
    }
}

impl LocalService for MetricsStatus {
    fn call(&self, _: http::Request<Body>, _: Context) -> LocalFuture {
        Box::pin(async {
            // Walks all series: not for a worker.
            let figures = tokio::task::spawn_blocking(summary).await;
            match figures {
                Ok(figures) => answer(&figures),
                Err(_) => {
                    let mut failed = http::Response::new(Body::empty());
                    *failed.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                    failed
                }
            }
        })
    }
}

fn answer(figures: &impl Serialize) -> http::Response<Body> {
    let body = serde_json::to_vec(figures).unwrap_or_default();
    let mut answer = http::Response::new(Body::from(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
