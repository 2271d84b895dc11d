//! Real parts that come from npm, each with a folder of its own under `tests`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One at a time: two of the same folder would get into each other's way.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The packages of `tests/NAME`, installed once into the folder of what is built, and these files beside them.
#[track_caller]
pub fn installed(name: &str, files: &[&str]) -> PathBuf {
    let _one = INSTALLING.lock().unwrap_or_else(|it| it.into_inner());
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&to).unwrap();
    let stale = |name: &str| fs::read(from.join(name)).unwrap() != fs::read(to.join(name)).unwrap_or_default();
    if stale("package-lock.json") || !to.join("node_modules/.package-lock.json").exists() {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        let npm = npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&to);
        let output = npm.output().unwrap_or_else(|error| panic!("npm: {error}; run scripts/setup.sh test"));
        assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    }
    for file in files.iter().filter(|it| stale(it)) {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    to
}
