//! `sim`: builds the simulator and runs seeds; with `--mutations`, plants bugs in a copy of the workspace and looks
//! whether the simulator finds each of them.

mod mutations;

use std::process::Command;

use anyhow::{Context, bail};

use crate::postgres::Process;
use crate::tools::{self, POSTGRES};
use crate::workspace::Workspace;

/// What PostgreSQL promises about its own machine is not simulated, so it need not wait for its disk.
const SETTINGS: [&str; 4] =
    ["fsync=off", "full_page_writes=off", "max_connections=300", "max_locks_per_transaction=256"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Plant each bug of the list and look in how many seeds it is found.
    #[arg(long)]
    mutations: bool,
    /// Simulate an hour of 10,000 sessions of fast typists.
    #[arg(long)]
    hour: bool,
    /// Stand on a PostgreSQL of its own rather than on memory.
    #[arg(long)]
    postgres: bool,
    /// What the simulator itself takes: `cargo xtask sim -- --help` tells.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    if args.mutations {
        return mutations::run(workspace, &args.rest);
    }
    workspace.build(&["--bin", "mainspring-sim"])?;
    let mut command = Command::new(workspace.target_dir.join("debug").join("mainspring-sim"));
    command.current_dir(&workspace.root).args(args.hour.then_some("--hour"));
    let mut server = None;
    if args.postgres {
        tools::find(&[POSTGRES])?;
        // Below the builds: /tmp is memory on many machines.
        let dir = tempfile::tempdir_in(&workspace.target_dir)?;
        let process = Process::start(dir.path(), &SETTINGS).context("PostgreSQL")?;
        command.args(["--postgres", &process.url()]);
        server = Some((process, dir));
    }
    command.args(&args.rest);
    let ended = command.status()?;
    drop(server);
    if !ended.success() {
        bail!("the simulator ended with {ended}");
    }
    Ok(())
}
