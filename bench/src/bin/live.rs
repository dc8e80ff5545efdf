//! Many durable functions that sleep: the memory they take, at once and after a crash, and the time until an engine that
//! has them is ready again.
//!
//! Each number of them is measured in processes of its own: one begins them and is killed, another opens what it left.

use std::path::PathBuf;
use std::process::Command as Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use mainspring_bench::process::Usage;
use mainspring_bench::{Machine, Place};
use mainspring_client::{Client, Failure, TenantId, Worker, WorkflowDef};
use mainspring_core::limit::Limits;
use mainspring_core::reply::Counts;
use mainspring_core::{Command, Reply};
use mainspring_engine::{Engine, EngineOptions};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANT: TenantId = TenantId(1);
/// Who begins functions at once.
const CALLERS: usize = 256;
/// Longer than anybody measures.
const SLEEP: Duration = Duration::from_secs(7 * 24 * 3_600);
/// What a function is kept in memory for if nothing else is said.
const IDLE: Duration = Duration::from_secs(30);
/// How long nothing is done before it is said what that costs.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
#[command(about = "Memory of many sleeping functions, and the time until an engine that has them is ready again")]
struct Args {
    /// Where the engines' directories are made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many functions sleep; each number is measured by itself.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 50_000, 200_000, 1_000_000])]
    runs: Vec<u64>,
    /// A part of a measurement, in a process of its own.
    #[arg(long, hide = true, value_enum)]
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Begin,
    Again,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let (started, args) = (Instant::now(), Args::parse());
    if let (Some(part), Some(dir), [runs]) = (args.part, &args.dir, args.runs.as_slice()) {
        return match part {
            Part::Begin => begin(&EngineOptions::new(dir), *runs),
            Part::Again => again(&EngineOptions::new(dir), *runs, started),
        };
    }
    let place = Place::below(args.dir.as_deref())?;
    println!("machine: {}", Machine::measure(place.path())?);
    println!("one tenant, one partition, everything durable; MB are 10^6 bytes; B/run: above an engine without runs");
    for runs in args.runs {
        let dir = place.path().join(format!("live-{runs}"));
        for part in ["begin", "again"] {
            let mut program = Program::new(std::env::current_exe()?);
            program.arg("--dir").arg(&dir).args(["--runs", &runs.to_string(), "--part", part]);
            let ended = program.status().context("a part of the measurement could not be started")?;
            // The first part ends as a crash does.
            if part == "again" && !ended.success() {
                bail!("a part of the measurement ended with {ended}");
            }
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the results are this program's output")]
async fn begin(options: &EngineOptions, runs: u64) -> anyhow::Result<()> {
    let client = open(options).await?;
    client.engine().submit(TENANT, Command::PutTenant { name: "bench".to_owned() }).await?;
    let worker = offer(&client).start().await?;
    let empty = resident();
    let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, next) = (client.clone(), next.clone());
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < runs {
                    client.start("sleep", &"where is my order 4711?").await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let (took, at_once) = (begun.elapsed().as_secs_f64(), resident());
    while counts(&client).await?.tasks_suspended < runs {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asleep = begun.elapsed().as_secs_f64();
    tokio::time::sleep(QUIET).await;
    let later = resident();
    println!(
        "\n{runs} functions: begun in {took:.1} s ({:.0}/s), all asleep after {asleep:.1} s\n  resident {:.0} MB when all \
         were begun, {:.0} MB once they slept ({:.0} B/run), {:.0} MB at most",
        runs as f64 / took,
        mb(at_once),
        mb(later),
        later.saturating_sub(empty) as f64 / runs as f64,
        mb(peak()),
    );
    // As a crash does: nothing is closed, nothing is told.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    drop(worker);
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the results are this program's output")]
async fn again(options: &EngineOptions, runs: u64, started: Instant) -> anyhow::Result<()> {
    let client = open(options).await?;
    let (opened, of_cpu) = (started.elapsed().as_secs_f64(), Usage::of(std::process::id()).cpu_seconds);
    let _worker = offer(&client).start().await?;
    let run = client.start("nothing", &()).await?;
    client.wait::<()>(run).await?;
    let answered = started.elapsed().as_secs_f64();
    let (first, peak) = (resident(), peak());
    let found = counts(&client).await?;
    if found.runs_live != runs || found.tasks_suspended != runs {
        bail!("{runs} functions slept before the crash, now there are {found:?}");
    }
    tokio::time::sleep(QUIET).await;
    let before = Usage::of(std::process::id());
    tokio::time::sleep(QUIET).await;
    let used = Usage::of(std::process::id()).since(before);
    println!(
        "  after the crash: open in {opened:.2} s ({of_cpu:.2} s of a core), a run answered after {answered:.2} s; resident {:.0} MB, {:.0} MB at \
         most, {:.0} MB later; {:.2} % of a core with nothing to do",
        mb(first),
        mb(peak),
        mb(resident()),
        used.cpu_seconds / QUIET.as_secs_f64() * 100.0,
    );
    Ok(())
}

async fn open(options: &EngineOptions) -> anyhow::Result<Client> {
    let limits = Limits { live_runs_max: 20_000_000, ..Limits::default() };
    let options = EngineOptions { limits, ..options.clone() };
    let engine = tokio::task::spawn_blocking(move || Engine::open(&options)).await??;
    Ok(Client::new(engine, TENANT))
}

fn offer(client: &Client) -> Worker {
    Worker::new(client.clone(), "sleepers")
        .slots(u32::MAX)
        .idle_after(IDLE)
        .function(WorkflowDef::single("sleep", true), |ctx: mainspring_client::Context, _: String| async move {
            ctx.sleep(SLEEP).await?;
            Ok::<_, Failure>(())
        })
        .function(WorkflowDef::single("nothing", true), |_, (): ()| async move { Ok::<_, Failure>(()) })
}

async fn counts(client: &Client) -> anyhow::Result<Counts> {
    match client.engine().submit(TENANT, Command::Count).await? {
        (Reply::Counts(counts), _) => Ok(counts),
        (other, _) => bail!("asked for counts, answered {other:?}"),
    }
}

fn resident() -> u64 {
    Usage::of(std::process::id()).resident_bytes
}

/// The most memory this process ever had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
