//! What others need in order to verify our tokens (RFC 7517, OpenID Connect Discovery 1.0).

use axum::body::Body;
use http::header::{CACHE_CONTROL, HOST, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::services::auth::{Inner, json};

/// A key that is about to sign is published this much earlier, at least.
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=300");

impl Inner {
    /// `GET /.well-known/jwks.json`: public halves only.
    pub(super) fn jwks(&self) -> Response<Body> {
        kept(&self.identity.keys().jwks())
    }

    /// `GET /.well-known/openid-configuration`.
    pub(super) fn metadata(&self, head: &Parts) -> Response<Body> {
        let keys = self.identity.keys();
        let base = base(keys.issuer(), head);
        let jwks = keys.jwks();
        let algorithms: Vec<&Value> = jwks["keys"].as_array().into_iter().flatten().map(|it| &it["alg"]).collect();
        kept(&json!({
            "issuer": keys.issuer(),
            "jwks_uri": format!("{base}/.well-known/jwks.json"),
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "claims_supported": ["iss", "aud", "sub", "tenant", "roles", "scope", "jti", "sid", "iat", "nbf", "exp"],
        }))
    }
}

/// An issuer that is a URL is where it says; else we are where the client found us.
fn base(issuer: &str, head: &Parts) -> String {
    if issuer.starts_with("https://") || issuer.starts_with("http://") {
        return issuer.trim_end_matches('/').to_owned();
    }
    let field = |name: &str| head.headers.get(name).and_then(|it| it.to_str().ok());
    let host = field("x-forwarded-host").or_else(|| field(HOST.as_str())).unwrap_or("localhost");
    format!("{}://{host}", field("x-forwarded-proto").unwrap_or("http"))
}

fn kept(body: &Value) -> Response<Body> {
    let mut answer = json(StatusCode::OK, body);
    answer.headers_mut().insert(CACHE_CONTROL, KEEP);
    answer
}
