//! `moongate keys`: keys that sign tokens, and API keys of services.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::app::inspect::{columns, pretty};
use crate::app::prompt::{keeping, moment, with_store};
use crate::app::users::check_roles;
use crate::app::{Failure, Files, Format};
use crate::base::{At, Diagnostics, unix_seconds};
use crate::identity::TokensConfig;
use crate::services::auth::{MadeKey, NAME_RULE, ROLE_RULE, is_role, is_scope, is_user_name};
use crate::store::{ApiKey, NewApiKey};

/// What a new key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256.
    Es256,
    /// RSA of 3072 bits.
    Rs256,
}

/// An API key to make.
#[derive(Clone, Debug)]
pub struct NewApiKeyArgs {
    /// Whose it is.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// What it is limited to; none: not limited.
    pub scopes: Vec<String>,
    /// For whom it counts.
    pub tenant: Option<String>,
    /// How long it lives; `None` for ever.
    pub life: Option<Duration>,
}

/// `moongate keys new`: a private key in a new file that its owner alone can read. Tells its `kid`.
///
/// # Errors
/// When the file is there already or can't be written.
pub fn new_key(algorithm: Algorithm, out: &Path) -> Result<String, Failure> {
    let der = private_key(algorithm).ok_or_else(|| Failure("no key could be made".to_owned()))?;
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|it| std::str::from_utf8(it).ok()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    // Never over another key: tokens that it signed would count no more.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
    let written = file.and_then(|mut file| file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure(format!("{}: {error}", out.display())))?;
    let kid = kid(out).ok_or_else(|| Failure(format!("{} holds no key that can sign", out.display())))?;
    Ok(format!("{kid}\n"))
}

fn private_key(algorithm: Algorithm) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    match algorithm {
        Algorithm::EdDsa => Some(Ed25519KeyPair::generate_pkcs8v1(&random).ok()?.as_ref().to_vec()),
        Algorithm::Es256 => {
            let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            Some(key.ok()?.as_ref().to_vec())
        }
        Algorithm::Rs256 => {
            let key = RsaKeyPair::generate(KeySize::Rsa3072).ok()?;
            Some(AsDer::<Pkcs8V1Der<'_>>::as_der(&key).ok()?.as_ref().to_vec())
        }
    }
}

/// The name under which the gateway will publish the key.
fn kid(path: &Path) -> Option<String> {
    let config = TokensConfig { signing_key: Some(path.to_owned()), ..TokensConfig::default() };
    let mut diagnostics = Diagnostics::default();
    let jwks = config.compile(&At::ROOT, &mut diagnostics).keys().jwks();
    jwks["keys"][0]["kid"].as_str().map(str::to_owned)
}

/// `moongate keys api`: makes an API key and shows it, once.
///
/// # Errors
/// When a name, role or scope can't be one, or the store can't be reached.
pub fn add_api_key(files: &Files, args: NewApiKeyArgs) -> Result<String, Failure> {
    let keeping = keeping(&files.gateway)?;
    check(&args)?;
    check_roles(&args.roles, &keeping, &files.routes)?;
    let made = MadeKey::random().map_err(|it| Failure(it.to_string()))?;
    let expires = args.life.map(|it| now().saturating_add(i64::try_from(it.as_secs()).unwrap_or(i64::MAX)));
    let NewApiKeyArgs { name, roles, scopes, tenant, .. } = args;
    let until = expires.map_or_else(|| "for ever".to_owned(), |it| format!("until {}", moment(it)));
    let said = format!("API key {} of `{name}`, valid {until}, shown this once:\n{}\n", made.id, made.text.expose());
    let key = NewApiKey { id: made.id, name, hash: made.hash, roles, scopes, tenant, expires };
    with_store(&keeping, |store| async move { store.add_api_key(key).await })?;
    Ok(said)
}

fn check(args: &NewApiKeyArgs) -> Result<(), Failure> {
    if !is_user_name(&args.name) {
        return Err(Failure(format!("`{}` is not a name: {NAME_RULE}", args.name)));
    }
    if let Some(wrong) = args.scopes.iter().find(|it| !is_scope(it)) {
        return Err(Failure(format!("`{wrong}` is not a scope: letters, digits and `-_.:/`, at most 64")));
    }
    if args.tenant.as_deref().is_some_and(|it| !is_role(it)) {
        return Err(Failure(format!("not a tenant: {ROLE_RULE}")));
    }
    Ok(())
}

/// `moongate keys list`: the API keys, without the keys.
///
/// # Errors
/// When the store can't be reached.
pub fn api_keys(gateway: &Path, format: Format) -> Result<String, Failure> {
    let keys = with_store(&keeping(gateway)?, |store| async move { store.api_keys().await })?;
    if format == Format::Json {
        let shown = keys.iter().map(|it| {
            json!({
                "id": it.id, "name": it.name, "roles": it.roles, "scopes": it.scopes, "tenant": it.tenant,
                "state": state(it), "created": moment(it.created), "expires": it.expires.map(moment),
            })
        });
        return Ok(pretty(&shown.collect()));
    }
    let mut rows = vec![["ID", "NAME", "ROLES", "SCOPES", "TENANT", "STATE", "EXPIRES"].map(str::to_owned)];
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    for key in keys {
        let state = state(&key).to_owned();
        let expires = key.expires.map_or_else(|| "never".to_owned(), moment);
        let (roles, scopes) = (or_dash(key.roles.join(",")), or_dash(key.scopes.join(",")));
        rows.push([key.id, key.name, roles, scopes, or_dash(key.tenant.unwrap_or_default()), state, expires]);
    }
    Ok(columns(&rows))
}

fn state(key: &ApiKey) -> &'static str {
    match key {
        ApiKey { revoked: Some(_), .. } => "revoked",
        ApiKey { expires: Some(end), .. } if *end <= now() => "expired",
        _ => "active",
    }
}

/// `moongate keys revoke`.
///
/// # Errors
/// When there is none of this id, or the store can't be reached.
pub fn revoke_api_key(gateway: &Path, id: &str) -> Result<String, Failure> {
    let revoked = with_store(&keeping(gateway)?, |store| async move { store.revoke_api_key(id).await })?;
    if revoked {
        return Ok(format!("API key {id} is revoked\n"));
    }
    Err(Failure(format!("there is no API key {id}; see: moongate keys list")))
}

fn now() -> i64 {
    unix_seconds().try_into().unwrap_or(i64::MAX)
}
