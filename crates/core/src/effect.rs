//! The closed list of what the world must do once a decision is durable.
//!
//! Effects may be repeated after a crash; every receiver can recognise a repeat by the ids in it. Those marked *hint*
//! may be lost: whoever misses one finds the same work by asking.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::id::{RunId, TaskId, TenantId, VersionId, WorkerId};
use crate::journal::Completion;
use crate::row::{ChildOf, EventRef, EventRow, PayloadRef, RunState};
use crate::workflow::WorkflowDef;

/// A task given to a worker: all that is needed to say so in any wire's words, but for payloads.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// Whose.
    pub tenant: TenantId,
    /// To whom.
    pub worker: WorkerId,
    /// Which task.
    pub task: TaskId,
    /// What the worker must run.
    pub action: String,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The hand-over, counted from 1.
    pub invocation: u32,
    /// The run's input.
    pub input: Option<PayloadRef>,
    /// Journal entries to replay.
    pub journal_len: u32,
    /// The run's key.
    pub key: Option<String>,
    /// The place in the inbox of the last message that waits unread, if one does.
    pub messages_waiting: Option<u64>,
    /// The version the run executes.
    pub version: VersionId,
    /// Its definition.
    pub def: Arc<WorkflowDef>,
    /// The run's priority.
    pub priority: u8,
    /// What is noted about the run.
    pub metadata: Option<Bytes>,
    /// The task that asked for the run.
    pub child_of: Option<ChildOf>,
    /// The event that started the run.
    pub event: Option<EventRef>,
    /// What the verdict on the task was founded on.
    pub grounds: Option<PayloadRef>,
    /// What became of the task's parents, in the order of its definition: index, and output unless it was skipped.
    pub parents: Vec<(u16, Option<PayloadRef>)>,
    /// For a task that runs because others failed: which, and why.
    pub errors: Vec<(u16, String)>,
    /// When the task was first queued, in milliseconds since the Unix epoch.
    pub queued_at: u64,
    /// The superseded runs it follows.
    pub lineage: Lineage,
}

/// The superseded runs a run follows: whose messages it took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The first of the chain; the run itself if it follows none.
    pub group: RunId,
    /// How many were superseded before it.
    pub superseded_before: u32,
    /// The one right before it.
    pub from: Option<RunId>,
}

/// A step in the life of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskChange {
    /// An attempt was given to a worker.
    Started,
    /// It ended well.
    Completed,
    /// An attempt failed.
    Failed {
        /// Whether another one follows.
        again: bool,
    },
    /// It ended by request, or because a parent did not complete.
    Cancelled,
    /// It was not needed.
    Skipped,
}

/// Something to be done after durability.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Gives a task to a worker. Repeated only under the same attempt and invocation.
    Dispatch(Box<Dispatch>),
    /// Asks for a verdict on a task. Asked again after a restart.
    Judge {
        /// Whose.
        tenant: TenantId,
        /// Which task.
        task: TaskId,
    },
    /// Something happened to a task, for those who watch its run. *Hint.*
    TaskChanged {
        /// Whose.
        tenant: TenantId,
        /// Which.
        task: TaskId,
        /// The attempt it concerns, 0 if there was none.
        attempt: u32,
        /// What happened.
        change: TaskChange,
    },
    /// Tells a worker to stop an attempt. Whatever it still says about it is refused. *Hint.*
    CancelAttempt {
        /// Whose.
        tenant: TenantId,
        /// To whom.
        worker: WorkerId,
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
    },
    /// A pending journal entry of a task that is with a worker is complete. Also in the journal.
    EntryDone {
        /// Whose.
        tenant: TenantId,
        /// To whom.
        worker: WorkerId,
        /// Which task.
        task: TaskId,
        /// For which hand-over.
        invocation: u32,
        /// Which entry.
        position: u32,
        /// What came of it.
        completion: Completion,
    },
    /// A message waits in the inbox of a task that is with a worker. *Hint.*
    MessageWaits {
        /// Whose.
        tenant: TenantId,
        /// To whom.
        worker: WorkerId,
        /// Which task.
        task: TaskId,
        /// The message's place in the inbox, to tell a late hint about a message received meanwhile from a new one.
        seq: u64,
    },
    /// Something happened, for those who listen. *Hint*: the event itself is in the tables.
    Event {
        /// Whose.
        tenant: TenantId,
        /// Its sequence number.
        seq: u64,
        /// The event.
        event: EventRow,
    },
    /// A run has ended. *Hint.*
    RunEnded {
        /// Whose.
        tenant: TenantId,
        /// Which.
        run: RunId,
        /// How.
        state: RunState,
    },
    /// There may be something new for those who read a stream. *Hint.*
    StreamStirred {
        /// Whose.
        tenant: TenantId,
        /// Which.
        stream: String,
    },
    /// A token was revoked: caches forget it. *Hint.*
    TokenRevoked {
        /// Whose.
        tenant: TenantId,
        /// Which.
        token: crate::id::TokenId,
    },
}
