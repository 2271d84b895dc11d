//! Changes a request's path and host before the upstream gets it.

use http::header::{HOST, HeaderValue};
use pingora::http::RequestHeader;

use crate::base::{At, Findings};
use crate::routing::{Params, Template};

/// A compiled rewrite of path and host.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    path: Option<Template>,
    host: Option<HeaderValue>,
}

impl Rewrite {
    /// `captures` are the names that the route's pattern captures.
    pub fn compile(
        path: Option<&str>,
        host: Option<&str>,
        captures: &[String],
        at: &At<'_>,
        findings: &mut Findings,
    ) -> Self {
        let path = path.map(|text| {
            let at = at.key("path");
            if text.starts_with('/') {
                return Template::compile(text, captures, &at, findings);
            }
            findings.error(&at, "a path begins with a slash").help(format!("write `/{text}`"));
            Template::compile(&format!("/{text}"), captures, &at, findings)
        });
        let host = host.and_then(|text| {
            let plain =
                !text.is_empty() && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-.:[]_".contains(&it));
            let host = HeaderValue::from_str(text).ok().filter(|_| plain);
            if host.is_none() {
                findings
                    .error(&at.key("host"), "not a host name")
                    .help("write it as api.example.org or api.example.org:8080");
            }
            host
        });
        Self { path, host }
    }

    /// Whether the path changes.
    pub fn changes_path(&self) -> bool {
        self.path.is_some()
    }

    /// Whether the host changes.
    pub fn changes_host(&self) -> bool {
        self.host.is_some()
    }

    /// The new path with the query as it was, if the path changes; `None` if it can't be sent.
    pub fn target(&self, params: &Params, path: &str, query: Option<&str>) -> Option<http::Uri> {
        let mut target = String::with_capacity(path.len() + 32);
        self.path.as_ref()?.expand(params, path, &mut target);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target.parse().ok()
    }

    /// Sets the host.
    pub fn on_request(&self, request: &mut RequestHeader) {
        if let Some(host) = &self.host {
            let _ = request.insert_header(HOST, host.clone());
        }
    }
}
