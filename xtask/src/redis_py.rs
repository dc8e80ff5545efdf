//! `redis-py`: programs written with Python's Redis library, ours of `examples/redis` and such as were there before, against
//! the real binary and a Redis of their own.

use std::process::Command;

use anyhow::bail;

use crate::sdk;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let binary = workspace.server_binary()?;
    let here = workspace.root.join("tests/redis/python");
    let python = sdk::python_with(workspace, &here.join("requirements.txt"), "redis-python")?;
    let mut command = Command::new(python);
    command.arg("run.py").current_dir(here).arg("--binary").arg(binary);
    // Its data below the builds: /tmp is memory on many machines.
    command.env("TMPDIR", workspace.scratch("redis-py")?);
    let logs = workspace.scratch("redis-py-logs")?;
    let failed = sdk::wait(sdk::start(&logs, "redis-py".to_owned(), command)?)?;
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}
