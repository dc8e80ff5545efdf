//! What `bench compare` measures beside ours: installed from the public registries into a folder below the builds, in the
//! versions written down in `bench/rivals`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::sdk;
use crate::tools::{self, NODE, POSTGRES, REDIS, Tool};
use crate::workspace::Workspace;

const RABBITMQ: Tool = Tool { names: &["rabbitmq-server"], package: "rabbitmq-server" };

/// The names by which rivals are chosen.
const NAMES: [&str; 4] = ["restate", "celery-redis", "celery-rabbitmq", "dbos"];

/// Installs the rivals that a bench's arguments ask for, all of them if `--only` names none; gives the folder.
///
/// # Errors
/// When a registry can't be reached or a build fails.
pub(crate) fn install(workspace: &Workspace, args: &[String]) -> anyhow::Result<PathBuf> {
    let folder = workspace.scratch("rivals")?;
    let asked = |rival: &str| {
        let mut words = args.iter().flat_map(|arg| arg.split([',', '=']));
        !args.iter().any(|arg| arg.starts_with("--only")) || words.any(|word| word == rival)
    };
    let [restate, redis, rabbitmq, dbos] = NAMES.map(asked);
    if restate {
        install_restate(workspace, &folder)?;
    }
    let mut programs = Vec::new();
    programs.extend(redis.then_some(REDIS));
    programs.extend(rabbitmq.then_some(RABBITMQ));
    programs.extend(dbos.then_some(POSTGRES));
    tools::find(&programs)?;
    if redis || rabbitmq || dbos {
        sdk::python_with(workspace, &workspace.root.join("bench/rivals/requirements.txt"), "rivals/python")?;
    }
    Ok(folder)
}

/// Restate's server from npm, and the service it calls, which is a workspace of its own.
fn install_restate(workspace: &Workspace, folder: &std::path::Path) -> anyhow::Result<()> {
    let found = tools::find(&[sdk::NPM, NODE])?;
    let (here, there) = (workspace.root.join("bench/rivals/restate-server"), folder.join("restate"));
    std::fs::create_dir_all(&there)?;
    let mut changed = false;
    for file in ["package.json", "package-lock.json"] {
        let wanted = std::fs::read(here.join(file))?;
        changed |= std::fs::read(there.join(file)).ok().as_ref() != Some(&wanted);
        std::fs::write(there.join(file), wanted)?;
    }
    if changed || !there.join("node_modules").is_dir() {
        println!("installing Restate's server into {}", there.display());
        let installed = Command::new(&found[0])
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&there)
            .status()?;
        if !installed.success() {
            bail!("npm could not install Restate's server");
        }
    }
    let mut build = workspace.cargo(&["build", "--release", "--locked", "--quiet"]);
    build.current_dir(workspace.root.join("bench/rivals/restate-service"));
    build.env("CARGO_TARGET_DIR", folder.join("restate-service"));
    if !build.status()?.success() {
        bail!("the service for Restate could not be built");
    }
    Ok(())
}
