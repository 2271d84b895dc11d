//! A process of ours under test: started, listened to, signalled, and never left behind.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up; on a good day nothing takes a second.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Begins every secret that a test makes up. Whatever process of ours writes it, the test fails: so the
/// whole suite is the test that nothing leaks.
pub const CANARY: &str = "canary-";
/// A test that logs more than this loses the oldest lines.
const LINES_MAX: usize = 100_000;

/// One line that the process wrote.
#[derive(Debug, Clone)]
pub struct Line {
    pub text: String,
    /// The line as JSON, when it came on standard output and is an object.
    pub json: Option<Value>,
    pub stderr: bool,
}

#[derive(Default)]
struct Pages {
    lines: VecDeque<Line>,
    /// The first line with a secret.
    leak: Option<String>,
    /// How many of standard output and standard error are still open.
    open: usize,
}

/// What a process wrote so far; threads fill it, tests search it.
#[derive(Default)]
pub struct Log {
    pages: Mutex<Pages>,
    news: Condvar,
}

impl Log {
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static, stderr: bool) -> JoinHandle<()> {
        self.pages.lock().unwrap().open += 1;
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line).into_owned();
                let json = if stderr { None } else { serde_json::from_str(&text).ok() };
                let mut pages = log.pages.lock().unwrap();
                if text.contains(CANARY) {
                    pages.leak.get_or_insert_with(|| text.clone());
                }
                if pages.lines.len() == LINES_MAX {
                    pages.lines.pop_front();
                }
                pages.lines.push_back(Line { text, json: json.filter(Value::is_object), stderr });
                log.news.notify_all();
            }
            log.pages.lock().unwrap().open -= 1;
            log.news.notify_all();
        })
    }

    pub fn lines(&self) -> Vec<Line> {
        self.pages.lock().unwrap().lines.iter().cloned().collect()
    }

    /// Waits until `look` finds what it wants in all lines so far; `None` after the deadline, or
    /// when the process will never write again.
    pub fn wait_for<T>(&self, mut look: impl FnMut(&VecDeque<Line>) -> Option<T>) -> Option<T> {
        let end = Instant::now() + DEADLINE;
        let mut pages = self.pages.lock().unwrap();
        loop {
            if let Some(found) = look(&pages.lines) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || pages.open == 0 {
                return None;
            }
            pages = self.news.wait_timeout(pages, left).unwrap().0;
        }
    }

    /// Whether anything may still be written.
    fn open(&self) -> bool {
        self.pages.lock().unwrap().open > 0
    }

    /// Lets a little time pass, less when something is written.
    fn rest(&self, time: Duration) {
        drop(self.news.wait_timeout(self.pages.lock().unwrap(), time).unwrap());
    }

    /// The last lines, for a failure's message.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        let mut tail = String::from("--- log ---\n");
        for line in lines.iter().skip(lines.len().saturating_sub(200)) {
            let mark = if line.stderr { "! " } else { "" };
            let _ = writeln!(tail, "{mark}{}", line.text);
        }
        tail + "--- end of log ---"
    }
}

/// A running command; dropped, it is killed.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the moongate binary in `folder` with nothing of this environment but `PATH`.
    pub fn moongate(folder: &Path, arguments: &[&str], environment: &[(String, String)]) -> Self {
        Self::gateway(Path::new(env!("CARGO_BIN_EXE_moongate")), folder, arguments, environment)
    }

    /// The same with another binary that is a gateway, too.
    pub fn gateway(binary: &Path, folder: &Path, arguments: &[&str], environment: &[(String, String)]) -> Self {
        let mut command = Command::new(binary);
        command.args(arguments).current_dir(folder).env_clear();
        for kept in ["PATH", "LLVM_PROFILE_FILE"] {
            if let Ok(value) = std::env::var(kept) {
                command.env(kept, value);
            }
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Self::start(&format!("moongate {}", arguments.join(" ")), command)
    }

    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let log = Arc::new(Log::default());
        let readers =
            vec![log.follow(child.stdout.take().unwrap(), false), log.follow(child.stderr.take().unwrap(), true)];
        Self { name: name.to_owned(), child, log, readers }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal by its short name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the package with the program is not on every machine.
        let script = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success(), "{script}: {status}\n{}", self.log.tail());
    }

    /// Waits for the process to end by itself and gives its exit code (128 and more: a signal).
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let late = Instant::now() > end;
            assert!(!late, "{} does not end\n{}", self.name, self.log.tail());
            self.log.rest(Duration::from_millis(10));
        };
        // So that the log is whole; a grandchild that lives on would hold the pipes open.
        let end = Instant::now() + Duration::from_secs(1);
        while self.log.open() && Instant::now() < end {
            self.log.rest(Duration::from_millis(10));
        }
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// Waits for a JSON line with this `event` for which `matches` holds.
    #[track_caller]
    pub fn wait_for_event(&self, event: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let found = self.log.wait_for(|lines| {
            let values = lines.iter().filter_map(|line| line.json.as_ref());
            values.filter(|json| json["event"] == event).find(|json| matches(json)).cloned()
        });
        let Some(found) = found else {
            panic!("{}: no matching event {event}\n{}", self.name, self.log.tail());
        };
        found
    }

    /// The address of the listener with this name, once it serves.
    #[track_caller]
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        let line = self.wait_for_event("listening", |json| json["listener"] == listener);
        line["address"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            // A grandchild that lives on could hold a pipe open: then let the thread be.
            if !self.log.open() {
                let _ = reader.join();
            }
        }
        let leak = self.log.pages.lock().unwrap().leak.take();
        if let (Some(line), false) = (leak, thread::panicking()) {
            panic!("{}: a secret was written: {line}", self.name);
        }
    }
}
