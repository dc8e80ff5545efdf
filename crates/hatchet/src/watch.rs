//! Those who wait for runs: results pushed when a run ends, and everything that happens in one, as it happens.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mainspring_core::row::{RunState, TaskState};
use mainspring_core::{Refusal, RunId, TaskChange, TaskId, TenantId};
use mainspring_engine::{EngineError, RunNotice};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::Instant;
use tonic::Status;

use crate::details::Run;
use crate::names::{self, Named};
use crate::server::{Hatchet, unread};
use crate::stream::timestamp;
use crate::wire::root::{
    ResourceEventType, ResourceType, StepRunResult, WorkflowEvent, WorkflowRunEvent, WorkflowRunEventType,
};

/// How long what a task says waits for what it said before, when that is late on its way.
const GAP: Duration = Duration::from_secs(5);
/// Things said that wait for one that is missing. Beyond that the gap is taken as it is.
const WAITING_MAX: usize = 100;

/// Bytes of a result's outputs and errors. What clients take in one message, less some for what stands around them.
const RESULT_BYTES_MAX: usize = 3 * 1024 * 1024 + 512 * 1024;

/// Waits for the end of a run and tells the result, with the leave to have read it. A run that is not there is never
/// told of.
pub(crate) async fn result<'a>(
    hatchet: Hatchet,
    tenant: TenantId,
    id: RunId,
    reading: &'a Semaphore,
) -> Result<Option<(WorkflowRunEvent, Option<SemaphorePermit<'a>>)>, Status> {
    let (run, held) = loop {
        match hatchet.engine().wait_run(tenant, id).await {
            Ok(_) => {}
            Err(EngineError::Refused(Refusal::NoRun { .. })) => return Ok(None),
            Err(error) => return Err(unread(error)),
        }
        let held = reading.acquire().await.ok();
        match Run::read(&hatchet, tenant, id).await.map_err(unread)? {
            Some(run) if run.done() => break (run, held),
            // It runs again already.
            Some(_) => {}
            None => return Ok(None),
        }
    };
    let mut left = RESULT_BYTES_MAX;
    let mut results = Vec::with_capacity(run.tasks.len());
    for (index, task) in run.tasks.iter().enumerate() {
        let (output, unreadable) = match run.output(&hatchet, tenant, index).await {
            Ok(output) => (output, None),
            // It stays missing, whoever asks again.
            Err(error @ EngineError::Missing { .. }) => (None, Some(error.to_string())),
            Err(error) => return Err(unread(error)),
        };
        let error = match task.state {
            TaskState::Failed => Some(task.error.clone().unwrap_or_default()),
            // Whoever waits for what was cancelled is not to be thrown an error at.
            TaskState::Cancelled => Some(String::new()),
            _ => unreadable,
        };
        let bytes = output.as_ref().map_or(0, Bytes::len) + error.as_ref().map_or(0, String::len);
        let (output, error) = match left.checked_sub(bytes) {
            Some(rest) => {
                left = rest;
                (output, error)
            }
            // Too much for one message would end the stream, again and again, with everybody who waits on it.
            None => {
                let text =
                    format!("the result has {bytes} bytes more, which is too much for one message: read the run");
                (None, Some(text))
            }
        };
        results.push(StepRunResult {
            task_run_external_id: run.task_id(index),
            task_name: run.task_name(index).to_owned(),
            job_run_id: run.task_id(index),
            error,
            output: output.map(|output| String::from_utf8_lossy(&output).into_owned()),
        });
    }
    let event = WorkflowRunEvent {
        workflow_run_id: id.to_string(),
        event_type: WorkflowRunEventType::Finished.into(),
        event_timestamp: Some(timestamp(run.row.finished_at.unwrap_or(0))),
        results,
    };
    Ok(Some((event, held)))
}

/// Tells everything that happens in a run from now on, until it ends.
pub(crate) async fn events(
    hatchet: Hatchet,
    tenant: TenantId,
    named: Named,
    out: mpsc::Sender<Result<WorkflowEvent, Status>>,
) {
    let id = named.run();
    // Before the look at how it stands, so that nothing falls in between.
    let mut notices = hatchet.engine().hub().watch(tenant, id);
    let mut watcher = Watcher { hatchet, tenant, id, out, said: BTreeMap::new() };
    match Run::read(&watcher.hatchet, tenant, id).await {
        Ok(Some(run)) if run.done() => {
            let _ = watcher.ended(run.row.state).await;
            return;
        }
        Ok(_) => {}
        Err(error) => {
            // Any other error ends the process of whoever watches with the TypeScript SDK.
            let _ = watcher.out.send(Err(Status::unavailable(error.to_string()))).await;
            return;
        }
    }
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = watcher.out.closed() => return,
            () = due(watcher.next_gap()) => {
                if watcher.pass_gaps().await.is_err() {
                    return;
                }
                continue;
            }
        };
        let told = match notice {
            Ok(RunNotice::Task { task, attempt, change }) => watcher.task(task, attempt, change).await,
            Ok(RunNotice::Said { task, index, message }) => watcher.said(task, index, message).await,
            Ok(RunNotice::Ended(state)) => {
                let _ = watcher.ended(state).await;
                return;
            }
            // The end may be among what was missed.
            Err(RecvError::Lagged(_)) => match Run::read(&watcher.hatchet, tenant, id).await {
                Ok(Some(run)) if run.done() => {
                    let _ = watcher.ended(run.row.state).await;
                    return;
                }
                _ => Ok(()),
            },
            Err(RecvError::Closed) => return,
        };
        if told.is_err() {
            return;
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What one task says: each thing has a number, and may overtake another on its way.
#[derive(Default)]
struct Said {
    /// The number that is due, once anything was heard: whoever comes late does not wait for the beginning.
    next: Option<i64>,
    waiting: BTreeMap<i64, Bytes>,
    since: Option<Instant>,
}

struct Watcher {
    hatchet: Hatchet,
    tenant: TenantId,
    id: RunId,
    out: mpsc::Sender<Result<WorkflowEvent, Status>>,
    said: BTreeMap<TaskId, Said>,
}

/// The watcher has gone.
struct Gone;

impl Watcher {
    async fn send(&self, event: WorkflowEvent) -> Result<(), Gone> {
        self.out.send(Ok(event)).await.map_err(|_| Gone)
    }

    fn event(&self, event_type: ResourceEventType) -> WorkflowEvent {
        WorkflowEvent {
            workflow_run_id: self.id.to_string(),
            resource_type: ResourceType::StepRun.into(),
            event_type: event_type.into(),
            event_timestamp: Some(timestamp(self.hatchet.engine().world().now_ms())),
            ..WorkflowEvent::default()
        }
    }

    async fn task(&mut self, task: TaskId, attempt: u32, change: TaskChange) -> Result<(), Gone> {
        let run = Run::read(&self.hatchet, self.tenant, self.id).await.ok().flatten();
        let Some(run) = run else { return Ok(()) };
        let index = usize::from(task.index);
        let (event_type, payload) = match change {
            TaskChange::Started => (ResourceEventType::Started, String::new()),
            TaskChange::Completed | TaskChange::Skipped => {
                let output = run.output(&self.hatchet, self.tenant, index).await.ok().flatten();
                let text = output.map(|output| String::from_utf8_lossy(&output).into_owned());
                (ResourceEventType::Completed, text.unwrap_or_default())
            }
            TaskChange::Failed { .. } => {
                let error = run.tasks.get(index).and_then(|task| task.error.clone());
                (ResourceEventType::Failed, error.unwrap_or_default())
            }
            TaskChange::Cancelled => (ResourceEventType::Cancelled, String::new()),
        };
        // Whatever it said goes before its end.
        if change != TaskChange::Started {
            self.flush(Some(task)).await?;
        }
        let retries = run.version.row.def.tasks.get(index).map(|def| def.retry.attempts_max.saturating_sub(1) as i32);
        let event = WorkflowEvent {
            resource_id: run.task_id(index),
            event_payload: payload,
            task_retries: retries,
            retry_count: Some(attempt.saturating_sub(1) as i32),
            ..self.event(event_type)
        };
        self.send(event).await
    }

    async fn said(&mut self, task: TaskId, index: Option<i64>, message: Bytes) -> Result<(), Gone> {
        let Some(index) = index else { return self.tell(task, None, message).await };
        let said = self.said.entry(task).or_default();
        let next = *said.next.get_or_insert(index);
        // A number that was there before is a repeat, or another attempt that begins to count anew.
        if index < next {
            if index == 0 {
                said.next = Some(1);
                return self.tell(task, Some(index), message).await;
            }
            return Ok(());
        }
        said.waiting.insert(index, message);
        said.since.get_or_insert_with(Instant::now);
        if said.waiting.len() > WAITING_MAX {
            said.next = said.waiting.keys().next().copied();
        }
        self.in_order(task).await
    }

    /// Tells what is due, up to the next that is missing.
    async fn in_order(&mut self, task: TaskId) -> Result<(), Gone> {
        loop {
            let Some(said) = self.said.get_mut(&task) else { return Ok(()) };
            let Some(next) = said.next else { return Ok(()) };
            let Some(message) = said.waiting.remove(&next) else {
                said.since = if said.waiting.is_empty() { None } else { said.since.or_else(|| Some(Instant::now())) };
                return Ok(());
            };
            said.next = Some(next.saturating_add(1));
            said.since = None;
            self.tell(task, Some(next), message).await?;
        }
    }

    fn next_gap(&self) -> Option<Instant> {
        self.said.values().filter_map(|said| said.since).min().map(|since| since + GAP)
    }

    /// What was missing for too long is taken to be lost.
    async fn pass_gaps(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        let late = self.said.iter().filter(|(_, said)| said.since.is_some_and(|since| since + GAP <= now));
        for task in late.map(|(task, _)| *task).collect::<Vec<_>>() {
            if let Some(said) = self.said.get_mut(&task) {
                said.next = said.waiting.keys().next().copied().or(said.next);
            }
            self.in_order(task).await?;
        }
        Ok(())
    }

    /// Tells all that waits, gaps or not: of one task, or of all.
    async fn flush(&mut self, only: Option<TaskId>) -> Result<(), Gone> {
        let tasks: Vec<TaskId> =
            self.said.keys().copied().filter(|task| only.is_none_or(|only| only == *task)).collect();
        for task in tasks {
            while let Some((index, message)) = self.said.get_mut(&task).and_then(|said| said.waiting.pop_first()) {
                self.tell(task, Some(index), message).await?;
            }
            self.said.remove(&task);
        }
        Ok(())
    }

    async fn tell(&self, task: TaskId, index: Option<i64>, message: Bytes) -> Result<(), Gone> {
        let tasks = usize::from(task.index) + 1;
        let named = if tasks == 1 { self.id.to_string() } else { names::task_id(task, tasks) };
        let event = WorkflowEvent {
            resource_id: named,
            event_payload: String::from_utf8_lossy(&message).into_owned(),
            event_index: index,
            ..self.event(ResourceEventType::Stream)
        };
        self.send(event).await
    }

    async fn ended(&mut self, state: RunState) -> Result<(), Gone> {
        self.flush(None).await?;
        let event_type = match state {
            RunState::Failed => ResourceEventType::Failed,
            RunState::Cancelled => ResourceEventType::Cancelled,
            _ => ResourceEventType::Completed,
        };
        let event = WorkflowEvent {
            resource_type: ResourceType::WorkflowRun.into(),
            resource_id: self.id.to_string(),
            hangup: true,
            ..self.event(event_type)
        };
        self.send(event).await
    }
}
