//! The command line: read it, call the app, turn what comes of it into an exit code.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::{self, Algorithm, ExplainRequest, Failure, Files, Format, NewApiKeyArgs, NewUserArgs, RegisterArgs};
use crate::base::{Period, Secret};
use crate::demo::{self, DemoOptions};
use crate::pipeline::Filters;
use crate::store::UserChange;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

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
        /// Take over the sockets of the gateway that runs. Not offered yet, and so not shown; who tries it is told.
        #[arg(long, hide = true)]
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
    /// Who may sign in.
    Users {
        #[command(subcommand)]
        command: UsersCommand,
        #[command(flatten)]
        files: GlobalFileArgs,
    },
    /// Keys that sign tokens, and API keys of services.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
        #[command(flatten)]
        files: GlobalFileArgs,
    },
    /// Values that the configuration names and nobody sees.
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Print the JSON Schema of a configuration file.
    Schema { file: SchemaArg },
    /// Run a service and register it with a gateway for as long as it answers. The token is read from MOONGATE_TOKEN.
    Register(RegisterCommand),
    /// A small back end to try the gateway with.
    DemoBackend {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
    },
}

#[derive(Args)]
struct RegisterCommand {
    /// The gateway's admin listener, such as http://127.0.0.1:9090.
    #[arg(long, env = "MOONGATE_GATEWAY")]
    gateway: String,
    /// The service's name.
    #[arg(long)]
    service: String,
    /// The instance's name. Default: made of the address.
    #[arg(long)]
    instance: Option<String>,
    /// Where the gateway reaches it, such as 10.0.0.7:9103.
    #[arg(long)]
    address: SocketAddr,
    /// Its share of the requests, in relation to the others.
    #[arg(long, default_value_t = 1)]
    weight: u32,
    /// The zone that it stands in.
    #[arg(long)]
    zone: Option<String>,
    /// How long the gateway knows it without hearing from it.
    #[arg(long, default_value = "15s")]
    ttl: Period,
    /// From leaving the registry until the command is told to stop.
    #[arg(long, default_value = "1s")]
    drain: Period,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
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

#[derive(Args)]
struct GlobalFileArgs {
    /// gateway.yaml
    #[arg(long, env = "MOONGATE_CONFIG", default_value = "conf/gateway.yaml", global = true)]
    config: PathBuf,
    /// routes.yaml, which says what roles there are
    #[arg(long, env = "MOONGATE_ROUTES", default_value = "routes.yaml", global = true)]
    routes: PathBuf,
}

#[derive(Args)]
struct ConfigArg {
    /// gateway.yaml
    #[arg(long, env = "MOONGATE_CONFIG", default_value = "conf/gateway.yaml", global = true)]
    config: PathBuf,
}

#[derive(Subcommand)]
enum UsersCommand {
    /// Add one; the password is prompted for, or read from standard input.
    Add {
        name: String,
        /// A role; may be repeated.
        #[arg(long = "role")]
        roles: Vec<String>,
        #[arg(long)]
        tenant: Option<String>,
        /// Make a password and show it once.
        #[arg(long)]
        generate: bool,
    },
    /// Show them all.
    List {
        #[arg(long, default_value = "human")]
        format: FormatArg,
    },
    /// Sign one out for good.
    Disable { name: String },
    /// Let one sign in again.
    Enable { name: String },
    /// Give one other roles, in the place of all that they had.
    #[command(group(ArgGroup::new("wanted").args(["roles", "none"]).required(true)))]
    Roles {
        name: String,
        /// A role; may be repeated.
        #[arg(long = "role")]
        roles: Vec<String>,
        /// Take away all that they have.
        #[arg(long)]
        none: bool,
    },
    /// Set another password, prompted for or read from standard input.
    Password {
        name: String,
        /// Make a password and show it once.
        #[arg(long)]
        generate: bool,
    },
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make a key that signs tokens, and print its name.
    New {
        #[arg(long)]
        algorithm: AlgorithmArg,
        /// The file, which must not be there yet.
        #[arg(long)]
        out: PathBuf,
    },
    /// Make an API key and show it once.
    Api {
        name: String,
        /// A role; may be repeated.
        #[arg(long = "role")]
        roles: Vec<String>,
        /// What the key is limited to; may be repeated.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        #[arg(long)]
        tenant: Option<String>,
        /// How long it lives, as in 90d or 12h, or never.
        #[arg(long, default_value = "90d")]
        expires: String,
    },
    /// Show the API keys.
    List {
        #[arg(long, default_value = "human")]
        format: FormatArg,
    },
    /// Revoke an API key.
    Revoke { id: String },
}

#[derive(Subcommand)]
enum SecretsCommand {
    /// Store a value, prompted for or read from standard input.
    Put { name: String },
    /// Show names and times.
    List {
        #[arg(long, default_value = "human")]
        format: FormatArg,
    },
    /// Forget a value.
    Remove { name: String },
    /// Seal all values anew: from OLD_SECRET_KEY, or a file, to the key that is configured.
    Rotate {
        /// The file with the old key.
        #[arg(long)]
        old_key_file: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum AlgorithmArg {
    #[value(name = "EdDSA")]
    EdDsa,
    #[value(name = "ES256")]
    Es256,
    #[value(name = "RS256")]
    Rs256,
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

impl From<GlobalFileArgs> for Files {
    fn from(args: GlobalFileArgs) -> Self {
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

/// A whole gateway: what `main` does, with these filters beside the built-in ones. Every command knows them.
pub fn main(filters: Filters) -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run { upgrade: true, .. } => Err(Failure(
            "this version can't take over the sockets of a running gateway yet; start without --upgrade".into(),
        )),
        Command::Run { files, .. } => app::run(&files.into(), filters),
        Command::Check { files, format } => {
            let checked = app::check(&files.into(), &filters, format.into());
            show(checked.report).and(checked.verdict)
        }
        Command::Routes { files, format } => app::routes(&files.into(), &filters, format.into()).and_then(show),
        Command::Explain { method, url, header, files, format } => {
            let wanted = ExplainRequest { method, url, fields: header };
            app::explain(&files.into(), &filters, &wanted, format.into()).and_then(show)
        }
        Command::Users { command, files } => users(command, &files.into()).and_then(show),
        Command::Keys { command, files } => keys(command, &files.into()).and_then(show),
        Command::Secrets { command, config } => secrets(command, &config.config).and_then(show),
        Command::Schema { file } => {
            let file = match file {
                SchemaArg::Config => "config",
                SchemaArg::Routes => "routes",
            };
            show(app::schema(file, &filters))
        }
        Command::DemoBackend { listen, name } => demo_backend(DemoOptions { listen, name }),
        Command::Register(command) => return exit(app::register(command.into())),
    };
    exit(done.map(|()| ExitCode::SUCCESS))
}

fn exit(done: Result<ExitCode, Failure>) -> ExitCode {
    done.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        ExitCode::FAILURE
    })
}

impl From<RegisterCommand> for RegisterArgs {
    fn from(command: RegisterCommand) -> Self {
        let RegisterCommand { gateway, service, instance, address, weight, zone, ttl, drain, command } = command;
        let token = std::env::var("MOONGATE_TOKEN").ok().map(Secret::from);
        let (ttl, drain) = (ttl.0, drain.0);
        Self { gateway, service, instance, address, weight, zone, ttl, drain, token, command }
    }
}

fn users(command: UsersCommand, files: &Files) -> Result<String, Failure> {
    let config = &*files.gateway;
    let change = |name: &str, change| app::change_user(files, name, change);
    match command {
        UsersCommand::Add { name, roles, tenant, generate } => {
            app::add_user(files, NewUserArgs { name, roles, tenant, generate })
        }
        UsersCommand::List { format } => app::list_users(config, format.into()),
        UsersCommand::Disable { name } => change(&name, UserChange { active: Some(false), ..UserChange::default() }),
        UsersCommand::Enable { name } => change(&name, UserChange { active: Some(true), ..UserChange::default() }),
        UsersCommand::Roles { name, roles, none: _ } => {
            change(&name, UserChange { roles: Some(roles), ..UserChange::default() })
        }
        UsersCommand::Password { name, generate } => app::set_password(config, &name, generate),
    }
}

fn keys(command: KeysCommand, files: &Files) -> Result<String, Failure> {
    let config = &*files.gateway;
    match command {
        KeysCommand::New { algorithm, out } => app::new_key(
            match algorithm {
                AlgorithmArg::EdDsa => Algorithm::EdDsa,
                AlgorithmArg::Es256 => Algorithm::Es256,
                AlgorithmArg::Rs256 => Algorithm::Rs256,
            },
            &out,
        ),
        KeysCommand::Api { name, roles, scopes, tenant, expires } => {
            let life = match &*expires {
                "never" => None,
                text => {
                    Some(text.parse::<Period>().map_err(|it| Failure(format!("--expires {text}: {it}, or never")))?.0)
                }
            };
            app::add_api_key(files, NewApiKeyArgs { name, roles, scopes, tenant, life })
        }
        KeysCommand::List { format } => app::api_keys(config, format.into()),
        KeysCommand::Revoke { id } => app::revoke_api_key(config, &id),
    }
}

fn secrets(command: SecretsCommand, config: &Path) -> Result<String, Failure> {
    match command {
        SecretsCommand::Put { name } => app::put_secret(config, &name),
        SecretsCommand::List { format } => app::list_secrets(config, format.into()),
        SecretsCommand::Remove { name } => app::remove_secret(config, &name),
        SecretsCommand::Rotate { old_key_file } => app::rotate_secrets(config, old_key_file.as_deref()),
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
