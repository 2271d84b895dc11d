//! The commands that look at what is configured: `check`, `routes`, `explain`, `schema`. None of them
//! touches the network.

use std::fmt::Write;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Uri};
use serde_json::{Value, json};

use crate::app::{Failure, Files, Format};
use crate::config::{Action, GatewayFile, Route, RoutesFile, Snapshot, compile_files, compile_routes, schema_of};
use crate::routing::{Explanation, Request, Target, Verdict};
use crate::services::Directory;
use crate::upstream::{Upstream, UpstreamKind};

/// `moongate check`: all faults of both files, or one line that says how much there is.
///
/// # Errors
/// The faults, as text.
pub fn check(files: &Files, format: Format) -> Result<String, Failure> {
    match (compile_files(&files.gateway, &files.routes, &Directory::standard()), format) {
        (Ok(compiled), Format::Human) => {
            let (routes, upstreams) = (compiled.snapshot.routes.len(), compiled.snapshot.upstreams.len());
            let (gateway, file) = (files.gateway.display(), files.routes.display());
            Ok(format!(
                "{gateway} and {file} are sound: {routes} routes, {upstreams} upstreams, built-in ones included\n"
            ))
        }
        (Ok(_), Format::Json) => Ok("[]\n".to_owned()),
        (Err(faults), Format::Human) => Err(Failure(faults.render(false))),
        (Err(faults), Format::Json) => Err(Failure(pretty(&json!(faults)))),
    }
}

/// `moongate routes`: the compiled table.
///
/// # Errors
/// The file's faults.
pub fn routes(files: &Files, format: Format) -> Result<String, Failure> {
    let snapshot = snapshot(files)?;
    if format == Format::Json {
        let routes: Vec<_> = snapshot.routes.iter().map(|it| &it.description).collect();
        return Ok(pretty(&json!(routes)));
    }
    let mut rows = vec![["ROUTE", "METHODS", "HOSTS", "PATH", "GOES TO"].map(str::to_owned)];
    for Route { description, .. } in &snapshot.routes {
        let any = |list: &[String]| if list.is_empty() { "any".to_owned() } else { list.join(",") };
        rows.push([
            description.name.clone(),
            any(&description.r#match.methods),
            any(&description.r#match.hosts),
            description.r#match.path.clone(),
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
pub fn explain(files: &Files, method: &str, url: &str, fields: &[String], format: Format) -> Result<String, Failure> {
    let snapshot = snapshot(files)?;
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
    };
    let explanation = snapshot.table.explain(&request);
    let name = match &explanation.outcome {
        Verdict::Found { route, .. } => Some(route.as_str()),
        _ => None,
    };
    let route = snapshot.routes.iter().find(|it| Some(&*it.name) == name);
    let upstream = route.and_then(|it| match it.action {
        Action::Upstream(number) => Some(&*snapshot.upstreams[number]),
        Action::Redirect(_) | Action::Respond(_) => None,
    });
    match format {
        Format::Json => Ok(pretty(&json!({
            "request": { "method": method.as_str(), "host": host, "target": target.to_string() },
            "match": explanation,
            "route": route.map(|it| &it.description),
            "upstream": upstream.map(endpoints),
        }))),
        Format::Human => Ok(story(&method, host.as_deref(), &target, &explanation, route, upstream)),
    }
}

/// `moongate schema config|routes`: the JSON Schema of a file.
pub fn schema(file: &str) -> String {
    pretty(&if file == "config" { schema_of::<GatewayFile>() } else { schema_of::<RoutesFile>() })
}

fn snapshot(files: &Files) -> Result<Snapshot, Failure> {
    let compiled = compile_routes(&files.routes, &Directory::standard());
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
        UpstreamKind::Local(service) => Some(service.to_string()),
        UpstreamKind::Remote => None,
    };
    let endpoints: Vec<_> =
        upstream.endpoints.iter().map(|it| json!({ "address": it.address, "weight": it.weight })).collect();
    json!({ "name": &*upstream.name, "local": local, "balance": upstream.balance, "endpoints": endpoints })
}

fn story(
    method: &Method,
    host: Option<&str>,
    target: &Target<'_>,
    explanation: &Explanation,
    route: Option<&Route>,
    upstream: Option<&Upstream>,
) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{method} {target}{}", host.map(|it| format!(" on {it}")).unwrap_or_default());
    let _ = match &explanation.outcome {
        Verdict::Found { route, .. } => writeln!(out, "\nroute      {route}"),
        other => writeln!(out, "\nno route   {}", json!(other)),
    };
    if let Some(route) = route {
        let description = &route.description;
        let _ = writeln!(out, "match      {}", json!(description.r#match));
        if !description.r#use.is_empty() {
            let _ = writeln!(out, "policies   {}", description.r#use.join(", "));
        }
        let _ = writeln!(out, "goes to    {}", goes_to(&description.action));
        let _ = writeln!(out, "\nsteps, in order");
        for (number, step) in description.steps.iter().enumerate() {
            let settings = if step.settings.is_null() { String::new() } else { step.settings.to_string() };
            let _ = writeln!(out, "  {}. {:<18} {settings}", number + 1, step.step);
        }
        let timeouts: Vec<_> = description.timeouts.iter().map(|(name, length)| format!("{name} {length}")).collect();
        let _ = writeln!(out, "\ntimeouts   {}", timeouts.join(", "));
        let _ = writeln!(out, "body       at most {}", description.body_limit);
    }
    if let Some(upstream) = upstream {
        let _ = writeln!(out, "\nupstream   {}", upstream.name);
        for endpoint in &upstream.endpoints {
            let _ = writeln!(out, "  {} weight {}", endpoint.address, endpoint.weight);
        }
    }
    near(&mut out, explanation);
    out
}

fn near(out: &mut String, explanation: &Explanation) {
    if explanation.near.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nnearly");
    for miss in &explanation.near {
        let _ = writeln!(out, "  {:<20} {:<30} {}", miss.route, miss.path, miss.reasons.join("; "));
    }
    if explanation.more > 0 {
        let _ = writeln!(out, "  and {} more", explanation.more);
    }
}

fn goes_to(action: &Value) -> String {
    if let Some(upstream) = action["upstream"].as_str() {
        return format!("upstream {upstream}");
    }
    if let Some(to) = action["redirect"]["to"].as_str() {
        return format!("redirect {to}");
    }
    format!("answer {}", action["respond"]["status"].as_u64().unwrap_or(200))
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
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

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
