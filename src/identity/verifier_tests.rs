use super::*;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::base::{At, Diagnostics};
use crate::identity::TokensConfig;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Stage {
    folder: tempfile::TempDir,
    config: TokensConfig,
    identity: Arc<Identity>,
}

fn compile(config: &TokensConfig) -> Tokens {
    let mut diagnostics = Diagnostics::default();
    let tokens = config.compile(&At::ROOT, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    tokens
}

impl Stage {
    /// An identity with an ES256 key and a secret.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config: TokensConfig =
            serde_yaml::from_str(&format!("{{ hs256_secret: {SECRET}, issuer: moongate, audience: [tta] }}")).unwrap();
        config.signing_key = Some(key(&folder, "one.pem"));
        let identity = Identity::begin(compile(&config));
        Self { folder, config, identity }
    }

    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        match self.identity.verify(token.as_bytes()) {
            Verdict::Valid(verified) => Ok(verified),
            Verdict::Invalid(error) => Err(error),
            Verdict::KeysMissing(_) => panic!("nothing is fetched here"),
        }
    }

    fn claims(&self) -> Claims {
        Claims { roles: vec!["user".to_owned()], sid: Some("family".to_owned()), ..self.identity.claims("ada") }
    }

    fn kid(&self) -> String {
        self.identity.keys().jwks()["keys"][0]["kid"].as_str().unwrap().to_owned()
    }
}

fn key(folder: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    let random = aws_lc_rs::rand::SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let path = folder.path().join(name);
    let text = STANDARD.encode(der.as_ref());
    std::fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")).unwrap();
    path
}

fn hs256(header: Value, claims: &Value, secret: &[u8]) -> String {
    let part = |it: &Value| URL_SAFE_NO_PAD.encode(it.to_string());
    let message = format!("{}.{}", part(&header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256);
    format!("{message}.{}", signature.unwrap())
}

#[test]
fn r4_2_our_own_tokens_count_and_are_known_the_second_time() {
    let stage = Stage::new();
    let keys = stage.identity.keys();
    for token in [keys.sign(&stage.claims()).unwrap(), keys.sign_hs256(&stage.claims()).unwrap()] {
        let first = stage.verify(&token).unwrap();
        assert_eq!((&*first.principal.subject, &first.issuer), ("ada", &IssuerId::Own));
        assert!(Arc::ptr_eq(&first, &stage.verify(&token).unwrap()));
        // One bit of the signature.
        let flipped = token[..token.len() - 1].to_owned() + if token.ends_with('A') { "E" } else { "A" };
        assert!(matches!(stage.verify(&flipped), Err(TokenError::Signature | TokenError::NotCanonical)));
    }
}

#[test]
fn r4_2_a_key_has_one_algorithm_whatever_the_header_says() {
    let stage = Stage::new();
    let claims = serde_json::to_value(stage.claims()).unwrap();
    let published = stage.identity.keys().jwks()["keys"][0].clone();
    // The public key taken for a secret, in each spelling that a library might use.
    let x = URL_SAFE_NO_PAD.decode(published["x"].as_str().unwrap()).unwrap();
    let y = URL_SAFE_NO_PAD.decode(published["y"].as_str().unwrap()).unwrap();
    let point = [&[4][..], &x, &y].concat();
    for public in [point, published.to_string().into_bytes(), x] {
        let token = hs256(json!({ "alg": "HS256", "kid": stage.kid() }), &claims, &public);
        assert_eq!(stage.verify(&token).unwrap_err(), TokenError::Algorithm);
        let token = hs256(json!({ "alg": "HS256" }), &claims, &public);
        assert_eq!(stage.verify(&token).unwrap_err(), TokenError::Signature);
        let token = hs256(json!({ "alg": "ES256", "kid": stage.kid() }), &claims, &public);
        assert_eq!(stage.verify(&token).unwrap_err(), TokenError::Signature);
    }
    let mut header = Header::new(Algorithm::HS512);
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    assert_eq!(stage.verify(&encode(&header, &claims, &secret).unwrap()).unwrap_err(), TokenError::Algorithm);
    // A name is a name: neither a place where a secret could be found, nor one that a secret has to have.
    for kid in ["../../../../etc/hostname", "/dev/null", "' OR 1=1 --", ""] {
        header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        assert!(stage.verify(&encode(&header, &claims, &secret).unwrap()).is_ok(), "{kid}");
        let forged = hs256(json!({ "alg": "HS256", "kid": kid }), &claims, b"");
        assert_eq!(stage.verify(&forged).unwrap_err(), TokenError::Signature, "{kid}");
        let forged = hs256(json!({ "alg": "ES256", "kid": kid }), &claims, SECRET.as_bytes());
        assert_eq!(stage.verify(&forged).unwrap_err(), TokenError::Key, "{kid}");
    }
    let empty = hs256(json!({ "alg": "HS256" }), &claims, b"");
    assert_eq!(stage.verify(&empty).unwrap_err(), TokenError::Signature);
}

#[test]
fn r4_2_nobody_else_signs_for_us() {
    let stage = Stage::new();
    let sign = |claims: &Claims| stage.identity.keys().sign(claims).unwrap();
    let foreign = Claims { iss: "https://evil.example".into(), ..stage.claims() };
    assert_eq!(stage.verify(&sign(&foreign)).unwrap_err(), TokenError::Issuer);
    let nobody = hs256(json!({ "alg": "HS256" }), &json!({ "sub": "ada", "exp": u64::MAX }), SECRET.as_bytes());
    assert_eq!(stage.verify(&nobody).unwrap_err(), TokenError::Issuer);
    // Who does not say who he is takes tokens for nobody in particular.
    let lax = TokensConfig { issuer: None, audience: None, ..stage.config.clone() };
    stage.identity.reload(compile(&lax));
    assert!(stage.verify(&nobody).is_ok());
    let other = Claims { aud: vec!["other".into()], ..stage.claims() };
    assert_eq!(stage.verify(&sign(&other)).unwrap_err(), TokenError::Audience);
}

#[test]
fn r4_2_keys_change_over_and_lose_nobody() {
    let stage = Stage::new();
    let old = stage.identity.keys().sign(&stage.claims()).unwrap();
    assert!(stage.verify(&old).is_ok());
    let former = stage.config.signing_key.clone().unwrap();
    let both = TokensConfig {
        signing_key: Some(key(&stage.folder, "two.pem")),
        verification_keys: vec![former],
        ..stage.config.clone()
    };
    stage.identity.reload(compile(&both));
    let new = stage.identity.keys().sign(&stage.claims()).unwrap();
    assert!(stage.verify(&old).is_ok() && stage.verify(&new).is_ok());
    // A token goes with its key, though it was verified before.
    stage.identity.reload(compile(&TokensConfig { verification_keys: Vec::new(), ..both }));
    assert_eq!(stage.verify(&old).unwrap_err(), TokenError::Key);
    assert!(stage.verify(&new).is_ok());
}

#[test]
fn r4_2_a_former_secret_counts_while_it_is_named() {
    let stage = Stage::new();
    let old = stage.identity.keys().sign_hs256(&stage.claims()).unwrap();
    let secret = |text: &str| serde_yaml::from_str(text).unwrap();
    let mut config = TokensConfig {
        hs256_secret: secret("ffffffffffffffffffffffffffffffff"),
        previous_hs256_secret: secret(SECRET),
        ..stage.config.clone()
    };
    stage.identity.reload(compile(&config));
    assert!(stage.verify(&old).is_ok());
    config.previous_hs256_secret = None;
    stage.identity.reload(compile(&config));
    assert_eq!(stage.verify(&old).unwrap_err(), TokenError::Signature);
}

#[test]
fn us_009_4_revocations_and_other_roles_bite_at_the_next_request() {
    let stage = Stage::new();
    let claims = stage.claims();
    let sign = |claims: &Claims| stage.identity.keys().sign(claims).unwrap();
    let token = sign(&claims);
    assert_eq!(stage.verify(&token).unwrap().principal.roles, [Arc::<str>::from("user")]);
    let (before, until) = (claims.iat, claims.exp);
    let roles = vec!["operator".to_owned()];
    stage.identity.revoke(Revocation::Roles { subject: "ada".into(), roles, before, until });
    assert_eq!(stage.verify(&token).unwrap().principal.roles, [Arc::<str>::from("operator")]);
    stage.identity.revoke(Revocation::Subject { subject: "ada".into(), before, until });
    assert_eq!(stage.verify(&token).unwrap_err(), TokenError::Revoked);
    // Who signs in again in the same second is let in.
    let again = Claims { sid: Some("other".to_owned()), ..stage.claims() };
    let token = sign(&again);
    assert!(stage.verify(&token).is_ok());
    stage.identity.revoke(Revocation::Session { sid: "other".into(), until: again.exp });
    assert_eq!(stage.verify(&token).unwrap_err(), TokenError::Revoked);
}

#[test]
fn every_fault_of_trust_is_reported_at_its_place() {
    let yaml = "
      trust:
        - { name: a, issuer: moongate, jwks: 'https://a.example/jwks' }
        - { name: 'b b', issuer: b, audience: [], jwks: 'http://b.example/jwks', algorithms: [HS256, RS265] }
        - { name: c, issuer: b, jwks: /nowhere.json }
        - { name: d, issuer: '', jwks: 'ftp://d.example' }
        - { name: a, issuer: e, jwks: 'http://127.0.0.1:1/jwks' }
      leeway: 5m
    ";
    let config: TokensConfig = serde_yaml::from_str(yaml).unwrap();
    let mut diagnostics = Diagnostics::default();
    config.compile(&At::ROOT, &mut diagnostics);
    let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
    let expected = [
        "/leeway",
        "/trust/0/issuer",
        "/trust/1/name",
        "/trust/1/audience",
        "/trust/1/algorithms/0",
        "/trust/1/algorithms/1",
        "/trust/1/jwks",
        "/trust/2/jwks",
        "/trust/3/issuer",
        "/trust/3/jwks",
        "/trust/4/name",
    ];
    assert_eq!(paths, expected, "{diagnostics:#?}");
}
