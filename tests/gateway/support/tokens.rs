//! Who makes tokens: honest issuers, and others.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// The secret that gateways of tests share with their clients.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair, and its public half as issuers publish it.
pub struct Signer {
    pub algorithm: Algorithm,
    pub encoding: EncodingKey,
    pub jwk: Value,
    /// The private half.
    pub pem: String,
}

impl Signer {
    pub fn ed25519(kid: &str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let public = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        let x = base64url(public.public_key());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig" });
        Self::new(Algorithm::EdDSA, EncodingKey::from_ed_der(der.as_ref()), jwk, der.as_ref())
    }

    pub fn es256(kid: &str) -> Self {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref()).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y), "kid": kid });
        Self::new(Algorithm::ES256, EncodingKey::from_ec_der(der.as_ref()), jwk, der.as_ref())
    }

    pub fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let jwk = json!({ "kty": "RSA", "n": base64url(n), "e": base64url(e), "kid": kid, "alg": "RS256" });
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        // The crate for tokens wants what is within.
        let inner = der.as_ref().windows(4).position(|it| it == [0x02, 0x01, 0x00, 0x02]).unwrap();
        let inner = &der.as_ref()[inner - 4..];
        Self::new(Algorithm::RS256, EncodingKey::from_rsa_der(inner), jwk, der.as_ref())
    }

    fn new(algorithm: Algorithm, encoding: EncodingKey, jwk: Value, der: &[u8]) -> Self {
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
        Self { algorithm, encoding, jwk, pem }
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm, "typ": "JWT", "kid": self.jwk["kid"] });
        self.sign_raw(&header.to_string(), &claims.to_string())
    }

    /// A token with this very header and these very claims, whatever they are.
    pub fn sign_raw(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.encoding, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// Signs with a secret, as `sign_raw`.
pub fn sign_hs256(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64url(header), base64url(claims));
    let key = EncodingKey::from_secret(secret);
    format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap())
}

/// What a sound token of the gateway `moongate` for `tta` says.
pub fn claims(subject: &str, roles: &[&str]) -> Value {
    let now = now();
    json!({
        "iss": "moongate", "aud": "tta", "sub": subject, "tenant": "north", "roles": roles, "scope": "read",
        "jti": format!("{subject}-{now}"), "iat": now, "nbf": now, "exp": now + 300
    })
}

/// These claims with changes; a null takes one away.
pub fn with(mut claims: Value, changes: Value) -> Value {
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, it| !it.is_null());
    claims
}

/// A token of somebody with these roles, signed with [`SECRET`].
pub fn token(subject: &str, roles: &[&str]) -> String {
    sign_hs256("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", &claims(subject, roles).to_string(), SECRET.as_bytes())
}

/// What a token says, unverified.
pub fn said_by(token: &str) -> (Value, Value) {
    let part = |at: usize| {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    (part(0), part(1))
}
