//! What upstreams receive about the request and its client: `X-Request-Id`, `traceparent`, `Forwarded` and its like,
//! and the caller. They are written where the request is ([`Exchange::forwarded_headers`](crate::pipeline::Exchange)).

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Filter, Scope};

/// Every route has it.
pub struct Forwarded;

impl Filter for Forwarded {
    const NAME: &'static str = "forwarded";
    const SUMMARY: &'static str =
        "Tells upstreams the request's id and trace, the client's address, and who is calling.";
    type Config = ();

    fn compile((): &(), _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(Self)
    }
}

impl BuiltIn for Forwarded {
    fn settings(_: &[Layer<'_>], _: &Scope<'_>) -> Option<()> {
        Some(())
    }
}
