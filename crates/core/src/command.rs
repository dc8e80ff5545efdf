//! The closed list of what may be asked, and of the facts a decision may need that are not resident.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::document::{DocumentKey, Guard, PutDocument};
use crate::fence::Fence;
use crate::id::{RunId, TaskId, TokenId, WorkerId};
use crate::journal::Request;
use crate::judge::Verdict;
use crate::place::LabelValue;
use crate::rate::RateUse;
use crate::row::{ChildOf, ChildRow, DocumentRow, JournalRow, LogRow, RunRow, RunWishes, StreamEntryIdRow, TaskRow};
use crate::stream::StreamAsk;
use crate::workflow::WorkflowDef;

/// A worker's claim on one attempt. A claim that is not the current one is refused, whatever it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Who claims. `None` for wires whose workers do not always say: whoever has it, as the attempt tells.
    pub worker: Option<WorkerId>,
    /// Which task.
    pub task: TaskId,
    /// Which attempt at it.
    pub attempt: u32,
    /// Which hand-over of the task to a worker. `None` for wires that know attempts only: the latest of the attempt.
    pub invocation: Option<u32>,
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

/// Whether a message may come in: what is asked of limits, and what makes a repeat recognisable for long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    /// An id that is the sender's own for the message, and for how many milliseconds it is remembered: the same id again
    /// is the same message, whatever it says.
    pub once: Option<(String, u64)>,
    /// What it takes from rate limits. Short ones refuse it.
    pub rates: Vec<RateUse>,
    /// Groups its inbox is counted in while it has a live run, and how many of each there may be.
    pub groups: Vec<(String, u32)>,
    /// Messages that may wait in or be with the live run of its inbox, if fewer than the core's own limit.
    pub messages_max: Option<u32>,
}

/// A run to be started.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Start {
    /// Of which workflow.
    pub workflow: String,
    /// What serialises it, if the workflow has a key rule.
    pub key: Option<String>,
    /// Its input, JSON by convention.
    pub input: Bytes,
    /// Higher goes first. `None` takes the workflow's default.
    pub priority: Option<u8>,
    /// Makes a repeat recognisable.
    pub idempotency: Option<Idempotency>,
    /// What is noted about it: a JSON object by convention.
    pub metadata: Option<Bytes>,
    /// What it wishes of its workers.
    pub wishes: Option<RunWishes>,
    /// The task that asks for it outside its journal. Asked for again under the same name it is the same run.
    pub child_of: Option<ChildOf>,
    /// Its tasks are given to a worker once. A worker that is lost, runs out of time or fails ends them, because whether
    /// they were carried out is not known.
    pub once: bool,
}

/// What is recorded with a run's start, and must hold for it: see [`Command::StartRecorded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The document that stands for the run.
    pub put: PutDocument,
    /// On whose behalf, if on a turn's.
    pub fence: Option<Fence>,
    /// What must hold for that.
    pub guard: Guard,
    /// An event told with it: name, scope, data.
    pub event: Option<(String, Option<String>, Bytes)>,
    /// What it takes from rate limits. Short ones refuse it.
    pub rates: Vec<RateUse>,
}

/// A worker that announces itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewWorker {
    /// Its name, for people.
    pub name: String,
    /// The actions it offers.
    pub actions: BTreeSet<String>,
    /// How much it takes at once, by kind of slot.
    pub slots: BTreeMap<String, u32>,
    /// What is said about it, for tasks that wish for something.
    pub labels: BTreeMap<String, LabelValue>,
    /// What the wire it comes by wants remembered.
    pub about: Bytes,
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
        /// Which.
        start: Start,
    },
    /// Starts several runs in the order given: all of them, or none.
    StartRuns {
        /// Which.
        starts: Vec<Start>,
    },
    /// Starts a run and writes a document that names it as its writer: both, or, if the document is not what it is
    /// expected to be, neither. So what must happen once is started once, for as long as the document is kept.
    StartRecorded {
        /// Which. Neither an idempotency key nor the name of a child goes with it: the document is what makes a repeat
        /// recognisable.
        start: Box<Start>,
        /// What goes with it.
        record: Box<Record>,
    },
    /// Ends a run and its children. One with something to undo is asked to end instead, and ends when that is done.
    /// Repeating it changes nothing.
    CancelRun {
        /// Which run.
        run: RunId,
        /// Why, for whoever looks.
        reason: String,
    },
    /// Ends one task of a run. What depends on it is cancelled too. Repeating it changes nothing.
    CancelTask {
        /// Which task.
        task: TaskId,
        /// Why, for whoever looks.
        reason: String,
    },
    /// Lets a run that has ended run again, with the input it had: whole, or some of its tasks and what depends on them.
    ReplayRun {
        /// Which run.
        run: RunId,
        /// Which tasks. `None` for all.
        tasks: Option<Vec<u16>>,
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
        /// What is asked of limits.
        admission: Box<Admission>,
    },
    /// Tells that something happened: starts the workflows it triggers, completes the waits it satisfies.
    EmitEvent {
        /// Its name.
        name: String,
        /// What it concerns.
        scope: Option<String>,
        /// Its data.
        data: Bytes,
        /// What is noted about it: a JSON object by convention. Runs it starts take it over.
        metadata: Option<Bytes>,
        /// Of the runs it starts. `None` takes their workflows' defaults.
        priority: Option<u8>,
        /// On whose behalf, if on a turn's.
        fence: Option<Fence>,
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
        /// What it is.
        new: NewWorker,
        /// Whether it lives in the engine's own process.
        local: bool,
        /// It is given up when silent for this long. `None` for a worker whose end is noticed by other means.
        lease_ms: Option<u64>,
        /// What it still has in hand. Others it was given are given up.
        holds: Vec<Held>,
    },
    /// Remembers a worker that is reached over a wire, under an id of its own. It is given nothing before it connects.
    EnrolWorker {
        /// Its id. The same id again changes nothing.
        worker: WorkerId,
        /// What it is.
        new: NewWorker,
        /// It is given up when silent for this long.
        lease_ms: u64,
    },
    /// An enrolled worker can be reached. Not recorded.
    ConnectWorker {
        /// Which worker.
        worker: WorkerId,
    },
    /// An enrolled worker can't be reached; it may come back until its lease is over. Not recorded.
    DisconnectWorker {
        /// Which worker.
        worker: WorkerId,
        /// What certainly never reached it.
        undelivered: Vec<Held>,
    },
    /// Changes what is known of an enrolled worker.
    UpdateWorker {
        /// Which worker.
        worker: WorkerId,
        /// Labels to add or replace.
        labels: BTreeMap<String, LabelValue>,
        /// Whether it is given nothing new.
        paused: Option<bool>,
    },
    /// A worker has a task in hand: that it got it is not in doubt after a lost connection.
    Acknowledge {
        /// On whose behalf.
        claim: Claim,
    },
    /// Answers whether a task that is judged runs. Changes nothing once that is settled.
    Judge {
        /// Which task.
        task: TaskId,
        /// The answer.
        verdict: Verdict,
    },
    /// Gives the present attempt at a task more time.
    ExtendTimeout {
        /// Which task.
        task: TaskId,
        /// How much, in milliseconds.
        by_ms: u64,
    },
    /// Lets a running task go on without the slots it took.
    ReleaseSlots {
        /// Which task.
        task: TaskId,
    },
    /// Puts a limit on how much is taken in a time, or changes it.
    PutRate {
        /// Its name.
        name: String,
        /// How much there is in a window.
        limit: u32,
        /// The window, in milliseconds.
        window_ms: u64,
    },
    /// Writes down a line of a task's log.
    PutLog {
        /// Which task.
        task: TaskId,
        /// The line.
        line: LogRow,
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
    /// Adds the next entries to a durable task's journal, or reads those already there: all of it in one decision.
    /// Answered as the last of them.
    Journal {
        /// On whose behalf.
        claim: Claim,
        /// The position of the first of them, counted from 0.
        position: u32,
        /// What is recorded before the last: only what [may go before](Request::may_go_before) another.
        before: Vec<Request>,
        /// What is asked last.
        request: Request,
    },
    /// Lets a waiting durable task leave its worker's memory. Answered `StayAwake` if something came in already.
    Suspend {
        /// On whose behalf.
        claim: Claim,
        /// The journal positions it waits for.
        waiting: Vec<u32>,
    },
    /// Writes a document.
    PutDocument {
        /// What.
        put: PutDocument,
        /// On whose behalf, if on a turn's.
        fence: Option<Fence>,
        /// What must hold for that.
        guard: Guard,
        /// An event told with it: name, scope, data.
        event: Option<(String, Option<String>, Bytes)>,
    },
    /// Writes documents and starts runs, all of it or nothing: how a reader of the log of events moves on and does what
    /// follows from what it read, see [`FEED_POSITION`](crate::FEED_POSITION).
    Advance {
        /// What is written.
        puts: Vec<PutDocument>,
        /// What is started.
        starts: Vec<Start>,
    },
    /// Asks how things stand for whoever works on behalf of a step. Records nothing.
    LookAtFence {
        /// On whose behalf.
        fence: Fence,
    },
    /// Takes no more messages for a run: what is done on its behalf can't be taken back any more.
    PassCommitPoint {
        /// On whose behalf.
        fence: Fence,
    },
    /// Ends the right of whoever works on behalf of a task's present step.
    Interrupt {
        /// The task's worker.
        claim: Claim,
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
        /// When the next attempt is due, in milliseconds from now. `None`: as the definition says.
        after_ms: Option<u64>,
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
    /// Asks which runs of a workflow with a key rule hold a key or wait for it. Records nothing.
    LookAtKey {
        /// Of which workflow.
        workflow: String,
        /// Which key.
        key: String,
    },
    /// Asks how the workers stand. Records nothing.
    LookAtWorkers,
    /// Asks something of a stream.
    Stream {
        /// Which.
        name: String,
        /// What.
        ask: StreamAsk,
    },
    /// Asks how all streams stand. Records nothing.
    LookAtStreams,
    /// Counts what is live. Records nothing.
    Count,
}

impl Command {
    /// Bytes of the payload that comes with it: what it weighs while it waits.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Command::StartRun { start } => start.input.len(),
            Command::StartRuns { starts } => starts.iter().map(|start| start.input.len()).sum(),
            Command::StartRecorded { start, record } => {
                let event = record.event.as_ref().map_or(0, |(_, _, data)| data.len());
                start.input.len() + record.put.body.len() + event
            }
            Command::SendMessage { payload, .. }
            | Command::EmitEvent { data: payload, .. }
            | Command::SignalRun { payload, .. }
            | Command::Complete { output: payload, .. } => payload.len(),
            Command::PutDocument { put, event, .. } => {
                put.body.len() + event.as_ref().map_or(0, |(_, _, data)| data.len())
            }
            Command::Advance { puts, starts } => {
                let bodies = puts.iter().map(|put| put.body.len());
                bodies.chain(starts.iter().map(|start| start.input.len())).sum()
            }
            Command::Stream { ask: StreamAsk::Publish(entries), .. } => {
                entries.iter().map(|entry| entry.body.len()).sum()
            }
            Command::Stream { ask: StreamAsk::GiveUp { letters, .. }, .. } => {
                letters.iter().map(|letter| letter.entry.body.len()).sum()
            }
            Command::Journal { before, request, .. } => {
                before.iter().chain([request]).map(Request::payload_bytes).sum()
            }
            Command::PutTenant { .. }
            | Command::PutWorkflow { .. }
            | Command::CancelRun { .. }
            | Command::CancelTask { .. }
            | Command::ReplayRun { .. }
            | Command::ResumeRun { .. }
            | Command::RegisterWorker { .. }
            | Command::EnrolWorker { .. }
            | Command::ConnectWorker { .. }
            | Command::DisconnectWorker { .. }
            | Command::UpdateWorker { .. }
            | Command::Acknowledge { .. }
            | Command::Judge { .. }
            | Command::ExtendTimeout { .. }
            | Command::ReleaseSlots { .. }
            | Command::PutRate { .. }
            | Command::PutLog { .. }
            | Command::HeartbeatWorker { .. }
            | Command::RemoveWorker { .. }
            | Command::Suspend { .. }
            | Command::LookAtFence { .. }
            | Command::PassCommitPoint { .. }
            | Command::Interrupt { .. }
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
            | Command::Count => 0,
        }
    }
}

/// A fact that is not resident and that a decision wants to know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A run that may have ended.
    Run(RunId),
    /// A task of a run that may have ended.
    Task(TaskId),
    /// A journal entry.
    Journal(TaskId, u32),
    /// A run that has ended, with its tasks and the children they asked for.
    Whole(RunId),
    /// A document.
    Document(DocumentKey),
    /// Where the entry with a publisher's id is: the stream's number, and the id.
    StreamEntryId(u32, String),
    /// The oldest entry that is kept in each partition of the stream with this number.
    StreamOldest(u32),
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
    /// A run with its tasks, in order, and the children they asked for, each with the index of the asking task.
    Whole(RunRow, Vec<TaskRow>, Vec<(u16, ChildRow)>),
    /// A document.
    Document(DocumentRow),
    /// Where an entry is.
    StreamEntryId(StreamEntryIdRow),
    /// See [`StreamOldest`].
    StreamOldest(StreamOldest),
    /// There is none.
    Missing,
}

/// The number of the oldest entry of each partition of a stream that ever had any, by generation and partition: of one
/// that has none left, the next.
pub type StreamOldest = Vec<((u32, u16), u64)>;

/// The facts handed in with a command.
pub type Facts = BTreeMap<Need, Fact>;
