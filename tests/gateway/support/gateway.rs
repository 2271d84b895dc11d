//! The gateway as operators run it: the real binary with two files, on free ports.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::files::Folder;
use super::http1::{Response, try_request};
use super::process::{CANARY, Line, Process};

/// Both listeners on loopback, any free port.
pub const CONFIG: &str = r#"
listeners:
  public:
    - { address: "127.0.0.1:0" }
  admin: { address: "127.0.0.1:0" }
"#;

/// What a gateway is started with.
pub struct GatewayBuilder {
    binary: PathBuf,
    folder: Folder,
    config: String,
    routes: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

/// What a gateway that refused to start left behind.
#[derive(Debug)]
pub struct Refused {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A gateway that serves; dropped, it is killed.
pub struct Gateway {
    process: Process,
    folder: Folder,
    public: SocketAddr,
    admin: SocketAddr,
}

impl GatewayBuilder {
    /// The text of `gateway.yaml`, in place of [`CONFIG`].
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = text.into();
        self
    }

    /// Another binary than ours, which is a gateway, too.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = path.into();
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// A further argument after `run`, such as `--upgrade`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A further file in the gateway's working directory.
    pub fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        self.folder.write(name, contents);
        self
    }

    /// The gateway's working directory, for files that others write.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    fn spawn(self) -> (Process, Folder) {
        self.folder.write("gateway.yaml", &self.config);
        self.folder.write("routes.yaml", &self.routes);
        let mut arguments = vec!["run", "--config", "gateway.yaml", "--routes", "routes.yaml"];
        arguments.extend(self.arguments.iter().map(String::as_str));
        (Process::gateway(&self.binary, self.folder.path(), &arguments, &self.environment), self.folder)
    }

    /// Starts it and waits until both listeners serve.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let (process, folder) = self.spawn();
        let (public, admin) = (process.address_of("public"), process.address_of("admin"));
        Gateway { process, folder, public, admin }
    }

    /// Starts it and waits for it to give up.
    #[track_caller]
    pub fn start_refused(self) -> Refused {
        let (mut process, _folder) = self.spawn();
        let code = process.wait_exit();
        let (stderr, stdout): (Vec<_>, Vec<_>) = process.log().lines().into_iter().partition(|line| line.stderr);
        let join = |lines: Vec<Line>| lines.into_iter().map(|line| line.text + "\n").collect::<String>();
        Refused { code, stdout: join(stdout), stderr: join(stderr) }
    }
}

impl Gateway {
    pub fn with(routes: impl Into<String>) -> GatewayBuilder {
        GatewayBuilder {
            binary: env!("CARGO_BIN_EXE_moongate").into(),
            folder: Folder::new(),
            config: CONFIG.to_owned(),
            routes: routes.into(),
            environment: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Starts with these routes and [`CONFIG`].
    #[track_caller]
    pub fn start(routes: impl Into<String>) -> Self {
        Self::with(routes).start()
    }

    /// The (first) public listener.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Every address that a `listening` line has named so far, with its listener's name.
    pub fn listening(&self) -> Vec<(String, SocketAddr)> {
        let jsons = self.events("listening");
        let text = |json: &Value, key: &str| json[key].as_str().unwrap().to_owned();
        jsons.iter().map(|it| (text(it, "listener"), text(it, "address").parse().unwrap())).collect()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// `GET` on the public listener.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
        self.or_log(|| try_request(self.public, method, path, headers, body))
    }

    /// `GET` on the admin listener.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        let answer = self.or_log(|| try_request(self.admin, "GET", path, &[], b""));
        assert!(!answer.text().contains(CANARY), "a secret is shown on {path}: {}", answer.text());
        answer
    }

    /// Writes `routes.yaml` in place.
    pub fn write_routes(&self, text: &str) {
        self.folder.write("routes.yaml", text);
    }

    /// Puts a new `routes.yaml` in the old one's place by a rename.
    pub fn replace_routes(&self, text: &str) {
        self.folder.replace("routes.yaml", text);
    }

    /// `POST /admin/reload`: 200 with what changed, 422 with the faults.
    #[track_caller]
    pub fn reload(&self) -> Response {
        self.or_log(|| try_request(self.admin, "POST", "/admin/reload", &[], b""))
    }

    pub fn sigterm(&self) {
        self.process.signal("TERM");
    }

    pub fn sighup(&self) {
        self.process.signal("HUP");
    }

    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        self.process.wait_exit()
    }

    #[track_caller]
    pub fn wait_for_event(&self, event: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.process.wait_for_event(event, matches)
    }

    /// The JSON lines so far that have this `event`.
    pub fn events(&self, event: &str) -> Vec<Value> {
        let jsons = self.log_lines().into_iter().filter_map(|line| line.json);
        jsons.filter(|json| json["event"] == event).collect()
    }

    pub fn log_lines(&self) -> Vec<Line> {
        self.process.log().lines()
    }

    /// The last lines it wrote, for a test's own messages.
    pub fn log_tail(&self) -> String {
        self.process.log().tail()
    }

    /// The access log's line of this request: the one that has its id and a status.
    #[track_caller]
    pub fn access_log_for(&self, request_id: &str) -> Value {
        let found = self.process.log().wait_for(|lines| {
            let jsons = lines.iter().filter_map(|line| line.json.as_ref());
            let mut jsons = jsons.filter(|json| json["request_id"] == request_id);
            jsons.find(|json| !json["status"].is_null()).cloned()
        });
        let Some(found) = found else {
            panic!("no access log for {request_id}\n{}", self.log_tail());
        };
        found
    }

    /// A request that panics without an answer shows the gateway's log first.
    #[track_caller]
    fn or_log<T>(&self, ask: impl FnOnce() -> io::Result<T>) -> T {
        ask().unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()))
    }
}
