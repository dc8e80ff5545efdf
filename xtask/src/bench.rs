//! `bench`: builds the load generators for release and runs one.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;
use clap::{Parser, ValueEnum};

use crate::cluster::{Cluster, Setup};
use crate::rivals;
use crate::workspace::{SERVER_BINARY, Workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    which: Which,
    /// What the bench itself takes; `--help` tells.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Transitions per second of an engine in process.
    Engine,
    /// Messages over HTTP at a steady rate.
    Http,
    /// Tasks over the wire Hatchet's SDKs speak.
    Hatchet,
    /// Turns of many sessions, with an agent in process.
    Turns,
    /// Orchestrations of three tools, with providers in process.
    Tools,
    /// Matching of many webhook subscriptions, and deliveries.
    Webhooks,
    /// Messages through the bus in and out, embedded and on Redis.
    Bus,
    /// A store with many runs, moved into PostgreSQL and back.
    Moving,
    /// Messages over HTTP to one, two and three nodes on a PostgreSQL, all on this machine.
    Cluster,
    /// Memory of many sleeping functions, and the time until an engine that has them is ready again.
    Live,
    /// Time to ready and memory of an idle server.
    Idle,
    /// Side by side with Restate, Celery and DBOS, which are installed for it.
    Compare,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let bin = match args.which {
        Which::Engine => "engine",
        Which::Http => "http",
        Which::Hatchet => "hatchet",
        Which::Turns => "turns",
        Which::Tools => "tools",
        Which::Webhooks => "webhooks",
        Which::Bus => "bus",
        Which::Moving => "moving",
        Which::Cluster => return cluster(workspace, &args.rest),
        Which::Live => "live",
        Which::Idle => "idle",
        Which::Compare => return compare(workspace, &args.rest),
    };
    if matches!(args.which, Which::Http | Which::Hatchet | Which::Idle) {
        workspace.release_binary()?;
    }
    let mut command = workspace.cargo(&["run", "--release", "--quiet", "--package", "mainspring-bench", "--bin", bin]);
    let ended = command.arg("--").args(&args.rest).status()?;
    if !ended.success() {
        bail!("bench {bin} ended with {ended}");
    }
    Ok(())
}

/// Builds everything of ours that is started, installs the rivals, and measures both.
fn compare(workspace: &Workspace, args: &[String]) -> anyhow::Result<()> {
    // At once, so that nothing is built twice with different features, and before anything is measured.
    let bins = ["mainspring", "compare", "functions", "wire-worker"].map(|bin| ["--bin", bin]);
    let mut build = workspace.cargo(&["build", "--release", "--quiet", "--workspace"]);
    if !build.args(bins.as_flattened()).status()?.success() {
        bail!("the programs of the comparison could not be built");
    }
    let rivals = rivals::install(workspace, args)?;
    let mut command = Command::new(workspace.target_dir.join("release/compare"));
    let ended = command.args(args).arg("--rivals").arg(rivals).current_dir(&workspace.root).status()?;
    if ended.success() { Ok(()) } else { bail!("the comparison ended with {ended}") }
}

/// Tenants the load is spread over, so that they live in many partitions.
const TENANTS: usize = 16;

/// What `bench cluster` takes.
#[derive(Debug, Parser)]
struct ClusterArgs {
    /// How many nodes, in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    nodes: Vec<usize>,
    /// Messages a second, in turn.
    #[arg(long, value_delimiter = ',', default_value = "500,1000,2000,4000")]
    rates: Vec<u32>,
    /// How long each.
    #[arg(long, default_value_t = 15)]
    seconds: u32,
}

/// The same load for one, two and three nodes: each message is sent to the next node, wherever its tenant lives.
fn cluster(workspace: &Workspace, args: &[String]) -> anyhow::Result<()> {
    let args = ClusterArgs::try_parse_from(std::iter::once("cluster".to_owned()).chain(args.iter().cloned()))?;
    let bins = ["mainspring", "http"].map(|bin| ["--bin", bin]);
    let mut build = workspace.cargo(&["build", "--release", "--quiet", "--workspace"]);
    if !build.args(bins.as_flattened()).status()?.success() {
        bail!("the server and its load could not be built");
    }
    let release = workspace.target_dir.join("release");
    let parent = workspace.scratch("bench")?;
    for nodes in args.nodes {
        let dir = tempfile::Builder::new().prefix("cluster-").tempdir_in(&parent)?;
        let binary = std::env::var_os(SERVER_BINARY).map_or_else(|| release.join("mainspring"), PathBuf::from);
        let setup =
            Setup { binary: &binary, dir: dir.path(), nodes, tenants: TENANTS, wires: false, deliver_url: None };
        let cluster = Cluster::start(&setup)?;
        let urls: Vec<String> = cluster.nodes.iter().map(|node| node.place.url()).collect();
        let tokens = (0..TENANTS).map(|nth| cluster.token(nth)).collect::<anyhow::Result<Vec<_>>>()?;
        for rate in &args.rates {
            println!("\n{nodes} node(s), {rate} messages/s");
            let mut load = Command::new(release.join("http"));
            load.args(["--agent", "echo", "--seconds", &args.seconds.to_string(), "--sessions", "2000"]);
            load.args(["--rate", &rate.to_string()]);
            let ended = load.args(["--url", &urls.join(","), "--token", &tokens.join(",")]).status()?;
            if !ended.success() {
                bail!("the load ended with {ended}");
            }
        }
    }
    Ok(())
}
