//! What a response goes by beside its policy.

use std::sync::Arc;

use super::compress::CompressRules;
use super::event_stream::EventRules;
use super::websocket::WebSocketRules;
use crate::connections::{Connections, Facts, Kind, Open};
use crate::pipeline::Exchange;
use crate::telemetry::RouteMetrics;

/// What a response goes by: where one that lasts is registered, and what its route says.
pub struct Streaming<'a> {
    /// All that last.
    pub connections: &'a Arc<Connections>,
    /// The route's series.
    pub metrics: &'a Arc<RouteMetrics>,
    /// How event streams are kept.
    pub events: Option<&'a EventRules>,
    /// How WebSockets are kept.
    pub websocket: Option<&'a WebSocketRules>,
    /// How bodies are compressed.
    pub compress: Option<&'a CompressRules>,
}

impl Streaming<'_> {
    /// Registers what has become of an exchange.
    pub(super) fn open(&self, kind: Kind, exchange: &Exchange) -> Open {
        self.connections.open(Facts {
            kind,
            route: exchange.route.clone().unwrap_or_else(|| Arc::from("")),
            metrics: self.metrics.clone(),
            upstream: exchange.attempt.upstream.clone(),
            principal: exchange.principal.clone(),
            request_id: exchange.request_id,
            client: exchange.client_ip,
            since: exchange.started,
        })
    }
}
