//! Counts of tasks.

use std::collections::BTreeMap;

use axum::Json;
use mainspring_core::row::TaskState;
use serde::Serialize;

use super::{Answer, Call};
use crate::control::{self, Filter, metadata_pair};
use crate::details::{status_word, task_status};
use crate::names::{self, Named};
use crate::wire::v1::RunStatus;

/// `V1TaskRunMetric`.
#[derive(Debug, Serialize)]
pub(super) struct Metric {
    status: &'static str,
    count: usize,
}

/// How many tasks there are of each status, of the runs that fit.
pub(super) async fn by_status(call: Call) -> Answer<Vec<Metric>> {
    let filter = Filter {
        since: call.time("since")?,
        until: call.time("until")?,
        workflow_ids: call.parameters("workflow_ids").map(str::to_owned).collect(),
        metadata: call.parameters("additional_metadata").filter_map(metadata_pair).collect(),
        parent: call.parsed("parent_task_external_id", "id", Named::parse)?,
        event: call.parsed("triggering_event_external_id", "event's id", names::event_seq)?,
        ..Filter::default()
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    control::scan(&call.hatchet, call.tenant, &filter, |run| {
        for task in &run.tasks {
            *counts.entry(status_word(task_status(task))).or_default() += 1;
        }
        true
    })
    .await?;
    let all = [RunStatus::Queued, RunStatus::Running, RunStatus::Completed, RunStatus::Cancelled, RunStatus::Failed];
    let metric = |status: RunStatus| {
        let status = status_word(status);
        Metric { status, count: counts.get(status).copied().unwrap_or(0) }
    };
    Ok(Json(all.into_iter().map(metric).collect()))
}

/// `TaskStat`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Stat {
    queued: Count,
    running: Count,
}

#[derive(Debug, Default, Serialize)]
struct Count {
    total: usize,
    queues: BTreeMap<String, usize>,
}

/// How many tasks wait and run, by name.
pub(super) async fn by_action(call: Call) -> Answer<BTreeMap<String, Stat>> {
    let mut stats: BTreeMap<String, Stat> = BTreeMap::new();
    unended(&call, |name, action, queued| {
        let stat = stats.entry(name.to_owned()).or_default();
        let count = if queued { &mut stat.queued } else { &mut stat.running };
        count.total += 1;
        *count.queues.entry(action.to_owned()).or_default() += 1;
    })
    .await?;
    Ok(Json(stats))
}

/// `TenantStepRunQueueMetrics`.
#[derive(Debug, Serialize)]
pub(super) struct Queues {
    queues: BTreeMap<String, usize>,
}

/// How many tasks wait for a worker, by action.
pub(super) async fn queues(call: Call) -> Answer<Queues> {
    let mut queues: BTreeMap<String, usize> = BTreeMap::new();
    unended(&call, |_, action, queued| {
        if queued {
            *queues.entry(action.to_owned()).or_default() += 1;
        }
    })
    .await?;
    Ok(Json(Queues { queues }))
}

/// Shows name and action of each task that waits for a worker (`true`) or is with one (`false`).
async fn unended(call: &Call, mut each: impl FnMut(&str, &str, bool)) -> Result<(), super::problem::Problem> {
    let filter = Filter { statuses: vec![RunStatus::Queued, RunStatus::Running], ..Filter::default() };
    control::scan(&call.hatchet, call.tenant, &filter, |run| {
        for (index, task) in run.tasks.iter().enumerate() {
            let action = run.version.row.def.tasks.get(index).map_or("", |def| def.action.as_str());
            match task.state {
                TaskState::Queued { .. } => each(run.task_name(index), action, true),
                TaskState::Running { .. } => each(run.task_name(index), action, false),
                _ => {}
            }
        }
        true
    })
    .await?;
    Ok(())
}
