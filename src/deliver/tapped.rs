//! What changes about an answer when taps see it: where its head waits for its body, and which fields do not hold any
//! more.

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, SEC_WEBSOCKET_EXTENSIONS,
};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;

use super::{Kind, ResponseFilters, Undelivered};
use crate::client::{Client, Part};
use crate::http::Coding;
use crate::pipeline::{AnswerCoding, EndState, Exchange, Refusal, Taps};

/// Digests of the body (RFC 9530, and those before it).
pub const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// The taps of an answer, and its head if that has not gone out.
pub(super) struct Tapped<'a> {
    pub(super) taps: Box<Taps>,
    waiting: Option<(Box<ResponseHeader>, &'a dyn ResponseFilters)>,
}

impl<'a> Tapped<'a> {
    /// Queues the head of an answer that taps are going to see, or keeps it until they have seen the body; `None` if
    /// there is nothing to see.
    pub(super) fn begin(
        taps: Box<Taps>,
        (mut head, bodiless): (Box<ResponseHeader>, bool),
        kind: &Kind,
        client: &mut Client,
        exchange: &mut Exchange,
        filters: &'a impl ResponseFilters,
    ) -> Result<Option<Box<Self>>, Undelivered> {
        let tunnel = matches!(kind, Kind::Tunnel);
        if !bodiless && !tunnel && taps.want_whole_body() {
            return Ok(Some(Box::new(Self { taps, waiting: Some((head, filters)) })));
        }
        filters.on_response(exchange, &mut head);
        let stands_for_body = head.status == StatusCode::NOT_MODIFIED || client.request().method == Method::HEAD;
        if !tunnel && (!bodiless || stands_for_body) {
            strip(&mut head); // it is not known yet what is going to change
        }
        client.queue(Part::Head(head, bodiless)).map_err(|_| EndState::ClientGone)?;
        Ok((!bodiless).then(|| Box::new(Self { taps, waiting: None })))
    }

    /// Whether nothing has gone to the client yet.
    pub(super) fn head_waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// Queues the head if it waits: the body is going to be so many bytes.
    pub(super) fn release_head(
        &mut self,
        length: usize,
        trailers: bool,
        client: &mut Client,
        exchange: &mut Exchange,
    ) -> Result<(), EndState> {
        let Some((mut head, filters)) = self.waiting.take() else { return Ok(()) };
        filters.on_response(exchange, &mut head);
        if self.taps.have_changed() {
            strip(&mut head);
        }
        // Trailers go out behind chunks alone, and nobody knows yet how long it is going to be when it is compressed.
        if trailers || matches!(exchange.answer_coding, AnswerCoding::Coded(_)) {
            head.remove_header(&CONTENT_LENGTH);
        } else {
            let _ = head.insert_header(CONTENT_LENGTH, length);
        }
        client.queue(Part::Head(head, false)).map_err(|_| EndState::ClientGone)
    }

    /// Trailers that still hold.
    pub(super) fn trailers(&self, trailers: Option<Box<HeaderMap>>) -> Option<Box<HeaderMap>> {
        let mut trailers = trailers?;
        if self.taps.have_changed() {
            DIGESTS.iter().for_each(|it| {
                trailers.remove(*it);
            });
        }
        Some(trailers)
    }
}

/// Sees to it that taps get the text itself. Upstreams were asked for it, whole and as it is; what comes in a coding all the
/// same is decoded, and goes on so.
pub(super) fn as_text(
    taps: &mut Taps,
    head: &mut ResponseHeader,
    kind: &Kind,
    bodiless: bool,
    exchange: &Exchange,
) -> Result<(), Undelivered> {
    let unreadable = |what: &str| {
        tracing::debug!(event = "answer_is_unreadable", request_id = exchange.request_id.as_str(), what);
        Err(Undelivered::refused(Refusal::UpstreamProtocol))
    };
    if matches!(kind, Kind::Tunnel) {
        let extended = head.headers.contains_key(SEC_WEBSOCKET_EXTENSIONS);
        return if extended { unreadable("an extension of WebSockets") } else { Ok(()) };
    }
    if head.status == StatusCode::PARTIAL_CONTENT && !bodiless {
        return unreadable("a part");
    }
    match Coding::of_body(&head.headers).as_deref() {
        Some([]) => return Ok(()),
        Some([coding]) if !bodiless => {
            let busy = |_| Undelivered::refused(Refusal::CheckBusy);
            taps.decode(*coding, None).map_err(busy)?;
        }
        _ if bodiless => {} // there is nothing to read, and its GET would be decoded
        _ => return unreadable("a coding"),
    }
    head.remove_header(&CONTENT_ENCODING);
    Ok(())
}

/// Takes out what was said of the body as it was (RFC 9110, sections 7.7 and 8.8.1): its length, its strong validator,
/// its digests, and that parts of it can be had.
fn strip(head: &mut ResponseHeader) {
    if head.headers.get(ETAG).is_some_and(|it| !it.as_bytes().starts_with(b"W/")) {
        head.remove_header(&ETAG);
    }
    for name in [CONTENT_LENGTH, ACCEPT_RANGES] {
        head.remove_header(&name);
    }
    for name in DIGESTS {
        head.remove_header(&HeaderName::from_static(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_the_body_goes_and_all_else_stays() {
        let fields =
            ["etag", "content-length", "accept-ranges", "content-md5", "digest", "repr-digest", "content-type"];
        let mut head = ResponseHeader::build(200, None).unwrap();
        for name in fields {
            head.insert_header(name, "\"x\"").unwrap();
        }
        strip(&mut head);
        assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
        head.insert_header(ETAG, "W/\"x\"").unwrap();
        strip(&mut head);
        assert_eq!(head.headers[ETAG], "W/\"x\"");
    }
}
