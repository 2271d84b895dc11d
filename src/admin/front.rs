//! The admin listener's connections: our own codec and the deadlines of all listeners before the pages, and behind them
//! what every answer has: the request's id, the security fields, one line in the log.

use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use pingora::http::ResponseHeader;
use pingora::server::ShutdownWatch;
use tower_service::Service;

use crate::admin::auth::Actor;
use crate::admin::fault::Fault;
use crate::base::{Deadline, redacted_target, shown_millis};
use crate::client::{Client, ClientError, H1Connection, Part};
use crate::filters::{SecurityHeaders, behind_the_route};
use crate::listener::{App, Downstream};
use crate::pipeline::{Exchange, Scheme};
use crate::telemetry::refused;

/// The largest body that a page takes, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// For a request's body, and for a client that takes its answer.
const BODY_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Speaks with those who come to the admin listener.
pub(super) struct Front(Router);

impl Front {
    /// In front of these pages.
    pub(super) fn new(pages: Router) -> Self {
        Self(pages)
    }

    /// One request; the connection for the next one, if there may be one.
    async fn answer(&self, mut client: Client) -> Option<H1Connection> {
        let mut exchange = Exchange::new(client.connection().peer().ip(), Scheme::Http);
        client.ignore_upgrade();
        let response = match Deadline::within(BODY_TIME, body_of(&mut client)).await {
            Some(Ok(body)) => self.page(&client, body).await,
            Some(Err(Unread::TooLarge)) => too_large().into_response(),
            Some(Err(Unread::Gone)) => return None,
            None => too_slow().into_response(),
        };
        let fault = response.extensions().get::<Fault>().cloned();
        let actor = response.extensions().get::<Actor>().cloned();
        let (head, body) =
            finished(response, fault.as_ref(), &mut exchange, client.request().method == Method::HEAD).await?;
        tell(&exchange, &client, head.status, fault.as_ref(), actor.as_ref());
        if is_refusal(head.status) {
            client.close_after(); // who may do nothing here holds no place
        }
        let bodiless = body.is_empty() || client.request().method == Method::HEAD;
        let parts = [Part::Head(head, bodiless), Part::Data(body), Part::End(None)];
        Deadline::within(ANSWER_TIME, client.send(parts)).await?.ok()?;
        client.finish().await
    }

    async fn page(&self, client: &Client, body: Bytes) -> Response {
        let head = client.request();
        if head.method == Method::CONNECT {
            let action = "use another method";
            return Fault::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_supported",
                "CONNECT is not offered",
                action,
            )
            .into_response();
        }
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers.clone();
        let answered: Result<Response, Infallible> = self.0.clone().call(request).await;
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl App for Front {
    async fn serve(&self, stream: Box<Downstream>, _: ShutdownWatch) {
        let mut connection = H1Connection::new(stream);
        while let Some(client) = connection.request().await {
            match Box::pin(self.answer(client)).await {
                Some(next) => connection = next,
                None => return,
            }
        }
    }
}

/// Whether whoever asks has no business here.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::MISDIRECTED_REQUEST
    )
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    Gone,
}

async fn body_of(client: &mut Client) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    if client.declared_length().is_some_and(|it| it > BODY_MAX as u64) {
        client.close_after();
        return Err(Unread::TooLarge);
    }
    client.say_continue();
    loop {
        match poll_fn(|cx| client.poll_body(cx)).await {
            Ok(Some(piece)) if body.len() + piece.len() <= BODY_MAX => body.extend_from_slice(&piece),
            Ok(Some(_)) => {
                client.close_after();
                return Err(Unread::TooLarge);
            }
            Ok(None) => return Ok(body.freeze()),
            Err(ClientError::Gone | ClientError::Malformed(_) | ClientError::Incomplete) => return Err(Unread::Gone),
        }
    }
}

fn too_large() -> Fault {
    let message = "the request's body is larger than the admin listener accepts";
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message, "send less")
}

fn too_slow() -> Fault {
    let action = "send the request again, faster";
    Fault::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request did not arrive in time", action)
}

/// What goes out: the page's answer, or its fault in the shape of all errors, with the fields of every answer.
async fn finished(
    response: Response,
    fault: Option<&Fault>,
    exchange: &mut Exchange,
    head_only: bool,
) -> Option<(Box<ResponseHeader>, Bytes)> {
    let (parts, body) = response.into_parts();
    let mut head = Box::new(ResponseHeader::build(parts.status, Some(parts.headers.len() + 12)).ok()?);
    for (name, value) in &parts.headers {
        head.append_header(name.clone(), value.clone()).ok()?;
    }
    // A page is made as a whole in this process.
    let mut body = to_bytes(body, usize::MAX).await.ok()?;
    if let Some(fault) = fault {
        refused(fault.code());
        body = Bytes::from(fault.body(exchange.request_id.as_str()));
        let _ = head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if !head.headers.contains_key(CACHE_CONTROL) {
        let _ = head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if head.status == StatusCode::NO_CONTENT {
        head.remove_header(&CONTENT_LENGTH); // RFC 9110, section 8.6
    } else if fault.is_some() || !head_only {
        let _ = head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    SecurityHeaders::OWN.add_to(exchange, &mut head);
    behind_the_route(exchange, &mut head);
    Some((head, body))
}

/// The line of a request. What stands in a query may be anything, so it is left out.
fn tell(exchange: &Exchange, client: &Client, status: StatusCode, fault: Option<&Fault>, actor: Option<&Actor>) {
    let request = client.request();
    tracing::info!(
        event = "admin_request",
        request_id = exchange.request_id.as_str(),
        method = %request.method,
        path = %String::from_utf8_lossy(&redacted_target(request.uri.path().as_bytes())),
        listener = "admin",
        client = %exchange.client_ip,
        actor = actor.map(|it| &*it.0),
        status = status.as_u16(),
        error = fault.map(Fault::code),
        duration_ms = shown_millis(exchange.started.elapsed().as_secs_f64()),
    );
}
