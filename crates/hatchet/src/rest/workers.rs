//! Workers: looked at, and paused.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use mainspring_core::place::LabelValue;
use mainspring_core::row::{WorkerRow, WorkflowRow};
use mainspring_core::{Command, Refusal, Reply, Table, WorkerId, WorkerView};
use mainspring_engine::EngineError;
use serde::Deserialize;

use super::models::{Label, List, Meta, NamedId, Pagination, RuntimeInfo, Slots, Worker};
use super::problem::Problem;
use super::time::Time;
use super::{Answer, Body, Call};
use crate::names;
use crate::wire::root::Sdks;

/// Everything that says how workers stand.
struct Known {
    /// Milliseconds since the Unix epoch.
    now: u64,
    rows: Vec<(u128, WorkerRow)>,
    live: BTreeMap<WorkerId, WorkerView>,
    /// Workflows in use, with the actions of their tasks.
    workflows: Vec<(NamedId, BTreeSet<String>)>,
}

/// All workers that registered by this wire, newest first.
pub(super) async fn list(call: Call) -> Answer<List<Worker>> {
    let mut known = known(&call).await?;
    known.rows.sort_by_key(|(id, row)| (std::cmp::Reverse(row.registered_at), *id));
    let rows: Vec<Worker> = known.rows.iter().map(|(id, row)| known.shown(WorkerId(*id), row)).collect();
    Ok(Json(List { pagination: Pagination::of_total(0, rows.len(), rows.len()), rows }))
}

/// One of them.
pub(super) async fn show(call: Call) -> Answer<Worker> {
    let id = id(&call)?;
    one(&call, id).await
}

/// `UpdateWorkerRequest`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Update {
    #[serde(default)]
    is_paused: Option<bool>,
}

/// Pauses a worker, or lets it go on. Durable when it is answered.
pub(super) async fn update(call: Call, Body(update): Body<Update>) -> Answer<Worker> {
    let worker = id(&call)?;
    let command = Command::UpdateWorker { worker, labels: BTreeMap::new(), paused: update.is_paused };
    match call.hatchet.engine().submit(call.tenant, command).await {
        Ok(_) => one(&call, worker).await,
        Err(EngineError::Refused(Refusal::NoWorker)) => Err(Problem::not_found("worker", &worker.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn id(call: &Call) -> Result<WorkerId, Problem> {
    let text = call.part("worker");
    text.parse().map_err(|_| Problem::not_an_id("worker", text))
}

async fn one(call: &Call, id: WorkerId) -> Answer<Worker> {
    let known = known(call).await?;
    let row = known.rows.iter().find(|(found, _)| *found == id.0);
    let (_, row) = row.ok_or_else(|| Problem::not_found("worker", &id.to_string()))?;
    Ok(Json(known.shown(id, row)))
}

async fn known(call: &Call) -> Result<Known, Problem> {
    let tenant = call.tenant;
    let engine = call.hatchet.engine();
    let (reply, _) = engine.submit(tenant, Command::LookAtWorkers).await?;
    let Reply::Workers(live) = reply else { unreachable!("workers are answered as such, not {reply:?}") };
    let rows = engine.read(tenant, move |reader| {
        Ok((reader.all::<WorkerRow>(tenant, Table::Worker)?, reader.all::<WorkflowRow>(tenant, Table::Workflow)?))
    });
    let (rows, workflows) = rows.await?;
    let workflows = workflows.into_iter().filter(|(_, row)| row.current).map(|(_, row)| {
        let id = names::workflow_id(tenant, &row.def.name);
        let actions = row.def.tasks.into_iter().map(|task| task.action).collect();
        (NamedId { id, name: row.def.name }, actions)
    });
    let now = engine.world().now_ms();
    let live = live.into_iter().map(|view| (view.worker, view)).collect();
    Ok(Known { now, rows, live, workflows: workflows.collect() })
}

impl Known {
    fn shown(&self, id: WorkerId, row: &WorkerRow) -> Worker {
        let view = self.live.get(&id);
        let heard_at = view.and_then(|view| view.heard_at);
        let connected = view.is_some_and(|view| view.connected);
        let away_ms = view.and_then(|view| view.away_since).map(|since| self.now.saturating_sub(since));
        let created_at = Time(row.registered_at);
        let slots = row.slots.iter().map(|(kind, limit)| {
            let taken = view.and_then(|view| view.taken.get(kind)).copied().unwrap_or(0);
            (kind.clone(), Slots { limit: *limit, available: limit.saturating_sub(taken) })
        });
        let labels = row.labels.iter().map(|(key, value)| Label {
            metadata: Meta { id: id.to_string(), created_at, updated_at: created_at },
            key: key.clone(),
            value: match value {
                LabelValue::Text(text) => text.clone(),
                LabelValue::Number(number) => number.to_string(),
            },
        });
        let registered = self.workflows.iter().filter(|(_, actions)| !actions.is_disjoint(&row.actions));
        Worker {
            metadata: Meta { id: id.to_string(), created_at, updated_at: heard_at.map_or(created_at, Time) },
            name: row.name.clone(),
            kind: "SELFHOSTED",
            status: match (connected, row.paused) {
                (true, false) => "ACTIVE",
                (true, true) => "PAUSED",
                // It may well be on its way back, and is paused then.
                (false, true) if away_ms.is_some_and(|ms| ms < row.lease_ms) => "PAUSED",
                (false, _) => "INACTIVE",
            },
            last_heartbeat_at: heard_at.map(Time),
            actions: row.actions.iter().cloned().collect(),
            registered_workflows: registered.map(|(workflow, _)| workflow.clone()).collect(),
            slot_config: slots.collect(),
            labels: labels.collect(),
            runtime_info: runtime(&row.about),
        }
    }
}

/// What registration noted of the worker's program.
fn runtime(about: &[u8]) -> RuntimeInfo {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct About {
        sdk_version: Option<String>,
        language: Option<i32>,
        language_version: Option<String>,
        os: Option<String>,
        extra: Option<String>,
    }
    let about: About = serde_json::from_slice(about).unwrap_or_default();
    let language = match about.language.and_then(|language| Sdks::try_from(language).ok()) {
        Some(Sdks::Go) => Some("GOLANG"),
        Some(Sdks::Python) => Some("PYTHON"),
        Some(Sdks::Typescript) => Some("TYPESCRIPT"),
        Some(Sdks::Ruby) => Some("RUBY"),
        Some(Sdks::Unknown) | None => None,
    };
    RuntimeInfo {
        sdk_version: about.sdk_version,
        language,
        language_version: about.language_version,
        os: about.os,
        runtime_extra: about.extra,
    }
}
