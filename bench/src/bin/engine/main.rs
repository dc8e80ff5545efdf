//! Load on an engine in this process: how many transitions become durable per second, and how long each takes.
//!
//! A *transition* here is one command whose writes were made durable before it was answered: each start of a run, each
//! message, each journal entry and each completion counts one. Callers wait for one answer before they ask again; the
//! worker answers every dispatch at once. The first part of each measurement is not counted.

mod bare;
mod finished;
mod load;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use mainspring_bench::latency::median;
use mainspring_bench::{Machine, Place};

use crate::load::{Load, Measured, Shape, Work};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Load on an engine in this process")]
struct Args {
    /// Where the engines' directories are made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many callers ask at once; one line of results for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256, 1024])]
    callers: Vec<usize>,
    /// Asks per second that all callers share [default: each asks again as soon as it is answered].
    #[arg(long)]
    rate: Option<u64>,
    /// Seconds counted per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measurements per line, each in a fresh directory; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Send messages into inboxes rather than start runs.
    #[arg(long)]
    sends: bool,
    /// How many inboxes the messages go to.
    #[arg(long, default_value_t = 1000)]
    sessions: usize,
    /// Threads of the runtime that callers and worker share.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Entries in the journal of each run; several numbers are measured in turn.
    #[arg(long, value_delimiter = ',', conflicts_with = "sends")]
    entries: Vec<u32>,
    /// Runs that ended before, in the store of each line; several numbers are measured in turn. The stores are then kept
    /// from one measurement to the next.
    #[arg(long, value_delimiter = ',', conflicts_with = "postgres")]
    finished: Vec<u64>,
    /// Runs that wait meanwhile, of the first tenant; several numbers are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "0", conflicts_with = "finished")]
    live: Vec<u64>,
    /// Bytes of each input, message, result and output; several numbers are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "34")]
    payload: Vec<usize>,
    /// Tenants, each with a worker; several numbers are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    tenants: Vec<u64>,
    /// Workers of each tenant; several numbers are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    workers: Vec<u64>,
    /// A PostgreSQL to put the stores in rather than directories. Each makes a schema `bench_...`, which is left behind.
    #[arg(long)]
    postgres: Option<String>,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(args.dir.as_deref())?;
    let machine = Machine::measure(place.path())?;
    println!("machine: {machine}");
    let runs = if args.sends { Work::Sends { sessions: args.sessions.max(1) } } else { Work::Runs };
    let mut works: Vec<Work> = args.entries.iter().map(|&each| Work::Entries { each }).collect();
    if works.is_empty() {
        works.push(runs);
    }
    let mut stores: Vec<(u64, Option<PathBuf>)> = Vec::new();
    for finished in args.finished {
        let dir = place.path().join(format!("finished-{finished}"));
        finished::fill(&dir, finished)?;
        stores.push((finished, Some(dir)));
    }
    if stores.is_empty() {
        stores.push((0, None));
    }
    let mut lines = Vec::new();
    for &work in &works {
        for (finished, dir) in &stores {
            for &live in &args.live {
                for (&payload, &tenants, &workers) in product(&args.payload, &args.tenants, &args.workers) {
                    let (tenants, workers) = (tenants.max(1), workers.max(1));
                    let shape = Shape { finished: *finished, live, payload, tenants, workers };
                    lines.push((work, shape, dir.clone()));
                }
            }
        }
    }
    println!("one transition = one command durable before its answer: {}", works[0].meaning());
    if let Some(rate) = args.rate {
        println!("callers share {rate} asks per second; each of them has a completion beside it");
    }
    println!("medians of {} x {} s; times from submit to durable answer\n", args.rounds, args.seconds);
    println!(
        "{:>7} {:>7} {:>9} {:>9} {:>8} {:>7} {:>7} {:>13} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>10} {:>7} {:>6} {:>9}",
        "callers",
        "entries",
        "finished",
        "live",
        "payload",
        "tenants",
        "workers",
        "transitions/s",
        "x disk",
        "log alone",
        "ask p50",
        "ask p99",
        "end p50",
        "end p99",
        "batch/s",
        "B/trans",
        "behind KiB",
        "drain s",
        "busy",
        "checked"
    );
    for &callers in &args.callers {
        // In turn, so that whatever else happens on the machine happens to all of them.
        let mut rounds: Vec<Vec<(Measured, f64)>> = lines.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.rounds.max(1) {
            for (&(work, shape, ref dir), rounds) in lines.iter().zip(&mut rounds) {
                let counted = Duration::from_secs_f64(args.seconds);
                let load = Load { shape, callers, rate: args.rate, work, counted, threads: args.threads.max(1) };
                let measured = match dir {
                    Some(dir) => load.measure_in(dir)?,
                    None => load.measure(&place, args.postgres.as_deref())?,
                };
                let (log, bytes) = (place.path().join("log-alone"), measured.bytes_per_transition as usize);
                let alone = bare::answers_per_second(&log, callers, load.threads, bytes.max(1), counted)?;
                rounds.push((measured, alone));
            }
        }
        for (&(work, shape, _), rounds) in lines.iter().zip(&rounds) {
            line(callers, work, shape, rounds, &machine);
        }
    }
    println!(
        "\nask: the callers' command, end: the worker's completion, in ms. x disk: times the machine's single appends."
    );
    println!(
        "log alone: how many of these callers' commands a log without an engine makes durable per second, as many bytes each."
    );
    println!("behind: durable but not yet in the tables when the callers stopped; drain: until the tables had it all.");
    println!("checked: accepted runs or messages, every one of which was found done in the tables afterwards.");
    Ok(())
}

/// Each with each.
fn product<'a>(
    payloads: &'a [usize],
    tenants: &'a [u64],
    workers: &'a [u64],
) -> impl Iterator<Item = (&'a usize, &'a u64, &'a u64)> {
    let pairs = move |payload| tenants.iter().flat_map(move |t| workers.iter().map(move |w| (payload, t, w)));
    payloads.iter().flat_map(pairs)
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn line(callers: usize, work: Work, shape: Shape, rounds: &[(Measured, f64)], machine: &Machine) {
    let Shape { finished, live, payload, tenants, workers } = shape;
    let entries = if let Work::Entries { each } = work { each } else { 0 };
    let of = |figure: fn(&Measured) -> f64| median(rounds.iter().map(|(measured, _)| figure(measured)));
    let alone = median(rounds.iter().map(|(_, alone)| *alone));
    let rate = of(|m| m.transitions_per_second);
    println!(
        "{callers:>7} {entries:>7} {finished:>9} {live:>9} {payload:>8} {tenants:>7} {workers:>7} {rate:>13.0} {:>8.1} {alone:>9.0} {:>8.3} \
         {:>8.3} {:>8.3} {:>8.3} {:>7.0} {:>7.0} {:>10.0} {:>7.2} {:>6.0} {:>9.0}",
        rate / machine.sync.per_second,
        of(|m| m.ask_p50_ms),
        of(|m| m.ask_p99_ms),
        of(|m| m.end_p50_ms),
        of(|m| m.end_p99_ms),
        of(|m| m.batches_per_second),
        of(|m| m.bytes_per_transition),
        of(|m| m.backlog_bytes / 1024.0),
        of(|m| m.drain_seconds),
        of(|m| m.busy),
        of(|m| m.checked),
    );
}
