//! A run as the wire tells of it: its status, derived from its tasks', and what came of each.

use std::sync::Arc;

use bytes::Bytes;
use mainspring_core::row::{EventRef, PayloadRef, RunRow, RunState, TaskRow, TaskState};
use mainspring_core::{RunId, TaskId, TenantId};
use mainspring_engine::EngineError;
use serde_json::{Map, Value};

use crate::catalog::Version;
use crate::names;
use crate::server::Hatchet;
use crate::wire::v1::RunStatus;

/// What a task that was skipped has for an output.
pub(crate) const SKIPPED: &str = "{\"skipped\":true}";

/// A run with its tasks.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Its id.
    pub id: RunId,
    /// Its row.
    pub row: Arc<RunRow>,
    /// Its tasks' rows, in order.
    pub tasks: Vec<TaskRow>,
    /// The version it executes.
    pub version: Version,
}

impl Run {
    /// Reads a run; `None` if there is none.
    ///
    /// # Errors
    /// [`EngineError`] if it can't be read.
    pub(crate) async fn read(hatchet: &Hatchet, tenant: TenantId, id: RunId) -> Result<Option<Run>, EngineError> {
        let engine = hatchet.engine();
        let found = engine.read(tenant, move |reader| {
            let Some(row) = reader.run(tenant, id)? else { return Ok(None) };
            Ok(Some((row, reader.tasks(tenant, id)?)))
        });
        let Some((row, tasks)) = found.await? else { return Ok(None) };
        let version = hatchet.catalog().version(engine, tenant, row.version).await?;
        Ok(Some(Run { id, row: Arc::new(row), tasks, version }))
    }

    /// The name of a task.
    pub(crate) fn task_name(&self, index: usize) -> &str {
        self.version.row.def.tasks.get(index).map_or("", |task| task.name.as_str())
    }

    /// The id of a task.
    pub(crate) fn task_id(&self, index: usize) -> String {
        names::task_id(TaskId { run: self.id, index: index as u16 }, self.tasks.len())
    }

    /// Its status. A run of which a task has failed has failed, even while others go on: whether it is over is another
    /// question.
    pub(crate) fn status(&self) -> RunStatus {
        let mut statuses = self.tasks.iter().map(task_status);
        let Some(first) = statuses.next() else { return RunStatus::Queued };
        let statuses: Vec<RunStatus> = std::iter::once(first).chain(statuses).collect();
        let any = |wanted: RunStatus| statuses.contains(&wanted);
        if statuses.iter().all(|status| *status == first) {
            first
        } else if any(RunStatus::Failed) {
            RunStatus::Failed
        } else if any(RunStatus::Running) || any(RunStatus::Queued) {
            RunStatus::Running
        } else if any(RunStatus::Cancelled) {
            RunStatus::Cancelled
        } else {
            RunStatus::Completed
        }
    }

    /// Whether it is over.
    pub(crate) fn done(&self) -> bool {
        self.row.state.ended()
    }

    /// Its metadata, with what is added for a run that an event started.
    pub(crate) fn metadata(&self) -> Option<Bytes> {
        metadata(self.row.metadata.as_ref(), self.row.event.as_ref())
    }

    /// What a task ended with: JSON, or nothing.
    ///
    /// # Errors
    /// [`EngineError`] if it can't be read.
    pub(crate) async fn output(
        &self,
        hatchet: &Hatchet,
        tenant: TenantId,
        index: usize,
    ) -> Result<Option<Bytes>, EngineError> {
        let Some(task) = self.tasks.get(index) else { return Ok(None) };
        match (&task.state, task.output) {
            (TaskState::Skipped, _) => Ok(Some(Bytes::from_static(SKIPPED.as_bytes()))),
            (TaskState::Completed, Some(output)) => {
                Ok(Some(payload(hatchet, tenant, output).await?).filter(|output| !output.is_empty()))
            }
            _ => Ok(None),
        }
    }

    /// Its input: JSON.
    ///
    /// # Errors
    /// [`EngineError`] if it can't be read.
    pub(crate) async fn input(&self, hatchet: &Hatchet, tenant: TenantId) -> Result<Bytes, EngineError> {
        match self.row.input {
            Some(input) => payload(hatchet, tenant, input).await,
            None => Ok(Bytes::from_static(b"{}")),
        }
    }
}

async fn payload(hatchet: &Hatchet, tenant: TenantId, payload: PayloadRef) -> Result<Bytes, EngineError> {
    if payload.bytes == 0 {
        return Ok(Bytes::new());
    }
    hatchet.engine().payload(tenant, payload).await
}

/// The status of a task. The wire has fewer words: what waits is queued, for whatever it waits.
pub(crate) fn task_status(task: &TaskRow) -> RunStatus {
    match task.state {
        TaskState::Blocked | TaskState::Judged { .. } | TaskState::Queued { .. } | TaskState::Backoff { .. } => {
            RunStatus::Queued
        }
        TaskState::Running { .. } | TaskState::Suspended { .. } | TaskState::Parked => RunStatus::Running,
        TaskState::Completed | TaskState::Skipped => RunStatus::Completed,
        TaskState::Failed => RunStatus::Failed,
        TaskState::Cancelled => RunStatus::Cancelled,
    }
}

/// Whether a task's function left memory.
pub(crate) fn is_evicted(task: &TaskRow) -> bool {
    matches!(task.state, TaskState::Suspended { .. })
}

/// The status word of REST answers and filters.
pub(crate) fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Queued => "QUEUED",
        RunStatus::Running | RunStatus::Evicted => "RUNNING",
        RunStatus::Completed => "COMPLETED",
        RunStatus::Failed => "FAILED",
        RunStatus::Cancelled => "CANCELLED",
    }
}

/// The status of a run whose tasks are not looked at.
pub(crate) fn rough_status(state: RunState) -> RunStatus {
    match state {
        RunState::Queued => RunStatus::Queued,
        RunState::Running | RunState::Parked => RunStatus::Running,
        RunState::Completed | RunState::Superseded => RunStatus::Completed,
        RunState::Failed => RunStatus::Failed,
        RunState::Cancelled => RunStatus::Cancelled,
    }
}

/// Metadata as it is shown: what was noted, and the event that started the run.
pub(crate) fn metadata(noted: Option<&Bytes>, event: Option<&EventRef>) -> Option<Bytes> {
    let Some(event) = event else { return noted.cloned() };
    let mut fields: Map<String, Value> = noted.and_then(|noted| serde_json::from_slice(noted).ok()).unwrap_or_default();
    fields.insert("hatchet__event_id".to_owned(), names::event_ref_id(event).into());
    fields.insert("hatchet__event_key".to_owned(), event.name.clone().into());
    Some(Value::Object(fields).to_string().into())
}
