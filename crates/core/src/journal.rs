//! The journal of a durable task: what it asked, in order, and what came of it.
//!
//! An entry is complete at once (a step's result, an emitted event) or pending (a sleep, a wait, a child). Re-run from
//! the top, a function asks the same in the same order and reads the answers back. Complete entries are not resident;
//! pending ones are, because timers, inboxes and children must find them. A few are recorded in the task's row, which is
//! written with them anyway; further ones in rows of their own, or a task that waits for a thousand children would be
//! written with a thousand entries each time one of them ends.

mod entry;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::Facts;
use crate::document::{DocumentKey, PutDocument};
use crate::effect::Effect;
use crate::id::{MessageId, Ms, RunId, TaskId};
use crate::machine::{Consequence, Step};
use crate::rate::RateUse;
use crate::reply::Refusal;
use crate::row::{self, EventRow, JournalRow, OnParentEnd, Parent, PayloadRef, RunState, TaskState};
use crate::run::NewRun;
use crate::timer::TimerKey;
use crate::write::Table;

pub use entry::last_place;

/// How long something is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Without end.
    Forever,
    /// So many milliseconds from now; 0 only looks.
    For(u64),
    /// Until a time; one that has passed only looks.
    Until(Ms),
}

/// What a durable function may ask of its journal.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Records the result of a step the function has carried out.
    Run {
        /// The step's name.
        name: String,
        /// What came of it.
        result: Result<Bytes, String>,
        /// How long it took, by the worker's clock, so that the entry shows when it began.
        took_ms: u64,
    },
    /// Waits for a while.
    Sleep {
        /// How long.
        duration_ms: u64,
    },
    /// Takes messages from the run's inbox, waiting if there is none.
    Receive {
        /// How long to wait at most.
        wait: Wait,
        /// How many to take at most, at least 1.
        messages_max: u32,
        /// Whether, when nothing came in time, the inbox closes for this run in the same decision.
        close_on_timeout: bool,
    },
    /// Asks whether a message waits, without taking it. True stays true until it is received.
    Peek,
    /// Declares that this run takes no more messages. They go to its successor.
    Close {
        /// Close even if unread messages wait; otherwise they win and the inbox stays open.
        force: bool,
    },
    /// Waits for an event.
    WaitEvent {
        /// Its name.
        name: String,
        /// Its scope. `None` takes events of any scope.
        scope: Option<String>,
        /// How long to wait at most.
        timeout_ms: Option<u64>,
    },
    /// Waits for a signal, or takes one that came already.
    WaitSignal {
        /// Its name.
        name: String,
        /// How long to wait at most.
        timeout_ms: Option<u64>,
    },
    /// Starts a child run.
    Spawn {
        /// Of which workflow.
        workflow: String,
        /// What serialises it.
        key: Option<String>,
        /// Its input.
        input: Bytes,
        /// Higher goes first.
        priority: Option<u8>,
        /// Complete at once with the child's id, rather than with the child's end.
        detached: bool,
        /// What happens to it when this run ends first.
        on_parent_end: OnParentEnd,
    },
    /// Sends a signal to another run of the tenant.
    Signal {
        /// Which run.
        run: RunId,
        /// The signal's name.
        name: String,
        /// With what.
        payload: Bytes,
    },
    /// Tells that something happened.
    Emit {
        /// Its name.
        name: String,
        /// What it concerns. `None` takes the run's key.
        scope: Option<String>,
        /// Its data.
        data: Bytes,
    },
    /// Begins a step that somebody outside works on. Its place is the fence of whoever does.
    Begin {
        /// The step's name.
        name: String,
        /// What it does may have to be undone: from here on the run is asked to end rather than ended. If it was asked
        /// already, this is not begun, and completes as cancelled.
        guarded: bool,
    },
    /// Takes from a rate limit. Completes as `true` once taken; if it is short, it waits until the window is over, and
    /// completes as a sleep does: then ask again. If it is still short when it is too late, it completes as `false`.
    Take {
        /// What.
        from: RateUse,
        /// From when on it is too late.
        until: Option<Ms>,
    },
    /// Closes the inbox and does everything else that goes with it, in one decision or not at all.
    Commit {
        /// What.
        commit: Box<Commit>,
    },
    /// Cancels another run of the tenant.
    Cancel {
        /// Which run.
        run: RunId,
        /// Why.
        reason: String,
    },
}

/// What is done in one decision; in a run with an inbox, with the end of a turn.
///
/// Completes as `false`, with nothing done, if a message waits and the inbox is not closed yet; as failed, with nothing
/// done, if a document is not what it was taken to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// Also while a message waits: it goes to the successor.
    pub force: bool,
    /// It is the intent of something that may have to be undone: see [`Request::Begin`].
    pub guarded: bool,
    /// Documents to be written.
    pub documents: Vec<PutDocument>,
    /// Runs to be started that nobody waits for: workflow, key, input.
    pub runs: Vec<(String, Option<String>, Bytes)>,
    /// Messages to other inboxes: workflow, key, payload.
    pub messages: Vec<(String, String, Bytes)>,
    /// Events: name, data.
    pub events: Vec<(String, Bytes)>,
    /// What its events concern. `None` takes the run's key.
    pub scope: Option<String>,
}

impl Commit {
    fn payload_bytes(&self) -> usize {
        let documents = self.documents.iter().map(|put| put.body.len());
        let runs = self.runs.iter().map(|(_, _, input)| input.len());
        let messages = self.messages.iter().map(|(_, _, payload)| payload.len());
        let events = self.events.iter().map(|(_, data)| data.len());
        documents.chain(runs).chain(messages).chain(events).sum()
    }
}

/// The kind of a journal entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A step's result.
    Run,
    /// A sleep.
    Sleep,
    /// Messages taken.
    Receive,
    /// A look at the inbox.
    Peek,
    /// The inbox closed.
    Close,
    /// A wait for an event.
    WaitEvent,
    /// A wait for a signal.
    WaitSignal,
    /// A child.
    Spawn,
    /// A signal sent.
    Signal,
    /// An event emitted.
    Emit,
    /// Another run cancelled.
    Cancel,
    /// A step begun.
    Begin,
    /// A turn committed.
    Commit,
    /// Taken from a rate limit, or waited for one.
    Take,
}

impl EntryKind {
    /// The word used in APIs and errors.
    pub fn word(self) -> &'static str {
        match self {
            EntryKind::Run => "run",
            EntryKind::Sleep => "sleep",
            EntryKind::Receive => "receive",
            EntryKind::Peek => "peek",
            EntryKind::Close => "close",
            EntryKind::WaitEvent => "wait_event",
            EntryKind::WaitSignal => "wait_signal",
            EntryKind::Spawn => "spawn",
            EntryKind::Signal => "signal",
            EntryKind::Emit => "emit",
            EntryKind::Cancel => "cancel",
            EntryKind::Begin => "begin",
            EntryKind::Commit => "commit",
            EntryKind::Take => "take",
        }
    }
}

/// A message as a run receives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Its id.
    pub id: MessageId,
    /// What it says.
    pub payload: PayloadRef,
    /// When it was accepted.
    pub accepted_at: Ms,
    /// Its place in the inbox's order.
    pub seq: u64,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildEnd {
    /// Which child.
    pub run: RunId,
    /// How.
    pub state: RunState,
    /// What it ended with.
    pub output: Option<PayloadRef>,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
}

/// What came of a journal entry. Once recorded it never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Completion {
    /// It is done and there is nothing to say.
    Unit,
    /// Yes or no.
    Bool(bool),
    /// A stored value.
    Value(PayloadRef),
    /// It failed.
    Failed(String),
    /// Messages, in order, at least one.
    Messages(Vec<Received>),
    /// Nothing came in time.
    TimedOut,
    /// The inbox is closed for this run: nothing more will come.
    Closed,
    /// A child was started.
    Spawned(RunId),
    /// A child ended.
    Child(ChildEnd),
    /// It was given up, or not begun, because the run was asked to end, for this reason.
    Cancelled(String),
}

/// What a pending entry waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingKind {
    /// Its deadline.
    Sleep,
    /// Messages.
    Receive {
        /// How many at most.
        messages_max: u32,
        /// Whether its timeout closes the inbox.
        close_on_timeout: bool,
    },
    /// An event.
    Event {
        /// Its name.
        name: String,
        /// Its scope, or any.
        scope: Option<String>,
    },
    /// A signal.
    Signal {
        /// Its name.
        name: String,
    },
    /// A child's end.
    Child {
        /// Which child.
        run: RunId,
    },
}

/// A pending entry: enough to complete its row without reading it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The entry's kind.
    pub entry: EntryKind,
    /// The entry's label.
    pub label: String,
    /// The entry's fingerprint.
    pub fingerprint: u64,
    /// When it was asked.
    pub requested_at: Ms,
    /// When it times out, or for a sleep: ends.
    pub deadline: Option<Ms>,
    /// What it waits for.
    pub kind: PendingKind,
    /// Whether it is recorded in a row of its own rather than in the task's.
    #[serde(skip)]
    pub apart: bool,
}

impl Pending {
    /// How many entries are recorded in the task's row. Nearly every function waits for no more than that at once.
    pub const WITH_TASK_MAX: usize = 4;
}

impl Request {
    /// Bytes of the payload that comes with it.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Request::Run { result: Ok(payload), .. }
            | Request::Spawn { input: payload, .. }
            | Request::Signal { payload, .. }
            | Request::Emit { data: payload, .. } => payload.len(),
            Request::Commit { commit } => commit.payload_bytes(),
            Request::Run { result: Err(error), .. } => error.len(),
            Request::Sleep { .. }
            | Request::Receive { .. }
            | Request::Peek
            | Request::Close { .. }
            | Request::WaitEvent { .. }
            | Request::WaitSignal { .. }
            | Request::Begin { .. }
            | Request::Take { .. }
            | Request::Cancel { .. } => 0,
        }
    }

    /// Kind, label and fingerprint: what must be the same when the function is re-run.
    pub fn identity(&self) -> (EntryKind, String, u64) {
        let optional = |text: &Option<String>| text.as_deref().unwrap_or("").to_owned();
        match self {
            // A step's result and a wait's length may differ on replay; what they are called may not.
            Request::Run { name, .. } => named(EntryKind::Run, name, &[]),
            Request::Sleep { .. } => named(EntryKind::Sleep, "", &[]),
            Request::Receive { .. } => named(EntryKind::Receive, "", &[]),
            Request::Peek => named(EntryKind::Peek, "", &[]),
            Request::Close { .. } => named(EntryKind::Close, "", &[]),
            Request::WaitEvent { name, scope, .. } => named(EntryKind::WaitEvent, name, &[optional(scope).as_bytes()]),
            Request::WaitSignal { name, .. } => named(EntryKind::WaitSignal, name, &[]),
            Request::Spawn { workflow, key, input, .. } => {
                named(EntryKind::Spawn, workflow, &[optional(key).as_bytes(), input])
            }
            Request::Signal { run, name, .. } => named(EntryKind::Signal, name, &[&run.to_bytes()]),
            Request::Emit { name, .. } => named(EntryKind::Emit, name, &[]),
            Request::Cancel { run, .. } => named(EntryKind::Cancel, &run.to_string(), &[]),
            Request::Begin { name, .. } => named(EntryKind::Begin, name, &[]),
            Request::Commit { .. } => named(EntryKind::Commit, "", &[]),
            Request::Take { from, .. } => named(EntryKind::Take, &from.name, &[]),
        }
    }
}

fn named(kind: EntryKind, label: &str, more: &[&[u8]]) -> (EntryKind, String, u64) {
    let parts = [kind.word().as_bytes(), label.as_bytes()];
    (kind, label.to_owned(), crate::id::fingerprint(parts.into_iter().chain(more.iter().copied())))
}

/// How an entry is called in an error.
pub fn describe(kind: EntryKind, label: &str) -> String {
    if label.is_empty() { kind.word().to_owned() } else { format!("{} {label:?}", kind.word()) }
}

enum Begun {
    Done(Completion),
    Pending(PendingKind, Option<Ms>),
}

impl Step<'_> {
    fn check_request(&self, id: TaskId, request: &Request) -> Result<(), Refusal> {
        let task = self.t.task(id).ok_or(Refusal::NoRun { run: id.run })?;
        if task.journal_len >= self.limits.journal_entries_max {
            return Err(self.journal_full());
        }
        if task.pending.len() >= self.limits.pending_entries_max {
            return Err(Refusal::Full {
                what: "journal entries pending at once",
                max: self.limits.pending_entries_max,
                action: "wait for some before asking for more",
            });
        }
        let in_inbox_run = || {
            let run = self.t.runs.get(&id.run).ok_or(Refusal::NoRun { run: id.run })?;
            if run.def.inbox { Ok(()) } else { Err(Refusal::NoInbox { name: run.def.name.clone() }) }
        };
        match request {
            Request::Run { name, result, .. } => {
                self.check_label("the step's name", name)?;
                match result {
                    Ok(value) => self.check_payload("the step's result", value),
                    Err(error) if error.len() > self.limits.event_bytes_max => Err(Refusal::TooLarge {
                        what: "the step's error",
                        found: error.len(),
                        max: self.limits.event_bytes_max,
                    }),
                    Err(_) => Ok(()),
                }
            }
            Request::Sleep { .. } => Ok(()),
            Request::Receive { messages_max: 0, .. } => Err(Refusal::Empty { what: "messages_max of a receive" }),
            Request::Receive { .. } | Request::Peek | Request::Close { .. } => in_inbox_run(),
            Request::WaitEvent { name, scope, .. } => {
                self.check_label("the event's name", name)?;
                scope.as_deref().map_or(Ok(()), |scope| self.check_key("the event's scope", scope))
            }
            Request::WaitSignal { name, .. } => self.check_label("the signal's name", name),
            Request::Spawn { workflow, key, input, .. } => {
                self.check_payload("the child's input", input)?;
                let (_, def) = self.current_def(workflow)?;
                self.check_start(&def, key.as_deref())
            }
            Request::Signal { name, payload, .. } => {
                self.check_label("the signal's name", name)?;
                self.check_payload("the signal's payload", payload)
            }
            Request::Emit { name, scope, data } => self.check_event(name, scope.as_deref(), data),
            Request::Begin { name, .. } => self.check_label("the step's name", name),
            Request::Commit { commit } => self.check_commit(id, commit),
            Request::Take { from, .. } => self.check_use(from),
            Request::Cancel { .. } => Ok(()),
        }
    }

    fn check_commit(&self, id: TaskId, commit: &Commit) -> Result<(), Refusal> {
        let max = self.limits.commit_parts_max;
        let lengths = [commit.documents.len(), commit.runs.len(), commit.messages.len(), commit.events.len()];
        if lengths.into_iter().any(|length| length > max) {
            return Err(Refusal::Full { what: "parts of one commit", max, action: "commit less at once" });
        }
        let (found, max) = (commit.payload_bytes(), self.limits.commit_bytes_max);
        if found > max {
            return Err(Refusal::TooLarge { what: "the commit, all its parts together,", found, max });
        }
        for put in &commit.documents {
            self.check_document(put)?;
        }
        for (workflow, key, input) in &commit.runs {
            self.check_payload("the run's input", input)?;
            let (_, def) = self.current_def(workflow)?;
            self.check_start(&def, key.as_deref())?;
        }
        for (workflow, key, payload) in &commit.messages {
            self.check_message(workflow, key, payload, usize::MAX)?;
        }
        let of_run = || self.t.runs.get(&id.run).and_then(|run| run.row.key.as_deref());
        let scope = commit.scope.as_deref().or_else(of_run);
        let events = commit.events.iter().map(|(name, data)| (name.as_str(), scope, data));
        let triggered = self.check_events(events)?;
        // Each was checked as if it came alone; they come together.
        let places = commit.messages.iter().map(|(workflow, key, _)| (workflow.clone(), key.clone()));
        let begun: BTreeSet<_> = places.filter(|place| !self.t.inboxes.contains_key(place)).collect();
        match commit.runs.len() + begun.len() + triggered {
            0 => Ok(()),
            starts => self.check_live_runs_and(starts),
        }
    }

    /// Carries a checked commit out, whole or not at all.
    fn commit(&mut self, id: TaskId, commit: Commit, facts: &Facts) -> Completion {
        if commit.guarded
            && let Some(reason) = self.asked_to_end(id.run)
        {
            return Completion::Cancelled(reason);
        }
        if self.messages_wait(id.run) && !commit.force {
            return Completion::Bool(false);
        }
        let mut keys = BTreeSet::new();
        for put in &commit.documents {
            if !keys.insert(&put.key) {
                let DocumentKey { kind, name } = &put.key;
                return Completion::Failed(format!("{kind} {name:?} is in one commit twice: write it once"));
            }
            if let Err(conflict) = self.check_version(put, facts) {
                return Completion::Failed(conflict.to_string());
            }
        }
        if commit.guarded {
            self.guard_run(id.run);
        }
        self.close_inbox(id.run);
        for put in commit.documents {
            self.write_document(put, Some(id.run), facts);
        }
        let of_run = || self.t.runs.get(&id.run).and_then(|run| run.row.key.clone());
        let scope = commit.scope.or_else(of_run);
        for (name, data) in commit.events {
            let event = EventRow { name, scope: scope.clone(), at: self.now, run: Some(id.run), data, metadata: None };
            self.publish(event, None);
        }
        for (workflow, key, input) in commit.runs {
            // Checked before, in this very decision.
            let Ok((version, def)) = self.current_def(&workflow) else { continue };
            let input = Some(self.store_payload(input));
            let run = self.ids.mint_run();
            self.create_run(NewRun { key, input, ..NewRun::of(run, version, def) });
        }
        for (workflow, key, payload) in commit.messages {
            let put = self.put_message(&workflow, &key, payload, Vec::new());
            assert!(put.is_ok(), "a message that was checked is taken: {put:?}");
        }
        Completion::Bool(true)
    }

    /// Carries a checked request out as far as it goes now.
    fn begin_entry(&mut self, id: TaskId, position: u32, request: Request, facts: &Facts) -> Begun {
        let deadline = |now: Ms, timeout: Option<u64>| timeout.map(|timeout| now.saturating_add(timeout));
        let now = self.now;
        match request {
            Request::Run { result: Ok(value), .. } => Begun::Done(Completion::Value(self.store_payload(value))),
            Request::Run { result: Err(error), .. } => Begun::Done(Completion::Failed(error)),
            Request::Sleep { duration_ms: 0 } => Begun::Done(Completion::Unit),
            Request::Sleep { duration_ms } => Begun::Pending(PendingKind::Sleep, deadline(now, Some(duration_ms))),
            Request::Receive { wait, messages_max, close_on_timeout } => {
                if self.inbox_closed(id.run) {
                    return Begun::Done(Completion::Closed);
                }
                let messages = self.take_messages(id.run, messages_max);
                if !messages.is_empty() {
                    return Begun::Done(Completion::Messages(messages));
                }
                let until = match wait {
                    Wait::Forever => None,
                    Wait::For(wait_ms) => Some(now.saturating_add(wait_ms)),
                    Wait::Until(at) => Some(at),
                };
                if until.is_some_and(|at| at <= now) {
                    if close_on_timeout {
                        self.close_inbox(id.run);
                    }
                    return Begun::Done(Completion::TimedOut);
                }
                Begun::Pending(PendingKind::Receive { messages_max, close_on_timeout }, until)
            }
            Request::Peek => Begun::Done(Completion::Bool(self.messages_wait(id.run))),
            Request::Close { force } => {
                if self.messages_wait(id.run) && !force {
                    return Begun::Done(Completion::Bool(false));
                }
                self.close_inbox(id.run);
                Begun::Done(Completion::Bool(true))
            }
            Request::WaitEvent { name, scope, timeout_ms } => {
                Begun::Pending(PendingKind::Event { name, scope }, deadline(now, timeout_ms))
            }
            Request::WaitSignal { name, timeout_ms } => match self.take_signal(id, &name) {
                Some(payload) => Begun::Done(Completion::Value(payload)),
                None => Begun::Pending(PendingKind::Signal { name }, deadline(now, timeout_ms)),
            },
            Request::Spawn { workflow, key, input, priority, detached, on_parent_end } => {
                let (version, def) = match self.current_def(&workflow) {
                    Ok(found) => found,
                    Err(refusal) => return Begun::Done(Completion::Failed(refusal.to_string())),
                };
                let child = self.ids.mint_run();
                let input = Some(self.store_payload(input));
                let parent = (!detached || on_parent_end == OnParentEnd::Cancel).then_some(Parent {
                    task: id,
                    position,
                    on_end: on_parent_end,
                });
                self.create_run(NewRun { key, priority, input, parent, ..NewRun::of(child, version, def) });
                if detached {
                    Begun::Done(Completion::Spawned(child))
                } else {
                    Begun::Pending(PendingKind::Child { run: child }, None)
                }
            }
            Request::Signal { run, name, payload } => match self.signal_run(run, name, payload, &Facts::new()) {
                Ok(_) => Begun::Done(Completion::Unit),
                Err(refusal) => Begun::Done(Completion::Failed(refusal.to_string())),
            },
            Request::Emit { name, scope, data } => {
                let scope = scope.or_else(|| self.t.runs.get(&id.run).and_then(|run| run.row.key.clone()));
                let event = EventRow { name, scope, at: now, run: Some(id.run), data, metadata: None };
                self.publish(event, None);
                Begun::Done(Completion::Unit)
            }
            Request::Begin { guarded, .. } => {
                if guarded {
                    if let Some(reason) = self.asked_to_end(id.run) {
                        return Begun::Done(Completion::Cancelled(reason));
                    }
                    self.guard_run(id.run);
                }
                if let Some(task) = self.t.task_mut(id) {
                    task.fence = Some(position);
                }
                Begun::Done(Completion::Unit)
            }
            Request::Commit { commit } => Begun::Done(self.commit(id, *commit, facts)),
            Request::Take { from, until } => self.take(&from, until),
            Request::Cancel { run, reason } => {
                let reason = self.kept_text(reason);
                self.agenda.push_back(Consequence::CancelRun { run, reason });
                Begun::Done(Completion::Unit)
            }
        }
    }

    /// Takes from a limit, or waits for its next window. Whoever waited asks again, and may find it short again.
    fn take(&mut self, from: &RateUse, until: Option<Ms>) -> Begun {
        match self.admit_uses(core::slice::from_ref(from)) {
            Ok(()) => Begun::Done(Completion::Bool(true)),
            Err(Refusal::TooFast { name, limit, .. }) if from.units > limit => {
                let units = from.units;
                let text = format!("limit {name:?} has {limit} in a window, and {units} are never there: take less");
                Begun::Done(Completion::Failed(text))
            }
            Err(Refusal::TooFast { .. }) if until.is_some_and(|until| until <= self.now) => {
                Begun::Done(Completion::Bool(false))
            }
            Err(Refusal::TooFast { retry_after_ms, .. }) => {
                let again = self.now.saturating_add(retry_after_ms);
                Begun::Pending(PendingKind::Sleep, Some(until.map_or(again, |until| again.min(until))))
            }
            Err(refusal) => Begun::Done(Completion::Failed(refusal.to_string())),
        }
    }

    fn take_signal(&mut self, id: TaskId, name: &str) -> Option<PayloadRef> {
        let task = self.t.task_mut(id)?;
        let index = task.signals.iter().position(|(waiting, _)| waiting == name)?;
        task.signals.remove(index).map(|(_, payload)| payload)
    }

    /// Completes a pending entry: records what came of it and lets the function know, wherever it is.
    pub(crate) fn complete_entry(&mut self, id: TaskId, position: u32, completion: Completion) {
        let (now, tenant) = (self.now, self.tenant);
        let Some(task) = self.t.task_mut(id) else { return };
        let Some(pending) = task.pending.remove(&position) else { return };
        let (state, invocation) = (task.state.clone(), task.invocation);
        self.forget_pending(id, position, &pending);
        let row = JournalRow {
            kind: pending.entry,
            label: pending.label,
            fingerprint: pending.fingerprint,
            requested_at: pending.requested_at,
            done: Some((now, completion.clone())),
        };
        self.out.put(Table::Journal, &row::key::journal(tenant, id, position), &row);
        self.dirty_task(id);
        match state {
            TaskState::Running { worker, .. } => {
                self.out.effect(Effect::EntryDone { tenant, worker, task: id, invocation, position, completion });
            }
            TaskState::Suspended { .. } => self.wake(id),
            // Queued, in backoff or parked: it will read the entry when it runs again.
            TaskState::Blocked
            | TaskState::Queued { .. }
            | TaskState::Judged { .. }
            | TaskState::Backoff { .. }
            | TaskState::Parked
            | TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Skipped => {}
        }
    }

    fn forget_pending(&mut self, id: TaskId, position: u32, pending: &Pending) {
        if pending.apart {
            self.out.delete(Table::Pending, &row::key::journal(self.tenant, id, position));
        }
        if let Some(deadline) = pending.deadline {
            self.timers.unset(deadline, self.tenant, TimerKey::Entry(id, position));
        }
        if let PendingKind::Event { name, scope } = &pending.kind
            && let Some(waits) = self.t.event_waits.get_mut(name)
        {
            if let Some(of_scope) = waits.get_mut(scope) {
                of_scope.remove(&(id, position));
                if of_scope.is_empty() {
                    waits.remove(scope);
                }
            }
            if waits.is_empty() {
                self.t.event_waits.remove(name);
            }
        }
    }

    /// The task ended: nothing waits for its pending entries any more.
    pub(crate) fn drop_pending(&mut self, id: TaskId) {
        for position in self.pending_positions(id) {
            let Some(pending) = self.t.task_mut(id).and_then(|task| task.pending.remove(&position)) else { continue };
            self.forget_pending(id, position, &pending);
        }
    }

    pub(crate) fn entry_due(&mut self, id: TaskId, position: u32) {
        let Some(pending) = self.t.task(id).and_then(|task| task.pending.get(&position)) else { return };
        let completion = match &pending.kind {
            PendingKind::Sleep => Completion::Unit,
            PendingKind::Receive { close_on_timeout, .. } => {
                if *close_on_timeout {
                    self.close_inbox(id.run);
                }
                Completion::TimedOut
            }
            PendingKind::Event { .. } | PendingKind::Signal { .. } | PendingKind::Child { .. } => Completion::TimedOut,
        };
        self.complete_entry(id, position, completion);
    }
}
