//! A worker that has nothing to do: it answers every dispatch at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use mainspring_bench::Latencies;
use mainspring_core::command::Claim;
use mainspring_core::journal::{Request, Wait};
use mainspring_core::place::SLOT;
use mainspring_core::{Command, Dispatch, Effect, NewWorker, WorkerId};
use mainspring_engine::{Engine, WorkerInbox};
use tokio::task::JoinHandle;

use crate::load::{PAYLOAD, Signals, TENANT};

const WORKER: WorkerId = WorkerId(1);
/// More than any measurement has in hand, so that slots never decide the result.
const SLOTS: u32 = 10_000_000;
/// As many messages as an inbox holds: a turn takes all that waits.
const MESSAGES_MAX: u32 = 1_000;
/// Dispatches taken from the channel at once.
const TAKEN_AT_ONCE: usize = 1_024;

/// A worker at work.
pub(crate) struct Worker {
    engine: Engine,
    latencies: Arc<Mutex<Latencies>>,
    work: JoinHandle<()>,
}

impl Worker {
    pub(crate) async fn start(engine: &Engine, action: &str, signals: Arc<Signals>) -> anyhow::Result<Worker> {
        let inbox = engine.hub().connect_worker(TENANT, WORKER);
        let announce = Command::RegisterWorker {
            worker: WORKER,
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
        engine.submit(TENANT, announce).await?;
        let latencies = Arc::new(Mutex::new(Latencies::with_room(1 << 20)));
        let host = Host { engine: engine.clone(), signals, latencies: latencies.clone() };
        Ok(Worker { engine: engine.clone(), latencies, work: tokio::spawn(host.work(inbox)) })
    }

    /// The latencies of completions counted so far.
    pub(crate) fn latencies(&self) -> Latencies {
        std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.work.abort();
        self.engine.hub().disconnect_worker(TENANT, WORKER);
        self.engine.submit(TENANT, Command::RemoveWorker { worker: WORKER }).await?;
        Ok(())
    }
}

#[derive(Clone)]
struct Host {
    engine: Engine,
    signals: Arc<Signals>,
    latencies: Arc<Mutex<Latencies>>,
}

impl Host {
    async fn work(self, mut inbox: WorkerInbox) {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        while inbox.recv_many(&mut taken, TAKEN_AT_ONCE).await > 0 {
            for effect in taken.drain(..) {
                let Effect::Dispatch(given) = effect else { continue };
                let Dispatch { task, attempt, invocation, messages_waiting, .. } = *given;
                let claim = Claim { worker: Some(WORKER), task, attempt, invocation: Some(invocation) };
                match messages_waiting {
                    Some(_) => self.receive(claim),
                    None => self.complete(claim),
                }
            }
        }
    }

    /// Takes the messages that wait, and completes once that is durable.
    fn receive(&self, claim: Claim) {
        let request = Request::Receive { wait: Wait::For(0), messages_max: MESSAGES_MAX, close_on_timeout: false };
        let host = self.clone();
        self.engine.submit_with(
            TENANT,
            Command::Journal { claim, position: 0, before: Vec::new(), request },
            Box::new(move |answer| {
                if answer.is_ok() {
                    host.count();
                    host.complete(claim);
                }
            }),
        );
    }

    fn complete(&self, claim: Claim) {
        let (host, asked) = (self.clone(), Instant::now());
        self.engine.submit_with(
            TENANT,
            Command::Complete { claim, output: Bytes::from_static(PAYLOAD) },
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
