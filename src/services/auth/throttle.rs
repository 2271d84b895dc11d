//! How often somebody may try to sign in: guessing must take longer than anybody lives.
//!
//! Counted in bounded memory, by account and network, and by account alone against many who take
//! turns. Only a wrong password counts: neither a sign-in that succeeds, nor an attempt that was never judged. Guesses
//! from everywhere keep nobody out of an account where they have signed in before: that would turn the lock
//! against its owner.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::network_of;
use crate::services::auth::accounts::sha256;
use crate::state::{CounterKey, Counters, Quota, Records, State};

/// From one network to one account: ten attempts at once, then one every 30 s.
const NETWORK: (u64, Duration, u64) = (2, Duration::from_secs(60), 10);
/// To one account from networks that it is not known on: a hundred at once, then one every 10 s.
const ACCOUNT: (u64, Duration, u64) = (6, Duration::from_secs(60), 100);
/// These counters are no rate limit of a route.
const LIMIT: u16 = u16::MAX;
/// How long it is known that somebody signed in from a network.
const KNOWN_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// The counters of attempts.
pub(super) struct Throttle {
    counters: Arc<Counters>,
    records: Arc<dyn Records>,
    network: Quota,
    account: Quota,
}

/// An attempt. Unless it is judged, it does not count.
pub(super) struct Attempt<'t> {
    throttle: &'t Throttle,
    network: CounterKey,
    /// None on a network where the account is known, since that counter is not asked there.
    account: Option<CounterKey>,
    known_by: String,
    counts: bool,
}

impl Throttle {
    pub(super) fn new(state: &State) -> Self {
        let quota = |(requests, every, burst)| Quota::new(requests, every, burst).expect("the constants make sense");
        let (counters, records) = (state.counters.clone(), state.records.clone());
        Self { counters, records, network: quota(NETWORK), account: quota(ACCOUNT) }
    }

    /// Counts an attempt for as long as it is under way; an error says how long to wait.
    pub(super) async fn attempt(&self, account: &str, client: IpAddr) -> Result<Attempt<'_>, Duration> {
        let network = network(client);
        let key =
            |kind, network: &[u8]| self.counters.key("sign-in", LIMIT, kind, [account.as_bytes(), network, b"", b""]);
        let (by_network, by_account) = (key(0, &network), key(1, b""));
        let taken = self.counters.take(by_network, self.network, 1, self.counters.now());
        if !taken.granted {
            return Err(taken.retry_in);
        }
        // From here on it is given back, however this ends.
        let known_by = known_by(account, &network);
        let mut attempt = Attempt { throttle: self, network: by_network, account: None, known_by, counts: false };
        let taken = self.counters.take(by_account, self.account, 1, self.counters.now());
        if taken.granted {
            attempt.account = Some(by_account);
        } else if !self.is_known(&attempt.known_by).await {
            return Err(taken.retry_in);
        }
        Ok(attempt)
    }

    /// A state that can't be reached knows nobody.
    async fn is_known(&self, by: &str) -> bool {
        self.records.read(by).await.is_ok_and(|it| it.is_some())
    }
}

impl Attempt<'_> {
    /// It was the wrong password: this one counts.
    pub(super) fn failed(mut self) {
        self.counts = true;
    }

    /// It was the right password. From now on the account is known on this network.
    pub(super) async fn succeeded(self) {
        // What can't be kept is known the next time.
        let _ = self.throttle.records.write(&self.known_by, Bytes::from_static(b"1"), KNOWN_LIFE).await;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.counts {
            return;
        }
        let Throttle { counters, network, account, .. } = self.throttle;
        counters.give_back(self.network, *network, 1);
        if let Some(key) = self.account {
            counters.give_back(key, *account, 1);
        }
    }
}

/// The key of the record that an account signed in from a network. A digest: keys are of bounded length, and need not
/// tell who is a user.
fn known_by(account: &str, network: &[u8]) -> String {
    let mut text = network.to_vec();
    text.push(b'/');
    text.extend_from_slice(account.as_bytes());
    let digest: String = sha256(&text).iter().map(|it| format!("{it:02x}")).collect();
    format!("sign-in:known:{digest}")
}

/// One client with IPv6 has 2^64 of them.
fn network(client: IpAddr) -> Vec<u8> {
    match network_of(client) {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn throttle() -> Throttle {
        Throttle::new(&State::in_memory())
    }

    /// Whether it was let try, with the wrong password.
    async fn guess(throttle: &Throttle, account: &str, from: &str) -> Result<(), Duration> {
        throttle.attempt(account, address(from)).await.map(Attempt::failed)
    }

    #[tokio::test]
    async fn guesses_of_one_network_are_stopped_and_others_go_on() {
        let throttle = throttle();
        for _ in 0..10 {
            assert!(guess(&throttle, "ada", "2001:db8::1").await.is_ok());
        }
        let wait = guess(&throttle, "ada", "2001:db8::2").await.unwrap_err();
        assert!(wait <= Duration::from_secs(30) && wait > Duration::from_secs(25), "{wait:?}");
        assert!(guess(&throttle, "ada", "2001:db8:1::1").await.is_ok());
        assert!(guess(&throttle, "bob", "2001:db8::1").await.is_ok());
    }

    #[tokio::test]
    async fn guesses_that_come_from_everywhere_are_stopped_but_where_the_account_is_known() {
        let throttle = throttle();
        throttle.attempt("ada", address("192.0.2.1")).await.ok().unwrap().succeeded().await;
        let mut granted = 0;
        for number in 0..200 {
            granted += usize::from(guess(&throttle, "ada", &format!("10.0.{number}.1")).await.is_ok());
        }
        assert_eq!(granted, 100);
        assert!(guess(&throttle, "ada", "198.51.100.1").await.is_err(), "a new place has to wait");
        throttle.attempt("ada", address("192.0.2.1")).await.ok().unwrap().succeeded().await;
        for _ in 0..10 {
            assert!(guess(&throttle, "ada", "192.0.2.1").await.is_ok());
        }
        assert!(guess(&throttle, "ada", "192.0.2.1").await.is_err(), "there, too, guesses of one network are stopped");
    }

    #[tokio::test]
    async fn who_knows_the_password_and_who_was_not_judged_is_never_stopped() {
        let throttle = throttle();
        for number in 0..1_000 {
            let attempt = throttle.attempt("ada", address("10.0.0.1")).await.ok().unwrap();
            if number % 2 == 0 {
                attempt.succeeded().await;
            }
        }
    }
}
