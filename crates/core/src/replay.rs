//! Replay: a run that has ended is live again, with the input it had, whole or from some of its tasks on.
//!
//! Attempts go on being counted where they stopped, so that what a worker still says about an earlier one is
//! recognised as late. Children that tasks asked for by name are found again, not started a second time.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::command::{Fact, Facts, Need};
use crate::id::{RunId, TaskId};
use crate::machine::{Consequence, Step};
use crate::reply::{Refusal, Reply};
use crate::row::{self, RunState, TaskRow, TaskState};
use crate::run::Run;
use crate::workflow::{When, WorkflowDef};
use crate::write::Table;

impl Step<'_> {
    pub(crate) fn replay_run(&mut self, id: RunId, tasks: Option<Vec<u16>>, facts: &Facts) -> Result<Reply, Refusal> {
        if self.t.runs.contains_key(&id) {
            return Err(Refusal::NotEnded { run: id });
        }
        let Some(Fact::Whole(ended, rows, children)) = facts.get(&Need::Whole(id)) else {
            return Err(Refusal::NoRun { run: id });
        };
        let not = |why| Refusal::NotReplayable { run: id, why };
        let def = self.t.versions.get(&ended.version).cloned().ok_or(not("its version is not known any more"))?;
        if def.tasks.len() != rows.len() {
            return Err(not("some of its tasks are not kept any more"));
        }
        if def.inbox {
            return Err(not("it was started by messages, which were answered"));
        }
        if def.tasks.iter().any(|task| task.durable) {
            return Err(not("it is durable: its journal says that it has ended"));
        }
        if ended.finished_at.is_some_and(|at| self.now.saturating_sub(at) > self.limits.replay_ms) {
            return Err(not("it ended too long ago: parts of it may be gone at any time"));
        }
        if let Some(index) = tasks.iter().flatten().find(|index| usize::from(**index) >= rows.len()) {
            return Err(Refusal::NoTask { task: TaskId { run: id, index: *index } });
        }
        self.check_live_runs()?;
        self.check_key_queue(&def, ended.key.as_deref())?;

        let mut row = ended.clone();
        row.state = RunState::Queued;
        row.output = None;
        row.error = None;
        row.finished_at = None;
        (row.guarded, row.asked_to_end) = (false, None);
        let again = again(&def, tasks.as_deref());
        let mut run = Run::new(row, def, rows.clone());
        run.named = children.iter().map(|(index, child)| ((*index, child.name.clone()), child.run)).collect();
        for (_, task) in run.tasks.iter_mut().enumerate().filter(|(index, _)| again[*index]) {
            let kept = TaskRow { attempt: task.attempt, invocation: task.invocation, ..TaskRow::new() };
            *task = TaskRow { state: TaskState::Blocked, ..kept };
        }
        // All of it is recorded again, also what stays as it was: while the tables still show the run as ended, a restart
        // reads of it what the log says from here on, and nothing else.
        for index in 0..run.row.tasks {
            self.dirty_tasks.insert(TaskId { run: id, index });
        }
        for (index, child) in children {
            let task = TaskId { run: id, index: *index };
            self.out.put(Table::Child, &row::key::child(self.tenant, task, &child.name), child);
        }
        // Also for the run that spawned it, it is live again, if that one still is.
        let parent = run.row.parent.map(|parent| parent.task.run);
        if let Some(parent) = parent.and_then(|parent| self.t.runs.get_mut(&parent)) {
            parent.children.insert(id);
        }
        self.t.runs.insert(id, run);
        self.dirty_runs.insert(id);
        if self.enter_key(id) {
            self.agenda.push_back(Consequence::BeginRun(id));
        }
        Ok(Reply::Done)
    }
}

/// Which tasks run again: those named and all that depend on them, and whatever waits for a failure.
fn again(def: &Arc<WorkflowDef>, tasks: Option<&[u16]>) -> Vec<bool> {
    let mut again: Vec<bool> = Vec::with_capacity(def.tasks.len());
    for (index, task) in def.tasks.iter().enumerate() {
        let named = tasks.is_none_or(|tasks| tasks.contains(&(index as u16)));
        // Parents come before children.
        let below = task.parents.iter().any(|parent| again[usize::from(*parent)]);
        again.push(named || below || task.when == When::AnotherFailed);
    }
    again
}
