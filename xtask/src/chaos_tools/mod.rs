//! `chaos-tools`: kills a real server again and again while it calls tools over a proxy that breaks connections before,
//! while and after the provider acts, then compares the provider's ledger with ours.
//!
//! The promises, by policy: what may not happen twice never does; what may happen twice is done in the end; what nobody can
//! know is unknown, and nothing else is; what fails is undone, once; what a person settles ends.

mod check;
mod provider;
mod proxy;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use self::check::{Findings, Outside};
use self::provider::Provider;
use self::proxy::Proxy;
use self::tools::{Accepted, Callers};
use crate::dice::{self, Dice};
use crate::http::Http;
use crate::server::Place;
use crate::workspace::Workspace;

const CALLERS: usize = 24;
/// How long a server lives after it was ready, in milliseconds.
const LIFE_MS: (u64, u64) = (100, 900);
/// How long everything accepted may take to end, or to wait for a person, once nothing is broken any more.
const QUIET_MAX: Duration = Duration::from_secs(180);
/// Violations shown; the rest is counted.
const VIOLATIONS_SHOWN: usize = 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often the server is killed.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Chance, for a run like an earlier one [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
    /// Where its directory is made and kept [default: below the builds, removed when all was well].
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(dice::seed_by_clock);
    let binary = workspace.server_binary()?;
    let parent = match &args.dir {
        Some(dir) => dir.clone(),
        None => workspace.scratch("chaos")?,
    };
    std::fs::create_dir_all(&parent)?;
    let dir = tempfile::Builder::new().prefix(&format!("tools-{seed}-")).tempdir_in(&parent)?.keep();
    let again = format!("cargo xtask chaos-tools --rounds {} --seed {seed}", args.rounds);
    println!("{} rounds, seed {seed}, in {}", args.rounds, dir.display());
    let violations = match chaos(&binary, &dir, args.rounds, seed) {
        Ok(violations) => violations,
        Err(error) => {
            println!("the same again: {again}");
            return Err(error.context(format!("chaos-tools could not finish; everything is in {}", dir.display())));
        }
    };
    println!("the same again: {again}");
    if violations > 0 {
        bail!("{violations} violations; everything is in {}", dir.display());
    }
    if args.dir.is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    println!("no violation in {} rounds", args.rounds);
    Ok(())
}

fn chaos(binary: &Path, dir: &Path, rounds: u32, seed: u64) -> anyhow::Result<usize> {
    let provider = Provider::listen()?;
    let proxy = Proxy::listen(&provider.url, seed)?;
    let place = Place::new(binary, dir, &[])?;
    let mut dice = Dice::new(seed, 0);
    let mut server = place.start()?;
    let made = place.command(&["token", "create", "--name", "chaos", "--scopes", "admin", "--quiet"])?;
    let token = made.trim();
    let mut http = Http::new(&place.url(), token);
    tools::define(&mut http, &proxy.url)?;
    let callers = Callers::start(CALLERS, &place.url(), token, seed);
    let (counts, begun, mut kills) = (callers.counts.clone(), Instant::now(), Vec::new());
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(dice.between(LIFE_MS.0, LIFE_MS.1)));
        if let Some(status) = server.ended()? {
            bail!("the server ended by itself ({status}) in round {round}:\n{}", place.last_words());
        }
        kills.push(Instant::now());
        server.kill()?;
        server = place.start().with_context(|| format!("restart {round}"))?;
        if round.is_multiple_of(10) || round == rounds {
            let accepted = counts.accepted.load(Ordering::Relaxed);
            println!("round {round} after {:.1} s: {accepted} calls accepted", begun.elapsed().as_secs_f64());
        }
    }
    let accepted = callers.stop()?;
    proxy.calm();
    let mut http = Http::new(&place.url(), token);
    let quiet_after = wait_until_quiet(&mut http, &accepted)?;
    let (ledger, seen) = (provider.ledger(), proxy.seen());
    let findings = check::check(&mut http, &accepted, &Outside { ledger: &ledger, seen: &seen, kills: &kills })?;
    let faults: usize = seen.values().map(|seen| seen.faults.len()).sum();
    println!(
        "calls         {} accepted; {} tries without an answer; {faults} connections broken on the way to the provider",
        accepted.len(),
        counts.retried.load(Ordering::Relaxed)
    );
    tell(&findings, &kills, quiet_after);
    Ok(findings.violations.len())
}

/// Waits until every call has ended or waits for a person. An error names what still goes on.
fn wait_until_quiet(http: &mut Http, accepted: &[Accepted]) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut open: Vec<&Accepted> = accepted.iter().collect();
    loop {
        let mut still = Vec::new();
        for call in open {
            let shown: Value = http.get(&format!("/v1/tool-executions/{}", call.execution))?;
            if shown["status"] == "running" {
                still.push(call);
            }
        }
        if still.is_empty() {
            return Ok(begun.elapsed());
        }
        open = still;
        if begun.elapsed() > QUIET_MAX {
            let some: Vec<String> =
                open.iter().take(5).map(|call| format!("{} of {}", call.execution, call.tool)).collect();
            bail!("{QUIET_MAX:?} after the last call {} still went on: {}", open.len(), some.join(", "));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn tell(findings: &Findings, kills: &[Instant], quiet_after: Duration) {
    for ((tool, status), count) in &findings.standing {
        println!("  {tool:<14} {count:>6} {status}");
    }
    println!("restarts      {} kills", kills.len());
    println!("settled       {} by the provider's ledger", findings.settled);
    println!("afterwards    nothing went on any more {:.1} s after the last call", quiet_after.as_secs_f64());
    for violation in findings.violations.iter().take(VIOLATIONS_SHOWN) {
        println!("VIOLATION     {violation}");
    }
    if findings.violations.len() > VIOLATIONS_SHOWN {
        println!("VIOLATION     and {} more", findings.violations.len() - VIOLATIONS_SHOWN);
    }
}
