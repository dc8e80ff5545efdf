//! What workers report of attempts: that one has begun, or how it ended; one at a time, or many in one call.
//!
//! Many are many single reports: the same checks, the same commands, decided together and so made durable together.

use futures_util::future::join_all;
use mainspring_core::command::Claim;
use mainspring_core::{Command, Refusal, TaskId, TenantId};
use mainspring_engine::EngineError;
use tonic::Status;

use super::dispatcher::named;
use crate::payload;
use crate::server::Hatchet;
use crate::status::{self, bad_field};
use crate::wire::root::{BatchActionEvent, BatchActionEventItem, StepActionEvent, StepActionEventType};

/// Reports in one call, at most: more than any batch of tasks has, and a fraction of what an inbox holds.
const REPORTS_MAX: usize = 10_000;

/// One report, and which attempt it is about.
pub(super) struct Report {
    kind: StepActionEventType,
    task: TaskId,
    attempt: u32,
    said: BatchActionEventItem,
}

impl Report {
    pub(super) fn of(event: StepActionEvent) -> Result<Report, Status> {
        let kind = event.event_type();
        let said = BatchActionEventItem {
            task_run_external_id: event.task_run_external_id,
            event_payload: event.event_payload,
            retry_count: event.retry_count,
            should_not_retry: event.should_not_retry,
            retry_after_ms: event.retry_after_ms,
        };
        Report::read(kind, said)
    }

    /// Every report of a call, or what is wrong with the first that can't be read: then none is taken.
    pub(super) fn all_of(event: BatchActionEvent) -> Result<Vec<Report>, Status> {
        let kind = event.event_type();
        if kind == StepActionEventType::StepEventTypeUnknown {
            return Err(without_meaning());
        }
        if event.items.len() > REPORTS_MAX {
            let text = format!("has {} reports: send {REPORTS_MAX} at most in one call", event.items.len());
            return Err(bad_field("items", &text));
        }
        event.items.into_iter().map(|said| Report::read(kind, said)).collect()
    }

    fn read(kind: StepActionEventType, said: BatchActionEventItem) -> Result<Report, Status> {
        let task = named(&said.task_run_external_id)?.task();
        let attempt = u32::try_from(said.retry_count.unwrap_or(0)).unwrap_or(0).saturating_add(1);
        Ok(Report { kind, task, attempt, said })
    }
}

impl Hatchet {
    /// Takes many reports. All are tried, whatever becomes of one of them.
    ///
    /// # Errors
    /// That of the first which was not taken. To send all of them again is safe: those that were are answered alike.
    pub(super) async fn take_reports(&self, tenant: TenantId, reports: Vec<Report>) -> Result<(), Status> {
        let taken = join_all(reports.into_iter().map(|report| self.take_report(tenant, report))).await;
        taken.into_iter().collect()
    }

    /// Takes one report; durable when it returns, but for a beginning, which is only remembered.
    pub(super) async fn take_report(&self, tenant: TenantId, report: Report) -> Result<(), Status> {
        let Report { kind, task, attempt, said } = report;
        // Some SDKs send their worker's name where its id belongs. The attempt says whose word counts: whenever a task goes
        // to another worker, that is another attempt.
        let claim = Claim { worker: None, task, attempt, invocation: None };
        let ended = match kind {
            StepActionEventType::StepEventTypeUnknown => return Err(without_meaning()),
            StepActionEventType::StepEventTypeStarted | StepActionEventType::StepEventTypeAcknowledged => {
                self.acks().begun(tenant, task, attempt);
                None
            }
            StepActionEventType::StepEventTypeCompleted => Some(completed(claim, said.event_payload)),
            StepActionEventType::StepEventTypeFailed => Some(Command::Fail {
                claim,
                error: readable(said.event_payload),
                retry: !said.should_not_retry.unwrap_or(false),
                after_ms: said.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()),
            }),
            StepActionEventType::StepEventTypeCancelled => {
                let found = self.engine().task(tenant, task).await;
                let current = found.map_err(|error| status::failed(&error))?.is_some_and(|row| row.attempt == attempt);
                current.then(|| Command::CancelTask { task, reason: "its worker cancelled it".to_owned() })
            }
        };
        let Some(command) = ended else { return Ok(()) };
        self.acks().over(tenant, task);
        self.end(tenant, claim, command).await
    }

    /// Takes the end of an attempt. One that comes late or again is answered like the first: an error would make a
    /// worker report something else instead.
    async fn end(&self, tenant: TenantId, claim: Claim, command: Command) -> Result<(), Status> {
        match self.engine().submit(tenant, command).await {
            Ok(_) => Ok(()),
            Err(EngineError::Refused(Refusal::StaleClaim { .. } | Refusal::NoRun { .. } | Refusal::NoTask { .. })) => {
                self.must_exist(tenant, claim.task).await
            }
            // It must not be left running because of what it ended with.
            Err(EngineError::Refused(refusal)) => {
                let error = format!("what it ended with was refused: {refusal}");
                let fail = Command::Fail { claim, error, retry: false, after_ms: None };
                match self.engine().submit(tenant, fail).await {
                    Ok(_) | Err(EngineError::Refused(_)) => Ok(()),
                    Err(error) => Err(status::failed(&error)),
                }
            }
            Err(error) => Err(status::failed(&error)),
        }
    }
}

fn without_meaning() -> Status {
    bad_field("event_type", "has no meaning: send what happened to the task")
}

/// The end of an attempt whose output has come: a failure if that can't be kept.
fn completed(claim: Claim, output: String) -> Command {
    // A function that returns nothing sends nothing.
    if output.is_empty() {
        return Command::Complete { claim, output: bytes::Bytes::new() };
    }
    match payload::check(&output) {
        Ok(()) => Command::Complete { claim, output: output.into() },
        Err(why) => Command::Fail { claim, error: format!("the output {why}"), retry: true, after_ms: None },
    }
}

/// An error's text goes through as it came, but for what no store bears.
fn readable(error: String) -> String {
    if error.contains('\0') { error.replace('\0', "\u{fffd}") } else { error }
}
