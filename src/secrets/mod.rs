//! Secrets that the configuration names and nobody sees: provider keys, credentials of upstreams
//! (US-016).
//!
//! What lies in the store is sealed twice: each value with a key of its own, and that key with the one
//! of the whole, which is never kept beside them.

mod key;
mod vault;

pub use key::{KeyError, MasterKey, SecretsConfig};
pub use vault::{NAME_RULE, Vault, VaultError, is_name};
