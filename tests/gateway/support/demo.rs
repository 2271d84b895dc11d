//! The demo back end: inside the test, or as a process of its own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::files::Folder;
use super::process::Process;
use super::upstream::reserve;

/// A demo back end on a thread of the test; it can go and come back on the same port.
pub struct Demo {
    name: String,
    address: SocketAddr,
    running: Option<Runtime>,
    /// Keeps the port while it is stopped.
    _reserved: socket2::Socket,
}

impl Demo {
    pub fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// On an address of its own, such as the same port of another loopback address.
    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let (reserved, address) = reserve(address);
        let mut demo = Self { name: name.to_owned(), address, running: None, _reserved: reserved };
        demo.restart();
        demo
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Is gone at once, with every connection.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Serves (again) on the port it had.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        let name = self.name.clone();
        runtime.spawn(async move { moongate::demo::serve_on(listener, &name, std::future::pending()).await });
        self.running = Some(runtime);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `moongate demo-backend` as `make run` starts it.
pub struct DemoProcess {
    pub process: Process,
    pub address: SocketAddr,
    _folder: Folder,
}

impl DemoProcess {
    #[track_caller]
    pub fn start(name: &str) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), name)
    }

    /// On this address, such as the one that a killed one had.
    #[track_caller]
    pub fn start_on(address: SocketAddr, name: &str) -> Self {
        let folder = Folder::new();
        let arguments = ["demo-backend", "--listen", &address.to_string(), "--name", name];
        let process = Process::moongate(folder.path(), &arguments, &[]);
        let address = process.address_of("demo");
        Self { process, address, _folder: folder }
    }
}
