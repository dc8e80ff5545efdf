//! A run: one execution of a workflow version. `queued -> running -> completed | failed | cancelled | superseded`.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use bytes::Bytes;

use crate::command::{Fact, Facts, Idempotency, Need};
use crate::effect::Effect;
use crate::id::{Ms, RunId, TaskId, VersionId};
use crate::journal::{ChildEnd, Completion, Pending, PendingKind};
use crate::machine::{Consequence, End, Step};
use crate::reply::{Refusal, Reply};
use crate::row::{OnParentEnd, Parent, PayloadRef, RunRow, RunState, TaskRow, TaskState};
use crate::workflow::WorkflowDef;

/// A live run with its tasks.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) row: RunRow,
    pub(crate) def: Arc<WorkflowDef>,
    pub(crate) tasks: Vec<TaskRow>,
    /// Live runs spawned by this one.
    pub(crate) children: BTreeSet<RunId>,
}

/// What is needed to create a run.
pub(crate) struct NewRun {
    pub(crate) id: RunId,
    pub(crate) version: VersionId,
    pub(crate) def: Arc<WorkflowDef>,
    pub(crate) key: Option<String>,
    pub(crate) priority: Option<u8>,
    pub(crate) input: Option<PayloadRef>,
    pub(crate) parent: Option<Parent>,
    pub(crate) superseded_from: Option<RunId>,
}

impl Step<'_> {
    pub(crate) fn start_run(
        &mut self,
        workflow: &str,
        key: Option<String>,
        input: Bytes,
        priority: Option<u8>,
        idempotency: Option<Idempotency>,
    ) -> Result<Reply, Refusal> {
        if let Some(known) = self.known_request(idempotency.as_ref(), false)? {
            return Ok(Reply::Started { run: known.run, duplicate: true });
        }
        self.check_payload("the input", &input)?;
        let (version, def) = self.current_def(workflow)?;
        self.check_start(&def, key.as_deref())?;
        let id = RunId(self.ids.mint());
        let input = Some(self.store_payload(input));
        self.remember_request(idempotency, None, id);
        self.create_run(NewRun { id, version, def, key, priority, input, parent: None, superseded_from: None });
        Ok(Reply::Started { run: id, duplicate: false })
    }

    /// Whether a run may be started by request: everything that could refuse it, before anything is recorded.
    pub(crate) fn check_start(&self, def: &WorkflowDef, key: Option<&str>) -> Result<(), Refusal> {
        if def.inbox {
            return Err(Refusal::StartedByMessages { name: def.name.clone() });
        }
        if let Some(key) = key {
            self.check_key("the key", key)?;
        } else if def.key.is_some() {
            return Err(Refusal::KeyMissing { name: def.name.clone() });
        }
        self.check_live_runs()?;
        self.check_key_queue(def, key)
    }

    pub(crate) fn check_live_runs(&self) -> Result<(), Refusal> {
        if self.t.runs.len() >= self.limits.live_runs_max {
            return Err(Refusal::Full {
                what: "runs of this tenant that have not ended",
                max: self.limits.live_runs_max,
                action: "wait for some to end, or cancel what is no longer wanted",
            });
        }
        Ok(())
    }

    pub(crate) fn create_run(&mut self, new: NewRun) {
        let tasks = new
            .def
            .tasks
            .iter()
            .map(|_| TaskRow {
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
            })
            .collect::<Vec<_>>();
        let row = RunRow {
            workflow: new.def.name.clone(),
            version: new.version,
            state: RunState::Queued,
            key: new.key,
            priority: new.priority.unwrap_or(new.def.default_priority),
            input: new.input,
            output: None,
            error: None,
            parent: new.parent,
            superseded_from: new.superseded_from,
            superseded_by: None,
            created_at: self.now,
            started_at: None,
            finished_at: None,
            tasks: tasks.len() as u16,
            messages: 0,
        };
        if let Some(parent) = &new.parent
            && let Some(run) = self.t.runs.get_mut(&parent.task.run)
        {
            run.children.insert(new.id);
        }
        for index in 0..tasks.len() {
            self.dirty_tasks.insert(TaskId { run: new.id, index: index as u16 });
        }
        self.dirty_runs.insert(new.id);
        self.t.runs.insert(new.id, Run { row, def: new.def, tasks, children: BTreeSet::new() });
        if self.enter_key(new.id) {
            self.agenda.push_back(Consequence::BeginRun(new.id));
        }
    }

    pub(crate) fn begin_run(&mut self, id: RunId) {
        let Some(run) = self.t.runs.get_mut(&id) else { return };
        if run.row.state != RunState::Queued {
            return;
        }
        run.row.state = RunState::Running;
        run.row.started_at = Some(self.now);
        let ready: Vec<u16> =
            (0..run.row.tasks).filter(|index| run.def.tasks[usize::from(*index)].parents.is_empty()).collect();
        self.dirty_runs.insert(id);
        self.publish_lifecycle(id, "started", None);
        for index in ready {
            self.queue_attempt(TaskId { run: id, index });
        }
    }

    /// Looks whether all tasks have ended, and unblocks those whose parents have.
    pub(crate) fn task_ended(&mut self, id: TaskId) {
        let Some(run) = self.t.runs.get(&id.run) else { return };
        let def = Arc::clone(&run.def);
        // Parents come before children, so one pass in order reaches whatever depends on what this pass ends.
        for (index, task) in def.tasks.iter().enumerate() {
            let Some(run) = self.t.runs.get(&id.run) else { return };
            if run.tasks[index].state != TaskState::Blocked {
                continue;
            }
            let parents = || task.parents.iter().map(|parent| &run.tasks[usize::from(*parent)].state);
            let hopeless = parents().any(|state| matches!(state, TaskState::Failed | TaskState::Cancelled));
            let ready = parents().all(|state| *state == TaskState::Completed);
            let child = TaskId { run: id.run, index: index as u16 };
            if hopeless {
                let error = "a task it depends on did not complete".to_owned();
                self.end_task(child, TaskState::Cancelled, None, Some(error));
            } else if ready {
                self.queue_attempt(child);
            }
        }
        let Some(run) = self.t.runs.get(&id.run) else { return };
        if run.row.state.ended() || !run.tasks.iter().all(|task| task.state.ended()) {
            return;
        }
        let failed = run.tasks.iter().find(|task| task.state == TaskState::Failed);
        let cancelled = run.tasks.iter().find(|task| task.state == TaskState::Cancelled);
        let end = match (failed, cancelled) {
            (Some(task), _) => End { state: RunState::Failed, output: None, error: task.error.clone() },
            (None, Some(task)) => End { state: RunState::Cancelled, output: None, error: task.error.clone() },
            (None, None) => {
                let output = run.tasks.last().and_then(|task| task.output);
                End { state: RunState::Completed, output, error: None }
            }
        };
        self.agenda.push_back(Consequence::EndRun { run: id.run, end });
    }

    pub(crate) fn end_run(&mut self, id: RunId, end: End) {
        let Some(run) = self.t.runs.get_mut(&id) else { return };
        if run.row.state.ended() {
            return;
        }
        assert!(end.state.ended(), "a run ends in an end state");
        let waited_for_key = run.row.state == RunState::Queued;
        run.row.state = end.state;
        run.row.output = end.output;
        run.row.error.clone_from(&end.error);
        run.row.finished_at = Some(self.now);
        let parent = run.row.parent;
        let open: Vec<TaskId> = (0..run.row.tasks)
            .filter(|index| !run.tasks[usize::from(*index)].state.ended())
            .map(|index| TaskId { run: id, index })
            .collect();
        self.dirty_runs.insert(id);
        for task in open {
            self.end_task(task, TaskState::Cancelled, None, end.error.clone());
        }
        for child in self.children_of(id) {
            let cancel = self.t.runs.get(&child).and_then(|run| run.row.parent).map(|parent| parent.on_end);
            match cancel {
                Some(OnParentEnd::Cancel) => {
                    let error = Some(format!("its parent run {id} ended"));
                    let end = End { state: RunState::Cancelled, output: None, error };
                    self.agenda.push_back(Consequence::EndRun { run: child, end });
                }
                Some(OnParentEnd::Abandon) | None => {}
            }
        }
        if end.state != RunState::Superseded {
            self.publish_lifecycle(id, end.state.word(), end.error.as_deref());
        }
        self.leave_key(id, waited_for_key);
        self.leave_inbox(id, end.state);
        if let Some(parent) = parent {
            if let Some(run) = self.t.runs.get_mut(&parent.task.run) {
                run.children.remove(&id);
            }
            let completion =
                Completion::Child(ChildEnd { run: id, state: end.state, output: end.output, error: end.error });
            self.agenda.push_back(Consequence::CompleteEntry {
                task: parent.task,
                position: parent.position,
                completion,
            });
        }
        self.out.effect(Effect::RunEnded { tenant: self.tenant, run: id, state: end.state });
    }

    pub(crate) fn cancel_run(&mut self, id: RunId, reason: String, facts: &Facts) -> Result<Reply, Refusal> {
        if !self.t.runs.contains_key(&id) {
            return match facts.get(&Need::Run(id)) {
                Some(Fact::Run(_)) => Ok(Reply::Done),
                _ => Err(Refusal::NoRun { run: id }),
            };
        }
        let end = End { state: RunState::Cancelled, output: None, error: Some(self.kept_text(reason)) };
        self.agenda.push_back(Consequence::EndRun { run: id, end });
        Ok(Reply::Done)
    }

    pub(crate) fn resume_run(&mut self, id: RunId, facts: &Facts) -> Result<Reply, Refusal> {
        let Some(run) = self.t.runs.get_mut(&id) else {
            return match facts.get(&Need::Run(id)) {
                Some(Fact::Run(_)) => Err(Refusal::RunEnded { run: id }),
                _ => Err(Refusal::NoRun { run: id }),
            };
        };
        if run.row.state != RunState::Parked {
            return Err(Refusal::NotParked { run: id });
        }
        run.row.state = RunState::Running;
        run.row.error = None;
        let parked: Vec<TaskId> = (0..run.row.tasks)
            .filter(|index| run.tasks[usize::from(*index)].state == TaskState::Parked)
            .map(|index| TaskId { run: id, index })
            .collect();
        self.dirty_runs.insert(id);
        for task in parked {
            if let Some(row) = self.t.task_mut(task) {
                // A person looked: whatever took its workers away is taken to be mended.
                row.losses = 0;
            }
            self.queue_attempt(task);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn signal_run(
        &mut self,
        id: RunId,
        name: String,
        payload: Bytes,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        self.check_label("the signal's name", &name)?;
        self.check_payload("the signal's payload", &payload)?;
        let Some(run) = self.t.runs.get(&id) else {
            return match facts.get(&Need::Run(id)) {
                Some(Fact::Run(_)) => Err(Refusal::RunEnded { run: id }),
                _ => Err(Refusal::NoRun { run: id }),
            };
        };
        let Some(durable) = run.def.tasks.iter().position(|task| task.durable) else {
            return Err(Refusal::NotDurable { task: TaskId { run: id, index: 0 } });
        };
        let Some(task) = self.takes_signal(id, &name, None) else {
            return Err(Refusal::NotDurable { task: TaskId { run: id, index: durable as u16 } });
        };
        if self.t.task(task).is_some_and(|row| row.signals.len() >= self.limits.signals_max) {
            return Err(Refusal::Full {
                what: "signals waiting for this run",
                max: self.limits.signals_max,
                action: "let the run take some first",
            });
        }
        let payload = self.store_payload(payload);
        self.give_signal(task, name, payload);
        Ok(Reply::Done)
    }

    /// The task of a run that a signal goes to: the one that waits for it, or the first durable one that can still take
    /// it.
    fn takes_signal(&self, id: RunId, name: &str, except: Option<TaskId>) -> Option<TaskId> {
        let run = self.t.runs.get(&id)?;
        let open = || {
            let tasks = run.tasks.iter().zip(&run.def.tasks).enumerate();
            tasks
                .filter(|(_, (task, def))| def.durable && !task.state.ended())
                .map(|(index, (task, _))| (TaskId { run: id, index: index as u16 }, task))
                .filter(move |(task, _)| Some(*task) != except)
        };
        let waits = |row: &TaskRow| row.pending.values().any(|pending| waits_for_signal(pending, name));
        let waiting = open().find(|(_, row)| waits(row));
        waiting.or_else(|| open().next()).map(|(task, _)| task)
    }

    /// Completes the wait for a signal, or keeps it until it is asked for.
    fn give_signal(&mut self, task: TaskId, name: String, payload: PayloadRef) {
        let Some(row) = self.t.task_mut(task) else { return };
        let waiting = row.pending.iter().find(|(_, pending)| waits_for_signal(pending, &name));
        match waiting.map(|(position, _)| *position) {
            Some(position) => self.complete_entry(task, position, Completion::Value(payload)),
            None => {
                row.signals.push_back((name, payload));
                self.dirty_task(task);
            }
        }
    }

    /// A task has ended without taking all its signals: another durable task of the run may want them.
    pub(crate) fn pass_signals_on(&mut self, ended: TaskId) {
        let Some(row) = self.t.task_mut(ended) else { return };
        for (name, payload) in core::mem::take(&mut row.signals) {
            match self.takes_signal(ended.run, &name, Some(ended)) {
                Some(task) => self.give_signal(task, name, payload),
                None => {
                    // Nobody is left who could: they stay with the last one, for whoever looks.
                    if let Some(row) = self.t.task_mut(ended) {
                        row.signals.push_back((name, payload));
                    }
                }
            }
        }
    }

    /// Says why a run waits, in a sentence, since when, and who holds what it waits for.
    pub(crate) fn explain(&self, id: RunId, facts: &Facts) -> Result<Reply, Refusal> {
        let Some(run) = self.t.runs.get(&id) else {
            return match facts.get(&Need::Run(id)) {
                Some(Fact::Run(_)) => Ok(Reply::Waiting { reason: None, since: None }),
                _ => Err(Refusal::NoRun { run: id }),
            };
        };
        let (reason, since) = match run.row.state {
            RunState::Queued => (self.explain_key(run), Some(run.row.created_at)),
            RunState::Parked => {
                let error = run.row.error.as_deref().unwrap_or("no reason was recorded");
                (Some(format!("parked until a person resumes or cancels it: {error}")), None)
            }
            RunState::Running => run
                .tasks
                .iter()
                .zip(&run.def.tasks)
                .find_map(|(task, def)| {
                    self.explain_task(run, task, &def.action, &def.name)
                        .map(|(reason, since)| (Some(reason), Some(since)))
                })
                .unwrap_or((None, None)),
            RunState::Completed | RunState::Failed | RunState::Cancelled | RunState::Superseded => (None, None),
        };
        Ok(Reply::Waiting { reason, since })
    }

    fn explain_task(&self, run: &Run, task: &TaskRow, action: &str, name: &str) -> Option<(String, Ms)> {
        match &task.state {
            TaskState::Queued { since } => {
                let offering = self.t.workers.values().filter(|worker| worker.connected && worker.offers(action));
                let (count, slots) = offering.fold((0, 0), |(count, slots), worker| (count + 1, slots + worker.slots));
                let reason = match count {
                    0 => format!("task {name:?} waits for a worker: none that offers {action:?} is connected"),
                    _ => format!(
                        "task {name:?} waits for a free slot: all {slots} slots of {count} worker(s) offering {action:?} are taken"
                    ),
                };
                Some((reason, *since))
            }
            TaskState::Backoff { until } => {
                let error = task.error.as_deref().unwrap_or("unknown error");
                let wait = until.saturating_sub(self.now);
                Some((format!("task {name:?} is tried again in {wait} ms after: {error}"), self.now))
            }
            TaskState::Running { worker, since, .. } if task.pending.is_empty() => {
                let by = self.t.workers.get(worker).map_or_else(|| format!("{worker}"), |known| known.name.clone());
                let mut reason = format!("task {name:?} is with worker {by:?} (attempt {})", task.attempt);
                if let Some(child) = run.children.first() {
                    // Writing into a string cannot fail.
                    let _ = write!(reason, "; its child run {child} has not ended");
                }
                Some((reason, *since))
            }
            TaskState::Running { .. } | TaskState::Suspended { .. } => {
                let (position, pending) = task.pending.iter().next()?;
                Some((format!("task {name:?} {}", explain_pending(*position, pending, self.now)), pending.requested_at))
            }
            TaskState::Blocked
            | TaskState::Parked
            | TaskState::Completed
            | TaskState::Failed
            | TaskState::Cancelled => None,
        }
    }
}

fn waits_for_signal(pending: &Pending, name: &str) -> bool {
    match &pending.kind {
        PendingKind::Signal { name: wanted } => wanted == name,
        PendingKind::Sleep | PendingKind::Receive { .. } | PendingKind::Event { .. } | PendingKind::Child { .. } => {
            false
        }
    }
}

fn explain_pending(position: u32, pending: &Pending, now: Ms) -> String {
    let left =
        pending.deadline.map(|at| format!(" for at most {} ms more", at.saturating_sub(now))).unwrap_or_default();
    let what = match &pending.kind {
        PendingKind::Sleep => "sleeps".to_owned(),
        PendingKind::Receive { .. } => "waits for a message".to_owned(),
        PendingKind::Event { name, scope: Some(scope) } => format!("waits for event {name:?} of {scope:?}"),
        PendingKind::Event { name, scope: None } => format!("waits for event {name:?}"),
        PendingKind::Signal { name } => format!("waits for signal {name:?}"),
        PendingKind::Child { run } => format!("waits for child run {run}"),
    };
    format!("{what}{left} (journal position {position})")
}
