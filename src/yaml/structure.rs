//! Whether a document has the shape of a type: checked against the type's JSON Schema, all at once.
//!
//! What is at fault is cut out of a copy, so that the rest can still be looked at. A cut element
//! moves those behind it in a list; [`Loaded`] knows where each stood in the file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::base::{Diagnostics, Part, nearest};

use super::elsewhere;
use super::forms::{self, flow, scalar};
use super::spans::{escape, short, unescape};
use super::visible::Standing;

/// What to do where a list is due.
const DASHES: &str = "begin each element with a dash: `- `, or put it between `[` and `]`";
/// Begins the path of a diagnostic that is one in the file as written, not in what was loaded.
/// Other paths begin with `/` or are empty.
pub(super) const AS_WRITTEN: char = '#';
/// Each round cuts at least one value; a file that is still not usable after so many is hopeless.
const ROUNDS_MAX: usize = 200;

/// The JSON Schema of `T`, always in the same order.
pub fn schema_of<T: JsonSchema>() -> Value {
    schema_by::<T>(SchemaSettings::draft2020_12().into_generator())
}

/// The same, by a generator that may know more definitions already.
pub fn schema_by<T: JsonSchema>(generator: SchemaGenerator) -> Value {
    let mut rest = generator.into_root_schema_for::<T>().to_value();
    let mut schema = Map::new();
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    let Some(rest) = rest.as_object_mut() else {
        return Value::Object(schema);
    };
    rest.shift_remove("$schema");
    let title = rest.shift_remove("title");
    schema.insert("title".into(), title.unwrap_or_else(|| json!(T::schema_name())));
    if let Some(description) = rest.shift_remove("description") {
        schema.insert("description".into(), description);
    }
    let definitions = rest.shift_remove("$defs");
    schema.append(rest);
    if let Some(Value::Object(mut definitions)) = definitions {
        definitions.sort_keys();
        schema.insert("$defs".into(), Value::Object(definitions));
    }
    Value::Object(schema)
}

/// What was left out, and where the rest stands in the file.
#[derive(Default)]
pub(super) struct Loaded {
    cuts: BTreeMap<String, Cut>,
    /// Of each list with gaps, by its path as loaded: the index in the file of each element.
    kept: HashMap<String, Vec<usize>>,
}

#[derive(Clone, PartialEq)]
enum Cut {
    /// Left out.
    Removed,
    /// An empty mapping in its place: the operator chose its name, and others may refer to it.
    Emptied,
    /// It is needed, and missing or wrong: this stands in for it, so that what is beside it is looked at.
    Replaced(Value),
}

impl Loaded {
    /// The path in the file of a path as loaded. `None` if it names something that was cut, or
    /// from which something was cut: what a room says about that follows from the cut.
    pub(super) fn as_written(&self, loaded: &str) -> Option<String> {
        let path = self.translate(loaded);
        let inside =
            |cut: &str, path: &str| path.strip_prefix(cut).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let parent = |cut: &str| cut.rsplit_once('/').is_some_and(|(parent, _)| parent == path);
        let follows =
            |(at, cut): (&String, &Cut)| inside(at, &path) || (parent(at) && !matches!(cut, Cut::Replaced(_)));
        (!self.cuts.iter().any(follows)).then_some(path)
    }

    fn translate(&self, loaded: &str) -> String {
        let mut path = String::new();
        for (start, token) in tokens(loaded) {
            let index =
                self.kept.get(&loaded[..start]).and_then(|kept| kept.get(token.parse::<usize>().ok()?).copied());
            match index {
                Some(index) => path.push_str(&format!("/{index}")),
                None => path.push_str(&format!("/{token}")),
            }
        }
        path
    }

    /// A copy of `value` without what was cut.
    fn rest_of(&mut self, value: &Value) -> Option<Value> {
        self.kept.clear();
        self.copy(value, &mut String::new(), &mut String::new())
    }

    fn copy(&mut self, value: &Value, old: &mut String, new: &mut String) -> Option<Value> {
        match self.cuts.get(old.as_str()) {
            Some(Cut::Removed) => return None,
            Some(Cut::Emptied) => return Some(json!({})),
            Some(Cut::Replaced(value)) => return Some(value.clone()),
            None => {}
        }
        let (old_length, new_length) = (old.len(), new.len());
        match value {
            Value::Array(list) => {
                let (mut copies, mut kept) = (Vec::new(), Vec::new());
                for (index, element) in list.iter().enumerate() {
                    old.push_str(&format!("/{index}"));
                    new.push_str(&format!("/{}", copies.len()));
                    if let Some(copy) = self.copy(element, old, new) {
                        copies.push(copy);
                        kept.push(index);
                    }
                    old.truncate(old_length);
                    new.truncate(new_length);
                }
                if kept.len() < list.len() {
                    self.kept.insert(new.clone(), kept);
                }
                Some(Value::Array(copies))
            }
            Value::Object(map) => {
                let mut copies = Map::new();
                for (key, entry) in map {
                    let step = format!("/{}", escape(key));
                    old.push_str(&step);
                    new.push_str(&step);
                    if let Some(copy) = self.copy(entry, old, new) {
                        copies.insert(key.clone(), copy);
                    }
                    old.truncate(old_length);
                    new.truncate(new_length);
                }
                self.add_missing(old, &mut copies);
                Some(Value::Object(copies))
            }
            other => Some(other.clone()),
        }
    }

    /// Puts what stands in for missing keys into the copy of the mapping at `path`.
    fn add_missing(&self, path: &str, copy: &mut Map<String, Value>) {
        let below = format!("{path}/");
        for (at, cut) in self.cuts.range(below.clone()..).take_while(|(at, _)| at.starts_with(&below)) {
            let key = &at[below.len()..];
            if let (Cut::Replaced(value), false) = (cut, key.contains('/')) {
                copy.entry(unescape(key)).or_insert_with(|| value.clone());
            }
        }
    }

    /// Lets something stand in for a key that is needed; if that was not enough, the whole mapping is cut.
    fn replace(&mut self, path: &str, key: &str, schema: &Value) -> bool {
        let at = format!("{path}/{}", escape(key));
        let again = matches!(self.cuts.get(&at), Some(Cut::Replaced(_)));
        match stand_in(schema, &at).filter(|_| !again) {
            Some(value) => self.put(&at, Cut::Replaced(value)),
            None => self.cut(path, schema),
        }
    }

    /// Cuts the value at a path of the file. False if there is nothing left to cut.
    fn cut(&mut self, path: &str, schema: &Value) -> bool {
        match self.cuts.get(path) {
            None if named_by_operator(schema, path) => self.put(path, Cut::Emptied),
            None | Some(Cut::Emptied) => self.put(path, Cut::Removed),
            Some(Cut::Removed | Cut::Replaced(_)) => match path.rsplit_once('/') {
                Some((parent, _)) => self.cut(parent, schema),
                None => false,
            },
        }
    }

    fn put(&mut self, path: &str, cut: Cut) -> bool {
        self.cuts.insert(path.to_owned(), cut);
        true
    }
}

/// The steps of a pointer, each with where it begins.
fn tokens(pointer: &str) -> impl Iterator<Item = (usize, &str)> {
    pointer.match_indices('/').map(|(at, _)| {
        let rest = &pointer[at + 1..];
        (at, rest.split('/').next().unwrap_or_default())
    })
}

/// Something wrong with the structure; the path is one as loaded.
struct Problem {
    path: String,
    part: Part,
    message: String,
    help: Option<String>,
    /// The key that is missing at the path, if that is the matter.
    missing: Option<String>,
}

/// See `Document::load`; `tainted` says which values must not be shown, `unfilled` of which nothing
/// more is to be reported.
pub(super) fn load<T: DeserializeOwned>(
    value: &serde_yaml::Value,
    schema: &Value,
    diagnostics: &mut Diagnostics,
    tainted: &dyn Fn(&str) -> bool,
    unfilled: &HashSet<String>,
) -> (Option<T>, Loaded) {
    let mut loaded = Loaded::default();
    // Keys are texts by now. Infinite numbers become null, and are refused as such.
    let whole = serde_json::to_value(value).unwrap_or_default();
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(error) => {
            let message = format!("the schema of this file cannot be used: {error}");
            diagnostics.push(AS_WRITTEN.to_string(), Part::Value, message);
            return (None, loaded);
        }
    };
    for round in 0..ROUNDS_MAX {
        let Some(rest) = loaded.rest_of(&whole) else { break };
        let mut problems = Vec::new();
        let explainer = Explainer { schema, value: &rest, loaded: &loaded, tainted };
        for error in validator.iter_errors(&rest) {
            explainer.explain(&error, &mut problems);
        }
        // What is wrong after a cut is wrong because of the cut.
        let mut report = round == 0;
        if problems.is_empty() {
            match T::deserialize(&rest) {
                Ok(value) => return (Some(value), loaded),
                Err(error) => {
                    report = true;
                    problems.push(refused::<T>(&rest, &error));
                }
            }
        }
        // Several problems with one value are one cut.
        let mut at = BTreeSet::new();
        for problem in problems {
            let path = loaded.translate(&problem.path);
            if report && !unfilled.contains(&path) {
                let path = format!("{AS_WRITTEN}{path}");
                diagnostics.push(path, problem.part, problem.message).help = problem.help;
            }
            at.insert((path, problem.missing));
        }
        let mend = |(path, missing): &(String, Option<String>)| match missing {
            Some(key) => loaded.replace(path, key, schema),
            None => loaded.cut(path, schema),
        };
        if !at.iter().all(mend) {
            break;
        }
    }
    (None, loaded)
}

/// Where deserialisation stops although the schema is content: a check in a type's own code.
/// Values are read in order, so the first prefix of a list or mapping that fails with the same
/// words ends with the culprit. What comes after it is dropped: it may fail in the same words.
fn refused<T: DeserializeOwned>(value: &Value, error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    let mut value = value.clone();
    let mut path = String::new();
    while let Some(length) = length_at(&value, &path) {
        let fails = |length: usize| {
            let mut trial = value.clone();
            shorten(&mut trial, &path, length);
            T::deserialize(&trial).is_err_and(|it| it.to_string() == message)
        };
        if length == 0 || fails(0) {
            break;
        }
        // Fails with `high` elements, does not with `low`.
        let (mut low, mut high) = (0, length);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fails(middle) { high = middle } else { low = middle }
        }
        shorten(&mut value, &path, high);
        let step = match value.pointer(&path).and_then(Value::as_object) {
            Some(map) => map.keys().next_back().map(|it| escape(it)).unwrap_or_default(),
            None => low.to_string(),
        };
        path.push_str(&format!("/{step}"));
    }
    Problem::new(path, message)
}

fn length_at(value: &Value, path: &str) -> Option<usize> {
    match value.pointer(path)? {
        Value::Array(list) => Some(list.len()),
        Value::Object(map) => Some(map.len()),
        _ => None,
    }
}

fn shorten(value: &mut Value, path: &str, length: usize) {
    match value.pointer_mut(path) {
        Some(Value::Array(list)) => list.truncate(length),
        Some(Value::Object(map)) => {
            *map = std::mem::take(map).into_iter().take(length).collect();
        }
        _ => {}
    }
}

/// Turns what the validator says into what helps an operator.
struct Explainer<'a> {
    schema: &'a Value,
    value: &'a Value,
    loaded: &'a Loaded,
    tainted: &'a dyn Fn(&str) -> bool,
}

impl Explainer<'_> {
    fn explain(&self, error: &ValidationError<'_>, problems: &mut Vec<Problem>) {
        let path = error.instance_path().as_str().to_owned();
        let schema = self.owner(error.schema_path().as_str());
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => {
                problems.extend(unexpected.iter().map(|it| self.unknown_key(&path, it, schema)));
            }
            // A mapping in which nothing at all may stand.
            Kind::FalseSchema => {
                let unknown = |key: &String| {
                    let help = Some("nothing can stand here: write `{}`".to_owned());
                    Problem { help, ..unknown_key(&path, key, &[]) }
                };
                match self.at(&path) {
                    Value::Object(map) if !map.is_empty() => problems.extend(map.keys().map(unknown)),
                    _ => problems.push(Problem::new(path, "nothing can stand here".to_owned())),
                }
            }
            Kind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let only = schema.get("properties").and_then(|it| only_number(it.get(name)?));
                let help = only.map(|it| format!("write `{name}: {it}`"));
                let missing = Problem::new(path, format!("missing key `{name}`"));
                problems.push(Problem { part: Part::Key, help, missing: Some(name.to_owned()), ..missing });
            }
            Kind::Minimum { .. } | Kind::Maximum { .. } if only_number(schema).is_some() => {
                let only = only_number(schema).unwrap_or_default();
                let help = Some(format!("write `{only}`, the only one there is"));
                problems.push(Problem { help, ..Problem::new(path, plainly(error.kind(), schema, error)) });
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                let branches = self.schema.pointer(error.schema_path().as_str());
                self.branches(&path, branches.unwrap_or(&Value::Null), context, problems);
            }
            Kind::Type { kind } => problems.push(self.wrong_type(path, schema, kind)),
            Kind::Enum { options } => {
                let words: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                problems.push(self.unknown_word(path, &words, &[]));
            }
            Kind::Constant { expected_value } => {
                let words: Vec<&str> = expected_value.as_str().into_iter().collect();
                match words.is_empty() {
                    true => {
                        let message = format!("expected `{expected_value}`");
                        problems.push(Problem::new(path, message));
                    }
                    false => problems.push(self.unknown_word(path, &words, &[])),
                }
            }
            kind => {
                let help = self.hint(&path, schema.get("expected").and_then(Value::as_str).unwrap_or_default());
                problems.push(Problem { help, ..Problem::new(path, plainly(kind, schema, error)) });
            }
        }
    }

    /// A key that is not known here; where it is known just below, that is where it was meant to be.
    fn unknown_key(&self, path: &str, key: &str, schema: &Value) -> Problem {
        let known = keys(schema.get("properties"));
        let problem = unknown_key(path, key, &known);
        if nearest(key, known.iter().copied()).is_some() || elsewhere::key(key, &known).is_some() {
            return problem;
        }
        let holds = |name: &&&str| {
            let mut below = Vec::new();
            variants(self.schema, &schema["properties"][**name], 0, &mut below);
            below.iter().any(|it| it.get("properties").and_then(|it| it.get(key)).is_some())
        };
        let (above, own) = path.rsplit_once('/').unwrap_or_default();
        let help = match known.iter().find(holds) {
            Some(parent) => Some(format!("it belongs under `{parent}`")),
            None if own.is_empty() || !keys_at(self.schema, &self.loaded.translate(above)).contains(&key) => None,
            None => Some(format!("it belongs beside `{}`, not into it", unescape(own))),
        };
        match help {
            Some(_) => Problem { help, ..problem },
            None => problem,
        }
    }

    /// How a value would be written that is of another kind than what is wanted. Repeats none that may be a secret.
    fn hint(&self, path: &str, wanted: &str) -> Option<String> {
        let value = self.at(path);
        let place = self.loaded.translate(path);
        let shown = || value.as_str().is_none_or(|it| Standing::at(self.schema, &place).shows(it));
        if (self.tainted)(&place) || !shown() {
            let number = value.as_str().is_some_and(|it| it.parse::<f64>().is_ok());
            let quoted = wanted.contains("whole number") && number;
            return quoted.then(|| "write it without quotes".to_owned());
        }
        let bare = match value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => short(text),
            Value::Bool(it) => it.to_string(),
            Value::Array(_) | Value::Object(_) | Value::Null => String::new(),
        };
        let number = bare.parse::<f64>().ok();
        if let Some(only) = schemas_at(self.schema, &place).into_iter().find_map(only_number) {
            return Some(format!("write `{only}`, the only one there is"));
        }
        match wanted {
            it if it.contains("a list") && value.is_object() => Some(DASHES.to_owned()),
            it if it.contains("a list") && !bare.is_empty() => Some(self.as_list(&place, value, &bare)),
            it if it.contains("duration") && number == Some(0.0) => {
                Some("a number alone has no unit: write a duration such as `30s` or `500ms`".to_owned())
            }
            it if it.contains("duration") && number.is_some() => {
                Some(format!("a number alone has no unit: write `{bare}s` or `{bare}ms`"))
            }
            it if it.contains("share") && number.is_some() => {
                let share = number.map(|it| if it <= 1.0 { it * 100.0 } else { it }).unwrap_or_default();
                Some(format!("write `{share}%`"))
            }
            it if it.contains("whole number") && value.is_string() && bare.parse::<u64>().is_ok() => {
                Some(format!("write it without quotes: `{bare}`"))
            }
            it if it.contains("a text") && (value.is_number() || value.is_boolean()) => {
                Some(match forms::with(self.schema, &place, value) {
                    Some(ours) => format!("write it as `{}`", flow(&ours)),
                    None => format!("write it in quotes: `\"{bare}\"`"),
                })
            }
            it if it.starts_with("a mapping") && path.is_empty() => {
                Some("a file is made of lines such as `version: 1`".to_owned())
            }
            it if it.starts_with("a mapping") => self.as_mapping(&place, value),
            _ => None,
        }
    }

    /// What could stand where a list is wanted and a scalar was found.
    fn as_list(&self, place: &str, value: &Value, bare: &str) -> String {
        if forms::fits(self.schema, &format!("{place}/0"), value) {
            return format!("write it as a list: `[{}]`", scalar(bare));
        }
        match forms::example(self.schema, place) {
            Some(example) => format!("write it as a list, such as `{}`", flow(&example)),
            None => DASHES.to_owned(),
        }
    }

    /// What could stand where a mapping is wanted and something else was found.
    fn as_mapping(&self, place: &str, value: &Value) -> Option<String> {
        let shortest = forms::with(self.schema, place, value).map(|it| flow(&it));
        if value.is_null() {
            let shortest = shortest.as_deref().unwrap_or("{}");
            return Some(format!("indent what belongs to it deeper than its name, or write `{shortest}`"));
        }
        let schemas = schemas_at(self.schema, place);
        // Of a mapping with free names there is no shortest form.
        let closed = |it: &&&Value| it.get("properties").is_some() || it["additionalProperties"] == false;
        let schema = schemas.iter().filter(closed).find(|it| kinds(it).contains(&"object"))?;
        let known = keys(schema.get("properties"));
        if value.is_boolean()
            && let Some(help) = elsewhere::switch(place.rsplit('/').next().unwrap_or_default(), &known)
        {
            return Some(help.to_owned());
        }
        let needed: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        match shortest {
            Some(shortest) => Some(format!("write `{shortest}`; known in it: {}", known.join(", "))),
            None if !needed.is_empty() => Some(format!("write `{{ {}: ... }}`", needed.join(": ..., "))),
            None if known.is_empty() => Some("write `{}`".to_owned()),
            None => Some(format!("write `{{}}` for its defaults; known in it: {}", known.join(", "))),
        }
    }

    /// The schema object that a keyword belongs to.
    fn owner(&self, keyword: &str) -> &Value {
        let parent = keyword.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema.pointer(parent).unwrap_or(&Value::Null)
    }

    fn at(&self, path: &str) -> &Value {
        self.value.pointer(path).unwrap_or(&Value::Null)
    }

    fn wrong_type(&self, path: String, schema: &Value, kind: &TypeKind) -> Problem {
        let wanted = match (schema.get("expected").and_then(Value::as_str), kind) {
            (Some(expected), _) => expected.to_owned(),
            (None, TypeKind::Single(one)) => noun(one.as_str()).to_owned(),
            (None, TypeKind::Multiple(several)) => {
                let named = several.iter().map(|it| it.as_str()).filter(|it| *it != "null");
                either(&named.map(noun).collect::<Vec<_>>())
            }
        };
        self.mismatch(path, &wanted)
    }

    fn mismatch(&self, path: String, wanted: &str) -> Problem {
        let found = noun(type_of(self.at(&path)));
        let help = self.hint(&path, wanted);
        Problem { help, ..Problem::new(path, format!("expected {wanted}, found {found}")) }
    }

    /// `tags` are words that would be right if something stood under them.
    fn unknown_word(&self, path: String, words: &[&str], tags: &[&str]) -> Problem {
        let Some(word) = self.at(&path).as_str() else {
            return self.mismatch(path, &one_of(words));
        };
        let known: Vec<&str> = words.iter().chain(tags).copied().collect();
        if (self.tainted)(&self.loaded.translate(&path)) {
            let message = "the environment brings in an unknown word".to_owned();
            let help = Some(format!("known here: {}", known.join(", ")));
            return Problem { help, ..Problem::new(path, message) };
        }
        let help = match (elsewhere::word(word, &known), nearest(word, known.iter().copied())) {
            (Some(ours), _) => ours.to_owned(),
            (None, Some(tag)) if tags.contains(&tag) => {
                format!("write it as a mapping: `{{ {tag}: ... }}`")
            }
            (None, Some(word)) => format!("did you mean `{word}`?"),
            (None, None) => format!("known here: {}", known.join(", ")),
        };
        let message = format!("unknown word `{}`", short(word));
        Problem { help: Some(help), ..Problem::new(path, message) }
    }

    /// None of several schemas fits: explains the one that was most likely meant.
    fn branches(
        &self,
        path: &str,
        branches: &Value,
        errors: &[Vec<ValidationError<'static>>],
        problems: &mut Vec<Problem>,
    ) {
        let schemas: Vec<&Value> = branches.as_array().into_iter().flatten().collect();
        let real: Vec<usize> = (0..errors.len()).filter(|it| schemas.get(*it).is_none_or(|it| !is_null(it))).collect();
        if let [only] = real[..] {
            return errors[only].iter().for_each(|it| self.explain(it, problems));
        }
        let resolved: Vec<&Value> = schemas.iter().map(|it| resolve(self.schema, it)).collect();
        let tags: Vec<Option<&str>> = resolved.iter().map(|it| tag(it)).collect();
        let known_tags: Vec<&str> = tags.iter().flatten().copied().collect();
        let inner = resolved.iter().flat_map(|it| variants_of(self.schema, it));
        let words: Vec<&str> = inner.flat_map(words).collect();
        let free_text = resolved.iter().any(|it| is_free_text(it));
        match self.at(path) {
            Value::String(_) if !free_text && words.len() + known_tags.len() > 0 => {
                problems.push(self.unknown_word(path.to_owned(), &words, &known_tags));
            }
            Value::Object(map) if known_tags.len() == real.len() - self.count_words(&resolved) => {
                let by_tag = |key: &str| tags.iter().position(|it| *it == Some(key));
                let inner = |index: usize, problems: &mut Vec<Problem>| {
                    let below = format!("{path}/");
                    let inside = |it: &&ValidationError<'_>| it.instance_path().as_str().starts_with(&below);
                    errors[index].iter().filter(inside).for_each(|it| self.explain(it, problems));
                };
                tagged(path, map, &known_tags, &by_tag, &inner, problems);
            }
            _ => self.best(path, &resolved, errors, problems),
        }
    }

    /// How many of several schemas are lists of words.
    fn count_words(&self, schemas: &[&Value]) -> usize {
        let lists = |it: &&&Value| variants_of(self.schema, it).into_iter().any(|it| !words(it).is_empty());
        schemas.iter().filter(lists).count()
    }

    fn best(
        &self,
        path: &str,
        schemas: &[&Value],
        errors: &[Vec<ValidationError<'static>>],
        problems: &mut Vec<Problem>,
    ) {
        let scored = errors.iter().map(|it| (score(it, path), it));
        let Some((score, best)) = scored.min_by_key(|(score, _)| *score) else {
            return problems.push(Problem::new(path.to_owned(), "not what is expected here".into()));
        };
        if score.0 == 0 {
            return best.iter().for_each(|it| self.explain(it, problems));
        }
        let mut wanted: Vec<&str> = Vec::new();
        schemas.iter().for_each(|it| nouns(self.schema, it, &mut wanted, 0));
        problems.push(self.mismatch(path.to_owned(), &either(&wanted)));
    }
}

/// A mapping whose one key says what it is.
fn tagged(
    path: &str,
    map: &Map<String, Value>,
    tags: &[&str],
    by_tag: &dyn Fn(&str) -> Option<usize>,
    inner: &dyn Fn(usize, &mut Vec<Problem>),
    problems: &mut Vec<Problem>,
) {
    if map.is_empty() {
        let message = format!("expected {}", one_of(tags));
        return problems.push(Problem::new(path.to_owned(), message));
    }
    let mut first: Option<&str> = None;
    for key in map.keys() {
        match (by_tag(key), first) {
            (None, _) => problems.push(unknown_key(path, key, tags)),
            (Some(index), None) => {
                first = Some(key);
                inner(index, problems);
            }
            (Some(_), Some(first)) => {
                let message = format!("`{key}` next to `{first}`: only one of them can be there");
                let problem = Problem::new(format!("{path}/{}", escape(key)), message);
                problems.push(Problem { part: Part::Key, ..problem });
            }
        }
    }
}

impl Problem {
    fn new(path: String, message: String) -> Self {
        Self { path, part: Part::Value, message, help: None, missing: None }
    }
}

fn unknown_key(path: &str, key: &str, known: &[&str]) -> Problem {
    let path = format!("{path}/{}", escape(key));
    let help = match (elsewhere::key(key, known), nearest(key, known.iter().copied())) {
        (Some(ours), _) => Some(ours.to_owned()),
        (None, Some(name)) => Some(format!("did you mean `{name}`?")),
        (None, None) if known.is_empty() => None,
        (None, None) => Some(format!("known here: {}", known.join(", "))),
    };
    let message = format!("unknown key `{}`", short(key));
    Problem { part: Part::Key, help, ..Problem::new(path, message) }
}

/// Limits and patterns, without the value itself.
fn plainly(kind: &Kind, schema: &Value, error: &ValidationError<'_>) -> String {
    let expected = schema.get("expected").and_then(Value::as_str);
    match kind {
        Kind::Pattern { .. } if expected.is_some() => {
            format!("not {}", expected.unwrap_or_default())
        }
        Kind::Pattern { pattern } => format!("does not have the form `{pattern}`"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MinItems { limit: 1 } => "the list must not be empty".to_owned(),
        Kind::MinItems { limit } => format!("the list needs at least {limit} elements"),
        Kind::MaxItems { limit } => format!("the list can have at most {limit} elements"),
        Kind::MinLength { limit: 1 } => "the text must not be empty".to_owned(),
        Kind::MinLength { limit } => format!("the text needs at least {limit} characters"),
        Kind::MaxLength { limit } => format!("the text can have at most {limit} characters"),
        Kind::MinProperties { limit } => format!("the mapping needs at least {limit} keys"),
        Kind::MaxProperties { limit } => format!("the mapping can have at most {limit} keys"),
        Kind::UniqueItems => "the list holds the same element twice".to_owned(),
        Kind::PropertyNames { .. } => "a key does not have the right form".to_owned(),
        _ => error.masked_with("the value").to_string(),
    }
}

/// How far a value is from a branch: first whether even its type is wrong, then what is wrong
/// with itself, then with what it holds.
fn score(errors: &[ValidationError<'_>], path: &str) -> (usize, usize, usize) {
    let mut total = (0, 0, 0);
    for error in errors {
        let own = usize::from(error.instance_path().as_str() == path);
        let one = match error.kind() {
            Kind::Type { .. } => (own, 0, 1),
            Kind::Enum { .. } | Kind::Constant { .. } => {
                let wrong = !error.instance().is_string();
                (own * usize::from(wrong), own, 1)
            }
            Kind::AdditionalProperties { unexpected } => (0, own * unexpected.len(), unexpected.len()),
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                context.iter().map(|it| score(it, path)).min().unwrap_or((0, own, 1))
            }
            _ => (0, own, 1),
        };
        total = (total.0 + one.0, total.1 + one.1, total.2 + one.2);
    }
    total
}

/// What a `$ref` stands for.
fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    for _ in 0..16 {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|it| it.strip_prefix('#'));
        match target.and_then(|it| root.pointer(it)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// The schemas that a schema is made of: itself, or what it refers to, or each of its branches.
fn variants<'s>(root: &'s Value, schema: &'s Value, depth: usize, all: &mut Vec<&'s Value>) {
    let schema = resolve(root, schema);
    all.push(schema);
    let branches = ["anyOf", "oneOf", "allOf"].iter().filter_map(|it| schema.get(it)?.as_array());
    if depth < 8 {
        branches.flatten().chain(schema.get("then")).for_each(|it| variants(root, it, depth + 1, all));
    }
}

/// Whether the operator chose the last name of a path, as in `/upstreams/players`.
fn named_by_operator(root: &Value, path: &str) -> bool {
    walk(root, path).1
}

/// The schemas that a value at this path may have to fit, references followed.
pub(super) fn schemas_at<'s>(root: &'s Value, path: &str) -> Vec<&'s Value> {
    let mut expanded = Vec::new();
    walk(root, path).0.into_iter().for_each(|it| variants(root, it, 0, &mut expanded));
    expanded
}

/// The schemas that a schema is made of, references followed.
pub(super) fn variants_of<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let mut expanded = Vec::new();
    variants(root, schema, 0, &mut expanded);
    expanded
}

/// What a schema says of values whose names are free, and of elements.
pub(super) fn children_of(schema: &Value) -> impl Iterator<Item = &Value> {
    ["additionalProperties", "items"].into_iter().filter_map(|it| schema.get(it)).filter(|it| it.is_object())
}

/// The keys that the schema knows in a mapping at a path.
pub(super) fn keys_at<'s>(root: &'s Value, path: &str) -> Vec<&'s str> {
    schemas_at(root, path).into_iter().flat_map(|it| keys(it.get("properties"))).collect()
}

/// Which kinds of scalars may stand at a path.
pub(super) fn due_at(root: &Value, path: &str) -> Due {
    let mut due = Due::default();
    for schema in schemas_at(root, path) {
        let kinds = kinds(schema);
        let any = |names: &[&str]| kinds.iter().any(|it| names.contains(it));
        let plain = ["pattern", "expected", "format"].iter().all(|it| schema.get(it).is_none());
        due.known |= !kinds.is_empty() || !words(schema).is_empty();
        due.text |= is_free_text(schema);
        due.free_text |= is_free_text(schema) && plain;
        due.number |= any(&["integer", "number"]);
        due.boolean |= any(&["boolean"]);
        due.null |= any(&["null"]);
    }
    due
}

/// Which kinds of scalars may stand somewhere.
#[derive(Clone, Copy, Default)]
pub(super) struct Due {
    /// The schema says anything of it.
    pub(super) known: bool,
    /// A text that is not one of a few words.
    pub(super) text: bool,
    /// A text without any form.
    pub(super) free_text: bool,
    pub(super) number: bool,
    pub(super) boolean: bool,
    pub(super) null: bool,
}

/// What a schema says under a name, or of an element, for each of some whose references are followed; so are those of
/// what comes out.
pub(super) fn step<'s>(root: &'s Value, schemas: &[&'s Value], token: &str) -> Vec<&'s Value> {
    let known: Vec<&Value> = schemas.iter().filter_map(|it| it.get("properties")?.get(token)).collect();
    let below = || schemas.iter().filter_map(|it| it.get("additionalProperties")).filter(|it| it.is_object());
    let next: Vec<&Value> = match () {
        () if !known.is_empty() => known,
        () if below().next().is_some() => below().collect(),
        () => schemas.iter().filter_map(|it| it.get("items")).collect(),
    };
    let mut expanded = Vec::new();
    next.into_iter().for_each(|it| variants(root, it, 0, &mut expanded));
    expanded
}

/// Whether a schema, its branches aside, takes a text, a number or the like.
pub(super) fn takes_scalar(schema: &Value) -> bool {
    let scalar = |it: &&str| ["string", "integer", "number", "boolean"].contains(it);
    !words(schema).is_empty() || kinds(schema).iter().any(scalar)
}

/// The keys that a schema knows by itself.
pub(super) fn keys_of(schema: &Value) -> Vec<&str> {
    keys(schema.get("properties"))
}

fn walk<'s>(root: &'s Value, path: &str) -> (Vec<&'s Value>, bool) {
    let mut schemas = vec![root];
    let mut named = false;
    for (_, token) in tokens(path) {
        let mut expanded = Vec::new();
        schemas.iter().for_each(|it| variants(root, it, 0, &mut expanded));
        let key = unescape(token);
        let field = |it: &&'_ Value| it.get("properties").and_then(|it| it.get(&key)).is_some();
        named = !expanded.iter().any(field);
        schemas = match named {
            false => expanded.iter().filter_map(|it| it.get("properties")?.get(&key)).collect(),
            true => {
                let below = |it: &&'_ Value| it.get("additionalProperties").is_some_and(Value::is_object);
                let entries: Vec<&Value> =
                    expanded.iter().filter(|it| below(it)).map(|it| &it["additionalProperties"]).collect();
                named = !entries.is_empty();
                let items = expanded.iter().filter_map(|it| it.get("items"));
                if named { entries } else { items.collect() }
            }
        };
    }
    (schemas, named)
}

/// Something of the right shape for the value at a path, which need not mean anything: rooms may find fault with it,
/// and nobody is told.
fn stand_in(root: &Value, path: &str) -> Option<Value> {
    walk(root, path).0.into_iter().find_map(|it| shaped(root, it, 0))
}

fn shaped(root: &Value, schema: &Value, depth: usize) -> Option<Value> {
    let schema = resolve(root, schema);
    if depth > 8 {
        return None;
    }
    if let Some(word) = words(schema).first() {
        return Some(json!(word));
    }
    let branches = ["anyOf", "oneOf"].iter().find_map(|it| schema.get(it)?.as_array());
    if let Some(branches) = branches {
        return branches.iter().filter(|it| !is_null(it)).find_map(|it| shaped(root, it, depth + 1));
    }
    match *kinds(schema).first()? {
        "object" => {
            let needed = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            let entry = |key: &str| Some((key.to_owned(), shaped(root, &schema["properties"][key], depth + 1)?));
            needed.map(|it| entry(it.as_str()?)).collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        "array" => Some(json!([])),
        "string" => {
            let fits = |text: &&str| jsonschema::is_valid(schema, &json!(text));
            ["", "1s", "1%"].into_iter().find(fits).map(Value::from)
        }
        "integer" | "number" => Some(schema.get("minimum").cloned().unwrap_or_else(|| json!(1))),
        "boolean" => Some(json!(false)),
        _ => None,
    }
}

/// The number that a schema of numbers allows, if there is just one.
fn only_number(schema: &Value) -> Option<i64> {
    let bound = |key: &str| schema.get(key)?.as_i64();
    bound("minimum").filter(|it| Some(*it) == bound("maximum"))
}

/// The least that has to stand in a file.
pub(super) fn least(schema: &Value) -> String {
    let needed = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let line = |key: &str| match only_number(&schema["properties"][key]) {
        Some(only) => format!("`{key}: {only}`"),
        None => format!("`{key}: ...`"),
    };
    let lines: Vec<String> = needed.map(line).collect();
    match lines.is_empty() {
        true => "write `{}` if everything shall be as it is by default".to_owned(),
        false => format!("write at least {}", lines.join(" and ")),
    }
}

fn keys(properties: Option<&Value>) -> Vec<&str> {
    let map = properties.and_then(Value::as_object);
    map.into_iter().flat_map(|it| it.keys()).map(String::as_str).collect()
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// The key of a mapping that must have just this one: a variant of an enum.
fn tag(schema: &Value) -> Option<&str> {
    let required = schema.get("required")?.as_array()?;
    match (&keys(schema.get("properties"))[..], &required[..]) {
        ([key], [needed]) if needed.as_str() == Some(key) => Some(key),
        _ => None,
    }
}

/// The words that a schema of words allows.
pub(super) fn words(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

fn is_free_text(schema: &Value) -> bool {
    words(schema).is_empty() && kinds(schema).contains(&"string")
}

fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn nouns<'s>(root: &'s Value, schema: &'s Value, all: &mut Vec<&'s str>, depth: usize) {
    let mut expanded = Vec::new();
    variants(root, schema, depth, &mut expanded);
    for schema in expanded {
        let expected = schema.get("expected").and_then(Value::as_str);
        let found = match expected {
            Some(expected) => vec![expected],
            None => kinds(schema).into_iter().filter(|it| *it != "null").map(noun).collect(),
        };
        for noun in found {
            if !all.contains(&noun) {
                all.push(noun);
            }
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn noun(kind: &str) -> &'static str {
    match kind {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        _ => "a mapping",
    }
}

fn either(nouns: &[&str]) -> String {
    match nouns {
        [] => "something else".to_owned(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [one] => format!("`{one}`"),
        _ => format!("one of `{}`", words.join("`, `")),
    }
}
