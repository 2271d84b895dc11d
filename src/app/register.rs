//! `moongate register`: runs a service that knows nothing of the gateway, and registers it for as long as it answers.
//!
//! The service's end is ours: its exit code comes back, and what is sent to us as SIGTERM or SIGINT it gets, after it
//! has left the registry and the gateways have had a moment to notice.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::app::Failure;
use crate::app::signals::Signals;
use crate::base::{Period, Secret};
use crate::upstream::{SERVICE_NAME_RULE, is_service_name};

/// How often it is tried whether the service answers yet.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a connection to it, or a call to the gateway, may take.
const CALL_MAX: Duration = Duration::from_secs(3);
/// After a registration that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What to register, and what to run.
#[derive(Debug)]
pub struct RegisterArgs {
    /// The admin listener of a gateway.
    pub gateway: String,
    /// The service's name.
    pub service: String,
    /// The instance's; made of the address if there is none.
    pub instance: Option<String>,
    /// Where it answers.
    pub address: SocketAddr,
    /// Its share of the requests.
    pub weight: u32,
    /// The zone that it stands in.
    pub zone: Option<String>,
    /// How long it is known without being renewed; it is renewed three times as often.
    pub ttl: Duration,
    /// From leaving the registry until the service is told to stop.
    pub drain: Duration,
    /// The token of the service.
    pub token: Option<Secret>,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// Runs the command to its end.
///
/// # Errors
/// When it can't be started, or what is to be registered makes no sense.
pub fn register(args: RegisterArgs) -> Result<ExitCode, Failure> {
    // The provider of cryptography is chosen before anything could ask for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registrar = Registrar::new(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure(format!("no thread can be started: {error}")))?;
    let status = runtime.block_on(registrar.run())?;
    runtime.shutdown_background();
    // What a signal ended has no code; shells count from 128.
    Ok(ExitCode::from(status.code().and_then(|it| u8::try_from(it).ok()).unwrap_or(143)))
}

struct Registrar {
    args: RegisterArgs,
    client: Client,
    url: Url,
}

impl Registrar {
    fn new(args: RegisterArgs) -> Result<Self, Failure> {
        let instance = args.instance.clone().unwrap_or_else(|| name_of(args.address));
        for (option, name) in [("service", &args.service), ("instance", &instance)] {
            if !is_service_name(name) {
                return Err(Failure(format!("--{option} {name}: a name has {SERVICE_NAME_RULE}")));
            }
        }
        let url =
            Url::parse(&args.gateway).and_then(|it| it.join(&format!("/admin/registry/{}/{instance}", args.service)));
        let url =
            url.map_err(|error| Failure(format!("--gateway {}: {error}; write http://127.0.0.1:9090", args.gateway)))?;
        let client = Client::builder().timeout(CALL_MAX).build();
        let client = client.map_err(|error| Failure(format!("the gateway can't be called: {error}")))?;
        Ok(Self { args, client, url })
    }

    async fn run(self) -> Result<ExitStatus, Failure> {
        let mut signals = Signals::listen().map_err(|it| Failure(format!("signals can't be listened to: {it}")))?;
        let [program, arguments @ ..] = &*self.args.command else {
            return Err(Failure("no command; write it behind `--`".to_owned()));
        };
        let child = Command::new(program).args(arguments).spawn();
        let child = child.map_err(|error| Failure(format!("{program} can't be started: {error}")))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let mut ended = wait(child);
        tokio::select! {
            status = &mut ended => {
                self.leave().await;
                return exited(status);
            }
            _ = signals.next_stop() => {}
            () = self.keep_registered() => {}
        }
        self.leave().await;
        sleep(self.args.drain).await;
        // It may have ended by itself.
        let _ = kill(pid, Signal::SIGTERM);
        tokio::select! {
            status = &mut ended => exited(status),
            _ = signals.next_stop() => {
                let _ = kill(pid, Signal::SIGKILL);
                exited(ended.await)
            }
        }
    }

    /// Registers it once it answers, and renews that. Never ends.
    async fn keep_registered(&self) {
        while !matches!(timeout(CALL_MAX, TcpStream::connect(self.args.address)).await, Ok(Ok(_))) {
            sleep(LOOK_EVERY).await;
        }
        let mut told = false;
        loop {
            match self.call(Method::PUT, Some(self.registration())).await {
                Ok(()) => {
                    if !std::mem::replace(&mut told, true) {
                        eprintln!("registered {} as {}", self.args.address, self.url);
                    }
                    sleep(self.args.ttl / 3).await;
                }
                Err(reason) => {
                    told = false;
                    eprintln!("{} is not registered: {reason}; it is tried again", self.args.address);
                    sleep(RETRY_AFTER.min(self.args.ttl / 3)).await;
                }
            }
        }
    }

    async fn leave(&self) {
        if let Err(reason) = self.call(Method::DELETE, None).await {
            let ttl = Period(self.args.ttl);
            eprintln!(
                "{} could not leave the registry: {reason}; it ends there by itself within {ttl}",
                self.args.address
            );
        }
    }

    fn registration(&self) -> Value {
        let RegisterArgs { address, weight, zone, ttl, .. } = &self.args;
        let mut body = Map::new();
        body.insert("address".to_owned(), json!(address));
        body.insert("weight".to_owned(), json!(weight));
        body.insert("ttl".to_owned(), json!(Period(*ttl).to_string()));
        body.extend(zone.as_ref().map(|it| ("zone".to_owned(), json!(it))));
        Value::Object(body)
    }

    async fn call(&self, method: Method, body: Option<Value>) -> Result<(), String> {
        let mut request = self.client.request(method, self.url.clone());
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(token) = &self.args.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(|it| it.without_url().to_string())?;
        match response.status() {
            it if it.is_success() || it == StatusCode::NOT_FOUND => Ok(()),
            status => {
                let body: Value = response.json().await.unwrap_or_default();
                let message = body["error"]["message"].as_str().unwrap_or_default();
                Err(format!("the gateway answers {status}: {message}"))
            }
        }
    }
}

/// The end of a process, without a thread of the runtime that waits for it.
fn wait(mut child: Child) -> oneshot::Receiver<std::io::Result<ExitStatus>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || sender.send(child.wait()));
    receiver
}

fn exited(status: Result<std::io::Result<ExitStatus>, oneshot::error::RecvError>) -> Result<ExitStatus, Failure> {
    match status {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(Failure(format!("the command can't be waited for: {error}"))),
        Err(_) => Err(Failure("the command can't be waited for".to_owned())),
    }
}

fn name_of(address: SocketAddr) -> String {
    let text = address.to_string().replace([':', '%'], "-");
    text.trim_start_matches('[').replace(']', "")
}
