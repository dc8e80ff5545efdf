//! `v1.AdminService`: workflows are registered, runs are looked at, cancelled and replayed.

use std::collections::BTreeMap;

use mainspring_core::{Command, Reply};
use prost::Message;
use tonic::{Request, Response, Status};

use crate::control::{self, Selection};
use crate::definition::Definition;
use crate::details::{Run, is_evicted, task_status};
use crate::mapping;
use crate::names::{self, Named};
use crate::server::{Answer, Hatchet, unread};
use crate::service::workflows::start_of;
use crate::status::{self, bad_field};
use crate::wire::v1::admin_service_server::AdminService;
use crate::wire::v1::{
    BranchDurableTaskRequest, BranchDurableTaskResponse, CancelTasksRequest, CancelTasksResponse,
    CreateWorkflowVersionRequest, CreateWorkflowVersionResponse, GetRunDetailsRequest, GetRunDetailsResponse,
    ReplayTasksRequest, ReplayTasksResponse, TaskRunDetail, TriggerWorkflowRequest, TriggerWorkflowRunRequest,
    TriggerWorkflowRunResponse,
};

#[tonic::async_trait]
impl AdminService for Hatchet {
    async fn put_workflow(
        &self,
        request: Request<CreateWorkflowVersionRequest>,
    ) -> Answer<CreateWorkflowVersionResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let definition = Definition::from_request(&request).map_err(|bad| status::bad_definition(&bad))?;
        if !definition.crons.is_empty() {
            // Nobody uses a schedule by a call that could be refused.
            let workflow = &definition.name;
            tracing::warn!(%tenant, %workflow, "its schedules are kept, but not executed yet by this version");
        }
        let def = mapping::workflow(&definition, request.encode_to_vec().into());
        match self.submit(tenant, Command::PutWorkflow { def }).await? {
            Reply::Registered { version, .. } => Ok(Response::new(CreateWorkflowVersionResponse {
                id: version.to_string(),
                workflow_id: names::workflow_id(tenant, &definition.name),
            })),
            other => unreachable!("a workflow is answered with its version, not {other:?}"),
        }
    }

    async fn cancel_tasks(&self, request: Request<CancelTasksRequest>) -> Answer<CancelTasksResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let selection = Selection::of(request.external_ids, request.filter)?;
        let cancelled_tasks = control::cancel(self, tenant, selection).await?;
        Ok(Response::new(CancelTasksResponse { cancelled_tasks }))
    }

    async fn replay_tasks(&self, request: Request<ReplayTasksRequest>) -> Answer<ReplayTasksResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let selection = Selection::of(request.external_ids, request.filter)?;
        let replayed_tasks = control::replay(self, tenant, selection).await?;
        Ok(Response::new(ReplayTasksResponse { replayed_tasks }))
    }

    async fn trigger_workflow_run(
        &self,
        request: Request<TriggerWorkflowRunRequest>,
    ) -> Answer<TriggerWorkflowRunResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let text = |field: &str, bytes: bytes::Bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| bad_field(field, "is not UTF-8: send a JSON document"))
        };
        let start = start_of(
            "",
            TriggerWorkflowRequest {
                name: request.workflow_name,
                input: text("input", request.input)?,
                additional_metadata: Some(text("additional_metadata", request.additional_metadata)?),
                priority: request.priority,
                desired_worker_labels: request.desired_worker_labels,
                ..TriggerWorkflowRequest::default()
            },
        )?;
        let run = self.start_run(tenant, start).await?;
        Ok(Response::new(TriggerWorkflowRunResponse { external_id: run.to_string() }))
    }

    async fn get_run_details(&self, request: Request<GetRunDetailsRequest>) -> Answer<GetRunDetailsResponse> {
        let tenant = self.enter(request.metadata())?;
        let named = Named::parse(&request.get_ref().external_id)
            .ok_or_else(|| bad_field("external_id", "is no id: send that of a run or task"))?;
        let run = Run::read(self, tenant, named.run()).await.map_err(unread)?;
        let run = run.ok_or_else(|| Status::not_found(format!("there is no run {}", named.run())))?;
        let mut task_runs = BTreeMap::new();
        for (index, task) in run.tasks.iter().enumerate() {
            let failed = task_status(task) == crate::wire::v1::RunStatus::Failed;
            let detail = TaskRunDetail {
                external_id: run.task_id(index),
                status: task_status(task).into(),
                error: if failed { task.error.clone() } else { None },
                output: run.output(self, tenant, index).await.map_err(unread)?,
                readable_id: run.task_name(index).to_owned(),
                is_evicted: is_evicted(task),
            };
            task_runs.insert(detail.readable_id.clone(), detail);
        }
        Ok(Response::new(GetRunDetailsResponse {
            input: run.input(self, tenant).await.map_err(unread)?,
            status: run.status().into(),
            done: run.done(),
            additional_metadata: run.metadata().unwrap_or_else(|| bytes::Bytes::from_static(b"{}")),
            is_evicted: run.tasks.iter().any(is_evicted),
            task_runs,
        }))
    }

    async fn branch_durable_task(
        &self,
        request: Request<BranchDurableTaskRequest>,
    ) -> Answer<BranchDurableTaskResponse> {
        self.enter(request.metadata())?;
        Err(status::not_yet("a durable task"))
    }
}
