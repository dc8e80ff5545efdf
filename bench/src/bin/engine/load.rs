//! One measurement: an engine in a fresh directory, callers, a worker, and what came of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use mainspring_bench::{Latencies, Place};
use mainspring_core::limit::Limits;
use mainspring_core::row::{MessageRow, MessageState, RunRow, RunState};
use mainspring_core::workflow::WorkflowDef;
use mainspring_core::{Command, Reply, Start, Table, TenantId, WorkerId};
use mainspring_engine::{Engine, EngineError, EngineOptions};
use mainspring_postgres::{Postgres, PostgresOptions};

use tokio::sync::Semaphore;

use crate::worker::{Host, Worker};

const WORKFLOW: &str = "bench";
/// A workflow that nobody carries out: its runs wait.
const WAITING: &str = "waiting";
/// Who begins those that wait.
const BEGINNERS: u64 = 256;
/// A small JSON text, as inputs, messages and outputs mostly are.
pub(crate) const PAYLOAD: &[u8] = br#"{"text":"where is my order 4711?"}"#;
/// Not counted: caches fill, the log's first small segments are passed.
pub(crate) const WARM_UP: Duration = Duration::from_millis(700);
/// How long the tables may take to catch up before that is reported as an error.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// What the callers ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Runs of a workflow with one task.
    Runs,
    /// Messages into inboxes.
    Sends { sessions: usize },
    /// Runs of a durable function with so many entries in its journal, each recorded before the next.
    Entries { each: u32 },
}

impl Work {
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Work::Runs => "StartRun, and Complete of its task",
            Work::Sends { .. } => "SendMessage; and per turn a Receive of all that waits, and Complete",
            Work::Entries { .. } => "StartRun, each entry of its journal, and Complete",
        }
    }

    fn definition(self) -> WorkflowDef {
        match self {
            Work::Runs => WorkflowDef::single(WORKFLOW, false),
            Work::Sends { .. } => WorkflowDef { inbox: true, ..WorkflowDef::single(WORKFLOW, true) },
            Work::Entries { .. } => WorkflowDef::single(WORKFLOW, true),
        }
    }

    fn command(self, payload: Bytes, caller: usize, nth: usize) -> Command {
        let workflow = WORKFLOW.to_owned();
        match self {
            Work::Runs | Work::Entries { .. } => {
                Command::StartRun { start: Start { workflow, input: payload, ..Start::default() } }
            }
            Work::Sends { sessions } => {
                // Neighbouring callers go to distant sessions, and each caller to all of them in turn.
                let key = format!("session-{}", (caller.wrapping_mul(7919) + nth) % sessions);
                Command::SendMessage { workflow, key, payload, idempotency: None, admission: Box::default() }
            }
        }
    }

    /// How many of the things asked for the tables show as done.
    async fn found(self, engine: &Engine, tenant: TenantId) -> anyhow::Result<u64> {
        let found = engine.read(tenant, move |reader| match self {
            Work::Runs | Work::Entries { .. } => {
                let runs = reader.all::<RunRow>(tenant, Table::Run)?;
                Ok(runs.iter().filter(|(_, run)| run.state == RunState::Completed).count())
            }
            Work::Sends { .. } => {
                let messages = reader.all::<MessageRow>(tenant, Table::Message)?;
                Ok(messages.iter().filter(|(_, message)| matches!(message.state, MessageState::Done { .. })).count())
            }
        });
        Ok(found.await? as u64)
    }
}

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Runs that ended before.
    pub(crate) finished: u64,
    /// Runs of the first tenant that wait meanwhile.
    pub(crate) live: u64,
    /// Bytes of each input, message, result and output.
    pub(crate) payload: usize,
    /// Tenants that callers ask for in turn.
    pub(crate) tenants: u64,
    /// Workers of each tenant.
    pub(crate) workers: u64,
}

impl Shape {
    fn tenants(self) -> impl Iterator<Item = TenantId> {
        (1..=u128::from(self.tenants)).map(TenantId)
    }

    /// JSON, of about as many bytes as asked for.
    fn payload(self) -> Bytes {
        let room = self.payload.saturating_sub(2);
        if self.payload == PAYLOAD.len() {
            Bytes::from_static(PAYLOAD)
        } else {
            format!("\"{}\"", "x".repeat(room)).into()
        }
    }
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) shape: Shape,
    pub(crate) callers: usize,
    /// Asks per second that all callers share. `None`: each asks again as soon as it is answered.
    pub(crate) rate: Option<u64>,
    pub(crate) work: Work,
    pub(crate) counted: Duration,
    pub(crate) threads: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) transitions_per_second: f64,
    pub(crate) ask_p50_ms: f64,
    pub(crate) ask_p99_ms: f64,
    pub(crate) end_p50_ms: f64,
    pub(crate) end_p99_ms: f64,
    pub(crate) batches_per_second: f64,
    pub(crate) bytes_per_transition: f64,
    pub(crate) backlog_bytes: f64,
    pub(crate) drain_seconds: f64,
    pub(crate) busy: f64,
    /// What the callers were told is durable, and was found in the tables at the end, all of it.
    pub(crate) checked: f64,
}

/// What callers and worker share.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Whether what is answered now counts.
    pub(crate) counting: AtomicBool,
    stop: AtomicBool,
    /// Commands answered well while counting.
    pub(crate) transitions: AtomicU64,
    busy: AtomicU64,
    /// What callers were answered well, from first to last.
    accepted: AtomicU64,
}

impl Load {
    /// On a fresh directory, or in a fresh schema of a database.
    pub(crate) fn measure(self, place: &Place, postgres: Option<&str>) -> anyhow::Result<Measured> {
        let dir = Place::below(Some(place.path()))?;
        let options = match postgres {
            Some(url) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let options =
                    PostgresOptions { schema: format!("bench_{}", now.as_nanos()), ..PostgresOptions::new(url) };
                EngineOptions::on(Arc::new(Postgres::new(options)?))
            }
            None => EngineOptions::new(dir.path()),
        };
        self.measure_on(&options)
    }

    /// On a store of an earlier measurement, or one that was filled.
    pub(crate) fn measure_in(self, dir: &Path) -> anyhow::Result<Measured> {
        self.measure_on(&EngineOptions::new(dir))
    }

    fn measure_on(self, options: &EngineOptions) -> anyhow::Result<Measured> {
        let limits = Limits { live_runs_max: 20_000_000, ..Limits::default() };
        let engine = Engine::open(&EngineOptions { limits, ..options.clone() })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(self.threads).enable_time().build()?;
        let measured = runtime.block_on(self.drive(&engine));
        drop(runtime);
        engine.shut_down();
        measured
    }

    async fn drive(self, engine: &Engine) -> anyhow::Result<Measured> {
        let (signals, payload) = (Arc::new(Signals::default()), self.shape.payload());
        let (mut workers, mut before) = (Vec::new(), 0);
        for tenant in self.shape.tenants() {
            engine.submit(tenant, Command::PutTenant { name: format!("bench-{}", tenant.0) }).await?;
            engine.submit(tenant, Command::PutWorkflow { def: self.work.definition() }).await?;
            before += self.work.found(engine, tenant).await?;
            for nth in 1..=self.shape.workers {
                let host = Host::new(engine, tenant, WorkerId(nth.into()), self.work, payload.clone(), signals.clone());
                workers.push(Worker::start(host, WORKFLOW).await?);
            }
        }
        self.begin_waiting(engine, &payload).await?;
        let turns = Arc::new(Semaphore::new(0));
        if let Some(rate) = self.rate {
            tokio::spawn(pace(rate, turns.clone()));
        }
        let call =
            |caller| tokio::spawn(self.call(caller, engine.clone(), payload.clone(), signals.clone(), turns.clone()));
        let callers: Vec<_> = (0..self.callers).map(call).collect();

        tokio::time::sleep(WARM_UP).await;
        let (batches, bytes) = counters(engine);
        signals.counting.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        tokio::time::sleep(self.counted).await;
        signals.counting.store(false, Ordering::Relaxed);
        let seconds = begun.elapsed().as_secs_f64();
        let after = counters(engine);
        let (batches, bytes) = (after.0 - batches, after.1 - bytes);
        signals.stop.store(true, Ordering::Relaxed);
        let backlog_bytes = unapplied(engine);
        let stopped = Instant::now();

        let mut asks = Latencies::default();
        for caller in callers {
            asks.merge(caller.await.context("a caller ended early")??);
        }
        while unapplied(engine) > 0 || self.runs_live(engine).await? > self.shape.live {
            if stopped.elapsed() > DRAIN_MAX {
                bail!("the tables were still {} bytes behind after {} s", unapplied(engine), DRAIN_MAX.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let drain_seconds = stopped.elapsed().as_secs_f64();
        let (mut ends, mut found) = (Latencies::default(), 0);
        for worker in workers {
            ends.merge(worker.stop().await?);
        }
        for tenant in self.shape.tenants() {
            found += self.work.found(engine, tenant).await?;
        }
        let (accepted, found) = (signals.accepted.load(Ordering::Relaxed), found - before);
        if accepted != found {
            bail!("{accepted} were accepted, and {found} are in the tables as done");
        }
        let transitions = signals.transitions.load(Ordering::Relaxed) as f64;
        Ok(Measured {
            transitions_per_second: transitions / seconds,
            ask_p50_ms: asks.percentile_ms(50.0),
            ask_p99_ms: asks.percentile_ms(99.0),
            end_p50_ms: ends.percentile_ms(50.0),
            end_p99_ms: ends.percentile_ms(99.0),
            batches_per_second: batches as f64 / seconds,
            bytes_per_transition: bytes as f64 / transitions.max(1.0),
            backlog_bytes: backlog_bytes as f64,
            drain_seconds,
            busy: signals.busy.load(Ordering::Relaxed) as f64,
            checked: found as f64,
        })
    }

    async fn call(
        self,
        caller: usize,
        engine: Engine,
        payload: Bytes,
        signals: Arc<Signals>,
        turns: Arc<Semaphore>,
    ) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::with_room(4_096);
        let mut nth = 0;
        while !signals.stop.load(Ordering::Relaxed) {
            let command = self.work.command(payload.clone(), caller, nth);
            // Neighbouring callers begin with different tenants, and each goes to all of them.
            let tenant = TenantId(u128::from((caller + nth) as u64 % self.shape.tenants) + 1);
            if self.rate.is_some() {
                turns.acquire().await?.forget();
            }
            let asked = Instant::now();
            let answer = match (self.work, command) {
                // Waited for to the end: what is begun takes far longer than to begin it.
                (Work::Entries { .. }, Command::StartRun { start }) => {
                    engine.start_and_wait(tenant, start, DRAIN_MAX).await.map(drop)
                }
                (_, command) => engine.submit(tenant, command).await.map(drop),
            };
            match answer {
                Ok(()) => {
                    nth += 1;
                    signals.accepted.fetch_add(1, Ordering::Relaxed);
                    if signals.counting.load(Ordering::Relaxed) {
                        signals.transitions.fetch_add(1, Ordering::Relaxed);
                        latencies.add(asked.elapsed());
                    }
                }
                Err(EngineError::Busy { retry_after_ms, .. }) => {
                    signals.busy.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(latencies)
    }
}

impl Load {
    /// Begins those that wait, and has them in the tables.
    async fn begin_waiting(self, engine: &Engine, payload: &Bytes) -> anyhow::Result<()> {
        let tenant = TenantId(1);
        engine.submit(tenant, Command::PutWorkflow { def: WorkflowDef::single(WAITING, false) }).await?;
        let beginners = (0..BEGINNERS).map(|nth| {
            let (engine, payload) = (engine.clone(), payload.clone());
            let each = self.shape.live / BEGINNERS + u64::from(nth < self.shape.live % BEGINNERS);
            tokio::spawn(async move {
                for _ in 0..each {
                    let start = Start { workflow: WAITING.to_owned(), input: payload.clone(), ..Start::default() };
                    engine.submit(tenant, Command::StartRun { start }).await?;
                }
                anyhow::Ok(())
            })
        });
        for beginner in beginners.collect::<Vec<_>>() {
            beginner.await??;
        }
        while unapplied(engine) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn runs_live(self, engine: &Engine) -> anyhow::Result<u64> {
        let mut live = 0;
        for tenant in self.shape.tenants() {
            match engine.submit(tenant, Command::Count).await? {
                (Reply::Counts(counts), _) => live += counts.runs_live,
                (other, _) => bail!("asked for counts, answered {other:?}"),
            }
        }
        Ok(live)
    }
}

/// Lets so many asks per second begin. What all callers are too busy to begin adds up, and shows as a rate not reached.
async fn pace(rate: u64, turns: Arc<Semaphore>) {
    let begun = Instant::now();
    let mut given = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        turns.add_permits((due - given) as usize);
        given = due;
    }
}

fn counters(engine: &Engine) -> (u64, u64) {
    engine.stats().fold((0, 0), |(batches, bytes), (stats, _)| (batches + stats.batches(), bytes + stats.bytes()))
}

fn unapplied(engine: &Engine) -> usize {
    engine.stats().map(|(_, unapplied)| unapplied).sum()
}
