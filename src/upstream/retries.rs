//! When a request is sent again, to another endpoint.

use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Percent, Period};

/// The most attempts of one request.
const ATTEMPTS_MAX: u8 = 10;

/// When a request is sent again, to another endpoint. Always only where it is safe: nothing of it has reached an
/// upstream, or its method is idempotent (RFC 9110, 9.2.2) or its idempotency key counts, and its body is at hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "attempts": 2 }]))]
pub struct RetriesConfig {
    /// How often it is sent at most, the first time included; 1 for no retries. Default 3.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u8,
    /// After what: `connect_failure`, `reset` (the connection breaks off before an answer), and statuses from 500 to
    /// 599. Default: the two words.
    pub on: Vec<RetryOn>,
    /// The share of requests that may be retried, over 10s; 3 a second may be in any case. Default 20%.
    pub budget: Percent,
    /// How long the second retry waits at most, twice as long the third, and so on; the first one too, after a status.
    /// A `Retry-After` of up to a second is waited for instead, a longer one ends the retries. Default 25ms.
    pub backoff: Period,
    /// The upstream itself does what has one `Idempotency-Key` once: a request with a key may be sent again whatever its
    /// method. Without it, a key does not: the gateway's `idempotency` protects from clients that repeat themselves, not
    /// from an upstream that did it and broke off before it said so.
    pub keyed: bool,
    /// Tell clients in `X-Moongate-Attempts` how often the request was sent.
    pub report: bool,
}

impl Default for RetriesConfig {
    fn default() -> Self {
        Self {
            attempts: 3,
            on: vec![RetryOn::Cause(RetryCause::ConnectFailure), RetryOn::Cause(RetryCause::Reset)],
            budget: Percent(0.2),
            backoff: Period::millis(25),
            keyed: false,
            report: false,
        }
    }
}

/// A reason to send a request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RetryOn {
    /// The answer has this status.
    Status(u16),
    /// There is no answer.
    Cause(RetryCause),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryCause {
    /// No connection could be made, or the upstream said that it did not look at the request.
    ConnectFailure,
    /// The connection ended before an answer.
    Reset,
}

/// Compiled: when a request is sent again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How often it is sent at most.
    pub attempts: u8,
    /// After a connection that could not be made.
    pub on_connect_failure: bool,
    /// After one that broke off.
    pub on_reset: bool,
    statuses: Box<[u16]>,
    pub(super) budget: f64,
    backoff: Duration,
    /// Whether a key makes a request idempotent.
    pub keyed: bool,
    /// Whether clients are told.
    pub report: bool,
}

impl RetryPolicy {
    /// Reports what makes no sense.
    pub(super) fn compile(config: &RetriesConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if !(1..=ATTEMPTS_MAX).contains(&config.attempts) {
            let diagnostic =
                diagnostics.error(&at.key("attempts"), format!("{} attempts make no sense", config.attempts));
            diagnostic.help(format!("1 for no retries, at most {ATTEMPTS_MAX}"));
        }
        let mut statuses = Vec::new();
        for (index, on) in config.on.iter().enumerate() {
            match on {
                RetryOn::Status(status) if !(500..=599).contains(status) => {
                    diagnostics
                        .error(&at.key("on").index(index), format!("{status} is not an upstream's failure"))
                        .help("500 to 599, `connect_failure` or `reset`");
                }
                RetryOn::Status(status) => statuses.push(*status),
                RetryOn::Cause(_) => {}
            }
        }
        let on = |cause| config.on.contains(&RetryOn::Cause(cause));
        Self {
            attempts: config.attempts,
            on_connect_failure: on(RetryCause::ConnectFailure),
            on_reset: on(RetryCause::Reset),
            statuses: statuses.into(),
            budget: config.budget.0,
            backoff: config.backoff.0,
            keyed: config.keyed,
            report: config.report,
        }
    }

    /// Whether an answer of this status is a reason.
    pub fn on_status(&self, status: StatusCode) -> bool {
        status.is_server_error() && self.statuses.contains(&status.as_u16())
    }

    /// How long the attempt after so many waits: with full jitter, so that those that failed together do not come back
    /// together.
    pub fn pause_after(&self, attempts: u8) -> Duration {
        self.backoff.mul_f64(fastrand::f64()) * (1 << u32::from(attempts.saturating_sub(1)).min(10))
    }
}
