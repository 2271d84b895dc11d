//! The places of `sse` and `websocket` among the steps. How streams are kept is the business of the room that delivers
//! them.

use http::header::{ACCEPT_ENCODING, HeaderValue};

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::deliver::{EventRules, SseConfig, WebSocketConfig, WebSocketRules};
use crate::pipeline::{Filter, RequestContext, Scope, Step};

impl Filter for EventRules {
    const NAME: &'static str = "sse";
    const SUMMARY: &'static str = "Keeps event streams alive, and says when one breaks off.";
    type Config = SseConfig;

    fn compile(config: &SseConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(Self::compile(config, at, diagnostics))
    }

    /// Events can be told apart in no encoding.
    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        let _ = context.request.insert_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(())
    }
}

impl BuiltIn for EventRules {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a SseConfig> {
        layer.settings.sse.as_ref()
    }
}

impl Filter for WebSocketRules {
    const NAME: &'static str = "websocket";
    const SUMMARY: &'static str = "Notices WebSocket clients that are gone, and tells those that stay of a stop.";
    type Config = WebSocketConfig;

    fn compile(config: &WebSocketConfig, _: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(Self::compile(config, at, diagnostics))
    }
}

impl BuiltIn for WebSocketRules {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a WebSocketConfig> {
        layer.settings.websocket.as_ref()
    }

    /// Only a route for WebSockets has any.
    fn settings(layers: &[Layer<'_>], scope: &Scope<'_>) -> Option<WebSocketConfig> {
        layers.iter().rev().find_map(Self::block).filter(|_| scope.websocket).cloned()
    }

    fn check_on_route(layers: &[Layer<'_>], scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
        let Some(own) = layers.last().filter(|it| Self::block(it).is_some() && !scope.websocket) else { return };
        diagnostics
            .error(&own.at.key(Self::NAME), "this route takes no WebSockets")
            .help("write `websocket: true` in its `match`, or leave this out");
    }
}
