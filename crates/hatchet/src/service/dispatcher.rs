//! `Dispatcher`: workers come and go, are given tasks and report; whoever waits for runs is told.

use std::collections::{BTreeMap, BTreeSet};

use mainspring_core::place::SLOT;
use mainspring_core::{Command, NewWorker, Refusal, Reply, RunId, WorkerId};
use mainspring_engine::EngineError;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::report::Report;
use crate::duration::GoDuration;
use crate::mapping;
use crate::names::Named;
use crate::server::{Answer, Hatchet, VERSION};
use crate::status::{self, bad_field};
use crate::stream::{self, timestamp};
use crate::watch;
use crate::wire::root::dispatcher_server::Dispatcher;
use crate::wire::root::{
    ActionEventResponse, AssignedAction, BatchActionEvent, GetVersionRequest, GetVersionResponse, GroupKeyActionEvent,
    HeartbeatRequest, HeartbeatResponse, OverridesData, OverridesDataResponse, RefreshTimeoutRequest,
    RefreshTimeoutResponse, ReleaseSlotRequest, ReleaseSlotResponse, RestoreEvictedTaskRequest,
    RestoreEvictedTaskResponse, StepActionEvent, SubscribeToWorkflowEventsRequest, SubscribeToWorkflowRunsRequest,
    UpsertWorkerLabelsRequest, UpsertWorkerLabelsResponse, WorkerListenRequest, WorkerRegisterRequest,
    WorkerRegisterResponse, WorkerUnsubscribeRequest, WorkerUnsubscribeResponse, WorkflowEvent, WorkflowRunEvent,
};

/// A worker that is silent for this long is gone: what it has in hand goes to others.
const LEASE_MS: u64 = 30_000;
/// Slots of a worker that says nothing about them.
const SLOTS: u32 = 100;
/// Runs whose end one stream may wait for at once.
const WAITS_MAX: usize = 100_000;
/// Results of one stream that are read and not yet sent: each may have some megabytes.
const READS_MAX: usize = 16;
/// Results and events on their way to whoever waits.
const BUFFERED: usize = 16;

fn worker_id(text: &str) -> Result<WorkerId, Status> {
    text.parse().map_err(|_| Status::not_found("there is no such worker: register it first"))
}

pub(super) fn named(text: &str) -> Result<Named, Status> {
    Named::parse(text).ok_or_else(|| bad_field("task_run_external_id", "is no id: send the id the task was given by"))
}

#[tonic::async_trait]
impl Dispatcher for Hatchet {
    async fn register(&self, request: Request<WorkerRegisterRequest>) -> Answer<WorkerRegisterResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        if request.slots.is_some() && !request.slot_config.is_empty() {
            return Err(bad_field("slots", "is given along with slot_config: give one of them"));
        }
        let units = |field: &str, units: i32| {
            u32::try_from(units)
                .ok()
                .filter(|units| *units > 0)
                .ok_or_else(|| bad_field(field, &format!("is {units}: a worker takes at least 1 task at once")))
        };
        let mut slots = BTreeMap::new();
        for (kind, count) in &request.slot_config {
            slots.insert(kind.clone(), units(&format!("slot_config[{kind:?}]"), *count)?);
        }
        if slots.is_empty() {
            slots.insert(SLOT.to_owned(), request.slots.map_or(Ok(SLOTS), |count| units("slots", count))?);
        }
        let runtime = request.runtime_info.unwrap_or_default();
        let about = json!({
            "sdk_version": runtime.sdk_version,
            "language": runtime.language,
            "language_version": runtime.language_version,
            "os": runtime.os,
            "extra": runtime.extra,
        });
        let new = NewWorker {
            name: request.worker_name.clone(),
            actions: request.actions.iter().map(|action| action.to_lowercase()).collect::<BTreeSet<_>>(),
            slots,
            labels: mapping::labels(&request.labels),
            about: about.to_string().into(),
        };
        let chance = self.engine().world().chance().map_err(Status::unavailable)?;
        // A UUID of version 4, as these clients expect of ids.
        let worker =
            WorkerId((chance & !(0xf000_u128 << 64) & !(0b11_u128 << 62)) | (0x4000_u128 << 64) | (0b10 << 62));
        self.submit(tenant, Command::EnrolWorker { worker, new, lease_ms: LEASE_MS }).await?;
        Ok(Response::new(WorkerRegisterResponse {
            tenant_id: tenant.to_string(),
            worker_id: worker.to_string(),
            worker_name: request.worker_name,
        }))
    }

    type ListenStream = ReceiverStream<Result<AssignedAction, Status>>;

    async fn listen(&self, request: Request<WorkerListenRequest>) -> Answer<Self::ListenStream> {
        self.listen_v2(request).await
    }

    type ListenV2Stream = ReceiverStream<Result<AssignedAction, Status>>;

    async fn listen_v2(&self, request: Request<WorkerListenRequest>) -> Answer<Self::ListenV2Stream> {
        let tenant = self.enter(request.metadata())?;
        let worker = worker_id(&request.get_ref().worker_id)?;
        let outgoing = stream::open(self, tenant, worker).await?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let tenant = self.enter(request.metadata())?;
        let worker = worker_id(&request.get_ref().worker_id)?;
        match self.engine().submit(tenant, Command::HeartbeatWorker { worker }).await {
            Ok(_) => {}
            Err(EngineError::Refused(Refusal::WorkerNotConnected)) => {
                // It was given up while it was silent. Its stream may be here all the same: then it is back. If not, it
                // opens one when it notices; telling it to would make it drop one that it is opening right now.
                if self.engine().hub().has_worker(tenant, worker) {
                    self.submit(tenant, Command::ConnectWorker { worker }).await?;
                }
            }
            Err(error) => return Err(status::failed(&error)),
        }
        Ok(Response::new(HeartbeatResponse {}))
    }

    type SubscribeToWorkflowEventsStream = ReceiverStream<Result<WorkflowEvent, Status>>;

    async fn subscribe_to_workflow_events(
        &self,
        request: Request<SubscribeToWorkflowEventsRequest>,
    ) -> Answer<Self::SubscribeToWorkflowEventsStream> {
        let tenant = self.enter(request.metadata())?;
        let (out, outgoing) = mpsc::channel(BUFFERED);
        // An SDK takes any error here for the end of its process, and a stream that ends for the end of the run.
        if let Some(named) = request.get_ref().workflow_run_id.as_deref().and_then(Named::parse) {
            tokio::spawn(watch::events(self.clone(), tenant, named, out));
        }
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type SubscribeToWorkflowRunsStream = ReceiverStream<Result<WorkflowRunEvent, Status>>;

    async fn subscribe_to_workflow_runs(
        &self,
        request: Request<Streaming<SubscribeToWorkflowRunsRequest>>,
    ) -> Answer<Self::SubscribeToWorkflowRunsStream> {
        let tenant = self.enter(request.metadata())?;
        let mut wanted = request.into_inner();
        let (out, outgoing) = mpsc::channel(BUFFERED);
        let hatchet = self.clone();
        tokio::spawn(async move {
            let room = std::sync::Arc::new(tokio::sync::Semaphore::new(WAITS_MAX));
            let reading = std::sync::Arc::new(tokio::sync::Semaphore::new(READS_MAX));
            loop {
                let next = tokio::select! {
                    next = wanted.next() => next,
                    () = out.closed() => return,
                };
                let Some(Ok(asked)) = next else { break };
                let Some(Named::Run(run)) = Named::parse(&asked.workflow_run_id) else { continue };
                let Ok(place) = room.clone().try_acquire_owned() else {
                    let text = format!("more than {WAITS_MAX} runs are waited for on one stream: open another");
                    let _ = out.send(Err(Status::resource_exhausted(text))).await;
                    return;
                };
                // Each time it is asked for: after a replay the same run ends again.
                tokio::spawn(tell_result(hatchet.clone(), tenant, run, out.clone(), place, reading.clone()));
            }
            // The client has no more to ask, but may still wait.
            out.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn send_step_action_event(&self, request: Request<StepActionEvent>) -> Answer<ActionEventResponse> {
        let tenant = self.enter(request.metadata())?;
        let event = request.into_inner();
        let worker_id = event.worker_id.clone();
        self.take_report(tenant, Report::of(event)?).await?;
        Ok(Response::new(ActionEventResponse { tenant_id: tenant.to_string(), worker_id }))
    }

    async fn send_batch_action_event(&self, request: Request<BatchActionEvent>) -> Answer<ActionEventResponse> {
        let tenant = self.enter(request.metadata())?;
        let event = request.into_inner();
        let worker_id = event.worker_id.clone();
        self.take_reports(tenant, Report::all_of(event)?).await?;
        Ok(Response::new(ActionEventResponse { tenant_id: tenant.to_string(), worker_id }))
    }

    async fn send_group_key_action_event(&self, request: Request<GroupKeyActionEvent>) -> Answer<ActionEventResponse> {
        self.enter(request.metadata())?;
        Err(Status::unimplemented("group keys are expressions since v1: nothing sends this any more"))
    }

    async fn put_overrides_data(&self, request: Request<OverridesData>) -> Answer<OverridesDataResponse> {
        self.enter(request.metadata())?;
        // Nothing has used them since v1; to take and drop them is what the SDKs expect.
        Ok(Response::new(OverridesDataResponse {}))
    }

    async fn unsubscribe(&self, request: Request<WorkerUnsubscribeRequest>) -> Answer<WorkerUnsubscribeResponse> {
        let tenant = self.enter(request.metadata())?;
        let worker = worker_id(&request.get_ref().worker_id)?;
        self.engine().hub().disconnect_worker(tenant, worker);
        // It may still work on what it has in hand, and report it.
        self.submit(tenant, Command::DisconnectWorker { worker, undelivered: Vec::new() }).await?;
        Ok(Response::new(WorkerUnsubscribeResponse { tenant_id: tenant.to_string(), worker_id: worker.to_string() }))
    }

    async fn refresh_timeout(&self, request: Request<RefreshTimeoutRequest>) -> Answer<RefreshTimeoutResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let task = named(&request.task_run_external_id)?.task();
        let by = GoDuration::parse(&request.increment_timeout_by)
            .map_err(|bad| status::bad_duration("increment_timeout_by", &bad))?;
        match self.submit(tenant, Command::ExtendTimeout { task, by_ms: by.ms() }).await? {
            Reply::Until(at) => Ok(Response::new(RefreshTimeoutResponse { timeout_at: Some(timestamp(at)) })),
            other => unreachable!("a timeout is answered with its end, not {other:?}"),
        }
    }

    async fn release_slot(&self, request: Request<ReleaseSlotRequest>) -> Answer<ReleaseSlotResponse> {
        let tenant = self.enter(request.metadata())?;
        let task = named(&request.get_ref().task_run_external_id)?.task();
        self.submit(tenant, Command::ReleaseSlots { task }).await?;
        Ok(Response::new(ReleaseSlotResponse {}))
    }

    async fn restore_evicted_task(
        &self,
        request: Request<RestoreEvictedTaskRequest>,
    ) -> Answer<RestoreEvictedTaskResponse> {
        self.enter(request.metadata())?;
        Err(status::not_yet("a durable task"))
    }

    async fn upsert_worker_labels(
        &self,
        request: Request<UpsertWorkerLabelsRequest>,
    ) -> Answer<UpsertWorkerLabelsResponse> {
        let tenant = self.enter(request.metadata())?;
        let worker = worker_id(&request.get_ref().worker_id)?;
        let labels = mapping::labels(&request.get_ref().labels);
        self.submit(tenant, Command::UpdateWorker { worker, labels, paused: None }).await?;
        let (tenant_id, worker_id) = (tenant.to_string(), worker.to_string());
        Ok(Response::new(UpsertWorkerLabelsResponse { tenant_id, worker_id }))
    }

    async fn get_version(&self, request: Request<GetVersionRequest>) -> Answer<GetVersionResponse> {
        self.enter(request.metadata())?;
        Ok(Response::new(GetVersionResponse { version: VERSION.to_owned() }))
    }
}

async fn tell_result(
    hatchet: Hatchet,
    tenant: mainspring_core::TenantId,
    run: RunId,
    out: mpsc::Sender<Result<WorkflowRunEvent, Status>>,
    place: tokio::sync::OwnedSemaphorePermit,
    reading: std::sync::Arc<tokio::sync::Semaphore>,
) {
    let told = tokio::select! {
        told = watch::result(hatchet, tenant, run, &reading) => told,
        () = out.closed() => return,
    };
    let _ = match told {
        // What was read is held until it is on its way.
        Ok(Some((event, _held))) => out.send(Ok(event)).await,
        // There is no such run, and nothing is ever told of it.
        Ok(None) => Ok(()),
        // The client opens the stream again and asks again.
        Err(status) => out.send(Err(status)).await,
    };
    drop(place);
}
