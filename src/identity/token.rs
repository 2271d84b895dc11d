//! Takes a token apart, strictly: a signed JWT in compact form (RFC 7515, RFC 8725). What could be read in
//! two ways is not read at all, and nothing that the token says about its own key is believed.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::token_error::TokenError;
use crate::base::{JsonFault, unique_json};

/// The longest token in bytes.
pub(super) const TOKEN_MAX: usize = 8 * 1024;

/// The longest name of a key in bytes.
const KID_MAX: usize = 256;

/// A token whose signature has not been looked at: nothing in it is true yet.
#[derive(Debug)]
pub(super) struct Token<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// What was signed.
    pub(super) message: &'t [u8],
    /// In base64url.
    pub(super) signature: &'t str,
}

impl<'t> Token<'t> {
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::TooLong);
        }
        let text = std::str::from_utf8(token).map_err(|_| TokenError::NotCanonical)?;
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::NotThreeParts);
        };
        let (algorithm, kid) = read_header(&object(&decode(header)?)?)?;
        let claims = object(&decode(claims)?)?;
        decode(signature)?;
        let message = &token[..token.len() - signature.len() - 1];
        Ok(Self { algorithm, kid, claims, message, signature })
    }

    /// Who it says it is from.
    pub(super) fn issuer(&self) -> Result<Option<&str>, TokenError> {
        match self.claims.get("iss") {
            None => Ok(None),
            Some(Value::String(issuer)) => Ok(Some(issuer)),
            Some(_) => Err(TokenError::Malformed),
        }
    }
}

/// The decoder takes one form only: no padding, no bits left over, no other alphabet.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::NotCanonical)
}

/// An object without a name twice: a token that means two things means nothing.
fn object(text: &[u8]) -> Result<Map<String, Value>, TokenError> {
    match unique_json(text) {
        Ok(Value::Object(members)) => Ok(members),
        Err(JsonFault { twice: true, .. }) => Err(TokenError::Duplicate),
        Ok(_) | Err(_) => Err(TokenError::NotJson),
    }
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), TokenError> {
    if ["jwk", "jku", "x5u", "x5c"].iter().any(|it| header.contains_key(*it)) {
        return Err(TokenError::OwnKey);
    }
    // `b64` and `zip` change what was signed; an encrypted token and one within another are none of ours.
    if ["crit", "b64", "zip", "enc", "cty"].iter().any(|it| header.contains_key(*it)) {
        return Err(TokenError::Critical);
    }
    check_type(header.get("typ"))?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_MAX => Some(kid.clone()),
        Some(_) => return Err(TokenError::Malformed),
    };
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or(TokenError::Algorithm)?;
    let algorithm = Algorithm::from_str(algorithm).map_err(|_| TokenError::Algorithm)?;
    Ok((algorithm, kid))
}

/// A token for anything else than access, such as a logout token or the identity that upstreams get, is
/// signed by the same keys and says so here (RFC 8725, section 3.11).
fn check_type(typ: Option<&Value>) -> Result<(), TokenError> {
    let Some(typ) = typ else { return Ok(()) };
    let typ = typ.as_str().ok_or(TokenError::Type)?.to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "jwt" | "at+jwt" => Ok(()),
        _ => Err(TokenError::Type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    #[track_caller]
    fn check(header: &str, error: TokenError) {
        assert_eq!(Token::parse(token(header, "{}").as_bytes()).err(), Some(error), "{header}");
    }

    #[test]
    fn r4_2_a_header_that_asks_to_be_believed_is_not() {
        check(r#"{"alg":"none"}"#, TokenError::Algorithm);
        check(r#"{"alg":"NONE"}"#, TokenError::Algorithm);
        check(r#"{"alg":"hs256"}"#, TokenError::Algorithm);
        check(r#"{"alg":["HS256"]}"#, TokenError::Algorithm);
        check(r#"{}"#, TokenError::Algorithm);
        check(r#"{"alg":"RS256","jwk":{}}"#, TokenError::OwnKey);
        check(r#"{"alg":"RS256","jku":"https://evil.example/jwks"}"#, TokenError::OwnKey);
        check(r#"{"alg":"RS256","x5u":"https://evil.example/cert"}"#, TokenError::OwnKey);
        check(r#"{"alg":"RS256","x5c":["…"]}"#, TokenError::OwnKey);
        check(r#"{"alg":"RS256","crit":["exp"]}"#, TokenError::Critical);
        check(r#"{"alg":"RS256","crit":[]}"#, TokenError::Critical);
        check(r#"{"alg":"RS256","b64":false}"#, TokenError::Critical);
        check(r#"{"alg":"RS256","typ":"logout+jwt"}"#, TokenError::Type);
        check(r#"{"alg":"RS256","typ":7}"#, TokenError::Type);
        check(r#"{"alg":"RS256","kid":7}"#, TokenError::Malformed);
        check(r#"{"alg":"RS256","alg":"none"}"#, TokenError::Duplicate);
    }

    #[test]
    fn r4_2_a_token_has_one_form_only() {
        let good = token(r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"sub":"a"}"#);
        assert!(Token::parse(good.as_bytes()).is_ok());
        let parts: Vec<&str> = good.split('.').collect();
        for (bad, error) in [
            (format!("{good}."), TokenError::NotThreeParts),
            (parts[..2].join("."), TokenError::NotThreeParts),
            (String::new(), TokenError::NotThreeParts),
            (format!("{good}="), TokenError::NotCanonical),
            (format!(" {good}"), TokenError::NotCanonical),
            (format!("{good}\n"), TokenError::NotCanonical),
            // The last character has bits left over: the same bytes in another spelling.
            (format!("{}.{}.c2lnAB", parts[0], parts[1]), TokenError::NotCanonical),
            (good.replace('-', "+").replace("eyJ", "eyJ+/"), TokenError::NotCanonical),
            (format!("{}.{}.c2ln", parts[0], "W10"), TokenError::NotJson),
            (format!("{}.{}.{}", parts[0], parts[1], "c".repeat(TOKEN_MAX)), TokenError::TooLong),
        ] {
            assert_eq!(Token::parse(bad.as_bytes()).err(), Some(error), "{bad}");
        }
        let twice = token(r#"{"alg":"HS256"}"#, r#"{"sub":"a","sub":"b"}"#);
        assert_eq!(Token::parse(twice.as_bytes()).err(), Some(TokenError::Duplicate));
    }
}
