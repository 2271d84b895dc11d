//! Instances of services that register themselves: to register or renew one, to let it leave, to list all.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admin::Admin;
use crate::admin::fault::Fault;
use crate::base::Period;
use crate::telemetry::Timestamp;
use crate::upstream::{
    Discovery, EndpointAddress, Health, Instance, RegisterError, Registration, SERVICE_NAME_RULE, is_service_name,
};

/// How long an instance is known without being renewed, unless it says so itself.
const TTL: Period = Period::secs(15);
/// What it may say. Shorter is a load, longer is no news.
const TTLS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
/// Renew so many times within a TTL: one that is lost does no harm.
const RENEWALS: u32 = 3;
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1000;

/// What an instance says of itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announced {
    address: String,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    ttl: Option<Period>,
}

fn one() -> u32 {
    1
}

/// `PUT /admin/registry/players/one` with `{"address": "10.0.0.7:9103"}`: 201 when it is new, 200 when it was renewed.
pub(super) async fn register(
    State(admin): State<Arc<Admin>>,
    Path((service, instance)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let done = async {
        let discovery = discovery(&admin)?;
        check_names(&service, &instance)?;
        let announced: Announced =
            serde_json::from_slice(&body).map_err(|error| invalid(format!("the body is no registration: {error}")))?;
        let registration = registration(announced, discovery).await?;
        let ttl = Duration::from_millis(registration.ttl_ms);
        let registered = discovery.instances().register(&service, &instance, registration).await.map_err(refused)?;
        let status = if registered.new { StatusCode::CREATED } else { StatusCode::OK };
        let answer = json!({
            "service": service,
            "instance": instance,
            "expires_at": Timestamp::of_seconds(registered.expires_at).as_str(),
            "renew_every": Period(ttl / RENEWALS).to_string(),
        });
        Ok((status, Json(answer)).into_response())
    };
    done.await.unwrap_or_else(|fault: Fault| fault.into_response())
}

/// 204, whether it was there or not: whoever leaves twice has left.
pub(super) async fn leave(
    State(admin): State<Arc<Admin>>,
    Path((service, instance)): Path<(String, String)>,
) -> Response {
    let done = async {
        check_names(&service, &instance)?;
        let left = discovery(&admin)?.instances().leave(&service, &instance).await;
        left.map(|_| StatusCode::NO_CONTENT.into_response()).map_err(|it| refused(it.into()))
    };
    done.await.unwrap_or_else(|fault: Fault| fault.into_response())
}

/// All that are known here, by service.
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Response {
    let all = match discovery(&admin) {
        Ok(discovery) => discovery.instances().all(),
        Err(fault) => return fault.into_response(),
    };
    let reports = admin.configuration.upstreams().report();
    let endpoints = reports.iter().flat_map(|it| &it.endpoints);
    let health: HashMap<&str, Health> = endpoints.map(|it| (it.address.as_str(), it.health)).collect();
    let shown = |instance: &Instance| {
        let Registration { address, weight, zone, metadata, expires_at, .. } = &instance.registration;
        json!({
            "instance": instance.name,
            "address": address,
            "weight": weight,
            "zone": zone,
            "metadata": metadata,
            "expires_at": Timestamp::of_seconds(*expires_at).as_str(),
            "healthy": health.get(address.to_string().as_str()) != Some(&Health::Unhealthy),
        })
    };
    let services: BTreeMap<&String, Vec<Value>> =
        all.iter().map(|(service, instances)| (service, instances.iter().map(shown).collect())).collect();
    Json(json!({ "services": services })).into_response()
}

fn discovery(admin: &Admin) -> Result<&Discovery, Fault> {
    admin
        .configuration
        .upstreams()
        .discovery()
        .ok_or_else(|| refused(RegisterError::Unavailable(crate::state::Unavailable)))
}

fn check_names(service: &str, instance: &str) -> Result<(), Fault> {
    match [service, instance].into_iter().find(|it| !is_service_name(it)) {
        Some(wrong) => Err(invalid(format!("`{wrong}` is no name: {SERVICE_NAME_RULE}"))),
        None => Ok(()),
    }
}

async fn registration(announced: Announced, discovery: &Discovery) -> Result<Registration, Fault> {
    let Announced { address, weight, zone, metadata, ttl } = announced;
    let ttl = ttl.unwrap_or(TTL);
    if !(TTLS.0..=TTLS.1).contains(&ttl.0) {
        return Err(invalid(format!("the ttl {ttl} is not between {} and {}", Period(TTLS.0), Period(TTLS.1))));
    }
    if !WEIGHTS.contains(&weight) {
        return Err(invalid(format!("the weight {weight} is not between 1 and 1000")));
    }
    let address = resolved(&address, discovery).await?;
    Ok(Registration { address, weight, zone, metadata, ttl_ms: ttl.0.as_millis() as u64, expires_at: 0 })
}

/// A name stands for the address that it has at this moment; every renewal looks again.
async fn resolved(address: &str, discovery: &Discovery) -> Result<SocketAddr, Fault> {
    match address.parse() {
        Ok(EndpointAddress::Ip(address)) => Ok(address),
        Ok(EndpointAddress::Name(name, port)) => match discovery.resolve(&name).await {
            Ok(ip) => Ok(SocketAddr::new(ip, port)),
            Err(reason) => Err(invalid(format!("`{name}` can't be looked up: {reason}"))),
        },
        Err(_) => Err(invalid(format!("`{address}` is not an address with a port, such as 10.0.0.7:9103"))),
    }
}

fn invalid(message: String) -> Fault {
    let action = r#"send {"address": "10.0.0.7:9103"}, and if need be weight, zone, metadata and ttl"#;
    Fault::new(StatusCode::BAD_REQUEST, "invalid_body", message, action)
}

fn refused(error: RegisterError) -> Fault {
    match error {
        RegisterError::TooLarge => invalid(error.to_string()),
        RegisterError::Full(_) => Fault::new(
            StatusCode::CONFLICT,
            "registry_full",
            error.to_string(),
            "let instances leave that are not needed",
        ),
        RegisterError::Unavailable(_) => {
            let message = "the state that keeps the registry can't be reached";
            Fault::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "state_unavailable",
                message,
                "try again: nothing was changed for good",
            )
        }
    }
}
