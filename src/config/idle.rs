//! What `routes.yaml` holds and nothing comes of: a warning, since it may be there for later, and is more often a name
//! that was changed in one place only.

use serde_json::Value;

use crate::base::{At, Diagnostics};
use crate::config::routes_file::RoutesFile;
use crate::services::ServiceRegistry;

/// Warns of upstreams and policies that nothing uses, and of a service for signing in that could sign nothing.
pub(super) fn warn(file: &RoutesFile, own_key: Option<bool>, diagnostics: &mut Diagnostics) {
    unused_upstreams(file, diagnostics);
    unused_policies(file, diagnostics);
    let at = At::ROOT.key("upstreams");
    for (name, _) in file.upstreams.iter().filter(|(_, it)| it.local.as_deref() == Some("auth")) {
        if own_key == Some(false) {
            diagnostics.warn(&at.key(name).key("local"), "nobody can sign in: there is no key for tokens").help(
                "set `tokens: { hs256_secret: \"${PROXY_JWT_SECRET}\" }` or `tokens.signing_key` in gateway.yaml",
            );
        }
    }
}

fn unused_upstreams(file: &RoutesFile, diagnostics: &mut Diagnostics) {
    let standard = ServiceRegistry::standard();
    let is_added = |name: &str| !standard.names().any(|it| it == name);
    // A service that was added may call any of them.
    if file.upstreams.values().filter_map(|it| it.local.as_deref()).any(is_added) {
        return;
    }
    let settings = || file.upstreams.values().filter_map(|it| it.settings.as_ref());
    let is_used = |name: &str| {
        file.routes.iter().any(|it| it.upstreams().any(|it| it == name))
            || file.upstreams.values().any(|it| it.depends_on.iter().any(|it| it == name))
            || settings().any(|it| says(it.value(), name))
    };
    let at = At::ROOT.key("upstreams");
    for name in file.upstreams.keys().filter(|it| !is_used(it)) {
        diagnostics
            .warn(&at.key(name), format!("no route leads to upstream `{name}`"))
            .help(format!("write `upstream: {name}` in a route, or remove it"));
    }
}

fn unused_policies(file: &RoutesFile, diagnostics: &mut Diagnostics) {
    let at = At::ROOT.key("policies");
    for name in file.policies.keys().filter(|name| !file.routes.iter().any(|it| it.r#use.contains(name))) {
        diagnostics
            .warn(&at.key(name), format!("no route uses policy `{name}`"))
            .help(format!("write `use: [{name}]` in a route, or remove it"));
    }
}

/// Whether a text stands anywhere in some settings.
fn says(settings: &Value, text: &str) -> bool {
    match settings {
        Value::String(it) => it == text,
        Value::Array(list) => list.iter().any(|it| says(it, text)),
        Value::Object(map) => map.values().any(|it| says(it, text)),
        _ => false,
    }
}
