//! The secrets in the store, by name.

use std::collections::BTreeMap;

use crate::base::Secret;
use crate::secrets::key::{MasterKey, open, seal};
use crate::store::{Resealed, SealedSecret, SecretEntry, Store, StoreError};

/// The largest value, in bytes.
const VALUE_MAX: usize = 64 * 1024;
/// What a name is made of, in words.
pub const NAME_RULE: &str = "letters, digits, `-`, `_`, `.` and `/`, at most 100";

/// Why a secret can't be had, kept or sealed anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The store can't be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key is another than the one that sealed what is there.
    #[error("the secret `{name}` was sealed with another key ({sealed_with}) than this one ({ours})")]
    OtherKey {
        /// The secret.
        name: String,
        /// The key that it was sealed with, by its id.
        sealed_with: String,
        /// The key that was used, by its id.
        ours: String,
    },
    /// The key is right, but what is there is not what was sealed.
    #[error("the secret `{0}` is damaged: it does not open with the key that sealed it")]
    Damaged(String),
    /// Not a name.
    #[error("`{0}` is not a name for a secret: {NAME_RULE}")]
    Name(String),
    /// Nothing, or more than a secret can be.
    #[error("a secret has 1 byte to 64 KiB")]
    Size,
    /// The system gives no randomness.
    #[error("nothing can be sealed: the system gives no randomness")]
    Sealing,
}

/// The secrets in the store, and the key to them.
#[derive(Clone)]
pub struct Vault {
    store: Store,
    key: MasterKey,
}

impl Vault {
    /// The secrets of this store, sealed with this key.
    pub fn new(store: Store, key: MasterKey) -> Self {
        Self { store, key }
    }

    /// Keeps a value under a name, in the place of the one that it had.
    ///
    /// # Errors
    /// When name or value can't be, another key sealed what is there, or the store can't be reached.
    pub async fn put(&self, name: &str, value: &Secret) -> Result<(), VaultError> {
        if !is_name(name) {
            return Err(VaultError::Name(name.to_owned()));
        }
        if value.expose().is_empty() || value.expose().len() > VALUE_MAX {
            return Err(VaultError::Size);
        }
        // Two keys side by side would be one too many at the next start.
        if let Some(entry) = self.entries().await?.into_iter().find(|it| it.key_id != self.key.id()) {
            return Err(self.other_key(entry.name, entry.key_id));
        }
        let sealed = sealed(&self.key, name, value.expose().as_bytes()).ok_or(VaultError::Sealing)?;
        Ok(self.store.put_secret(sealed).await?)
    }

    /// The value of this name, if there is one.
    ///
    /// # Errors
    /// When it does not open with this key, or the store can't be reached.
    pub async fn reveal(&self, name: &str) -> Result<Option<Secret>, VaultError> {
        let sealed = self.store.secret(name).await?;
        sealed.map(|it| self.opened(&it)).transpose()
    }

    /// All values by name.
    ///
    /// # Errors
    /// When one of them does not open with this key, or the store can't be reached.
    pub async fn reveal_all(&self) -> Result<BTreeMap<String, Secret>, VaultError> {
        let mut values = BTreeMap::new();
        for entry in self.entries().await? {
            if let Some(value) = self.reveal(&entry.name).await? {
                values.insert(entry.name, value);
            }
        }
        Ok(values)
    }

    /// What may be shown: names and times.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn entries(&self) -> Result<Vec<SecretEntry>, VaultError> {
        Ok(self.store.secret_entries().await?)
    }

    /// Seals all secrets anew with another key, all or none, and returns how many (US-016.3). Those that
    /// have it already are left alone.
    ///
    /// # Errors
    /// When one of them does not open with the present key, or the store can't be reached.
    pub async fn rotate(&self, new: MasterKey) -> Result<usize, VaultError> {
        let old = self.key.clone();
        let anew = move |it: &SealedSecret| {
            if it.key_id == new.id() {
                return Some(it.clone());
            }
            sealed(&new, &it.name, &opened(&old, it)?)
        };
        match self.store.reseal_secrets(anew).await? {
            Resealed::Done(count) => Ok(count),
            Resealed::Failed(name) => match self.store.secret(&name).await? {
                Some(it) if it.key_id != self.key.id() => Err(self.other_key(it.name, it.key_id)),
                _ => Err(VaultError::Damaged(name)),
            },
        }
    }

    fn opened(&self, sealed: &SealedSecret) -> Result<Secret, VaultError> {
        if sealed.key_id != self.key.id() {
            return Err(self.other_key(sealed.name.clone(), sealed.key_id.clone()));
        }
        let value = opened(&self.key, sealed).and_then(|it| String::from_utf8(it).ok());
        value.map(Secret::from).ok_or_else(|| VaultError::Damaged(sealed.name.clone()))
    }

    fn other_key(&self, name: String, sealed_with: String) -> VaultError {
        VaultError::OtherKey { name, sealed_with, ours: self.key.id().to_owned() }
    }
}

/// Whether a text can be the name of a secret.
pub fn is_name(text: &str) -> bool {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_./".contains(&it);
    (1..=100).contains(&text.len()) && text.bytes().all(plain)
}

/// Both layers are bound to the name: a row can't be passed off as another.
fn sealed(key: &MasterKey, name: &str, value: &[u8]) -> Option<SealedSecret> {
    let mut own = [0; 32];
    aws_lc_rs::rand::fill(&mut own).ok()?;
    Some(SealedSecret {
        name: name.to_owned(),
        ciphertext: seal(&own, &about("value", name), value)?,
        wrapped_key: seal(key.bytes(), &about("key", name), &own)?,
        key_id: key.id().to_owned(),
    })
}

fn opened(key: &MasterKey, sealed: &SealedSecret) -> Option<Vec<u8>> {
    let own = open(key.bytes(), &about("key", &sealed.name), &sealed.wrapped_key)?;
    let own: [u8; 32] = own.try_into().ok()?;
    open(&own, &about("value", &sealed.name), &sealed.ciphertext)
}

fn about(layer: &str, name: &str) -> Vec<u8> {
    format!("moongate secret 1 {layer} {name}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Place;

    fn key(letter: &str) -> MasterKey {
        MasterKey::of(&letter.repeat(40)).unwrap()
    }

    struct Bench {
        runtime: tokio::runtime::Runtime,
        store: Store,
        folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let store = Store::new(Place::Sqlite(folder.path().join("s.db")), runtime.handle().clone());
            Self { runtime, store, folder }
        }

        fn vault(&self, letter: &str) -> Vault {
            Vault::new(self.store.clone(), key(letter))
        }

        fn put(&self, letter: &str, name: &str, value: &str) -> Result<(), VaultError> {
            self.runtime.block_on(self.vault(letter).put(name, &Secret::from(value.to_owned())))
        }

        fn reveal(&self, letter: &str, name: &str) -> Result<Option<String>, VaultError> {
            let value = self.runtime.block_on(self.vault(letter).reveal(name))?;
            Ok(value.map(|it| it.expose().to_owned()))
        }

        fn everything_on_disk(&self) -> Vec<u8> {
            let files = std::fs::read_dir(self.folder.path()).unwrap();
            files.flat_map(|it| std::fs::read(it.unwrap().path()).unwrap()).collect()
        }
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|it| it == text.as_bytes())
    }

    #[test]
    fn us_016_1_the_value_is_nowhere_on_the_disk() {
        let bench = Bench::new();
        for value in ["canary-once-7f3a", "canary-twice-91bc"] {
            bench.put("k", "slack/token", value).unwrap();
        }
        assert_eq!(bench.reveal("k", "slack/token").unwrap().as_deref(), Some("canary-twice-91bc"));
        let bytes = bench.everything_on_disk();
        assert!(contains(&bytes, "slack/token"), "the search itself works");
        assert!(!contains(&bytes, "canary"));
        assert!(!contains(&bytes, &"k".repeat(40)));
    }

    #[test]
    fn us_016_3_rotation_seals_all_anew_and_says_how_many() {
        let bench = Bench::new();
        for number in 0..5 {
            bench.put("k", &format!("s{number}"), &format!("v{number}")).unwrap();
        }
        let rotate = |old: &str, new: &str| bench.runtime.block_on(bench.vault(old).rotate(key(new)));
        assert_eq!(rotate("k", "n"), Ok(5));
        assert_eq!(rotate("k", "n"), Ok(0), "again, there is nothing left to do");
        assert_eq!(bench.reveal("n", "s3").unwrap().as_deref(), Some("v3"));
        assert!(matches!(bench.reveal("k", "s3"), Err(VaultError::OtherKey { .. })));
        assert!(matches!(rotate("x", "y"), Err(VaultError::OtherKey { name, .. }) if name.starts_with('s')));
        assert_eq!(bench.reveal("n", "s0").unwrap().as_deref(), Some("v0"), "nothing changed");
    }

    #[test]
    fn a_wrong_key_opens_and_adds_nothing_and_says_so() {
        let bench = Bench::new();
        bench.put("k", "one", "v").unwrap();
        for error in [bench.reveal("x", "one").unwrap_err(), bench.put("x", "two", "v").unwrap_err()] {
            let text = error.to_string();
            assert!(text.starts_with("the secret `one` was sealed with another key"), "{text}");
        }
        assert_eq!(bench.reveal("k", "two"), Ok(None));
    }

    #[test]
    fn a_row_can_not_be_passed_off_as_another() {
        let bench = Bench::new();
        bench.put("k", "cheap", "low").unwrap();
        let cheap = bench.runtime.block_on(bench.store.secret("cheap")).unwrap().unwrap();
        let forged = SealedSecret { name: "dear".to_owned(), ..cheap };
        bench.runtime.block_on(bench.store.put_secret(forged)).unwrap();
        assert_eq!(bench.reveal("k", "dear"), Err(VaultError::Damaged("dear".to_owned())));
    }

    #[test]
    fn names_and_sizes_have_bounds() {
        let bench = Bench::new();
        for name in ["", "a b", "a:b", &"x".repeat(101)] {
            assert_eq!(bench.put("k", name, "v"), Err(VaultError::Name(name.to_owned())));
        }
        assert_eq!(bench.put("k", "a", ""), Err(VaultError::Size));
        assert_eq!(bench.put("k", "a", &"x".repeat(VALUE_MAX + 1)), Err(VaultError::Size));
        assert_eq!(bench.put("k", "a", &"x".repeat(VALUE_MAX)), Ok(()));
    }
}
