//! Where a page goes out in the place of an error.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use pingora::http::ResponseHeader;

use crate::client::Client;
use crate::deliver::ResponseFilters;
use crate::filters::{ErrorPages, Page, PageFacts};
use crate::forward::{Destination, UpstreamResponse};
use crate::pipeline::{EndState, Exchange};
use crate::proxy::way::Admitted;
use crate::proxy::{Proxy, Unfinished, answer, reply};

/// A page is the operator's and may be styled where it stands; it runs no script that does.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
);
/// What an upstream's error says beside its body, and clients rely on.
const KEPT: [http::HeaderName; 3] = [ALLOW, RETRY_AFTER, WWW_AUTHENTICATE];

/// Puts the page for this client, if there is one, in the place of what the gateway would say.
pub(super) fn put_page(
    pages: &ErrorPages,
    request: &HeaderMap,
    exchange: &Exchange,
    message: &str,
    (head, body): (&mut ResponseHeader, &mut Bytes),
) {
    let Some(page) = pages.page_for(head.status, request) else { return };
    let facts = PageFacts { request_id: exchange.request_id.as_str(), status: head.status, message: Some(message) };
    *body = page.fill(&facts);
    dress(head);
    Page::count(false);
}

fn dress(head: &mut ResponseHeader) {
    let _ = head.insert_header(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let _ = head.insert_header(CONTENT_SECURITY_POLICY, PAGE_POLICY);
}

impl Admitted {
    /// The page that a client gets in the place of an upstream's error.
    pub(super) fn page_instead(&self, status: StatusCode, client: &Client) -> Option<Arc<Page>> {
        let pages = self.route().chain.error_pages.as_ref()?;
        let ours = matches!(self.destination(), Destination::Local(..));
        let page = pages.page_for(status, &client.request().headers)?;
        (ours || pages.for_upstreams()).then(|| page.clone())
    }
}

impl Proxy {
    /// Sends a page in the place of an upstream's error. What the page stands for is not stored: others may get it as it
    /// is.
    pub(super) async fn send_page(
        &self,
        page: &Page,
        response: UpstreamResponse,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> Result<(), Unfinished> {
        let UpstreamResponse { head: theirs, mut body } = response;
        let facts = PageFacts { request_id: exchange.request_id.as_str(), status: theirs.status, message: None };
        let page = page.fill(&facts);
        Page::count(!matches!(admitted.destination(), Destination::Local(..)));
        body.finish().await;
        admitted.on_refusal(exchange);
        let mut head = reply::head(theirs.status);
        for name in KEPT {
            for value in theirs.headers.get_all(&name) {
                let _ = head.append_header(name.clone(), value.clone());
            }
        }
        dress(&mut head);
        admitted.on_response(exchange, &mut head);
        answer(client, exchange, (head, page), admitted.route().policy.request, EndState::Done).await
    }
}
