//! Holds the arrows of the floor plan. In `src/lib.rs` a blank line ends a layer, highest first; a
//! room may name rooms of lower layers only. Between crates cargo checks this, inside one package
//! we do. It is a test of text: `super::super::` climbs and paths made by macros get past it.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn rooms_use_only_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let layers = layers_of(&fs::read_to_string(root.join("src/lib.rs")).expect("src/lib.rs"));
    assert!(layers.iter().flatten().count() > 1, "src/lib.rs lists no rooms");

    let mut wrong = Vec::new();
    let mut not_below: Vec<&str> = Vec::new();
    for layer in &layers {
        not_below.extend(layer.iter().map(String::as_str));
        for room in layer {
            for file in files_of(&root.join("src"), room) {
                let text = fs::read_to_string(&file).expect("a source file");
                let upward = |line: &&str| breaks_the_plan(line, room, &not_below);
                let lines = text.lines().filter(upward);
                wrong.extend(lines.map(|line| format!("{}: {}", file.display(), line.trim())));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point down: {wrong:#?}");
}

#[test]
fn arrows_up_and_sideways_and_hidden_ones_are_seen() {
    let layers = layers_of("//! Plan.\n\npub mod app;\n\n// pub mod gone;\npub mod a;\npub mod b;\n");
    assert_eq!(layers, [vec!["app"], vec!["a", "b"]]);
    let not_below = ["app", "a", "b"];
    for (line, expected) in [
        ("use crate::app::run;", true),
        ("use crate::b;", true),
        ("    crate::b::thing()", true),
        ("use crate::{base, b};", true),
        ("use crate::a::Mine;", false),
        ("use crate::base::At;", false),
        ("use crate::bolt::Nut;", false),
        ("// as in crate::b::thing", false),
    ] {
        assert_eq!(breaks_the_plan(line, "a", &not_below), expected, "{line}");
    }
}

/// Whether this line of `room` names a room that is not below it, or hides which one it names.
fn breaks_the_plan(line: &str, room: &str, not_below: &[&str]) -> bool {
    if line.trim_start().starts_with("//") {
        return false;
    }
    line.split("crate::").skip(1).any(|path| {
        let name: String = path.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect();
        path.starts_with(['{', '*']) || (name != room && not_below.contains(&name.as_str()))
    })
}

/// Rooms that are commented out are not built, so they are not looked at.
fn layers_of(lib: &str) -> Vec<Vec<String>> {
    let layers = lib.split("\n\n").map(|layer| {
        let rooms = layer.lines().filter_map(|line| {
            let line = line.trim().trim_start_matches("pub ");
            Some(line.strip_prefix("mod ")?.split_once(';')?.0.to_owned())
        });
        rooms.collect()
    });
    layers.filter(|rooms: &Vec<String>| !rooms.is_empty()).collect()
}

fn files_of(src: &Path, room: &str) -> Vec<PathBuf> {
    let mut files = vec![src.join(format!("{room}.rs"))];
    let mut folders = vec![src.join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a folder's entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| file.extension().is_some_and(|it| it == "rs") && file.exists());
    files
}
