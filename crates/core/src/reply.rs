//! What is answered: replies, and refusals that say what to change.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::id::{MessageId, Ms, RunId, VersionId, WorkerId};
use crate::journal::Completion;
use crate::stream::{Place, StreamReply};
use crate::workflow::BadDefinition;

/// An answer to a command. It is given once what it says is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It is so.
    Done,
    /// A workflow version is registered.
    Registered {
        /// Its id.
        version: VersionId,
        /// Whether it is new.
        created: bool,
    },
    /// A run was started, now or by an earlier delivery of the same request.
    Started {
        /// The run.
        run: RunId,
        /// Whether it was an earlier delivery.
        duplicate: bool,
    },
    /// Runs were started, in the order they were asked for, each now or by an earlier request.
    StartedAll {
        /// The runs.
        runs: Vec<RunId>,
    },
    /// An attempt has until then.
    Until(Ms),
    /// A message was accepted, now or by an earlier delivery of the same request.
    Accepted {
        /// The message.
        message: MessageId,
        /// The run it is offered to.
        run: RunId,
        /// Whether it was an earlier delivery.
        duplicate: bool,
    },
    /// An event was recorded.
    Emitted {
        /// Its sequence number.
        seq: u64,
        /// When it happened, for the core.
        at: Ms,
    },
    /// A journal entry is complete.
    EntryDone(Completion),
    /// A journal entry waits. Its completion comes as an effect.
    EntryPending {
        /// The child, if the entry spawned one.
        child: Option<RunId>,
    },
    /// The task may leave memory.
    Suspended,
    /// Something is complete already: stay.
    StayAwake,
    /// A document was written.
    Written {
        /// The version it has now.
        version: u64,
    },
    /// How things stand for whoever works on behalf of a step.
    Standing {
        /// Messages of the session that its run has not received.
        unread: u64,
        /// Whether they can't become part of it any more.
        committed: bool,
    },
    /// Whether the right to act for a step was ended.
    Interrupted(bool),
    /// Why a run waits. `None` when it does not, or has ended.
    Waiting {
        /// The reason, since when, and who holds what it waits for.
        reason: Option<String>,
        /// Since when.
        since: Option<Ms>,
    },
    /// How an inbox stands. `None` when no run is live for its key, and so nothing waits.
    Inbox(Option<InboxView>),
    /// The runs of a key that have not ended, oldest first.
    OfKey(Vec<RunId>),
    /// How the workers stand.
    Workers(Vec<WorkerView>),
    /// What a stream answers.
    Stream(StreamReply),
    /// What is live.
    Counts(Counts),
}

/// An inbox with a live run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxView {
    /// The live run.
    pub live: RunId,
    /// Whether it takes no more messages.
    pub closed: bool,
    /// The run that will follow, if it is promised already.
    pub successor: Option<RunId>,
    /// Messages no run has received yet.
    pub unread: u64,
    /// Messages the live run has received.
    pub received: u64,
}

/// A worker as it stands now. What is remembered of it beyond that is in its row, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Which one.
    pub worker: WorkerId,
    /// Whether it can be given something.
    pub connected: bool,
    /// Since when nothing connects it. `None` for one that is connected.
    pub away_since: Option<Ms>,
    /// When it was last heard of. `None` for one that is not connected, or whose silence is not measured.
    pub heard_at: Option<Ms>,
    /// Units taken of its slots, by kind.
    pub taken: BTreeMap<String, u32>,
}

/// What is live in one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Runs that have not ended.
    pub runs_live: u64,
    /// Of these, waiting behind a key.
    pub runs_queued: u64,
    /// Of these, parked.
    pub runs_parked: u64,
    /// Tasks waiting for a worker.
    pub tasks_queued: u64,
    /// Tasks with a worker.
    pub tasks_running: u64,
    /// Durable tasks waiting outside memory.
    pub tasks_suspended: u64,
    /// Messages in inboxes, unread.
    pub messages_unread: u64,
    /// Connected workers.
    pub workers: u64,
}

impl core::ops::Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        Counts {
            runs_live: self.runs_live + other.runs_live,
            runs_queued: self.runs_queued + other.runs_queued,
            runs_parked: self.runs_parked + other.runs_parked,
            tasks_queued: self.tasks_queued + other.tasks_queued,
            tasks_running: self.tasks_running + other.tasks_running,
            tasks_suspended: self.tasks_suspended + other.tasks_suspended,
            messages_unread: self.messages_unread + other.messages_unread,
            workers: self.workers + other.workers,
        }
    }
}

/// A refusal. Nothing was recorded. Each says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such tenant.
    #[error("the tenant does not exist: create it first, or use a token of one that does")]
    NoTenant,
    /// No such workflow.
    #[error("no workflow named {name:?} is registered: register it, or check the spelling")]
    NoWorkflow {
        /// The name asked for.
        name: String,
    },
    /// No such run.
    #[error("no run {run} in this tenant")]
    NoRun {
        /// The run asked for.
        run: RunId,
    },
    /// No such task.
    #[error("no task {task} in this tenant")]
    NoTask {
        /// The task asked for.
        task: crate::id::TaskId,
    },
    /// The task is not with a worker, or has no timeout.
    #[error("task {task} is not with a worker, or has no timeout: there is nothing to extend or to give back")]
    NotRunning {
        /// The task asked for.
        task: crate::id::TaskId,
    },
    /// The run has not ended.
    #[error("run {run} has not ended: wait for its end, or cancel it, before it is run again")]
    NotEnded {
        /// The run asked for.
        run: RunId,
    },
    /// The run is of a kind that is not run again.
    #[error("run {run} can't be run again: {why}")]
    NotReplayable {
        /// The run asked for.
        run: RunId,
        /// Why.
        why: &'static str,
    },
    /// The worker is known, but nothing connects it.
    #[error("the worker is not connected: open its stream again")]
    WorkerNotConnected,
    /// The run has ended.
    #[error("run {run} has ended and takes nothing more")]
    RunEnded {
        /// The run asked for.
        run: RunId,
    },
    /// The run is not parked.
    #[error("run {run} is not parked: there is nothing to resume")]
    NotParked {
        /// The run asked for.
        run: RunId,
    },
    /// No such worker.
    #[error("the worker is not registered: register it first")]
    NoWorker,
    /// No such token.
    #[error("no such token in this tenant")]
    NoToken,
    /// The claim is not the current one.
    #[error(
        "attempt {attempt} of task {task} was given up or has ended: stop working on it, nothing it says is recorded"
    )]
    StaleClaim {
        /// The task.
        task: crate::id::TaskId,
        /// The attempt that claimed.
        attempt: u32,
    },
    /// The step on whose behalf something is asked is over.
    #[error(
        "this attempt at turn {run} is over (superseded, interrupted, begun again or ended): stop working on it, \
         nothing it asks for is done"
    )]
    StaleFence {
        /// The turn's run.
        run: RunId,
    },
    /// What was done for a run can't be taken back any more, and so neither can its messages.
    #[error("run {run} is past its commit point: it can end, and is not superseded any more")]
    Committed {
        /// The run.
        run: RunId,
    },
    /// A message waits that should be looked at first.
    #[error("a message waits for turn {run}: decide what it changes, then ask again")]
    MessageWaits {
        /// The turn's run.
        run: RunId,
    },
    /// A document is not what it was taken to be.
    #[error("{kind} {name:?} has version {found}, not {expected}: read it again and decide anew")]
    VersionConflict {
        /// The document's kind.
        kind: String,
        /// Its name.
        name: String,
        /// The version it has, 0 if there is none.
        found: u64,
        /// The version that was expected.
        expected: u64,
    },
    /// A rate limit is used up.
    #[error("the limit of {limit} in {window_ms} ms for {name:?} is used up: try again in {retry_after_ms} ms")]
    TooFast {
        /// Which limit.
        name: String,
        /// How much there is in a window.
        limit: u32,
        /// The window.
        window_ms: u64,
        /// When the next begins.
        retry_after_ms: u64,
    },
    /// As many are live as may be.
    #[error("{max} turns of {group:?} are live, which is the limit: try again when some have ended")]
    Crowded {
        /// Which group of sessions.
        group: String,
        /// The limit.
        max: u32,
    },
    /// A definition is wrong.
    #[error("the workflow definition is not usable: {0}")]
    BadDefinition(#[from] BadDefinition),
    /// The workflow uses something this release can't carry out.
    #[error("workflow {name:?} can't be run: {what} is registered but not executed yet by this version of Mainspring")]
    NotYet {
        /// The workflow.
        name: String,
        /// What it uses.
        what: String,
    },
    /// An inbox workflow is started by messages.
    #[error("workflow {name:?} is started by messages: send one to its inbox instead")]
    StartedByMessages {
        /// The workflow.
        name: String,
    },
    /// A workflow without an inbox can't take messages.
    #[error("workflow {name:?} has no inbox: start a run instead")]
    NoInbox {
        /// The workflow.
        name: String,
    },
    /// A workflow with a key rule needs a key.
    #[error("workflow {name:?} serialises its runs: give a key")]
    KeyMissing {
        /// The workflow.
        name: String,
    },
    /// The same idempotency key with another body.
    #[error("idempotency key {key:?} was used for a different request: use a new key for a new request")]
    IdempotencyConflict {
        /// The key.
        key: String,
    },
    /// No such stream.
    #[error("there is no stream {name:?}: publish to it, or create it, or check the spelling")]
    NoStream {
        /// The name asked for.
        name: String,
    },
    /// No such group of a stream.
    #[error("stream {stream:?} has no group {group:?}: take from it first, which creates the group")]
    NoStreamGroup {
        /// The stream.
        stream: String,
        /// The group asked for.
        group: String,
    },
    /// An entry that was never published.
    #[error("stream {stream:?} has no entry {place}: acknowledge what was handed out")]
    NoEntry {
        /// The stream.
        stream: String,
        /// The place asked for.
        place: Place,
    },
    /// So much waits in a stream that no more is taken.
    #[error(
        "stream {stream:?} is full: {waiting} {unit} wait for group {group:?}, {max} may: let its consumers catch up, \
         add some, raise the limit, or drop the group if nobody reads for it"
    )]
    StreamFull {
        /// The stream.
        stream: String,
        /// The group that is furthest behind.
        group: String,
        /// How many wait for it.
        waiting: u64,
        /// The limit.
        max: u64,
        /// Of what: entries or bytes.
        unit: &'static str,
    },
    /// Something is longer than allowed.
    #[error("{what} has {found} bytes, at most {max} are allowed")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// Something is empty that must not be.
    #[error("{what} is empty")]
    Empty {
        /// What it is.
        what: &'static str,
    },
    /// A limit on how many there may be.
    #[error("{what}: the limit of {max} is reached; {action}")]
    Full {
        /// What is full.
        what: &'static str,
        /// The limit.
        max: usize,
        /// What helps.
        action: &'static str,
    },
    /// The journal holds something else at this position.
    #[error("journal position {position}: the code asks for {found}, the journal holds {expected}")]
    JournalMismatch {
        /// The position.
        position: u32,
        /// What the journal holds.
        expected: String,
        /// What the code asked.
        found: String,
    },
    /// A journal entry was asked for out of order.
    #[error("journal position {position} was asked for, the next is {next}: send entries in order")]
    JournalGap {
        /// The position asked for.
        position: u32,
        /// The next free position.
        next: u32,
    },
    /// A journal entry came before another in one command, and is of a kind that is answered.
    #[error("{entry} can't go before another journal entry in one command: send it last, or by itself")]
    NotBefore {
        /// What was asked.
        entry: String,
    },
    /// A journal request on a task that has none.
    #[error("task {task} is not durable: it has no journal")]
    NotDurable {
        /// The task.
        task: crate::id::TaskId,
    },
}

impl Refusal {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NoTenant => "tenant_unknown",
            Refusal::NoWorkflow { .. } => "workflow_unknown",
            Refusal::NoRun { .. } => "run_unknown",
            Refusal::NoTask { .. } => "task_unknown",
            Refusal::NotRunning { .. } => "task_not_running",
            Refusal::NotEnded { .. } => "run_not_ended",
            Refusal::NotReplayable { .. } => "run_not_replayable",
            Refusal::WorkerNotConnected => "worker_not_connected",
            Refusal::RunEnded { .. } => "run_ended",
            Refusal::NotParked { .. } => "run_not_parked",
            Refusal::NoWorker => "worker_unknown",
            Refusal::NoToken => "token_unknown",
            Refusal::StaleClaim { .. } => "claim_stale",
            Refusal::StaleFence { .. } => "turn_attempt_over",
            Refusal::Committed { .. } => "past_commit_point",
            Refusal::MessageWaits { .. } => "message_waits",
            Refusal::VersionConflict { .. } => "version_conflict",
            Refusal::TooFast { .. } => "rate_limited",
            Refusal::Crowded { .. } => "too_many_turns",
            Refusal::BadDefinition(_) => "definition_invalid",
            Refusal::NotYet { .. } => "not_executed_yet",
            Refusal::StartedByMessages { .. } => "started_by_messages",
            Refusal::NoInbox { .. } => "inbox_missing",
            Refusal::KeyMissing { .. } => "key_missing",
            Refusal::IdempotencyConflict { .. } => "idempotency_conflict",
            Refusal::NoStream { .. } => "stream_unknown",
            Refusal::NoStreamGroup { .. } => "stream_group_unknown",
            Refusal::NoEntry { .. } => "entry_unknown",
            Refusal::StreamFull { .. } => "stream_full",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Empty { .. } => "empty",
            Refusal::Full { .. } => "limit_reached",
            Refusal::JournalMismatch { .. } => "journal_mismatch",
            Refusal::JournalGap { .. } => "journal_gap",
            Refusal::NotBefore { .. } => "entry_needs_answer",
            Refusal::NotDurable { .. } => "not_durable",
        }
    }
}
