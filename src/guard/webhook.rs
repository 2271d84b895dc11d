//! Tells administrators of blocks.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::blocklist::Block;
use super::config::WebhookConfig;
use super::metrics::ALERTS_LOST;
use crate::telemetry::Timestamp;

/// How long a delivery may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a delivery is tried.
const ATTEMPTS: u32 = 3;

/// A block, and when it began.
pub(super) struct Alert {
    pub(super) at: Timestamp,
    pub(super) block: Block,
}

/// Delivers alerts one after the other, until nobody can send any more.
pub(super) async fn deliver(webhook: WebhookConfig, mut waiting: mpsc::Receiver<Alert>) {
    let client = match reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build()
    {
        Ok(client) => client,
        Err(_) => return tracing::error!(event = "webhook_failed", "no client can be made for the guard's webhook"),
    };
    while let Some(alert) = waiting.recv().await {
        if !delivered(&client, &webhook, &alert).await {
            ALERTS_LOST.inc();
            tracing::error!(event = "webhook_failed", client = %alert.block.address, "an alert was not taken");
        }
    }
}

async fn delivered(client: &reqwest::Client, webhook: &WebhookConfig, alert: &Alert) -> bool {
    let body = json!({
        "event": "address_blocked",
        "at": alert.at.as_str(),
        "address": alert.block.address.to_string(),
        "reason": alert.block.reason,
        "seconds": alert.block.time.as_secs(),
        "strikes": alert.block.strikes,
    });
    for attempt in 0..ATTEMPTS {
        tokio::time::sleep(Duration::from_millis(500) * attempt).await;
        let mut request = client.post(webhook.url.expose()).json(&body);
        if let Some(secret) = &webhook.authorization {
            request = request.header(reqwest::header::AUTHORIZATION, secret.expose());
        }
        if request.send().await.is_ok_and(|it| it.status().is_success()) {
            return true;
        }
    }
    false
}
