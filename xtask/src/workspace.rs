//! Where the workspace is, what is in it, and where its builds go.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Names a server that is built already, to be tested instead of one that is built like the tests.
pub(crate) const SERVER_BINARY: &str = "MAINSPRING_BINARY";

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
        // What cargo tells of this program. Build scripts that look at it would make everything be built anew, each time
        // cargo is called from here after it was called by hand, and the other way round.
        let of_this_program = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| of_this_program(name)) {
            command.env_remove(name);
        }
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

    /// The server to test: what `MAINSPRING_BINARY` names, or else one built like the tests, now if anything changed.
    pub(crate) fn server_binary(&self) -> anyhow::Result<PathBuf> {
        if let Some(binary) = std::env::var_os(SERVER_BINARY) {
            return Ok(PathBuf::from(binary));
        }
        self.build(&["--bin", "mainspring"])?;
        Ok(self.target_dir.join("debug").join("mainspring"))
    }

    /// Builds some targets as the tests are built: with the features the whole workspace asks of its dependencies, because
    /// with those of one crate nearly all of them would be built once more.
    pub(crate) fn build(&self, targets: &[&str]) -> anyhow::Result<()> {
        let built = self.cargo(&["build", "--quiet", "--workspace"]).args(targets).status()?;
        if built.success() { Ok(()) } else { bail!("{} could not be built", targets.join(" ")) }
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
