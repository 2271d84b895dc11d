//! Alerts: JSON objects that a webhook gets by POST, one after the other, in the order in which they were raised
//! (R6.3).
//!
//! Who raises one never waits. A receiver that does not take it is asked again, after longer and longer pauses; what it
//! has not taken by then is given up and counted, as is what finds the queue full. The log has every one of them.

use std::time::Duration;

use once_cell::sync::Lazy;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};
use reqwest::header::{AUTHORIZATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::base::{At, Diagnostics, Secret, TraceId};

/// How long a delivery may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a delivery is tried.
const ATTEMPTS: u32 = 5;
/// The first pause between two attempts; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// A receiver that wants to be asked later than this is asked then.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Who is told of what happens to upstreams, beside the log.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// Gets each change of the health of upstreams and their endpoints: `event`, `message`, `at`, `upstream`, and, where
    /// there is one, `endpoint`, `reason`, `dependency`, `seconds` (for how long), `eligible` (endpoints that get
    /// requests). Endpoints that come or go within five seconds are one of them, `endpoints_changed`, with `added`,
    /// `removed` (a hundred addresses each at most), `additions` and `removals` (how many in all).
    pub health: Option<WebhookConfig>,
}

impl AlertsConfig {
    /// Reports what makes no sense.
    pub fn check(&self, at: &At<'_>, diagnostics: &mut Diagnostics) {
        if let Some(webhook) = &self.health {
            webhook.check(&at.key("health"), diagnostics);
        }
    }
}

/// Gets a JSON object by POST for each alert, with an `Idempotency-Key` that stays the same when one is sent again.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where: an `http` or `https` URL. It may hold a credential, so it is shown nowhere.
    pub url: Secret,
    /// The value of the field `Authorization`, if it needs one.
    #[serde(default)]
    pub authorization: Option<Secret>,
}

impl WebhookConfig {
    /// Reports what makes no sense.
    pub fn check(&self, at: &At<'_>, diagnostics: &mut Diagnostics) {
        let url = Url::parse(self.url.expose());
        if url.ok().is_none_or(|it| !matches!(it.scheme(), "http" | "https")) {
            diagnostics.error(&at.key("url"), "not a URL").help("write it as https://alerts.example.org/x");
        }
    }
}

static RESULTS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Alerts by webhook and what came of them: delivered, retried (for each further attempt), lost.";
    register_int_counter_vec!("moongate_alerts_total", help, &["webhook", "result"])
        .expect("a family is registered once, under a name of its own")
});

static WAITING: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Alerts that wait for a webhook, of 1024 at most.";
    register_int_gauge_vec!("moongate_alerts_waiting", help, &["webhook"])
        .expect("a family is registered once, under a name of its own")
});

/// What one webhook is sent.
#[derive(Clone)]
pub struct Alerts {
    queue: mpsc::Sender<Alert>,
    counts: Counts,
}

#[derive(Clone)]
struct Counts {
    delivered: IntCounter,
    retried: IntCounter,
    lost: IntCounter,
    waiting: IntGauge,
    /// Another counter for what is lost.
    lost_too: Option<IntCounter>,
}

impl Counts {
    fn lose(&self) {
        self.lost.inc();
        self.lost_too.iter().for_each(IntCounter::inc);
    }
}

struct Alert {
    id: TraceId,
    body: Value,
}

impl Alerts {
    /// Alerts that wait for one webhook, at most.
    pub const WAITING_MAX: usize = 1_024;

    /// Delivers on this runtime, which must not be one of requests; `name` is what metrics and log call the webhook.
    /// What is lost counts in `lost`, too, if that is given.
    pub fn begin(name: &'static str, webhook: WebhookConfig, lost: Option<IntCounter>, runtime: &Handle) -> Self {
        let result = |it| RESULTS.with_label_values(&[name, it]);
        let counts = Counts {
            delivered: result("delivered"),
            retried: result("retried"),
            lost: result("lost"),
            waiting: WAITING.with_label_values(&[name]),
            lost_too: lost,
        };
        let (queue, waiting) = mpsc::channel(Self::WAITING_MAX);
        runtime.spawn(deliver(name, webhook, waiting, counts.clone()));
        Self { queue, counts }
    }

    /// Raises an alert. Never waits: what finds no room is lost, and counts.
    pub fn send(&self, body: Value) {
        self.counts.waiting.inc();
        if self.queue.try_send(Alert { id: TraceId::random(), body }).is_err() {
            self.counts.waiting.dec();
            self.counts.lose();
        }
    }
}

/// Delivers until nobody can send any more.
async fn deliver(name: &'static str, webhook: WebhookConfig, mut waiting: mpsc::Receiver<Alert>, counts: Counts) {
    let client = match Client::builder().timeout(PATIENCE).redirect(Policy::none()).build() {
        Ok(client) => client,
        Err(_) => return tracing::error!(event = "webhook_failed", webhook = name, "no client can be made for it"),
    };
    while let Some(alert) = waiting.recv().await {
        match delivered(&client, &webhook, &alert, &counts).await {
            Ok(()) => counts.delivered.inc(),
            Err(reason) => {
                counts.lose();
                let what = alert.body["event"].as_str().unwrap_or_default();
                tracing::error!(
                    event = "webhook_failed",
                    webhook = name,
                    alert = what,
                    reason,
                    "an alert was not taken"
                );
            }
        }
        counts.waiting.dec();
    }
}

/// Tries until the receiver takes it; why it did not, if that is all in vain.
async fn delivered(client: &Client, webhook: &WebhookConfig, alert: &Alert, counts: &Counts) -> Result<(), String> {
    let mut attempt = 1;
    loop {
        let Failed { reason, again_in } = match post(client, webhook, alert).await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let Some(wait) = again_in.filter(|_| attempt < ATTEMPTS) else { return Err(reason) };
        sleep(wait.max(PAUSE * (1 << (attempt - 1))).mul_f64(1.0 + fastrand::f64() / 10.0)).await;
        counts.retried.inc();
        attempt += 1;
    }
}

/// An attempt that came to nothing.
#[derive(Debug, PartialEq)]
struct Failed {
    /// In words of our own: a client's error quotes the URL, which may be a secret.
    reason: String,
    /// Whether to try again, and after how long at the earliest.
    again_in: Option<Duration>,
}

async fn post(client: &Client, webhook: &WebhookConfig, alert: &Alert) -> Result<(), Failed> {
    let mut request = client.post(webhook.url.expose()).json(&alert.body);
    request = request.header("idempotency-key", format!("\"{}\"", alert.id.as_str()));
    if let Some(secret) = &webhook.authorization {
        request = request.header(AUTHORIZATION, secret.expose());
    }
    match request.send().await {
        Ok(answer) => verdict(&answer),
        Err(error) => {
            let reason = if error.is_timeout() { "it does not answer in time" } else { "it can't be reached" };
            Err(Failed { reason: reason.to_owned(), again_in: Some(Duration::ZERO) })
        }
    }
}

/// What will pass by itself is worth another attempt; what the receiver finds wrong with an alert is not.
fn verdict(answer: &Response) -> Result<(), Failed> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let passing = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    let wanted = answer.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok()?.trim().parse().ok());
    let wait = wanted.map_or(Duration::ZERO, Duration::from_secs).min(RETRY_AFTER_MAX);
    Err(Failed { reason: format!("it answered with status {}", status.as_u16()), again_in: passing.then_some(wait) })
}
