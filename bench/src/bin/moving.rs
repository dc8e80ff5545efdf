//! A store with many runs moves into PostgreSQL and back: rows per second, and the memory it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use mainspring_bench::{Machine, Place};
use mainspring_client::{Client, Failure, TenantId, Worker, WorkflowDef};
use mainspring_core::Command;
use mainspring_engine::{Embedded, Engine, EngineOptions, LogOptions, partition_of};
use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::moving::{Movable, move_store};

/// Who asks at once while the store is filled.
const CALLERS: usize = 256;
/// Of so many runs one is left waiting.
const WAITING_EVERY: usize = 10;

#[derive(Debug, Parser)]
#[command(about = "Moves a store with many runs into PostgreSQL and back")]
struct Args {
    /// The PostgreSQL to move into. It makes a schema `bench_...`, which is left behind.
    #[arg(long)]
    postgres: String,
    /// Runs in the store. One of ten waits, the others are done.
    #[arg(long, default_value_t = 1_000_000)]
    runs: usize,
    /// Tenants they belong to.
    #[arg(long, default_value_t = 100)]
    tenants: usize,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(None)?;
    println!("machine: {}", Machine::measure(place.path())?);
    let store = |name: &str| Embedded::new(place.path().join(name), LogOptions::default());
    let begun = Instant::now();
    fill(&store("old"), args.runs, args.tenants.max(1))?;
    println!("filled with {} runs of {} tenants in {:.0} s", args.runs, args.tenants, begun.elapsed().as_secs_f64());
    let schema = format!("bench_move_{}", std::process::id());
    let postgres = Postgres::new(PostgresOptions { schema, ..PostgresOptions::new(args.postgres) })?;
    one(&store("old"), &postgres, 64, "into PostgreSQL, 64 partitions")?;
    one(&postgres, &store("new"), 1, "back into a directory, 1 partition")
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn one(from: &dyn Movable, to: &dyn Movable, partitions: u16, what: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut copied = None;
    let totals = move_store(from, to, partitions, partition_of, &mut |step| {
        if step == "everything is read back" {
            copied = Some(begun.elapsed());
        }
    })?;
    let (took, rows) = (begun.elapsed().as_secs_f64(), totals.rows());
    let copying = copied.map_or(took, |copied| copied.as_secs_f64());
    println!(
        "{what}: {rows} rows in {took:.1} s, {:.0} rows/s; of that {:.1} s reading back; at most {} MiB of memory since \
         the start",
        rows as f64 / took,
        took - copying,
        peak_mib()?
    );
    Ok(())
}

#[tokio::main]
async fn fill(store: &Embedded, runs: usize, tenants: usize) -> anyhow::Result<()> {
    let engine = Engine::open(&EngineOptions::on(Arc::new(store.clone())))?;
    let mut clients = Vec::new();
    for tenant in (1..=tenants as u128).map(TenantId) {
        engine.submit(tenant, Command::PutTenant { name: tenant.to_string() }).await?;
        let client = Client::new(engine.clone(), tenant);
        client.register(WorkflowDef::single("waits", false)).await?;
        let done = WorkflowDef::single("done", true);
        let worker =
            Worker::new(client.clone(), "w").function(done, |_, input: String| async move { Ok::<_, Failure>(input) });
        clients.push((worker.start().await?, client));
    }
    let (clients, next) = (Arc::new(clients), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (clients, next) = (clients.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= runs {
                        return anyhow::Ok(());
                    }
                    let client = &clients[nth % clients.len()].1;
                    let input = "where is my order 4711?";
                    if nth.is_multiple_of(WAITING_EVERY) {
                        client.start("waits", &input).await?;
                    } else {
                        let run = client.start("done", &input).await?;
                        client.wait::<String>(run).await?;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    drop(clients);
    tokio::task::spawn_blocking(move || engine.shut_down()).await?;
    Ok(())
}

/// The most memory this process ever had.
fn peak_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    Ok(line.split_whitespace().next().context("VmHWM has no number")?.parse::<u64>()? / 1_024)
}
