//! Keys in PEM files: which kind they are, and their public half as a JWK (RFC 7517, RFC 8037).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use x509_parser::der_parser::ber::BerObject;
use x509_parser::der_parser::der::parse_der;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// No honest file with keys is longer, a bundle of all public authorities included.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// A private key and what is public about it.
pub(super) struct PrivateKey {
    pub(super) algorithm: Algorithm,
    pub(super) encoding: EncodingKey,
    pub(super) jwk: Value,
}

/// What a file with a key may hold.
const PRIVATE: &str = "an Ed25519, P-256, P-384 or RSA key in PEM, PKCS #8";

/// Reads a private key; its kind says which algorithm it signs with.
pub(super) fn private(path: &Path) -> Result<PrivateKey, String> {
    let bytes = read(path)?;
    // What the parser says might quote the file.
    let wrong = || format!("`{}` holds no private key that can sign: {PRIVATE}, is needed", path.display());
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| wrong())?;
    private_of(&key).ok_or_else(wrong)
}

/// Reads the public half of a key, from a file with either half.
pub(super) fn public(path: &Path) -> Result<(Algorithm, Value), String> {
    let bytes = read(path)?;
    if let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes)
        && let Some(key) = private_of(&key)
    {
        return Ok((key.algorithm, key.jwk));
    }
    let key = SubjectPublicKeyInfoDer::from_pem_slice(&bytes).ok();
    let key = key.and_then(|it| public_of(&it));
    key.ok_or_else(|| format!("`{}` holds no key of a kind that signs tokens", path.display()))
}

fn private_of(key: &PrivateKeyDer<'_>) -> Option<PrivateKey> {
    let der = match key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der(),
        PrivateKeyDer::Pkcs1(key) => return rsa(key.secret_pkcs1_der()),
        _ => return None,
    };
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
        let jwk = okp(pair.public_key().as_ref());
        return Some(PrivateKey { algorithm: Algorithm::EdDSA, encoding: EncodingKey::from_ed_der(der), jwk });
    }
    let curves =
        [(&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256), (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384)];
    for (curve, algorithm) in curves {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve, der) {
            let jwk = ec(algorithm, pair.public_key().as_ref())?;
            return Some(PrivateKey { algorithm, encoding: EncodingKey::from_ec_der(der), jwk });
        }
    }
    rsa(&octets_of_pkcs8(der)?)
}

/// The `RSAPrivateKey` within a PKCS #8 key (RFC 5208, section 5).
fn octets_of_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let (_, info) = parse_der(der).ok()?;
    let parts: &Vec<BerObject<'_>> = info.as_sequence().ok()?;
    Some(parts.get(2)?.as_slice().ok()?.to_vec())
}

fn rsa(der: &[u8]) -> Option<PrivateKey> {
    let pair = RsaKeyPair::from_der(der).ok()?;
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let encoding = EncodingKey::from_rsa_der(der);
    Some(PrivateKey { algorithm: Algorithm::RS256, encoding, jwk: rsa_jwk(&n, &e) })
}

fn public_of(der: &[u8]) -> Option<(Algorithm, Value)> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    let bits = &*info.subject_public_key.data;
    match info.parsed().ok()? {
        PublicKey::RSA(key) => Some((Algorithm::RS256, rsa_jwk(key.modulus, key.exponent))),
        PublicKey::EC(point) => {
            let algorithm = if point.data().len() == 65 { Algorithm::ES256 } else { Algorithm::ES384 };
            Some((algorithm, ec(algorithm, point.data())?))
        }
        // RFC 8410, section 3.
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => Some((Algorithm::EdDSA, okp(bits))),
        _ => None,
    }
}

fn okp(public: &[u8]) -> Value {
    json!({ "crv": "Ed25519", "kty": "OKP", "x": text(public) })
}

/// From an uncompressed point (SEC 1, section 2.3.3).
fn ec(algorithm: Algorithm, point: &[u8]) -> Option<Value> {
    let (curve, length) = if algorithm == Algorithm::ES256 { ("P-256", 32) } else { ("P-384", 48) };
    let (form, coordinates) = point.split_first()?;
    if *form != 4 || coordinates.len() != 2 * length {
        return None;
    }
    let (x, y) = coordinates.split_at(length);
    Some(json!({ "crv": curve, "kty": "EC", "x": text(x), "y": text(y) }))
}

/// Numbers have no leading zeros (RFC 7518, section 6.3.1.1); in DER they may have one.
fn rsa_jwk(n: &[u8], e: &[u8]) -> Value {
    let number = |bytes: &[u8]| text(&bytes[bytes.iter().take_while(|it| **it == 0).count()..]);
    json!({ "e": number(e), "kty": "RSA", "n": number(n) })
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a file, as many as a file with keys may have.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    file.map_err(|error| format!("`{}` can not be read: {error}", path.display()))?;
    Ok(bytes)
}
