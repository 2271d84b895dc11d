//! What a token costs: known from before, and verified anew by each kind of key.

use std::hint::black_box;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use moongate::base::{At, Diagnostics};
use moongate::identity::{Identity, TokensConfig, Verdict};

fn keys() -> Vec<(&'static str, Vec<u8>)> {
    let random = SystemRandom::new();
    let made = "a key can be made";
    let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect(made);
    let ed = Ed25519KeyPair::generate_pkcs8v1(&random).expect(made);
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect(made);
    let rsa = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).expect(made);
    vec![("es256", ec.as_ref().to_vec()), ("eddsa", ed.as_ref().to_vec()), ("rs256", rsa.as_ref().to_vec())]
}

/// An identity that remembers so many tokens, with this key or else a secret.
fn identity(key: Option<&[u8]>, remembered: usize) -> std::sync::Arc<Identity> {
    let folder = tempfile::tempdir().expect("there is room");
    let mut config: TokensConfig =
        serde_yaml::from_str("hs256_secret: 0123456789abcdef0123456789abcdef").expect("it is one");
    config.remembered = Some(remembered);
    if let Some(der) = key {
        let path = folder.path().join("key.pem");
        let text = STANDARD.encode(der);
        std::fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
            .expect("there is room");
        config.signing_key = Some(path);
    }
    let mut diagnostics = Diagnostics::default();
    let tokens = config.compile(&At::ROOT, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    Identity::begin(tokens)
}

fn verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("token");
    let mut bench = |name: &str, key: Option<&[u8]>, remembered: usize| {
        let identity = identity(key, remembered);
        let mut claims = identity.claims("5f7c8ec7-4d8e-4b7e-9d43-ada");
        claims.tenant = Some("north".to_owned());
        claims.roles = vec!["user".to_owned(), "clinician".to_owned()];
        let token = identity.keys().sign(&claims).expect("there is a key");
        group.bench_function(name, |b| {
            b.iter(|| assert!(matches!(identity.verify(black_box(token.as_bytes())), Verdict::Valid(_))));
        });
    };
    bench("known", None, 100);
    bench("hs256", None, 0);
    for (name, key) in keys() {
        bench(name, Some(&key), 0);
    }
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
