//! Thousands of broken files: every place for a secret, every way to write one wrongly, every kind of text that a
//! secret can be. Whatever is said of them, no piece of a secret is in it.
//!
//! The files go through what `check`, a start and a reload all go through, in this process, so that there can be
//! thousands. The secrets are of letters that no word of ours has next to each other, and they are looked for piece by
//! piece: a message that was cut in the middle of one is a leak, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use moongate::base::Diagnostics;
use moongate::config::{GatewayFile, Known, Mode, Process, RoutesFile, Snapshot, routes_schema};
use moongate::pipeline::Filters;
use moongate::services::ServiceRegistry;
use moongate::yaml::{Document, Faults, schema_of};
use serde_json::Value;

use super::broken::{KINDS, WRITERS};
use super::places::{GATEWAY, ROUTES};

/// So many letters of a secret next to each other are a leak.
const PIECE: usize = 5;
/// Letters of which no word has five.
const LETTERS: &[u8] = b"qzxjvkwpfhgyb";

/// Ten letters that are no word, another ten for each number.
fn letters(number: usize) -> String {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[(state % LETTERS.len() as u64) as usize])
    };
    (0..10).map(|_| next()).collect()
}

/// The pieces of secrets: whatever is written around them, they are found.
#[derive(Default)]
struct Hunted {
    pieces: Vec<String>,
}

impl Hunted {
    /// Ten letters to be hunted for.
    fn letters(&mut self, number: usize) -> String {
        let letters = letters(number);
        self.pieces.extend((0..=letters.len() - PIECE).map(|at| letters[at..at + PIECE].to_owned()));
        letters
    }

    /// The first piece that stands in a text.
    fn in_text(&self, text: &str) -> Option<&str> {
        let text = text.to_lowercase();
        self.pieces.iter().map(String::as_str).find(|it| text.contains(it))
    }
}

/// Both schemas, made once.
struct Schemas {
    gateway: Value,
    routes: Value,
    services: ServiceRegistry,
    filters: Filters,
}

impl Schemas {
    fn new() -> Self {
        let (services, filters) = (ServiceRegistry::standard(), Filters::none());
        Self { gateway: schema_of::<GatewayFile>(), routes: routes_schema(&filters, &services), services, filters }
    }

    /// All that is said of a file. The environment has `CAN`, the store `can`, with this value.
    fn said(&self, which: Which, text: &str, can: &str) -> Faults {
        let environment = |name: &str| (name == "CAN").then(|| can.to_owned());
        let schema = if which == Which::Gateway { &self.gateway } else { &self.routes };
        let mut document = match Document::parse("a.yaml", text, schema, &environment) {
            Ok(document) => document,
            Err(faults) => return faults,
        };
        document.fill_secrets(&|_, name| match name {
            "can" => Ok(can.to_owned()),
            _ => Err((format!("there is no secret `{name}`"), None)),
        });
        let mut diagnostics = Diagnostics::default();
        match which {
            Which::Gateway => {
                let file: GatewayFile = document.load(&mut diagnostics).unwrap_or_default();
                Process::compile(&file, &mut diagnostics).check_machine(&mut diagnostics);
            }
            Which::Routes => {
                let file: Option<RoutesFile> = document.load(&mut diagnostics);
                let (services, filters) = (&self.services, &self.filters);
                let known = Known { services, filters, issuers: None, own_key: None, given_roles: None, zone: None };
                let compile = |file| Snapshot::compile(file, file, known.clone(), Mode::Dev, &mut diagnostics);
                file.as_ref().map(compile);
            }
        }
        let mut faults = document.place(&diagnostics);
        faults.extend(document.place_warnings(&diagnostics));
        faults
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Which {
    Gateway,
    Routes,
}

/// What came out, by what was done; a storm tells all of it and not the first drop.
#[derive(Default)]
struct Leaks {
    files: usize,
    found: BTreeMap<String, (usize, String)>,
}

impl Leaks {
    fn look(&mut self, name: &str, faults: &Faults, hunted: &Hunted, text: &str) {
        self.files += 1;
        let shown = format!("{}\n{}", faults.render(false), serde_json::to_string(faults).unwrap());
        if let Some(piece) = hunted.in_text(&shown) {
            let lines = shown.lines().filter(|it| it.to_lowercase().contains(piece)).take(3);
            let lines = lines.map(|it| it.chars().take(400).collect::<String>()).collect::<Vec<_>>().join("\n    ");
            let entry = self.found.entry(name.to_owned()).or_default();
            entry.0 += 1;
            if entry.0 == 1 {
                let text = text.lines().filter(|it| it.to_lowercase().contains(piece)).take(2).collect::<Vec<_>>();
                entry.1 = format!("{piece}: {}\n    {lines}", text.join(" ⏎ "));
            }
        }
    }

    #[track_caller]
    fn none(&self, least: usize) {
        assert!(self.files >= least, "{} files are too few", self.files);
        let mut story = String::new();
        for (name, (count, first)) in &self.found {
            let _ = writeln!(story, "{name} ({count} times): {first}");
        }
        assert!(self.found.is_empty(), "{} ways out in {} files:\n{story}", self.found.len(), self.files);
    }
}

/// A template in which each place has a line of its own.
fn in_blocks(text: &str) -> String {
    let value: serde_yaml::Value = serde_yaml::from_str(&numbered(text)).unwrap();
    let text = serde_yaml::to_string(&value).unwrap();
    let entry = |line: &str| match line.split_once("place-") {
        Some((before, rest)) => {
            let indent = before.len() - before.trim_start().len();
            let (_, key) = rest.split_once(':').unwrap();
            format!("{}‹{}›", &before[..indent], key.trim())
        }
        None => line.to_owned(),
    };
    text.lines().map(entry).collect::<Vec<_>>().join("\n") + "\n"
}

/// A template with `place-N: key` for each place.
fn numbered(text: &str) -> String {
    let mut out = String::new();
    for (number, piece) in text.split('‹').enumerate() {
        match piece.split_once('›') {
            Some((key, rest)) => write!(out, "place-{number}: {key}{rest}").unwrap(),
            None => out += piece,
        }
    }
    out
}

/// A template with each place written by `write`, from its key, its number and the indentation of its line.
fn written(text: &str, mut write: impl FnMut(&str, usize, &str) -> String) -> String {
    let mut out = String::new();
    for (number, piece) in text.split('‹').enumerate() {
        let Some((key, rest)) = piece.split_once('›') else {
            out += piece;
            continue;
        };
        let line = out.rsplit('\n').next().unwrap_or_default();
        let indent = " ".repeat(line.len() - line.trim_start().len());
        out += &write(key, number - 1, &indent);
        out += rest;
    }
    out
}

/// What can't be told from an honest slip: a word where a name is due is taken for a name, and `${WORD}` for a variable.
fn is_deliberate(writer: &str, kind: &str) -> bool {
    let as_name =
        ["as the key", "as a plain key", "as the key alone", "as a set", "merged as a text"].contains(&writer);
    let like_name = [
        "a word",
        "capitals",
        "long",
        "braces around",
        "braces around two",
        "with colons",
        "a hash inside",
        "a comma and a slash",
    ]
    .contains(&kind);
    let as_variable = ["a variable without braces", "a variable without its end"].contains(&writer)
        && ["braces around", "braces around two", "a variable's end inside"].contains(&kind);
    (as_name && like_name) || as_variable
}

/// Both files with this writer's work at one place and at all, the other places as they should be.
fn blow(
    schemas: &Schemas,
    leaks: &mut Leaks,
    (which, template): (Which, &str),
    name: &str,
    (number, other): (usize, usize),
) {
    let ((writer, write), (kind, make)) = (WRITERS[number], KINDS[other]);
    let turn = (number * 7 + other) % template.matches('‹').count();
    for target in [Some(turn), None] {
        let mut hunted = Hunted::default();
        let can = make(&hunted.letters(9000));
        let text = written(template, |key, place, indent| {
            let secret = make(&hunted.letters(place));
            match target.is_none_or(|it| it == place) {
                true => write(key, &secret).replace('\n', &format!("\n{indent}")).replace('⏎', "\n"),
                false => format!("{key}: {}", serde_json::to_string(&secret).unwrap()),
            }
        });
        let said = schemas.said(which, &text, &can);
        leaks.look(&format!("{name}: {writer} / {kind}"), &said, &hunted, &text);
    }
}

/// Each way to write each kind goes into one of the four texts. With `MOONGATE_STORM` in the environment it goes into
/// all of them, which takes minutes.
#[test]
fn a_storm_of_broken_files_shows_no_piece_of_a_secret() {
    let (schemas, mut leaks) = (Schemas::new(), Leaks::default());
    let whole = std::env::var("MOONGATE_STORM").is_ok();
    let texts = [
        ("gateway.yaml, flow", Which::Gateway, GATEWAY.to_owned()),
        ("gateway.yaml, block", Which::Gateway, in_blocks(GATEWAY)),
        ("routes.yaml, flow", Which::Routes, ROUTES.to_owned()),
        ("routes.yaml, block", Which::Routes, in_blocks(ROUTES)),
    ];
    for (index, (name, which, template)) in texts.iter().enumerate() {
        for (number, other) in (0..WRITERS.len()).flat_map(|it| (0..KINDS.len()).map(move |other| (it, other))) {
            let its_turn = whole || (number + other) % texts.len() == index;
            if its_turn && !is_deliberate(WRITERS[number].0, KINDS[other].0) {
                blow(&schemas, &mut leaks, (*which, template.as_str()), name, (number, other));
            }
        }
    }
    leaks.none(3000);
}

/// Every YAML block of the documentation.
fn blocks() -> Vec<serde_yaml::Value> {
    let pages = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
    let mut pages: Vec<_> =
        pages.map(|it| it.unwrap().path()).filter(|it| it.extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    let text = pages.iter().map(|it| std::fs::read_to_string(it).unwrap()).collect::<String>();
    let blocks = text.split("```yaml").skip(1).map(|it| it.split("```").next().unwrap().to_owned());
    let block = |text: String| {
        let (info, text) = text.split_once('\n').unwrap();
        let value: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
        if !info.contains("fragment") {
            return value.is_mapping().then_some(value);
        }
        let mut whole: serde_yaml::Value = serde_yaml::from_str(
            "{ version: 1, policies: { patient: {} }, upstreams: { players: { discovery: { static: ['127.0.0.1:9101'] } } } }",
        )
        .unwrap();
        whole.as_mapping_mut().unwrap().insert("routes".into(), value);
        Some(whole)
    };
    blocks.filter_map(block).collect()
}

/// Shows the whole to `look` with a variable in the place of each of its values, one after the other.
fn each(whole: &serde_yaml::Value, look: &mut impl FnMut(serde_yaml::Value, &str)) {
    fn at<'v>(value: &'v mut serde_yaml::Value, path: &[usize]) -> &'v mut serde_yaml::Value {
        path.iter().fold(value, |here, step| match here {
            serde_yaml::Value::Sequence(list) => &mut list[*step],
            serde_yaml::Value::Mapping(map) => map.values_mut().nth(*step).unwrap(),
            _ => unreachable!("a path leads through lists and mappings"),
        })
    }
    fn paths(value: &serde_yaml::Value, path: &mut Vec<usize>, all: &mut Vec<(Vec<usize>, String)>, name: &str) {
        all.push((path.clone(), name.to_owned()));
        let mut below = |number: usize, name: &str, value: &serde_yaml::Value| {
            path.push(number);
            paths(value, path, all, name);
            path.pop();
        };
        match value {
            serde_yaml::Value::Sequence(list) => list.iter().enumerate().for_each(|(it, value)| below(it, name, value)),
            serde_yaml::Value::Mapping(map) => {
                for (number, (key, value)) in map.iter().enumerate() {
                    below(number, key.as_str().unwrap_or_default(), value);
                }
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    paths(whole, &mut Vec::new(), &mut all, "");
    for (path, name) in all {
        let mut whole = whole.clone();
        *at(&mut whole, &path) = "${CAN}".into();
        look(whole, &name);
    }
}

#[test]
fn wherever_a_variable_stands_what_it_brings_is_not_shown() {
    let schemas = Schemas::new();
    let (mut leaks, mut number) = (Leaks::default(), 0);
    for block in blocks() {
        let which = if block.get("version").is_some() { Which::Routes } else { Which::Gateway };
        each(&block, &mut |whole, name| {
            number += 1;
            let (kind, make) = KINDS[number % KINDS.len()];
            let mut hunted = Hunted::default();
            let can = make(&hunted.letters(number));
            let text = serde_yaml::to_string(&whole).unwrap();
            leaks.look(&format!("{which:?}: {name} / {kind}"), &schemas.said(which, &text, &can), &hunted, &can);
        });
    }
    leaks.none(500);
}
