//! `browser`: runs the test of the pages in `tests/browser`.
//!
//! It needs a Chromium and Node, and nothing from npm: the test speaks to Chromium over a pipe. What the checks of tools call is
//! the trip example's service, which needs Python.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::tools::{self, NODE, PYTHON, Tool};
use crate::workspace::{SERVER_BINARY, Workspace};

/// Names under which a Chromium is installed.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let (chromium, node) = tools()?;
    let binary = workspace.server_binary()?;
    let ended = Command::new(node)
        .arg(workspace.root.join("tests/browser/run.mjs"))
        .env("CHROMIUM", chromium)
        .env(SERVER_BINARY, binary)
        .env("SCREENSHOTS_DIR", workspace.scratch("screenshots")?)
        .env("SCRATCH_DIR", workspace.scratch("browser")?)
        .status()?;
    if !ended.success() {
        bail!("the browser test ended with {ended}");
    }
    Ok(())
}

/// Finds what the test needs: Chromium, then Node.
pub(crate) fn tools() -> anyhow::Result<(PathBuf, PathBuf)> {
    let found = tools::find(&[Tool { names: &BROWSERS, package: "chromium" }, NODE, PYTHON]);
    let found = found.context("the pages can't be tested; --no-browser leaves them untested")?;
    match found.as_slice() {
        [chromium, node, _] => Ok((chromium.clone(), node.clone())),
        _ => bail!("three programs were looked for"),
    }
}
