//! The place of `compress` among the steps: what the client accepts, and what the answer's head says. The body is the
//! business of the room that delivers.

use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue, VARY};
use pingora::http::ResponseHeader;

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::deliver::{CompressConfig, CompressRules, DIGESTS};
use crate::http as codec;
use crate::pipeline::{AnswerCoding, Exchange, Filter, RequestContext, Scope, Step};

impl Filter for CompressRules {
    const NAME: &'static str = "compress";
    const SUMMARY: &'static str = "Compresses answers for clients that accept it.";
    type Config = CompressConfig;

    fn compile(config: &CompressConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        Self::compile(config, at, diagnostics)
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        context.exchange.accepted_coding = self.accepted(&context.request.headers);
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        let coded = match exchange.answer_coding {
            AnswerCoding::Unchanged => return,
            AnswerCoding::Negotiable => None,
            AnswerCoding::Validated => {
                if exchange.accepted_coding.is_some() {
                    weaken_etag(response);
                }
                None
            }
            AnswerCoding::Coded(coding) => Some(coding),
        };
        vary(response);
        let Some(coding) = coded else { return };
        weaken_etag(response);
        for name in [CONTENT_LENGTH, ACCEPT_RANGES] {
            response.remove_header(&name);
        }
        for name in DIGESTS {
            response.remove_header(&HeaderName::from_static(name));
        }
        let _ = response.insert_header(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
}

impl BuiltIn for CompressRules {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a CompressConfig> {
        layer.settings.compress.as_ref()
    }

    /// An empty list takes back what `defaults` or a policy say.
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<CompressConfig> {
        let written = layers.iter().rev().find_map(Self::block)?;
        (!written.is_empty()).then(|| written.clone())
    }
}

/// Caches on the way keep one answer for each coding (RFC 9110, section 12.5.5).
fn vary(response: &mut ResponseHeader) {
    let said = |headers: &HeaderMap| {
        codec::has_token(headers, &VARY, "accept-encoding") || codec::has_token(headers, &VARY, "*")
    };
    if !said(&response.headers) {
        let _ = response.append_header(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// A strong validator stands for the very bytes, which are others now; the text is the same (RFC 9110, section 8.8.1).
fn weaken_etag(response: &mut ResponseHeader) {
    let Some(etag) = response.headers.get(ETAG).filter(|it| it.as_bytes().starts_with(b"\"")) else { return };
    let weak = [b"W/", etag.as_bytes()].concat();
    if let Ok(weak) = HeaderValue::from_bytes(&weak) {
        let _ = response.insert_header(ETAG, weak);
    }
}
