//! How often somebody may try to sign in: guessing must take longer than anybody lives.
//!
//! Counted in bounded memory, by account and network, and by account alone against many who take
//! turns. A sign-in that succeeds is not counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::state::{CounterKey, Counters, Quota};

/// From one network to one account: ten attempts at once, then one every 30 s.
const NETWORK: (u64, Duration, u64) = (2, Duration::from_secs(60), 10);
/// To one account from everywhere: a hundred at once, then one every 10 s.
const ACCOUNT: (u64, Duration, u64) = (6, Duration::from_secs(60), 100);
/// These counters are no rate limit of a route.
const LIMIT: u16 = u16::MAX;

/// The counters of attempts.
pub(super) struct Throttle {
    counters: Arc<Counters>,
    network: Quota,
    account: Quota,
}

/// An attempt that counts unless it is forgiven.
pub(super) struct Attempt {
    network: CounterKey,
    account: CounterKey,
}

impl Throttle {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        let quota = |(requests, every, burst)| Quota::new(requests, every, burst).expect("the constants make sense");
        Self { counters, network: quota(NETWORK), account: quota(ACCOUNT) }
    }

    /// Counts an attempt; an error says how long to wait.
    pub(super) fn attempt(&self, account: &str, client: IpAddr) -> Result<Attempt, Duration> {
        let network = network(client);
        let key =
            |kind, network: &[u8]| self.counters.key("sign-in", LIMIT, kind, [account.as_bytes(), network, b"", b""]);
        let attempt = Attempt { network: key(0, &network), account: key(1, b"") };
        let now = self.counters.now();
        let taken = self.counters.take(attempt.network, self.network, 1, now);
        if !taken.granted {
            return Err(taken.retry_in);
        }
        let taken = self.counters.take(attempt.account, self.account, 1, now);
        if !taken.granted {
            return Err(taken.retry_in);
        }
        Ok(attempt)
    }

    /// It was the right password.
    pub(super) fn forgive(&self, attempt: &Attempt) {
        self.counters.give_back(attempt.network, self.network, 1);
        self.counters.give_back(attempt.account, self.account, 1);
    }
}

/// One client with IPv6 has 2^64 of them.
fn network(client: IpAddr) -> Vec<u8> {
    match client.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn guesses_of_one_network_are_stopped_and_others_go_on() {
        let throttle = Throttle::new(Arc::new(Counters::new(10_000)));
        for _ in 0..10 {
            assert!(throttle.attempt("ada", address("2001:db8::1")).is_ok());
        }
        let wait = throttle.attempt("ada", address("2001:db8::2")).err().unwrap();
        assert!(wait <= Duration::from_secs(30) && wait > Duration::from_secs(25), "{wait:?}");
        assert!(throttle.attempt("ada", address("2001:db8:1::1")).is_ok());
        assert!(throttle.attempt("bob", address("2001:db8::1")).is_ok());
    }

    #[test]
    fn guesses_that_come_from_everywhere_are_stopped_too() {
        let throttle = Throttle::new(Arc::new(Counters::new(10_000)));
        let granted = (0..200).filter(|it| throttle.attempt("ada", address(&format!("10.0.{it}.1"))).is_ok()).count();
        assert_eq!(granted, 100);
    }

    #[test]
    fn who_knows_the_password_is_never_stopped() {
        let throttle = Throttle::new(Arc::new(Counters::new(10_000)));
        for _ in 0..1_000 {
            let attempt = throttle.attempt("ada", address("10.0.0.1")).ok().unwrap();
            throttle.forgive(&attempt);
        }
    }
}
