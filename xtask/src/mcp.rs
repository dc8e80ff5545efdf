//! `mcp`: the published Python and TypeScript SDKs of MCP against both halves of `crates/mcp`.
//!
//! As clients they list and read our tools; as servers (two generations of the Python SDK) they are called by our client,
//! are slow, killed, and not there.

use std::process::Command;

use anyhow::bail;

use crate::sdk::{self, NPM};
use crate::tools::{self, NODE};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the Python checks with this word in their names, and no TypeScript.
    #[arg(long)]
    only: Option<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    workspace.build(&["--example", "catalogue", "--example", "remote"])?;
    let example = |name: &str| workspace.target_dir.join("debug/examples").join(name);
    let tests = workspace.root.join("tests/mcp");
    let logs = workspace.scratch("mcp-logs")?;

    let here = tests.join("python");
    let python = sdk::python_with(workspace, &here.join("requirements.txt"), "mcp-python")?;
    let before = sdk::python_with(workspace, &here.join("requirements-1.txt"), "mcp-python-1")?;
    let mut command = Command::new(python);
    command.arg("run.py").current_dir(here);
    command.arg("--catalogue").arg(example("catalogue")).arg("--remote").arg(example("remote"));
    command.arg("--python-1").arg(before);
    if let Some(only) = &args.only {
        command.args(["--only", only]);
    }
    let mut running = vec![sdk::start(&logs, "mcp python".to_owned(), command)?];

    if args.only.is_none() {
        let found = tools::find(&[NODE, NPM])?;
        let mut command = Command::new(&found[0]);
        command.arg("run.mjs").current_dir(tests.join("typescript"));
        command.arg("--catalogue").arg(example("catalogue"));
        command.arg("--packages").arg(workspace.target_dir.join("mcp-typescript"));
        running.push(sdk::start(&logs, "mcp typescript".to_owned(), command)?);
    }
    let mut failed = Vec::new();
    for one in running {
        failed.extend(sdk::wait(one)?);
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}
