//! The closed list of ways in which an exchange can end.

use once_cell::sync::Lazy;
use prometheus::{IntCounter, register_int_counter_vec};

/// How an exchange ended: in the log, in metrics, and in the bill the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// The whole answer went out.
    Done,
    /// The upstream's answer broke off; the client learns it by a cut connection or a reset stream.
    Truncated,
    /// The upstream failed before it answered.
    UpstreamError,
    /// The gateway said no.
    Refused,
    /// The client left before the end.
    ClientGone,
    /// The client was too slow: it did not send or take its bytes in time.
    ClientTimeout,
    /// The gateway's own stop ended it.
    Drained,
    /// A filter ended it for what it said, in good order.
    Stopped,
    /// The credentials that opened it were taken back, or their time was over.
    Revoked,
    /// An operator ended it.
    Closed,
}

const ALL: [EndState; 10] = [
    EndState::Done,
    EndState::Truncated,
    EndState::UpstreamError,
    EndState::Refused,
    EndState::ClientGone,
    EndState::ClientTimeout,
    EndState::Drained,
    EndState::Stopped,
    EndState::Revoked,
    EndState::Closed,
];

static ENDS: Lazy<[IntCounter; ALL.len()]> = Lazy::new(|| {
    let help = "Exchanges, by the way in which they ended";
    let family = register_int_counter_vec!("moongate_exchange_ends_total", help, &["end"]);
    let family = family.expect("the name is registered once");
    ALL.map(|it| family.with_label_values(&[it.as_str()]))
});

impl EndState {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Truncated => "truncated",
            Self::UpstreamError => "upstream_error",
            Self::Refused => "refused",
            Self::ClientGone => "client_gone",
            Self::ClientTimeout => "client_timeout",
            Self::Drained => "drained",
            Self::Stopped => "stopped",
            Self::Revoked => "revoked",
            Self::Closed => "closed",
        }
    }

    /// Counts an exchange that ended so.
    pub fn count(self) {
        ENDS[self as usize].inc();
    }
}
