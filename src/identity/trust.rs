//! Other issuers whose tokens count: `tokens.trust` in `gateway.yaml`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period};

use super::keyset::{ASYMMETRIC, KeySet};
use super::pem;
use super::rules::Rules;

/// An issuer whose tokens count beside our own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// Names the issuer in routes (`jwt: { trust: [name] }`), logs and metrics.
    pub name: String,
    /// What its tokens have in `iss`, to the letter.
    pub issuer: String,
    /// Whom its tokens have to be for (`aud`): one of these. Default: the audience of our own.
    #[serde(default)]
    pub audience: Option<Vec<String>>,
    /// Where its keys are: a URL, or a file with a JWK set.
    pub jwks: String,
    /// The algorithms that count: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA. Default
    /// `[RS256, ES256, EdDSA]`.
    #[serde(default)]
    pub algorithms: Option<Vec<String>>,
    /// The claim with the roles: its name, or a JSON pointer such as `/realm_access/roles`. Default `roles`.
    #[serde(default)]
    pub roles_claim: Option<String>,
    /// The only roles that it may give. Without it, none: its people come in, as nobody in particular.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// The claim with the tenant: its name, or a JSON pointer. Default `tenant`.
    #[serde(default)]
    pub tenant_claim: Option<String>,
    /// The tenant that all its subjects count for, whatever the token says.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Put before its subjects, so that they can't be taken for those of another issuer: `"clinic:"`.
    #[serde(default)]
    pub subject_prefix: String,
    /// File with the authorities, in PEM, that sign for the server with its keys. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Whether its keys may be fetched in the clear from elsewhere than this machine. Anybody who can change what is
    /// sent in the clear can sign tokens.
    #[serde(default)]
    pub allow_http: bool,
    /// The least time between two fetches that tokens cause which name an unknown key, or which no known key signed.
    /// Default 30s.
    #[serde(default)]
    pub refetch_after: Option<Period>,
    /// How long keys count after the last time that they could be fetched. Default 24h.
    #[serde(default)]
    pub stale: Option<Period>,
}

/// A compiled issuer.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) name: Arc<str>,
    pub(super) rules: Rules,
    pub(super) source: Source,
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// They are known.
    Known(KeySet),
    /// They are fetched.
    Fetched(Fetch),
}

/// How keys are fetched. Two that are equal have the same keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fetch {
    pub(super) name: Arc<str>,
    pub(super) url: Url,
    pub(super) ca: Option<Vec<u8>>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) refetch_after: Duration,
    pub(super) stale: Duration,
}

impl TrustConfig {
    /// Reports every fault; `None` if it can't be used.
    pub(super) fn compile(
        &self,
        (audience, leeway): (&[String], u64),
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Trust> {
        if self.name.is_empty() || !self.name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it)) {
            diagnostics.error(&at.key("name"), "not a name for an issuer").help("letters, digits, `-`, `_` and `.`");
        }
        if self.issuer.is_empty() {
            diagnostics.error(&at.key("issuer"), "an empty issuer").help("write what its tokens have in `iss`");
        }
        if self.audience.as_ref().is_some_and(Vec::is_empty) {
            let diagnostic = diagnostics.error(&at.key("audience"), "an empty audience");
            diagnostic.help("leave it out for the audience of our own tokens");
        }
        let algorithms = self.algorithms(&at.key("algorithms"), diagnostics);
        let source = self.source(algorithms, at, diagnostics);
        let rules = Rules {
            issuer: self.issuer.as_str().into(),
            audience: self.audience.clone().unwrap_or_else(|| audience.to_vec()),
            audience_needed: true,
            leeway,
            roles_claim: self.roles_claim.clone().unwrap_or_else(|| "roles".to_owned()),
            tenant_claim: self.tenant_claim.clone().unwrap_or_else(|| "tenant".to_owned()),
            roles: Some(self.roles.clone().unwrap_or_default()),
            tenant: self.tenant.as_deref().map(Arc::from),
            subject_prefix: self.subject_prefix.clone(),
            own: false,
        };
        Some(Trust { name: self.name.as_str().into(), rules, source: source? })
    }

    fn algorithms(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<Algorithm> {
        let Some(written) = &self.algorithms else { return vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] };
        let mut algorithms = Vec::new();
        for (number, name) in written.iter().enumerate() {
            match ASYMMETRIC.iter().find(|(known, _)| known == name) {
                Some((_, algorithm)) => algorithms.push(*algorithm),
                None if name.starts_with("HS") => {
                    let message = format!("`{name}` can't be another issuer's");
                    let diagnostic = diagnostics.error(&at.index(number), message);
                    diagnostic.help("anybody who verifies such a token could make one: use an algorithm with two keys");
                }
                None => {
                    let diagnostic = diagnostics.error(&at.index(number), format!("no algorithm `{name}`"));
                    diagnostic.suggest(name, ASYMMETRIC.iter().map(|(name, _)| *name));
                }
            }
        }
        if written.is_empty() {
            diagnostics.error(at, "no algorithm counts").help("leave it out for RS256, ES256 and EdDSA");
        }
        algorithms
    }

    fn source(&self, algorithms: Vec<Algorithm>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Source> {
        let ca = self.ca.as_deref().map(|path| authorities(path, &at.key("ca"), diagnostics));
        let place = at.key("jwks");
        if !self.jwks.contains("://") {
            let path = PathBuf::from(&self.jwks);
            let keys = pem::read(&path).and_then(|text| {
                let wrong = |why| format!("`{}` holds no JWK set: {why}", path.display());
                KeySet::parse(&text, &algorithms).map_err(wrong)
            });
            let keys = keys.map_err(|message| {
                diagnostics.error(&place, message).help("a readable JWK set with a key of these algorithms is needed")
            });
            return keys.ok().map(Source::Known);
        }
        let url = self.url(&place, diagnostics)?;
        Some(Source::Fetched(Fetch {
            name: self.name.as_str().into(),
            url,
            ca: ca.flatten(),
            algorithms,
            refetch_after: self
                .refetch_after
                .map_or(Duration::from_secs(30), |it| it.0.max(Duration::from_millis(100))),
            stale: self.stale.map_or(Duration::from_secs(24 * 3600), |it| it.0),
        }))
    }

    fn url(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Url> {
        let Ok(url) = self.jwks.parse::<Url>() else {
            diagnostics.error(at, "not a URL").help("write it as https://id.example.org/jwks");
            return None;
        };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
        match url.scheme() {
            "https" => {}
            "http" if here || self.allow_http => {}
            "http" => {
                let message = "keys in the clear: anybody who can change them can sign tokens";
                diagnostics.error(at, message).help("fetch them over https, or set allow_http: true");
            }
            _ => diagnostics.error(at, "neither https nor http").help("write it as https://id.example.org/jwks"),
        }
        Some(url)
    }

    /// The files that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let jwks = (!self.jwks.contains("://")).then(|| PathBuf::from(&self.jwks));
        jwks.into_iter().chain(self.ca.clone())
    }
}

fn authorities(path: &Path, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<u8>> {
    let read = pem::read(path).and_then(|text| {
        let wrong = |_| format!("`{}` holds no authority in PEM", path.display());
        let found = reqwest::Certificate::from_pem_bundle(&text).map_err(wrong)?;
        if found.is_empty() { Err(format!("`{}` holds no authority in PEM", path.display())) } else { Ok(text) }
    });
    read.map_err(|message| diagnostics.error(at, message).help("a readable PEM file is needed")).ok()
}
