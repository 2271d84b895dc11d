//! The README's tour: its commands are run, and its output is what they print.
//!
//! The test stands in for `make run`: the shipped `routes.yaml` with other ports, and two demo back ends.
//! A line of `…` in the README stands for any lines. Each command follows the one before at once, as in a terminal where
//! the whole block is pasted: what has to be waited for is waited for by the tour itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::*;

/// One `$` line and what the README says comes of it.
#[derive(Default)]
struct Turn {
    command: String,
    output: String,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The turns behind the heading `Five minutes`.
fn turns() -> Vec<Turn> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let tour = readme.split("## Five minutes").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut turns: Vec<Turn> = Vec::new();
    for block in tour.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match (line.strip_prefix("$ "), turns.last_mut()) {
                (Some(command), _) => turns.push(Turn { command: command.to_owned(), output: String::new() }),
                (None, Some(turn)) => turn.output += &format!("{line}\n"),
                (None, None) => panic!("output before any command: {line}"),
            }
        }
    }
    turns
}

/// What stands for what: in the README on the left, in this test on the right.
struct Places(Vec<(String, String)>);

impl Places {
    fn here(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    fn there(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (there, here)| text.replace(here, there))
    }
}

/// Whether the output is the README's; `…` on a line of its own stands for any lines.
fn same(expected: &str, output: &str) -> bool {
    match expected.split_once("…\n") {
        None => expected == output,
        Some((head, tail)) => {
            output.starts_with(head) && output.ends_with(tail) && output.len() >= head.len() + tail.len()
        }
    }
}

#[test]
fn the_tour_of_the_readme_is_true() {
    let (one, two) = (DemoProcess::start("one"), DemoProcess::start("two"));
    let back_ends = [
        ("127.0.0.1:9101".to_owned(), one.address.to_string()),
        ("127.0.0.1:9102".to_owned(), two.address.to_string()),
    ];
    let routes = std::fs::read_to_string(repository().join("routes.yaml")).unwrap();
    let gateway_file = std::fs::read_to_string(repository().join("conf/gateway.yaml")).unwrap();
    let gateway = Gateway::with(Places(back_ends.to_vec()).here(&routes))
        .config(gateway_file.replace("0.0.0.0:8080", "127.0.0.1:0").replace("127.0.0.1:9090", "127.0.0.1:0"))
        .file("conf/gateway.yaml", gateway_file)
        .start();
    let mut places = Places(back_ends.to_vec());
    places.0.push(("localhost:8080".into(), gateway.public().to_string()));
    places.0.push(("localhost:9090".into(), gateway.admin().to_string()));
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_moongate"));
    places.0.push(("target/release/moongate".into(), binary.display().to_string()));

    let mut two = Some(two);
    let turns = turns();
    assert!(turns.len() >= 9, "the tour is short");
    for turn in turns {
        if turn.command.starts_with("pkill") {
            // It would end those of others, too.
            drop(two.take().expect("it is stopped once"));
            continue;
        }
        let mut command = Command::new("sh");
        command.args(["-c", &places.here(&turn.command)]).current_dir(gateway.folder().path());
        let output = command.env_remove("MOONGATE_CONFIG").env_remove("MOONGATE_ROUTES").output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = places.there(&String::from_utf8(text).unwrap());
        assert!(same(&turn.output, &text), "$ {}\n--- README\n{}--- now\n{text}", turn.command, turn.output);
    }
    assert!(two.is_none(), "the tour stops a back end");
}
