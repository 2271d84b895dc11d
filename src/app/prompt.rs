//! What the commands prompt for: passwords and other values that must not be arguments, which every
//! user of the machine can read.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::process::Command;

use crate::app::Failure;
use crate::base::Secret;
use crate::config::Keeping;
use crate::store::{Store, StoreError};

/// No value that is read from standard input is longer, in bytes.
const INPUT_MAX: u64 = 128 * 1024;

/// A password: typed twice at a terminal, else the first line of standard input.
pub(super) fn password() -> Result<Secret, Failure> {
    if !std::io::stdin().is_terminal() {
        return line();
    }
    let first = typed("password: ")?;
    if first != typed("again: ")? {
        return Err(Failure("these were two passwords".to_owned()));
    }
    Ok(first)
}

/// Any value: typed at a terminal, else all of standard input but the end of its last line.
pub(super) fn value() -> Result<Secret, Failure> {
    if std::io::stdin().is_terminal() {
        return typed("value: ");
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure(format!("standard input can't be read: {error}")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::from(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn line() -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_MAX).read_line(&mut text);
    read.map_err(|error| Failure(format!("standard input can't be read: {error}")))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Failure("no password on standard input; or let one be made with --generate".to_owned()));
    }
    Ok(Secret::from(text.to_owned()))
}

fn typed(prompt: &str) -> Result<Secret, Failure> {
    eprint!("{prompt}");
    let _ = std::io::stderr().flush();
    let echo = |word: &str| Command::new("stty").arg(word).status().is_ok_and(|it| it.success());
    if !echo("-echo") {
        return Err(Failure("the terminal can't be kept from showing what is typed; use a pipe".to_owned()));
    }
    let line = line();
    echo("echo");
    eprintln!();
    line
}

/// Does one piece of work on the store that gateway.yaml names.
pub(super) fn with_store<T: Send, F>(keeping: &Keeping, work: impl FnOnce(Store) -> F + Send) -> Result<T, Failure>
where
    F: Future<Output = Result<T, StoreError>>,
    StoreError: Send,
{
    keeping.with_store(work).map_err(Failure)?.map_err(|error| Failure(error.to_string()))
}

/// What gateway.yaml says about the store.
pub(super) fn keeping(gateway: &std::path::Path) -> Result<Keeping, Failure> {
    Keeping::read(gateway).map_err(|it| Failure(it.to_string()))
}

/// A moment as people and programs read it.
pub(super) fn moment(seconds: i64) -> String {
    crate::telemetry::Timestamp::of_seconds(seconds.max(0).unsigned_abs()).as_str()[..19].to_owned() + "Z"
}
