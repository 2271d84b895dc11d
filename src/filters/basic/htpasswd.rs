//! A file of names and hashes, as `htpasswd` writes it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;

use crate::base::{At, Diagnostics};

/// The largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The highest cost of bcrypt that is taken: each step doubles the work, and 14 is about a second.
const COST_MAX: u32 = 14;
/// The most memory that a hash of Argon2 may take, in KiB.
const MEMORY_MAX: u32 = 256 * 1024;
/// The most passes of a hash of Argon2.
const PASSES_MAX: u32 = 16;

/// Names, each with a hash.
#[derive(Debug)]
pub(super) struct Users {
    hashes: HashMap<String, Arc<str>>,
    /// What the password of a name that nobody has is compared with.
    decoy: Arc<str>,
}

impl Users {
    /// Reports a file that can't be read, and every line that can't be used.
    pub(super) fn read(path: &Path, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let size = std::fs::metadata(path).map(|it| it.len());
        let text = size.and_then(|size| match size {
            0..=FILE_MAX => std::fs::read_to_string(path),
            _ => Err(std::io::Error::other("it is larger than 1 MiB")),
        });
        match text {
            Ok(text) => Self::parse(&text, path, at, diagnostics),
            Err(error) => {
                diagnostics.error(at, format!("{} can't be read: {error}", path.display())).help(
                    "write it with `htpasswd -B -c FILE NAME`; the path counts from where the gateway was started",
                );
                None
            }
        }
    }

    fn parse(text: &str, path: &Path, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut hashes: HashMap<String, Arc<str>> = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, it)| !it.is_empty() && !it.starts_with('#')) {
            let fault = match line.trim_end().split_once(':') {
                None => Some("no `:` behind a name"),
                Some(("", _)) => Some("the name is missing"),
                Some((name, _)) if hashes.contains_key(name) => Some("the name is there already"),
                Some((name, hash)) => match unusable(hash) {
                    None => {
                        hashes.insert(name.to_owned(), hash.into());
                        None
                    }
                    fault => fault,
                },
            };
            if let Some(fault) = fault {
                diagnostics
                    .error(at, format!("{}, line {}: {fault}", path.display(), number + 1))
                    .help("lines are `name:hash`, with bcrypt or Argon2id: `htpasswd -B FILE NAME` writes one");
            }
        }
        let decoy = hashes.values().next().cloned();
        if decoy.is_none() {
            diagnostics
                .error(at, format!("{} has no names: nobody could call", path.display()))
                .help("write one with `htpasswd -B FILE NAME`");
        }
        Some(Self { decoy: decoy?, hashes })
    }

    /// The hash of a name, and whether anybody has it.
    pub(super) fn hash_of(&self, name: &str) -> (Arc<str>, bool) {
        match self.hashes.get(name) {
            Some(hash) => (hash.clone(), true),
            None => (self.decoy.clone(), false),
        }
    }
}

/// What is wrong with a hash, without a word of it.
fn unusable(hash: &str) -> Option<&'static str> {
    match hash {
        _ if is_bcrypt(hash) => {
            let cost = hash.get(4..6).and_then(|it| it.parse::<u32>().ok());
            let well_formed = hash.len() == 60 && hash.is_ascii() && hash.as_bytes()[6] == b'$';
            match cost.filter(|_| well_formed) {
                Some(4..=COST_MAX) => None,
                Some(_) => Some("its cost is not within 4 to 14"),
                None => Some("the hash is not whole"),
            }
        }
        _ if hash.starts_with("$argon2id$") => match PasswordHash::new(hash) {
            Ok(parsed) if parsed.salt.is_none() || parsed.hash.is_none() => Some("the hash is not whole"),
            Ok(parsed) => {
                let number = |name: &str| parsed.params.get_decimal(name).unwrap_or(u32::MAX);
                (number("m") > MEMORY_MAX || number("t") > PASSES_MAX)
                    .then_some("it asks for more than 256 MiB, or 16 passes")
            }
            Err(_) => Some("the hash is not whole"),
        },
        _ if hash.starts_with("$apr1$") || hash.starts_with("{SHA}") || hash.starts_with("$1$") => {
            Some("MD5 and SHA-1 are no hashes for passwords")
        }
        _ => Some("neither a hash of bcrypt nor one of Argon2id"),
    }
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2y$", "$2b$", "$2a$"].iter().any(|it| hash.starts_with(it))
}

/// Whether this is the password of this hash. Takes its time.
pub(super) fn matches(password: &str, hash: &str) -> bool {
    if is_bcrypt(hash) {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    let parsed = PasswordHash::new(hash).ok();
    parsed.is_some_and(|it| Argon2::default().verify_password(password.as_bytes(), &it).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `sesame`, as `htpasswd -B -C 4` writes it.
    fn hash() -> String {
        bcrypt::hash("sesame", 4).unwrap().replace("$2b$", "$2y$")
    }

    fn faults(text: &str) -> Vec<String> {
        let mut diagnostics = Diagnostics::default();
        Users::parse(text, Path::new("users"), &At::ROOT, &mut diagnostics);
        diagnostics.iter().map(|it| it.message.clone()).collect()
    }

    #[test]
    fn names_are_found_and_the_unknown_have_a_hash_all_the_same() {
        let text = format!("# people\nada:{}\n\n", hash());
        let users = Users::parse(&text, Path::new("users"), &At::ROOT, &mut Diagnostics::default()).unwrap();
        let (of_ada, known) = users.hash_of("ada");
        assert!(known && matches("sesame", &of_ada) && !matches("open", &of_ada));
        let (decoy, known) = users.hash_of("eve");
        assert!(!known && decoy == of_ada);
    }

    #[test]
    fn lines_that_can_not_be_used_are_told_without_their_hash() {
        let hash = hash();
        for (line, said) in [
            ("ada".to_owned(), "no `:` behind a name"),
            (format!(":{hash}"), "the name is missing"),
            (format!("ada:{hash}\nada:{hash}"), "line 2: the name is there already"),
            ("ada:$apr1$8sFt66rZ$X9EnsLh3".to_owned(), "MD5 and SHA-1 are no hashes"),
            ("ada:secret".to_owned(), "neither a hash of bcrypt"),
            (format!("ada:{}", &hash[..50]), "the hash is not whole"),
            (format!("ada:{}", hash.replace("$04$", "$31$")), "its cost is not within"),
            ("ada:$argon2id$v=19$m=19456,t=2".to_owned(), "the hash is not whole"),
            ("# nobody".to_owned(), "has no names"),
        ] {
            let faults = faults(&line);
            assert!(faults.iter().any(|it| it.contains(said)), "{line}: {faults:?}");
            assert!(!faults.iter().any(|it| it.contains("X9EnsLh3") || it.contains("secret")), "{faults:?}");
        }
    }
}
