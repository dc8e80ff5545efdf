//! What the engine does for a run, a durable step or a message, done again and again without threads, to be counted in
//! instructions of the processor: `cargo xtask instructions`.
//!
//! Time and chance are given, so two executions of the same program do the same. What is counted are decisions, encoding,
//! the log's appends and the tables; not the kernel, and not the way from a socket and back.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use mainspring_bench::Place;
use mainspring_core::command::Claim;
use mainspring_core::journal::{Request, Wait};
use mainspring_core::place::SLOT;
use mainspring_core::workflow::WorkflowDef;
use mainspring_core::{Command, Dispatch, Effect, NewWorker, Start, TenantId, WorkerId};
use mainspring_engine::{Driven, Embedded, Engine, EngineOptions, LogOptions, SyncMode, WorkerInbox, World, Written};
use mainspring_store::log::Prepare;

const TENANT: TenantId = TenantId(1);
const WORKER: WorkerId = WorkerId(1);
const WORKFLOW: &str = "bench";
const PAYLOAD: &[u8] = br#"{"text":"where is my order 4711?"}"#;
/// Asked together, as by so many callers who are answered together.
const TOGETHER: u64 = 16;
/// Steps of a durable function.
const STEPS: u32 = 3;
/// Tables are brought up to date each time so many were done.
const APPLIED_EVERY: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// A run of one task that does nothing.
    Run,
    /// A durable function with three steps.
    Steps,
    /// A message into the inbox of one of a thousand keys, taken by a run of its own.
    Message,
}

impl Work {
    /// How many commands it takes from its beginning to its end.
    fn commands(self) -> u64 {
        match self {
            Work::Run => 2,
            Work::Steps => 2 + u64::from(STEPS),
            Work::Message => 3,
        }
    }
}

#[derive(Debug, Parser)]
#[command(about = "The engine's work without threads, to be counted by callgrind")]
struct Args {
    #[arg(value_enum)]
    work: Work,
    /// How often it is done.
    #[arg(long)]
    times: u64,
}

/// The same time and the same chance in each execution.
#[derive(Debug, Default)]
struct Given {
    asked: AtomicU64,
}

impl World for Given {
    fn now_ms(&self) -> u64 {
        1_800_000_000_000
    }

    fn elapsed_ms(&self) -> u64 {
        0
    }

    fn chance(&self) -> Result<u128, String> {
        let nth = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(u128::from(nth).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }
}

/// An engine, its one partition, and a worker that answers at once.
struct Bench {
    engine: Engine,
    driven: Driven,
    inbox: WorkerInbox,
    work: Work,
    answered: Arc<AtomicU64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(None)?;
    let log = LogOptions { sync: SyncMode::Off, prepare: Prepare::WhenNeeded, ..LogOptions::default() };
    let store = Arc::new(Embedded::new(place.path(), log));
    let options = EngineOptions { world: Arc::new(Given::default()), ..EngineOptions::on(store) };
    let (engine, mut driven) = Engine::open_driven(&options)?;
    let inbox = engine.hub().connect_worker(TENANT, WORKER);
    let driven = driven.pop().context("no partition")?;
    let mut bench = Bench { engine, driven, inbox, work: args.work, answered: Arc::default() };
    bench.prepare()?;
    let prepared = bench.answered.load(Ordering::Relaxed);
    for first in (0..args.times).step_by(TOGETHER as usize) {
        for nth in first..args.times.min(first + TOGETHER) {
            bench.ask(bench.command(nth));
        }
        bench.settle()?;
        if (first + TOGETHER).is_multiple_of(APPLIED_EVERY) {
            bench.apply();
        }
    }
    bench.apply();
    let (answered, due) = (bench.answered.load(Ordering::Relaxed), prepared + args.times * args.work.commands());
    if answered != due {
        bail!("{due} commands were due, and {answered} were answered well");
    }
    Ok(())
}

impl Bench {
    fn prepare(&mut self) -> anyhow::Result<()> {
        let def = match self.work {
            Work::Run => WorkflowDef::single(WORKFLOW, false),
            Work::Steps => WorkflowDef::single(WORKFLOW, true),
            Work::Message => WorkflowDef { inbox: true, ..WorkflowDef::single(WORKFLOW, true) },
        };
        let new = NewWorker {
            name: "bench".into(),
            actions: [WORKFLOW.to_owned()].into(),
            slots: [(SLOT.to_owned(), 1_000)].into(),
            ..NewWorker::default()
        };
        self.ask(Command::PutTenant { name: "bench".into() });
        self.ask(Command::PutWorkflow { def });
        self.ask(Command::RegisterWorker { worker: WORKER, new, local: true, lease_ms: None, holds: Vec::new() });
        self.settle()
    }

    fn command(&self, nth: u64) -> Command {
        let (workflow, payload) = (WORKFLOW.to_owned(), Bytes::from_static(PAYLOAD));
        match self.work {
            Work::Run | Work::Steps => {
                Command::StartRun { start: Start { workflow, input: payload, ..Start::default() } }
            }
            Work::Message => {
                let key = format!("session-{}", nth % 1_000);
                Command::SendMessage { workflow, key, payload, idempotency: None, admission: Box::default() }
            }
        }
    }

    fn ask(&self, command: Command) {
        let answered = self.answered.clone();
        let respond = move |answer: Result<_, _>| {
            answered.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
        };
        self.engine.submit_with(TENANT, command, Box::new(respond));
    }

    /// Decides, appends and answers until nobody has anything more to say.
    fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            while self.driven.wants_to_decide() {
                self.driven.decide();
            }
            if !self.driven.wants_to_append() {
                return Ok(());
            }
            let batch = self.driven.take_batch();
            match self.driven.append(batch) {
                Written::Durable(durable) => self.driven.release(durable),
                other => bail!("the log did not take a batch: {other:?}"),
            }
            while self.driven.load() {}
            while let Some(effect) = self.next_effect() {
                if let Effect::Dispatch(given) = effect {
                    self.carry_out(&given);
                }
            }
        }
    }

    fn next_effect(&mut self) -> Option<Effect> {
        let next = std::pin::pin!(self.inbox.recv());
        match next.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(effect) => effect,
            std::task::Poll::Pending => None,
        }
    }

    /// All that the task does, in commands that the engine decides together.
    fn carry_out(&mut self, given: &Dispatch) {
        let claim = Claim {
            worker: Some(WORKER),
            task: given.task,
            attempt: given.attempt,
            invocation: Some(given.invocation),
        };
        let journal = |position, request| Command::Journal { claim, position, before: Vec::new(), request };
        match self.work {
            Work::Run => {}
            Work::Steps => {
                for position in 0..STEPS {
                    let result = Ok(Bytes::from_static(PAYLOAD));
                    self.ask(journal(position, Request::Run { name: "step".into(), result, took_ms: 0 }));
                }
            }
            Work::Message => {
                let wait = Wait::For(0);
                self.ask(journal(0, Request::Receive { wait, messages_max: 10, close_on_timeout: false }));
            }
        }
        self.ask(Command::Complete { claim, output: Bytes::from_static(PAYLOAD) });
    }

    fn apply(&mut self) {
        while self.driven.wants_to_apply() {
            self.driven.apply();
        }
    }
}
