//! Tasks over the wire Hatchet's SDKs speak: how long from a trigger to the task on a connected worker's stream, and how
//! many tasks a worker that does nothing completes in a second.
//!
//! The worker says of each task that it has begun and that it is done, as the SDKs do. Triggers and worker share this
//! process and one clock. In `latency` triggers leave by a timetable that does not wait for answers, and the time counts
//! from the timetable. In `throughput` so many tasks are always on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use mainspring_bench::server::release_binary;
use mainspring_bench::wire::{Bearer, CALLS_PER_CHANNEL, Wire, connect};
use mainspring_bench::{Latencies, Machine, Place, Server};
use mainspring_hatchet::wire::root::dispatcher_client::DispatcherClient;
use mainspring_hatchet::wire::root::workflow_service_client::WorkflowServiceClient;
use mainspring_hatchet::wire::root::{
    ActionType, AssignedAction, BulkTriggerWorkflowRequest, HeartbeatRequest, StepActionEvent, StepActionEventType,
    WorkerListenRequest, WorkerRegisterRequest,
};
use mainspring_hatchet::wire::v1::admin_service_client::AdminServiceClient;
use mainspring_hatchet::wire::v1::{CreateTaskOpts, CreateWorkflowVersionRequest, TriggerWorkflowRequest};
use tokio::sync::{Semaphore, mpsc};

/// Not counted: connections are opened, the log's first small segments are passed.
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// From a trigger to the task on the worker's stream, at a steady rate.
    Latency,
    /// Tasks completed in a second.
    Throughput,
}

#[derive(Debug, Parser)]
#[command(about = "Tasks over the wire Hatchet's SDKs speak")]
struct Args {
    /// What is measured.
    mode: Mode,
    /// Triggers per second (latency).
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds counted.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Tasks on their way at once (throughput).
    #[arg(long, default_value_t = 4_000)]
    window: usize,
    /// Runs per request (throughput).
    #[arg(long, default_value_t = 200)]
    bulk: usize,
    /// Connections the worker reports on.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Whether the worker says that it has begun as well.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    begun: bool,
    /// The server to start [default: the release build beside this program].
    #[arg(long)]
    binary: Option<std::path::PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(None)?;
    let machine = Machine::measure(place.path())?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => release_binary()?,
    };
    let server = Server::start(&binary, &place.path().join("server"), &[])?;
    let bearer = Bearer::new(&server.token()?)?;
    let wire = connect(&server.url, &bearer).await?;

    let workflow = CreateWorkflowVersionRequest {
        name: "nothing".to_owned(),
        tasks: vec![CreateTaskOpts {
            readable_id: "nothing".to_owned(),
            action: "nothing:nothing".to_owned(),
            timeout: "60s".to_owned(),
            ..CreateTaskOpts::default()
        }],
        ..CreateWorkflowVersionRequest::default()
    };
    AdminServiceClient::new(wire.clone()).put_workflow(workflow).await?;
    let worker = Worker::start(&args, &server.url, &bearer).await?;
    println!("{machine}");
    match args.mode {
        Mode::Latency => latency(&args, wire, worker).await?,
        Mode::Throughput => throughput(&args, wire, worker).await?,
    }
    println!("server's memory: {:.1} MiB", server.resident_kib()? as f64 / 1024.0);
    Ok(())
}

/// A worker that does nothing.
struct Worker {
    /// When each task came: its input's number, and the time.
    came: mpsc::UnboundedReceiver<(u64, Instant)>,
    done: Arc<AtomicU64>,
    /// Reports that were refused or got lost.
    not_taken: Arc<AtomicU64>,
    room: Arc<Semaphore>,
}

impl Worker {
    async fn start(args: &Args, url: &str, bearer: &Bearer) -> anyhow::Result<Worker> {
        let mut dispatcher = DispatcherClient::new(connect(url, bearer).await?);
        let request = WorkerRegisterRequest {
            worker_name: "bench".to_owned(),
            actions: vec!["nothing:nothing".to_owned()],
            slot_config: [("default".to_owned(), 10_000)].into(),
            ..WorkerRegisterRequest::default()
        };
        let worker_id = dispatcher.register(request).await?.into_inner().worker_id;
        let mut stream = dispatcher.listen_v2(WorkerListenRequest { worker_id: worker_id.clone() }).await?.into_inner();
        let mut beating = dispatcher.clone();
        let beating_id = worker_id.clone();
        tokio::spawn(async move {
            loop {
                let beat = HeartbeatRequest { worker_id: beating_id.clone(), heartbeat_at: None };
                if beating.heartbeat(beat).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
        });
        let mut reporters = Vec::new();
        for _ in 0..args.connections {
            let calls = Arc::new(Semaphore::new(CALLS_PER_CHANNEL));
            reporters.push((DispatcherClient::new(connect(url, bearer).await?), calls));
        }
        let (come, came) = mpsc::unbounded_channel();
        let (done, room) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(args.window)));
        let not_taken = Arc::new(AtomicU64::new(0));
        let (counted, refused, freed, begun) = (done.clone(), not_taken.clone(), room.clone(), args.begun);
        tokio::spawn(async move {
            let mut nth = 0;
            while let Ok(Some(action)) = stream.message().await {
                if action.action_type() != ActionType::StartStepRun {
                    continue;
                }
                let number = action.action_payload.split("\"n\":").nth(1).and_then(|rest| {
                    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
                });
                let _ = come.send((number.unwrap_or(0), Instant::now()));
                nth += 1;
                let (client, calls) = reporters[nth % reporters.len()].clone();
                let (counted, refused) = (counted.clone(), refused.clone());
                let (freed, worker_id) = (freed.clone(), worker_id.clone());
                tokio::spawn(async move {
                    let _call = calls.acquire().await;
                    let count = if report(client, &action, &worker_id, begun).await { &counted } else { &refused };
                    count.fetch_add(1, Ordering::Relaxed);
                    freed.add_permits(1);
                });
            }
        });
        Ok(Worker { came, done, not_taken, room })
    }
}

/// Answers whether the report was taken.
async fn report(mut client: DispatcherClient<Wire>, action: &AssignedAction, worker_id: &str, begun: bool) -> bool {
    let event = |event_type: StepActionEventType, payload: &str| StepActionEvent {
        worker_id: worker_id.to_owned(),
        task_run_external_id: action.task_run_external_id.clone(),
        action_id: action.action_id.clone(),
        event_type: event_type.into(),
        event_payload: payload.to_owned(),
        retry_count: Some(action.retry_count),
        ..StepActionEvent::default()
    };
    let started = event(StepActionEventType::StepEventTypeStarted, "");
    let heard = !begun || client.send_step_action_event(started).await.is_ok();
    client.send_step_action_event(event(StepActionEventType::StepEventTypeCompleted, "{}")).await.is_ok() && heard
}

fn trigger(number: u64) -> TriggerWorkflowRequest {
    TriggerWorkflowRequest {
        name: "nothing".to_owned(),
        input: format!("{{\"n\":{number}}}"),
        ..TriggerWorkflowRequest::default()
    }
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
async fn latency(args: &Args, wire: Wire, mut worker: Worker) -> anyhow::Result<()> {
    let begun = Instant::now();
    let gap = Duration::from_secs(1) / args.rate;
    let count = (WARM_UP + Duration::from_secs(args.seconds)).as_nanos() / gap.as_nanos();
    let count = u64::try_from(count)?;
    let due = move |number: u64| begun + gap * u32::try_from(number).unwrap_or(u32::MAX);
    let client = WorkflowServiceClient::new(wire);
    // A thread of its own keeps the timetable: the runtime's timers are whole milliseconds, as long as what is measured.
    let runtime = tokio::runtime::Handle::current();
    let triggers = std::thread::spawn(move || {
        for number in 0..count {
            std::thread::sleep(due(number).saturating_duration_since(Instant::now()));
            let mut client = client.clone();
            runtime.spawn(async move { client.trigger_workflow(trigger(number)).await.map(drop) });
        }
    });
    let mut latencies = Latencies::with_room(usize::try_from(count)?);
    for _ in 0..count {
        let came = tokio::time::timeout(Duration::from_secs(30), worker.came.recv()).await;
        let (number, at) = came.context("a task did not come within 30 s")?.context("the worker's stream ended")?;
        if due(number) >= begun + WARM_UP {
            latencies.add(at.saturating_duration_since(due(number)));
        }
    }
    triggers.join().map_err(|_| anyhow::anyhow!("the thread of the timetable panicked"))?;
    let (p50, p99, max) =
        (latencies.percentile_ms(50.0), latencies.percentile_ms(99.0), latencies.percentile_ms(100.0));
    println!("trigger to task on the worker's stream at {}/s, {} of them:", args.rate, latencies.count());
    println!("  p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
async fn throughput(args: &Args, wire: Wire, worker: Worker) -> anyhow::Result<()> {
    let Worker { mut came, done, not_taken, room } = worker;
    tokio::spawn(async move { while came.recv().await.is_some() {} });
    let bulk = args.bulk;
    for _ in 0..2 {
        let (mut client, room) = (WorkflowServiceClient::new(wire.clone()), room.clone());
        tokio::spawn(async move {
            let mut number = 0;
            loop {
                let Ok(permits) = room.acquire_many(bulk as u32).await else { return };
                permits.forget();
                let workflows = (0..bulk as u64).map(|nth| trigger(number + nth)).collect();
                number += bulk as u64;
                if client.bulk_trigger_workflow(BulkTriggerWorkflowRequest { workflows }).await.is_err() {
                    room.add_permits(bulk);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, begun) = (done.load(Ordering::Relaxed), Instant::now());
    for _ in 0..args.seconds {
        let (so_far, since) = (done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let in_this = done.load(Ordering::Relaxed) - so_far;
        println!("  {:.0} tasks/s", in_this as f64 / since.elapsed().as_secs_f64());
    }
    let completed = done.load(Ordering::Relaxed) - before;
    let rate = completed as f64 / begun.elapsed().as_secs_f64();
    println!("no-op tasks completed: {rate:.0}/s; reports not taken: {}", not_taken.load(Ordering::Relaxed));
    Ok(())
}
