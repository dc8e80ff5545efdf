//! The closed list of what the world must do once a decision is durable.
//!
//! Effects may be repeated after a crash; every receiver can recognise a repeat by the ids in it. Those marked *hint*
//! may be lost: whoever misses one finds the same work by asking.

use alloc::string::String;

use crate::id::{RunId, TaskId, TenantId, WorkerId};
use crate::journal::Completion;
use crate::row::{EventRow, PayloadRef, RunState};

/// Something to be done after durability.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Gives a task to a worker. Repeated only under the same attempt and invocation.
    Dispatch {
        /// Whose.
        tenant: TenantId,
        /// To whom.
        worker: WorkerId,
        /// Which task.
        task: TaskId,
        /// What the worker must run.
        action: String,
        /// The attempt, counted from 1.
        attempt: u32,
        /// The hand-over, counted from 1.
        invocation: u32,
        /// The run's input.
        input: Option<PayloadRef>,
        /// Journal entries to replay.
        journal_len: u32,
        /// The run's key.
        key: Option<String>,
        /// The place in the inbox of the last message that waits unread, if one does.
        messages_waiting: Option<u64>,
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
    /// A token was revoked: caches forget it. *Hint.*
    TokenRevoked {
        /// Whose.
        tenant: TenantId,
        /// Which.
        token: crate::id::TokenId,
    },
}
