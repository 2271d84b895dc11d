//! What the admin listener says when it says no: the one shape of all errors (decision 8). A page knows what is wrong;
//! the request's id is put in where answers leave.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

/// Why a request gets nothing else.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    message: String,
    suggested_action: String,
    details: Value,
}

impl Fault {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        suggested_action: impl Into<String>,
    ) -> Self {
        let (message, suggested_action) = (message.into(), suggested_action.into());
        Self { status, code, message, suggested_action, details: Value::Null }
    }

    /// With more about it, for programs.
    pub(super) fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// The body that tells of it.
    pub(super) fn body(&self, request_id: &str) -> Vec<u8> {
        let error = json!({ "error": {
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "request_id": request_id,
            "suggested_action": self.suggested_action,
        }});
        format!("{error}\n").into_bytes()
    }
}

impl IntoResponse for Fault {
    /// A head that carries the fault to where the body is written.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
