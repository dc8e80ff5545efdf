//! `WorkflowService`: runs are started, limits are put.

use std::collections::BTreeMap;

use mainspring_core::row::RunWishes;
use mainspring_core::{Command, Reply, RunId, Start, TenantId};
use tonic::{Request, Response, Status};

use crate::definition::{self, PRIORITIES};
use crate::mapping;
use crate::names::{self, Named};
use crate::payload;
use crate::server::{Answer, Hatchet};
use crate::status::{self, bad_field};
use crate::wire::root::workflow_service_server::WorkflowService;
use crate::wire::root::{
    BulkTriggerWorkflowRequest, BulkTriggerWorkflowResponse, PauseRateLimitRequest, PauseRateLimitResponse,
    PutRateLimitRequest, PutRateLimitResponse, PutWorkflowRequest, RateLimitDuration, ScheduleWorkflowRequest,
    TriggerWorkflowResponse, WorkflowVersion,
};
use crate::wire::v1::{DesiredWorkerLabels, TriggerWorkflowRequest};

/// Runs one request may start.
const BULK_MAX: usize = 1_000;

#[tonic::async_trait]
impl WorkflowService for Hatchet {
    async fn put_workflow(&self, request: Request<PutWorkflowRequest>) -> Answer<WorkflowVersion> {
        self.enter(request.metadata())?;
        Err(Status::unimplemented(
            "this is how the first SDKs registered: use one of 2025 or later, which call v1.AdminService/PutWorkflow",
        ))
    }

    async fn schedule_workflow(&self, request: Request<ScheduleWorkflowRequest>) -> Answer<WorkflowVersion> {
        self.enter(request.metadata())?;
        Err(Status::unimplemented("runs scheduled for a time are not executed yet by this version of Mainspring"))
    }

    async fn trigger_workflow(&self, request: Request<TriggerWorkflowRequest>) -> Answer<TriggerWorkflowResponse> {
        let tenant = self.enter(request.metadata())?;
        let start = start_of("", request.into_inner())?;
        let run = self.start_run(tenant, start).await?;
        Ok(Response::new(TriggerWorkflowResponse { workflow_run_id: run.to_string() }))
    }

    async fn bulk_trigger_workflow(
        &self,
        request: Request<BulkTriggerWorkflowRequest>,
    ) -> Answer<BulkTriggerWorkflowResponse> {
        let tenant = self.enter(request.metadata())?;
        let workflows = request.into_inner().workflows;
        if workflows.len() > BULK_MAX {
            let text =
                format!("has {} entries, at most {BULK_MAX} are allowed: send several requests", workflows.len());
            return Err(bad_field("workflows", &text));
        }
        let starts = workflows
            .into_iter()
            .enumerate()
            .map(|(index, workflow)| start_of(&format!("workflows[{index}]."), workflow))
            .collect::<Result<Vec<Start>, Status>>()?;
        match self.submit(tenant, Command::StartRuns { starts }).await? {
            Reply::StartedAll { runs } => Ok(Response::new(BulkTriggerWorkflowResponse {
                workflow_run_ids: runs.iter().map(RunId::to_string).collect(),
            })),
            other => unreachable!("runs are answered with their ids, not {other:?}"),
        }
    }

    async fn put_rate_limit(&self, request: Request<PutRateLimitRequest>) -> Answer<PutRateLimitResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let limit = u32::try_from(request.limit)
            .map_err(|_| bad_field("limit", &format!("is {}: use 0 or more", request.limit)))?;
        let window = RateLimitDuration::try_from(request.duration)
            .map_err(|_| bad_field("duration", &format!("has the unknown value {}", request.duration)))?;
        let window = match window {
            RateLimitDuration::Second => definition::Window::Second,
            RateLimitDuration::Minute => definition::Window::Minute,
            RateLimitDuration::Hour => definition::Window::Hour,
            RateLimitDuration::Day => definition::Window::Day,
            RateLimitDuration::Week => definition::Window::Week,
            RateLimitDuration::Month => definition::Window::Month,
            RateLimitDuration::Year => definition::Window::Year,
        };
        let window_ms = window.ms();
        self.submit(tenant, Command::PutRate { name: request.key, limit, window_ms }).await?;
        Ok(Response::new(PutRateLimitResponse {}))
    }

    async fn pause_rate_limit(&self, request: Request<PauseRateLimitRequest>) -> Answer<PauseRateLimitResponse> {
        self.enter(request.metadata())?;
        Err(Status::unimplemented("rate limits can't be paused yet: put a limit of 0 instead"))
    }
}

impl Hatchet {
    /// Starts a run.
    pub(crate) async fn start_run(&self, tenant: TenantId, start: Start) -> Result<RunId, Status> {
        match self.submit(tenant, Command::StartRun { start }).await? {
            Reply::Started { run, .. } => Ok(run),
            other => unreachable!("a run is answered with its id, not {other:?}"),
        }
    }
}

/// A request to start a run, checked. `at` is what stands before the names of its fields.
pub(crate) fn start_of(at: &str, request: TriggerWorkflowRequest) -> Result<Start, Status> {
    let on = |field: &str| format!("{at}{field}");
    if request.name.is_empty() {
        return Err(bad_field(&on("name"), "is empty: name the workflow"));
    }
    let input = if request.input.is_empty() { "{}".to_owned() } else { request.input };
    payload::check(&input).map_err(|why| bad_field(&on("input"), &why))?;
    let metadata = metadata_of(&on("additional_metadata"), request.additional_metadata)?;
    let priority = priority_of(&on("priority"), request.priority)?;
    let child_of = match request.parent_task_run_external_id.as_deref().filter(|parent| !parent.is_empty()) {
        Some(parent) => {
            let parent = Named::parse(parent)
                .ok_or_else(|| bad_field(&on("parent_task_run_external_id"), "is no id: send that of the task"))?;
            Some(names::child_of(parent, request.child_key.as_deref(), request.child_index))
        }
        // Clients count indices also for runs that have no parent.
        None => None,
    };
    let worker = match request.desired_worker_id.as_deref().filter(|worker| !worker.is_empty()) {
        Some(worker) => Some(worker.parse().map_err(|_| bad_field(&on("desired_worker_id"), "is no worker's id"))?),
        None => None,
    };
    let labels = labels_of(&on("desired_worker_labels"), &request.desired_worker_labels)?;
    let wishes = (worker.is_some() || !labels.is_empty()).then_some(RunWishes { worker, labels });
    Ok(Start { workflow: request.name, input: input.into(), priority, metadata, wishes, child_of, ..Start::default() })
}

/// Metadata, which is an object in JSON.
pub(crate) fn metadata_of(at: &str, metadata: Option<String>) -> Result<Option<bytes::Bytes>, Status> {
    let Some(metadata) = metadata.filter(|metadata| !metadata.is_empty() && metadata != "null") else {
        return Ok(None);
    };
    payload::check_object(&metadata).map_err(|why| bad_field(at, &why))?;
    Ok((metadata != "{}").then(|| metadata.into()))
}

/// A priority, if one is asked for.
pub(crate) fn priority_of(at: &str, priority: Option<i32>) -> Result<Option<u8>, Status> {
    let (min, max) = PRIORITIES;
    match priority {
        None => Ok(None),
        Some(found) => match u8::try_from(found).ok().filter(|found| (min..=max).contains(found)) {
            Some(priority) => Ok(Some(priority)),
            None => Err(bad_field(at, &format!("is {found}: {min} to {max} are allowed"))),
        },
    }
}

fn labels_of(
    at: &str,
    wire: &BTreeMap<String, DesiredWorkerLabels>,
) -> Result<BTreeMap<String, mainspring_core::place::LabelWish>, Status> {
    let mut labels = BTreeMap::new();
    for (name, wish) in wire {
        let wish =
            definition::label_wish(&format!("{at}[{name:?}]"), wish).map_err(|bad| status::bad_definition(&bad))?;
        if let Some(wish) = mapping::label(&wish) {
            labels.insert(name.clone(), wish);
        }
    }
    Ok(labels)
}
