//! Turns of many sessions in one process: an engine, the flows as they are, and an agent that answers at once.
//!
//! Messages come at a steady rate, each to the next of many sessions, so that almost each is a turn of its own. Measured
//! is how long a message waits for its agent *beyond its window*: from the call that sends it to the agent's first line,
//! less the window. A turn counts when its run has ended.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use mainspring_bench::{Latencies, Machine, Place, flows};
use mainspring_client::{Client, Context, Failure, SendOptions, TenantId, Worker, WorkflowDef};
use mainspring_core::{Command, Reply};
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentAnswer, AgentRequest, MessageBody, turn};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANT: TenantId = TenantId(1);
const AGENT: &str = "bench-agent";

#[derive(Debug, Parser)]
#[command(about = "Turns of many sessions, with an agent in this process")]
struct Args {
    /// Where the engine's directory is made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Messages per second.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Seconds of load that are counted, after three that are not.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Sessions they go to, in turn.
    #[arg(long, default_value_t = 10_000)]
    sessions: u64,
    /// The window in milliseconds; 0 for none.
    #[arg(long, default_value_t = 200)]
    window_ms: u64,
    /// Measurements, each in a fresh directory.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What the agent saw: when it was asked, by the number of the message.
type Seen = Arc<Mutex<Vec<Option<Instant>>>>;

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(args.dir.as_deref())?;
    println!("machine: {}", Machine::measure(place.path())?);
    println!(
        "{} messages/s to {} sessions, window {} ms, {} s counted per round; times in ms beyond the window\n",
        args.rate, args.sessions, args.window_ms, args.seconds
    );
    println!(
        "{:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}",
        "round", "turns/s", "send p50", "send p99", "asked p50", "asked p99", "asked max", "turns", "unasked"
    );
    for round in 1..=args.rounds {
        let dir = tempfile::tempdir_in(place.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let measured = runtime.block_on(measure(&args, dir.path()))?;
        let Measured { turns_per_second, mut sends, mut asked, turns, unasked } = measured;
        println!(
            "{round:>5} {turns_per_second:>9.0} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {turns:>10} {unasked:>9}",
            sends.percentile_ms(50.0),
            sends.percentile_ms(99.0),
            asked.percentile_ms(50.0),
            asked.percentile_ms(99.0),
            asked.percentile_ms(100.0),
        );
    }
    println!("\nturns: ended well by the time the last message was answered; unasked: messages no agent ever saw.");
    Ok(())
}

struct Measured {
    turns_per_second: f64,
    sends: Latencies,
    asked: Latencies,
    turns: u64,
    unasked: usize,
}

async fn measure(args: &Args, dir: &std::path::Path) -> anyhow::Result<Measured> {
    const WARM_S: u64 = 3;
    let engine = Engine::open(&EngineOptions::new(dir))?;
    engine.submit(TENANT, Command::PutTenant { name: "bench".to_owned() }).await?;
    let client = Client::new(engine.clone(), TENANT);
    let window = if args.window_ms == 0 { WindowRules::off() } else { WindowRules::fixed(args.window_ms) };
    let total = (args.rate * (args.seconds + WARM_S)) as usize;
    let seen: Seen = Arc::new(Mutex::new(vec![None; total]));
    let eyes = seen.clone();
    let worker = flows::offer(Worker::new(client.clone(), "bench"), &client, TENANT, AGENT, window)?.function(
        WorkflowDef::single(AGENT, true),
        move |_: Context, request: AgentRequest| {
            let now = Instant::now();
            let eyes = eyes.clone();
            async move {
                let mut eyes = eyes.lock().unwrap_or_else(PoisonError::into_inner);
                for message in &request.messages {
                    if let Some(place) = message.text.parse::<usize>().ok().and_then(|nth| eyes.get_mut(nth)) {
                        *place = Some(now);
                    }
                }
                Ok::<_, Failure>(AgentAnswer::text("done"))
            }
        },
    );
    let worker = worker.start().await?;

    let began = Instant::now();
    let (rate, sessions) = (args.rate, args.sessions);
    let (sender, runtime) = (client.clone(), tokio::runtime::Handle::current());
    // Paced by a thread of its own: the runtime's timers have a resolution of a millisecond, which is more than a message
    // should take. One that is late is sent late, and its lateness is counted.
    let pacing = tokio::task::spawn_blocking(move || {
        let mut sending = tokio::task::JoinSet::new();
        for nth in 0..total {
            let planned = began + Duration::from_secs_f64(nth as f64 / rate as f64);
            std::thread::sleep(planned.saturating_duration_since(Instant::now()));
            let client = sender.clone();
            let key = format!("{TENANT}:{AGENT}:p{}:web", nth as u64 % sessions);
            let send = async move {
                let body = MessageBody { text: nth.to_string(), ..MessageBody::default() };
                let sent = client.send(turn::WORKFLOW, &key, &body, SendOptions::default()).await;
                sent.map(|_| (nth, planned, planned.elapsed()))
            };
            sending.spawn_on(send, &runtime);
        }
        sending
    });
    let mut sending = pacing.await?;
    let mut sends = Latencies::with_room(total);
    let mut planned_at = vec![None; total];
    while let Some(sent) = sending.join_next().await {
        let (nth, planned, took) = sent??;
        planned_at[nth] = Some(planned);
        if nth >= (args.rate * WARM_S) as usize {
            sends.add(took);
        }
    }
    let live = async || match engine.submit(TENANT, Command::Count).await {
        Ok((Reply::Counts(counts), _)) => counts.runs_live,
        _ => u64::MAX,
    };
    while live().await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    worker.stop().await;

    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut asked = Latencies::with_room(total);
    for (nth, seen) in seen.iter().enumerate().skip((args.rate * WARM_S) as usize) {
        if let (Some(seen), Some(planned)) = (seen, planned_at[nth]) {
            asked.add(seen.saturating_duration_since(planned).saturating_sub(Duration::from_millis(args.window_ms)));
        }
    }
    let unasked = seen.iter().filter(|seen| seen.is_none()).count();
    let turns = completed(&engine).await?;
    tokio::task::spawn_blocking(move || engine.shut_down()).await?;
    Ok(Measured { turns_per_second: turns as f64 / seconds, sends, asked, turns, unasked })
}

/// Turns that completed, by the tables.
async fn completed(engine: &Engine) -> anyhow::Result<u64> {
    let position = engine.durable_position(TENANT);
    engine.wait_applied(TENANT, position, Duration::from_secs(120)).await;
    let filter =
        mainspring_engine::RunFilter { workflow: Some(turn::WORKFLOW.to_owned()), state: Some("completed".to_owned()) };
    let (mut count, mut before) = (0, None);
    loop {
        let filter = filter.clone();
        let page = engine.read(TENANT, move |reader| reader.runs(TENANT, &filter, before, 1_000)).await?;
        count += page.rows.len() as u64;
        let Some(next) = page.next else { return Ok(count) };
        before = Some(next);
    }
}
