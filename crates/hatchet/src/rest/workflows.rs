//! Workflows and their versions.

use std::collections::BTreeMap;

use axum::Json;
use mainspring_core::row::WorkflowRow;
use mainspring_core::workflow::Sticky;
use mainspring_core::{Table, TenantId, VersionId};
use serde_json::value::RawValue;

use super::models::{Job, List, Meta, Pagination, Step, VersionMeta, Workflow, WorkflowVersion};
use super::problem::Problem;
use super::time::Time;
use super::{Answer, Call, object};
use crate::catalog::Version;
use crate::names;

/// A workflow with its versions, oldest first.
struct Known {
    id: String,
    name: String,
    versions: Vec<(VersionId, WorkflowRow)>,
}

/// The workflows there are, by name.
pub(super) async fn list(call: Call) -> Answer<List<Workflow>> {
    let (offset, limit) = call.page()?;
    let wanted = call.parameter("name").unwrap_or("").to_lowercase();
    let mut known = known(&call).await?;
    known.retain(|workflow| workflow.name.to_lowercase().contains(&wanted));
    // Whoever asks for a name takes the first.
    known.sort_by_key(|workflow| workflow.name.to_lowercase() != wanted);
    let pagination = Pagination::of_total(offset, limit, known.len());
    let page = known.iter().skip(offset).take(limit);
    Ok(Json(List { pagination, rows: page.map(|workflow| shown(call.tenant, workflow)).collect() }))
}

/// One of them.
pub(super) async fn show(call: Call) -> Answer<Workflow> {
    Ok(Json(shown(call.tenant, &one(&call).await?)))
}

/// A version of a workflow: the one asked for, or the one in use.
pub(super) async fn version(call: Call) -> Answer<WorkflowVersion> {
    let workflow = one(&call).await?;
    let wanted = call.parsed("version", "id", |text| text.parse::<VersionId>().ok())?;
    let found = workflow.versions.iter().enumerate().rev().find(|(_, (id, row))| match wanted {
        Some(wanted) => *id == wanted,
        None => row.current,
    });
    let Some((order, (id, row))) = found else {
        return Err(Problem::not_found("version of workflow", &workflow.id));
    };
    let version = call.hatchet.catalog().version(call.hatchet.engine(), call.tenant, *id).await?;
    Ok(Json(WorkflowVersion {
        meta: version_meta(&workflow, order, *id, row),
        sticky: row.def.sticky.map(|sticky| match sticky {
            Sticky::Soft => "SOFT",
            Sticky::Hard => "HARD",
        }),
        default_priority: row.def.default_priority,
        workflow: shown(call.tenant, &workflow),
        jobs: vec![job(call.tenant, *id, row)],
        input_json_schema: schema(&version),
    }))
}

async fn one(call: &Call) -> Result<Known, Problem> {
    let id = call.part("workflow");
    let found = known(call).await?.into_iter().find(|workflow| workflow.id == id);
    found.ok_or_else(|| Problem::not_found("workflow", id))
}

async fn known(call: &Call) -> Result<Vec<Known>, Problem> {
    let tenant = call.tenant;
    let rows = call.hatchet.engine().read(tenant, move |reader| reader.all::<WorkflowRow>(tenant, Table::Workflow));
    let mut by_name: BTreeMap<String, Known> = BTreeMap::new();
    for (id, row) in rows.await? {
        let name = row.def.name.clone();
        let new = || Known { id: names::workflow_id(tenant, &name), name: name.clone(), versions: Vec::new() };
        by_name.entry(name.clone()).or_insert_with(new).versions.push((VersionId(id), row));
    }
    let mut known: Vec<Known> = by_name.into_values().collect();
    for workflow in &mut known {
        workflow.versions.sort_by_key(|(id, row)| (row.created_at, *id));
    }
    Ok(known)
}

fn shown(tenant: TenantId, workflow: &Known) -> Workflow {
    let times = || workflow.versions.iter().map(|(_, row)| row.created_at);
    let metas = workflow.versions.iter().enumerate().rev();
    Workflow {
        metadata: Meta {
            id: workflow.id.clone(),
            created_at: Time(times().min().unwrap_or(0)),
            updated_at: Time(times().max().unwrap_or(0)),
        },
        name: workflow.name.clone(),
        tenant_id: tenant.to_string(),
        is_paused: false,
        versions: metas.map(|(order, (id, row))| version_meta(workflow, order, *id, row)).collect(),
    }
}

fn version_meta(workflow: &Known, order: usize, id: VersionId, row: &WorkflowRow) -> VersionMeta {
    let at = Time(row.created_at);
    VersionMeta {
        metadata: Meta { id: id.to_string(), created_at: at, updated_at: at },
        version: id.to_string(),
        order: order + 1,
        workflow_id: workflow.id.clone(),
    }
}

/// All tasks of a version.
fn job(tenant: TenantId, id: VersionId, row: &WorkflowRow) -> Job {
    let meta = |id: String| Meta { id, created_at: Time(row.created_at), updated_at: Time(row.created_at) };
    let tasks = &row.def.tasks;
    let children_of = |parent: usize| {
        let children = tasks.iter().enumerate();
        let children = children.filter(|(_, task)| task.parents.iter().any(|index| usize::from(*index) == parent));
        children.map(|(index, _)| names::step_id(id, index)).collect()
    };
    let steps = tasks.iter().enumerate().map(|(index, task)| Step {
        metadata: meta(names::step_id(id, index)),
        readable_id: task.name.clone(),
        tenant_id: tenant.to_string(),
        job_id: id.to_string(),
        action: task.action.clone(),
        timeout: task.execution_timeout_ms.map(|timeout| format!("{timeout}ms")),
        is_durable: task.durable,
        slot_requests: task.slots.clone(),
        children: children_of(index),
        parents: task.parents.iter().map(|parent| names::step_id(id, usize::from(*parent))).collect(),
    });
    Job {
        metadata: meta(id.to_string()),
        tenant_id: tenant.to_string(),
        version_id: id.to_string(),
        name: row.def.name.clone(),
        steps: steps.collect(),
    }
}

fn schema(version: &Version) -> Option<Box<RawValue>> {
    version.definition.as_ref()?.input_schema.as_ref().map(|schema| object(schema))
}
