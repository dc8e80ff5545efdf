//! What happened to a task, as far as its row still tells: of each kind of thing the last that happened.

use mainspring_core::row::{TaskRow, TaskState};

use super::models::TaskEvent;
use super::shown::{display_name, error_of};
use super::time::Time;
use crate::details::Run;

/// How the core says that an attempt took too long.
const TIMED_OUT: &str = "the attempt exceeded its timeout";
/// How it says that no worker came.
const NOT_SCHEDULED: &str = "no worker offering";

/// Of all tasks, in the order of time.
pub(crate) fn of_run(run: &Run) -> Vec<TaskEvent> {
    numbered((0..run.tasks.len()).flat_map(|index| of_task(run, index)).collect())
}

/// Of one task, in the order of time.
pub(crate) fn of_one(run: &Run, index: usize) -> Vec<TaskEvent> {
    numbered(of_task(run, index))
}

fn numbered(mut events: Vec<TaskEvent>) -> Vec<TaskEvent> {
    events.sort_by_key(|event| event.timestamp);
    for (number, event) in events.iter_mut().enumerate() {
        event.id = number as u64 + 1;
    }
    events
}

fn of_task(run: &Run, index: usize) -> Vec<TaskEvent> {
    let Some(task) = run.tasks.get(index) else { return Vec::new() };
    let event = |event_type: &'static str, at: u64, message: &str| TaskEvent {
        id: 0,
        task_id: run.task_id(index),
        timestamp: Time(at),
        event_type,
        message: message.to_owned(),
        error_message: None,
        worker_id: None,
        task_display_name: display_name(run, index),
        retry_count: task.attempt.saturating_sub(1),
        attempt: task.attempt,
    };
    let created_at = run.row.created_at;
    let mut events = vec![event("CREATED", created_at, "created")];
    if let Some(at) = task.queued_at {
        events.push(event("QUEUED", at, "waits for a worker"));
    }
    if let Some(at) = task.started_at.filter(|_| task.attempt > 0) {
        let worker_id = task.worker.map(|worker| worker.to_string());
        if task.attempt > 1 {
            events.push(event("RETRYING", at, &format!("attempt {}", task.attempt)));
        }
        events.push(TaskEvent { worker_id: worker_id.clone(), ..event("ASSIGNED", at, "given to a worker") });
        if task.state.ended() || task.acknowledged == task.invocation {
            events.push(TaskEvent { worker_id, ..event("STARTED", at, "its worker began") });
        }
        if task.slots_released {
            events.push(event("SLOT_RELEASED", at, "goes on without its slots"));
        }
    }
    events.extend(last(task).into_iter().map(|(event_type, message)| {
        let at = task.finished_at.or(task.started_at).unwrap_or(created_at);
        TaskEvent { error_message: error_of(task), ..event(event_type, at, message) }
    }));
    events
}

/// How it ended.
fn last(task: &TaskRow) -> Vec<(&'static str, &'static str)> {
    let why = task.error.as_deref().unwrap_or("");
    match task.state {
        TaskState::Completed => vec![("FINISHED", "completed")],
        TaskState::Skipped => vec![("SKIPPED", "was not needed")],
        TaskState::Failed if why.starts_with(TIMED_OUT) => vec![("TIMED_OUT", "took too long"), ("FAILED", "failed")],
        TaskState::Failed => vec![("FAILED", "failed")],
        TaskState::Cancelled if why.starts_with(NOT_SCHEDULED) => {
            vec![("SCHEDULING_TIMED_OUT", "no worker took it in time"), ("CANCELLED", "cancelled")]
        }
        TaskState::Cancelled => vec![("CANCELLED", "cancelled")],
        TaskState::Blocked
        | TaskState::Judged { .. }
        | TaskState::Queued { .. }
        | TaskState::Running { .. }
        | TaskState::Suspended { .. }
        | TaskState::Backoff { .. }
        | TaskState::Parked => Vec::new(),
    }
}
