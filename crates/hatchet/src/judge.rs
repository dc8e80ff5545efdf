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
                            Ok(_) => break,
                            Err(EngineError::Refused(_) | EngineError::ShuttingDown | EngineError::Stopped { .. }) => {
                                break;
                            }
                            Err(error) => tracing::warn!(%task, %error, "a verdict was not taken; it is given again"),
                        }
                    }
                    Ok(None) | Err(EngineError::ShuttingDown | EngineError::Stopped { .. }) => break,
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
    let Some(definition) = version.definition else {
        let error = "its definition can't be read by this release".to_owned();
        return Ok(Some(Verdict::Fail { error }));
    };
    let all = definition.tasks.iter().chain(&definition.on_failure);
    let Some(task) = all.clone().nth(usize::from(id.index)).cloned() else {
        return Err(EngineError::Missing { what: format!("the definition of task {id}") });
    };
    let input = match run.input {
        Some(input) => read_json(hatchet, tenant, input).await?,
        None => json!({}),
    };
    let mut parents = Vec::new();
    for (index, parent) in all.enumerate().filter(|(index, _)| task.parents.contains(&(*index as u16))) {
        let Some(row) = rows.get(index) else { continue };
        let output = match (&row.state, row.output) {
            (TaskState::Skipped, _) => json!({ "skipped": true }),
            (_, Some(output)) => read_json(hatchet, tenant, output).await?,
            (_, None) => Value::Null,
        };
        let (name, state) = (parent.name.clone(), row.state.clone());
        parents.push(ParentFact { index: index as u16, name, state, output });
    }
    let metadata = run.metadata.as_deref().map_or_else(|| json!({}), parsed);
    let facts = Facts { task, run_id: id.run.to_string(), input, metadata, parents };
    // An expression may take as long as its limit of work allows, which is too long for a thread that others share.
    let verdict = tokio::task::spawn_blocking(move || facts.verdict()).await;
    Ok(Some(verdict.unwrap_or_else(|_| Verdict::Fail { error: "its conditions can't be evaluated".to_owned() })))
}

/// Everything a verdict is founded on.
struct Facts {
    task: Task,
    run_id: String,
    input: Value,
    metadata: Value,
    parents: Vec<ParentFact>,
}

/// A parent that has ended.
struct ParentFact {
    index: u16,
    name: String,
    state: TaskState,
    output: Value,
}

impl Facts {
    fn verdict(&self) -> Verdict {
        let parents: Vec<Parent<'_>> = self.parents.iter().map(ParentFact::ended).collect();
        match expression::decide(&self.task, &parents) {
            expression::Verdict::Run { triggers } => self.run(&triggers),
            expression::Verdict::Skip => Verdict::Skip,
            expression::Verdict::Cancel { reason } => Verdict::Cancel { reason },
            expression::Verdict::Fail { error } => Verdict::Fail { error },
        }
    }

    /// It runs, with what it takes from limits.
    fn run(&self, triggers: &Value) -> Verdict {
        let outputs = self.parents.iter().map(|parent| (parent.name.clone(), parent.output.clone()));
        let outputs = Value::Object(outputs.collect::<Map<String, Value>>());
        let uses = expression::rate_uses(
            &self.task,
            &Environment::Task {
                input: &self.input,
                additional_metadata: &self.metadata,
                parents: &outputs,
                workflow_run_id: &self.run_id,
            },
        );
        let uses = match uses {
            Ok(uses) => uses,
            Err(error) => return Verdict::Fail { error },
        };
        // Those that need no expression are in the definition already.
        let told = uses.into_iter().zip(&self.task.rate_limits).filter(|(_, limit)| mapping::fixed(limit).is_none());
        let rates = told.map(|(rate, _)| RateUse {
            name: rate.key,
            units: rate.units,
            sets: rate.limit.map(|limit| (limit, rate.window_ms)),
        });
        let any = triggers.as_object().is_some_and(|triggers| !triggers.is_empty());
        Verdict::Run { rates: rates.collect(), grounds: any.then(|| triggers.to_string().into()) }
    }
}

impl ParentFact {
    fn ended(&self) -> Parent<'_> {
        let ended = match self.state {
            TaskState::Skipped => Ended::Skipped,
            TaskState::Failed => Ended::Failed,
            TaskState::Cancelled => Ended::Cancelled,
            // A task is judged when its parents have ended.
            _ => Ended::Completed(&self.output),
        };
        Parent { task: self.index, name: &self.name, ended }
    }
}

async fn read_json(hatchet: &Hatchet, tenant: TenantId, payload: PayloadRef) -> Result<Value, EngineError> {
    Ok(parsed(&hatchet.engine().payload(tenant, payload).await?))
}

/// What tasks end with is checked on the way in; nothing at all is `null`.
fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}
