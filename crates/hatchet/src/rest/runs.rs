//! Runs: looked at one by one, listed, started.

use axum::Json;
use mainspring_core::WorkerId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::models::{List, Pagination, RunDetails, TaskEvent, TaskSummary};
use super::problem::Problem;
use super::shown::{Room, Shown};
use super::{Answer, Body, Call, history};
use crate::control::{self, CANCEL_MAX, Filter, metadata_pair, statuses_of};
use crate::details::{Run, status_word, task_status};
use crate::names::{self, Named};
use crate::service::workflows::start_of;
use crate::wire::v1::{RunStatus, TriggerWorkflowRequest};

/// What one run is, with its tasks.
pub(super) async fn show(call: Call) -> Answer<RunDetails> {
    let (_, run) = call.run("v1-workflow-run", "run").await?;
    details(&call, run).await
}

async fn details(call: &Call, run: Run) -> Answer<RunDetails> {
    let shown = Shown::of(&call.hatchet, call.tenant, run, &mut Room::new(true)).await?;
    Ok(Json(shown.details()))
}

/// How a run stands: one word.
pub(super) async fn status(call: Call) -> Answer<&'static str> {
    let (_, run) = call.run("v1-workflow-run", "run").await?;
    Ok(Json(status_word(run.status())))
}

/// What happened in a run.
pub(super) async fn events(call: Call) -> Answer<List<TaskEvent>> {
    let (_, run) = call.run("v1-workflow-run", "run").await?;
    let (offset, limit) = call.page()?;
    let events = history::of_run(&run);
    let pagination = Pagination::of_total(offset, limit, events.len());
    Ok(Json(List { pagination, rows: events.into_iter().skip(offset).take(limit).collect() }))
}

/// Runs, or all their tasks, newest first.
pub(super) async fn list(call: Call) -> Answer<List<TaskSummary>> {
    let (offset, limit) = call.page()?;
    let filter = filter(&call)?;
    let mut room = Room::new(call.flag("include_payloads", true)?);
    let mut rows = Vec::new();
    let more;
    if call.flag("only_tasks", false)? {
        let tasks = tasks(&call, filter, offset, limit + 1).await?;
        more = tasks.len() > limit;
        for (run, indices) in by_run(tasks.into_iter().take(limit)) {
            let shown = Shown::of(&call.hatchet, call.tenant, run, &mut room).await?;
            rows.extend(indices.into_iter().map(|index| shown.task(index)));
        }
    } else {
        let mut runs = control::list(&call.hatchet, call.tenant, &filter, offset, limit + 1).await?;
        more = runs.len() > limit;
        runs.truncate(limit);
        for run in runs {
            rows.push(Shown::of(&call.hatchet, call.tenant, run, &mut room).await?.row());
        }
    }
    Ok(Json(List { pagination: Pagination::of(offset, limit, more), rows }))
}

/// Ids of the runs that fit a filter.
pub(super) async fn ids(call: Call) -> Answer<Vec<String>> {
    let mut ids = Vec::new();
    control::scan(&call.hatchet, call.tenant, &filter(&call)?, |run| {
        ids.push(run.id.to_string());
        ids.len() < CANCEL_MAX
    })
    .await?;
    Ok(Json(ids))
}

/// `V1TriggerWorkflowRunRequest`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trigger {
    workflow_name: String,
    input: Box<RawValue>,
    additional_metadata: Option<Box<RawValue>>,
    priority: Option<i32>,
}

/// Starts a run.
pub(super) async fn trigger(call: Call, Body(trigger): Body<Trigger>) -> Answer<RunDetails> {
    let request = TriggerWorkflowRequest {
        name: trigger.workflow_name,
        input: trigger.input.get().to_owned(),
        additional_metadata: trigger.additional_metadata.map(|metadata| metadata.get().to_owned()),
        priority: trigger.priority,
        ..TriggerWorkflowRequest::default()
    };
    let id = call.hatchet.start_run(call.tenant, start_of("", request)?).await?;
    let run = Run::read(&call.hatchet, call.tenant, id).await?;
    details(&call, run.ok_or_else(|| Problem::not_found("run", &id.to_string()))?).await
}

/// What the parameters ask for.
fn filter(call: &Call) -> Result<Filter, Problem> {
    let words: Vec<String> = call.parameters("statuses").map(str::to_owned).collect();
    let pair = |text: &str| {
        let bad = || Problem::field("additional_metadata", &format!("{text:?} is no pair: write key:value"));
        metadata_pair(text).ok_or_else(bad)
    };
    Ok(Filter {
        statuses: statuses_of(&words)?,
        since: call.time("since")?,
        until: call.time("until")?,
        workflow_ids: call.parameters("workflow_ids").map(str::to_owned).collect(),
        metadata: call.parameters("additional_metadata").map(pair).collect::<Result<_, Problem>>()?,
        parent: call.parsed("parent_task_external_id", "id", Named::parse)?,
        event: call.parsed("triggering_event_external_id", "event's id", names::event_seq)?,
        by_event: false,
        worker: call.parsed("worker_id", "id", |text| text.parse::<WorkerId>().ok())?,
    })
}

/// Tasks that fit: a run may fit for one of its tasks and not for another.
async fn tasks(call: &Call, filter: Filter, skip: usize, limit: usize) -> Result<Vec<(Run, usize)>, Problem> {
    let (statuses, worker) = (filter.statuses, filter.worker);
    let filter = Filter { statuses: Vec::<RunStatus>::new(), worker: None, ..filter };
    let (mut found, mut skipped) = (Vec::new(), 0);
    control::scan(&call.hatchet, call.tenant, &filter, |run| {
        for (index, task) in run.tasks.iter().enumerate() {
            let status = statuses.is_empty() || statuses.contains(&task_status(task));
            if !status || worker.is_some_and(|worker| task.worker != Some(worker)) {
                continue;
            }
            if skipped < skip {
                skipped += 1;
            } else if found.len() < limit {
                found.push((run.clone(), index));
            }
        }
        found.len() < limit
    })
    .await?;
    Ok(found)
}

/// Tasks that follow each other and are of one run, together.
fn by_run(tasks: impl Iterator<Item = (Run, usize)>) -> Vec<(Run, Vec<usize>)> {
    let mut runs: Vec<(Run, Vec<usize>)> = Vec::new();
    for (run, index) in tasks {
        match runs.last_mut().filter(|(last, _)| last.id == run.id) {
            Some((_, indices)) => indices.push(index),
            None => runs.push((run, vec![index])),
        }
    }
    runs
}
