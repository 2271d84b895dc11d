//! What others need in order to verify our tokens (RFC 7517, OpenID Connect Discovery 1.0).

use axum::body::Body;
use http::header::{CACHE_CONTROL, HOST, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::services::auth::{Asked, Inner, json};

/// A key that is about to sign is published this much earlier, at least.
const KEEP: HeaderValue = HeaderValue::from_static("public, max-age=300");

impl Inner {
    /// `GET /.well-known/jwks.json`: public halves only.
    pub(super) fn jwks(&self) -> Response<Body> {
        kept(&self.identity.keys().jwks())
    }

    /// `GET /.well-known/openid-configuration`.
    pub(super) fn metadata(&self, asked: &Asked) -> Response<Body> {
        let keys = self.identity.keys();
        let base = self.base(keys.issuer(), asked);
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

    /// Where we are: as configured; else where the client found us, if its route lists that host. A host that anybody
    /// can name is never repeated: then the place is relative to this document's own.
    fn base(&self, issuer: &str, asked: &Asked) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        if issuer.starts_with("https://") || issuer.starts_with("http://") {
            return issuer.trim_end_matches('/').to_owned();
        }
        let Asked { head, context, .. } = asked;
        let host = context.host_received.as_ref().or_else(|| head.headers.get(HOST)).and_then(|it| it.to_str().ok());
        match host.filter(|_| context.host_verified) {
            Some(host) => format!("{}://{host}", context.scheme.as_str()),
            None => String::new(),
        }
    }
}

fn kept(body: &Value) -> Response<Body> {
    let mut answer = json(StatusCode::OK, body);
    answer.headers_mut().insert(CACHE_CONTROL, KEEP);
    answer
}
