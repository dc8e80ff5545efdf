//! Programs that tests need and that are not Rust's: found, or installed where that is ours to do (on Debian, as root).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

/// A program, by the names it goes by, and the Debian package it comes with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) names: &'static [&'static str],
    pub(crate) package: &'static str,
}

/// Node, which some tests are written for.
pub(crate) const NODE: Tool = Tool { names: &["node"], package: "nodejs" };

/// Python, which the trip example is written in.
pub(crate) const PYTHON: Tool = Tool { names: &["python3"], package: "python3" };

/// Redis, of which tests start servers of their own. Valkey, which speaks the same, is not in Debian 12; whoever has it
/// installed may name its `valkey-server` `redis-server`.
pub(crate) const REDIS: Tool = Tool { names: &["redis-server"], package: "redis-server" };

/// PostgreSQL, of which tests start servers of their own. Debian has its programs out of the path, and beside them one
/// that is in it.
pub(crate) const POSTGRES: Tool = Tool { names: &["initdb", "pg_createcluster"], package: "postgresql" };

/// What counts instructions.
pub(crate) const VALGRIND: Tool = Tool { names: &["valgrind"], package: "valgrind" };

/// The paths of programs, in the order asked for. What is missing is installed if it may be.
///
/// # Errors
/// Names what is missing and how to install it.
pub(crate) fn find(tools: &[Tool]) -> anyhow::Result<Vec<PathBuf>> {
    let found = || tools.iter().map(|tool| tool.names.iter().find_map(|name| in_path(name))).collect::<Vec<_>>();
    let missing = |found: &[Option<PathBuf>]| {
        let without = tools.iter().zip(found).filter(|(_, path)| path.is_none());
        without.map(|(tool, _)| tool.package).collect::<Vec<_>>()
    };
    let mut paths = found();
    if !missing(&paths).is_empty() && may_install() {
        install(&missing(&paths))?;
        paths = found();
    }
    let missing = missing(&paths);
    if !missing.is_empty() {
        bail!(
            "not installed: {}. Install it (Debian, as root: apt-get install --no-install-recommends {})",
            missing.join(", "),
            missing.join(" ")
        );
    }
    Ok(paths.into_iter().flatten().collect())
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
