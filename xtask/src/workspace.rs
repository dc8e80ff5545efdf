//! Where the workspace is, what is in it, and where its builds go.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

/// This workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target_dir: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

impl Workspace {
    /// Asks cargo, at the place this program was built from.
    pub(crate) fn find() -> anyhow::Result<Workspace> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own.parent().context("xtask has no parent directory")?.to_owned();
        let asked = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&root)
            .output()
            .context("cargo can't be run")?;
        if !asked.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&asked.stderr));
        }
        let Metadata { target_directory } = serde_json::from_slice(&asked.stdout)?;
        Ok(Workspace { root, target_dir: target_directory })
    }

    /// A cargo command at the workspace's root.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command.args(args).current_dir(&self.root);
        command
    }

    /// The release build of the server, built now if anything changed.
    pub(crate) fn release_binary(&self) -> anyhow::Result<PathBuf> {
        let built = self.cargo(&["build", "--release", "--quiet", "--package", "mainspring-cli"]).status()?;
        if !built.success() {
            bail!("the release build failed");
        }
        Ok(self.target_dir.join("release").join("mainspring"))
    }

    /// A directory below the builds, made if need be. Not in `/tmp`, which is memory on many machines.
    pub(crate) fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.target_dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("{} can't be made", dir.display()))?;
        Ok(dir)
    }
}

/// The cargo that runs this, so that a chosen toolchain stays chosen.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}
