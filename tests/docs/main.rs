//! The documentation holds: what is generated is current, and every file that it shows loads.
//!
//! `make schema` makes anew what is generated: it runs these tests with `MOONGATE_REFRESH=1`.

#![allow(clippy::unwrap_used)] // here a panic is the report

mod blocks;
mod errors;
mod filters;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use moongate::config::{GatewayFile, routes_schema};
use moongate::pipeline::Filters;
use moongate::services::ServiceRegistry;
use moongate::yaml::{schema_for_editors, schema_of};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that is written for people: `README.md` and `docs/*.md`.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|it| it.unwrap().path());
    let mut pages: Vec<_> = docs.filter(|it| it.extension().is_some_and(|it| it == "md")).collect();
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}

/// Asserts that a file holds this text, or writes it when asked to.
#[track_caller]
fn current(name: &str, text: &str) {
    let path = root().join(name);
    if std::env::var_os("MOONGATE_REFRESH").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // By a rename: other tests read pages at the same time.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &path).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{name} is stale: run `make schema` and commit what it changes");
}

/// The same for a page of which only the part between these two lines is generated.
#[track_caller]
fn current_part(name: &str, generated: &str) {
    const BEGIN: &str = "<!-- From here on generated from the source by `make schema`. -->\n";
    const END: &str = "<!-- Up to here. -->\n";
    let page = fs::read_to_string(root().join(name)).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap_or_else(|| panic!("{name} has no line {BEGIN}"));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{name} has no line {END}"));
    current(name, &format!("{before}{BEGIN}\n{generated}\n{END}{after}"));
}

/// The schema of the binary as it is shipped.
fn routes() -> serde_json::Value {
    routes_schema(&Filters::none(), &ServiceRegistry::standard())
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

#[test]
fn the_schemas_are_current() {
    current("docs/schema/gateway.json", &pretty(&schema_for_editors(schema_of::<GatewayFile>())));
    current("docs/schema/routes.json", &pretty(&schema_for_editors(routes())));
}

#[test]
fn the_reference_of_routes_yaml_is_current() {
    current_part("docs/ROUTES.md", &reference::of("routes.yaml", &routes()));
}

#[test]
fn the_reference_of_gateway_yaml_is_current() {
    current_part("docs/CONFIG.md", &reference::of("gateway.yaml", &schema_of::<GatewayFile>()));
}

#[test]
fn the_list_of_errors_is_current() {
    current_part("docs/ERRORS.md", &errors::table());
}

#[test]
fn the_table_of_filters_is_current() {
    current_part("docs/FILTERS.md", &filters::table());
}

#[test]
fn every_yaml_block_loads() {
    let mut count = 0;
    for page in pages() {
        for block in blocks::of(&page) {
            count += 1;
            block.check();
        }
    }
    assert!(count >= 6, "only {count} blocks were found");
}

/// Links between pages, and to files of the source.
#[test]
fn every_link_inside_the_repository_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|it| it.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() {
                let target = fs::read_to_string(target).unwrap();
                let found = target.lines().any(|it| it.starts_with('#') && reference::anchor(it) == anchor);
                assert!(found, "{}: {link}", page.display());
            }
        }
    }
}
