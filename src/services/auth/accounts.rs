//! What names, roles and credentials look like, wherever they are made: at the service and at the
//! command line.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::Secret;

/// What the name of a user is made of, in words.
pub const NAME_RULE: &str = "letters, digits, `-`, `_`, `.`, `@` and `+`, at most 128";
/// What a role is made of, in words.
pub const ROLE_RULE: &str = "letters, digits, `-`, `_` and `.`, at most 64";
/// So many roles or scopes at most.
pub const ROLES_MAX: usize = 32;

/// Whether a text can be the name of a user. A colon can't be in it: before one stands the issuer of
/// a user of another provider.
pub fn is_user_name(text: &str) -> bool {
    is_made_of(text, b"-_.@+", 128)
}

/// Whether a text can be a role or a tenant.
pub fn is_role(text: &str) -> bool {
    is_made_of(text, b"-_.", 64)
}

/// Whether a text can be a scope (RFC 6749, section 3.3, and no more than anybody needs).
pub fn is_scope(text: &str) -> bool {
    is_made_of(text, b"-_.:/", 64)
}

fn is_made_of(text: &str, marks: &[u8], most: usize) -> bool {
    let plain = |it: u8| it.is_ascii_alphanumeric() || marks.contains(&it);
    (1..=most).contains(&text.len()) && text.bytes().all(plain)
}

/// The system gives no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness")]
pub struct NoRandomness;

/// A new API key: its id, the key as it is shown once, and the hash that is kept.
pub struct MadeKey {
    /// Names the key.
    pub id: String,
    /// `mg_<id>_<secret>`.
    pub text: Secret,
    /// SHA-256 of the secret part.
    pub hash: [u8; 32],
}

impl MadeKey {
    /// 64 bits of id, 256 of secret, both in hex: no underscore but the two that part them.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let id = hex(&random::<8>()?);
        let secret = hex(&random::<32>()?);
        Ok(Self { hash: sha256(secret.as_bytes()), text: Secret::from(format!("mg_{id}_{secret}")), id })
    }
}

/// A text that nobody can guess: 256 bits for URLs and JSON.
///
/// # Errors
/// [`NoRandomness`].
pub(super) fn random_text() -> Result<Secret, NoRandomness> {
    Ok(Secret::from(URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// A password that nobody can guess, and that can be typed: 100 bits.
///
/// # Errors
/// [`NoRandomness`].
pub fn random_password() -> Result<Secret, NoRandomness> {
    // 32 signs, none of which is taken for another.
    const SIGNS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let signs: Vec<char> = random::<20>()?.iter().map(|it| char::from(SIGNS[usize::from(it % 32)])).collect();
    let groups: Vec<String> = signs.chunks(5).map(|it| it.iter().collect()).collect();
    Ok(Secret::from(groups.join("-")))
}

/// SHA-256: enough for what nobody can guess.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_has_three_parts_and_its_hash_is_that_of_the_last() {
        let (one, other) = (MadeKey::random().unwrap(), MadeKey::random().unwrap());
        let parts: Vec<&str> = one.text.expose().split('_').collect();
        assert_eq!((parts.len(), parts[0], parts[1], parts[2].len()), (3, "mg", &*one.id, 64));
        assert_eq!(one.hash, sha256(parts[2].as_bytes()));
        assert_ne!(one.id, other.id);
    }

    #[test]
    fn a_made_password_can_be_typed_and_is_never_the_same() {
        let password = random_password().unwrap();
        assert_eq!(password.expose().len(), 23);
        assert_ne!(password, random_password().unwrap());
    }

    #[test]
    fn names_hold_nothing_that_means_something_elsewhere() {
        assert!(is_user_name("ada.lovelace+test@example.org"));
        for wrong in ["", "clinic:7", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(!is_user_name(wrong), "{wrong}");
        }
        assert!(is_role("notes.read") && !is_role("a:b") && is_scope("bench:write") && !is_scope("a b"));
    }
}
