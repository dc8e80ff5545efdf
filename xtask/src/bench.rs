//! `bench`: builds the load generators for release and runs one.

use anyhow::bail;
use clap::ValueEnum;

use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    which: Which,
    /// What the bench itself takes; `--help` tells.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Transitions per second of an engine in process.
    Engine,
    /// Messages over HTTP at a steady rate.
    Http,
    /// Tasks over the wire Hatchet's SDKs speak.
    Hatchet,
    /// Turns of many sessions, with an agent in process.
    Turns,
    /// Orchestrations of three tools, with providers in process.
    Tools,
    /// Matching of many webhook subscriptions, and deliveries.
    Webhooks,
    /// Messages through the bus in and out, embedded and on Redis.
    Bus,
    /// Time to ready and memory of an idle server.
    Idle,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let bin = match args.which {
        Which::Engine => "engine",
        Which::Http => "http",
        Which::Hatchet => "hatchet",
        Which::Turns => "turns",
        Which::Tools => "tools",
        Which::Webhooks => "webhooks",
        Which::Bus => "bus",
        Which::Idle => "idle",
    };
    if !matches!(args.which, Which::Engine | Which::Turns | Which::Tools | Which::Webhooks | Which::Bus) {
        workspace.release_binary()?;
    }
    let mut command = workspace.cargo(&["run", "--release", "--quiet", "--package", "mainspring-bench", "--bin", bin]);
    let ended = command.arg("--").args(&args.rest).status()?;
    if !ended.success() {
        bail!("bench {bin} ended with {ended}");
    }
    Ok(())
}
