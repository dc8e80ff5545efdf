//! A worker that has nothing to do: it answers every dispatch at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use mainspring_bench::Latencies;
use mainspring_core::command::Claim;
use mainspring_core::journal::{Request, Wait};
use mainspring_core::place::SLOT;
use mainspring_core::{Command, Dispatch, Effect, NewWorker, TenantId, WorkerId};
use mainspring_engine::{Engine, WorkerInbox};
use tokio::task::JoinHandle;

use crate::load::{Signals, Work};

/// More than any measurement has in hand, so that slots never decide the result.
const SLOTS: u32 = 10_000_000;
/// As many messages as an inbox holds: a turn takes all that waits.
const MESSAGES_MAX: u32 = 1_000;
/// Dispatches taken from the channel at once.
const TAKEN_AT_ONCE: usize = 1_024;

/// A worker at work.
pub(crate) struct Worker {
    host: Host,
    work: JoinHandle<()>,
}

impl Worker {
    pub(crate) async fn start(host: Host, action: &str) -> anyhow::Result<Worker> {
        let inbox = host.engine.hub().connect_worker(host.tenant, host.id);
        let announce = Command::RegisterWorker {
            worker: host.id,
            new: NewWorker {
                name: "bench".into(),
                actions: [action.to_owned()].into(),
                slots: [(SLOT.to_owned(), SLOTS)].into(),
                ..NewWorker::default()
            },
            local: true,
            lease_ms: None,
            holds: Vec::new(),
        };
        host.engine.submit(host.tenant, announce).await?;
        Ok(Worker { work: tokio::spawn(host.clone().work(inbox)), host })
    }

    /// Ends it; gives the latencies of the completions that were counted.
    pub(crate) async fn stop(self) -> anyhow::Result<Latencies> {
        self.work.abort();
        let Host { engine, tenant, id, latencies, .. } = self.host;
        engine.hub().disconnect_worker(tenant, id);
        engine.submit(tenant, Command::RemoveWorker { worker: id }).await?;
        Ok(std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What a worker works with.
#[derive(Clone)]
pub(crate) struct Host {
    engine: Engine,
    tenant: TenantId,
    id: WorkerId,
    work: Work,
    payload: Bytes,
    signals: Arc<Signals>,
    latencies: Arc<Mutex<Latencies>>,
}

impl Host {
    pub(crate) fn new(
        engine: &Engine,
        tenant: TenantId,
        id: WorkerId,
        work: Work,
        payload: Bytes,
        signals: Arc<Signals>,
    ) -> Host {
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        Host { engine: engine.clone(), tenant, id, work, payload, signals, latencies }
    }

    async fn work(self, mut inbox: WorkerInbox) {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        while inbox.recv_many(&mut taken, TAKEN_AT_ONCE).await > 0 {
            for effect in taken.drain(..) {
                let Effect::Dispatch(given) = effect else { continue };
                let Dispatch { task, attempt, invocation, .. } = *given;
                let claim = Claim { worker: Some(self.id), task, attempt, invocation: Some(invocation) };
                match self.work {
                    Work::Runs => self.complete(claim),
                    Work::Sends { .. } => self.receive(claim),
                    Work::Entries { each } => self.record(claim, 0, each),
                }
            }
        }
    }

    /// Takes the messages that wait, and completes once that is durable.
    fn receive(&self, claim: Claim) {
        let request = Request::Receive { wait: Wait::For(0), messages_max: MESSAGES_MAX, close_on_timeout: false };
        let host = self.clone();
        self.engine.submit_with(
            self.tenant,
            Command::Journal { claim, position: 0, before: Vec::new(), request },
            Box::new(move |answer| {
                if answer.is_ok() {
                    host.count();
                    host.complete(claim);
                }
            }),
        );
    }

    /// Records one entry after the other, each once the one before is durable, and then completes.
    fn record(&self, claim: Claim, position: u32, each: u32) {
        if position == each {
            return self.complete(claim);
        }
        let request = Request::Run { name: "step".to_owned(), result: Ok(self.payload.clone()), took_ms: 0 };
        let host = self.clone();
        self.engine.submit_with(
            self.tenant,
            Command::Journal { claim, position, before: Vec::new(), request },
            Box::new(move |answer| {
                if answer.is_ok() {
                    host.count();
                    host.record(claim, position + 1, each);
                }
            }),
        );
    }

    fn complete(&self, claim: Claim) {
        let (host, asked) = (self.clone(), Instant::now());
        self.engine.submit_with(
            self.tenant,
            Command::Complete { claim, output: self.payload.clone() },
            Box::new(move |answer| {
                if answer.is_ok() && host.count() {
                    host.latencies.lock().unwrap_or_else(PoisonError::into_inner).add(asked.elapsed());
                }
            }),
        );
    }

    /// Counts a transition if it is time to.
    fn count(&self) -> bool {
        let counting = self.signals.counting.load(Ordering::Relaxed);
        if counting {
            self.signals.transitions.fetch_add(1, Ordering::Relaxed);
        }
        counting
    }
}
