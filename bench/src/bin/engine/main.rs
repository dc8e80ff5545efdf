//! Load on an engine in this process: how many transitions become durable per second, and how long each takes.
//!
//! A *transition* here is one command whose writes were made durable before it was answered: each start of a run, each
//! message, each journal entry and each completion counts one. Callers wait for one answer before they ask again; the
//! worker answers every dispatch at once. The first part of each measurement is not counted.

mod finished;
mod load;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use mainspring_bench::latency::median;
use mainspring_bench::{Machine, Place};

use crate::load::{Load, Measured, Work};

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
    /// Runs that ended before, in the store of each line; several numbers are measured in turn. The stores are then kept
    /// from one measurement to the next.
    #[arg(long, value_delimiter = ',', conflicts_with = "postgres")]
    finished: Vec<u64>,
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
    let mut stores = Vec::new();
    for finished in args.finished {
        let dir = place.path().join(format!("finished-{finished}"));
        finished::fill(&dir, finished)?;
        stores.push((finished, Some(dir)));
    }
    if stores.is_empty() {
        stores.push((0, None));
    }
    let work = if args.sends { Work::Sends { sessions: args.sessions.max(1) } } else { Work::Runs };
    println!("one transition = one command durable before its answer: {}", work.meaning());
    if let Some(rate) = args.rate {
        println!("callers share {rate} asks per second; each of them has a completion beside it");
    }
    println!("medians of {} x {} s; times from submit to durable answer\n", args.rounds, args.seconds);
    println!(
        "{:>7} {:>10} {:>13} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>10} {:>8} {:>7} {:>9}",
        "callers",
        "finished",
        "transitions/s",
        "x disk",
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
        let load = Load {
            callers,
            rate: args.rate,
            work,
            counted: Duration::from_secs_f64(args.seconds),
            threads: args.threads.max(1),
        };
        // In turn, so that whatever else happens on the machine happens to all of them.
        let mut rounds: Vec<Vec<Measured>> = stores.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.rounds.max(1) {
            for ((_, dir), rounds) in stores.iter().zip(&mut rounds) {
                rounds.push(match dir {
                    Some(dir) => load.measure_in(dir)?,
                    None => load.measure(&place, args.postgres.as_deref())?,
                });
            }
        }
        for ((finished, _), rounds) in stores.iter().zip(&rounds) {
            line(callers, *finished, rounds, &machine);
        }
    }
    println!(
        "\nask: the callers' command, end: the worker's completion, in ms. x disk: times the machine's single appends."
    );
    println!("behind: durable but not yet in the tables when the callers stopped; drain: until the tables had it all.");
    println!("checked: accepted runs or messages, every one of which was found done in the tables afterwards.");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn line(callers: usize, finished: u64, rounds: &[Measured], machine: &Machine) {
    let of = |figure: fn(&Measured) -> f64| median(rounds.iter().map(figure));
    let rate = of(|m| m.transitions_per_second);
    println!(
        "{callers:>7} {finished:>10} {rate:>13.0} {:>9.1} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>8.0} {:>8.0} {:>10.0} {:>8.2} {:>7.0} {:>9.0}",
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
