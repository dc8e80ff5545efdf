//! Ours side by side with what people would pick instead, in turn, on one machine: `cargo xtask bench compare`.
//!
//! A round starts each contender on a fresh directory, asks it every workload with every number of callers, ends it, and
//! goes on to the next. So whatever the machine does beside meets all of them. What comes of it is written as a page with
//! tables and plots, and as figures.

mod celery;
mod dbos;
mod goals;
mod machine;
mod mainspring;
mod measure;
mod page;
mod plan;
mod plot;
mod postgres;
mod recovery;
mod restate;
mod results;
mod running;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use mainspring_bench::Place;
use mainspring_bench::server::release_binary;

use crate::measure::{Figure, measure};
use crate::page::short;
use crate::plan::{Contender, Rival, Workload};
use crate::results::{Results, Start};
use crate::running::{Parts, Running};

/// How long a contender is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(3);

#[derive(Debug, Parser)]
#[command(about = "Ours side by side with what people would pick instead")]
struct Args {
    /// Only beside these [default: all].
    #[arg(long, value_delimiter = ',')]
    only: Vec<Rival>,
    /// Only these contenders, ours among them.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Only these workloads [default: all].
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// Rounds: how often each is started anew and asked everything.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds counted per measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before that, not counted.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// How many callers at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    callers: Vec<usize>,
    /// Also kill servers with so many live runs, where runs can sleep.
    #[arg(long, value_delimiter = ',')]
    recovery: Vec<u64>,
    /// Where the page, the plots and the figures go.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
    /// Measure nothing: write the page and the plots again, of these figures.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Where rivals are installed.
    #[arg(long, default_value = "target/rivals")]
    rivals: PathBuf,
    /// The server to start [default: the release build beside this program].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where directories are made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(figures) = &args.from {
        return write(&args.out, &serde_json::from_slice(&std::fs::read(figures)?)?);
    }
    if args.rounds == 0 || args.callers.is_empty() || args.callers.contains(&0) {
        bail!("--rounds and --callers must be at least 1");
    }
    let place = Place::below(args.dir.as_deref())?;
    let programs = std::env::current_exe()?.parent().context("this program is in no directory")?.to_owned();
    let server = args.binary.clone().map_or_else(release_binary, Ok)?.canonicalize().context("no server")?;
    let rivals = args.rivals.canonicalize().with_context(|| format!("{} is not there", args.rivals.display()))?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals");
    let parts = Parts { server, programs, rivals, scripts };
    let only = if args.only.is_empty() { Rival::value_variants() } else { &args.only };
    let mut contenders = Contender::beside(only);
    if !args.contenders.is_empty() {
        contenders = args.contenders.clone();
    }
    let asked = if args.workload.is_empty() { Workload::value_variants() } else { &args.workload };
    contenders.retain(|contender| asked.iter().any(|workload| contender.can(*workload)));

    let mut results = Results {
        command: machine::command_line(),
        date: machine::date(),
        machine: machine::measured(place.path())?,
        versions: machine::versions(&parts, &contenders),
        ..Results::default()
    };
    for (name, value) in &results.machine {
        println!("{name}: {value}");
    }
    for round in 1..=args.rounds {
        for &contender in &contenders {
            let dir = place.path().join(format!("{}-{round}", contender.name()));
            if let Err(error) = one_round(&args, &parts, (contender, round), asked, &dir, &mut results) {
                let failure = format!("{}, round {round}: {error:#}", contender.name());
                println!("{failure}");
                // On the page, where things are in the repository, not on this machine.
                let here = std::env::current_dir()?.display().to_string() + "/";
                results.failures.push(failure.replace(&here, ""));
            }
            // Some write gigabytes.
            let _ = std::fs::remove_dir_all(&dir);
        }
        // So that whoever ends this early has the rounds that are complete.
        write(&args.out, &results)?;
    }
    for &live_runs in &args.recovery {
        for contender in contenders.iter().copied().filter(|contender| contender.can(Workload::F)) {
            let dir = place.path().join(format!("{}-recovery", contender.name()));
            match recovery::measure(contender, &parts, &dir, live_runs) {
                Ok(recovery) => {
                    println!("{recovery:?}");
                    results.recoveries.push(recovery);
                }
                Err(error) => results.failures.push(format!("{} killed: {error:#}", contender.name())),
            }
            let _ = std::fs::remove_dir_all(&dir);
        }
    }
    write(&args.out, &results)
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn one_round(
    args: &Args,
    parts: &Parts,
    (contender, round): (Contender, usize),
    asked: &[Workload],
    dir: &Path,
    results: &mut Results,
) -> anyhow::Result<()> {
    let running = Running::start(contender, parts, dir)?;
    let before = running.usage().0;
    std::thread::sleep(IDLE);
    let (server, worker) = running.usage();
    results.starts.push(Start {
        contender,
        round,
        ready_ms: running.ready_after.as_secs_f64() * 1e3,
        server_bytes: server.resident_bytes,
        worker_bytes: worker.resident_bytes,
        server_percent: server.since(before).cpu_seconds / IDLE.as_secs_f64() * 100.0,
    });
    for &workload in asked.iter().filter(|workload| contender.can(**workload)) {
        for callers in workload.callers(&args.callers) {
            let figure = measure(&running, (contender, workload, callers, round), (args.warm_up, args.seconds))
                .with_context(|| format!("workload {} with {callers} callers", workload.name()))?;
            println!("{}", line(&figure));
            results.figures.push(figure);
        }
    }
    Ok(())
}

fn line(figure: &Figure) -> String {
    let Figure { round, callers, p50_ms, p99_ms, load_average, .. } = figure;
    let end = figure.to_the_end.map_or_else(String::new, |end| format!(", to the end {}", short(end)));
    let errors = figure.errors.iter().map(|(error, count)| format!("\n    {count} x {error}")).collect::<String>();
    format!(
        "{round} {:<22} {:<2} {callers:>4}: {:>8}/s p50 {p50_ms:.2} p99 {p99_ms:.2} ms{end}; server {} us, worker {} us, \
         {} KB written, {} MB; load {load_average:.1}{errors}",
        figure.contender.name(),
        figure.workload.name(),
        short(figure.per_second),
        short(figure.server_us),
        short(figure.worker_us),
        short(figure.written_bytes / 1e3),
        short(figure.resident_bytes as f64 / 1e6),
    )
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn write(out: &Path, results: &Results) -> anyhow::Result<()> {
    std::fs::create_dir_all(out)?;
    let mut plots = Vec::new();
    for workload in results.workloads() {
        if let Some(svg) = plot::svg(results, workload) {
            let file = format!("{}.svg", workload.name());
            std::fs::write(out.join(&file), svg)?;
            plots.push((workload, file));
        }
    }
    std::fs::write(out.join("README.md"), page::markdown(results, &plots))?;
    std::fs::write(out.join("figures.json"), serde_json::to_string_pretty(results)? + "\n")?;
    println!("written: {}", out.join("README.md").display());
    Ok(())
}
