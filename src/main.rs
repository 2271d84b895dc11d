//! Stands in for the command line until the app room is there: `demo-backend` only.

use std::process::ExitCode;

use clap::Parser;
use moongate::demo::{DemoOptions, serve};

#[derive(Parser)]
enum Command {
    /// A small back end to put behind the gateway.
    DemoBackend {
        #[arg(long)]
        listen: std::net::SocketAddr,
        #[arg(long)]
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::DemoBackend { listen, name } = Command::parse();
    match serve(DemoOptions { listen, name }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moongate: {error}");
            ExitCode::FAILURE
        }
    }
}
