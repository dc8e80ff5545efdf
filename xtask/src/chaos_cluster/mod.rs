//! `chaos-cluster`: three real nodes on one PostgreSQL, with people talking to agents of many tenants and a worker of
//! Hatchet's SDK at each node; every few seconds something happens to a node, its wire to the database, or the database.
//! Then the ledgers are compared.
//!
//! The promises: every message that is accepted is answered once, in order; every run that is accepted ends once, with its
//! result; and a node that was frozen or cut off while others took its partitions over commits nothing when it is back.

mod check;
mod load;

use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::check::Findings;
use self::load::{Accepted, Load};
use crate::chaos_kill::sink::Sink;
use crate::cluster::{Cluster, Setup, View, tenant};
use crate::dice::{self, Dice};
use crate::http::Http;
use crate::sdk::python_with;
use crate::workspace::Workspace;

const NODES: usize = 3;
const TENANTS: usize = 16;
/// For each tenant.
const TALKERS: usize = 2;
const STARTERS: usize = 3;
/// The pause between two troubles, in milliseconds.
const PAUSE_MS: (u64, u64) = (1_500, 6_000);
/// How long a node is frozen: longer than a lease, so that it wakes up as one that has lost everything.
const FREEZE: Duration = Duration::from_secs(15);
/// How long everything may take to be answered after the last message.
const FINISH_MAX: Duration = Duration::from_secs(300);
/// Of a node with every partition, and as many as tokio may have for reads that block.
const THREADS_MAX: u64 = 64 * 4 + 200;
const VIOLATIONS_SHOWN: usize = 30;

/// A recovery that takes longer is told by itself, in seconds.
const SLOW: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long there is trouble, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Chance, for a run like an earlier one [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Kill,
    Freeze,
    Cut,
    Drain,
    Database,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::Kill => "kill -9 of a node",
            Trouble::Freeze => "a node frozen for 15 s",
            Trouble::Cut => "a node cut off from the database",
            Trouble::Drain => "a node drained and started again",
            Trouble::Database => "the database killed and started again",
        })
    }
}

/// Something that happened, and whom it concerned.
struct Happened {
    trouble: Trouble,
    at: Instant,
    tenants: Vec<usize>,
}

/// Something to be undone at a time.
struct Undo {
    at: Instant,
    node: usize,
    trouble: Trouble,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(dice::seed_by_clock);
    let binary = workspace.server_binary()?;
    let python = python_with(workspace, &workspace.root.join("tests/sdk/python/requirements.txt"), "sdk-python")?;
    let parent = workspace.scratch("chaos")?;
    let dir = tempfile::Builder::new().prefix(&format!("cluster-{seed}-")).tempdir_in(&parent)?.keep();
    let again = format!("cargo xtask chaos-cluster --seconds {} --seed {seed}", args.seconds);
    println!("{} s, seed {seed}, in {}", args.seconds, dir.display());
    let script = workspace.root.join("tests/cluster/worker.py");
    let violations = chaos(&binary, &dir, &(python, script), args.seconds, seed).with_context(|| {
        format!("chaos-cluster could not finish; everything is in {}; again: {again}", dir.display())
    })?;
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        println!("VIOLATION     {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations; everything is in {}; again: {again}", violations.len(), dir.display());
    }
    let _ = std::fs::remove_dir_all(&dir);
    println!("no violation");
    Ok(())
}

/// Hatchet's SDK as a worker, connected to one node.
struct Worker(Child);

impl Worker {
    fn start((python, script): &(PathBuf, PathBuf), port: u16, token: &str, dir: &Path) -> anyhow::Result<Worker> {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("workers.log"))?;
        let child = Command::new(python)
            .arg(script)
            .arg(dir.join("ledger.txt"))
            .env("HATCHET_CLIENT_TOKEN", token)
            .env("HATCHET_CLIENT_TLS_STRATEGY", "none")
            .env("HATCHET_CLIENT_HOST_PORT", format!("127.0.0.1:{port}"))
            .env("HATCHET_CLIENT_SERVER_URL", format!("http://127.0.0.1:{port}"))
            .stdin(Stdio::null())
            // The SDK has processes of its own, which end with it.
            .process_group(0)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("a worker can't be started")?;
        Ok(Worker(child))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

fn chaos(
    binary: &Path,
    dir: &Path,
    worker: &(PathBuf, PathBuf),
    seconds: u64,
    seed: u64,
) -> anyhow::Result<Vec<String>> {
    let sink = Sink::listen()?;
    let setup = Setup { binary, dir, nodes: NODES, tenants: TENANTS, wires: true, deliver_url: Some(&sink.url) };
    let mut cluster = Cluster::start(&setup)?;
    let tokens = (0..TENANTS).map(|nth| cluster.token(nth)).collect::<anyhow::Result<Vec<_>>>()?;
    let urls: Vec<String> = cluster.nodes.iter().map(|node| node.place.url()).collect();
    let workers: Vec<Worker> = cluster
        .nodes
        .iter()
        .map(|node| Worker::start(worker, node.place.port, &tokens[0], dir))
        .collect::<anyhow::Result<_>>()?;
    wait_for_workflow(&urls[0], &tokens[0])?;
    println!("{NODES} nodes share the partitions; {} people talk, {STARTERS} programs start runs", TENANTS * TALKERS);
    let load = Load::start(&urls, &tokens, TALKERS, STARTERS, seed);
    let (counts, mut dice) = (load.counts.clone(), Dice::new(seed, 0));
    let (begun, mut told) = (Instant::now(), Instant::now());
    let (mut happened, mut undo, mut violations) = (Vec::new(), Vec::<Undo>::new(), Vec::new());
    let mut next = begun + Duration::from_secs(2);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = Instant::now();
        let over = begun.elapsed() >= Duration::from_secs(seconds);
        while let Some(nth) = undo.iter().position(|one| over || one.at <= now) {
            let one = undo.remove(nth);
            // A frozen node wakes when its time is over, not before.
            std::thread::sleep(one.at.saturating_duration_since(Instant::now()));
            put_right(&mut cluster, &one).with_context(|| format!("after: {}", one.trouble))?;
            violations.extend(check::log_is_fenced(&cluster.postgres.url())?);
        }
        if over {
            break;
        }
        if told.elapsed() > Duration::from_secs(15) {
            told = now;
            let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
            println!(
                "{:>5.0} s  {} messages and {} runs accepted, {} replies delivered, {} troubles",
                begun.elapsed().as_secs_f64(),
                count(&counts.messages),
                count(&counts.runs),
                sink.count(),
                happened.len()
            );
        }
        if now >= next {
            next = now + Duration::from_millis(dice.between(PAUSE_MS.0, PAUSE_MS.1));
            happened.extend(cause(&mut cluster, &tokens, &mut dice, &mut undo)?);
        }
    }
    // The last may still be going on: the load goes on until it is over.
    std::thread::sleep(Duration::from_secs(12));
    let (accepted, started) = load.stop()?;
    let finishing = Instant::now();
    while finishing.elapsed() < FINISH_MAX && !check::is_whole(&accepted, &sink.taken()) {
        std::thread::sleep(Duration::from_millis(500));
    }
    let finished_after = finishing.elapsed();
    let mut findings = Findings { violations, ..Findings::default() };
    // A reply may come once more.
    std::thread::sleep(Duration::from_secs(3));
    check::replies(&accepted, &sink.taken(), &mut findings);
    let mut http = Http::new(&urls[0], &tokens[0]);
    check::runs(&started, &mut http, &dir.join("ledger.txt"), &mut findings)?;
    findings.violations.extend(check::log_is_fenced(&cluster.postgres.url())?);
    drop(workers);
    let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "messages      {} accepted; {} tries more, {} of them after a 503",
        accepted.len(),
        count(&counts.again),
        count(&counts.refused)
    );
    println!("replies       {}, and {} deliveries of them repeated", findings.replies, findings.replies_repeated);
    println!(
        "runs          {} accepted; {} executions, {} of them repeated",
        started.len(),
        findings.executions,
        findings.executions_repeated
    );
    println!("afterwards    everything was answered {:.1} s after the last message", finished_after.as_secs_f64());
    tell_recovery(&happened, &accepted);
    findings.violations.extend(nothing_is_left(&cluster)?);
    if accepted.is_empty() || started.is_empty() {
        findings.violations.push("nothing was accepted".to_owned());
    }
    Ok(findings.violations)
}

/// What a partition that went left behind would add up: a node has four threads for each that it holds, and some of its
/// own.
fn nothing_is_left(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut violations = Vec::new();
    for (nth, node) in cluster.nodes.iter().enumerate() {
        let Some(pid) = node.pid() else { continue };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
        };
        let (threads, kib) = (number("Threads:"), number("VmRSS:"));
        println!("node-{}        {threads} threads, {:.0} MB", nth + 1, kib as f64 * 1024.0 / 1e6);
        if threads > THREADS_MAX {
            violations.push(format!("node-{} has {threads} threads: something of what it gave up is left", nth + 1));
        }
    }
    Ok(violations)
}

fn wait_for_workflow(url: &str, token: &str) -> anyhow::Result<()> {
    let mut http = Http::new(url, token);
    for _ in 0..600 {
        let body = br#"{"input":{"n":0}}"#;
        let asked = http.ask("POST", "/v1/workflows/double/runs", &[("Idempotency-Key", "probe")], body);
        if asked.is_ok_and(|response| (200..300).contains(&response.status)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no worker has registered its workflow within a minute")
}

/// Which tenants are with a node, by asking another.
fn tenants_with(cluster: &Cluster, tokens: &[String], node: usize) -> anyhow::Result<Vec<usize>> {
    #[derive(serde::Deserialize)]
    struct Mine {
        partition: u16,
    }
    let view: View = cluster.view(&tokens[0], Some(node))?;
    let name = format!("node-{}", node + 1);
    let held = view.nodes.iter().find(|one| one.name == name && one.state == "alive").map(|one| &one.partitions);
    let Some(held) = held else { return Ok(Vec::new()) };
    let mut with = Vec::new();
    for (nth, token) in tokens.iter().enumerate() {
        let answers = cluster.nodes.iter().enumerate().filter(|(at, one)| *at != node && one.server.is_some());
        for (_, one) in answers {
            let mut http = Http::new(&one.place.url(), token).patience(Duration::from_secs(2));
            // Any part may say it, and what is asked for does not change.
            if let Ok(Mine { partition }) = http.get("/v1/cluster") {
                if held.contains(&partition) {
                    with.push(nth);
                }
                break;
            }
        }
    }
    Ok(with)
}

fn cause(
    cluster: &mut Cluster,
    tokens: &[String],
    dice: &mut Dice,
    undo: &mut Vec<Undo>,
) -> anyhow::Result<Option<Happened>> {
    let trouble = match dice.between(0, 9) {
        0..=2 => Trouble::Kill,
        3 | 4 => Trouble::Freeze,
        5 | 6 => Trouble::Cut,
        7 => Trouble::Drain,
        _ => Trouble::Database,
    };
    if trouble == Trouble::Database {
        let at = Instant::now();
        cluster.postgres.kill();
        std::thread::sleep(Duration::from_millis(dice.between(0, 2_000)));
        cluster.postgres.run()?;
        return Ok(Some(Happened { trouble, at, tenants: (0..tokens.len()).collect() }));
    }
    // One in trouble at a time, now and then two; never all.
    let troubled: Vec<usize> = undo.iter().map(|one| one.node).collect();
    let allowed = if dice.once_in(4) { 2 } else { 1 };
    let well: Vec<usize> = (0..cluster.nodes.len()).filter(|node| !troubled.contains(node)).collect();
    if troubled.len() >= allowed || well.len() < 2 {
        return Ok(None);
    }
    let node = well[dice.between(0, well.len() as u64 - 1) as usize];
    let Ok(tenants) = tenants_with(cluster, tokens, node) else { return Ok(None) };
    let at = Instant::now();
    let lasts = match trouble {
        Trouble::Kill => {
            cluster.nodes[node].kill()?;
            Duration::from_millis(dice.between(0, 9_000))
        }
        Trouble::Freeze => {
            cluster.nodes[node].signal("STOP")?;
            FREEZE
        }
        Trouble::Cut => {
            cluster.nodes[node].cut(true);
            Duration::from_millis(dice.between(500, 12_000))
        }
        Trouble::Drain => {
            let took = cluster.nodes[node].leave()?;
            println!("         node-{} handed everything over and ended in {:.2} s", node + 1, took.as_secs_f64());
            Duration::from_millis(dice.between(0, 4_000))
        }
        Trouble::Database => unreachable!("it is dealt with above"),
    };
    undo.push(Undo { at: at + lasts, node, trouble });
    Ok(Some(Happened { trouble, at, tenants }))
}

fn put_right(cluster: &mut Cluster, undo: &Undo) -> anyhow::Result<()> {
    let node = &mut cluster.nodes[undo.node];
    match undo.trouble {
        Trouble::Kill | Trouble::Drain => node.start(),
        Trouble::Freeze => node.signal("CONT"),
        Trouble::Cut => {
            node.cut(false);
            Ok(())
        }
        Trouble::Database => Ok(()),
    }
}

/// How long after each trouble each tenant concerned had a message accepted whose sending began after it. One that was in
/// trouble again before that, because whoever came to have it was hit too, waits for both; it is told apart.
fn tell_recovery(happened: &[Happened], accepted: &[Accepted]) {
    let (mut all, mut once) = (Vec::new(), Vec::new());
    for trouble in [Trouble::Kill, Trouble::Freeze, Trouble::Cut, Trouble::Drain, Trouble::Database] {
        let mut took: Vec<f64> = Vec::new();
        let times = happened.iter().filter(|one| one.trouble == trouble).count();
        for one in happened.iter().filter(|one| one.trouble == trouble) {
            for number in &one.tenants {
                let of = accepted.iter().filter(|message| message.tenant == *number && message.begun >= one.at);
                let Some(first) = of.map(|message| message.accepted).min() else {
                    println!("              {} had nothing accepted after: {trouble}", tenant(*number));
                    continue;
                };
                let seconds = (first - one.at).as_secs_f64();
                took.push(seconds);
                let is_again =
                    |other: &&Happened| other.at > one.at && other.at < first && other.tenants.contains(number);
                match happened.iter().find(is_again) {
                    None => once.push(seconds),
                    Some(other) if seconds > SLOW => {
                        let after = (other.at - one.at).as_secs_f64();
                        println!(
                            "              {} {seconds:.2} s after {trouble}; after {after:.2} s of it, {}",
                            tenant(*number),
                            other.trouble
                        );
                    }
                    Some(_) => {}
                }
            }
        }
        took.sort_by(f64::total_cmp);
        println!("recovery      {trouble}, {times} times: {}", quantiles(&took));
        all.extend(took);
    }
    all.sort_by(f64::total_cmp);
    once.sort_by(f64::total_cmp);
    println!("recovery      all: {}", quantiles(&all));
    println!("recovery      of those that were not in trouble again before: {}", quantiles(&once));
}

fn quantiles(sorted: &[f64]) -> String {
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)));
    match (at(0.5), at(0.99), sorted.last()) {
        (Some(p50), Some(p99), Some(max)) => {
            format!("{} tenants, p50 {p50:.2} s, p99 {p99:.2} s, longest {max:.2} s", sorted.len())
        }
        _ => "no tenant".to_owned(),
    }
}
