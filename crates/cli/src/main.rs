//! `mainspring`: serve, dev, and every operator verb. The only place where parts are chosen and wired.

mod bus;
mod config;
mod cork;
mod listen;
mod local;
mod mcp;
mod moving;
mod node;
mod part;
mod say;
mod start;
mod verbs;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};

/// A request is made of many small pieces, most of them given back by another thread than the one that took them: with the
/// system's allocator a run cost a tenth more of the processor.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "mainspring", version, about = "One durable orchestrator for platforms that run conversations.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs everything on this machine with an example agent and no configuration.
    Dev {
        /// Where everything is kept.
        #[arg(long, default_value = ".mainspring", env = "MAINSPRING_DIR")]
        dir: PathBuf,
        /// Where to listen: loopback only. Port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:8080", env = "MAINSPRING_LISTEN")]
        listen: SocketAddr,
    },
    /// Runs the server for real use.
    Serve {
        /// The configuration file.
        #[arg(long, default_value = "mainspring.toml", env = "MAINSPRING_CONFIG")]
        config: PathBuf,
        /// Where everything is kept, instead of what the file says.
        #[arg(long, env = "MAINSPRING_DIR")]
        dir: Option<PathBuf>,
        /// Where to listen, instead of what the file says.
        #[arg(long, env = "MAINSPRING_LISTEN")]
        listen: Option<SocketAddr>,
    },
    /// Makes, lists and revokes API tokens.
    Token {
        #[command(subcommand)]
        verb: TokenVerb,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Looks at runs, and cancels them.
    Run {
        #[command(subcommand)]
        verb: RunVerb,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Sends a message to an agent and prints its reply.
    Send {
        /// The agent.
        agent: String,
        /// What to say.
        text: String,
        /// Who says it.
        #[arg(long = "as", default_value = "cli")]
        interlocutor: String,
        /// Over which channel.
        #[arg(long, default_value = "cli")]
        channel: String,
        /// Return once the message is accepted, without waiting for the reply.
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Takes a store to another place, with everything that runs and waits in it: from a directory into PostgreSQL, or back.
    Move(moving::MoveArgs),
    /// Brings the schema in PostgreSQL up to date.
    Migrate(moving::MigrateArgs),
    /// Asks a server whether it accepts work: for health checks. Ends with 1 if it does not.
    Ready {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Writes all published configurations into Redis anew, from the tables.
    RedisRebuild {
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Subcommand)]
enum TokenVerb {
    /// Makes a token and prints it, once.
    Create {
        /// What it is for.
        #[arg(long, default_value = "command line")]
        name: String,
        /// What it may do: read, write, admin.
        #[arg(long, value_delimiter = ',', default_value = "read,write")]
        scopes: Vec<String>,
        /// How long it lasts.
        #[arg(long, default_value_t = 90)]
        ttl_days: u64,
        /// Print nothing but the token.
        #[arg(long)]
        quiet: bool,
    },
    /// Lists tokens.
    List,
    /// Ends a token now.
    Revoke {
        /// Its id.
        id: String,
    },
}

#[derive(Subcommand)]
enum RunVerb {
    /// Lists runs, newest first.
    List {
        /// Only of this workflow.
        #[arg(long)]
        workflow: Option<String>,
        /// Only in this state.
        #[arg(long)]
        state: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows a run with its tasks, journals and what it waits for.
    Show {
        /// Its id.
        id: String,
    },
    /// Cancels a run and its children.
    Cancel {
        /// Its id.
        id: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lets a parked run try again.
    Resume {
        /// Its id.
        id: String,
    },
}

/// Which server to talk to: the one that runs on a directory of this machine, or any by address and token.
#[derive(Args)]
struct ServerArgs {
    /// The directory of a server on this machine.
    #[arg(long, global = true, default_value = ".mainspring", env = "MAINSPRING_DIR")]
    dir: PathBuf,
    /// The tenant to act for, if not the server's first.
    #[arg(long, global = true)]
    tenant: Option<String>,
    /// The address of a server elsewhere.
    #[arg(long, global = true, env = "MAINSPRING_URL")]
    url: Option<String>,
    /// A token for it.
    #[arg(long, global = true, env = "MAINSPRING_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

fn main() -> std::process::ExitCode {
    match start_up() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // One sentence a person can act on, with its causes; never a backtrace.
            eprintln!("mainspring: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn start_up() -> anyhow::Result<()> {
    let began = Instant::now();
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAINSPRING_LOG")
        // The MCP library tells of every request; what matters of it we say ourselves.
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,rmcp=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // The only provider that needs no C build tools beyond a compiler; fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.verb {
            Verb::Dev { dir, listen } => start::dev(&dir, listen, began).await,
            Verb::Serve { config, dir, listen } => start::serve(&config, dir, listen, began).await,
            Verb::Token { verb, server } => verbs::token(verb, &server).await,
            Verb::Run { verb, server } => verbs::run(verb, &server).await,
            Verb::Send { agent, text, interlocutor, channel, no_wait, server } => {
                verbs::send(&server, &agent, &interlocutor, &channel, &text, !no_wait).await
            }
            Verb::Move(args) => tokio::task::spawn_blocking(move || moving::move_all(&args)).await?,
            Verb::Migrate(args) => tokio::task::spawn_blocking(move || moving::migrate(&args)).await?,
            Verb::Ready { server } => verbs::ready(&server).await,
            Verb::RedisRebuild { server } => verbs::redis_rebuild(&server).await,
        }
    })
}
