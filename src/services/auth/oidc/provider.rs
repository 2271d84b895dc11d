//! One provider: what it says about itself, and what it says about people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{Certificate, Client, Method, StatusCode, Url};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::base::{At, Diagnostics};
use crate::identity::{AuthError, Identity, TokensConfig, TrustConfig};
use crate::services::auth::config::ProviderRules;
use crate::services::auth::fault::Fault;

/// For one question.
const ASK_TIME: Duration = Duration::from_secs(5);
/// The largest answer in bytes.
const ANSWER_MAX: usize = 256 * 1024;
/// How long what a provider says about itself is taken for true.
const KNOWN_LIFE: Duration = Duration::from_secs(3600);
/// How long it is not called again after it could not be: many wait for one answer.
const FAILURE_LIFE: Duration = Duration::from_secs(1);

/// One provider.
pub(super) struct Provider {
    pub(super) rules: Arc<ProviderRules>,
    runtime: Handle,
    memory: Mutex<Memory>,
}

/// What is remembered of what it said about itself.
#[derive(Default)]
struct Memory {
    known: Option<Arc<Known>>,
    /// When it is called again.
    until: Option<Instant>,
}

/// What a provider says about itself (OpenID Connect Discovery 1.0, section 3).
pub(super) struct Known {
    pub(super) authorization: Url,
    token: Url,
    /// Whether it takes our secret in a header field.
    basic: bool,
    /// Verifies its ID tokens and nothing else: they are no tokens for what stands behind the gateway.
    id_tokens: Arc<Identity>,
}

/// A user that it has signed in.
pub(super) struct Person {
    pub(super) subject: String,
    pub(super) roles: Vec<String>,
}

impl Provider {
    pub(super) fn new(rules: Arc<ProviderRules>, runtime: Handle) -> Self {
        Self { rules, runtime, memory: Mutex::default() }
    }

    /// The issuer as its tokens name it.
    pub(super) fn issuer(&self) -> &str {
        self.rules.written.issuer.trim_end_matches('/')
    }

    pub(super) fn scope(&self) -> String {
        let mut scope = "openid".to_owned();
        for word in self.rules.written.scopes.iter().filter(|it| *it != "openid") {
            scope.push(' ');
            scope.push_str(word);
        }
        scope
    }

    /// What it says about itself, fetched once at a time; what it said before will do while it is down.
    pub(super) async fn known(&self) -> Result<Arc<Known>, Fault> {
        let mut memory = self.memory.lock().await;
        if memory.until.is_none_or(|it| Instant::now() >= it) {
            let life = match self.discover().await {
                Ok(fresh) => {
                    memory.known = Some(fresh);
                    KNOWN_LIFE
                }
                Err(why) => {
                    self.tell(&why);
                    FAILURE_LIFE
                }
            };
            memory.until = Some(Instant::now() + life);
        }
        memory.known.clone().ok_or(Fault::Provider)
    }

    async fn discover(&self) -> Result<Arc<Known>, String> {
        let place = format!("{}/.well-known/openid-configuration", self.issuer());
        let place = place.parse().map_err(|_| "its URL can't be one".to_owned())?;
        let (status, said) = self.ask(Method::GET, place, None, None).await?;
        if status != StatusCode::OK {
            return Err(format!("the status of what it says about itself is {}", status.as_u16()));
        }
        // Section 4.3: who says that it is somebody else is not the one we called.
        if said["issuer"].as_str() != Some(&*self.rules.written.issuer) {
            return Err("it says that it is another issuer".to_owned());
        }
        let url = |name: &str| -> Result<Url, String> {
            let url = said[name].as_str().and_then(|it| it.parse::<Url>().ok());
            // Never worse than the issuer itself: codes and secrets go there.
            let url = url.filter(|it| it.scheme() == "https" || it.scheme() == self.rules.issuer.scheme());
            url.ok_or_else(|| format!("its `{name}` is missing or can't be one"))
        };
        let methods = said["token_endpoint_auth_methods_supported"].as_array();
        let basic = methods.is_none_or(|it| it.iter().any(|it| it == "client_secret_basic"));
        let id_tokens = self.verify(url("jwks_uri")?.as_str())?;
        let known =
            Known { authorization: url("authorization_endpoint")?, token: url("token_endpoint")?, basic, id_tokens };
        Ok(Arc::new(known))
    }

    fn verify(&self, jwks: &str) -> Result<Arc<Identity>, String> {
        let written = &self.rules.written;
        let trust = TrustConfig {
            name: self.rules.name.clone(),
            issuer: written.issuer.clone(),
            audience: Some(vec![written.client_id.clone()]),
            jwks: jwks.to_owned(),
            algorithms: written.algorithms.clone(),
            roles_claim: written.roles_claim.clone(),
            roles: Some(written.roles.clone().unwrap_or_else(|| written.default_roles.clone())),
            ca: written.ca.clone(),
            ..TrustConfig::default()
        };
        // A token can't be shown twice: its code is good once.
        let config = TokensConfig { trust: vec![trust], remembered: Some(0), ..TokensConfig::default() };
        let mut diagnostics = Diagnostics::default();
        let tokens = config.compile(&At::ROOT, &mut diagnostics);
        if let Some(diagnostic) = diagnostics.iter().next() {
            return Err(diagnostic.message.clone());
        }
        let identity = Identity::begin(tokens);
        identity.start(&self.runtime);
        Ok(identity)
    }

    /// Who it says that has signed in: the code for an ID token, and that token looked at.
    pub(super) async fn person(&self, code: &str, verifier: &str, nonce: &str) -> Result<Person, Fault> {
        let known = self.known().await?;
        let token = self.id_token(&known, code, verifier).await?;
        let verified = match known.id_tokens.verify_with_fetch(token.as_bytes()).await {
            Ok(verified) => verified,
            Err(AuthError::Invalid(error)) => return Err(Fault::SignIn(error.reason())),
            Err(AuthError::Unavailable) => return Err(Fault::Provider),
        };
        let claims = claims(&token).ok_or(Fault::SignIn("the ID token is malformed"))?;
        check_meant(&claims, nonce, &self.rules.written.client_id)?;
        let mut roles: Vec<String> = verified.principal.roles.iter().map(|it| it.to_string()).collect();
        if roles.is_empty() {
            roles.clone_from(&self.rules.written.default_roles);
        }
        Ok(Person { subject: verified.principal.subject.to_string(), roles })
    }

    async fn id_token(&self, known: &Known, code: &str, verifier: &str) -> Result<String, Fault> {
        let written = &self.rules.written;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.rules.redirect.as_str()),
            ("code_verifier", verifier),
        ];
        let mut credentials = None;
        match &written.client_secret {
            // RFC 6749, section 2.3.1: both encoded as in a form first.
            Some(secret) if known.basic => {
                let pair = format!("{}:{}", encoded(&written.client_id), encoded(secret.expose()));
                credentials = Some(format!("Basic {}", STANDARD.encode(pair)));
            }
            Some(secret) => form.extend([("client_id", &*written.client_id), ("client_secret", secret.expose())]),
            None => form.push(("client_id", &written.client_id)),
        }
        let body = form.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        let body = body.collect::<Vec<_>>().join("&");
        let asked = self.ask(Method::POST, known.token.clone(), credentials, Some(body)).await;
        let (status, said) = asked.map_err(|why| {
            self.tell(&why);
            Fault::Provider
        })?;
        if status.is_client_error() {
            // One of the words of RFC 6749, section 5.2; anything else that it says may be what it was told.
            let word = |it: &&str| it.len() <= 64 && it.bytes().all(|it| it.is_ascii_lowercase() || it == b'_');
            let error = said["error"].as_str().filter(word).unwrap_or_default();
            tracing::warn!(event = "provider_refused_code", provider = %self.rules.name, error = %error);
            return Err(Fault::SignIn("the provider did not take the code"));
        }
        let token = said["id_token"].as_str().filter(|_| status == StatusCode::OK);
        token.map(str::to_owned).ok_or_else(|| {
            self.tell("there is no ID token in its answer");
            Fault::Provider
        })
    }

    /// Calls over the network, on a runtime that requests do not depend on.
    async fn ask(
        &self,
        method: Method,
        url: Url,
        credentials: Option<String>,
        form: Option<String>,
    ) -> Result<(StatusCode, Value), String> {
        let client = self.client().map_err(|error| error.to_string())?;
        let asked = async move {
            let mut request = client.request(method, url).header(ACCEPT, "application/json");
            if let Some(credentials) = credentials {
                request = request.header(AUTHORIZATION, credentials);
            }
            if let Some(form) = form {
                request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            }
            // What it says about a failure may name the URL, in which no code stands: it is in the body.
            let mut answer = request.send().await.map_err(|it| it.without_url().to_string())?;
            let status = answer.status();
            let mut body = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(|it| it.without_url().to_string())? {
                if body.len() + piece.len() > ANSWER_MAX {
                    return Err("its answer is too long".to_owned());
                }
                body.extend_from_slice(&piece);
            }
            Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        let bounded = tokio::time::timeout(ASK_TIME, asked);
        match self.runtime.spawn(bounded).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("it takes too long".to_owned()),
            Err(_) => Err("the gateway is stopping".to_owned()),
        }
    }

    /// Made anew for each question: they are rare, and the system's authorities may change.
    fn client(&self) -> reqwest::Result<Client> {
        // No redirect: codes and secrets go to the place that was named, not to one that it names.
        let builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(ASK_TIME / 2)
            .pool_max_idle_per_host(0)
            .no_proxy();
        let builder = match &self.rules.ca {
            Some(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem)?),
            None => builder,
        };
        builder.build()
    }

    fn tell(&self, why: &str) {
        tracing::warn!(event = "provider_failed", provider = %self.rules.name, reason = %why);
    }
}

/// Whether an ID token is the one that was requested, and for us (Core, sections 3.1.2.1 and 3.1.3.7).
fn check_meant(claims: &Value, nonce: &str, client: &str) -> Result<(), Fault> {
    if claims["nonce"].as_str() != Some(nonce) {
        return Err(Fault::SignIn("the ID token belongs to another sign-in"));
    }
    let party = claims["azp"].as_str();
    let several = claims["aud"].as_array().is_some_and(|it| it.len() > 1);
    if party.is_some_and(|it| it != client) || (several && party.is_none()) {
        return Err(Fault::SignIn("the ID token is for another client"));
    }
    Ok(())
}

/// The claims of a token whose signature was looked at.
fn claims(token: &str) -> Option<Value> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// As in a form, whatever the text is.
fn encoded(text: &str) -> String {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-._~".contains(&it);
    let escape = |it: u8| if plain(it) { char::from(it).to_string() } else { format!("%{it:02X}") };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn r4_5_an_id_token_is_of_this_sign_in_and_for_this_client() {
        let meant = |claims: Value| check_meant(&claims, "n", "us").is_ok();
        assert!(meant(json!({ "nonce": "n", "aud": "us" })));
        assert!(meant(json!({ "nonce": "n", "aud": ["us", "them"], "azp": "us" })));
        for wrong in [
            json!({ "aud": "us" }),
            json!({ "nonce": "m", "aud": "us" }),
            json!({ "nonce": null, "aud": "us" }),
            json!({ "nonce": "n", "aud": ["us", "them"] }),
            json!({ "nonce": "n", "aud": ["us", "them"], "azp": "them" }),
            json!({ "nonce": "n", "aud": "us", "azp": "them" }),
        ] {
            assert!(!meant(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn what_goes_into_a_form_is_encoded() {
        assert_eq!(encoded("a b&c=d%\u{e4}"), "a%20b%26c%3Dd%25%C3%A4");
    }
}
