//! The `tokens:` section of `gateway.yaml`, written and compiled.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::EncodingKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{At, Diagnostics, Period, Secret};

use super::keys::{Keys, Signing, published};
use super::keyset::{ASYMMETRIC, KeySet};
use super::pem;
use super::rules::Rules;
use super::trust::{Trust, TrustConfig};

/// Who our own tokens are from, and the keys that sign and check them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// Who our tokens are from (`iss`). Default `moongate`; written here, a token without it is refused.
    pub issuer: Option<String>,
    /// Whom our tokens are for (`aud`): a token counts if it is for one of these. Default `[tta]`; written
    /// here, a token for nobody in particular is refused.
    pub audience: Option<Vec<String>>,
    /// The secret of HS256 signatures, at least 32 bytes: `"${PROXY_JWT_SECRET}"`.
    pub hs256_secret: Option<Secret>,
    /// The secret that was used before: tokens signed with it count until they end.
    pub previous_hs256_secret: Option<Secret>,
    /// File with the private key that signs our tokens, in PEM (PKCS #8): Ed25519 signs EdDSA, P-256 ES256,
    /// P-384 ES384, RSA RS256. Its public half is published. Without it, the secret signs.
    pub signing_key: Option<PathBuf>,
    /// Files with further keys whose signatures count, in PEM, private or public: the one that signed before,
    /// and the one that is going to. They are published, too.
    pub verification_keys: Vec<PathBuf>,
    /// The secret that signs what upstreams receive about callers (`X-Moongate-Identity`), at least 32 bytes, for
    /// upstreams that can't check the signing key's signature. Not one that signs tokens.
    pub identity_secret: Option<Secret>,
    /// How long access tokens live. Default 5m.
    pub access_life: Option<Period>,
    /// How long refresh tokens live; each use gives a new one. Default 30d.
    pub refresh_life: Option<Period>,
    /// How far the clocks of issuers may differ from ours, at most 60s. Default 30s.
    pub leeway: Option<Period>,
    /// How many verified tokens are remembered, so that the next request with one costs no signature. A change
    /// needs a restart. Default 20000; 0 remembers none.
    pub remembered: Option<usize>,
    /// How long API keys and accounts are remembered after they were looked up in the store: so late may a change
    /// count that the gateway has not heard of. Default 30s.
    pub records_life: Option<Period>,
    /// Other issuers whose tokens count.
    pub trust: Vec<TrustConfig>,
}

/// A compiled `tokens:` section.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The keys.
    pub(super) keys: Arc<Keys>,
    /// What counts in our own tokens.
    pub(super) own_rules: Rules,
    /// What verifies them.
    pub(super) own_keys: KeySet,
    /// Whether a token that does not say who signed it is refused.
    pub(super) issuer_needed: bool,
    /// So many verified tokens are remembered.
    pub(super) remembered: usize,
    /// How long records are remembered.
    pub(super) records_life: Duration,
    /// Other issuers.
    pub(super) trust: Vec<Trust>,
    files: Vec<PathBuf>,
}

/// The shortest secret (RFC 7518, section 3.2).
const SECRET_MIN: usize = 32;
/// The most that clocks may differ, in seconds.
const LEEWAY_MAX: u64 = 60;

impl TokensConfig {
    /// Reads the key files, and reports every fault at its place.
    pub fn compile(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Tokens {
        let secrets = [
            ("hs256_secret", &self.hs256_secret),
            ("previous_hs256_secret", &self.previous_hs256_secret),
            ("identity_secret", &self.identity_secret),
        ];
        for (key, secret) in secrets {
            check_secret(secret.as_ref(), &at.key(key), diagnostics);
        }
        if self.identity_secret.is_some() && self.identity_secret == self.hs256_secret {
            let diagnostic = diagnostics.error(&at.key("identity_secret"), "the secret that signs tokens");
            diagnostic.help("upstreams that have it could make tokens: use another one");
        }
        let access_life = life(self.access_life, Duration::from_secs(300), &at.key("access_life"), diagnostics);
        let refresh_life =
            life(self.refresh_life, Duration::from_secs(30 * 86_400), &at.key("refresh_life"), diagnostics);
        let mut public = Vec::new();
        let signing = self.signing_key.as_deref().and_then(|path| {
            let key = report(pem::private(path), &at.key("signing_key"), diagnostics)?;
            public.push(published(key.algorithm, key.jwk.clone()));
            Some(Signing::new(key))
        });
        let list = at.key("verification_keys");
        for (number, path) in self.verification_keys.iter().enumerate() {
            let Some((algorithm, jwk)) = report(pem::public(path), &list.index(number), diagnostics) else { continue };
            let key = published(algorithm, jwk);
            // The signing key may stand in both places while keys are changed over.
            if !public.contains(&key) {
                public.push(key);
            }
        }
        let keys = Keys {
            issuer: self.issuer(at, diagnostics),
            audience: self.audience.clone().unwrap_or_else(|| vec!["tta".to_owned()]),
            access_life,
            refresh_life,
            signing,
            secret: self.hs256_secret.as_ref().map(encoding),
            identity_secret: self.identity_secret.as_ref().map(encoding),
            published: public,
        };
        let own_rules = self.own_rules(&keys, at, diagnostics);
        let trust = self.trust(&own_rules, at, diagnostics);
        let files = self.signing_key.iter().chain(&self.verification_keys).cloned();
        Tokens {
            own_keys: self.own_keys(&keys.published),
            own_rules,
            issuer_needed: self.issuer.is_some(),
            remembered: self.remembered.unwrap_or(20_000),
            records_life: self.records_life.map_or(Duration::from_secs(30), |it| it.0),
            trust,
            files: files.chain(self.trust.iter().flat_map(TrustConfig::files)).collect(),
            keys: Arc::new(keys),
        }
    }

    fn own_rules(&self, keys: &Keys, at: &At<'_>, diagnostics: &mut Diagnostics) -> Rules {
        let leeway = self.leeway.map_or(30, |it| it.0.as_secs());
        if leeway > LEEWAY_MAX {
            diagnostics.error(&at.key("leeway"), "more than 60s").help("set the clocks; a token must end when it ends");
        }
        Rules {
            issuer: keys.issuer.as_str().into(),
            audience: keys.audience.clone(),
            audience_needed: self.audience.is_some(),
            leeway,
            roles_claim: "roles".to_owned(),
            tenant_claim: "tenant".to_owned(),
            roles: None,
            tenant: None,
            subject_prefix: String::new(),
            own: true,
        }
    }

    fn own_keys(&self, published: &[Value]) -> KeySet {
        let mut keys = KeySet::of(published, &ASYMMETRIC.map(|(_, algorithm)| algorithm));
        for secret in self.hs256_secret.iter().chain(&self.previous_hs256_secret) {
            keys.add_secret(secret.expose().as_bytes());
        }
        keys
    }

    /// An issuer is found by its name in `iss`: two of the same could not be distinguished.
    fn trust(&self, own: &Rules, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<Trust> {
        let list = at.key("trust");
        let mut compiled: Vec<Trust> = Vec::new();
        for (number, written) in self.trust.iter().enumerate() {
            let at = list.index(number);
            let Some(trust) = written.compile((&own.audience, own.leeway), &at, diagnostics) else { continue };
            if trust.rules.issuer == own.issuer || compiled.iter().any(|it| it.rules.issuer == trust.rules.issuer) {
                let diagnostic =
                    diagnostics.error(&at.key("issuer"), format!("two issuers are `{}`", trust.rules.issuer));
                diagnostic.help("tokens name their issuer: each may be here once, and none may be ourselves");
            }
            if compiled.iter().any(|it| it.name == trust.name) {
                diagnostics.error(&at.key("name"), format!("two issuers are called `{}`", trust.name));
            }
            compiled.push(trust);
        }
        compiled
    }

    fn issuer(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> String {
        if self.issuer.as_ref().is_some_and(String::is_empty) {
            diagnostics.error(&at.key("issuer"), "an empty name");
        }
        self.issuer.clone().unwrap_or_else(|| "moongate".to_owned())
    }
}

impl TokensConfig {
    /// The roles that other issuers may give: those that their entries list.
    pub fn given_roles(&self) -> Vec<String> {
        self.trust.iter().filter_map(|it| it.roles.as_deref()).flatten().cloned().collect()
    }
}

impl Tokens {
    /// Every file that was read for it.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether there is any key that signs and checks our own tokens.
    pub fn can_sign(&self) -> bool {
        self.keys.signing.is_some() || self.keys.secret.is_some()
    }

    /// The names of other issuers, for routes that let in the tokens of some of them only.
    pub fn trusted(&self) -> impl Iterator<Item = &str> {
        self.trust.iter().map(|it| &*it.name)
    }

    /// The keys, for who signs.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }
}

fn encoding(secret: &Secret) -> EncodingKey {
    EncodingKey::from_secret(secret.expose().as_bytes())
}

fn check_secret(secret: Option<&Secret>, at: &At<'_>, diagnostics: &mut Diagnostics) {
    if secret.is_some_and(|it| it.expose().len() < SECRET_MIN) {
        diagnostics.error(at, "a secret of less than 32 bytes").help("make one with: openssl rand -hex 32");
    }
}

fn life(written: Option<Period>, default: Duration, at: &At<'_>, diagnostics: &mut Diagnostics) -> Duration {
    let life = written.map_or(default, |it| it.0);
    if life < Duration::from_secs(1) {
        diagnostics.error(at, "a token that is over when it is made").help("write at least 1s");
    }
    life
}

fn report<T>(result: Result<T, String>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<T> {
    let help = "make one with: openssl genpkey -algorithm ed25519 -out key.pem";
    result.map_err(|message| diagnostics.error(at, message).help(help)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use crate::identity::Claims;

    fn pem(kind: &str, der: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
    }

    /// A PKCS #8 key of each kind that signs.
    fn keys() -> Vec<(&'static str, Vec<u8>)> {
        use aws_lc_rs::rsa::KeySize;
        use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
        let random = aws_lc_rs::rand::SystemRandom::new();
        let ec = |curve| EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap().as_ref().to_vec();
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        vec![
            ("EdDSA", Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref().to_vec()),
            ("EdDSA", Ed25519KeyPair::generate_pkcs8v1(&random).unwrap().as_ref().to_vec()),
            ("ES256", ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)),
            ("ES384", ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)),
            ("RS256", AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap().as_ref().to_vec()),
        ]
    }

    fn compile(config: &TokensConfig) -> (Tokens, Vec<String>) {
        let mut diagnostics = Diagnostics::default();
        let tokens = config.compile(&At::ROOT, &mut diagnostics);
        (tokens, diagnostics.iter().map(|it| format!("{}: {}", it.path, it.message)).collect())
    }

    #[test]
    fn r4_1_every_kind_of_key_signs_tokens_that_its_published_half_verifies() {
        let folder = tempfile::tempdir().unwrap();
        for (algorithm, der) in keys() {
            let path = folder.path().join("key.pem");
            std::fs::write(&path, pem("PRIVATE KEY", &der)).unwrap();
            let (tokens, diagnostics) = compile(&TokensConfig { signing_key: Some(path), ..TokensConfig::default() });
            assert!(diagnostics.is_empty(), "{diagnostics:?}");
            let claims = tokens.keys().claims("someone");
            let token = tokens.keys().sign(&claims).unwrap();

            let jwks = tokens.keys().jwks();
            let jwk = &jwks["keys"][0];
            assert_eq!((jwk["alg"].as_str(), jwk["use"].as_str()), (Some(algorithm), Some("sig")));
            assert!(["d", "p", "q", "k"].iter().all(|it| jwk.get(it).is_none()), "a private part in {jwk}");
            let header: serde_json::Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
            assert_eq!(header["kid"], jwk["kid"]);
            let key = DecodingKey::from_jwk(&serde_json::from_value(jwk.clone()).unwrap()).unwrap();
            let mut rules = Validation::new(serde_json::from_value(jwk["alg"].clone()).unwrap());
            rules.set_audience(&["tta"]);
            assert_eq!(decode::<Claims>(&token, &key, &rules).unwrap().claims, claims);
        }
    }

    #[test]
    fn r4_1_a_former_key_is_published_beside_the_one_that_signs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let keys = keys();
        let new = write("new.pem", pem("PRIVATE KEY", &keys[1].1));
        let old = write("old.pem", pem("PRIVATE KEY", &keys[2].1));
        let config = TokensConfig {
            signing_key: Some(new.clone()),
            verification_keys: vec![old, new],
            ..TokensConfig::default()
        };
        let (tokens, diagnostics) = compile(&config);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let jwks = tokens.keys().jwks();
        let algorithms: Vec<_> = jwks["keys"].as_array().unwrap().iter().map(|it| it["alg"].clone()).collect();
        assert_eq!(algorithms, ["EdDSA", "ES256"]);
    }

    #[test]
    fn every_fault_of_the_keys_is_reported_at_its_place_and_quotes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let nonsense = folder.path().join("nonsense.pem");
        std::fs::write(&nonsense, "hunter2").unwrap();
        let config: TokensConfig = serde_yaml::from_str(&format!(
            "{{ issuer: '', hs256_secret: short, signing_key: {0}, verification_keys: [{0}, /nowhere], access_life: 0s }}",
            nonsense.display()
        ))
        .unwrap();
        let (_, diagnostics) = compile(&config);
        let paths: Vec<_> = diagnostics.iter().map(|it| it.split(':').next().unwrap()).collect();
        let expected = [
            "/hs256_secret",
            "/access_life",
            "/signing_key",
            "/verification_keys/0",
            "/verification_keys/1",
            "/issuer",
        ];
        assert_eq!(paths, expected, "{diagnostics:?}");
        assert!(!diagnostics.concat().contains("hunter2"));
    }

    #[test]
    fn px_1_a_token_is_signed_with_the_secret_where_there_is_no_key() {
        let secret = "0123456789abcdef0123456789abcdef";
        let config = TokensConfig { hs256_secret: serde_yaml::from_str(secret).unwrap(), ..TokensConfig::default() };
        let (tokens, _) = compile(&config);
        let claims = tokens.keys().claims("someone");
        assert_eq!(claims.exp - claims.iat, 300);
        let token = tokens.keys().sign(&claims).unwrap();
        let mut rules = Validation::new(jsonwebtoken::Algorithm::HS256);
        rules.set_audience(&["tta"]);
        assert!(decode::<Claims>(&token, &DecodingKey::from_secret(secret.as_bytes()), &rules).is_ok());
        assert_eq!(tokens.keys().jwks()["keys"].as_array().unwrap().len(), 0);
        assert!(!format!("{tokens:?}").contains(secret));
    }
}
