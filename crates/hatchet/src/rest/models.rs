//! What REST answers, in the shapes that Hatchet's SDKs check: a field that is not optional here is one they insist on.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::time::Time;

/// Says of something stored which it is, and since when.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

/// Which part of a listing this is. Snake case, in the midst of camels.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pagination {
    pub current_page: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page: Option<usize>,
    pub num_pages: usize,
}

impl Pagination {
    /// The page of a listing of which it is only known whether there is more: then there is at least one more page.
    pub(crate) fn of(offset: usize, limit: usize, more: bool) -> Self {
        let current_page = offset / limit.max(1) + 1;
        let next_page = more.then_some(current_page + 1);
        Pagination { current_page, next_page, num_pages: next_page.unwrap_or(current_page) }
    }

    /// The page of a listing whose length is known.
    pub(crate) fn of_total(offset: usize, limit: usize, total: usize) -> Self {
        let limit = limit.max(1);
        let current_page = offset / limit + 1;
        let next_page = (offset.saturating_add(limit) < total).then_some(current_page + 1);
        Pagination { current_page, next_page, num_pages: total.div_ceil(limit) }
    }
}

/// A page of a listing.
#[derive(Debug, Serialize)]
pub(crate) struct List<T> {
    pub pagination: Pagination,
    pub rows: Vec<T>,
}

/// `V1WorkflowRunDetails`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunDetails {
    pub run: RunOverview,
    pub task_events: Vec<TaskEvent>,
    pub shape: Vec<ShapeItem>,
    pub tasks: Vec<TaskSummary>,
}

/// `V1WorkflowRun`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunOverview {
    pub metadata: Meta,
    pub status: &'static str,
    pub tenant_id: String,
    pub display_name: String,
    pub workflow_id: String,
    pub workflow_version_id: String,
    pub input: Box<RawValue>,
    pub output: Box<RawValue>,
    pub additional_metadata: Box<RawValue>,
    pub created_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_task_external_id: Option<String>,
    /// Whether payloads were left out, because they were not asked for or are too large together.
    pub payloads_restricted: bool,
}

/// `WorkflowRunShapeItemForWorkflowRunDetails`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShapeItem {
    pub task_external_id: String,
    pub step_id: String,
    pub children_step_ids: Vec<String>,
    pub task_name: String,
}

/// `V1TaskSummary`: a task, or in listings a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskSummary {
    pub metadata: Meta,
    pub created_at: Time,
    pub display_name: String,
    pub input: Box<RawValue>,
    pub output: Box<RawValue>,
    pub num_spawned_children: usize,
    pub status: &'static str,
    pub task_external_id: String,
    pub task_id: u64,
    pub task_inserted_at: Time,
    pub tenant_id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub workflow_id: String,
    pub workflow_name: String,
    pub workflow_version_id: String,
    pub workflow_run_external_id: String,
    pub additional_metadata: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,
    pub retry_count: u32,
    pub attempt: u32,
    pub is_durable: bool,
    pub is_evicted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_task_external_id: Option<String>,
    /// Whether payloads were left out, because they were not asked for or are too large together.
    pub payloads_restricted: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<TaskSummary>,
}

/// `V1TaskEvent`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskEvent {
    pub id: u64,
    pub task_id: String,
    pub timestamp: Time,
    pub event_type: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    pub task_display_name: String,
    pub retry_count: u32,
    pub attempt: u32,
}

/// `V1CancelledTasks` and `V1ReplayedTasks`.
#[derive(Debug, Serialize)]
pub(crate) struct Touched {
    pub ids: Vec<String>,
}

/// `V1LogLine`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogLine {
    pub created_at: Time,
    pub message: String,
    pub metadata: Box<RawValue>,
    pub task_external_id: String,
    pub task_display_name: String,
    pub retry_count: u32,
    pub attempt: u32,
    pub level: &'static str,
}

/// `Worker`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Worker {
    pub metadata: Meta,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_at: Option<Time>,
    pub actions: Vec<String>,
    pub registered_workflows: Vec<NamedId>,
    pub slot_config: BTreeMap<String, Slots>,
    pub labels: Vec<Label>,
    pub runtime_info: RuntimeInfo,
}

/// `RegisteredWorkflow`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NamedId {
    pub id: String,
    pub name: String,
}

/// `WorkerSlotConfig`.
#[derive(Debug, Serialize)]
pub(crate) struct Slots {
    pub limit: u32,
    pub available: u32,
}

/// `WorkerLabel`.
#[derive(Debug, Serialize)]
pub(crate) struct Label {
    pub metadata: Meta,
    pub key: String,
    pub value: String,
}

/// `WorkerRuntimeInfo`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuntimeInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdk_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_extra: Option<String>,
}

/// `Workflow`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Workflow {
    pub metadata: Meta,
    pub name: String,
    pub tenant_id: String,
    pub is_paused: bool,
    pub versions: Vec<VersionMeta>,
}

/// `WorkflowVersionMeta`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VersionMeta {
    pub metadata: Meta,
    pub version: String,
    pub order: usize,
    pub workflow_id: String,
}

/// `WorkflowVersion`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkflowVersion {
    #[serde(flatten)]
    pub meta: VersionMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<&'static str>,
    pub default_priority: u8,
    pub workflow: Workflow,
    pub jobs: Vec<Job>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_json_schema: Option<Box<RawValue>>,
}

/// `Job`: all tasks of a version.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Job {
    pub metadata: Meta,
    pub tenant_id: String,
    pub version_id: String,
    pub name: String,
    pub steps: Vec<Step>,
}

/// `Step`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    pub metadata: Meta,
    pub readable_id: String,
    pub tenant_id: String,
    pub job_id: String,
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    pub is_durable: bool,
    pub slot_requests: BTreeMap<String, u32>,
    pub children: Vec<String>,
    pub parents: Vec<String>,
}

/// `V1Event`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub metadata: Meta,
    pub key: String,
    pub tenant_id: String,
    pub workflow_run_summary: RunSummary,
    pub additional_metadata: Box<RawValue>,
    pub payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    pub seen_at: Time,
    pub triggered_runs: Vec<TriggeredRun>,
}

/// `V1EventWorkflowRunSummary`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct RunSummary {
    pub running: usize,
    pub queued: usize,
    pub succeeded: usize,
    pub failed: usize,
    pub cancelled: usize,
}

/// `V1EventTriggeredRun`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TriggeredRun {
    pub workflow_run_id: String,
}

/// `RateLimit`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateLimit {
    pub key: String,
    pub tenant_id: String,
    pub limit_value: u32,
    pub value: u32,
    pub window: String,
    pub last_refill: Time,
}

/// `Tenant`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tenant {
    pub metadata: Meta,
    pub name: String,
    pub slug: String,
    pub version: &'static str,
}

/// What a call without anything more to say answers.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    pub version: &'static str,
}
