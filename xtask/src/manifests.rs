//! `manifests`: what `examples/cluster` has for containers, held against the schemas of Kubernetes and Compose.

use std::process::Command;

use crate::sdk::{NPM, carried_out, python_with};
use crate::tools::{self, NODE};
use crate::workspace::Workspace;

/// A linter for Compose files that brings the schema of Compose itself.
const DCLINT: &str = "dclint@3";

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let here = workspace.root.join("examples/cluster");
    let python = python_with(workspace, &workspace.root.join("tests/cluster/requirements.txt"), "manifests-python")?;
    let mut kubernetes = Command::new(python.with_file_name("kubernetes-validate"));
    carried_out(kubernetes.args(["--strict", "kubernetes.yaml"]).current_dir(&here))?;

    let npm = &tools::find(&[NODE, NPM])?[1];
    let packages = workspace.scratch("manifests-node")?;
    if !packages.join("node_modules/.bin/dclint").exists() {
        carried_out(Command::new(npm).args(["install", "--silent", "--prefix"]).arg(&packages).arg(DCLINT))?;
    }
    let mut compose = Command::new(packages.join("node_modules/.bin/dclint"));
    carried_out(compose.args(["--quiet", "compose.yaml"]).current_dir(&here))?;
    println!("kubernetes.yaml and compose.yaml are well-formed");
    Ok(())
}
