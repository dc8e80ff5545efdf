//! The judge: says of tasks with conditions on their parents, or with limits told by expressions, whether they run.
//!
//! A question may come twice (after a restart); so may the answer, which then changes nothing.

use std::time::Duration;

use mainspring_core::judge::Verdict;
use mainspring_core::rate::RateUse;
use mainspring_core::row::{PayloadRef, TaskState};
use mainspring_core::{Command, TaskId, TenantId};
use mainspring_engine::{EngineError, Questions};
use serde_json::{Map, Value, json};

use crate::catalog::Version;
use crate::definition::Task;
use crate::expression::{self, Ended, Environment, Parent};
use crate::mapping;
use crate::server::Hatchet;

/// The wait before a question is looked at again whose facts could not be read.
const AGAIN: Duration = Duration::from_millis(500);
/// Questions looked at at once.
const AT_ONCE: usize = 64;

/// Answers questions for as long as there is anybody who asks.
pub(crate) async fn answer(hatchet: Hatchet, mut questions: Questions) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    while let Some((tenant, task)) = questions.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let hatchet = hatchet.clone();
        tokio::spawn(async move {
            loop {
                match verdict(&hatchet, tenant, task).await {
                    Ok(Some(verdict)) => {
                        match hatchet.engine().submit(tenant, Command::Judge { task, verdict }).await {
                            Ok(_) | Err(EngineError::Refused(_) | EngineError::ShuttingDown) => break,
                            Err(error) => tracing::warn!(%task, %error, "a verdict was not taken; it is given again"),
                        }
                    }
                    Ok(None) | Err(EngineError::ShuttingDown) => break,
                    Err(EngineError::Missing { what }) => {
                        let error = format!("its conditions can't be evaluated: {what} is missing");
                        let _ = hatchet
                            .engine()
                            .submit(tenant, Command::Judge { task, verdict: Verdict::Fail { error } })
                            .await;
                        break;
                    }
                    Err(error) => tracing::warn!(%task, %error, "a verdict can't be found at the moment"),
                }
                tokio::time::sleep(AGAIN).await;
            }
            drop(slot);
        });
    }
}

/// The verdict on a task; `None` if nobody waits for it any more.
async fn verdict(hatchet: &Hatchet, tenant: TenantId, id: TaskId) -> Result<Option<Verdict>, EngineError> {
    let engine = hatchet.engine();
    let read = engine.read(tenant, move |reader| Ok((reader.run(tenant, id.run)?, reader.tasks(tenant, id.run)?)));
    let (Some(run), rows) = read.await? else { return Ok(None) };
    let judged = rows.get(usize::from(id.index)).map(|row| &row.state);
    if !matches!(judged, Some(TaskState::Judged { .. })) {
        return Ok(None);
    }
    let version = hatchet.catalog().version(engine, tenant, run.version).await?;
    let Some((task, names)) = definition_of(&version, id.index) else {
        let error = "its definition can't be read by this release".to_owned();
        return Ok(Some(Verdict::Fail { error }));
    };
    let input = match run.input {
        Some(input) => read_json(hatchet, tenant, input).await?,
        None => json!({}),
    };
    let metadata = run.metadata.as_deref().map_or_else(|| json!({}), |bytes| parsed(bytes));
    let mut outputs: Vec<(u16, TaskState, Value)> = Vec::new();
    for parent in &task.parents {
        let Some(row) = rows.get(usize::from(*parent)) else { continue };
        let output = match (&row.state, row.output) {
            (TaskState::Skipped, _) => json!({ "skipped": true }),
            (_, Some(output)) => read_json(hatchet, tenant, output).await?,
            (_, None) => Value::Null,
        };
        outputs.push((*parent, row.state.clone(), output));
    }
    let name = |index: u16| names.get(usize::from(index)).copied().unwrap_or_default();
    let ended: Vec<Parent<'_>> = outputs
        .iter()
        .map(|(index, state, output)| {
            let ended = match state {
                TaskState::Skipped => Ended::Skipped,
                TaskState::Failed => Ended::Failed,
                TaskState::Cancelled => Ended::Cancelled,
                // A task is judged when its parents have ended.
                _ => Ended::Completed(output),
            };
            Parent { task: *index, name: name(*index), ended }
        })
        .collect();
    let by_name: Map<String, Value> =
        outputs.iter().map(|(index, _, output)| (name(*index).to_owned(), output.clone())).collect();
    let (by_name, run_id) = (Value::Object(by_name), id.run.to_string());
    let environment = Environment::Task {
        input: &input,
        additional_metadata: &metadata,
        parents: &by_name,
        workflow_run_id: &run_id,
    };
    Ok(Some(match expression::decide(task, &ended) {
        expression::Verdict::Run { triggers } => match expression::rate_uses(task, &environment) {
            Ok(uses) => {
                // Those that need no expression are in the definition already.
                let told = uses.into_iter().zip(&task.rate_limits).filter(|(_, limit)| mapping::fixed(limit).is_none());
                let rates = told.map(|(rate, _)| RateUse {
                    name: rate.key,
                    units: rate.units,
                    sets: rate.limit.map(|limit| (limit, rate.window_ms)),
                });
                let grounds = triggers.as_object().filter(|triggers| !triggers.is_empty());
                Verdict::Run { rates: rates.collect(), grounds: grounds.map(|_| triggers.to_string().into()) }
            }
            Err(error) => Verdict::Fail { error },
        },
        expression::Verdict::Skip => Verdict::Skip,
        expression::Verdict::Cancel { reason } => Verdict::Cancel { reason },
        expression::Verdict::Fail { error } => Verdict::Fail { error },
    }))
}

/// The task of a version with this index, and the names of all.
fn definition_of(version: &Version, index: u16) -> Option<(&Task, Vec<&str>)> {
    let definition = version.definition.as_deref()?;
    let all: Vec<&Task> = definition.tasks.iter().chain(&definition.on_failure).collect();
    let names = all.iter().map(|task| task.name.as_str()).collect();
    Some((all.get(usize::from(index)).copied()?, names))
}

async fn read_json(hatchet: &Hatchet, tenant: TenantId, payload: PayloadRef) -> Result<Value, EngineError> {
    Ok(parsed(&hatchet.engine().payload(tenant, payload).await?))
}

/// What tasks end with is checked on the way in; nothing at all is `null`.
fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}
