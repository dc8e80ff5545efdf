//! `browser`: runs the test of the pages in `tests/browser` on the release build.
//!
//! It needs a Chromium and Node, and nothing from npm: the test speaks to Chromium over a pipe.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::Workspace;

/// Names under which a Chromium is installed.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let (chromium, node) = tools()?;
    let binary = workspace.release_binary()?;
    let ended = Command::new(node)
        .arg(workspace.root.join("tests/browser/run.mjs"))
        .env("CHROMIUM", chromium)
        .env("MAINSPRING_BINARY", binary)
        .env("SCREENSHOTS_DIR", workspace.scratch("screenshots")?)
        .env("SCRATCH_DIR", workspace.scratch("browser")?)
        .status()?;
    if !ended.success() {
        bail!("the browser test ended with {ended}");
    }
    Ok(())
}

/// Finds what the test needs, installing it where that is ours to do: on Debian, as root.
pub(crate) fn tools() -> anyhow::Result<(PathBuf, PathBuf)> {
    let missing = |chromium: &Option<PathBuf>, node: &Option<PathBuf>| {
        let mut missing = Vec::new();
        missing.extend(chromium.is_none().then_some("chromium"));
        missing.extend(node.is_none().then_some("nodejs"));
        missing
    };
    let find = || (BROWSERS.iter().find_map(|name| in_path(name)), in_path("node"));
    let (mut chromium, mut node) = find();
    let wanted = missing(&chromium, &node);
    if !wanted.is_empty() && may_install() {
        install(&wanted)?;
        (chromium, node) = find();
    }
    match (chromium, node) {
        (Some(chromium), Some(node)) => Ok((chromium, node)),
        (chromium, node) => bail!(
            "not installed: {}. Install it (Debian, as root: apt-get install --no-install-recommends {}), \
             or leave the pages untested with --no-browser",
            missing(&chromium, &node).join(", "),
            missing(&chromium, &node).join(" ")
        ),
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn may_install() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|id| String::from_utf8_lossy(&id.stdout).trim() == "0");
    root && in_path("apt-get").is_some()
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    println!("installing {}", packages.join(" "));
    let apt = |args: &[&str], packages: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args).args(packages).status().context("apt-get")
    };
    apt(&["update", "--quiet"], &[])?;
    let installed = apt(&["install", "--yes", "--quiet", "--no-install-recommends"], packages)?;
    if !installed.success() {
        bail!("apt-get could not install {}", packages.join(" "));
    }
    Ok(())
}
