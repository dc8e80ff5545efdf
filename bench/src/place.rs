//! A directory for one measurement, removed afterwards.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// Below `target/`, because `/tmp` is often memory, where durable writes cost nothing and prove nothing.
const DEFAULT_PARENT: &str = "target/bench";

/// A fresh directory below the one asked for.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// Makes one below `parent`, or below `target/bench`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn below(parent: Option<&Path>) -> anyhow::Result<Place> {
        let parent = parent.map_or_else(|| PathBuf::from(DEFAULT_PARENT), Path::to_owned);
        std::fs::create_dir_all(&parent).with_context(|| format!("{} can't be made", parent.display()))?;
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&parent);
        Ok(Place { dir: dir.with_context(|| format!("no directory can be made in {}", parent.display()))? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}
