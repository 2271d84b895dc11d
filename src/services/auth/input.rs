//! What clients send: a small JSON object, of which every fault is reported with its field.

use axum::body::Body;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};

use crate::base::Secret;
use crate::http as codec;
use crate::services::auth::fault::Fault;

/// The largest body in bytes.
const BODY_MAX: usize = 16 * 1024;
/// The longest text in a field, in bytes; a password is shorter still.
const TEXT_MAX: usize = 4 * 1024;

/// A JSON object as it came.
pub(super) struct Input(Map<String, Value>);

impl Input {
    /// Reads the body of a request, which has to say that it is JSON.
    pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, Fault> {
        if !codec::media_type_is(headers, "application/json") {
            return Err(Fault::Invalid("Content-Type", "has to be application/json".to_owned()));
        }
        let wrong = |why: &str| Fault::Invalid("body", why.to_owned());
        let bytes = axum::body::to_bytes(body, BODY_MAX).await;
        let bytes = bytes.map_err(|_| wrong("broke off, or is larger than 16 KiB"))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(wrong("has to be a JSON object")),
            Err(_) => Err(wrong("is not JSON")),
        }
    }

    /// A text that has to be there and not empty.
    pub(super) fn text(&self, field: &'static str) -> Result<&str, Fault> {
        self.optional_text(field)?.ok_or_else(|| Fault::Invalid(field, "is missing".to_owned()))
    }

    /// A text that may be left out, but not be empty.
    pub(super) fn optional_text(&self, field: &'static str) -> Result<Option<&str>, Fault> {
        let wrong = |why: &str| Err(Fault::Invalid(field, why.to_owned()));
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => wrong("is empty"),
            Some(Value::String(text)) if text.len() > TEXT_MAX => wrong("is too long"),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => wrong("has to be a text"),
        }
    }

    /// A text that nobody may see.
    pub(super) fn secret(&self, field: &'static str) -> Result<Secret, Fault> {
        self.text(field).map(|it| Secret::from(it.to_owned()))
    }

    /// As [`Input::secret`], but it may be left out.
    pub(super) fn optional_secret(&self, field: &'static str) -> Result<Option<Secret>, Fault> {
        Ok(self.optional_text(field)?.map(|it| Secret::from(it.to_owned())))
    }

    /// Yes or no; it may be left out.
    pub(super) fn optional_truth(&self, field: &'static str) -> Result<Option<bool>, Fault> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(it)) => Ok(Some(*it)),
            Some(_) => Err(Fault::Invalid(field, "has to be true or false".to_owned())),
        }
    }

    /// A list of at most `most` texts of which each fulfils `rule`; it may be left out.
    pub(super) fn optional_words(
        &self,
        field: &'static str,
        most: usize,
        rule: (fn(&str) -> bool, &str),
    ) -> Result<Option<Vec<String>>, Fault> {
        let wrong = |why: String| Fault::Invalid(field, why);
        let list = match self.0.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) if list.len() <= most => list,
            Some(Value::Array(_)) => return Err(wrong(format!("has more than {most} elements"))),
            Some(_) => return Err(wrong("has to be a list of texts".to_owned())),
        };
        let word = |it: &Value| it.as_str().filter(|it| (rule.0)(it)).map(str::to_owned);
        let words: Option<Vec<String>> = list.iter().map(word).collect();
        words.map(Some).ok_or_else(|| wrong(format!("has an element that can't be one: {}", rule.1)))
    }
}

/// The bearer token of a request (RFC 6750, section 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    codec::bearer(headers.get(AUTHORIZATION)?.as_bytes()).filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    fn input(json: &str) -> Input {
        Input(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_fault_names_its_field_and_quotes_nothing() {
        let check = |json: &str, why: &str| {
            assert_eq!(input(json).text("name").map(str::to_owned), Err(Fault::Invalid("name", why.to_owned())));
        };
        check("{}", "is missing");
        check("{\"name\":null}", "is missing");
        check("{\"name\":\"\"}", "is empty");
        check("{\"name\":7}", "has to be a text");
        check(&format!("{{\"name\":\"{}\"}}", "x".repeat(5000)), "is too long");
        assert_eq!(input("{\"name\":\"ada\"}").text("name"), Ok("ada"));
        let rule: (fn(&str) -> bool, &str) = (|it| it.len() == 1, "one letter");
        let words = |json: &str| input(json).optional_words("w", 2, rule);
        assert_eq!(words("{\"w\":[\"a\",\"b\"]}"), Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        for wrong in ["{\"w\":\"a\"}", "{\"w\":[1]}", "{\"w\":[\"ab\"]}", "{\"w\":[\"a\",\"b\",\"c\"]}"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_body_is_a_json_object_and_says_so() {
        let read = async |media: &str, body: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).unwrap());
            Input::read(&headers, Body::from(body)).await.map(|_| ()).map_err(|it| match it {
                Fault::Invalid(field, _) => field,
                _ => "?",
            })
        };
        assert_eq!(read("application/json; charset=utf-8", "{}").await, Ok(()));
        assert_eq!(read("Application/JSON", "{}").await, Ok(()));
        assert_eq!(read("text/plain", "{}").await, Err("Content-Type"));
        for body in ["", "[]", "{", "\"x\""] {
            assert_eq!(read("application/json", body).await, Err("body"), "{body}");
        }
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        let of = |field: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(field).unwrap());
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(of("bEaReR abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("Bearer"), None);
    }
}
