//! The command line: read it, call the app, turn what comes of it into an exit code.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use moongate::app::{self, Failure, Files, Format};
use moongate::demo::{self, DemoOptions};

// Requests allocate many small things of one size: mimalloc takes a tenth off their cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A programmable edge gateway.
#[derive(Parser)]
#[command(name = "moongate", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run {
        #[command(flatten)]
        files: FileArgs,
        /// Take over the sockets of the gateway that runs.
        #[arg(long)]
        upgrade: bool,
    },
    /// Find every fault in both files.
    Check {
        #[command(flatten)]
        files: FileArgs,
        #[arg(long, default_value = "human")]
        format: FormatArg,
    },
    /// Show the compiled routes.
    Routes {
        #[command(flatten)]
        files: FileArgs,
        #[arg(long, default_value = "human")]
        format: FormatArg,
    },
    /// Tell what becomes of a request, without sending one.
    Explain {
        method: String,
        /// A URL, or a path.
        url: String,
        /// A header field of the request, as 'name: value'.
        #[arg(short = 'H', long = "header")]
        header: Vec<String>,
        #[command(flatten)]
        files: FileArgs,
        #[arg(long, default_value = "human")]
        format: FormatArg,
    },
    /// Print the JSON Schema of a configuration file.
    Schema { file: SchemaArg },
    /// A small back end to try the gateway with.
    DemoBackend {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
    },
}

#[derive(Args)]
struct FileArgs {
    /// gateway.yaml
    #[arg(long, env = "MOONGATE_CONFIG", default_value = "conf/gateway.yaml")]
    config: PathBuf,
    /// routes.yaml
    #[arg(long, env = "MOONGATE_ROUTES", default_value = "routes.yaml")]
    routes: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Human,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemaArg {
    Config,
    Routes,
}

impl From<FileArgs> for Files {
    fn from(args: FileArgs) -> Self {
        Self { gateway: args.config, routes: args.routes }
    }
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Human => Self::Human,
            FormatArg::Json => Self::Json,
        }
    }
}

fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run { upgrade: true, .. } => Err(Failure(
            "taking over the sockets of a running gateway is not there yet; start without --upgrade".into(),
        )),
        Command::Run { files, .. } => app::run(&files.into()),
        Command::Check { files, format } => {
            let checked = app::check(&files.into(), format.into());
            show(checked.report).and(checked.verdict)
        }
        Command::Routes { files, format } => app::routes(&files.into(), format.into()).and_then(show),
        Command::Explain { method, url, header, files, format } => {
            app::explain(&files.into(), &method, &url, &header, format.into()).and_then(show)
        }
        Command::Schema { file } => show(app::schema(match file {
            SchemaArg::Config => "config",
            SchemaArg::Routes => "routes",
        })),
        Command::DemoBackend { listen, name } => demo_backend(DemoOptions { listen, name }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn show(text: String) -> Result<(), Failure> {
    // A pipe that closed early, such as `| head`, is nobody's fault.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn demo_backend(options: DemoOptions) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure(format!("no thread can be started: {error}")))?;
    let listen = options.listen;
    runtime
        .block_on(demo::serve(options))
        .map_err(|error| Failure(format!("the demo back end can't use {listen}: {error}")))
}
