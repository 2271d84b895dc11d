//! The metric families of identities.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

use super::token_error::TokenError;

const ONCE: &str = "a family is registered once, under a name of its own";

static TOKENS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Tokens looked at, by what came of it: known (verified before), verified, or the error";
    register_int_counter_vec!("moongate_tokens_total", help, &["result"]).expect(ONCE)
});
/// Tokens that had been verified before.
pub(super) static KNOWN: Lazy<IntCounter> = Lazy::new(|| TOKENS.with_label_values(&["known"]));
/// Tokens whose signature was checked and is good.
pub(super) static VERIFIED: Lazy<IntCounter> = Lazy::new(|| TOKENS.with_label_values(&["verified"]));
/// Tokens that could not be verified.
pub(super) static UNAVAILABLE: Lazy<IntCounter> = Lazy::new(|| TOKENS.with_label_values(&["unavailable"]));
static INVALID: Lazy<[IntCounter; TokenError::COUNT]> =
    Lazy::new(|| TokenError::all_words().map(|it| TOKENS.with_label_values(&[it])));
/// Verified tokens that are remembered.
pub(super) static REMEMBERED: Lazy<IntGauge> = Lazy::new(|| {
    register_int_gauge!("moongate_token_cache_entries", "Verified tokens that are remembered").expect(ONCE)
});
/// What was taken back before its end.
pub(super) static REVOCATIONS: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Tokens, sign-ins and subjects whose tokens were taken back before their end";
    register_int_gauge!("moongate_revocations", help).expect(ONCE)
});
static FETCHES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Fetches of another issuer's keys, by result: ok or failed";
    register_int_counter_vec!("moongate_issuer_key_fetches_total", help, &["issuer", "result"]).expect(ONCE)
});
static KEYS: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Keys of another issuer that can be used";
    register_int_gauge_vec!("moongate_issuer_keys", help, &["issuer"]).expect(ONCE)
});
static FETCHED_AT: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "When another issuer's keys were fetched last, in seconds since 1970";
    register_int_gauge_vec!("moongate_issuer_keys_fetched_timestamp_seconds", help, &["issuer"]).expect(ONCE)
});

/// Look-ups that were not made.
pub(super) static CROWDED: Lazy<IntCounter> = Lazy::new(|| {
    let help = "API keys and accounts that were not looked up because too many wait for an answer";
    register_int_counter!("moongate_record_lookups_refused_total", help).expect(ONCE)
});

/// API keys: how their records were found, and what came of them.
pub(super) struct ApiKeys {
    pub(super) known: IntCounter,
    pub(super) looked_up: IntCounter,
    pub(super) opened: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) unavailable: IntCounter,
}

pub(super) static API_KEYS: Lazy<ApiKeys> = Lazy::new(|| {
    let help = "Looks for the record of an API key, by where it was: known (remembered) or looked_up";
    let looks = register_int_counter_vec!("moongate_api_key_looks_total", help, &["from"]).expect(ONCE);
    let help = "API keys, by what came of them: good, refused or unavailable";
    let outcomes = register_int_counter_vec!("moongate_api_keys_total", help, &["result"]).expect(ONCE);
    ApiKeys {
        known: looks.with_label_values(&["known"]),
        looked_up: looks.with_label_values(&["looked_up"]),
        opened: outcomes.with_label_values(&["good"]),
        refused: outcomes.with_label_values(&["refused"]),
        unavailable: outcomes.with_label_values(&["unavailable"]),
    }
});

/// Counts a token that does not count.
pub(super) fn count_invalid(error: TokenError) {
    INVALID[error as usize].inc();
}

/// The series of one issuer. They go with it.
pub(super) struct RemoteMetrics {
    issuer: String,
    ok: IntCounter,
    failed: IntCounter,
    keys: IntGauge,
    fetched_at: IntGauge,
}

impl RemoteMetrics {
    pub(super) fn of(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            ok: FETCHES.with_label_values(&[issuer, "ok"]),
            failed: FETCHES.with_label_values(&[issuer, "failed"]),
            keys: KEYS.with_label_values(&[issuer]),
            fetched_at: FETCHED_AT.with_label_values(&[issuer]),
        }
    }

    pub(super) fn fetched(&self, keys: usize, at: u64) {
        self.ok.inc();
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.fetched_at.set(i64::try_from(at).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }
}

impl Drop for RemoteMetrics {
    fn drop(&mut self) {
        for result in ["ok", "failed"] {
            let _ = FETCHES.remove_label_values(&[&*self.issuer, result]);
        }
        let _ = KEYS.remove_label_values(&[&*self.issuer]);
        let _ = FETCHED_AT.remove_label_values(&[&*self.issuer]);
    }
}
