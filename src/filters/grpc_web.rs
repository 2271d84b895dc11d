//! The place of `grpc_web` among the steps. How such calls are read and answered is the client's side's business.

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Filter, Scope};

/// A compiled `grpc_web: true`.
#[derive(Clone, Copy, Debug)]
pub struct GrpcWeb;

impl Filter for GrpcWeb {
    const NAME: &'static str = "grpc_web";
    const SUMMARY: &'static str = "Makes calls of gRPC-Web calls of gRPC, and writes their answers for the web.";
    type Config = bool;

    fn compile(config: &bool, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        config.then_some(Self)
    }
}

impl BuiltIn for GrpcWeb {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a bool> {
        layer.settings.grpc_web.as_ref()
    }

    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<bool> {
        layers.iter().rev().find_map(Self::block).copied().filter(|it| *it)
    }
}
