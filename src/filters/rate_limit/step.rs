//! Limits as steps of the way. There are two of them, on both sides of credentials: what needs no principal is counted
//! before they are looked at.

use pingora::http::ResponseHeader;

use super::live::LiveLimits;
use super::{Phase, Rules, ScopedLimit, applying, fields};
use crate::base::{At, Diagnostics};
use crate::filters::settings::{Activation, BuiltIn, Layer, StepDescription};
use crate::pipeline::{Exchange, Filter, RequestContext, Scope, Step};

/// The limits of a route that need no principal.
pub struct RateLimits(Limited);

/// Those that count by principal.
pub struct PrincipalLimits(Limited);

/// All limits of a route, and what is alive of them once it serves.
struct Limited {
    rules: Rules,
    live: Option<LiveLimits>,
}

impl Limited {
    fn compile(config: &[ScopedLimit], phase: Phase) -> Option<Self> {
        let rules = Rules::compile(config).filter(|it| !it.range(phase).is_empty())?;
        Some(Self { rules, live: None })
    }

    async fn on_request(&self, phase: Phase, context: &mut RequestContext<'_>) -> Step {
        let Some(live) = &self.live else { return Ok(()) };
        let RequestContext { exchange, request, charges, .. } = context;
        Ok(live.on_request(&self.rules, phase, charges, exchange, &request.headers).await?)
    }

    fn activate(&mut self, Activation { limits, route, upstream, .. }: &Activation<'_>) {
        self.live = Some(limits.activate(route, Some(&self.rules), *upstream));
    }
}

const NAME: &str = "rate_limits";

impl Filter for RateLimits {
    const NAME: &'static str = NAME;
    const SUMMARY: &'static str = "Limits how many requests may come, by address, route or header field.";
    type Config = Vec<ScopedLimit>;

    fn compile(config: &Self::Config, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Limited::compile(config, Phase::BeforeAuth).map(Self)
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        self.0.on_request(Phase::BeforeAuth, context).await
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        fields::on_response(exchange, response);
    }
}

impl BuiltIn for RateLimits {
    fn settings(layers: &[Layer<'_>], scope: &Scope<'_>) -> Option<Self::Config> {
        // What every gateway has by itself is for those who watch over it.
        if scope.watches {
            return None;
        }
        let lists: Vec<_> = layers.iter().map(|it| (&*it.scope, &*it.settings.rate_limits)).collect();
        Some(applying(&lists)).filter(|it| !it.is_empty())
    }

    fn check(layer: &Layer<'_>, _: &Scope<'_>, diagnostics: &mut Diagnostics) {
        Rules::check(&layer.settings.rate_limits, &layer.at.key(NAME), diagnostics);
    }

    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        describe(layers, scope, false)
    }

    fn activate(&mut self, activation: &Activation<'_>) {
        self.0.activate(activation);
    }
}

impl RateLimits {
    /// All limits of the route.
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }
}

impl Filter for PrincipalLimits {
    const NAME: &'static str = NAME;
    const SUMMARY: &'static str = "Limits how many requests may come, by user, key or tenant.";
    type Config = Vec<ScopedLimit>;

    fn compile(config: &Self::Config, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Limited::compile(config, Phase::AfterAuth).map(Self)
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        self.0.on_request(Phase::AfterAuth, context).await
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        // Where there are both, the other one reports the tightest of all.
        if self.0.rules.range(Phase::BeforeAuth).is_empty() {
            fields::on_response(exchange, response);
        }
    }
}

/// The list is checked once, by the other one.
impl BuiltIn for PrincipalLimits {
    fn settings(layers: &[Layer<'_>], scope: &Scope<'_>) -> Option<Self::Config> {
        RateLimits::settings(layers, scope)
    }

    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        describe(layers, scope, true)
    }

    fn activate(&mut self, activation: &Activation<'_>) {
        self.0.activate(activation);
    }
}

impl PrincipalLimits {
    /// All limits of the route.
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }
}

fn describe(layers: &[Layer<'_>], scope: &Scope<'_>, by_principal: bool) -> Vec<StepDescription> {
    let mut limits = RateLimits::settings(layers, scope).unwrap_or_default();
    limits.retain(|it| it.limit.counts_by_principal() == by_principal);
    if limits.is_empty() { Vec::new() } else { vec![StepDescription::new(NAME, &limits)] }
}
