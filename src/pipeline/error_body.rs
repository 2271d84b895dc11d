//! The one shape of all errors that the gateway words itself, whichever room does (decision 8).

use http::StatusCode;
use serde_json::{Value, json};

/// An error as its client gets it.
#[derive(Clone, Debug)]
pub struct ErrorBody {
    /// The status of the answer.
    pub status: StatusCode,
    /// Stable; the list is closed and documented in docs/ERRORS.md.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// An object, or null.
    pub details: Value,
    /// What to do about it.
    pub suggested_action: &'static str,
}

impl ErrorBody {
    /// An error without details.
    pub fn new(status: StatusCode, code: &'static str, message: &str, suggested_action: &'static str) -> Self {
        Self { status, code, message: message.to_owned(), details: Value::Null, suggested_action }
    }

    /// The same with details.
    pub fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    /// `{"error": {code, message, details, request_id, suggested_action}}`, and a line's end.
    pub fn json(&self, request_id: &str) -> Vec<u8> {
        let error = json!({ "error": {
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "request_id": request_id,
            "suggested_action": self.suggested_action,
        }});
        let mut body = error.to_string().into_bytes();
        body.push(b'\n');
        body
    }
}
