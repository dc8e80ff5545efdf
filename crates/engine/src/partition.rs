//! One partition as everybody sees it: its inbox and its bounds, how it stands, and what reads it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mainspring_core::stream::StreamAsk;
use mainspring_core::{Command, Facts, Refusal};
use mainspring_store::{Reader, Unapplied};

use crate::decider::{DecidedBatch, Submission};
use crate::hub::Hub;
use crate::status::{Health, Stats};
use crate::world::World;

/// Submissions waiting to be decided. At 100,000 decisions a second this is half a second of work.
const INBOX_MAX: usize = 50_000;
/// Payload bytes in submissions waiting to be decided.
const INBOX_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Durable bytes the tables may be behind before acceptance slows down.
const UNAPPLIED_BYTES_MAX: usize = 256 * 1024 * 1024;
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
    /// The partition can't go on: its log can't be written or is another process's, or a thread panicked. Nothing that
    /// was accepted is lost. The cause says what to do.
    #[error("the partition stopped accepting: {cause}")]
    Stopped {
        /// What failed.
        cause: String,
    },
    /// The engine is being shut down.
    #[error("the engine is shutting down; retry against the restarted one")]
    ShuttingDown,
    /// Something that was stored is not there.
    #[error("{what} is not in the store: restore it from a backup")]
    Missing {
        /// What.
        what: String,
    },
    /// A fact could not be read at the moment.
    #[error("a stored fact could not be read: {cause}")]
    Unreadable {
        /// What failed.
        cause: String,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) inbox: Vec<Submission>,
    /// Payload bytes in it.
    pub(crate) inbox_bytes: usize,
    /// The batch handed to the log's thread, if it has not taken it yet.
    pub(crate) handed: Option<DecidedBatch>,
    /// Whether the log's thread is writing one.
    pub(crate) writing: bool,
    pub(crate) stopped: Option<EngineError>,
    pub(crate) closing: bool,
    /// The decider has ended: no further batch will come.
    pub(crate) decider_ended: bool,
}

/// What everybody who has to do with a partition shares.
#[derive(Debug)]
pub(crate) struct Partition {
    shared: Mutex<Shared>,
    /// Wakes the decider: something to decide, or the log's thread is free.
    pub(crate) work: Condvar,
    /// Wakes the log's thread.
    pub(crate) handover: Condvar,
    /// Wakes whoever moves the partition by hand.
    pub(crate) submitted: tokio::sync::Notify,
    pub(crate) world: Arc<dyn World>,
    pub(crate) stats: Stats,
    pub(crate) hub: Arc<Hub>,
    pub(crate) unapplied: Arc<Unapplied>,
    pub(crate) reader: Reader,
    durable: AtomicU64,
}

impl Partition {
    pub(crate) fn new(
        world: Arc<dyn World>,
        hub: Arc<Hub>,
        unapplied: Arc<Unapplied>,
        reader: Reader,
        position: u64,
    ) -> Arc<Self> {
        Arc::new(Partition {
            shared: Mutex::new(Shared::default()),
            work: Condvar::new(),
            handover: Condvar::new(),
            submitted: tokio::sync::Notify::new(),
            world,
            stats: Stats::default(),
            hub,
            unapplied,
            reader,
            durable: AtomicU64::new(position),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
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
            } else if shared.inbox.len() >= INBOX_MAX || shared.inbox_bytes >= INBOX_BYTES_MAX {
                let busy = EngineError::Busy { what: "the partition's inbox is full", retry_after_ms: 500 };
                Some((submission, busy))
            } else {
                let first = shared.inbox.is_empty();
                shared.inbox_bytes += submission.command.payload_bytes();
                shared.inbox.push(submission);
                drop(shared);
                if first {
                    self.wake_decider();
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
        let refusal = match &shared.stopped {
            Some(stopped) => Some(stopped.clone()),
            // Nobody decides any more.
            None => shared.decider_ended.then_some(EngineError::ShuttingDown),
        };
        if let Some(refusal) = refusal {
            drop(shared);
            (submission.respond)(Err(refusal));
            return;
        }
        shared.inbox.push(submission);
        drop(shared);
        self.wake_decider();
    }

    fn wake_decider(&self) {
        self.work.notify_one();
        self.submitted.notify_one();
    }

    /// Whether something was submitted and not taken.
    pub(crate) fn has_submissions(&self) -> bool {
        !self.lock().inbox.is_empty()
    }

    /// Takes everything submitted so far.
    pub(crate) fn take_submissions(&self) -> Vec<Submission> {
        let mut shared = self.lock();
        shared.inbox_bytes = 0;
        std::mem::take(&mut shared.inbox)
    }

    /// Refuses work that begins something new while the tables are too far behind, and much later also work that goes
    /// on. Work that ends something is never refused, or nothing would ever get better.
    pub(crate) fn too_far_behind(&self, command: &Command) -> Option<EngineError> {
        let max = match command {
            Command::StartRun { .. }
            | Command::StartRuns { .. }
            | Command::StartRecorded { .. }
            | Command::ReplayRun { .. }
            | Command::SendMessage { .. }
            | Command::EmitEvent { .. }
            | Command::PutDocument { fence: None, .. }
            | Command::Stream { ask: StreamAsk::Publish(_), .. }
            | Command::PutLog { .. } => UNAPPLIED_BYTES_MAX,
            Command::Journal { .. }
            | Command::Advance { .. }
            | Command::PutDocument { fence: Some(_), .. }
            | Command::SignalRun { .. }
            | Command::PutWorkflow { .. } => 2 * UNAPPLIED_BYTES_MAX,
            Command::PutTenant { .. }
            | Command::CancelRun { .. }
            | Command::CancelTask { .. }
            | Command::ResumeRun { .. }
            | Command::EnrolWorker { .. }
            | Command::ConnectWorker { .. }
            | Command::DisconnectWorker { .. }
            | Command::UpdateWorker { .. }
            | Command::Acknowledge { .. }
            | Command::Judge { .. }
            | Command::ExtendTimeout { .. }
            | Command::ReleaseSlots { .. }
            | Command::PutRate { .. }
            | Command::RegisterWorker { .. }
            | Command::HeartbeatWorker { .. }
            | Command::RemoveWorker { .. }
            | Command::Suspend { .. }
            | Command::LookAtFence { .. }
            | Command::PassCommitPoint { .. }
            | Command::Interrupt { .. }
            | Command::Complete { .. }
            | Command::Supersede { .. }
            | Command::Fail { .. }
            | Command::Park { .. }
            | Command::PutToken { .. }
            | Command::RevokeToken { .. }
            | Command::Explain { .. }
            | Command::LookAtInbox { .. }
            | Command::LookAtKey { .. }
            | Command::LookAtWorkers
            | Command::Stream { .. }
            | Command::LookAtStreams
            | Command::Count => return None,
        };
        (self.unapplied.bytes() > max)
            .then_some(EngineError::Busy { what: "the tables are too far behind the log", retry_after_ms: 1_000 })
    }

    pub(crate) fn durable_position(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn set_durable(&self, position: u64) {
        self.durable.store(position, Ordering::Release);
    }

    pub(crate) fn health(&self) -> Health {
        let shared = self.lock();
        match &shared.stopped {
            Some(error) => Health::Stopped { cause: error.to_string() },
            None if shared.closing => Health::ShuttingDown,
            None => Health::Accepting,
        }
    }

    /// Stops accepting: nothing more can be promised.
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
}

/// A submission without facts.
pub(crate) fn submission(
    tenant: mainspring_core::TenantId,
    command: mainspring_core::Command,
    respond: crate::decider::Respond,
) -> Submission {
    Submission { tenant, command, facts: Facts::new(), asked_at: None, respond }
}
