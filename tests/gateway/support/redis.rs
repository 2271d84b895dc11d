//! A real Redis of the test's own: on a free port, keeping nothing, killed when it is dropped.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::files::Folder;
use super::process::{DEADLINE, Process};
use super::upstream::reserve;

pub struct Redis {
    folder: Folder,
    address: SocketAddr,
    process: Option<Process>,
    /// Keeps the port while it is stopped.
    _reserved: socket2::Socket,
}

impl Redis {
    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start() -> Self {
        let (reserved, address) = reserve(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut redis = Self { folder: Folder::new(), address, process: None, _reserved: reserved };
        redis.restart();
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it (again) on the port it had, empty.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        let mut command = Command::new("redis-server");
        let port = self.address.port().to_string();
        command.args([
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--loglevel",
            "notice",
        ]);
        command.arg("--dir").arg(self.folder.path());
        self.process = Some(Process::start("redis-server", command));
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(self.address).is_err() {
            let process = self.process.as_mut().unwrap();
            assert!(process.running() && Instant::now() < end, "redis-server\n{}", process.log().tail());
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Kills it: clients see their connections closed, and new ones refused.
    pub fn stop(&mut self) {
        self.resume();
        self.process = None;
    }

    /// It goes on taking connections and bytes, and answers nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            process.signal(name);
        }
    }

    /// Asks it something, on a connection of its own.
    #[track_caller]
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(DEADLINE).unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// How many commands of clients it has seen so far, but for those that only look.
    #[track_caller]
    pub fn calls(&self, command: &str) -> u64 {
        let stats: String = self.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|it| it.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |it| it.split(',').next().unwrap().parse().unwrap())
    }
}
