//! What the admin listener says when it says no: the one shape of all errors (decision 8). A page knows what is wrong;
//! the request's id is put in where answers leave.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::Value;

use crate::pipeline::ErrorBody;

/// Why a request gets nothing else.
#[derive(Clone, Debug)]
pub(super) struct Fault(Box<ErrorBody>);

impl Fault {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        suggested_action: &'static str,
    ) -> Self {
        Self(Box::new(ErrorBody { status, code, message: message.into(), details: Value::Null, suggested_action }))
    }

    /// With more about it, for programs.
    pub(super) fn with_details(mut self, details: Value) -> Self {
        self.0.details = details;
        self
    }

    pub(super) fn code(&self) -> &'static str {
        self.0.code
    }

    /// The body that tells of it.
    pub(super) fn body(&self, request_id: &str) -> Vec<u8> {
        self.0.json(request_id)
    }
}

impl IntoResponse for Fault {
    /// A head that carries the fault to where the body is written.
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
