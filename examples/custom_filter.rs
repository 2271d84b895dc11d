//! A gateway with one more filter, switched on by `filters: { client_version: { minimum: 3 } }`: see docs/FILTERS.md.

use http::{HeaderValue, StatusCode};
use moongate::base::{At, Diagnostics};
use moongate::pipeline::{Exchange, Filter, Filters, RequestContext, Scope, Step, Stop};
use pingora::http::ResponseHeader;

#[derive(Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ClientVersion {
    /// The oldest version in `X-Client-Version` that may call.
    #[schemars(range(min = 1))]
    minimum: u32,
}

impl Filter for ClientVersion {
    const NAME: &'static str = "client_version";
    const SUMMARY: &'static str = "Tells old clients to update.";
    type Config = Self;

    fn compile(config: &Self, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(config.clone())
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        let version = context.request.headers.get("x-client-version").and_then(|it| it.to_str().ok());
        let current = version.and_then(|it| it.parse().ok()).is_some_and(|it: u32| it >= self.minimum);
        current.then_some(()).ok_or_else(|| Stop::with_text(StatusCode::UPGRADE_REQUIRED, "update this app\n"))
    }

    fn on_response(&self, _: &mut Exchange, response: &mut ResponseHeader) {
        let _ = response.insert_header("x-client-version-needed", HeaderValue::from(self.minimum));
    }
}

fn main() -> std::process::ExitCode {
    moongate::app::main(Filters::none().with::<ClientVersion>())
}
