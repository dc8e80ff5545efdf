//! The rows: what is written to the log and kept in the tables.
//!
//! A row is a version byte followed by its postcard encoding. Postcard is positional, so a changed struct is a new
//! version with its own struct; the old one stays here to be read. `tests/golden.rs` pins the bytes.

pub mod key;
mod stream;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};

use crate::id::{MessageId, Ms, PayloadId, RunId, TaskId, VersionId, WorkerId};
use crate::journal::{Completion, EntryKind, Pending};
use crate::place::{LabelValue, LabelWish};
use crate::rate::RateUse;
use crate::workflow::{WorkflowDef, older};

pub use stream::{
    DeadLetter, Generation, StreamEntryIdRow, StreamEntryRow, StreamGroupRow, StreamPartRow, StreamProgressRow,
    StreamRow,
};

/// A row of one table, with the version this release writes it in.
pub trait Row: Serialize + DeserializeOwned {
    /// The version byte of rows written now.
    const VERSION: u8 = 1;

    /// Reads what an earlier release wrote. `None` for a version that never was, or bytes that do not decode.
    fn older(_version: u8, _body: &[u8]) -> Option<Self> {
        None
    }
}

/// A stored row that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// Written by a newer release.
    #[error(
        "the row has version {found}, this release reads up to {known}: run the release that wrote it, or a newer one"
    )]
    Newer {
        /// The version byte found.
        found: u8,
        /// The version this release writes.
        known: u8,
    },
    /// Not a row at all.
    #[error("the row's bytes do not decode: the store is damaged, restore it from a backup")]
    Undecodable,
}

/// Encodes a row: version byte, then postcard.
pub fn encode<T: Row>(row: &T, into: &mut Vec<u8>) {
    into.push(T::VERSION);
    let bytes = core::mem::take(into);
    // Extending a vector has no failure of its own, and rows hold nothing that refuses to be serialised.
    match postcard::to_extend(row, bytes) {
        Ok(filled) => *into = filled,
        Err(error) => unreachable!("a row is plain data and always encodes: {error}"),
    }
}

/// Decodes a row of this or an earlier release.
///
/// # Errors
/// [`BadRow::Newer`] for a row of a later release, [`BadRow::Undecodable`] for damage.
pub fn decode<T: Row>(bytes: &[u8]) -> Result<T, BadRow> {
    let (&found, body) = bytes.split_first().ok_or(BadRow::Undecodable)?;
    if found > T::VERSION {
        return Err(BadRow::Newer { found, known: T::VERSION });
    }
    let row = if found == T::VERSION { whole(body) } else { T::older(found, body) };
    row.ok_or(BadRow::Undecodable)
}

/// A value that takes up all of the bytes.
fn whole<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((row, [])) => Some(row),
        Ok(_) | Err(_) => None,
    }
}

/// A row that has since got fields at its end. What says nothing (`None`, nothing in a list, 0, `false`) is one zero
/// byte in postcard, so the older row with that many zeros behind it is the newer row with nothing said in its new
/// fields.
fn grown<T: DeserializeOwned>(body: &[u8], fields: usize) -> Option<T> {
    let mut longer = Vec::with_capacity(body.len() + fields);
    longer.extend_from_slice(body);
    longer.resize(body.len() + fields, 0);
    whole(&longer)
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

impl Row for MetaRow {}
impl Row for TenantRow {}

impl Row for WorkflowRow {
    const VERSION: u8 = 2;

    fn older(version: u8, body: &[u8]) -> Option<Self> {
        /// As release 0.1 wrote it.
        #[derive(Deserialize)]
        struct First {
            def: older::WorkflowDef1,
            current: bool,
            created_at: Ms,
        }
        let first: First = if version == 1 { whole(body)? } else { return None };
        Some(WorkflowRow { def: first.def.into(), current: first.current, created_at: first.created_at })
    }
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

/// The task that asked for a run from outside its journal, and the name it gave the run, so that asking again (after
/// a lost answer, or in the next attempt) finds the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildOf {
    /// The asking task.
    pub task: TaskId,
    /// The name, unique among the children of that task.
    pub name: String,
    /// Its place among them, if the asking task counts. Not what tells it from others.
    pub nth: Option<i32>,
}

/// The event that started a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRef {
    /// Its sequence number.
    pub seq: u64,
    /// When it happened.
    pub at: Ms,
    /// Its name.
    pub name: String,
}

/// What a run wishes of the workers that get its tasks, beside what its definition says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunWishes {
    /// This worker, if the definition is sticky.
    pub worker: Option<WorkerId>,
    /// Labels, by name.
    pub labels: BTreeMap<String, LabelWish>,
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
    /// What whoever started it noted about it: a JSON object by convention, found again in listings.
    pub metadata: Option<Bytes>,
    /// What it wishes of its workers.
    pub wishes: Option<RunWishes>,
    /// The task that asked for it, if it was not that task's journal.
    pub child_of: Option<ChildOf>,
    /// The event that started it.
    pub event: Option<EventRef>,
    /// The first run of the chain of superseded ones that led to this. `None` for a run that took over nothing.
    pub group: Option<RunId>,
    /// How many runs of that chain were superseded before this one.
    pub superseded_before: u32,
    /// Its tasks are given to a worker once: lost, late or failed they are not tried again.
    pub once: bool,
    /// It has begun what may have to be undone: cancelling it asks it to end.
    pub guarded: bool,
    /// Why it was asked to end, if it was.
    pub asked_to_end: Option<String>,
}

impl Row for RunRow {
    const VERSION: u8 = 4;

    fn older(version: u8, body: &[u8]) -> Option<Self> {
        match version {
            1 => grown(body, 9),
            2 => grown(body, 5),
            3 => grown(body, 3),
            _ => None,
        }
    }
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
    /// Waits for a verdict: whether it is to run at all, and what it takes from limits.
    Judged {
        /// Since when.
        since: Ms,
    },
    /// Ended without having run, because it was not needed. Its children take it for completed.
    Skipped,
}

impl TaskState {
    /// Whether the task has ended.
    pub fn ended(&self) -> bool {
        match self {
            TaskState::Completed | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => true,
            TaskState::Blocked
            | TaskState::Judged { .. }
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
            TaskState::Judged { .. } => "judged",
            TaskState::Skipped => "skipped",
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
    /// Journal entries not complete yet. In a stored row only those that are recorded with it: see [`Pending::apart`].
    #[serde(serialize_with = "with_task")]
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
    /// What it takes from limits, beside what its definition says: part of its verdict.
    pub rates: Vec<RateUse>,
    /// What the verdict was founded on, for the task to read.
    pub grounds: Option<PayloadRef>,
    /// The worker it was last given to.
    pub worker: Option<WorkerId>,
    /// The hand-over its worker is known to have received, 0 for none.
    pub acknowledged: u32,
    /// Whether it gave its slots back and runs on without.
    pub slots_released: bool,
    /// The journal position of the step that somebody else works on now.
    pub fence: Option<u32>,
}

impl Row for TaskRow {
    const VERSION: u8 = 3;

    fn older(version: u8, body: &[u8]) -> Option<Self> {
        match version {
            1 => grown(body, 6),
            2 => grown(body, 1),
            _ => None,
        }
    }
}

impl TaskRow {
    /// A task nothing has happened to yet.
    pub fn new() -> Self {
        TaskRow {
            state: TaskState::Blocked,
            attempt: 0,
            invocation: 0,
            failures: 0,
            losses: 0,
            journal_len: 0,
            pending: BTreeMap::new(),
            signals: VecDeque::new(),
            output: None,
            error: None,
            queued_at: None,
            started_at: None,
            finished_at: None,
            rates: Vec::new(),
            grounds: None,
            worker: None,
            acknowledged: 0,
            slots_released: false,
            fence: None,
        }
    }
}

impl TaskRow {
    /// How many of its pending entries are recorded with it.
    pub fn pending_with_it(&self) -> usize {
        self.pending.values().filter(|pending| !pending.apart).count()
    }
}

/// Writes the pending entries that are recorded with their task.
fn with_task<S: serde::Serializer>(pending: &BTreeMap<u32, Pending>, to: S) -> Result<S::Ok, S::Error> {
    let with = || pending.iter().filter(|(_, pending)| !pending.apart);
    let mut map = to.serialize_map(Some(with().count()))?;
    with().try_for_each(|(position, pending)| map.serialize_entry(position, pending))?;
    map.end()
}

impl Default for TaskRow {
    fn default() -> Self {
        TaskRow::new()
    }
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

impl Row for JournalRow {}
impl Row for Pending {}
impl Row for MessageRow {}

impl Row for InboxRow {
    const VERSION: u8 = 2;

    fn older(version: u8, body: &[u8]) -> Option<Self> {
        if version == 1 { grown(body, 1) } else { None }
    }
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
    /// Groups of inboxes it is counted in while it has a live run.
    pub groups: Vec<String>,
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
    /// What whoever told of it noted about it: a JSON object by convention. Runs it starts take it over.
    pub metadata: Option<Bytes>,
}

impl Row for EventRow {
    const VERSION: u8 = 2;

    fn older(version: u8, body: &[u8]) -> Option<Self> {
        if version == 1 { grown(body, 1) } else { None }
    }
}

impl Row for IdempotencyRow {}
impl Row for TokenRow {}

/// A worker that is reached over a wire, as it is remembered while nothing connects it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its name, for people.
    pub name: String,
    /// The actions it offers.
    pub actions: BTreeSet<String>,
    /// How much it takes at once, by kind of slot.
    pub slots: BTreeMap<String, u32>,
    /// What is said about it, for tasks that wish for something.
    pub labels: BTreeMap<String, LabelValue>,
    /// Whether it is given nothing new.
    pub paused: bool,
    /// It is given up when silent for this long.
    pub lease_ms: u64,
    /// When it announced itself.
    pub registered_at: Ms,
    /// What the wire it came by knows of it.
    pub about: Bytes,
}

impl Row for WorkerRow {}

/// A limit on how much is taken in a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRow {
    /// How much there is in one window.
    pub limit: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// How much is left of the present window.
    pub left: u32,
    /// When the present window began.
    pub since: Ms,
    /// Whether it was put there by request. Limits that tasks bring along are forgotten when nobody uses them.
    pub put: bool,
}

impl Row for RateRow {}

/// A run that a task asked for, by the name it gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRow {
    /// The run.
    pub run: RunId,
    /// The name.
    pub name: String,
}

impl Row for ChildRow {}

/// A document, as it stands or as it stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRow {
    /// Counted from 1, by one with each time it is written.
    pub version: u64,
    /// What it says, JSON by convention.
    pub body: Bytes,
    /// When it was written.
    pub updated_at: Ms,
    /// From when on it counts as gone.
    pub expires_at: Option<Ms>,
    /// The run that wrote it.
    pub by: Option<RunId>,
}

impl Row for DocumentRow {}

/// A line a task wrote down for whoever looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// The attempt that wrote it.
    pub attempt: u32,
    /// When, by the task's clock.
    pub at: Ms,
    /// How important it is, in the writer's words.
    pub level: String,
    /// What it says.
    pub message: String,
    /// What else was noted, JSON by convention.
    pub metadata: Bytes,
}

impl Row for LogRow {}

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
