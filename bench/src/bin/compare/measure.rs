//! One measurement: a workload asked of a contender that runs, by so many callers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mainspring_bench::Latencies;
use mainspring_bench::closed::{Answers, Closed, Requests};
use mainspring_bench::http1::Connection;
use mainspring_bench::process::Usage;
use serde::{Deserialize, Serialize};

use crate::mainspring::SLEEP;
use crate::plan::{Contender, Workload};
use crate::running::{Door, Running};

/// Sleepers of workload F.
const SLEEPERS: u64 = 10_000;
/// Callers that begin them.
const SLEEPERS_CALLERS: usize = 64;
/// Runs of workload E in a round, and how long they may take.
const FAN_OUTS: u64 = 5;
const FAN_OUT_MAX: Duration = Duration::from_secs(120);
/// How long nothing may happen before what was begun and is not done counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of one measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) contender: Contender,
    pub(crate) workload: Workload,
    pub(crate) callers: usize,
    pub(crate) round: usize,
    /// Answers per second.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// Answers the percentiles are of.
    pub(crate) answers: usize,
    /// What was no success, by what it was.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Processor time of servers, per answer, in microseconds.
    pub(crate) server_us: f64,
    /// The same of workers.
    pub(crate) worker_us: f64,
    /// Bytes written to disk, per answer.
    pub(crate) written_bytes: f64,
    /// Resident memory of all processes at the end.
    pub(crate) resident_bytes: u64,
    /// Workload D: runs done per second, from the first request until all were done. F: seconds from when the last
    /// sleeper was due until all were awake.
    pub(crate) to_the_end: Option<f64>,
    /// Accepted, and not done in the end.
    pub(crate) lost: u64,
    /// The machine's load average before.
    pub(crate) load_average: f64,
}

/// What a program that asks by itself says at its end, on a line of its own.
#[derive(Debug, Deserialize)]
struct Said {
    latencies_ns: Vec<u64>,
    seconds: f64,
    accepted: u64,
    errors: BTreeMap<String, u64>,
}

/// Asks.
///
/// # Errors
/// When the load can't be started.
pub(crate) fn measure(
    running: &Running,
    (contender, workload, callers, round): (Contender, Workload, usize, usize),
    (warm, counted): (f64, f64),
) -> anyhow::Result<Figure> {
    let load_average = load_average();
    if workload == Workload::F {
        return sleepers(running, (contender, round), load_average);
    }
    let done_before = running.done();
    let Loaded { mut answers, begun, before, after } = match &running.door {
        Door::Http { address, requests } => {
            let (warm, counted) = (Duration::from_secs_f64(warm), Duration::from_secs_f64(counted));
            let requests = requests(workload);
            let closed = match workload {
                Workload::E => {
                    let (warm, counted, each) = (Duration::ZERO, FAN_OUT_MAX, Some(FAN_OUTS));
                    Closed { address: *address, callers, warm, counted, each, requests }
                }
                Workload::D => {
                    let (warm, each) = (Duration::ZERO, Some(contender.begun_max().div_ceil(callers as u64)));
                    Closed { address: *address, callers, warm, counted, each, requests }
                }
                _ => Closed { address: *address, callers, warm, counted, each: None, requests },
            };
            let begun = Instant::now();
            let (answers, before, after) = closed.run(|| running.usage())?;
            Loaded { answers, begun, before, after }
        }
        Door::Program(command) => by_program(running, command(workload, callers, warm, counted))?,
    };
    let (mut to_the_end, mut lost) = (None, 0);
    if workload == Workload::D {
        let done = running.wait_done(done_before + answers.accepted, PATIENCE) - done_before;
        to_the_end = Some(done as f64 / begun.elapsed().as_secs_f64());
        lost = answers.accepted.saturating_sub(done);
    }
    let count = answers.latencies.count();
    let (server, worker) = (after.0.since(before.0), after.1.since(before.1));
    let per_answer = |sum: f64| if count == 0 { 0.0 } else { sum / count as f64 };
    Ok(Figure {
        contender,
        workload,
        callers,
        round,
        per_second: count as f64 / answers.seconds,
        p50_ms: answers.latencies.percentile_ms(50.0),
        p99_ms: answers.latencies.percentile_ms(99.0),
        p999_ms: answers.latencies.percentile_ms(99.9),
        answers: count,
        errors: answers.errors,
        server_us: per_answer(server.cpu_seconds * 1e6),
        worker_us: per_answer(worker.cpu_seconds * 1e6),
        written_bytes: per_answer((server.written_bytes + worker.written_bytes) as f64),
        resident_bytes: server.resident_bytes + worker.resident_bytes,
        to_the_end,
        lost,
        load_average,
    })
}

/// A load that is over: what came of it, when it began, and what servers and workers had used when counting began and ended.
struct Loaded {
    answers: Answers,
    begun: Instant,
    before: (Usage, Usage),
    after: (Usage, Usage),
}

/// A load by the contender's own client: it says `START` when its callers begin, `BEGIN` and `END` around what it counts,
/// then what came of it.
fn by_program(running: &Running, mut command: std::process::Command) -> anyhow::Result<Loaded> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("no client")?;
    let id = child.id();
    let usage = || {
        let (servers, workers) = running.usage();
        // Where there are no workers, the client is what carries runs out as well.
        (servers, if running.workers.is_empty() { workers.and(Usage::of(id)) } else { workers })
    };
    let (mut begun, mut before, mut after, mut said) = (Instant::now(), None, None, None);
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        match line?.as_str() {
            "START" => begun = Instant::now(),
            "BEGIN" => before = Some(usage()),
            "END" => after = Some(usage()),
            line if line.starts_with('{') => said = Some(serde_json::from_str::<Said>(line)?),
            _ => {}
        }
    }
    let ended = child.wait()?;
    let (Some(before), Some(after), Some(said), true) = (before, after, said, ended.success()) else {
        bail!("a client ended ({ended}) without saying what came of it");
    };
    let mut latencies = Latencies::with_room(said.latencies_ns.len());
    said.latencies_ns.iter().for_each(|&ns| latencies.add(Duration::from_nanos(ns)));
    let answers = Answers { latencies, errors: said.errors, seconds: said.seconds, accepted: said.accepted };
    Ok(Loaded { answers, begun, before, after })
}

/// Begins sleepers that all wake within one second, and waits until all are awake.
fn sleepers(running: &Running, (contender, round): (Contender, usize), load_average: f64) -> anyhow::Result<Figure> {
    let Door::Http { address, requests } = &running.door else { bail!("sleepers are begun over HTTP") };
    let (done_before, before, begun) = (running.done(), running.usage(), Instant::now());
    let mut answers = begin(*address, requests(Workload::F), SLEEPERS, SLEEP)?;
    let last_due = SLEEP + Duration::from_secs(1);
    std::thread::sleep(last_due.saturating_sub(begun.elapsed()));
    let done = running.wait_done(done_before + answers.accepted, PATIENCE) - done_before;
    let late = begun.elapsed().saturating_sub(last_due).as_secs_f64();
    let after = running.usage();
    let (server, worker) = (after.0.since(before.0), after.1.since(before.1));
    let each = |sum: f64| sum / answers.accepted.max(1) as f64;
    Ok(Figure {
        contender,
        workload: Workload::F,
        callers: 1,
        round,
        per_second: answers.accepted as f64 / answers.seconds,
        p50_ms: answers.latencies.percentile_ms(50.0),
        p99_ms: answers.latencies.percentile_ms(99.0),
        p999_ms: answers.latencies.percentile_ms(99.9),
        answers: answers.latencies.count(),
        errors: answers.errors,
        server_us: each(server.cpu_seconds * 1e6),
        worker_us: each(worker.cpu_seconds * 1e6),
        written_bytes: each((server.written_bytes + worker.written_bytes) as f64),
        resident_bytes: server.resident_bytes + worker.resident_bytes,
        to_the_end: Some(late),
        lost: answers.accepted.saturating_sub(done),
        load_average,
    })
}

/// Begins so many, within so long.
///
/// # Errors
/// When nobody listens.
pub(crate) fn begin(address: SocketAddr, requests: Requests, count: u64, most: Duration) -> anyhow::Result<Answers> {
    let each = Some(count.div_ceil(SLEEPERS_CALLERS as u64));
    let closed = Closed { address, callers: SLEEPERS_CALLERS, warm: Duration::ZERO, counted: most, each, requests };
    Ok(closed.run(|| ())?.0)
}

/// The status of one answer.
///
/// # Errors
/// When there is none.
pub(crate) fn ask_once(address: SocketAddr, request: &[u8]) -> anyhow::Result<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asked = async { Connection::open(address).await?.ask(request).await };
        Ok(tokio::time::timeout(Duration::from_secs(60), asked).await.context("no answer")??)
    })
}

/// The machine's load average of the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
