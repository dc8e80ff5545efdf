//! A run: one execution of a workflow version. `queued -> running -> completed | failed | cancelled | superseded`.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use bytes::Bytes;

use crate::command::{Fact, Facts, Need, Record, Start};
use crate::effect::Effect;
use crate::id::{Ms, RunId, TaskId, VersionId};
use crate::journal::{ChildEnd, Completion, EntryKind, Pending, PendingKind};
use crate::machine::{Consequence, End, Step};
use crate::place::{LabelValue, LabelWish};
use crate::place::{SLOT, Wants};
use crate::reply::{Refusal, Reply};
use crate::row::{
    self, ChildOf, ChildRow, EventRef, OnParentEnd, Parent, PayloadRef, RunRow, RunState, RunWishes, TaskRow, TaskState,
};
use crate::task::wants_of;
use crate::worker::Worker;
use crate::workflow::{When, WorkflowDef};
use crate::write::Table;

/// A live run with its tasks.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) row: RunRow,
    pub(crate) def: Arc<WorkflowDef>,
    pub(crate) tasks: Vec<TaskRow>,
    /// Live runs spawned by this one.
    pub(crate) children: BTreeSet<RunId>,
    /// Runs its tasks asked for outside a journal, by the asking task and the name it gave them.
    pub(crate) named: BTreeMap<(u16, String), RunId>,
    /// Lines its tasks wrote down since it was last read back.
    pub(crate) log_lines: u32,
}

impl Run {
    /// A run that is live from now on.
    pub(crate) fn new(row: RunRow, def: Arc<WorkflowDef>, tasks: Vec<TaskRow>) -> Self {
        Run { row, def, tasks, children: BTreeSet::new(), named: BTreeMap::new(), log_lines: 0 }
    }
}

/// How it looks for a task.
enum Outlook {
    /// It waits for others, or waits no longer.
    Waits,
    /// Its time has come.
    Due,
    /// It is not needed.
    Skipped,
    /// What it needs will not come.
    Hopeless,
}

fn outlook(run: &Run, index: usize) -> Outlook {
    let (task, def) = (&run.tasks[index], &run.def.tasks[index]);
    if task.state != TaskState::Blocked {
        return Outlook::Waits;
    }
    match def.when {
        When::ParentsEnded => {
            let parents = || def.parents.iter().map(|parent| &run.tasks[usize::from(*parent)].state);
            if parents().any(|state| matches!(state, TaskState::Failed | TaskState::Cancelled)) {
                return Outlook::Hopeless;
            }
            if !parents().all(TaskState::ended) {
                return Outlook::Waits;
            }
            // A judge may see it otherwise.
            let skipped = !def.parents.is_empty() && parents().all(|state| *state == TaskState::Skipped);
            if skipped && !def.judged { Outlook::Skipped } else { Outlook::Due }
        }
        When::AnotherFailed => {
            let others = || {
                let tasks = run.tasks.iter().zip(&run.def.tasks);
                tasks.filter(|(_, def)| def.when == When::ParentsEnded).map(|(task, _)| &task.state)
            };
            if others().any(|state| *state == TaskState::Failed) {
                Outlook::Due
            } else if others().all(TaskState::ended) {
                Outlook::Skipped
            } else {
                Outlook::Waits
            }
        }
    }
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
    pub(crate) metadata: Option<Bytes>,
    pub(crate) wishes: Option<RunWishes>,
    pub(crate) child_of: Option<ChildOf>,
    pub(crate) event: Option<EventRef>,
    pub(crate) lineage: Option<(RunId, u32)>,
    pub(crate) once: bool,
}

impl NewRun {
    /// A run of a version, with nothing said beyond that.
    pub(crate) fn of(id: RunId, version: VersionId, def: Arc<WorkflowDef>) -> Self {
        NewRun {
            id,
            version,
            def,
            key: None,
            priority: None,
            input: None,
            parent: None,
            superseded_from: None,
            metadata: None,
            wishes: None,
            child_of: None,
            event: None,
            lineage: None,
            once: false,
        }
    }
}

impl Step<'_> {
    pub(crate) fn start_run(&mut self, start: Start) -> Result<Reply, Refusal> {
        let known = self.check_request_to_start(&start)?;
        let duplicate = known.is_some();
        let run = known.map_or_else(|| self.start_checked(start), Ok)?;
        Ok(Reply::Started { run, duplicate })
    }

    pub(crate) fn start_runs(&mut self, starts: Vec<Start>) -> Result<Reply, Refusal> {
        if starts.len() > self.limits.starts_max {
            return Err(Refusal::Full {
                what: "runs started by one request",
                max: self.limits.starts_max,
                action: "send several requests",
            });
        }
        let mut bodies: BTreeMap<&str, u64> = BTreeMap::new();
        for start in &starts {
            self.check_request_to_start(start)?;
            if let Some(asked) = &start.idempotency
                && *bodies.entry(&asked.key).or_insert(asked.body) != asked.body
            {
                return Err(Refusal::IdempotencyConflict { key: asked.key.clone() });
            }
        }
        self.check_live_runs_and(starts.len())?;
        let mut runs = Vec::with_capacity(starts.len());
        for start in starts {
            // What an earlier one of the same request started is known by now.
            let by_key = start.idempotency.as_ref().and_then(|asked| self.t.idempotency.get(&asked.key));
            let known = by_key.map(|row| row.run).or_else(|| self.known_child(start.child_of.as_ref()));
            runs.push(known.map_or_else(|| self.start_checked(start), Ok)?);
        }
        Ok(Reply::StartedAll { runs })
    }

    pub(crate) fn start_recorded(&mut self, start: Start, record: Record, facts: &Facts) -> Result<Reply, Refusal> {
        let Record { put, fence, guard, event, rates } = record;
        let start = Start { idempotency: None, child_of: None, ..start };
        self.check_put(&put, fence, guard, event.as_ref(), facts)?;
        self.check_request_to_start(&start)?;
        // The last check, because it takes what it finds.
        self.admit_uses(&rates)?;
        let run = self.start_checked(start)?;
        self.put_checked(put, Some(run), fence, guard, event, facts);
        Ok(Reply::Started { run, duplicate: false })
    }

    /// Everything that could refuse a start, before anything is recorded; and the run, if it was started before.
    fn check_request_to_start(&self, start: &Start) -> Result<Option<RunId>, Refusal> {
        if let Some(known) = self.known_request(start.idempotency.as_ref(), false)? {
            return Ok(Some(known.run));
        }
        if let Some(known) = self.known_child(start.child_of.as_ref()) {
            return Ok(Some(known));
        }
        self.check_payload("the input", &start.input)?;
        self.check_metadata(start.metadata.as_ref())?;
        if let Some(wishes) = &start.wishes {
            let bytes = |wish: &LabelWish| match &wish.value {
                LabelValue::Text(text) => text.len(),
                LabelValue::Number(_) => 8,
            };
            let wished = wishes.labels.iter().map(|(name, wish)| name.len() + bytes(wish) + 64).sum();
            self.check_bulk("the labels wished for", wished)?;
        }
        if let Some(child_of) = &start.child_of {
            self.check_key("the child's name", &child_of.name)?;
            // The names are known as long as the asking run lives. After that, a request that comes late could not be
            // told from a new one.
            let asking = self.t.runs.get(&child_of.task.run);
            let asking = asking.ok_or(Refusal::RunEnded { run: child_of.task.run })?;
            if child_of.task.index >= asking.row.tasks {
                return Err(Refusal::NoTask { task: child_of.task });
            }
            if asking.named.len() >= self.limits.children_max {
                return Err(Refusal::Full {
                    what: "runs asked for by one run",
                    max: self.limits.children_max,
                    action: "let children ask for some of them",
                });
            }
        }
        let (_, def) = self.current_def(&start.workflow)?;
        self.check_start(&def, start.key.as_deref())?;
        Ok(None)
    }

    fn start_checked(&mut self, start: Start) -> Result<RunId, Refusal> {
        let (version, def) = self.current_def(&start.workflow)?;
        let id = self.ids.mint_run();
        let input = Some(self.store_payload(start.input));
        self.remember_request(start.idempotency, None, id);
        self.remember_child(start.child_of.as_ref(), id);
        self.create_run(NewRun {
            key: start.key,
            priority: start.priority,
            input,
            metadata: start.metadata,
            wishes: start.wishes,
            child_of: start.child_of,
            once: start.once,
            ..NewRun::of(id, version, def)
        });
        Ok(id)
    }

    /// The run a task asked for before, under the same name. Known as long as the asking run lives.
    fn known_child(&self, child_of: Option<&ChildOf>) -> Option<RunId> {
        let child_of = child_of?;
        let run = self.t.runs.get(&child_of.task.run)?;
        run.named.get(&(child_of.task.index, child_of.name.clone())).copied()
    }

    fn remember_child(&mut self, child_of: Option<&ChildOf>, id: RunId) {
        let Some(ChildOf { task, name, .. }) = child_of else { return };
        let Some(run) = self.t.runs.get_mut(&task.run) else { return };
        run.named.insert((task.index, name.clone()), id);
        // Whoever asks for a child has its own task in hand.
        if let Some(asking) = run.tasks.get_mut(usize::from(task.index))
            && asking.acknowledged != asking.invocation
        {
            asking.acknowledged = asking.invocation;
            self.dirty_tasks.insert(*task);
        }
        let row = ChildRow { run: id, name: name.clone() };
        self.out.put(Table::Child, &row::key::child(self.tenant, *task, name), &row);
    }

    pub(crate) fn check_metadata(&self, metadata: Option<&Bytes>) -> Result<(), Refusal> {
        let (found, max) = (metadata.map_or(0, Bytes::len), self.limits.metadata_bytes_max);
        if found > max { Err(Refusal::TooLarge { what: "the metadata", found, max }) } else { Ok(()) }
    }

    /// Whether a run may be started by request: everything that could refuse it, before anything is recorded.
    pub(crate) fn check_start(&self, def: &WorkflowDef, key: Option<&str>) -> Result<(), Refusal> {
        self.check_executable(def)?;
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

    pub(crate) fn check_executable(&self, def: &WorkflowDef) -> Result<(), Refusal> {
        match &def.not_yet {
            Some(what) => Err(Refusal::NotYet { name: def.name.clone(), what: what.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn check_live_runs(&self) -> Result<(), Refusal> {
        self.check_live_runs_and(1)
    }

    pub(crate) fn check_live_runs_and(&self, more: usize) -> Result<(), Refusal> {
        if self.t.runs.len() + more > self.limits.live_runs_max {
            return Err(Refusal::Full {
                what: "runs of this tenant that have not ended",
                max: self.limits.live_runs_max,
                action: "wait for some to end, or cancel what is no longer wanted",
            });
        }
        Ok(())
    }

    pub(crate) fn create_run(&mut self, new: NewRun) {
        let tasks: Vec<TaskRow> = new.def.tasks.iter().map(|_| TaskRow::new()).collect();
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
            metadata: new.metadata,
            wishes: new.wishes,
            child_of: new.child_of,
            event: new.event,
            group: new.lineage.map(|(group, _)| group),
            superseded_before: new.lineage.map_or(0, |(_, before)| before),
            once: new.once,
            guarded: false,
            asked_to_end: None,
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
        self.t.runs.insert(new.id, Run::new(row, new.def, tasks));
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
        self.dirty_runs.insert(id);
        self.publish_lifecycle(id, "started", None);
        self.look_at_blocked(id);
        self.look_whether_over(id);
    }

    /// A task has ended: others may be due, and the run may be over.
    pub(crate) fn task_ended(&mut self, id: TaskId) {
        self.look_at_blocked(id.run);
        self.look_whether_over(id.run);
    }

    /// Looks at every task that waits for others, and lets go on those that need wait no longer.
    fn look_at_blocked(&mut self, id: RunId) {
        let Some(run) = self.t.runs.get(&id) else { return };
        let def = Arc::clone(&run.def);
        // Parents come before children, so one pass in order reaches whatever depends on what this pass ends.
        for index in 0..def.tasks.len() {
            let Some(run) = self.t.runs.get(&id) else { return };
            let task = TaskId { run: id, index: index as u16 };
            match outlook(run, index) {
                Outlook::Waits => {}
                Outlook::Due => self.task_due(task),
                Outlook::Skipped => self.end_task(task, TaskState::Skipped, None, None),
                Outlook::Hopeless => {
                    let error = "a task it depends on did not complete".to_owned();
                    self.end_task(task, TaskState::Cancelled, None, Some(error));
                }
            }
        }
    }

    fn look_whether_over(&mut self, id: RunId) {
        let Some(run) = self.t.runs.get(&id) else { return };
        if run.row.state.ended() || !run.tasks.iter().all(|task| task.state.ended()) {
            return;
        }
        let failed = run.tasks.iter().find(|task| task.state == TaskState::Failed);
        let cancelled = run.tasks.iter().find(|task| task.state == TaskState::Cancelled);
        let end = match (failed, cancelled) {
            (Some(task), _) => End { state: RunState::Failed, output: None, error: task.error.clone() },
            (None, Some(task)) => End { state: RunState::Cancelled, output: None, error: task.error.clone() },
            (None, None) => {
                let output = run.tasks.iter().rev().find_map(|task| task.output);
                End { state: RunState::Completed, output, error: None }
            }
        };
        self.agenda.push_back(Consequence::EndRun { run: id, end });
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
                    let reason = format!("its parent run {id} ended");
                    self.agenda.push_back(Consequence::CancelRun { run: child, reason });
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
        let reason = self.kept_text(reason);
        self.agenda.push_back(Consequence::CancelRun { run: id, reason });
        Ok(Reply::Done)
    }

    /// Ends a run, or, if it has begun what may have to be undone, asks it to end: what it waits for is given up, and it
    /// begins nothing new but what it takes to undo. One that is parked can undo nothing, and ends.
    pub(crate) fn cancel_or_ask(&mut self, id: RunId, reason: String) {
        let Some(run) = self.t.runs.get_mut(&id) else { return };
        if !run.row.guarded || run.row.state == RunState::Parked {
            let end = End { state: RunState::Cancelled, output: None, error: Some(reason) };
            self.agenda.push_back(Consequence::EndRun { run: id, end });
            return;
        }
        if run.row.asked_to_end.is_some() {
            return;
        }
        run.row.asked_to_end = Some(reason.clone());
        self.dirty_runs.insert(id);
        let tasks = run.tasks.iter().enumerate().map(|(index, task)| (TaskId { run: id, index: index as u16 }, task));
        for (task, row) in tasks.filter(|(_, row)| !row.state.ended()) {
            for (position, pending) in &row.pending {
                let consequence = match &pending.kind {
                    // It may have something to undo as well: its end is waited for.
                    PendingKind::Child { run } => Consequence::CancelRun { run: *run, reason: reason.clone() },
                    PendingKind::Sleep
                    | PendingKind::Receive { .. }
                    | PendingKind::Event { .. }
                    | PendingKind::Signal { .. } => {
                        let completion = Completion::Cancelled(reason.clone());
                        Consequence::CompleteEntry { task, position: *position, completion }
                    }
                };
                self.agenda.push_back(consequence);
            }
        }
    }

    /// From here on the run has something to undo.
    pub(crate) fn guard_run(&mut self, id: RunId) {
        if let Some(run) = self.t.runs.get_mut(&id)
            && !run.row.guarded
        {
            run.row.guarded = true;
            self.dirty_runs.insert(id);
        }
    }

    /// Why the run was asked to end, if it was.
    pub(crate) fn asked_to_end(&self, id: RunId) -> Option<String> {
        self.t.runs.get(&id)?.row.asked_to_end.clone()
    }

    pub(crate) fn cancel_task(&mut self, id: TaskId, reason: String, facts: &Facts) -> Result<Reply, Refusal> {
        let Some(run) = self.t.runs.get(&id.run) else { return self.cancel_run(id.run, reason, facts) };
        if id.index >= run.row.tasks {
            return Err(Refusal::NoTask { task: id });
        }
        // A run that waits for its key, or has but one task, is cancelled by cancelling that.
        if run.row.state == RunState::Queued || run.row.tasks == 1 {
            return self.cancel_run(id.run, reason, facts);
        }
        if run.tasks[usize::from(id.index)].state.ended() {
            return Ok(Reply::Done);
        }
        let reason = self.kept_text(reason);
        self.end_task(id, TaskState::Cancelled, None, Some(reason));
        self.task_ended(id);
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
                .enumerate()
                .find_map(|(index, (task, def))| {
                    self.explain_task(run, task, index as u16, &def.action, &def.name)
                        .map(|(reason, since)| (Some(reason), Some(since)))
                })
                .map(|(reason, since)| (reason.map(|reason| undoing(run, reason)), since))
                .unwrap_or((None, None)),
            RunState::Completed | RunState::Failed | RunState::Cancelled | RunState::Superseded => (None, None),
        };
        Ok(Reply::Waiting { reason, since })
    }

    /// What stands in a queued task's way: the first of no worker, none that fits, no room, a limit.
    fn explain_queued(&self, run: &Run, index: u16, action: &str) -> String {
        let wants = wants_of(run, index);
        let offering = || self.t.workers.iter().filter(|(_, worker)| worker.connected && worker.offers(action));
        if offering().next().is_none() {
            return format!("for a worker: none that offers {action:?} is connected");
        }
        let fitting = || offering().filter(|(id, worker)| wants.rank(**id, worker).is_some());
        if fitting().next().is_none() {
            return match wants.worker {
                Some((worker, true)) => format!("for worker {worker}, with which its run must stay"),
                _ => {
                    format!("for a worker with the labels it requires: {} offer {action:?} without", offering().count())
                }
            };
        }
        if fitting().all(|(_, worker)| worker.paused) {
            return format!("for a worker: all {} offering {action:?} are paused", fitting().count());
        }
        if let Some(rates) = self.explain_rates(&wants.rates) {
            return rates;
        }
        self.explain_slots(&wants, action)
    }

    /// The first kind of slot of which nobody who fits has enough free.
    fn explain_slots(&self, wants: &Wants, action: &str) -> String {
        let fitting = || {
            let offering = self.t.workers.iter().filter(|(_, worker)| worker.connected && worker.offers(action));
            offering.filter(|(id, worker)| wants.rank(**id, worker).is_some()).map(|(_, worker)| worker)
        };
        let lacking = wants.slots.iter().find(|(kind, units)| fitting().all(|worker| worker.free(kind) < **units));
        let Some((kind, units)) = lacking.or_else(|| wants.slots.iter().next()) else { return String::new() };
        let of_kind = |worker: &Worker| worker.slots.get(kind).copied().unwrap_or(0);
        let (count, slots) = fitting().fold((0, 0), |(count, slots), worker| (count + 1, slots + of_kind(worker)));
        let named = if kind == SLOT { String::new() } else { format!(" of kind {kind:?}") };
        if fitting().all(|worker| of_kind(worker) < *units) {
            return format!(
                "for {units} slot(s){named} at once: none of {count} worker(s) offering {action:?} has as many"
            );
        }
        if *units > 1 {
            let all = format!("{slots} slots of {count} worker(s) offering {action:?}");
            return format!("for {units} free slots{named} at one worker, among the {all}");
        }
        format!("for a free slot{named}: all {slots} slots of {count} worker(s) offering {action:?} are taken")
    }

    fn explain_task(&self, run: &Run, task: &TaskRow, index: u16, action: &str, name: &str) -> Option<(String, Ms)> {
        match &task.state {
            TaskState::Queued { since } => {
                Some((format!("task {name:?} waits {}", self.explain_queued(run, index, action)), *since))
            }
            TaskState::Judged { since } => {
                Some((format!("task {name:?} waits for a verdict on its conditions and limits"), *since))
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
            | TaskState::Cancelled
            | TaskState::Skipped => None,
        }
    }
}

fn undoing(run: &Run, reason: String) -> String {
    match &run.row.asked_to_end {
        Some(asked) => format!("{reason}; it was asked to end ({asked}) and undoes what it has done"),
        None => reason,
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
        PendingKind::Sleep if pending.entry == EntryKind::Take => format!("waits for rate limit {:?}", pending.label),
        PendingKind::Sleep => "sleeps".to_owned(),
        PendingKind::Receive { .. } => "waits for a message".to_owned(),
        PendingKind::Event { name, scope: Some(scope) } => format!("waits for event {name:?} of {scope:?}"),
        PendingKind::Event { name, scope: None } => format!("waits for event {name:?}"),
        PendingKind::Signal { name } => format!("waits for signal {name:?}"),
        PendingKind::Child { run } => format!("waits for child run {run}"),
    };
    format!("{what}{left} (journal position {position})")
}
