//! The key of the whole: where it comes from, and how it seals.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::Secret;

/// The shortest text that a key is made of.
const TEXT_MIN: usize = 32;
/// No honest file with a key is longer.
const FILE_MAX: u64 = 4096;

/// Where the key comes from that seals the secrets in the store: one of `key` and `key_file`. Without
/// this section, the variable `SECRET_KEY`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretsConfig {
    /// The key, at least 32 characters: `"${SECRET_KEY}"`. Make one with: openssl rand -hex 32
    pub key: Option<Secret>,
    /// A file that holds the key.
    pub key_file: Option<PathBuf>,
}

/// There is no key of the whole, or what should be one is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing says where it is.
    #[error("no key for secrets: set SECRET_KEY, or secrets.key_file in gateway.yaml")]
    Missing,
    /// Anybody could guess it.
    #[error("the key for secrets is shorter than 32 characters; make one with: openssl rand -hex 32")]
    TooShort,
    /// The file can't be read.
    #[error("the key for secrets can't be read from {0}")]
    Unreadable(String),
    /// Both ways are written.
    #[error("two keys for secrets: keep one of secrets.key and secrets.key_file")]
    Two,
}

/// The key of the whole.
#[derive(Clone)]
pub struct MasterKey {
    key: [u8; 32],
    id: String,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

impl SecretsConfig {
    /// The key that this section names, else the one of the environment.
    ///
    /// # Errors
    /// When there is none, or it is too short.
    pub fn key(&self, environment: Option<String>) -> Result<MasterKey, KeyError> {
        match (&self.key, &self.key_file) {
            (Some(_), Some(_)) => Err(KeyError::Two),
            (Some(key), None) => MasterKey::of(key.expose()),
            (None, Some(path)) => MasterKey::read(path),
            (None, None) => MasterKey::of(&environment.ok_or(KeyError::Missing)?),
        }
    }
}

impl MasterKey {
    /// Makes a key of a text: of the 32 bytes that it says in hex or base64, or of the text as it is.
    ///
    /// # Errors
    /// [`KeyError::TooShort`].
    pub fn of(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.len() < TEXT_MIN {
            return Err(KeyError::TooShort);
        }
        let material = hex(text).or_else(|| base64(text)).unwrap_or_else(|| text.as_bytes().to_vec());
        let key = derived(&material, b"key");
        let id = derived(&material, b"id")[..6].iter().map(|it| format!("{it:02x}")).collect();
        Ok(Self { key, id })
    }

    /// Makes a key of a file's text.
    ///
    /// # Errors
    /// When the file can't be read, or its text is too short.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        use std::io::Read;
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|it| it.take(FILE_MAX).read_to_string(&mut text));
        read.map_err(|error| KeyError::Unreadable(format!("{}: {error}", path.display())))?;
        Self::of(&text)
    }

    /// Names the key without telling it.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }
}

/// Seals `plain` (AES-256-GCM): a random nonce, the ciphertext, the tag. `about` must be the same when
/// it is opened: what was sealed for one place does not open in another.
pub(super) fn seal(key: &[u8; 32], about: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut nonce).ok()?;
    let mut sealed = plain.to_vec();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(about), &mut sealed).ok()?;
    Some([&nonce[..], &sealed].concat())
}

/// Opens what was sealed; `None` if it was not, not with this key, not about this, or not so.
pub(super) fn open(key: &[u8; 32], about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let mut rest = rest.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let length = key.open_in_place(nonce, Aad::from(about), &mut rest).ok()?.len();
    rest.truncate(length);
    Some(rest)
}

/// HKDF (RFC 5869): keys of one purpose reveal nothing about those of another.
fn derived(material: &[u8], purpose: &[u8]) -> [u8; 32] {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = [0; 32];
    let pseudorandom = Salt::new(HKDF_SHA256, b"moongate secrets").extract(material);
    pseudorandom
        .expand(&[purpose], Length)
        .and_then(|it| it.fill(&mut key))
        .expect("32 bytes are within what HKDF-SHA256 gives");
    key
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabets = [base64::alphabet::STANDARD, base64::alphabet::URL_SAFE];
    let mut decoded = alphabets.iter().filter_map(|it| GeneralPurpose::new(it, lenient).decode(text).ok());
    decoded.find(|it| it.len() == 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_of_hex_of_base64_or_of_a_long_text() {
        let id = |text: &str| MasterKey::of(text).map(|it| it.id().to_owned());
        let hex = "00ff".repeat(16);
        assert_eq!(id(&hex), id(&hex.to_uppercase()));
        assert_eq!(id(&hex), id("AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8=\n"));
        assert_eq!(id(&hex), id("AP8A_wD_AP8A_wD_AP8A_wD_AP8A_wD_AP8A_wD_AP8"));
        assert_ne!(id(&hex), id("a long text that nobody is going to guess"));
        for short in ["", "short", &"x".repeat(31), &format!("{}   ", "x".repeat(31))] {
            assert_eq!(id(short), Err(KeyError::TooShort), "{short}");
        }
    }

    #[test]
    fn the_section_wins_over_the_environment_and_names_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "f".repeat(40)).unwrap();
        let config = |yaml: String| serde_yaml::from_str::<SecretsConfig>(&yaml).unwrap();
        let key = |yaml: &str, environment: Option<&str>| {
            let key = config(yaml.replace("PATH", &path.display().to_string())).key(environment.map(str::to_owned));
            key.map(|it| it.id().to_owned())
        };
        let of = |letter: &str| MasterKey::of(&letter.repeat(40)).map(|it| it.id().to_owned());
        assert_eq!(key("{}", Some(&"e".repeat(40))), of("e"));
        assert_eq!(key(&format!("key: {}", "k".repeat(40)), Some("x")), of("k"));
        assert_eq!(key("key_file: PATH", Some("x")), of("f"));
        assert_eq!(key("{}", None), Err(KeyError::Missing));
        assert_eq!(key("{ key: a, key_file: PATH }", None), Err(KeyError::Two));
        assert!(matches!(key("key_file: /nowhere", None), Err(KeyError::Unreadable(why)) if why.contains("/nowhere")));
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_about_the_same_and_unharmed() {
        let (key, other) = ([1; 32], [2; 32]);
        let sealed = seal(&key, b"name", b"value").unwrap();
        assert_ne!(sealed, seal(&key, b"name", b"value").unwrap(), "no two are alike");
        assert_eq!(open(&key, b"name", &sealed).as_deref(), Some(&b"value"[..]));
        assert_eq!(open(&other, b"name", &sealed), None);
        assert_eq!(open(&key, b"other", &sealed), None);
        for at in 0..sealed.len() {
            let mut harmed = sealed.clone();
            harmed[at] ^= 1;
            assert_eq!(open(&key, b"name", &harmed), None, "byte {at}");
            assert_eq!(open(&key, b"name", &sealed[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let text = "a long text that nobody is going to guess";
        let key = MasterKey::of(text).unwrap();
        assert_eq!(format!("{key:?}"), format!("MasterKey({})", key.id()));
    }
}
