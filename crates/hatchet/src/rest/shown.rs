//! Runs and tasks as REST shows them.

use std::collections::BTreeMap;

use mainspring_core::row::{TaskRow, TaskState, key};
use mainspring_core::{Table, TaskId, TenantId};
use mainspring_engine::EngineError;
use serde_json::value::{RawValue, to_raw_value};

use super::models::{Meta, RunDetails, RunOverview, ShapeItem, TaskSummary};
use super::time::Time;
use super::{empty, history, object};
use crate::details::{Run, is_evicted, status_word, task_status};
use crate::names;
use crate::server::Hatchet;
use crate::wire::v1::RunStatus;

/// Bytes of payloads in one answer. What is beyond is left out, and the answer says so.
const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What is left of the room for payloads in one answer.
#[derive(Debug)]
pub(crate) struct Room {
    left: usize,
}

impl Room {
    /// Room for the payloads of one answer; none if they are not wanted.
    pub(crate) fn new(wanted: bool) -> Self {
        Room { left: if wanted { PAYLOAD_BYTES_MAX } else { 0 } }
    }

    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left;
        self.left -= if fits { bytes } else { 0 };
        fits
    }
}

/// A run with all that is shown of it.
#[derive(Debug)]
pub(crate) struct Shown {
    tenant: TenantId,
    run: Run,
    input: Box<RawValue>,
    outputs: Vec<Box<RawValue>>,
    /// Runs each task asked for.
    children: Vec<usize>,
    /// Whether something was left out.
    restricted: bool,
}

impl Shown {
    /// Reads what is shown of a run.
    ///
    /// # Errors
    /// [`EngineError`] if it can't be read.
    pub(crate) async fn of(
        hatchet: &Hatchet,
        tenant: TenantId,
        run: Run,
        room: &mut Room,
    ) -> Result<Shown, EngineError> {
        let id = run.id;
        let asked = hatchet.engine().read(tenant, move |reader| reader.prefixed(Table::Child, &key::run(tenant, id)));
        let mut children = vec![0; run.tasks.len()];
        for (key, _) in asked.await? {
            let index = key::task_of(&key).map_or(0, |task| usize::from(task.index));
            if let Some(count) = children.get_mut(index) {
                *count += 1;
            }
        }
        let mut restricted = false;
        // Each task shows the input once more, and so does the run.
        let input_bytes = run.row.input.map_or(0, |input| input.bytes as usize) * (run.tasks.len() + 1);
        let input = if room.take(input_bytes) {
            object(&run.input(hatchet, tenant).await?)
        } else {
            restricted = true;
            empty()
        };
        let mut outputs = Vec::with_capacity(run.tasks.len());
        for (index, task) in run.tasks.iter().enumerate() {
            let bytes = 2 * task.output.map_or(0, |output| output.bytes as usize);
            outputs.push(if room.take(bytes) {
                object(&run.output(hatchet, tenant, index).await?.unwrap_or_default())
            } else {
                restricted = true;
                empty()
            });
        }
        Ok(Shown { tenant, run, input, outputs, children, restricted })
    }

    /// Everything.
    pub(crate) fn details(&self) -> RunDetails {
        RunDetails {
            run: self.overview(),
            task_events: history::of_run(&self.run),
            shape: self.shape(),
            tasks: (0..self.run.tasks.len()).map(|index| self.task(index)).collect(),
        }
    }

    /// The run by itself.
    fn overview(&self) -> RunOverview {
        let run = &self.run;
        let (started_at, finished_at) = self.times();
        RunOverview {
            metadata: self.meta(run.id.to_string(), started_at, finished_at),
            status: status_word(run.status()),
            tenant_id: self.tenant.to_string(),
            display_name: self.display_name(),
            workflow_id: names::workflow_id(self.tenant, &run.row.workflow),
            workflow_version_id: run.row.version.to_string(),
            input: self.input.clone(),
            output: self.output(),
            additional_metadata: self.noted(),
            created_at: Time(run.row.created_at),
            started_at: started_at.map(Time),
            finished_at: finished_at.map(Time),
            duration: duration(started_at, finished_at),
            error_message: self.error(),
            parent_task_external_id: self.parent(),
            payloads_restricted: self.restricted,
        }
    }

    /// The run as a row of a listing: a run of one task is that task.
    pub(crate) fn row(&self) -> TaskSummary {
        let run = &self.run;
        if run.tasks.len() == 1 {
            return TaskSummary { display_name: self.display_name(), ..self.task(0) };
        }
        let (started_at, finished_at) = self.times();
        let whole = self.summary(run.id.to_string(), TaskId { run: run.id, index: u16::MAX }, started_at, finished_at);
        TaskSummary {
            display_name: self.display_name(),
            output: self.output(),
            num_spawned_children: self.children.iter().sum(),
            status: status_word(run.status()),
            kind: "DAG",
            is_evicted: run.tasks.iter().any(is_evicted),
            error_message: self.error(),
            children: (0..run.tasks.len()).map(|index| self.task(index)).collect(),
            ..whole
        }
    }

    /// One of its tasks.
    pub(crate) fn task(&self, index: usize) -> TaskSummary {
        let run = &self.run;
        let task_id = TaskId { run: run.id, index: index as u16 };
        let Some(task) = run.tasks.get(index) else {
            return self.summary(run.id.to_string(), task_id, None, None);
        };
        let finished_at = if task.state.ended() { task.finished_at } else { None };
        let summary = self.summary(run.task_id(index), task_id, task.started_at, finished_at);
        let def = run.version.row.def.tasks.get(index);
        TaskSummary {
            display_name: display_name(run, index),
            output: self.outputs.get(index).cloned().unwrap_or_else(empty),
            num_spawned_children: self.children.get(index).copied().unwrap_or(0),
            status: status_word(task_status(task)),
            action_id: def.map(|def| def.action.clone()),
            step_id: Some(names::step_id(run.row.version, index)),
            retry_count: task.attempt.saturating_sub(1),
            attempt: task.attempt,
            is_durable: def.is_some_and(|def| def.durable),
            is_evicted: is_evicted(task),
            error_message: error_of(task),
            ..summary
        }
    }

    /// What a run and a task have in common.
    fn summary(&self, id: String, task: TaskId, started_at: Option<u64>, finished_at: Option<u64>) -> TaskSummary {
        let run = &self.run;
        let created_at = Time(run.row.created_at);
        TaskSummary {
            metadata: self.meta(id.clone(), started_at, finished_at),
            created_at,
            display_name: String::new(),
            input: self.input.clone(),
            output: empty(),
            num_spawned_children: 0,
            status: status_word(RunStatus::Queued),
            task_external_id: id,
            task_id: names::task_number(task),
            task_inserted_at: created_at,
            tenant_id: self.tenant.to_string(),
            kind: "TASK",
            workflow_id: names::workflow_id(self.tenant, &run.row.workflow),
            workflow_name: run.row.workflow.clone(),
            workflow_version_id: run.row.version.to_string(),
            workflow_run_external_id: run.id.to_string(),
            additional_metadata: self.noted(),
            action_id: None,
            step_id: None,
            retry_count: 0,
            attempt: 0,
            is_durable: false,
            is_evicted: false,
            started_at: started_at.map(Time),
            finished_at: finished_at.map(Time),
            duration: duration(started_at, finished_at),
            error_message: None,
            parent_task_external_id: self.parent(),
            payloads_restricted: self.restricted,
            children: Vec::new(),
        }
    }

    /// Which task leads to which.
    fn shape(&self) -> Vec<ShapeItem> {
        let run = &self.run;
        let defs = &run.version.row.def.tasks;
        let children_of = |parent: usize| {
            let children = defs.iter().enumerate();
            let children = children.filter(|(_, def)| def.parents.iter().any(|index| usize::from(*index) == parent));
            children.map(|(index, _)| names::step_id(run.row.version, index)).collect()
        };
        let item = |index: usize| ShapeItem {
            task_external_id: run.task_id(index),
            step_id: names::step_id(run.row.version, index),
            children_step_ids: children_of(index),
            task_name: run.task_name(index).to_owned(),
        };
        (0..run.tasks.len()).map(item).collect()
    }

    /// What the run ended with: what its only task did, or what each task did, by name.
    fn output(&self) -> Box<RawValue> {
        if let [only] = self.outputs.as_slice() {
            return only.clone();
        }
        let ended = |task: &TaskRow| matches!(task.state, TaskState::Completed | TaskState::Skipped);
        let tasks = self.run.tasks.iter().zip(&self.outputs).enumerate().filter(|(_, (task, _))| ended(task));
        let outputs: BTreeMap<&str, &RawValue> =
            tasks.map(|(index, (_, output))| (self.run.task_name(index), &**output)).collect();
        to_raw_value(&outputs).unwrap_or_else(|_| empty())
    }

    fn error(&self) -> Option<String> {
        let of = |wanted: TaskState| self.run.tasks.iter().filter(move |task| task.state == wanted).find_map(error_of);
        match self.run.status() {
            RunStatus::Failed => of(TaskState::Failed).or_else(|| self.run.row.error.clone()),
            RunStatus::Cancelled => of(TaskState::Cancelled).or_else(|| self.run.row.error.clone()),
            _ => None,
        }
    }

    /// When the first of its tasks began, and when the last ended.
    fn times(&self) -> (Option<u64>, Option<u64>) {
        let started_at = self.run.tasks.iter().filter_map(|task| task.started_at).min();
        (started_at, if self.run.done() { self.run.row.finished_at } else { None })
    }

    fn meta(&self, id: String, started_at: Option<u64>, finished_at: Option<u64>) -> Meta {
        let created_at = self.run.row.created_at;
        let updated_at = finished_at.or(started_at).unwrap_or(created_at).max(created_at);
        Meta { id, created_at: Time(created_at), updated_at: Time(updated_at) }
    }

    fn display_name(&self) -> String {
        format!("{}-{}", self.run.row.workflow, self.run.row.created_at)
    }

    fn noted(&self) -> Box<RawValue> {
        object(&self.run.metadata().unwrap_or_default())
    }

    fn parent(&self) -> Option<String> {
        self.run.row.child_of.as_ref().map(|child| names::parent_of(child).0)
    }
}

/// What a task is called where people read it.
pub(crate) fn display_name(run: &Run, index: usize) -> String {
    format!("{}-{}", run.task_name(index), run.row.created_at)
}

/// Why a task has ended, if it did not end well.
pub(crate) fn error_of(task: &TaskRow) -> Option<String> {
    let ended_ill = matches!(task.state, TaskState::Failed | TaskState::Cancelled);
    task.error.clone().filter(|error| ended_ill && !error.is_empty())
}

fn duration(started_at: Option<u64>, finished_at: Option<u64>) -> Option<u64> {
    Some(finished_at?.saturating_sub(started_at?))
}
