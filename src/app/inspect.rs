//! The commands that look at what is configured: `check`, `routes`, `explain`, `schema`. None of them
//! touches the network.

use std::fmt::Write;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Uri};
use serde_json::{Value, json};

use crate::app::{Failure, Files, Format};
use crate::config::{
    Compiled, Description, GatewayFile, Mode, Route, Snapshot, compile_files, compile_routes, routes_schema,
};
use crate::filters::{OnMaintenance, announced_method};
use crate::pipeline::Filters;
use crate::proxy::missing_setting;
use crate::routing::{Explanation, MatchConfig, Request, Target, ValueMatch, ValueRule, Verdict, without_parameters};
use crate::services::ServiceRegistry;
use crate::upstream::{EndpointSpec, LocalUpstream, Upstream, UpstreamKind};
use crate::yaml::{schema_for_editors, schema_of};

/// What `moongate check` found.
#[derive(Debug)]
pub struct Checked {
    /// For standard output.
    pub report: String,
    /// Whether both files are sound, else why not.
    pub verdict: Result<(), Failure>,
}

/// A request that is not sent.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    /// Its method.
    pub method: String,
    /// A URL, or a path.
    pub url: String,
    /// Header fields, as `name: value`.
    pub fields: Vec<String>,
}

/// `moongate check`: all faults of both files, or one line that says how much there is. A program
/// gets the faults as a list on standard output.
pub fn check(files: &Files, filters: &Filters, format: Format) -> Checked {
    let compiled = compile_files(&files.gateway, &files.routes, &ServiceRegistry::standard(), filters);
    let (report, verdict) = match (compiled, format) {
        (Ok(compiled), Format::Human) => (sound(files, &compiled), Ok(())),
        (Ok(compiled), Format::Json) => (pretty(&json!(compiled.warnings)), Ok(())),
        (Err(faults), Format::Human) => (String::new(), Err(Failure(faults.render(false)))),
        (Err(faults), Format::Json) => (pretty(&json!(faults)), Err(Failure(faults.summary()))),
    };
    Checked { report, verdict }
}

/// What there is to say of files that can be used: warnings, and how much was written.
fn sound(files: &Files, compiled: &Compiled) -> String {
    let Compiled { snapshot, warnings, .. } = compiled;
    let warnings = if warnings.is_empty() { String::new() } else { format!("{}\n\n", warnings.render(false)) };
    let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let routes = counted(snapshot.written_routes().len(), "route");
    let upstreams = counted(snapshot.written_upstreams().len(), "upstream");
    let (gateway, file) = (files.gateway.display(), files.routes.display());
    format!("{warnings}{gateway} and {file} are sound: {routes}, {upstreams}\n")
}

/// `moongate routes`: the compiled table.
///
/// # Errors
/// The file's faults.
pub fn routes(files: &Files, filters: &Filters, format: Format) -> Result<String, Failure> {
    let snapshot = snapshot(files, filters)?;
    if format == Format::Json {
        let routes: Vec<_> = snapshot.routes.iter().map(|it| &it.description).collect();
        return Ok(pretty(&json!(routes)));
    }
    let mut rows = vec![["ROUTE", "METHODS", "HOSTS", "PATH", "WHEN", "GOES TO"].map(str::to_owned)];
    for Route { description, .. } in &snapshot.routes {
        let r#match = &description.r#match;
        let any = |list: &[String]| if list.is_empty() { "any".to_owned() } else { list.join(",") };
        let conditions = conditions(r#match);
        rows.push([
            description.name.clone(),
            any(&r#match.methods),
            any(&r#match.hosts),
            r#match.patterns().join(" "),
            if conditions.is_empty() { "always".to_owned() } else { conditions.join(", ") },
            goes_to(&description.action),
        ]);
    }
    Ok(columns(&rows))
}

/// `moongate explain METHOD URL`: which route takes a request and which nearly did, the steps that it
/// passes, and where it goes.
///
/// # Errors
/// The file's faults, or a request that could not be one.
pub fn explain(files: &Files, filters: &Filters, wanted: &ExplainRequest, format: Format) -> Result<String, Failure> {
    let snapshot = snapshot(files, filters)?;
    let ExplainRequest { method, url, fields } = wanted;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Failure(format!("`{method}` is not a method")))?;
    let headers = headers(fields)?;
    let (host, raw) = split(url, &headers)?;
    let target = Target::normalise(raw.as_bytes()).map_err(|it| Failure(format!("the gateway answers 400: {it}")))?;
    let websocket = headers.get(UPGRADE).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let request = Request {
        host: host.as_deref(),
        path: target.path(),
        query: target.query(),
        method: &method,
        headers: &headers,
        websocket,
        https: url.starts_with("https://"),
        listener: None,
    };
    let (explanation, route) = explained(&snapshot, request);
    let upstreams = route.map(|it| it.action.upstreams()).unwrap_or_default();
    let upstreams: Vec<&Upstream> = upstreams.into_iter().map(|it| &*snapshot.upstreams[it]).collect();
    let alone = upstreams.first().filter(|_| upstreams.len() == 1);
    let refused = route.and_then(|route| match missing_setting(route, &method, &headers) {
        _ if !takes_path(&snapshot, route, request) => Some(("bad_request", NO_PARAMETERS)),
        Some("match.websocket") => Some(("upgrade_not_allowed", NO_HANDSHAKES)),
        Some(_) => Some(("upgrade_not_allowed", NO_PROTOCOL)),
        None => None,
    });
    match format {
        Format::Json => Ok(pretty(&json!({
            "request": { "method": method.as_str(), "host": host, "target": target.to_string() },
            "match": explanation,
            "refused": refused.map(|it| it.0),
            "route": route.map(|it| &it.description),
            "upstream": alone.map(|it| endpoints(it)),
            "upstreams": upstreams.iter().map(|it| endpoints(it)).collect::<Vec<_>>(),
        }))),
        Format::Human => {
            let on = host.map(|it| format!(" on {it}")).unwrap_or_default();
            let story = story(&explanation, route, &upstreams);
            Ok(format!("{method} {target}{on}\n\n{}{story}", refused.map_or("", |it| it.1)))
        }
    }
}

/// What becomes of a WebSocket's handshake where none is taken.
const NO_HANDSHAKES: &str = "answer     400 upgrade_not_allowed: the route takes no handshakes of WebSockets;\n           \
                             `match.websocket: true` lets it\n\n";

/// What becomes of an upgrade to a protocol that the route does not name.
const NO_PROTOCOL: &str = "answer     400 upgrade_not_allowed: the route does not change to this protocol;\n           \
                           `upgrade`, with its name alone in the list, lets it\n\n";

/// What becomes of a path with parameters that two servers could read as two.
const NO_PARAMETERS: &str = "answer     400 bad_request: a server that cuts the path's parameters off reads another path;\n           \
                             `path_parameters: true` lets the route take them, where that leads past no `auth`\n\n";

/// As `proxy/way.rs` does it: without its parameters, a path is not to be another route's.
fn takes_path(snapshot: &Snapshot, route: &Route, request: Request<'_>) -> bool {
    let Some(cut) = without_parameters(request.path) else { return true };
    let Ok(target) = Target::normalise(cut.as_bytes()) else { return false };
    let number = |route: &Route| snapshot.routes.iter().position(|it| it.name == route.name);
    let other = explained(snapshot, Request { path: target.path(), ..request }).1.and_then(number);
    number(route).is_none_or(|it| snapshot.takes_parameters(it, other))
}

/// As `proxy/way.rs` does it: a preflight is answered by the route of the request that it announces.
fn explained<'s>(snapshot: &'s Snapshot, request: Request<'_>) -> (Explanation, Option<&'s Route>) {
    let look = |request: Request<'_>| {
        let explanation = snapshot.table.explain(&request);
        let name = match &explanation.outcome {
            Verdict::Found { route, .. } => Some(route.as_str()),
            _ => None,
        };
        let route = snapshot.routes.iter().find(|it| Some(&*it.name) == name);
        (explanation, route)
    };
    if let Some(method) = announced_method(request.method, request.headers)
        && let (explanation, Some(route)) = look(Request { method: &method, ..request })
        && route.chain.cors.is_some()
    {
        return (explanation, Some(route));
    }
    look(request)
}

/// `moongate schema config|routes`: the JSON Schema of a file.
pub fn schema(file: &str, filters: &Filters) -> String {
    pretty(&schema_for_editors(match file {
        "config" => schema_of::<GatewayFile>(),
        _ => routes_schema(filters, &ServiceRegistry::standard()),
    }))
}

fn snapshot(files: &Files, filters: &Filters) -> Result<Snapshot, Failure> {
    let compiled = compile_routes(&files.routes, &ServiceRegistry::standard(), filters, Mode::of_environment());
    compiled.map(|(_, snapshot)| snapshot).map_err(|it| Failure(it.to_string()))
}

fn headers(fields: &[String]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let parsed = field.split_once(':').and_then(|(name, value)| {
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) =
            parsed.ok_or_else(|| Failure(format!("`{field}` is not a header field; write it as 'name: value'")))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Host and target of a URL, or of a path.
fn split(url: &str, headers: &HeaderMap) -> Result<(Option<String>, String), Failure> {
    let said = headers.get(HOST).and_then(|it| it.to_str().ok()).map(str::to_owned);
    if url.starts_with('/') {
        return Ok((said, url.to_owned()));
    }
    let wrong = || Failure(format!("`{url}` is neither a URL nor a path"));
    let (_, rest) = url.split_once("://").ok_or_else(wrong)?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    authority.parse::<Uri>().map_err(|_| wrong())?;
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((said.or_else(|| Some(authority.to_owned())), target))
}

fn endpoints(upstream: &Upstream) -> Value {
    let local = match &upstream.kind {
        UpstreamKind::Local(local) => Some(local.service.to_string()),
        UpstreamKind::Remote => None,
    };
    let endpoint = |it: &EndpointSpec| {
        let mut shown = json!({ "address": it.address, "weight": it.weight });
        if let Some(zone) = &it.zone {
            shown["zone"] = json!(**zone);
        }
        shown
    };
    let endpoints: Vec<_> = upstream.endpoints.iter().map(endpoint).collect();
    json!({ "name": &*upstream.name, "local": local, "balance": upstream.balance, "zones": zones(upstream), "endpoints": endpoints })
}

/// Which zone is preferred, if one is. The gateway's own is said elsewhere, and this looks at routes alone.
fn zones(upstream: &Upstream) -> Option<Value> {
    upstream.own_zone.as_ref().map(|_| json!({ "prefer": "same" }))
}

fn story(explanation: &Explanation, route: Option<&Route>, upstreams: &[&Upstream]) -> String {
    let mut out = String::new();
    outcome(&mut out, &explanation.outcome);
    if let Some(Route { description, .. }) = route {
        described(&mut out, description);
    }
    upstreams.iter().for_each(|it| destination(&mut out, it));
    near(&mut out, explanation);
    out
}

fn outcome(out: &mut String, verdict: &Verdict) {
    let _ = match verdict {
        Verdict::Found { route, path, params } => {
            let captured: Vec<_> = params.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            let _ = writeln!(out, "route      {route}");
            let _ = writeln!(out, "path       {path}");
            match captured.is_empty() {
                true => Ok(()),
                false => writeln!(out, "captured   {}", captured.join(", ")),
            }
        }
        Verdict::NotFound => writeln!(out, "no route   the gateway answers 404"),
        Verdict::MethodNotAllowed { allow } => writeln!(out, "no route   the gateway answers 405, Allow: {allow}"),
        Verdict::NotAcceptable => writeln!(out, "no route   the gateway answers 406"),
    };
}

fn described(out: &mut String, description: &Description) {
    let r#match = &description.r#match;
    let lists = [
        ("methods", r#match.methods.clone()),
        ("hosts", r#match.hosts.clone()),
        ("when", conditions(r#match)),
        ("policies", description.r#use.clone()),
    ];
    for (word, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
        let _ = writeln!(out, "{word:<10} {}", list.join(", "));
    }
    let _ = writeln!(out, "goes to    {}", goes_to(&description.action));
    if let Some(mirror) = &description.mirror {
        let _ = writeln!(out, "copied     {} % to {}", mirror.percent, mirror.upstream);
    }
    if description.maintenance == Some(OnMaintenance::Ignore) {
        let _ = writeln!(out, "also       in maintenance");
    }
    let _ = writeln!(out, "\nsteps, in order");
    for (number, step) in description.steps.iter().enumerate() {
        // `jwt: {}` says something: that tokens are required.
        let said = if step.step == "auth" { Some(step.settings.clone()) } else { lean(&step.settings) };
        let settings = said.map(|it| it.to_string()).unwrap_or_default();
        let line = format!("  {}. {:<17} {settings}", number + 1, step.step);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let limits = ["connect", "first_byte", "request", "idle"];
    let limits = limits.iter().filter_map(|name| Some(format!("{name} {}", description.timeouts.get(name)?)));
    let _ = writeln!(out, "\ntimeouts   {}", limits.collect::<Vec<_>>().join(", "));
    let _ = writeln!(out, "body       at most {}", description.body_limit);
    if let Some(limit) = description.response_limit {
        let _ = writeln!(out, "response   at most {limit}");
    }
    if description.upstream_errors.is_some() {
        let _ = writeln!(out, "errors     of the upstream in the gateway's own shape");
    }
}

fn destination(out: &mut String, upstream: &Upstream) {
    let _ = match &upstream.kind {
        UpstreamKind::Local(LocalUpstream { settings: Some(files), written_as: "files", .. }) => {
            let root = files.value()["root"].as_str().unwrap_or_default();
            writeln!(out, "\nupstream   {}: the files below {root}", upstream.name)
        }
        UpstreamKind::Local(local) => {
            writeln!(out, "\nupstream   {}: the local service `{}`, in this process", upstream.name, local.service)
        }
        UpstreamKind::Remote => {
            let balance = json!(upstream.balance);
            let zones = if upstream.own_zone.is_some() { ", in the gateway's own zone first" } else { "" };
            writeln!(out, "\nupstream   {}, {}{zones}", upstream.name, balance.as_str().unwrap_or_default())
        }
    };
    for endpoint in &upstream.endpoints {
        let zone = endpoint.zone.as_deref().map(|it| format!(" zone {it}")).unwrap_or_default();
        let _ = writeln!(out, "  {} weight {}{zone}", endpoint.address, endpoint.weight);
    }
}

/// What a route requires beyond host, path and method, a text each.
fn conditions(r#match: &MatchConfig) -> Vec<String> {
    let told = |field: &str, rule: &ValueMatch| match rule {
        ValueMatch::Exact(text) | ValueMatch::Rule(ValueRule::Exact(text)) => format!("{field}={text}"),
        ValueMatch::Rule(ValueRule::Prefix(text)) => format!("{field}={text}*"),
        ValueMatch::Rule(ValueRule::Present(true)) => field.to_owned(),
        ValueMatch::Rule(ValueRule::Present(false)) => format!("no {field}"),
    };
    let headers = r#match.headers.iter().map(|(name, rule)| told(name, rule));
    let query = r#match.query.iter().map(|(name, rule)| told(&format!("?{name}"), rule));
    let mut list: Vec<String> = headers.chain(query).collect();
    if !r#match.accept.is_empty() {
        list.push(format!("accept {}", r#match.accept.join(" or ")));
    }
    if let Some(scheme) = r#match.scheme {
        list.push(format!("scheme {}", scheme.as_str()));
    }
    if let Some(listener) = &r#match.listener {
        list.push(format!("listener {listener}"));
    }
    if r#match.websocket.only() {
        list.push("websocket".to_owned());
    }
    list
}

/// Settings without those that say nothing.
fn lean(settings: &Value) -> Option<Value> {
    match settings {
        Value::Null => None,
        Value::Array(list) if list.is_empty() => None,
        Value::Object(map) => {
            let said: serde_json::Map<_, _> =
                map.iter().filter_map(|(name, value)| Some((name.clone(), lean(value)?))).collect();
            (!said.is_empty()).then_some(Value::Object(said))
        }
        value => Some(value.clone()),
    }
}

fn near(out: &mut String, explanation: &Explanation) {
    if explanation.near.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nnearly");
    let rows: Vec<_> =
        explanation.near.iter().map(|it| [it.route.clone(), it.path.clone(), it.reasons.join("; ")]).collect();
    columns(&rows).lines().for_each(|line| {
        let _ = writeln!(out, "  {line}");
    });
    if explanation.more > 0 {
        let _ = writeln!(out, "  and {} more", explanation.more);
    }
}

fn goes_to(action: &Value) -> String {
    if let Some(upstream) = action["upstream"].as_str() {
        return format!("upstream {upstream}");
    }
    if action["redirect"] == "https" {
        return "redirect https".to_owned();
    }
    if let Some(parts) = action["split"].as_array() {
        let part = |it: &Value| {
            let name = it["upstream"].as_str().unwrap_or_default();
            format!("{} % to {name}", it["percent"])
        };
        let parts: Vec<String> = parts.iter().map(part).collect();
        return format!("split {}, {}", parts.join(", "), kept_by(&action["split_by"]));
    }
    if let Some(parts) = action["aggregate"].as_object() {
        let part = |(name, it): (&String, &Value)| {
            let required = if it["required"] == true { " (required)" } else { "" };
            format!("{name} of {}{required}", it["upstream"].as_str().unwrap_or_default())
        };
        return format!("aggregate {}", parts.iter().map(part).collect::<Vec<_>>().join(", "));
    }
    if let Some(to) = action["redirect"]["to"].as_str() {
        return format!("redirect {to}");
    }
    format!("answer {}", action["respond"]["status"].as_u64().unwrap_or(200))
}

/// What callers keep their part of a split by.
fn kept_by(by: &Value) -> String {
    match by {
        Value::String(word) => format!("by {word}"),
        Value::Object(map) => {
            let (kind, name) = map.iter().next().unzip();
            format!("by {} {}", kind.map_or("", String::as_str), name.and_then(Value::as_str).unwrap_or_default())
        }
        _ => "each request anew".to_owned(),
    }
}

pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line: Vec<_> = cells.collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    out
}

pub(super) fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
