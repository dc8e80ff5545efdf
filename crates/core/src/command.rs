//! The closed list of what may be asked, and of the facts a decision may need that are not resident.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::id::{RunId, TaskId, TokenId, WorkerId};
use crate::journal::Request;
use crate::row::{JournalRow, RunRow, TaskRow};
use crate::workflow::WorkflowDef;

/// A worker's claim on one attempt. A claim that is not the current one is refused, whatever it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Who claims.
    pub worker: WorkerId,
    /// Which task.
    pub task: TaskId,
    /// Which attempt at it.
    pub attempt: u32,
    /// Which hand-over of the task to a worker.
    pub invocation: u32,
}

/// A hand-over a worker still has in hand, as it says when it comes back.
///
/// It is the hand-over and not the attempt that counts: a worker that missed a later hand-over of the same attempt
/// would otherwise be taken to work on what it never got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Which task.
    pub task: TaskId,
    /// Which hand-over of the task to a worker.
    pub invocation: u32,
}

/// A key that makes a repeated request recognisable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Chosen by the caller, unique for what it wants done once.
    pub key: String,
    /// A hash of what is asked, so that another request under the same key is refused rather than swallowed.
    pub body: u64,
}

/// What may be asked of a core. Each is decided whole or refused whole, and may come twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Creates the tenant the command is addressed to, or renames it.
    PutTenant {
        /// Its name, for people.
        name: String,
    },
    /// Registers a workflow definition; new runs use it from now on. The same definition twice is one version.
    PutWorkflow {
        /// The definition.
        def: WorkflowDef,
    },
    /// Starts a run.
    StartRun {
        /// Of which workflow.
        workflow: String,
        /// What serialises it, if the workflow has a key rule.
        key: Option<String>,
        /// Its input, JSON by convention.
        input: Bytes,
        /// Higher goes first. `None` takes the workflow's default.
        priority: Option<u8>,
        /// Makes a repeat recognisable.
        idempotency: Option<Idempotency>,
    },
    /// Ends a run and its children. Repeating it changes nothing.
    CancelRun {
        /// Which run.
        run: RunId,
        /// Why, for whoever looks.
        reason: String,
    },
    /// Lets a parked run try again, after its code was mended.
    ResumeRun {
        /// Which run.
        run: RunId,
    },
    /// Puts a message into the inbox of (workflow, key), and starts a run for it if none is live.
    SendMessage {
        /// Which workflow's inbox.
        workflow: String,
        /// Which key's inbox.
        key: String,
        /// What it says.
        payload: Bytes,
        /// Makes a repeat recognisable.
        idempotency: Option<Idempotency>,
    },
    /// Tells that something happened: starts the workflows it triggers, completes the waits it satisfies.
    EmitEvent {
        /// Its name.
        name: String,
        /// What it concerns.
        scope: Option<String>,
        /// Its data.
        data: Bytes,
    },
    /// Sends a named signal to a run. It is kept until the run takes it.
    SignalRun {
        /// Which run.
        run: RunId,
        /// Under which name.
        name: String,
        /// With what.
        payload: Bytes,
    },
    /// Announces a worker, or the same one again after a lost connection.
    RegisterWorker {
        /// Its id. The same id again replaces what was known.
        worker: WorkerId,
        /// Its name, for people.
        name: String,
        /// The actions it offers.
        actions: Vec<String>,
        /// How many attempts it takes at once.
        slots: u32,
        /// Whether it lives in the engine's own process.
        local: bool,
        /// It is given up when silent for this long. `None` for a worker whose end is noticed by other means.
        lease_ms: Option<u64>,
        /// What it still has in hand. Others it was given are given up.
        holds: Vec<Held>,
    },
    /// Renews a worker's lease. Not recorded.
    HeartbeatWorker {
        /// Which worker.
        worker: WorkerId,
    },
    /// A worker is gone: its attempts are given up and tried again elsewhere.
    RemoveWorker {
        /// Which worker.
        worker: WorkerId,
    },
    /// Adds the next entry to a durable task's journal, or reads the one already there.
    Journal {
        /// On whose behalf.
        claim: Claim,
        /// The entry's position, counted from 0.
        position: u32,
        /// What is asked.
        request: Request,
    },
    /// Lets a waiting durable task leave its worker's memory. Answered `StayAwake` if something came in already.
    Suspend {
        /// On whose behalf.
        claim: Claim,
        /// The journal positions it waits for.
        waiting: Vec<u32>,
    },
    /// Ends a task well.
    Complete {
        /// On whose behalf.
        claim: Claim,
        /// What it ends with.
        output: Bytes,
    },
    /// Ends an inbox run without consuming its messages: all of them, in order, go to its successor.
    Supersede {
        /// On whose behalf.
        claim: Claim,
        /// Why.
        reason: String,
    },
    /// An attempt failed.
    Fail {
        /// On whose behalf.
        claim: Claim,
        /// Why.
        error: String,
        /// Whether another attempt may help.
        retry: bool,
    },
    /// A journal does not fit the code it was replayed with; the run waits for a person.
    Park {
        /// On whose behalf.
        claim: Claim,
        /// What was found, and what was expected.
        error: String,
    },
    /// Remembers a token, so that it can be listed and revoked.
    PutToken {
        /// Its id.
        token: TokenId,
        /// What it is for.
        name: String,
        /// What it may do.
        scopes: Vec<String>,
        /// When it ends by itself.
        expires_at: u64,
    },
    /// Ends a token now.
    RevokeToken {
        /// Which.
        token: TokenId,
    },
    /// Asks why a run waits. Records nothing.
    Explain {
        /// Which run.
        run: RunId,
    },
    /// Asks how an inbox stands. Records nothing.
    LookAtInbox {
        /// Of which workflow.
        workflow: String,
        /// Of which key.
        key: String,
    },
    /// Counts what is live. Records nothing.
    Count,
}

impl Command {
    /// Bytes of the payload that comes with it: what it weighs while it waits.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Command::StartRun { input: payload, .. }
            | Command::SendMessage { payload, .. }
            | Command::EmitEvent { data: payload, .. }
            | Command::SignalRun { payload, .. }
            | Command::Complete { output: payload, .. } => payload.len(),
            Command::Journal { request, .. } => request.payload_bytes(),
            Command::PutTenant { .. }
            | Command::PutWorkflow { .. }
            | Command::CancelRun { .. }
            | Command::ResumeRun { .. }
            | Command::RegisterWorker { .. }
            | Command::HeartbeatWorker { .. }
            | Command::RemoveWorker { .. }
            | Command::Suspend { .. }
            | Command::Supersede { .. }
            | Command::Fail { .. }
            | Command::Park { .. }
            | Command::PutToken { .. }
            | Command::RevokeToken { .. }
            | Command::Explain { .. }
            | Command::LookAtInbox { .. }
            | Command::Count => 0,
        }
    }
}

/// A fact that is not resident and that a decision wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A run that may have ended.
    Run(RunId),
    /// A task of a run that may have ended.
    Task(TaskId),
    /// A journal entry.
    Journal(TaskId, u32),
}

/// A fact found, or found missing.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A run.
    Run(RunRow),
    /// A task.
    Task(TaskRow),
    /// A journal entry.
    Journal(JournalRow),
    /// There is none.
    Missing,
}

/// The facts handed in with a command.
pub type Facts = BTreeMap<Need, Fact>;
