//! Webhooks in one process: what matching many subscriptions costs those who tell events, and how many deliveries a
//! second reach an endpoint on the same machine, which shares its cores.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Parser;
use mainspring_bench::{Latencies, Machine, Place};
use mainspring_client::{Client, TenantId, Worker};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::egress::{EgressOptions, HttpEgress, Policy};
use mainspring_flows::seal::Sealer;
use mainspring_flows::webhooks::{Choices, Filter, Filters, READER, Seen, Shared, Webhooks};
use mainspring_hatchet::expression::{Environment, Expression};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TENANT: TenantId = TenantId(1);
/// Names of events; each is wanted by as many of the subscriptions.
const NAMES: usize = 100;

#[derive(Debug, Parser)]
#[command(about = "Matching of many subscriptions, and deliveries to an endpoint on this machine")]
struct Args {
    /// Where the engine's directory is made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Events per second while matching is measured.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds of it.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Subscriptions while matching is measured. A tenth of them want an event by its name, and have a filter.
    #[arg(long, default_value_t = 1_000)]
    subscriptions: usize,
    /// Deliveries that are measured.
    #[arg(long, default_value_t = 30_000)]
    deliveries: u64,
    /// Subscriptions they go to.
    #[arg(long, default_value_t = 20)]
    endpoints: u64,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(args.dir.as_deref())?;
    println!("machine: {}", Machine::measure(place.path())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("\nmatching: {} events/s for {} s", args.rate, args.seconds);
    println!(
        "{:>14} {:>9} {:>9} {:>9} {:>9} {:>11}",
        "subscriptions", "told/s", "p50 ms", "p99 ms", "max ms", "behind ms"
    );
    for subscriptions in [0, args.subscriptions] {
        let dir = tempfile::tempdir_in(place.path())?;
        let found = runtime.block_on(matching(&args, dir.path(), subscriptions))?;
        let Matched { told_per_second, mut latencies, behind } = found;
        println!(
            "{subscriptions:>14} {told_per_second:>9.0} {:>9.3} {:>9.3} {:>9.3} {:>11.1}",
            latencies.percentile_ms(50.0),
            latencies.percentile_ms(99.0),
            latencies.percentile_ms(100.0),
            behind.as_secs_f64() * 1e3
        );
    }
    let dir = tempfile::tempdir_in(place.path())?;
    let (count, took) = runtime.block_on(delivering(&args, dir.path()))?;
    println!(
        "\ndelivering: {count} deliveries to {} subscriptions in {:.2} s: {:.0}/s",
        args.endpoints,
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
    println!("\nbehind: from the last event told to the matcher having read it.");
    Ok(())
}

/// CEL, as the server has it.
fn filters() -> Filters {
    Arc::new(|text: &str| {
        let expression = Expression::parse(text).map_err(|error| error.to_string())?;
        let filter = move |seen: Seen<'_>| {
            let environment = Environment::Event {
                input: seen.data,
                additional_metadata: seen.about,
                payload: &Value::Null,
                event_id: "",
                event_key: seen.name,
            };
            expression.is_true(&environment).map_err(|error| error.to_string())
        };
        Ok(Arc::new(filter) as Filter)
    })
}

struct House {
    engine: Engine,
    webhooks: Webhooks,
    worker: mainspring_client::RunningWorker,
    matching: tokio::task::JoinHandle<()>,
}

async fn open(dir: &std::path::Path) -> anyhow::Result<House> {
    let engine = Engine::open(&EngineOptions::new(dir))?;
    engine.submit(TENANT, Command::PutTenant { name: "bench".to_owned() }).await?;
    let options = EgressOptions { policy: Policy::default().with_loopback(), ..EgressOptions::default() };
    let egress = HttpEgress::new(options).map_err(|error| anyhow!("{error}"))?;
    let shared = Shared::new(Arc::new(egress), Sealer::new([1; 32]), filters());
    let webhooks = Webhooks::new(Client::new(engine.clone(), TENANT), shared);
    let worker = webhooks.offer(Worker::new(webhooks.client().clone(), "bench")).start().await?;
    let matching = tokio::spawn(webhooks.clone().match_events());
    Ok(House { engine, webhooks, worker, matching })
}

impl House {
    async fn subscribe(&self, url: &str, choices: Choices) -> anyhow::Result<()> {
        let choices = Choices { url: url.to_owned(), rate_per_minute: 0, ..choices };
        let (made, _) = self.webhooks.create(choices).await?;
        self.webhooks.verify(&made.id).await?;
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        self.matching.abort();
        self.worker.stop().await;
        tokio::task::spawn_blocking(move || self.engine.shut_down()).await?;
        Ok(())
    }
}

struct Matched {
    told_per_second: f64,
    latencies: Latencies,
    behind: Duration,
}

async fn matching(args: &Args, dir: &std::path::Path, subscriptions: usize) -> anyhow::Result<Matched> {
    let (url, taken) = endpoint().await?;
    let house = open(dir).await?;
    for nth in 0..subscriptions {
        // The last event is told to one, which shows that all before it were matched.
        let events = vec![format!("kind{}.done", nth % NAMES), format!("last{nth}")];
        let choices = Choices { events, filter: Some("input.n < 0".to_owned()), ..Choices::default() };
        house.subscribe(&url, choices).await?;
    }
    let client = house.webhooks.client().clone();
    let total = args.rate * args.seconds;
    let (began, mut next) = (Instant::now(), 0);
    let mut sending = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut latencies = Latencies::with_room(total as usize);
    while next < total {
        ticks.tick().await;
        let due = ((began.elapsed().as_secs_f64() * args.rate as f64) as u64).min(total);
        for nth in next..due {
            let client = client.clone();
            let planned = began + Duration::from_secs_f64(nth as f64 / args.rate as f64);
            sending.spawn(async move {
                let name = format!("kind{}.done", nth as usize % NAMES);
                let data = json!({ "n": nth, "text": "an event of ordinary size, with a few words in it" });
                client.emit(&name, Some("1:orders:ann:web"), &data).await.map(|_| planned.elapsed())
            });
        }
        next = due.max(next);
        while let Some(sent) = sending.try_join_next() {
            latencies.add(sent??);
        }
    }
    while let Some(sent) = sending.join_next().await {
        latencies.add(sent??);
    }
    let told_per_second = total as f64 / began.elapsed().as_secs_f64();
    let ended = Instant::now();
    if subscriptions > 0 {
        let before = taken.load(Ordering::Relaxed);
        client.emit("last0", None, &json!({ "n": -1 })).await?;
        while taken.load(Ordering::Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.feed_position(READER).await?.context("somebody matches")?;
    }
    let behind = ended.elapsed();
    house.close().await?;
    Ok(Matched { told_per_second, latencies, behind })
}

async fn delivering(args: &Args, dir: &std::path::Path) -> anyhow::Result<(u64, Duration)> {
    let (url, taken) = endpoint().await?;
    let house = open(dir).await?;
    for nth in 0..args.endpoints {
        let choices = Choices { events: vec![format!("to{nth}")], concurrency: 10, ..Choices::default() };
        house.subscribe(&url, choices).await?;
    }
    let client = house.webhooks.client().clone();
    let (before, began) = (taken.load(Ordering::Relaxed), Instant::now());
    let mut sending = tokio::task::JoinSet::new();
    for nth in 0..args.deliveries {
        let client = client.clone();
        let name = format!("to{}", nth % args.endpoints);
        sending.spawn(async move { client.emit(&name, Some("1:orders:ann:web"), &json!({ "n": nth })).await });
        if sending.len() >= 256 {
            sending.join_next().await.context("there are some")???;
        }
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    while taken.load(Ordering::Relaxed) - before < args.deliveries {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = began.elapsed();
    house.close().await?;
    Ok((args.deliveries, took))
}

/// An endpoint that takes everything, and counts.
async fn endpoint() -> anyhow::Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let taken = Arc::new(AtomicU64::new(0));
    let counted = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, counted.clone()));
        }
    });
    Ok((url, taken))
}

async fn serve(mut stream: TcpStream, taken: Arc<AtomicU64>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let text = String::from_utf8_lossy(&seen);
        let whole = text.find("\r\n\r\n").and_then(|head| {
            let lower = text[..head].to_ascii_lowercase();
            let length =
                lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok())?;
            (seen.len() >= head + 4 + length).then_some((head + 4, head + 4 + length))
        });
        let Some((body, end)) = whole else {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                n => seen.extend_from_slice(&buffer[..n]),
            }
            continue;
        };
        let said = &seen[body..end];
        if said.starts_with(b"{\"challenge\"") || String::from_utf8_lossy(said).contains("webhook.verification") {
            let said: Value = serde_json::from_slice(said)?;
            let echo = json!({ "challenge": said["challenge"] }).to_string();
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{echo}", echo.len()).as_bytes())
                .await?;
        } else {
            taken.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
        seen.drain(..end);
    }
}
