//! One partition: its inbox, the thread that decides, the thread that makes durable, and the release of what is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mainspring_core::{Facts, Refusal};
use mainspring_store::log::{Log, Position};
use mainspring_store::{Batch, Reader, Unapplied};

use crate::decider::{DecidedBatch, Decider, Submission};
use crate::hub::Hub;
use crate::loader::Loader;
use crate::status::{Health, Stats};

/// Submissions waiting to be decided. At 100,000 decisions a second this is half a second of work.
const INBOX_MAX: usize = 50_000;
/// Durable bytes the tables may be behind before acceptance slows down.
const UNAPPLIED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A batch is closed at this size even if the log is still busy with the last one.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Batches of up to this many commands are written by the deciding thread itself; larger ones go to the log's thread, so
/// that deciding and writing overlap. Measured with `cargo xtask bench engine`.
const INLINE_COMMANDS_MAX: usize = 16;

/// A submission that was not decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too much waits already.
    #[error("busy: {what}; retry after {retry_after_ms} ms")]
    Busy {
        /// What is full.
        what: &'static str,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// A write to the log failed: nothing more is accepted. Nothing accepted is lost.
    #[error(
        "the partition stopped accepting because its log could not be written ({cause}); mend the disk and restart"
    )]
    Stopped {
        /// What failed.
        cause: String,
    },
    /// The engine is being shut down.
    #[error("the engine is shutting down; retry against the restarted one")]
    ShuttingDown,
    /// A fact could not be read.
    #[error("a stored fact could not be read: {cause}")]
    Unreadable {
        /// What failed.
        cause: String,
    },
}

#[derive(Default)]
struct Shared {
    inbox: Vec<Submission>,
    /// The batch handed to the log's thread, if it has not taken it yet.
    handed: Option<DecidedBatch>,
    /// Whether the log's thread is writing one.
    writing: bool,
    stopped: Option<EngineError>,
    closing: bool,
    /// The decider has ended: no further batch will come.
    decider_ended: bool,
}

/// What the threads of a partition share.
pub(crate) struct Partition {
    shared: Mutex<Shared>,
    /// Wakes the decider: something to decide, or the log's thread is free.
    work: Condvar,
    /// Wakes the log's thread.
    handover: Condvar,
    pub(crate) stats: Stats,
    pub(crate) hub: Arc<Hub>,
    pub(crate) unapplied: Arc<Unapplied>,
    pub(crate) reader: Reader,
    durable: AtomicU64,
}

/// What makes a batch durable. Owned by whoever writes at the moment.
struct Writer {
    log: Log,
    loader: Loader,
}

impl Partition {
    pub(crate) fn new(hub: Arc<Hub>, unapplied: Arc<Unapplied>, reader: Reader, position: u64) -> Arc<Self> {
        Arc::new(Partition {
            shared: Mutex::new(Shared::default()),
            work: Condvar::new(),
            handover: Condvar::new(),
            stats: Stats::default(),
            hub,
            unapplied,
            reader,
            durable: AtomicU64::new(position),
        })
    }

    /// Starts the threads.
    pub(crate) fn start(self: &Arc<Self>, decider: Decider, log: Log) -> std::io::Result<Vec<JoinHandle<()>>> {
        let (loader, loader_thread) = Loader::start(self.clone())?;
        let writer = Arc::new(Mutex::new(Writer { log, loader }));
        let mut threads = vec![loader_thread];
        let (partition, shared_writer) = (self.clone(), writer.clone());
        threads.push(spawn("mainspring-log", move || partition.write_batches(&shared_writer))?);
        let partition = self.clone();
        threads.push(spawn("mainspring-core", move || partition.decide_batches(decider, &writer))?);
        Ok(threads)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A poisoned lock means a thread of the engine panicked; the shared state itself is consistent between calls.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a submission into the inbox, or answers it at once if it can't be taken.
    pub(crate) fn submit(&self, submission: Submission) {
        let refusal = {
            let mut shared = self.lock();
            if let Some(stopped) = &shared.stopped {
                Some((submission, stopped.clone()))
            } else if shared.closing {
                Some((submission, EngineError::ShuttingDown))
            } else if shared.inbox.len() >= INBOX_MAX {
                let busy = EngineError::Busy { what: "the partition's inbox is full", retry_after_ms: 500 };
                Some((submission, busy))
            } else {
                let first = shared.inbox.is_empty();
                shared.inbox.push(submission);
                drop(shared);
                if first {
                    self.work.notify_one();
                }
                None
            }
        };
        if let Some((submission, error)) = refusal {
            (submission.respond)(Err(error));
        }
    }

    /// Puts a submission back whose fact was loaded. It was accepted before, so no limit applies.
    pub(crate) fn resubmit(&self, submission: Submission) {
        let mut shared = self.lock();
        if let Some(stopped) = shared.stopped.clone() {
            drop(shared);
            (submission.respond)(Err(stopped));
            return;
        }
        shared.inbox.push(submission);
        drop(shared);
        self.work.notify_one();
    }

    /// Refuses work that begins something new while the tables are too far behind. Work that ends something goes on, or
    /// nothing would ever get better.
    pub(crate) fn too_far_behind(&self) -> Option<EngineError> {
        (self.unapplied.bytes() > UNAPPLIED_BYTES_MAX)
            .then_some(EngineError::Busy { what: "the tables are too far behind the log", retry_after_ms: 1_000 })
    }

    pub(crate) fn durable_position(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn health(&self) -> Health {
        let shared = self.lock();
        match &shared.stopped {
            Some(error) => Health::Stopped { cause: error.to_string() },
            None if shared.closing => Health::ShuttingDown,
            None => Health::Accepting,
        }
    }

    /// Stops accepting because the tables can't be written: going on would only grow memory.
    pub(crate) fn stop(&self, cause: String) {
        tracing::error!(%cause, "the partition stops accepting");
        let mut shared = self.lock();
        shared.stopped.get_or_insert(EngineError::Stopped { cause });
        drop(shared);
        self.work.notify_all();
        self.handover.notify_all();
    }

    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    fn decide_batches(&self, mut decider: Decider, writer: &Mutex<Writer>) {
        let mut inbox: Vec<Submission> = Vec::new();
        loop {
            {
                let mut shared = self.lock();
                loop {
                    let now = now_ms();
                    let log_free = shared.handed.is_none() && !shared.writing;
                    let ready = decider.has_work() && log_free;
                    if !shared.inbox.is_empty() || ready || shared.stopped.is_some() || decider.tick_due(now) {
                        break;
                    }
                    if shared.closing && !decider.has_work() && log_free {
                        shared.decider_ended = true;
                        self.handover.notify_all();
                        return;
                    }
                    let wait = match decider.core().next_due() {
                        Some(due) => Duration::from_millis(due.saturating_sub(now).clamp(1, 60_000)),
                        None => Duration::from_secs(60),
                    };
                    (shared, _) = self.work.wait_timeout(shared, wait).unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::swap(&mut shared.inbox, &mut inbox);
                if let Some(stopped) = shared.stopped.clone() {
                    drop(shared);
                    self.refuse_from_now_on(decider, inbox, &stopped);
                    return;
                }
            }

            let now = now_ms();
            for submission in inbox.drain(..) {
                decider.decide(now, submission);
                if decider.batch_bytes() > BATCH_BYTES_MAX {
                    let batch = decider.take_batch();
                    self.hand_over(batch);
                }
            }
            if decider.tick_due(now) {
                decider.tick(now);
            }
            if decider.has_work() {
                self.pass_on(&mut decider, writer);
            }
        }
    }

    /// The log can't be written: everything not durable is answered with that, until the engine is closed.
    fn refuse_from_now_on(&self, mut decider: Decider, mut inbox: Vec<Submission>, stopped: &EngineError) {
        answer_all(decider.take_batch(), stopped);
        loop {
            inbox.drain(..).for_each(|submission| (submission.respond)(Err(stopped.clone())));
            let mut shared = self.lock();
            while shared.inbox.is_empty() && !shared.closing {
                shared = self.work.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut shared.inbox, &mut inbox);
            if shared.closing && inbox.is_empty() {
                shared.decider_ended = true;
                self.handover.notify_all();
                return;
            }
        }
    }

    /// Gives the batch to the log: by this thread if it is small and the log is free, by the log's thread if it is free,
    /// and otherwise not yet, so that more joins it.
    fn pass_on(&self, decider: &mut Decider, writer: &Mutex<Writer>) {
        let mut shared = self.lock();
        if shared.writing || shared.handed.is_some() {
            return;
        }
        if decider.batch_commands() <= INLINE_COMMANDS_MAX && shared.inbox.len() <= INLINE_COMMANDS_MAX {
            shared.writing = true;
            drop(shared);
            let batch = decider.take_batch();
            self.write_batch(batch, writer);
            self.lock().writing = false;
            return;
        }
        shared.handed = Some(decider.take_batch());
        drop(shared);
        self.handover.notify_one();
    }

    /// Hands a full batch over, waiting for the log's thread.
    fn hand_over(&self, batch: DecidedBatch) {
        let mut shared = self.lock();
        while (shared.writing || shared.handed.is_some()) && shared.stopped.is_none() {
            shared = self.work.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(stopped) = shared.stopped.clone() {
            drop(shared);
            answer_all(batch, &stopped);
            return;
        }
        shared.handed = Some(batch);
        drop(shared);
        self.handover.notify_one();
    }

    fn write_batches(&self, writer: &Mutex<Writer>) {
        loop {
            let batch = {
                let mut shared = self.lock();
                loop {
                    if let Some(batch) = shared.handed.take() {
                        shared.writing = true;
                        break batch;
                    }
                    if shared.decider_ended {
                        return;
                    }
                    shared = self.handover.wait(shared).unwrap_or_else(PoisonError::into_inner);
                }
            };
            self.write_batch(batch, writer);
            self.lock().writing = false;
            self.work.notify_all();
        }
    }

    /// Makes a batch durable, then, and only then, answers and releases its effects.
    fn write_batch(&self, mut batch: DecidedBatch, writer: &Mutex<Writer>) {
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut position = self.durable_position();
        if !batch.writes.is_empty() {
            let writes = std::mem::take(&mut batch.writes);
            match writer.log.append(&[&writes]) {
                Ok(Position(written)) => {
                    position = written;
                    self.stats.wrote(batch.commands, writes.len());
                    self.unapplied.push(Arc::new(Batch::new(position, writes)));
                    self.durable.store(position, Ordering::Release);
                }
                Err(error) => {
                    let stopped = EngineError::Stopped { cause: error.to_string() };
                    self.stop(error.to_string());
                    answer_all(batch, &stopped);
                    return;
                }
            }
        }
        self.hub.keep_payloads(batch.payloads);
        for (respond, answer) in batch.answers {
            respond(answer.map(|reply| (reply, position)).map_err(EngineError::Refused));
        }
        self.hub.release(batch.effects);
        for (submission, need) in batch.lookups {
            writer.loader.load(submission, need);
        }
        // Segments go once the applier has made the tables that contain them durable.
        if let Some(durable_in_tables) = self.stats.take_checkpoint()
            && let Err(error) = writer.log.remove_up_to(Position(durable_in_tables))
        {
            tracing::warn!(%error, "applied log segments could not be removed; they will be tried again");
        }
    }
}

fn answer_all(batch: DecidedBatch, error: &EngineError) {
    for (respond, _) in batch.answers {
        respond(Err(error.clone()));
    }
    for (submission, _) in batch.lookups {
        (submission.respond)(Err(error.clone()));
    }
}

/// A submission without facts.
pub(crate) fn submission(
    tenant: mainspring_core::TenantId,
    command: mainspring_core::Command,
    respond: crate::decider::Respond,
) -> Submission {
    Submission { tenant, command, facts: Facts::new(), respond }
}

pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

pub(crate) fn now_ms() -> u64 {
    // Before 1970 only on a machine whose clock is not set; the core never goes back anyway.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
