//! `mainspring-sim`: runs seeds, each twice, and says which broke a promise. `cargo xtask sim` builds and runs it.
#![expect(clippy::print_stdout, reason = "the verdict is this program's output")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use mainspring_sim::books::{Counts, marks};
use mainspring_sim::ground::On;
use mainspring_sim::run::{Outcome, needed_faults, simulate, simulate_hour};

/// Seeds that once broke a promise.
const SAVED: &str = include_str!("../seeds.txt");

#[derive(Debug, Parser)]
#[command(about = "Simulates whole deployments, one from each seed, and looks for broken promises")]
struct Args {
    /// Run this seed alone, and show the trace if it breaks a promise.
    #[arg(long)]
    seed: Option<u64>,
    /// Show the whole trace of the seed, also if it is fine.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Run for so many minutes, rather than for a number of seeds.
    #[arg(long)]
    minutes: Option<f64>,
    /// The first of the seeds [default: by the clock].
    #[arg(long)]
    from: Option<u64>,
    /// Threads, each with a simulation of its own [default: one for each core].
    #[arg(long)]
    threads: Option<usize>,
    /// Lines of trace to show before a broken promise.
    #[arg(long, default_value_t = 60)]
    lines: usize,
    /// Run each seed once only, and no saved ones: quicker, for a bug that is known to be there.
    #[arg(long)]
    once: bool,
    /// Run an hour of 10,000 sessions of fast typists, in ten deployments.
    #[arg(long)]
    hour: bool,
    /// Sessions of each deployment of that hour.
    #[arg(long, default_value_t = 1_000)]
    sessions: u64,
    /// Stand on the PostgreSQL with this URL rather than on memory: the store as it is shipped, over connections that are
    /// cut. `cargo xtask sim --postgres` starts one.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Go on after a broken promise, and count them.
    #[arg(long)]
    keep_going: bool,
}

impl Args {
    fn on(&self) -> On {
        self.postgres.clone().map_or(On::Memory, |url| On::Postgres { url })
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let broken = match args.seed {
        _ if args.hour => hour(&args),
        Some(seed) => one(seed, args.trace, args.lines, &args.on()),
        None if args.once => many(&args),
        None => saved(args.lines, &args.on()) + many(&args),
    };
    if broken > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// Deployments of a long run.
const HOURS: u64 = 10;

/// Runs an hour of each of several deployments, once.
fn hour(args: &Args) -> u64 {
    let (from, threads) = (args.from.unwrap_or(1), threads_of(args));
    let seeds = args.seed.map_or(from..from + HOURS, |seed| seed..seed + 1);
    let (next, sum, begun) = (AtomicU64::new(seeds.start), Mutex::new((Counts::default(), 0)), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let started = Instant::now();
                    let outcome = simulate_hour(seed, args.sessions, &args.on());
                    let of = outcome.counts;
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.0.add(of);
                    let took = started.elapsed().as_secs_f64();
                    println!("hour {seed}: {took:.0} s, {of:?}");
                    if let Some(violation) = outcome.violation {
                        println!("hour {seed} breaks a promise: {violation}");
                        sum.1 += 1;
                    }
                }
            });
        }
    });
    let (of, broken) = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (sessions, took) = (args.sessions * (seeds.end - seeds.start), begun.elapsed().as_secs_f64());
    println!(
        "{sessions} sessions, {} messages, {} turns ({} superseded, {} absorbed, {} failed), {} segments, {} ends of a \
         process, in {took:.0} s",
        of.messages, of.turns, of.superseded, of.absorbed, of.failed, of.replies, of.crashes
    );
    if broken == 0 {
        println!("0 messages lost, 0 answered twice, order kept");
    }
    broken
}

/// Runs the seeds that are kept.
fn saved(lines: usize, on: &On) -> u64 {
    let seeds = SAVED.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let mut broken = 0;
    for seed in seeds {
        let (outcome, again) = (simulate(seed, false, on), simulate(seed, false, on));
        if verdict(seed, &outcome, &again, on).is_some() {
            broken += one(seed, false, lines, on);
        }
    }
    broken
}

/// Runs one seed and shows how it broke.
fn one(seed: u64, show: bool, lines: usize, on: &On) -> u64 {
    let outcome = simulate(seed, true, on);
    let again = simulate(seed, true, on);
    if let Some(at) = outcome.lines.iter().zip(&again.lines).position(|(one, other)| one != other) {
        println!("the second time it went another way at line {at}:");
        outcome.lines[at.saturating_sub(lines)..at].iter().for_each(|line| println!("{line}"));
        println!("first:  {}\nsecond: {}", outcome.lines[at], again.lines[at]);
        return 1;
    }
    let from = if show { 0 } else { outcome.lines.len().saturating_sub(lines) };
    if show || outcome.violation.is_some() {
        outcome.lines[from..].iter().for_each(|line| println!("{line}"));
    }
    verdict(seed, &outcome, &again, on).map_or_else(
        || {
            let Counts { messages, runs, .. } = outcome.counts;
            println!(
                "seed {seed} is fine: {messages} messages, {runs} runs, {} steps, {:.1} simulated s, hash {:016x}",
                outcome.steps,
                outcome.simulated_ms as f64 / 1e3,
                outcome.hash
            );
            0
        },
        |what| {
            println!("seed {seed} breaks a promise after {} steps: {what}", outcome.steps);
            println!("  needed for it: {}", needed_faults(seed, on).join(", "));
            1
        },
    )
}

/// What is wrong with a seed that was run twice.
fn verdict(seed: u64, outcome: &Outcome, again: &Outcome, on: &On) -> Option<String> {
    let flags = if *on == On::Memory { "--seed" } else { "--postgres --seed" };
    if let Some(violation) = &outcome.violation {
        return Some(format!("{violation}\n  repeat: cargo xtask sim {flags} {seed}"));
    }
    let same = (outcome.hash, outcome.steps, &outcome.violation) == (again.hash, again.steps, &again.violation);
    (!same).then(|| {
        format!(
            "it went another way the second time: {:016x} after {} steps, {:016x} after {}\n  repeat: cargo xtask sim {flags} {seed}",
            outcome.hash, outcome.steps, again.hash, again.steps
        )
    })
}

#[derive(Default)]
struct Tally {
    seeds: u64,
    marks: BTreeMap<&'static str, u64>,
    simulated_ms: u64,
    steps: u64,
    messages: u64,
    runs: u64,
    broken: Vec<(u64, String)>,
}

fn threads_of(args: &Args) -> usize {
    args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

fn many(args: &Args) -> u64 {
    let by_clock =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |t| t.as_secs() * 1_000_000);
    let from = args.from.unwrap_or_else(by_clock);
    let until = args.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let count = if until.is_some() { u64::MAX } else { args.seeds };
    let (threads, on) = (threads_of(args), args.on());
    let (next, stop, tally) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Tally::default()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let late = until.is_some_and(|until| Instant::now() >= until);
                    if nth >= count || late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = from + nth;
                    let outcome = simulate(seed, false, &on);
                    let again = if args.once { outcome.clone() } else { simulate(seed, false, &on) };
                    let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    tally.seeds += 1;
                    tally.simulated_ms += outcome.simulated_ms;
                    tally.steps += outcome.steps;
                    tally.messages += outcome.counts.messages;
                    tally.runs += outcome.counts.runs;
                    for mark in &outcome.marks {
                        *tally.marks.entry(mark).or_default() += 1;
                    }
                    if let Some(what) = verdict(seed, &outcome, &again, &on) {
                        println!("seed {seed}: {what}");
                        tally.broken.push((seed, what));
                        stop.store(!args.keep_going, Ordering::Relaxed);
                    }
                    if nth % 1_000 == 999 {
                        let rate = (nth + 1) as f64 / begun.elapsed().as_secs_f64();
                        println!("{} seeds, {rate:.0}/s, {} broken", nth + 1, tally.broken.len());
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summarise(&tally, from, begun.elapsed());
    tally.broken.len() as u64
}

fn summarise(tally: &Tally, from: u64, took: Duration) {
    let seeds = tally.seeds;
    println!(
        "{seeds} seeds from {from}, in {:.1} s: {:.0} seeds/s; {:.1} simulated hours, {} messages, {} runs, {} steps",
        took.as_secs_f64(),
        seeds as f64 / took.as_secs_f64(),
        tally.simulated_ms as f64 / 3.6e6,
        tally.messages,
        tally.runs,
        tally.steps
    );
    println!("seeds in which ...");
    for (mark, seeds) in &tally.marks {
        println!("  {seeds:>7}  {mark}");
    }
    for mark in marks::ALL.iter().filter(|mark| !tally.marks.contains_key(*mark)) {
        println!("    never  {mark}");
    }
    if tally.broken.is_empty() {
        println!("no promise was broken");
    } else {
        // Said again, because whoever reads a long output reads its end.
        for (seed, what) in tally.broken.iter().take(20) {
            println!("seed {seed}: {what}");
        }
        println!("{} seeds broke a promise", tally.broken.len());
    }
}
