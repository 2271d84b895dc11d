//! The contract of values by key.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// The state can't be reached, gave no answer in time, or is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared state is not available")]
pub struct Unavailable;

/// Why a value from somebody's share was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The state can't be reached, or gave no answer in time.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// There is no room: the network has filled its share, or all of them together the room for such values.
    #[error("there is no room for it")]
    Full,
}

/// What came of [`Records::insert_if_absent`] or [`Records::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Nothing was there; the new value is there now.
    Inserted,
    /// This value was there already, and is untouched.
    Exists(Bytes),
}

/// Short-lived values by key, each operation atomic. Keys are at most 512 bytes and begin with the
/// room that owns them, as in `idempotency:`. A lifetime is counted in whole milliseconds, at least one.
///
/// An operation that came back as [`Unavailable`] may have happened all the same.
#[async_trait]
pub trait Records: Send + Sync {
    /// The value, if it is there and its lifetime has not ended.
    ///
    /// # Errors
    /// When the state can't be reached.
    async fn read(&self, key: &str) -> Result<Option<Bytes>, Unavailable>;

    /// Puts a value there, whatever was there before.
    ///
    /// # Errors
    /// When the state can't be reached, or has no room.
    async fn write(&self, key: &str, value: Bytes, life: Duration) -> Result<(), Unavailable>;

    /// Puts a value there if nothing is.
    ///
    /// # Errors
    /// When the state can't be reached, or has no room.
    async fn insert_if_absent(&self, key: &str, value: Bytes, life: Duration) -> Result<Insert, Unavailable>;

    /// Puts a value there if nothing is, as [`Records::insert_if_absent`] does, that anybody can have kept. In memory it
    /// takes its room from the share of `network`.
    ///
    /// # Errors
    /// When the state can't be reached, or has no room.
    async fn claim(&self, key: &str, value: Bytes, life: Duration, network: IpAddr) -> Result<Insert, NotTaken>;

    /// Puts a value in the place of one that was claimed, whatever is there now. In memory, one that is no longer than
    /// the claim always fits while that is there.
    ///
    /// # Errors
    /// When the state can't be reached, or has no room.
    async fn settle(&self, key: &str, value: Bytes, life: Duration, network: IpAddr) -> Result<(), NotTaken>;

    /// Replaces `expected` with `value`; false, and nothing changes, if something else is there.
    ///
    /// # Errors
    /// When the state can't be reached, or has no room.
    async fn compare_and_swap(
        &self,
        key: &str,
        expected: &[u8],
        value: Bytes,
        life: Duration,
    ) -> Result<bool, Unavailable>;

    /// Gives what is there a new lifetime if it is `expected`; false if something else, or nothing, is. Needs no room.
    ///
    /// # Errors
    /// When the state can't be reached.
    async fn extend(&self, key: &str, expected: &[u8], life: Duration) -> Result<bool, Unavailable>;

    /// Removes the value if it is `expected`; false if something else, or nothing, is there.
    ///
    /// # Errors
    /// When the state can't be reached.
    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, Unavailable>;

    /// Removes the value.
    ///
    /// # Errors
    /// When the state can't be reached.
    async fn delete(&self, key: &str) -> Result<(), Unavailable>;
}
