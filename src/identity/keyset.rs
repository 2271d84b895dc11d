//! The keys of one issuer. A key has one algorithm for good; what a token says can only fit it or not.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;

use super::token::Token;
use super::token_error::TokenError;

/// No honest set is larger.
const KEYS_MAX: usize = 64;
/// So many keys are tried for a token that does not name its own.
const TRIES_MAX: usize = 4;
/// The shortest RSA modulus that counts is 2048 bits (RFC 7518, section 3.3), in base64url.
const MODULUS_MIN: usize = 341;

/// The algorithms that a key of another issuer may have: with a secret, whoever could check a token could
/// make one.
pub(super) const ASYMMETRIC: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The keys of one issuer.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<VerifyingKey>,
    /// The JWKs that were taken over: equal sets verify alike.
    published: Vec<Value>,
}

#[derive(Clone, Debug)]
struct VerifyingKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.published == other.published && self.keys.len() == other.keys.len()
    }
}

impl KeySet {
    /// Reads a JWK set (RFC 7517, section 5). Keys of another use, kind or algorithm are left out; a set
    /// without any that is left is an error.
    pub(super) fn parse(text: &[u8], allowed: &[Algorithm]) -> Result<Self, &'static str> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "not JSON")?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("not a JWK set")?;
        if keys.len() > KEYS_MAX {
            return Err("too many keys");
        }
        let set = Self::of(keys, allowed);
        if set.keys.is_empty() { Err("no key that can be used") } else { Ok(set) }
    }

    /// The usable ones of these JWKs.
    pub(super) fn of(jwks: &[Value], allowed: &[Algorithm]) -> Self {
        let mut set = Self::default();
        for jwk in jwks {
            if let Some(key) = verifying(jwk, allowed) {
                set.keys.push(key);
                set.published.push(jwk.clone());
            }
        }
        set
    }

    /// Adds a secret. It has no name of its own: whatever name a token gives it will do.
    pub(super) fn add_secret(&mut self, secret: &[u8]) {
        let key = DecodingKey::from_secret(secret);
        self.keys.push(VerifyingKey { kid: None, algorithm: Algorithm::HS256, key });
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether one of the keys signed the token. The name of a key is looked up and means nothing else; a name that
    /// no key has may be that of a secret, which others name as they like.
    pub(super) fn check(&self, token: &Token<'_>) -> Result<(), TokenError> {
        let known = token.kid.is_none() || self.keys.iter().any(|it| it.kid == token.kid);
        let secret = |it: &VerifyingKey| it.kid.is_none() && it.algorithm == Algorithm::HS256;
        if !known && (token.algorithm != Algorithm::HS256 || !self.keys.iter().any(secret)) {
            return Err(TokenError::Key);
        }
        let named = |it: &&VerifyingKey| token.kid.is_none() || it.kid == token.kid || (!known && secret(it));
        let fitting = self.keys.iter().filter(named).filter(|it| it.algorithm == token.algorithm);
        let mut outcome = Err(TokenError::Algorithm);
        for VerifyingKey { algorithm, key, .. } in fitting.take(TRIES_MAX) {
            if let Ok(true) = jsonwebtoken::crypto::verify(token.signature, token.message, key, *algorithm) {
                return Ok(());
            }
            outcome = Err(TokenError::Signature);
        }
        outcome
    }
}

fn verifying(jwk: &Value, allowed: &[Algorithm]) -> Option<VerifyingKey> {
    let jwk: Jwk = serde_json::from_value(jwk.clone()).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
        return None;
    }
    let stated = jwk.common.key_algorithm;
    let stated = match stated {
        Some(stated) => Some(Algorithm::try_from(stated).ok()?),
        None => None,
    };
    let fits = |it: &Algorithm| match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => it.family() == AlgorithmFamily::Rsa && key.n.len() >= MODULUS_MIN,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => *it == Algorithm::ES256,
            EllipticCurve::P384 => *it == Algorithm::ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(key) => *it == Algorithm::EdDSA && key.curve == EllipticCurve::Ed25519,
        // A secret in a set that is published is none.
        _ => false,
    };
    // A key that does not state its algorithm has the first one of its kind that is allowed.
    let algorithm = *allowed.iter().filter(|it| fits(it)).find(|it| stated.is_none_or(|stated| stated == **it))?;
    Some(VerifyingKey { key: DecodingKey::from_jwk(&jwk).ok()?, kid: jwk.common.key_id, algorithm })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    #[track_caller]
    fn check(jwk: Value, usable: bool) {
        let set = json!({ "keys": [jwk] }).to_string();
        assert_eq!(KeySet::parse(set.as_bytes(), &ALL).is_ok(), usable, "{set}");
    }

    #[test]
    fn r4_5_a_set_gives_the_keys_that_may_sign_and_no_others() {
        let ed = |extra: Value| {
            let mut jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
            jwk.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            jwk
        };
        check(ed(json!({})), true);
        check(ed(json!({ "use": "sig", "alg": "EdDSA", "kid": "../../etc/passwd", "unknown": [1] })), true);
        check(ed(json!({ "use": "enc" })), false);
        check(ed(json!({ "alg": "ES256" })), false);
        check(ed(json!({ "alg": "HS256" })), false);
        check(ed(json!({ "alg": "ECDH-ES" })), false);
        check(json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }), false);
        check(json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }), false);
        check(json!({ "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA" }), false);
        check(json!("nonsense"), false);
        for wrong in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[]}"] {
            assert!(KeySet::parse(wrong.as_bytes(), &ALL).is_err(), "{wrong}");
        }
    }
}
