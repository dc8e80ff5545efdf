//! Messages through the bus, in and out, with the engine's own streams and with Redis.
//!
//! A message is added to an inbound stream, taken there by a router's group, published to an outbound stream,
//! acknowledged inbound, taken outbound by a sender's group, and acknowledged there. No turn is begun by it.

mod redis;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use mainspring_bench::{Latencies, Machine, Place};
use mainspring_bus::{
    Bus, BusError, EmbeddedBus, EmbeddedBusOptions, Entry, EntryId, NewEntry, Redis, RedisBus, RedisBusOptions,
    RedisOptions,
};
use mainspring_client::{Client, StreamSettings, TenantId};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use tokio::task::JoinSet;

use self::redis::RedisServer;

const TENANT: TenantId = TenantId(1);
const INBOUND: &str = "events.inbound.bench.web";
const OUTBOUND: &str = "events.outbound.bench.web";
const ROUTERS: &str = "router";
const SENDERS: &str = "delivery";
/// Sessions that messages are of.
const SESSIONS: u64 = 5_000;
/// How a body begins, and how many digits follow. JSON, as envelopes are; zeros in front are not, and nobody reads it.
const BODY_BEGIN: &str = "{\"at\":";
const DIGITS: usize = 12;
/// What is not counted before the counting begins.
const WARM: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
#[command(about = "Messages through the bus in and out, without turns")]
struct Args {
    /// Which bus.
    #[arg(long, value_enum, default_value_t = On::Both)]
    on: On,
    /// Where the engine's directory is made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Gateways, each publishing again when it is answered.
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// Routers: consumers of what comes in, that publish it outbound.
    #[arg(long, default_value_t = 2)]
    routers: usize,
    /// Senders: consumers of what goes out.
    #[arg(long, default_value_t = 2)]
    senders: usize,
    /// Entries published and taken at once.
    #[arg(long, default_value_t = 250)]
    batch: usize,
    /// Partitions of each stream.
    #[arg(long, default_value_t = 8)]
    partitions: u16,
    /// Bytes of an entry's body.
    #[arg(long, default_value_t = 400)]
    bytes: usize,
    /// Messages that may be under way before gateways wait.
    #[arg(long, default_value_t = 10_000)]
    under_way: u64,
    /// Whether Redis writes what it is given to a file, synced once a second.
    #[arg(long)]
    appendonly: bool,
    /// Seconds that are counted, after two that are not.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Measurements, each in a fresh directory.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    Embedded,
    Redis,
    Both,
}

/// What was counted.
#[derive(Debug, Default)]
struct Counted {
    counting: AtomicBool,
    over: AtomicBool,
    /// Added inbound since the beginning.
    added: AtomicU64,
    /// Acknowledged outbound since the beginning.
    delivered: AtomicU64,
    /// Of these, while it was counted.
    counted: AtomicU64,
}

impl Counted {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// What one measurement gave.
struct Measured {
    per_second: f64,
    took: Latencies,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(args.dir.as_deref())?;
    println!("machine: {}", Machine::measure(place.path())?);
    println!(
        "{} gateways, {} routers, {} senders, batches of {}, {} partitions, {} bytes each, {} under way at most, {} s counted per round\n",
        args.gateways,
        args.routers,
        args.senders,
        args.batch,
        args.partitions,
        args.bytes,
        args.under_way,
        args.seconds
    );
    println!("{:>9} {:>5} {:>12} {:>9} {:>9}  the limit beside it", "bus", "round", "messages/s", "p50 ms", "p99 ms");
    for round in 1..=args.rounds {
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let show = |name: &str, mut measured: Measured, limit: String| {
            let (p50, p99) = (measured.took.percentile_ms(50.0), measured.took.percentile_ms(99.0));
            println!("{name:>9} {round:>5} {:>12.0} {p50:>9.2} {p99:>9.2}  {limit}", measured.per_second);
        };
        if args.on != On::Redis {
            let dir = tempfile::tempdir_in(place.path())?;
            let measured = runtime()?.block_on(embedded(&args, dir.path()))?;
            show("embedded", measured, format!("the disk now: {}", Machine::measure(place.path())?));
        }
        if args.on != On::Embedded {
            let dir = tempfile::tempdir_in(place.path())?;
            let server = RedisServer::start(dir.path(), args.appendonly)?;
            let alone = server.adds_per_second(args.batch, args.bytes, Duration::from_secs(2))?;
            let measured = runtime()?.block_on(on_redis(&args, &server))?;
            show(
                "Redis",
                measured,
                format!("one connection that does nothing but XADD, pipelined alike: {alone:.0}/s"),
            );
        }
    }
    println!(
        "\nA message: published inbound, taken, published outbound, acknowledged inbound, taken outbound, acknowledged."
    );
    println!("ms: from publishing it inbound to having it taken outbound. Embedded, publishing and acknowledging are");
    println!("durable before they are answered, and the tables are written meanwhile; Redis keeps it in memory.");
    Ok(())
}

async fn embedded(args: &Args, dir: &Path) -> anyhow::Result<Measured> {
    let engine = Engine::open(&EngineOptions::new(dir))?;
    engine.submit(TENANT, Command::PutTenant { name: "bench".to_owned() }).await?;
    let settings = StreamSettings { partitions: Some(args.partitions), ..StreamSettings::default() };
    let options = EmbeddedBusOptions { settings, ..EmbeddedBusOptions::default() };
    let bus = EmbeddedBus::new(&Client::new(engine.clone(), TENANT), options);
    let measured = measure(args, || Arc::new(bus.clone())).await?;
    tokio::task::spawn_blocking(move || engine.shut_down()).await?;
    Ok(measured)
}

async fn on_redis(args: &Args, server: &RedisServer) -> anyhow::Result<Measured> {
    let groups_of = [(INBOUND, ROUTERS), (OUTBOUND, SENDERS)];
    let options = RedisBusOptions {
        partitions: u32::from(args.partitions),
        groups_of: groups_of.map(|(stream, group)| (stream.to_owned(), vec![group.to_owned()])).into(),
        ..RedisBusOptions::default()
    };
    let redis = || Redis::new(&RedisOptions::new(server.url()));
    let buses = [redis()?, redis()?, redis()?].map(|redis| Arc::new(RedisBus::new(redis, options.clone())));
    let mut next = buses.into_iter();
    // Each of the three as a process of its own would have it.
    measure(args, || next.next().unwrap_or_else(|| unreachable!("there are three parties"))).await
}

/// Has all three parties at work, each on a bus of its own.
async fn measure<B: Bus + 'static>(args: &Args, mut bus: impl FnMut() -> Arc<B>) -> anyhow::Result<Measured> {
    let counted = Arc::new(Counted::default());
    let (began, batch) = (Instant::now(), args.batch);
    let mut others = JoinSet::new();
    let (routing, sending, adding) = (bus(), bus(), bus());
    for nth in 0..args.routers {
        others.spawn(route(routing.clone(), counted.clone(), format!("r{nth}"), batch));
    }
    let mut senders = JoinSet::new();
    for nth in 0..args.senders {
        senders.spawn(send(sending.clone(), counted.clone(), format!("s{nth}"), batch, began));
    }
    for nth in 0..args.gateways {
        let (bus, counted) = (adding.clone(), counted.clone());
        others.spawn(add(bus, counted, nth, batch, args.bytes, args.under_way, began));
    }
    tokio::time::sleep(WARM).await;
    counted.counting.store(true, Ordering::Relaxed);
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    counted.counting.store(false, Ordering::Relaxed);
    let seconds = since.elapsed().as_secs_f64();
    counted.over.store(true, Ordering::Relaxed);
    let mut took = Latencies::with_room(100_000);
    while let Some(ended) = senders.join_next().await {
        took.merge(ended??);
    }
    while let Some(ended) = others.join_next().await {
        ended??;
    }
    Ok(Measured { per_second: counted.counted.load(Ordering::Relaxed) as f64 / seconds, took })
}

/// A gateway: adds what people say.
async fn add(
    bus: Arc<dyn Bus>,
    counted: Arc<Counted>,
    gateway: usize,
    batch: usize,
    bytes: usize,
    under_way: u64,
    began: Instant,
) -> anyhow::Result<()> {
    let mut nth = 0_u64;
    while !counted.is_over() {
        if counted.added.load(Ordering::Relaxed) >= counted.delivered.load(Ordering::Relaxed) + under_way {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let body = body_of(began.elapsed(), bytes);
        let entries = (0..batch).map(|_| {
            nth += 1;
            NewEntry {
                id: format!("{gateway}-{nth}"),
                key: format!("session-{}", nth % SESSIONS),
                body: body.clone(),
                place: None,
            }
        });
        publish(&*bus, INBOUND, entries.collect()).await?;
        counted.added.fetch_add(batch as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// What an entry says: when it was published, in microseconds, and as much as it takes to have its size.
fn body_of(at: Duration, bytes: usize) -> Bytes {
    let pad = bytes.saturating_sub(BODY_BEGIN.len() + DIGITS + 11);
    Bytes::from(format!("{BODY_BEGIN}{:0DIGITS$},\"pad\":\"{:x<pad$}\"}}", at.as_micros(), ""))
}

/// When an entry was published.
fn published_at(body: &[u8]) -> Option<Duration> {
    let digits = body.get(BODY_BEGIN.len()..BODY_BEGIN.len() + DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Duration::from_micros)
}

/// Publishes, and waits while there is no room.
async fn publish(bus: &dyn Bus, stream: &str, entries: Vec<NewEntry>) -> anyhow::Result<()> {
    loop {
        match bus.publish(stream, entries.clone()).await {
            Ok(_) => return Ok(()),
            Err(BusError::Full { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// A router: what comes in goes out, and is acknowledged only then.
async fn route(bus: Arc<dyn Bus>, counted: Arc<Counted>, consumer: String, batch: usize) -> anyhow::Result<()> {
    while !counted.is_over() {
        let taken = bus.take(INBOUND, ROUTERS, &consumer, batch, Duration::from_millis(200)).await?;
        if taken.is_empty() {
            continue;
        }
        let places: Vec<EntryId> = taken.iter().map(|entry| entry.entry.clone()).collect();
        let out = taken.into_iter().map(|Entry { id, key, body, .. }| NewEntry { id, key, body, place: None });
        publish(&*bus, OUTBOUND, out.collect()).await?;
        bus.ack(INBOUND, ROUTERS, &consumer, &places).await?;
    }
    Ok(())
}

/// A sender: takes what goes out, and acknowledges it.
async fn send(
    bus: Arc<dyn Bus>,
    counted: Arc<Counted>,
    consumer: String,
    batch: usize,
    began: Instant,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    while !counted.is_over() {
        let taken = bus.take(OUTBOUND, SENDERS, &consumer, batch, Duration::from_millis(200)).await?;
        if taken.is_empty() {
            continue;
        }
        let counts = counted.counting.load(Ordering::Relaxed);
        let now = began.elapsed();
        if counts {
            let added = taken.iter().filter_map(|entry| published_at(&entry.body));
            added.for_each(|at| latencies.add(now.saturating_sub(at)));
        }
        let places: Vec<EntryId> = taken.into_iter().map(|entry| entry.entry).collect();
        bus.ack(OUTBOUND, SENDERS, &consumer, &places).await?;
        counted.delivered.fetch_add(places.len() as u64, Ordering::Relaxed);
        if counts && counted.counting.load(Ordering::Relaxed) {
            counted.counted.fetch_add(places.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(latencies)
}
