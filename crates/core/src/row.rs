//! The rows: what is written to the log and kept in the tables.
//!
//! A row is a version byte followed by its postcard encoding. Postcard is positional, so a changed struct is a new
//! version with its own struct; the old one stays here to be read. `tests/golden.rs` pins the bytes.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{MessageId, Ms, PayloadId, RunId, TaskId, VersionId, WorkerId};
use crate::journal::{Completion, EntryKind, Pending};
use crate::workflow::WorkflowDef;

/// The version written by this release.
pub const ROW_VERSION: u8 = 1;

/// A stored row that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// Written by a newer release.
    #[error(
        "the row has version {found}, this release reads up to {ROW_VERSION}: run the release that wrote it, or a newer one"
    )]
    Newer {
        /// The version byte found.
        found: u8,
    },
    /// Not a row at all.
    #[error("the row's bytes do not decode: the store is damaged, restore it from a backup")]
    Undecodable,
}

/// Encodes a row: version byte, then postcard.
pub fn encode<T: Serialize>(row: &T, into: &mut Vec<u8>) {
    into.push(ROW_VERSION);
    let bytes = core::mem::take(into);
    // Extending a vector has no failure of its own, and rows hold nothing that refuses to be serialised.
    match postcard::to_extend(row, bytes) {
        Ok(filled) => *into = filled,
        Err(error) => unreachable!("a row is plain data and always encodes: {error}"),
    }
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// [`BadRow::Newer`] for a row of a later release, [`BadRow::Undecodable`] for damage.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadRow> {
    match bytes.split_first() {
        Some((&ROW_VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((row, [])) => Ok(row),
            Ok(_) | Err(_) => Err(BadRow::Undecodable),
        },
        Some((&found, _)) if found > ROW_VERSION => Err(BadRow::Newer { found }),
        _ => Err(BadRow::Undecodable),
    }
}

/// Where a stored payload is found, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadRef {
    /// The key of the payload row.
    pub id: PayloadId,
    /// Its length in bytes.
    pub bytes: u32,
}

/// Per partition: what must never run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MetaRow {
    /// The latest time decided with.
    pub now: Ms,
    /// The sequence number of the last event.
    pub event_seq: u64,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Its name, for people.
    pub name: String,
    /// When it was created.
    pub created_at: Ms,
}

/// One version of a workflow and whether new runs use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowRow {
    /// The definition.
    pub def: WorkflowDef,
    /// Whether new runs use this version.
    pub current: bool,
    /// When it was first registered.
    pub created_at: Ms,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RunState {
    /// Waits behind its key.
    Queued,
    /// Its tasks are waiting, running or suspended.
    Running,
    /// Ended well.
    Completed,
    /// Ended by an error.
    Failed,
    /// Ended by request.
    Cancelled,
    /// Ended without consuming its messages: its successor has them all.
    Superseded,
    /// Not ended, but nothing moves it except a person: its journal does not fit its code, or worker after worker went
    /// away while it had it.
    Parked,
}

impl RunState {
    /// Whether the run has ended: it will never change again.
    pub fn ended(self) -> bool {
        match self {
            RunState::Completed | RunState::Failed | RunState::Cancelled | RunState::Superseded => true,
            RunState::Queued | RunState::Running | RunState::Parked => false,
        }
    }

    /// The word used in APIs and tables.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Running => "running",
            RunState::Completed => "completed",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
            RunState::Superseded => "superseded",
            RunState::Parked => "parked",
        }
    }
}

/// What happens to a child when its parent ends without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnParentEnd {
    /// The child is cancelled.
    Cancel,
    /// The child goes on.
    Abandon,
}

/// Who spawned a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The spawning task.
    pub task: TaskId,
    /// The journal position that spawned it.
    pub position: u32,
    /// What happens when the parent ends first.
    pub on_end: OnParentEnd,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// The workflow's name.
    pub workflow: String,
    /// The version this run executes, to its end.
    pub version: VersionId,
    /// How it stands.
    pub state: RunState,
    /// What serialises it, if anything.
    pub key: Option<String>,
    /// Higher goes first.
    pub priority: u8,
    /// What it was started with. Runs started by messages have none.
    pub input: Option<PayloadRef>,
    /// What it ended with.
    pub output: Option<PayloadRef>,
    /// Why it failed, was cancelled, superseded or parked.
    pub error: Option<String>,
    /// Who spawned it.
    pub parent: Option<Parent>,
    /// The run whose messages this one took over, or which it follows for one key.
    pub superseded_from: Option<RunId>,
    /// The run that took over this one's messages.
    pub superseded_by: Option<RunId>,
    /// When it was asked for.
    pub created_at: Ms,
    /// When its key let it in.
    pub started_at: Option<Ms>,
    /// When it ended.
    pub finished_at: Option<Ms>,
    /// How many tasks it has.
    pub tasks: u16,
    /// How many messages it received (inbox workflows).
    pub messages: u32,
}

/// How a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Waits for its parents.
    Blocked,
    /// Waits for a worker.
    Queued {
        /// Since when.
        since: Ms,
    },
    /// Is with a worker.
    Running {
        /// Which worker.
        worker: WorkerId,
        /// Whether that worker lives in this very process, so that a restart certainly ended it.
        local: bool,
        /// Since when.
        since: Ms,
        /// When the attempt times out.
        deadline: Option<Ms>,
    },
    /// Its function left memory and waits for one of its pending journal entries.
    Suspended {
        /// Since when.
        since: Ms,
    },
    /// A failed or lost attempt waits to be tried again.
    Backoff {
        /// Until when.
        until: Ms,
    },
    /// Waits for a person.
    Parked,
    /// Ended well.
    Completed,
    /// Ended by an error.
    Failed,
    /// Ended by request, or because a parent did not complete.
    Cancelled,
}

impl TaskState {
    /// Whether the task has ended.
    pub fn ended(&self) -> bool {
        match self {
            TaskState::Completed | TaskState::Failed | TaskState::Cancelled => true,
            TaskState::Blocked
            | TaskState::Queued { .. }
            | TaskState::Running { .. }
            | TaskState::Suspended { .. }
            | TaskState::Backoff { .. }
            | TaskState::Parked => false,
        }
    }

    /// The word used in APIs and tables.
    pub fn word(&self) -> &'static str {
        match self {
            TaskState::Blocked => "blocked",
            TaskState::Queued { .. } => "queued",
            TaskState::Running { .. } => "running",
            TaskState::Suspended { .. } => "suspended",
            TaskState::Backoff { .. } => "backoff",
            TaskState::Parked => "parked",
            TaskState::Completed => "completed",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
        }
    }
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// How it stands.
    pub state: TaskState,
    /// The current or last attempt, counted from 1. 0 before the first.
    pub attempt: u32,
    /// Times a worker was given this task, over all attempts.
    pub invocation: u32,
    /// Attempts that failed by the task's own fault.
    pub failures: u32,
    /// Times in a row the worker was lost without progress.
    pub losses: u32,
    /// Entries in its journal.
    pub journal_len: u32,
    /// Journal entries not complete yet.
    pub pending: BTreeMap<u32, Pending>,
    /// Signals sent to it and not taken yet: name and payload.
    pub signals: VecDeque<(String, PayloadRef)>,
    /// What it ended with.
    pub output: Option<PayloadRef>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When it was first queued.
    pub queued_at: Option<Ms>,
    /// When its last attempt began.
    pub started_at: Option<Ms>,
    /// When it ended.
    pub finished_at: Option<Ms>,
}

/// One journal entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalRow {
    /// What was asked.
    pub kind: EntryKind,
    /// The name it was asked under.
    pub label: String,
    /// A hash of what was asked, to notice code that asks something else on replay.
    pub fingerprint: u64,
    /// When it was asked.
    pub requested_at: Ms,
    /// What came of it, and when.
    pub done: Option<(Ms, Completion)>,
}

/// How a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageState {
    /// In the inbox, not given to a run yet.
    Unread,
    /// Given to the live run, which may still be superseded.
    Received {
        /// By which run.
        run: RunId,
    },
    /// Consumed: the run that received it has ended.
    Done {
        /// By which run.
        run: RunId,
    },
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRow {
    /// The workflow whose inbox it is in.
    pub workflow: String,
    /// The key whose inbox it is in.
    pub key: String,
    /// Its place in the inbox's order.
    pub seq: u64,
    /// What it says.
    pub payload: PayloadRef,
    /// When it was accepted.
    pub accepted_at: Ms,
    /// How it stands.
    pub state: MessageState,
}

/// An inbox with a live run. An inbox without one has no row: nothing about it needs remembering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRow {
    /// The run messages are offered to.
    pub live: RunId,
    /// Whether that run has declared it takes no more.
    pub closed: bool,
    /// The id already promised to the run that will follow.
    pub successor: Option<RunId>,
    /// The place the next message gets.
    pub next_seq: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// Its name.
    pub name: String,
    /// What it concerns, if anything narrower than the tenant.
    pub scope: Option<String>,
    /// When it happened.
    pub at: Ms,
    /// The run that emitted it.
    pub run: Option<RunId>,
    /// Its data, JSON by convention.
    pub data: Bytes,
}

/// An idempotency key and what it guards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRow {
    /// A hash of the request's body: another body under the same key is refused.
    pub body: u64,
    /// The message accepted under the key, if it was a message.
    pub message: Option<MessageId>,
    /// The run started by or offered the work.
    pub run: RunId,
    /// When the key is forgotten.
    pub expires_at: Ms,
}

/// An API token. Its secret part is a signature and is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// What it is for, for people.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Ms,
    /// When it ends by itself.
    pub expires_at: Ms,
    /// When it was revoked.
    pub revoked_at: Option<Ms>,
}

/// The key of a row: the tenant first, so that nothing is ever read across tenants, then what orders it in time.
pub mod key {
    use alloc::vec::Vec;

    use crate::id::{MessageId, PayloadId, RunId, TaskId, TenantId, TokenId, VersionId};

    fn join(tenant: TenantId, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = Vec::with_capacity(40);
        key.extend_from_slice(&tenant.to_bytes());
        for part in parts {
            key.extend_from_slice(part);
        }
        key
    }

    /// Of a tenant.
    pub fn tenant(tenant: TenantId) -> Vec<u8> {
        join(tenant, &[])
    }
    /// Of a workflow version.
    pub fn workflow(tenant: TenantId, version: VersionId) -> Vec<u8> {
        join(tenant, &[&version.to_bytes()])
    }
    /// Of a run.
    pub fn run(tenant: TenantId, run: RunId) -> Vec<u8> {
        join(tenant, &[&run.to_bytes()])
    }
    /// Of a task.
    pub fn task(tenant: TenantId, task: TaskId) -> Vec<u8> {
        join(tenant, &[&task.run.to_bytes(), &task.index.to_be_bytes()])
    }
    /// Of a journal entry.
    pub fn journal(tenant: TenantId, task: TaskId, position: u32) -> Vec<u8> {
        join(tenant, &[&task.run.to_bytes(), &task.index.to_be_bytes(), &position.to_be_bytes()])
    }
    /// Of a message.
    pub fn message(tenant: TenantId, message: MessageId) -> Vec<u8> {
        join(tenant, &[&message.to_bytes()])
    }
    /// Of an inbox.
    pub fn inbox(tenant: TenantId, workflow: &str, key: &str) -> Vec<u8> {
        join(tenant, &[&(workflow.len() as u16).to_be_bytes(), workflow.as_bytes(), key.as_bytes()])
    }
    /// Of an event. Events of one scope lie together, in order, so that one range is one session's history.
    pub fn event(tenant: TenantId, scope: Option<&str>, seq: u64) -> Vec<u8> {
        join(tenant, &[&scope_hash(scope).to_be_bytes(), &seq.to_be_bytes()])
    }
    /// The part of an event's key that stands for its scope; 0 for events that have none.
    pub fn scope_hash(scope: Option<&str>) -> u64 {
        scope.map_or(0, |scope| crate::id::fingerprint([scope.as_bytes()]).max(1))
    }
    /// Of an idempotency key.
    pub fn idempotency(tenant: TenantId, key: &str) -> Vec<u8> {
        join(tenant, &[key.as_bytes()])
    }
    /// Of a token.
    pub fn token(tenant: TenantId, token: TokenId) -> Vec<u8> {
        join(tenant, &[&token.to_bytes()])
    }
    /// Of a payload.
    pub fn payload(tenant: TenantId, payload: PayloadId) -> Vec<u8> {
        join(tenant, &[&payload.to_bytes()])
    }

    /// The tenant a key belongs to. `None` for keys too short to be a tenant's.
    pub fn tenant_of(key: &[u8]) -> Option<TenantId> {
        Some(TenantId(u128::from_be_bytes(key.get(..16)?.try_into().ok()?)))
    }
    /// The second 16 bytes of a key, as a number.
    pub fn second(key: &[u8]) -> Option<u128> {
        Some(u128::from_be_bytes(key.get(16..32)?.try_into().ok()?))
    }
    /// The task of a task's or journal entry's key.
    pub fn task_of(key: &[u8]) -> Option<TaskId> {
        let index = u16::from_be_bytes(key.get(32..34)?.try_into().ok()?);
        Some(TaskId { run: RunId(second(key)?), index })
    }
    /// The position of a journal entry's key.
    pub fn position_of(key: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(key.get(34..38)?.try_into().ok()?))
    }
    /// The sequence number of an event's key.
    pub fn event_seq_of(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.get(24..32)?.try_into().ok()?))
    }
    /// Workflow and key of an inbox's key.
    pub fn inbox_of(key: &[u8]) -> Option<(&str, &str)> {
        let length = usize::from(u16::from_be_bytes(key.get(16..18)?.try_into().ok()?));
        let workflow = core::str::from_utf8(key.get(18..18 + length)?).ok()?;
        Some((workflow, core::str::from_utf8(key.get(18 + length..)?).ok()?))
    }
    /// The text of an idempotency key's key.
    pub fn idempotency_of(key: &[u8]) -> Option<&str> {
        core::str::from_utf8(key.get(16..)?).ok()
    }
}
