//! Passwords: hashed with Argon2id, a bounded number at once, away from the threads that serve.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use once_cell::sync::Lazy;
use prometheus::{Histogram, IntCounter, IntGauge, register_histogram, register_int_counter, register_int_gauge};

use crate::base::{Busy, Secret, Turns};

/// So many may wait for their turn; later ones are refused at once. With them waits some seconds'
/// work, and no more.
const WAITING_MAX: usize = 64;
/// The shortest password that is set (NIST SP 800-63B, section 5.1.1.2), in characters.
const LENGTH_MIN: usize = 8;
/// The longest, in bytes: what is longer is not read, let alone hashed.
const LENGTH_MAX: usize = 1024;

const ONCE: &str = "the name is registered once";

static DURATION: Lazy<Histogram> = Lazy::new(|| {
    let help = "Time that hashing a password took, without the wait for its turn";
    let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
    register_histogram!("moongate_password_hash_duration_seconds", help, buckets).expect(ONCE)
});
static WAITING: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Passwords that are being hashed or wait for their turn";
    register_int_gauge!("moongate_password_hashes_in_flight", help).expect(ONCE)
});
static BUSY: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Passwords that were not looked at because too many were waiting";
    register_int_counter!("moongate_password_hashes_refused_total", help).expect(ONCE)
});

/// Why a text can't be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// It is easily guessed.
    #[error("a password has at least 8 characters")]
    TooShort,
    /// Nobody needs it to be that long.
    #[error("a password has at most 1024 bytes")]
    TooLong,
}

/// Hashes and compares passwords.
#[derive(Clone)]
pub struct Passwords {
    /// One for each core, so that other work goes on. Each takes 19 MiB.
    turns: Turns,
    /// What the password of an unknown user is compared with: it must take as long. Made with the first
    /// look at any password.
    decoy: Arc<OnceLock<String>>,
}

/// Counts for as long as it lives.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        WAITING.inc();
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        WAITING.dec();
    }
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Turns::new(cores, WAITING_MAX), decoy: Arc::default() }
    }
}

impl Passwords {
    /// Whether a text can be set as a password.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(password: &Secret) -> Result<(), BadPassword> {
        match password.expose() {
            text if text.chars().count() < LENGTH_MIN => Err(BadPassword::TooShort),
            text if text.len() > LENGTH_MAX => Err(BadPassword::TooLong),
            _ => Ok(()),
        }
    }

    /// The hash of a password (Argon2id, with the parameters that OWASP recommends) in PHC format, for this client.
    ///
    /// # Errors
    /// When too many are waiting.
    pub async fn hash(&self, password: Secret, client: IpAddr) -> Result<String, Busy> {
        self.work(client, move || hashed(&password)).await?.ok_or(Busy)
    }

    /// Whether this is the password of this hash. Takes as long where there is no hash, so that nobody
    /// learns who is a user.
    ///
    /// # Errors
    /// When too many are waiting.
    pub async fn matches(&self, password: Secret, hash: Option<&str>, client: IpAddr) -> Result<bool, Busy> {
        if password.expose().len() > LENGTH_MAX {
            return Ok(false);
        }
        let (known, hash, decoy) = (hash.is_some(), hash.map(str::to_owned), self.decoy.clone());
        let same = self.work(client, move || {
            let decoy = decoy.get_or_init(|| hashed(&Secret::from(String::new())).unwrap_or_default());
            let hash = PasswordHash::new(hash.as_ref().unwrap_or(decoy)).ok();
            hash.is_some_and(|it| Argon2::default().verify_password(password.expose().as_bytes(), &it).is_ok())
        });
        Ok(same.await? && known)
    }

    async fn work<T: Send + 'static>(
        &self,
        client: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let _in_flight = InFlight::begin();
        let measured = move || {
            let begun = Instant::now();
            let done = work();
            DURATION.observe(begun.elapsed().as_secs_f64());
            done
        };
        let done = self.turns.run(client, measured).await;
        done.inspect_err(|_| BUSY.inc())
    }
}

/// `None` if the system gives no randomness for the salt.
fn hashed(password: &Secret) -> Option<String> {
    Argon2::default().hash_password(password.expose().as_bytes()).ok().map(|it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_alone() {
        let passwords = Passwords::default();
        let hash = passwords.hash(secret("correct horse"), HERE).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "the parameters of OWASP: {hash}");
        assert_ne!(hash, passwords.hash(secret("correct horse"), HERE).await.unwrap(), "salted");
        assert_eq!(passwords.matches(secret("correct horse"), Some(&hash), HERE).await, Ok(true));
        assert_eq!(passwords.matches(secret("battery staple"), Some(&hash), HERE).await, Ok(false));
        assert_eq!(passwords.matches(secret("correct horse"), Some("nonsense"), HERE).await, Ok(false));
    }

    /// Not measured, which would be a coin toss: the same work is done for an unknown user, whose
    /// password nothing matches, not even the decoy's own.
    #[tokio::test]
    async fn an_unknown_user_costs_the_same_work_and_never_matches() {
        let passwords = Passwords::default();
        let before = DURATION.get_sample_count();
        assert_eq!(passwords.matches(secret(""), None, HERE).await, Ok(false));
        assert!(DURATION.get_sample_count() > before);
        assert!(passwords.decoy.get().unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    #[test]
    fn a_password_has_8_characters_and_not_more_than_1024_bytes() {
        assert_eq!(Passwords::check(&secret("1234567")), Err(BadPassword::TooShort));
        assert_eq!(Passwords::check(&secret("ÄÖÜäöüß8")), Ok(()));
        assert_eq!(Passwords::check(&secret(&"x".repeat(1025))), Err(BadPassword::TooLong));
    }
}
