//! The shape of bodies: a JSON Schema, and how much work a body may make of it.
//!
//! What checking costs is not for the client to say: looks at the body are counted ([`counted`](super::counted)), and
//! as many are granted as its length warrants. What the schema does without looking is bounded before there is a body
//! ([`expansion`](super::expansion)), and makes looks dearer. Validity comes first; where a body fails is looked for
//! with an allowance of its own. A small body is checked where it arrived, everything else elsewhere, by turns.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator, options_for};
use serde_json::Value;
use tokio::time::timeout;

use super::counted::{Counted, CountedValue, within};
use super::expansion::price_of_look;
use super::metrics::{BUSY, FITS, LOOKS_TAKEN, TOO_MUCH, UNFIT};
use crate::base::{JsonFault, Turns, unique_json};
use crate::pipeline::{BodyFault, Refusal};

/// So many faults of a body are reported at once.
const FAULTS_MAX: usize = 20;
/// No honest schema is longer, in bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// What a pattern may come to when it is compiled, in bytes.
const PATTERN_MAX: usize = 1024 * 1024;
/// No honest body is nested deeper.
const DEPTH_MAX: usize = 64;

/// Looks that every body gets, and for each of its bytes.
const LOOKS: (u64, u64) = (50_000, 8);
/// Looks that go to finding out where a body fails.
const LOOKS_FOR_FAULTS: (u64, u64) = (20_000, 2);
/// A body of at most so many bytes is checked where it arrived, with so many looks: about a millisecond.
const AT_ONCE: (usize, u64) = (16 * 1024, 10_000);
/// So many wait for a turn to have their bodies checked, and for so long at most.
const WAITING_MAX: usize = 64;
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Half of the cores may check bodies, so that other work goes on.
static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Turns::new(cores.div_ceil(2), WAITING_MAX)
});

/// A schema.
pub(super) struct Schema {
    file: PathBuf,
    validator: Validator<Counted>,
    /// What is granted is divided by this, for a schema that does much between two looks.
    price: u64,
}

/// Why a file is no schema, and what to do about it.
pub(super) struct BadSchema {
    pub(super) why: String,
    pub(super) help: &'static str,
}

/// What checking a body comes to.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Fits,
    Unfit(Vec<BodyFault>),
    /// It takes more looks than it is granted.
    TooMuch,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.file.display())
    }
}

impl Schema {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, BadSchema> {
        const HELP: &str = "name a file that holds a JSON Schema";
        let bad = |why: String| BadSchema { why: format!("{} {why}", path.display()), help: HELP };
        let length = std::fs::metadata(path).map_err(|error| bad(format!("can't be read: {error}")))?.len();
        if length > FILE_MAX {
            return Err(bad(format!("is longer than {FILE_MAX} bytes")));
        }
        let text = std::fs::read(path).map_err(|error| bad(format!("can't be read: {error}")))?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| bad(format!("is not JSON: {error}")))?;
        let validator = compile(&value).map_err(|error| match in_linear_time(&error) {
            true => bad(format!("is no schema: {error}")),
            false => BadSchema {
                why: format!("{} has a pattern that can't be used: {error}", path.display()),
                help: "patterns are matched in a time that grows with the text alone: write it without look-around \
                       ((?=…), (?<!…)) and backreferences (\\1), and with smaller repetitions",
            },
        })?;
        let price = price_of_look(&value, Draft::default().detect(&value)).map_err(|endless| BadSchema {
            why: format!("{}, {} {}", path.display(), endless.place, endless.what),
            help: "of the schemas that `$ref`, allOf, anyOf, oneOf, not and if apply to one value, let fewer lead to \
                   others, and none to itself",
        })?;
        Ok(Self { file: path.to_owned(), validator, price })
    }

    /// Its file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Checks the whole body of a request from this client.
    ///
    /// # Errors
    /// 400 with the places that failed; they never quote what was sent. 503 while too many are being checked.
    pub(super) async fn check(self: &Arc<Self>, body: &Bytes, client: IpAddr) -> Result<(), Refusal> {
        let judgement = match self.judge_at_once(body) {
            Judgement::TooMuch => Box::pin(self.judge_elsewhere(body, client)).await?,
            judgement => judgement,
        };
        match judgement {
            Judgement::Fits => {
                FITS.inc();
                Ok(())
            }
            Judgement::Unfit(faults) => {
                UNFIT.inc();
                Err(Refusal::BodyInvalid { faults })
            }
            Judgement::TooMuch => {
                TOO_MUCH.inc();
                Err(Refusal::BodyInvalid { faults: vec![whole("checking it takes too much work")] })
            }
        }
    }

    fn judge_at_once(&self, body: &[u8]) -> Judgement {
        if body.len() > AT_ONCE.0 { Judgement::TooMuch } else { self.judge(body, AT_ONCE.1) }
    }

    async fn judge_elsewhere(self: &Arc<Self>, body: &Bytes, client: IpAddr) -> Result<Judgement, Refusal> {
        let (schema, body) = (self.clone(), body.clone());
        let work = move || schema.judge(&body, granted(LOOKS, &body));
        let judged = timeout(WAIT_MAX, TURNS.run(client, work)).await;
        judged.ok().and_then(Result::ok).ok_or_else(|| {
            BUSY.inc();
            Refusal::CheckBusy
        })
    }

    fn judge(&self, body: &[u8], looks: u64) -> Judgement {
        let value = match unique_json(body) {
            Ok(value) => value,
            Err(_) if body.is_empty() => return Judgement::Unfit(vec![whole("a body is missing")]),
            Err(JsonFault { twice, line, column }) => {
                // What is checked is one of the two; an upstream may take the other.
                let what = if twice { "a name is there twice" } else { "not JSON" };
                return Judgement::Unfit(vec![whole(&format!("{what} at line {line}, column {column}"))]);
            }
        };
        if !is_at_most(&value, DEPTH_MAX) {
            return Judgement::Unfit(vec![whole(&format!("it is nested deeper than {DEPTH_MAX} levels"))]);
        }
        let (fits, spent) = within((looks / self.price).max(1), || self.validator.is_valid(CountedValue(&value)));
        LOOKS_TAKEN.inc_by(spent);
        match fits {
            None => Judgement::TooMuch,
            Some(true) => Judgement::Fits,
            Some(false) => Judgement::Unfit(self.faults(&value, granted(LOOKS_FOR_FAULTS, body))),
        }
    }

    /// Where it fails, as far as that can be said with so many looks.
    fn faults(&self, value: &Value, looks: u64) -> Vec<BodyFault> {
        let (faults, spent) = within((looks / self.price).max(1), || {
            let errors = self.validator.iter_errors(CountedValue(value));
            errors.take(FAULTS_MAX).map(|it| fault(&it)).collect::<Vec<_>>()
        });
        LOOKS_TAKEN.inc_by(spent);
        let faults = faults.filter(|it| !it.is_empty());
        faults.unwrap_or_else(|| vec![whole("it does not fit, in more ways than can be listed")])
    }
}

fn granted((every, each_byte): (u64, u64), body: &[u8]) -> u64 {
    every + each_byte * body.len() as u64
}

fn compile(schema: &Value) -> Result<Validator<Counted>, ValidationError<'static>> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_MAX).dfa_size_limit(2 * PATTERN_MAX);
    options_for::<Counted>().with_pattern_options(patterns).build(schema)
}

/// Whether the fault is another one than a pattern that the linear engine does not take.
fn in_linear_time(error: &ValidationError<'_>) -> bool {
    !matches!(error.kind(), ValidationErrorKind::Format { format } if format.as_str() == "regex")
}

/// Whether no value in it is nested deeper; the parser has seen to it that this can be asked by recursion.
fn is_at_most(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if depth == 0 => false,
        Value::Array(elements) => elements.iter().all(|it| is_at_most(it, depth - 1)),
        Value::Object(members) => members.values().all(|it| is_at_most(it, depth - 1)),
        _ => true,
    }
}

/// A fault of the body as a whole.
fn whole(rule: &str) -> BodyFault {
    BodyFault { pointer: String::new(), rule: rule.to_owned() }
}

/// Where it failed and by which rule of the schema; never what was sent.
fn fault(error: &ValidationError<'_>) -> BodyFault {
    let mut pointer = error.instance_path().as_str().to_owned();
    if let ValidationErrorKind::Required { property } = error.kind()
        && let Some(name) = property.as_str()
    {
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    }
    let keyword = error.kind().keyword();
    let rule = if keyword == "required" { "it is missing".to_owned() } else { error.schema_path().as_str().to_owned() };
    BodyFault { pointer, rule }
}
