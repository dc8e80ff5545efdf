//! `sim`: builds the simulator and runs seeds; with `--mutations`, plants bugs in a copy of the workspace and looks
//! whether the simulator finds each of them.

mod mutations;

use std::process::Command;

use anyhow::bail;

use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Plant each bug of the list and look in how many seeds it is found.
    #[arg(long)]
    mutations: bool,
    /// Simulate an hour of 10,000 sessions of fast typists.
    #[arg(long)]
    hour: bool,
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
    command.current_dir(&workspace.root).args(args.hour.then_some("--hour")).args(&args.rest);
    let ended = command.status()?;
    if !ended.success() {
        bail!("the simulator ended with {ended}");
    }
    Ok(())
}
