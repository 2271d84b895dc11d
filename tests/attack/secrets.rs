//! Canaries in every secret field, searched for in all that comes out, faults included.
//!
//! Where secrets may stand is asked of the schemas, so that a new field can't be forgotten here: a place without a
//! canary fails the test.

mod broken;
mod faults;
mod logs;
mod places;
mod storm;
mod values;

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Folder, process::CANARY};

/// What a command wrote, standard output and standard error one after the other, and whether it was content.
struct Said {
    content: bool,
    text: String,
}

/// Runs moongate in `folder` with this on standard input and nothing of this environment. Whatever it says, no canary
/// is in it.
#[track_caller]
fn moongate(folder: &Folder, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moongate"));
    command.args(arguments).current_dir(folder.path()).env_clear().envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!text.contains(CANARY), "moongate {} shows a secret:\n{text}", arguments.join(" "));
    Said { content: output.status.success(), text }
}
