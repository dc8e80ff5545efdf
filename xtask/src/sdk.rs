//! `sdk`: the published Python and TypeScript SDKs of Hatchet against the server, as workers and as clients.
//!
//! Everything is done twice: as it is, and with a `kill -9` of the server in the middle of each check. Both languages run
//! at once, because they mostly wait.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::tools::{self, NODE, Tool};
use crate::workspace::Workspace;

const PYTHON: Tool = Tool { names: &["python3"], package: "python3-venv" };
pub(crate) const NPM: Tool = Tool { names: &["npm"], package: "npm" };

/// A Python client takes its time to come back, which nobody else needs: the checks are shared among several servers.
const PYTHON_CRASH_PARTS: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this language.
    #[arg(long)]
    language: Option<Language>,
    /// Only the checks with this word in their names.
    #[arg(long)]
    only: Option<String>,
    /// Only without, or only with, killing the server.
    #[arg(long)]
    mode: Option<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Python,
    Typescript,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Nothing is killed.
    Plain,
    /// The server is killed in the middle of each check.
    Crash,
}

/// A test program that was started.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    begun: Instant,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let binary = workspace.server_binary()?;
    let mut failed = Vec::new();
    let logs = workspace.scratch("sdk-logs")?;
    for mode in [Mode::Plain, Mode::Crash] {
        if args.mode.is_some_and(|only| only != mode) {
            continue;
        }
        let mut running = Vec::new();
        for language in [Language::Python, Language::Typescript] {
            if args.language.is_some_and(|only| only != language) {
                continue;
            }
            let parts = if language == Language::Python && mode == Mode::Crash { PYTHON_CRASH_PARTS } else { 1 };
            for part in 1..=parts {
                let mut command = match language {
                    Language::Python => python(workspace)?,
                    Language::Typescript => typescript(workspace)?,
                };
                command.arg("--binary").arg(&binary);
                if mode == Mode::Crash {
                    command.arg("--crash");
                }
                if let Some(only) = &args.only {
                    command.args(["--only", only]);
                }
                let mut name = format!("{language:?} {mode:?}").to_lowercase();
                if parts > 1 {
                    command.args(["--part", &format!("{part}/{parts}")]);
                    name = format!("{name} {part} of {parts}");
                }
                running.push(start(&logs, name, command)?);
            }
        }
        for one in running {
            failed.extend(wait(one)?);
        }
    }
    // Last of all, because whoever reads a long output reads its end.
    if failed.is_empty() { Ok(()) } else { bail!("these checks failed:\n  {}", failed.join("\n  ")) }
}

/// Python with the SDK in a folder of its own.
fn python(workspace: &Workspace) -> anyhow::Result<Command> {
    let here = workspace.root.join("tests/sdk/python");
    let mut command = Command::new(python_with(workspace, &here.join("requirements.txt"), "sdk-python")?);
    command.arg("run.py").current_dir(here);
    Ok(command)
}

/// A Python with what a file lists, in a folder of its own with this name.
pub(crate) fn python_with(workspace: &Workspace, requirements: &Path, folder: &str) -> anyhow::Result<PathBuf> {
    let found = tools::find(&[PYTHON])?;
    let wanted = std::fs::read_to_string(requirements)?;
    let venv = workspace.target_dir.join(folder);
    let installed = venv.join("installed.txt");
    if std::fs::read_to_string(&installed).ok().as_ref() != Some(&wanted) {
        println!("installing {} into {}", wanted.trim().replace('\n', ", "), venv.display());
        carried_out(Command::new(&found[0]).args(["-m", "venv", "--clear"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        carried_out(pip.args(["install", "--quiet", "--requirement"]).arg(requirements))?;
        std::fs::write(&installed, wanted)?;
    }
    Ok(venv.join("bin/python"))
}

/// Node; the program installs the SDK into a folder of its own itself.
fn typescript(workspace: &Workspace) -> anyhow::Result<Command> {
    let found = tools::find(&[NODE, NPM])?;
    let mut command = Command::new(&found[0]);
    command.arg("run.mjs").current_dir(workspace.root.join("tests/sdk/typescript"));
    command.arg("--packages").arg(workspace.target_dir.join("sdk-typescript"));
    Ok(command)
}

/// Carries a command out that must succeed.
pub(crate) fn carried_out(command: &mut Command) -> anyhow::Result<()> {
    let ended = command.status().with_context(|| format!("{command:?} could not be started"))?;
    if ended.success() { Ok(()) } else { bail!("{command:?} ended with {ended}") }
}

/// Starts a test program, which says what it finds to a file.
pub(crate) fn start(logs: &Path, name: String, mut command: Command) -> anyhow::Result<Running> {
    let log = logs.join(format!("{}.log", name.replace(' ', "-")));
    let file = File::create(&log)?;
    let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
    let child = child.with_context(|| format!("{command:?} could not be started"))?;
    println!("{name}: started, it writes to {}", log.display());
    Ok(Running { name, child, log, begun: Instant::now() })
}

/// Waits for the end of one program. Gives a line for each check that failed.
pub(crate) fn wait(mut running: Running) -> anyhow::Result<Vec<String>> {
    let mut said = Instant::now();
    let status = loop {
        if let Some(status) = running.child.try_wait()? {
            break status;
        }
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            let checks = std::fs::read_to_string(&running.log).unwrap_or_default();
            let done = checks.lines().filter(|line| line.starts_with("ok ") || line.starts_with("FAILED ")).count();
            println!("{}: {done} checks so far, {} s", running.name, running.begun.elapsed().as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let text = std::fs::read_to_string(&running.log).unwrap_or_default();
    let took = running.begun.elapsed().as_secs();
    if status.success() {
        println!("{}: {} ({took} s)", running.name, text.lines().last().unwrap_or("ok"));
        return Ok(Vec::new());
    }
    println!("{text}\n{}: {status} ({took} s)", running.name);
    let mut failed: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("failed: ")).collect();
    if failed.is_empty() {
        // It ended before it could say which.
        failed.push(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it ended without a word"));
    }
    Ok(failed.into_iter().map(|check| format!("{}: {check}", running.name)).collect())
}
