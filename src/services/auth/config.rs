//! The `auth` section of gateway.yaml.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Secret};
use crate::services::auth::accounts::{ROLE_RULE, ROLES_MAX, is_role, is_scope};

/// How the local service `auth` lets people in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// What tokens of `POST /api/v1/session/token` are good for.
    pub session_token: SessionTokenConfig,
    /// Providers of identities (OpenID Connect) that people sign in with, by name.
    pub oidc: BTreeMap<String, OidcConfig>,
}

/// What tokens of `POST /api/v1/session/token` are good for. Any client gets one: nothing, unless it
/// is written here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SessionTokenConfig {
    /// Their roles.
    pub roles: Vec<String>,
    /// Their scopes.
    pub scopes: Vec<String>,
}

/// A provider of identities (OpenID Connect): authorization code with PKCE.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Its URL; what it says about itself is under `/.well-known/openid-configuration` there.
    pub issuer: String,
    /// The name that it knows us by.
    pub client_id: String,
    /// What proves to it that it is us: `"secret:NAME"` or `"${NAME}"`. Without it, PKCE alone.
    #[serde(default)]
    pub client_secret: Option<Secret>,
    /// Where it sends people back to: the URL of `/api/v1/auth/oidc/{name}/callback` as browsers reach it.
    pub redirect_uri: String,
    /// What is requested of it, beside `openid`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The claim of the ID token with the roles: its name, or a JSON pointer. Default `roles`.
    #[serde(default)]
    pub roles_claim: Option<String>,
    /// The only roles that it may give. Default: those of `default_roles`.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// The roles of those for whom it names none that counts.
    #[serde(default)]
    pub default_roles: Vec<String>,
    /// The tenant that all who come from there count for.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The algorithms that count for its ID tokens. Default `[RS256, ES256, EdDSA]`.
    #[serde(default)]
    pub algorithms: Option<Vec<String>>,
    /// File with the authorities, in PEM, that sign for its server. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// What the subjects of session tokens begin with, as those of a provider's people do with its name.
pub(super) const SESSION_SUBJECT: &str = "client";

/// A compiled `auth` section.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub(super) session: SessionTokenConfig,
    pub(super) providers: BTreeMap<String, Arc<ProviderRules>>,
}

/// A compiled provider.
#[derive(Clone, Debug)]
pub(super) struct ProviderRules {
    pub(super) name: String,
    pub(super) issuer: Url,
    pub(super) redirect: Url,
    /// The authorities that sign for its server, in PEM.
    pub(super) ca: Option<Vec<u8>>,
    pub(super) written: OidcConfig,
}

impl AuthConfig {
    /// The roles that session tokens have and that providers may give.
    pub fn given_roles(&self) -> Vec<String> {
        let of_provider = |it: &OidcConfig| [it.roles.clone().unwrap_or_default(), it.default_roles.clone()].concat();
        let provided = self.oidc.values().flat_map(of_provider);
        self.session_token.roles.iter().cloned().chain(provided).collect()
    }

    /// Reports every fault at its place.
    pub fn compile(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Rules {
        let session = at.key("session_token");
        check_roles(&self.session_token.roles, &session.key("roles"), diagnostics);
        let scopes = session.key("scopes");
        for (number, scope) in self.session_token.scopes.iter().enumerate().filter(|(_, it)| !is_scope(it)) {
            let diagnostic = diagnostics.error(&scopes.index(number), format!("`{scope}` is not a scope"));
            diagnostic.help("letters, digits and `-_.:/`, at most 64");
        }
        let list = at.key("oidc");
        let mut providers = BTreeMap::new();
        for (name, written) in &self.oidc {
            let at = list.key(name);
            if !is_role(name) {
                diagnostics.error_at_key(&at, "not a name for a provider").help(ROLE_RULE);
            }
            if name == SESSION_SUBJECT {
                let diagnostic = diagnostics.error_at_key(&at, "this name stands for the bearers of session tokens");
                diagnostic.help("people from there could be taken for them: choose another name");
            }
            if let Some(rules) = written.compile(name, &at, diagnostics) {
                providers.insert(name.clone(), Arc::new(rules));
            }
        }
        Rules { session: self.session_token.clone(), providers }
    }
}

impl OidcConfig {
    fn compile(&self, name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<ProviderRules> {
        if self.client_id.is_empty() {
            diagnostics.error(&at.key("client_id"), "an empty name");
        }
        check_roles(self.roles.as_deref().unwrap_or_default(), &at.key("roles"), diagnostics);
        check_roles(&self.default_roles, &at.key("default_roles"), diagnostics);
        if self.tenant.as_deref().is_some_and(|it| !is_role(it)) {
            diagnostics.error(&at.key("tenant"), "not a tenant").help(ROLE_RULE);
        }
        let ca = self.ca.as_ref().and_then(|path| match std::fs::read(path) {
            Ok(pem) => Some(pem),
            Err(error) => {
                diagnostics.error(&at.key("ca"), format!("`{}` can't be read: {error}", path.display()));
                None
            }
        });
        let issuer = url(&self.issuer, &at.key("issuer"), diagnostics);
        let redirect = url(&self.redirect_uri, &at.key("redirect_uri"), diagnostics);
        let callback = format!("/api/v1/auth/oidc/{name}/callback");
        if redirect.as_ref().is_some_and(|it| !it.path().ends_with(&callback)) {
            let diagnostic = diagnostics.error(&at.key("redirect_uri"), "no route of the gateway is at this address");
            diagnostic.help(format!("its path has to end in {callback}"));
        }
        Some(ProviderRules { name: name.to_owned(), issuer: issuer?, redirect: redirect?, ca, written: self.clone() })
    }
}

fn check_roles(roles: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) {
    if roles.len() > ROLES_MAX {
        diagnostics.error(at, format!("more than {ROLES_MAX} roles"));
    }
    for (number, role) in roles.iter().enumerate().filter(|(_, it)| !is_role(it)) {
        diagnostics.error(&at.index(number), format!("`{role}` is not a role")).help(ROLE_RULE);
    }
}

/// Codes and secrets go there: in the clear only on this machine.
fn url(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Url> {
    let Ok(url) = text.parse::<Url>() else {
        diagnostics.error(at, "not a URL").help("write it as https://id.example.org");
        return None;
    };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
    if url.scheme() != "https" && !(url.scheme() == "http" && here) {
        diagnostics.error(at, "people would sign in in the clear").help("write it with https://");
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_provider_has_its_place() {
        let yaml = "
            session_token: { roles: ['a b'], scopes: ['x y'] }
            oidc:
                clinic: { issuer: 'http://id.example.org', client_id: '', redirect_uri: 'https://g/elsewhere',
                          default_roles: ['?'], tenant: 'a b', ca: /nowhere }
                client: { issuer: 'https://id', client_id: x,
                          redirect_uri: 'https://g/api/v1/auth/oidc/client/callback' }
                'a:b': { issuer: 'nonsense', client_id: x, redirect_uri: 'https://g/api/v1/auth/oidc/a:b/callback' }";
        let config: AuthConfig = serde_yaml::from_str(yaml).unwrap();
        let mut diagnostics = Diagnostics::default();
        config.compile(&At::ROOT, &mut diagnostics);
        let mut paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        paths.sort_unstable();
        let expected = [
            "/oidc/a:b",
            "/oidc/a:b/issuer",
            "/oidc/client",
            "/oidc/clinic/ca",
            "/oidc/clinic/client_id",
            "/oidc/clinic/default_roles/0",
            "/oidc/clinic/issuer",
            "/oidc/clinic/redirect_uri",
            "/oidc/clinic/tenant",
            "/session_token/roles/0",
            "/session_token/scopes/0",
        ];
        assert_eq!(paths, expected);
    }
}
