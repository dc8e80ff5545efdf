//! Orchestrations of three tools, carried out durably in one process by providers that answer at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use mainspring_bench::{Latencies, Machine, Place};
use mainspring_client::{Client, TenantId, Worker};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::egress::{EgressOptions, HttpEgress};
use mainspring_flows::tools::breaker::Breakers;
use mainspring_flows::tools::catalogue::KnownTools;
use mainspring_flows::tools::{self, Asked, CallbackDoor, Door, Kit, NoSecrets};
use mainspring_flows::{Agents, TurnTokens};
use serde_json::{Value, json};

const TENANT: TenantId = TenantId(1);

#[derive(Debug, Parser)]
#[command(about = "Durable orchestrations of three tools, with providers in this process")]
struct Args {
    /// Where the engine's directory is made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Callers, each asking again when it is answered.
    #[arg(long, default_value_t = 128)]
    callers: usize,
    /// Seconds that are counted, after two that are not.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Measurements, each in a fresh directory.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(args.dir.as_deref())?;
    println!("machine: {}", Machine::measure(place.path())?);
    println!("three compensatable steps, {} callers, {} s counted per round\n", args.callers, args.seconds);
    println!("{:>5} {:>16} {:>9} {:>9} {:>9}", "round", "orchestrations/s", "p50 ms", "p99 ms", "failed");
    for round in 1..=args.rounds {
        let dir = tempfile::tempdir_in(place.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (rate, mut took, failed) = runtime.block_on(measure(&args, dir.path()))?;
        println!(
            "{round:>5} {rate:>16.0} {:>9.2} {:>9.2} {failed:>9}",
            took.percentile_ms(50.0),
            took.percentile_ms(99.0)
        );
    }
    println!(
        "\nan orchestration: asked for, claimed in the ledger, three calls with their intents and outcomes on record,"
    );
    println!("ended and answered. Each of these is durable before the next.");
    Ok(())
}

async fn measure(args: &Args, dir: &std::path::Path) -> anyhow::Result<(f64, Latencies, u64)> {
    const WARM: Duration = Duration::from_secs(2);
    let engine = Engine::open(&EngineOptions::new(dir))?;
    engine.submit(TENANT, Command::PutTenant { name: "bench".to_owned() }).await?;
    let client = Client::new(engine.clone(), TENANT);
    let kit = Kit {
        egress: Arc::new(HttpEgress::new(EgressOptions::default()).map_err(anyhow::Error::msg)?),
        secrets: Arc::new(NoSecrets),
        remote: None,
        callbacks: CallbackDoor { tokens: TurnTokens::new([1; 32]), url: String::new() },
        breakers: Breakers::default(),
        known: KnownTools::default(),
    };
    let worker = Worker::new(client.clone(), "bench").slots(10_000);
    let worker = tools::offer(worker, kit.clone(), Agents::new([])).start().await?;
    let door = Door::new(client, kit);
    define(&door).await?;

    let (counting, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let failed = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..args.callers {
        let (door, counting, over, failed) = (door.clone(), counting.clone(), over.clone(), failed.clone());
        callers.spawn(async move {
            let mut took = Vec::new();
            let mut nth = 0_u64;
            while !over.load(Ordering::Relaxed) {
                nth += 1;
                let asked = Asked {
                    arguments: json!({ "order": format!("{caller}-{nth}") }),
                    idempotency_key: Some(format!("{caller}-{nth}")),
                    wait_ms: Some(60_000),
                    ..Asked::default()
                };
                let began = Instant::now();
                let answer = door.call("trip", asked, None, None).await;
                if counting.load(Ordering::Relaxed) {
                    took.push(began.elapsed());
                }
                if !answer.is_ok_and(|answer| answer.status == "done") {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            took
        });
    }
    tokio::time::sleep(WARM).await;
    counting.store(true, Ordering::Relaxed);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    counting.store(false, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let mut latencies = Latencies::with_room(100_000);
    let mut count = 0_u64;
    while let Some(took) = callers.join_next().await {
        for one in took? {
            count += 1;
            latencies.add(one);
        }
    }
    worker.stop().await;
    tokio::task::spawn_blocking(move || engine.shut_down()).await?;
    Ok((count as f64 / seconds, latencies, failed.load(Ordering::Relaxed)))
}

async fn define(door: &Door) -> anyhow::Result<()> {
    let echo = |compensation: Option<&str>| {
        let mut tool = json!({ "policy": "idempotent", "provider": { "kind": "builtin", "name": "echo" } });
        if let Some(undo) = compensation {
            tool["policy"] = json!("compensatable");
            tool["compensation"] = json!({ "tool": undo });
        }
        tool
    };
    let step = |name: &str, before: Option<&str>| {
        let mut arguments = json!({ "order": "{{args.order}}" });
        if let Some(before) = before {
            arguments["after"] = json!(format!("{{{{steps.{before}.order}}}}"));
        }
        json!({ "name": name, "tool": "book", "arguments": arguments })
    };
    let steps = [step("flight", None), step("hotel", Some("flight")), step("payment", Some("hotel"))];
    let plan = json!({ "policy": "compensatable", "provider": { "kind": "steps", "steps": steps } });
    for (name, tool) in [("unbook", echo(None)), ("book", echo(Some("unbook"))), ("trip", plan)] {
        put(door, name, &tool).await?;
    }
    Ok(())
}

async fn put(door: &Door, name: &str, tool: &Value) -> anyhow::Result<()> {
    match door.catalogue().put(name, tool).await {
        Ok(_) => Ok(()),
        Err(tools::catalogue::CatalogueError::Findings(findings)) => bail!("{name}: {findings:?}"),
        Err(error) => Err(error).context("the tool is put"),
    }
}
