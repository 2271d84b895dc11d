//! A real PostgreSQL server that lives as long as one test.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::files::Folder;
use super::process::Process;
use super::waiting::eventually;

/// A server on a port of its own; dropped, it is gone with all that it held.
pub struct Postgres {
    process: Option<Process>,
    folder: Folder,
    port: u16,
    databases: u32,
}

impl Postgres {
    #[track_caller]
    pub fn start() -> Self {
        let folder = Folder::new();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if root() {
            // The server refuses to run as root.
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            run(Command::new("chown").arg("postgres").arg(&data));
        }
        let arguments = ["-U", "moongate", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"];
        run(command("initdb").args(arguments).arg(&data));
        let mut postgres = Self { process: None, folder, port: free_port(), databases: 0 };
        postgres.restart();
        postgres
    }

    /// Starts it (again) on the port that it had.
    #[track_caller]
    pub fn restart(&mut self) {
        let data = self.folder.path().join("data");
        let mut server = command("postgres");
        server.arg("-D").arg(&data).args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-F"]);
        server.args(["-c", "unix_socket_directories=", "-c", "max_connections=50", "-c", "shared_buffers=16MB"]);
        self.process = Some(Process::start("postgres", server));
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        eventually("PostgreSQL takes connections", || {
            let said = psql(address, "postgres", "SELECT 1");
            said.status.success().then_some(())
        });
    }

    /// Is gone at once, with every connection.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SIGQUIT: without waiting for its clients, but not without its children.
            process.signal("QUIT");
            process.wait_exit();
        }
    }

    /// The URL of a new, empty database.
    #[track_caller]
    pub fn database(&mut self) -> String {
        self.databases += 1;
        let name = format!("moongate_{}", self.databases);
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let made = psql(address, "postgres", &format!("CREATE DATABASE {name}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://moongate@{address}/{name}")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn psql(address: SocketAddr, database: &str, statement: &str) -> std::process::Output {
    let url = format!("postgres://moongate@{address}/{database}");
    command("psql").args(["-X", "-d", &url, "-c", statement]).output().unwrap()
}

/// A program of the server's, as somebody who is not root.
fn command(program: &str) -> Command {
    let path = find(program);
    if !root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
    command
}

/// On the path, or where Debian keeps the versions side by side: then the newest.
fn find(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|it| it.path().join("bin").join(program)).collect();
    found.retain(|it| it.exists());
    found.sort();
    found.pop().unwrap_or_else(|| Path::new(program).to_owned())
}

fn root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup.sh test"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
