//! `chaos-kill`: kills a real server again and again while people talk to it, then checks that it kept its promises.
//!
//! The promises: accepted means durable; one live turn per session; messages in order, none lost, none answered twice;
//! a recorded step is never run again; a reply has one id and one text however often it is delivered. Each is checked
//! against books the server has no hand in: what the talkers were answered, what the reply endpoint was sent, and what
//! the agent's tool did to the world.
//!
//! SIGKILL takes the process, not the machine: what the kernel was given survives it. Power cuts are the business of the
//! log's crash images.

mod books;
mod check;
mod load;
pub(crate) mod sink;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

use self::books::Books;
use self::check::Findings;
use self::load::{Counts, Talkers};
use self::sink::Sink;
use crate::dice::{self, Dice};
use crate::http::Http;
use crate::server::Place;
use crate::workspace::Workspace;

const TALKERS: usize = 40;
/// How long a server lives after it was ready, in milliseconds.
const LIFE_MS: (u64, u64) = (50, 400);
/// Violations shown; the rest is counted.
const VIOLATIONS_SHOWN: usize = 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often the server is killed.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Chance, for a run like an earlier one [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
    /// Where its directory is made and kept [default: below the builds, removed when all was well].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What a message does to a turn that is being answered [default: by the seed].
    #[arg(long)]
    on_message: Option<OnMessage>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnMessage {
    Queue,
    Supersede,
}

impl OnMessage {
    fn word(self) -> &'static str {
        match self {
            OnMessage::Queue => "queue",
            OnMessage::Supersede => "supersede",
        }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(dice::seed_by_clock);
    let by_seed = if seed.is_multiple_of(2) { OnMessage::Queue } else { OnMessage::Supersede };
    let policy = args.on_message.unwrap_or(by_seed).word();
    let binary = workspace.server_binary()?;
    let parent = match &args.dir {
        Some(dir) => dir.clone(),
        None => workspace.scratch("chaos")?,
    };
    std::fs::create_dir_all(&parent)?;
    let dir = tempfile::Builder::new().prefix(&format!("kill-{seed}-")).tempdir_in(&parent)?.keep();
    let again = format!("cargo xtask chaos-kill --rounds {} --seed {seed} --on-message {policy}", args.rounds);
    println!("{} rounds, seed {seed}, on message: {policy}, in {}", args.rounds, dir.display());
    let violations = match chaos(&binary, &dir, args.rounds, seed, policy) {
        Ok(violations) => violations,
        Err(error) => {
            println!("the same again: {again}");
            return Err(error.context(format!("chaos-kill could not finish; everything is in {}", dir.display())));
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

/// What is told at the end, besides what the check found.
#[derive(Debug, Default)]
struct Ledger {
    kills: u32,
    ready_ms: Vec<f64>,
    finished_after: Duration,
}

fn chaos(binary: &Path, dir: &Path, rounds: u32, seed: u64, policy: &str) -> anyhow::Result<usize> {
    let sink = Sink::listen()?;
    let environment = [
        ("MAINSPRING_DEV_QUIET_MS", "60"),
        ("MAINSPRING_DEV_TOOL_MS", "40"),
        ("MAINSPRING_DEV_ON_MESSAGE", policy),
        ("MAINSPRING_DEV_DELIVER_URL", &sink.url),
    ];
    let place = Place::new(binary, dir, &environment)?;
    let mut dice = Dice::new(seed, 0);
    let mut ledger = Ledger::default();
    let mut server = place.start()?;
    let token = place.token()?;
    let talkers = Talkers::start(TALKERS, &place.url(), &token, seed);
    let (counts, begun) = (talkers.counts.clone(), Instant::now());
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(dice.between(LIFE_MS.0, LIFE_MS.1)));
        if let Some(status) = server.ended()? {
            bail!("the server ended by itself ({status}) in round {round}:\n{}", place.last_words());
        }
        server.kill()?;
        ledger.kills += 1;
        server = place.start().with_context(|| format!("restart {round}"))?;
        ledger.ready_ms.push(server.ready_after.as_secs_f64() * 1e3);
        if round.is_multiple_of(10) || round == rounds {
            let accepted = counts.accepted.load(Ordering::Relaxed);
            println!("round {round} after {:.1} s: {accepted} messages accepted", begun.elapsed().as_secs_f64());
        }
    }
    let accepted = talkers.stop()?;
    let mut http = Http::new(&place.url(), &token);
    ledger.finished_after = books::wait_until_finished(&mut http, &sink)?;
    let books = Books::read(&place.url(), &token, &accepted, &place.dir)?;
    let findings = check::check(&accepted, &books, &sink.taken());
    tell(&ledger, &counts, &books, &findings);
    Ok(findings.violations.len())
}

fn tell(ledger: &Ledger, counts: &Counts, books: &Books, findings: &Findings) {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut ready_ms = ledger.ready_ms.clone();
    ready_ms.sort_by(f64::total_cmp);
    let median = ready_ms.get(ready_ms.len() / 2).copied().unwrap_or_default();
    let max = ready_ms.last().copied().unwrap_or_default();
    println!(
        "messages      {} accepted, all that were sent; {} tries without an answer; {} sent again after it",
        count(&counts.accepted),
        count(&counts.retried),
        count(&counts.repeated)
    );
    println!("turns         {} completed, {} superseded", findings.completed, findings.superseded);
    println!("restarts      {} kills; ready after {median:.1} ms (median), {max:.1} ms (longest)", ledger.kills);
    println!(
        "replies       {} delivered, {} of these deliveries repeated",
        findings.replies_delivered, findings.deliveries_repeated
    );
    println!(
        "side effects  {} lines for {} committed steps, {} of which used what an earlier attempt had found out",
        books.side_effects.len(),
        findings.effects_committed,
        findings.effects_reused
    );
    println!(
        "afterwards    everything had finished {:.1} s after the last message",
        ledger.finished_after.as_secs_f64()
    );
    for violation in findings.violations.iter().take(VIOLATIONS_SHOWN) {
        println!("VIOLATION     {violation}");
    }
    if findings.violations.len() > VIOLATIONS_SHOWN {
        println!("VIOLATION     and {} more", findings.violations.len() - VIOLATIONS_SHOWN);
    }
}
