//! Authenticates the caller (R4.2, R7.2, PX-2): finds the credential, has it verified, and sends the upstream the
//! identity headers.
//!
//! What a credential proves is the identity room's business; here is where it stands in a request. Whatever goes
//! wrong on the way denies.

mod config;
mod credentials;
mod identity_headers;

use std::sync::Arc;

use http::Method;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN, UPGRADE};
use pingora::http::RequestHeader;

use crate::base::{At, Diagnostics, unix_seconds};
use crate::identity::{
    AuthError, CertificateRules, ClientCertificate, Identity, IssuerId, Kind, Principal, TokenError, Verdict, Verified,
    is_api_key,
};
use crate::pipeline::{Context, Exchange, Filter, Missing, Refusal, RequestContext, Scope, Step};

use super::rbac::Rbac;
use super::settings::{Activation, BuiltIn, Layer};
use credentials::{API_KEY, Place, Places, drop_cookie, drop_parameter};

pub(super) use identity_headers::fields as identity_fields;

pub use config::{
    ApiKeyConfig, AuthConfig, CookieConfig, HeaderWord, JwtConfig, QueryConfig, RolesFrom, ServiceTokenConfig,
    SourceConfig,
};

/// The name of ourselves among issuers.
const OWN: &str = "own";
/// Why no token counts where none can be verified.
const NO_KEY: (&str, &str) = ("no_key", "no token counts here: the gateway has no key that could verify one");

/// A compiled `auth` section.
pub struct Auth {
    /// Who is who; nobody before the route serves.
    identity: Option<Arc<Identity>>,
    /// What the caller may have to be permitted.
    rbac: Option<Rbac>,
    /// Whose tokens count.
    jwt: Option<Issuers>,
    service_token: bool,
    mtls: Option<Arc<CertificateRules>>,
    places: Places,
    optional: bool,
    roles_from_account: bool,
    forward: bool,
    challenge: &'static str,
    /// Which credentials are looked for, and where, in words.
    accepted: Arc<str>,
    /// Whether any key could verify a token.
    has_keys: bool,
}

#[derive(Clone, Debug)]
enum Issuers {
    All,
    /// Whether ourselves, and which others.
    These(bool, Vec<Arc<str>>),
}

impl Issuers {
    fn hold(&self, issuer: &IssuerId) -> bool {
        match (self, issuer) {
            (Self::All, _) => true,
            (Self::These(own, _), IssuerId::Own) => *own,
            (Self::These(_, others), IssuerId::Trusted(name)) => others.contains(name),
        }
    }
}

impl Filter for Auth {
    const NAME: &'static str = "auth";
    const SUMMARY: &'static str = "Authenticates the caller, and checks what they may do.";
    type Config = AuthConfig;

    /// Reports every fault; `None` if everybody may call.
    fn compile(config: &AuthConfig, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let AuthConfig { open, jwt, api_key, service_token, mtls, optional, from, roles_from, forward, .. } = config;
        let asks = jwt.is_some() || api_key.is_some() || service_token.is_some() || mtls.is_some();
        if *open && (asks || *config != (AuthConfig { open: true, ..AuthConfig::default() })) {
            let diagnostic = diagnostics.error(&at.key("open"), "open, and yet a credential is required");
            diagnostic.help("`open: true` stands alone");
        }
        let rbac = Rbac::compile(config, scope.roles, at, diagnostics);
        if *open {
            return None;
        }
        if !asks {
            let diagnostic = diagnostics.error(at, "no credential is named that counts");
            diagnostic.help("name at least one of jwt, api_key, service_token and mtls; or write `open: true`");
        }
        let needs = !config.roles.is_empty() || !config.permissions.is_empty() || !config.scopes.is_empty();
        if *optional && needs {
            let diagnostic =
                diagnostics.error(&at.key("optional"), "an anonymous caller has no role, permission or scope");
            diagnostic.help("leave out `optional`, or what is required of the caller");
        }
        let bearer = jwt.is_some() || api_key.is_some() || service_token.is_some();
        let mut places = Places::compile(from.as_deref(), &at.key("from"), diagnostics);
        places.api_key = api_key.is_some();
        if !bearer {
            // What stands in `Authorization` is not for the gateway.
            places = Places::default();
        }
        let tokens = jwt.is_some() || service_token.is_some();
        let accepted = places.accepted(tokens, mtls.is_some()).into();
        let has_keys = own_or_others(config, scope, at, diagnostics);
        Some(Self {
            identity: None,
            rbac,
            accepted,
            has_keys,
            jwt: jwt.as_ref().map(|it| trusted(it, scope.issuers, &at.key("jwt"), diagnostics)),
            service_token: service_token.is_some(),
            mtls: mtls.as_ref().map(|it| Arc::new(CertificateRules::compile(it, &at.key("mtls"), diagnostics))),
            places,
            optional: *optional,
            roles_from_account: *roles_from == Some(RolesFrom::Account),
            forward: forward.unwrap_or(true),
            challenge: if bearer { "Bearer realm=\"moongate\"" } else { "Certificate realm=\"moongate\"" },
        })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        let RequestContext { exchange, request, certificate, .. } = context;
        self.identify(certificate.as_ref(), exchange, request).await?;
        match &self.rbac {
            Some(rbac) => Ok(rbac.check(exchange)?),
            None => Ok(()),
        }
    }
}

impl BuiltIn for Auth {
    /// The last layer's, as a whole: halves of two could let a caller in whom neither means.
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a AuthConfig> {
        layer.settings.auth.as_ref()
    }

    fn activate(&mut self, activation: &Activation<'_>) {
        self.identity = Some(activation.identity.clone());
    }
}

impl Auth {
    /// Whether those pass who prove nothing.
    pub fn lets_everybody_pass(&self) -> bool {
        self.optional
    }

    /// Whether it may need the store.
    pub fn needs_store(&self) -> bool {
        self.places.api_key || self.roles_from_account
    }

    /// From here on `exchange.principal` is known.
    ///
    /// # Errors
    /// When it is not: nobody passes then.
    async fn identify(
        &self,
        certificate: Option<&Arc<ClientCertificate>>,
        exchange: &mut Exchange,
        request: &mut RequestHeader,
    ) -> Result<(), Refusal> {
        let Some(identity) = &self.identity else { return Err(Refusal::IdentityUnavailable) };
        let found = self.places.find(request)?;
        let place = found.map(|(place, _)| place);
        let page = exchange.origin.as_ref().is_some_and(|it| it.allowed);
        if place == Some(Place::Cookie) && !may_use_cookie(request, exchange, page) {
            return Err(other_origin());
        }
        let verified = match found {
            Some((place, credential)) => self.verify(identity, place, credential).await,
            None => match self.certified(certificate) {
                Some(principal) => principal.map_err(AuthError::Invalid),
                None if self.optional => {
                    self.hide(None, request);
                    return Ok(());
                }
                None => return Err(self.unauthorized(None)),
            },
        };
        let principal = verified.map_err(|error| match error {
            AuthError::Invalid(error) => self.unauthorized(Some(error)),
            AuthError::Unavailable => Refusal::IdentityUnavailable,
        })?;
        self.hide(place, request);
        exchange.identity_headers = Some(
            identity
                .identity_headers(&principal, |identity_token| identity_headers::fields(&principal, identity_token)),
        );
        exchange.principal = Some(principal);
        exchange.verified_field = place.and_then(Place::field);
        Ok(())
    }

    /// Whom the credential proves. What has to be waited for is waited for in a future of its own, so that the
    /// ordinary request carries nothing of it.
    async fn verify(&self, identity: &Identity, place: Place, credential: &[u8]) -> Result<Arc<Principal>, AuthError> {
        if self.places.api_key && (place == Place::ApiKey || is_api_key(credential)) {
            return match identity.verify_api_key(credential) {
                Some(verified) => verified,
                None => Box::pin(identity.look_up_api_key(credential)).await,
            };
        }
        let verified = match identity.verify(credential) {
            Verdict::Valid(verified) => verified,
            Verdict::Invalid(error) => return Err(AuthError::Invalid(error)),
            Verdict::KeysMissing(_) => Box::pin(identity.verify_with_fetch(credential)).await?,
        };
        self.counts(&verified).map_err(AuthError::Invalid)?;
        let principal = &verified.principal;
        if !self.roles_from_account || verified.issuer != IssuerId::Own || principal.kind != Kind::User {
            return Ok(principal.clone());
        }
        match identity.with_account(principal) {
            Some(verified) => verified,
            None => Box::pin(identity.look_up_account(principal)).await,
        }
    }

    /// Whether a good token counts on this route.
    fn counts(&self, verified: &Verified) -> Result<(), TokenError> {
        if self.jwt.as_ref().is_some_and(|it| it.hold(&verified.issuer)) {
            return Ok(());
        }
        match verified.principal.kind {
            Kind::Service if self.service_token => Ok(()),
            _ if self.jwt.is_none() && self.service_token => Err(TokenError::NotAService),
            _ => Err(TokenError::Untrusted),
        }
    }

    fn certified(&self, certificate: Option<&Arc<ClientCertificate>>) -> Option<Result<Arc<Principal>, TokenError>> {
        Some(certificate?.principal(self.mtls.as_ref()?, unix_seconds()))
    }

    fn unauthorized(&self, error: Option<TokenError>) -> Refusal {
        let accepted = self.accepted.clone();
        let why = error.map(|it| match it {
            TokenError::Issuer | TokenError::Key if !self.has_keys => NO_KEY,
            it => (it.as_str(), it.reason()),
        });
        Refusal::Unauthorized { challenge: self.challenge.to_owned(), why, accepted }
    }

    /// Takes out of the request what the upstream is not to have.
    fn hide(&self, place: Option<Place>, request: &mut RequestHeader) {
        if let Some(name) = &self.places.query {
            drop_parameter(request, name);
        }
        if self.forward {
            return;
        }
        match (place, &self.places.cookie) {
            (Some(Place::Header), _) => drop(request.remove_header(&AUTHORIZATION)),
            (Some(Place::ApiKey), _) => drop(request.remove_header(&API_KEY)),
            (Some(Place::Cookie), Some(name)) => drop_cookie(request, name),
            _ => {}
        }
    }
}

/// Whether any key could verify a token; a warning if there is none. Where that is not known, there may be one.
fn own_or_others(config: &AuthConfig, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> bool {
    let none = scope.own_key == Some(false) && scope.issuers.is_some_and(<[_]>::is_empty);
    let written = [("jwt", config.jwt.is_some()), ("service_token", config.service_token.is_some())];
    for (key, _) in written.iter().filter(|it| none && it.1) {
        diagnostics
            .warn(&at.key(key), "no token can count: there is no key that could verify one")
            .help("set `tokens: { hs256_secret: \"${PROXY_JWT_SECRET}\" }` in gateway.yaml, or name issuers in `tokens.trust`");
    }
    !none
}

fn trusted(config: &JwtConfig, issuers: Option<&[String]>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Issuers {
    let Some(names) = &config.trust else { return Issuers::All };
    let list = at.key("trust");
    if names.is_empty() {
        diagnostics.error(&list, "no issuer counts").help("leave it out for all of them");
    }
    let others = names.iter().filter(|it| *it != OWN);
    for (number, name) in names.iter().enumerate().filter(|(_, it)| *it != OWN) {
        if issuers.is_some_and(|it| !it.contains(name)) {
            let diagnostic = diagnostics.error(&list.index(number), format!("no issuer `{name}` in tokens.trust"));
            let known = issuers.iter().flat_map(|it| it.iter()).map(String::as_str);
            diagnostic.suggest(name, known.chain([OWN]));
        }
    }
    Issuers::These(names.iter().any(|it| it == OWN), others.map(|it| it.as_str().into()).collect())
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A page of this origin, and the user themselves.
const OWN_SITES: [&[u8]; 2] = [b"same-origin", b"none"];

/// Browsers send cookies along with the requests of any page. Reading is guarded by CORS; for everything else, and for
/// a WebSocket, which CORS does not guard, the page has to be of this origin or of one that may call.
fn may_use_cookie(request: &RequestHeader, context: &Context, page_may_call: bool) -> bool {
    let safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if safe && !request.headers.contains_key(UPGRADE) && request.method != Method::CONNECT {
        return true;
    }
    let mut origins = request.headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        // Old browsers leave Origin out; what sent it, they may say all the same (Fetch Metadata, section 2.3).
        (None, _) => request.headers.get_all(SEC_FETCH_SITE).iter().all(|it| OWN_SITES.contains(&it.as_bytes())),
        (Some(origin), None) => page_may_call || same_origin(origin, request, context),
        // A page has one (RFC 6454, section 7.3): who could say which of them counts?
        (Some(_), Some(_)) => false,
    }
}

/// Scheme, host and port (RFC 6454, section 5), by which the client came to us or to a trusted proxy. The request's
/// host is in its normal form, and has no port that goes without saying, as in an origin.
fn same_origin(origin: &HeaderValue, request: &RequestHeader, context: &Context) -> bool {
    let Some((scheme, origin)) = origin.to_str().ok().and_then(|it| it.split_once("://")) else { return false };
    let host = request.headers.get(HOST).and_then(|it| it.to_str().ok());
    let Some(host) = host.or_else(|| request.uri.authority().map(|it| it.as_str())) else { return false };
    let port = context.proxied.as_ref().and_then(|it| it.port.as_ref()?.to_str().ok());
    let with_port = |port: &str| origin.strip_suffix(port).and_then(|it| it.strip_suffix(':'));
    scheme.eq_ignore_ascii_case(context.scheme.as_str())
        && (origin.eq_ignore_ascii_case(host)
            || port.and_then(with_port).is_some_and(|it| it.eq_ignore_ascii_case(host)))
}

fn other_origin() -> Refusal {
    let sentence = "a page of another origin may not use this cookie".to_owned();
    Refusal::Forbidden(Box::new(Missing { sentence, ..Missing::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Proxied, Scheme};

    #[track_caller]
    fn check(yaml: &str, paths: &[&str]) {
        let mut diagnostics = Diagnostics::default();
        let config: AuthConfig = serde_yaml::from_str(yaml).unwrap();
        let issuers = ["clinic".to_owned()];
        let scope = Scope { issuers: Some(&issuers), ..Scope::nowhere() };
        Auth::compile(&config, &scope, &At::ROOT, &mut diagnostics);
        let is: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(is, paths, "{yaml}: {diagnostics:#?}");
    }

    #[test]
    fn what_can_not_be_meant_is_reported() {
        check("{ jwt: {} }", &[]);
        check("{ open: true }", &[]);
        check("{ jwt: { trust: [own, clinic] }, from: [header, { cookie: session }, { query: token }] }", &[]);
        check("{}", &[""]);
        check("{ roles: [admin] }", &[""]);
        check("{ open: true, jwt: {} }", &["/open"]);
        check("{ open: true, roles: [admin] }", &["/open"]);
        check("{ jwt: { trust: [] } }", &["/jwt/trust"]);
        check("{ jwt: { trust: [clinci] } }", &["/jwt/trust/0"]);
        check("{ jwt: {}, optional: true, scopes: [bench] }", &["/optional"]);
        check("{ jwt: {}, from: [header, header, { cookie: 'a b' }] }", &["/from/1", "/from/2/cookie"]);
        check("{ jwt: {}, from: [] }", &["/from"]);
        check("{ mtls: { names: ['*'] } }", &["/mtls/names/0"]);
    }

    #[test]
    fn a_cookie_is_no_credential_for_pages_of_other_origins() {
        let check = |method: &str, fields: &[(&'static str, &str)], may: bool| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            for (name, value) in fields {
                request.append_header(*name, *value).unwrap();
            }
            let page_may_call = fields.contains(&("origin", "https://app.tta"));
            let mut context = Context::new([192, 0, 2, 7].into(), Scheme::Https);
            context.proxied = Some(Arc::new(Proxied { port: Some(HeaderValue::from_static("8443")), prefix: None }));
            assert_eq!(may_use_cookie(&request, &context, page_may_call), may, "{method} {fields:?}");
        };
        let evil = ("origin", "https://evil.example");
        check("GET", &[evil], true);
        check("POST", &[], true);
        for (site, may) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false), ("", false)]
        {
            check("POST", &[("sec-fetch-site", site)], may);
            check("GET", &[("sec-fetch-site", site)], true);
            check("GET", &[("sec-fetch-site", site), ("upgrade", "websocket")], may);
        }
        check("POST", &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false);
        check("POST", &[("origin", "https://app.tta"), ("sec-fetch-site", "cross-site")], true);
        check("POST", &[evil, ("host", "gateway.tta")], false);
        check("POST", &[("origin", "null")], false);
        let host = ("host", "gateway.tta");
        check("POST", &[("origin", "https://Gateway.tta"), host], true);
        check("POST", &[("origin", "https://gateway.tta:8443"), host], true);
        check("POST", &[("origin", "http://gateway.tta"), host], false);
        check("POST", &[("origin", "https://gateway.tta:8444"), host], false);
        check("POST", &[("origin", "https://gateway.tta"), evil, host], false);
        check("POST", &[("origin", "https://app.tta"), evil, host], false);
        check("POST", &[("origin", "https://app.tta"), ("host", "gateway.tta")], true);
        check("GET", &[evil, ("upgrade", "websocket")], false);
        check("GET", &[("upgrade", "websocket")], true);
    }
}
