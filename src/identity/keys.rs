//! The keys that sign our own tokens, and what the world may know of them.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::claims::Claims;
use super::identity_token::{self, IdentityClaims};
use super::pem::PrivateKey;
use crate::base::unix_seconds;

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The configuration has neither a key nor a secret.
    #[error("no key to sign with: gateway.yaml has neither tokens.signing_key nor tokens.hs256_secret")]
    NoKey,
    /// The cryptography failed.
    #[error("signing failed: {0}")]
    Failed(#[from] jsonwebtoken::errors::Error),
}

/// The keys of this gateway, compiled: the one that signs, and all whose signatures count.
pub struct Keys {
    pub(super) issuer: String,
    pub(super) audience: Vec<String>,
    pub(super) access_life: Duration,
    pub(super) refresh_life: Duration,
    pub(super) signing: Option<Signing>,
    pub(super) secret: Option<EncodingKey>,
    /// What signs the statements that upstreams get, if not the signing key.
    pub(super) identity_secret: Option<EncodingKey>,
    /// Public halves, the signing key's first.
    pub(super) published: Vec<Value>,
}

/// The asymmetric key that signs.
pub(super) struct Signing {
    kid: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
}

impl Signing {
    pub(super) fn new(key: PrivateKey) -> Self {
        Self { kid: thumbprint(&key.jwk), algorithm: key.algorithm, encoding: key.encoding }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("issuer", &self.issuer).field("published", &self.published).finish_non_exhaustive()
    }
}

impl Keys {
    /// How long access tokens live.
    pub fn access_life(&self) -> Duration {
        self.access_life
    }

    /// How long refresh tokens live.
    pub fn refresh_life(&self) -> Duration {
        self.refresh_life
    }

    /// Who our tokens are from.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The claims of a new access token of this subject: issuer, audience, times and a fresh `jti` are
    /// filled in, the rest is empty.
    pub fn claims(&self, subject: &str) -> Claims {
        let now = unix_seconds();
        Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: subject.to_owned(),
            tenant: None,
            roles: Vec::new(),
            scope: String::new(),
            jti: unique(),
            sid: None,
            iat: now,
            nbf: now,
            exp: now + self.access_life.as_secs(),
        }
    }

    /// Signs a token with the signing key, or with the secret where there is none.
    ///
    /// # Errors
    /// When there is no key at all.
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        let Some(Signing { kid, algorithm, encoding }) = &self.signing else { return self.sign_hs256(claims) };
        let mut header = Header::new(*algorithm);
        header.kid = Some(kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, encoding)?)
    }

    /// Signs a token with the secret, for clients that share it (PX-1).
    ///
    /// # Errors
    /// When there is no secret.
    pub fn sign_hs256(&self, claims: &Claims) -> Result<String, SignError> {
        let secret = self.secret.as_ref().ok_or(SignError::NoKey)?;
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, secret)?)
    }

    /// Signs an identity token for upstreams; `None` if there is no key for that. The secret of tokens is
    /// none: upstreams would need it, and could then make tokens.
    pub(super) fn sign_identity(&self, claims: &IdentityClaims<'_>) -> Option<String> {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(identity_token::TYPE.to_owned());
        if let Some(secret) = &self.identity_secret {
            return jsonwebtoken::encode(&header, claims, secret).ok();
        }
        let Signing { kid, algorithm, encoding } = self.signing.as_ref()?;
        header.alg = *algorithm;
        header.kid = Some(kid.clone());
        jsonwebtoken::encode(&header, claims, encoding).ok()
    }

    /// The public halves of all keys whose signatures count, as a JWK set (RFC 7517, section 5): what
    /// `/.well-known/jwks.json` shows. The secret has no public half.
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.published })
    }
}

/// A public key as it is published: with its name, its algorithm and its use.
pub(super) fn published(algorithm: Algorithm, mut jwk: Value) -> Value {
    let kid = thumbprint(&jwk);
    if let Some(members) = jwk.as_object_mut() {
        members.insert("kid".to_owned(), json!(kid));
        members.insert("alg".to_owned(), json!(algorithm));
        members.insert("use".to_owned(), json!("sig"));
    }
    jwk
}

/// The name of a key (RFC 7638): of a JWK that has the required members only, in alphabetical order.
fn thumbprint(jwk: &Value) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, jwk.to_string().as_bytes()))
}

/// 128 bits that nobody can guess.
fn unique() -> String {
    let mut bytes = [0; 16];
    // The system's randomness does not fail once it has begun; if it did, the name would not be
    // unique, and a name that is not unique must not be.
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7638, section 3.1.
    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let jwk = json!({ "e": "AQAB", "kty": "RSA", "n": n });
        assert_eq!(thumbprint(&jwk), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
