//! A worker in a process of its own, over the wire Hatchet's SDKs speak: what the comparison's runs on a connected worker
//! are carried out by.
//!
//! It says of each task that it is done, not that it has begun as well: what a task of no duration gains by that is
//! nothing. What is done while reports are on their way is reported together. It registers `noop`; `steps`, which is three
//! tasks one after the other; and `fan-out`, which starts so many `noop` and waits for all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use futures_util::future::join_all;
use mainspring_bench::tally;
use mainspring_bench::wire::{Bearer, Wire, connect};
use mainspring_hatchet::wire::root::dispatcher_client::DispatcherClient;
use mainspring_hatchet::wire::root::workflow_service_client::WorkflowServiceClient;
use mainspring_hatchet::wire::root::{
    ActionType, AssignedAction, BatchActionEvent, BatchActionEventItem, BulkTriggerWorkflowRequest, HeartbeatRequest,
    StepActionEventType, SubscribeToWorkflowRunsRequest, WorkerListenRequest, WorkerRegisterRequest,
};
use mainspring_hatchet::wire::v1::admin_service_client::AdminServiceClient;
use mainspring_hatchet::wire::v1::{CreateTaskOpts, CreateWorkflowVersionRequest, TriggerWorkflowRequest};
use tokio::sync::mpsc;

/// Tasks in one report. Of each action one is on its way at a time: with more of them each is smaller, and what they cost
/// the server is in their number.
const REPORTED_AT_ONCE: usize = 1_000;
/// Children asked for in one request.
const BULK: u64 = 500;

#[derive(Debug, Parser)]
#[command(about = "A worker in a process of its own")]
struct Args {
    /// The server. Its token is in the environment variable `WORKER_TOKEN`.
    #[arg(long)]
    url: String,
    /// Tasks at once.
    #[arg(long, default_value_t = 10_000)]
    slots: i32,
    /// A file in which is kept how many `noop` were done.
    #[arg(long)]
    tally: PathBuf,
}

#[derive(Clone)]
struct Worker {
    id: String,
    wire: Wire,
    /// To whoever reports what ended, on a connection of its own.
    reporter: mpsc::UnboundedSender<Ended>,
}

/// A task that came to its end.
struct Ended {
    action: String,
    kind: StepActionEventType,
    item: BatchActionEventItem,
}

// One thread: on few cores, the server and the load have more use for the others.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let token = std::env::var("WORKER_TOKEN").context("WORKER_TOKEN is not set")?;
    let bearer = Bearer::new(&token)?;
    let wire = connect(&args.url, &bearer).await?;
    for workflow in workflows() {
        AdminServiceClient::new(wire.clone()).put_workflow(workflow).await?;
    }
    let mut dispatcher = DispatcherClient::new(connect(&args.url, &bearer).await?);
    let request = WorkerRegisterRequest {
        worker_name: "bench".to_owned(),
        actions: ["noop", "first", "second", "third", "fan-out"].map(|name| format!("bench:{name}")).to_vec(),
        slot_config: [("default".to_owned(), args.slots)].into(),
        ..WorkerRegisterRequest::default()
    };
    let id = dispatcher.register(request).await?.into_inner().worker_id;
    let mut stream = dispatcher.listen_v2(WorkerListenRequest { worker_id: id.clone() }).await?.into_inner();
    let done = tally::counted_in(args.tally);
    let client = DispatcherClient::new(connect(&args.url, &bearer).await?);
    let (reporter, said) = mpsc::unbounded_channel();
    tokio::spawn(report(client, id.clone(), said, done));
    let worker = Worker { id, wire, reporter };
    let (mut beating, worker_id) = (dispatcher.clone(), worker.id.clone());
    tokio::spawn(async move {
        loop {
            let beat = HeartbeatRequest { worker_id: worker_id.clone(), heartbeat_at: None };
            if beating.heartbeat(beat).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    while let Some(action) = stream.message().await? {
        if action.action_type() == ActionType::StartStepRun {
            tokio::spawn(worker.clone().carry_out(action));
        }
    }
    anyhow::bail!("the server ended the stream")
}

/// Reports what came to its end, all that there is each time.
async fn report(
    client: DispatcherClient<Wire>,
    worker_id: String,
    mut said: mpsc::UnboundedReceiver<Ended>,
    done: Arc<AtomicU64>,
) {
    let mut taken = Vec::new();
    while said.recv_many(&mut taken, REPORTED_AT_ONCE).await > 0 {
        let mut reports: BTreeMap<(String, StepActionEventType), Vec<BatchActionEventItem>> = BTreeMap::new();
        for Ended { action, kind, item } in taken.drain(..) {
            reports.entry((action, kind)).or_default().push(item);
        }
        join_all(reports.into_iter().map(|((action_id, kind), items)| {
            let (mut client, done, count) = (client.clone(), done.clone(), items.len() as u64);
            let noop = action_id == "bench:noop";
            let event = BatchActionEvent {
                worker_id: worker_id.clone(),
                action_id,
                event_type: kind.into(),
                items,
                ..BatchActionEvent::default()
            };
            async move {
                match client.send_batch_action_event(event).await {
                    Ok(_) if noop => {
                        done.fetch_add(count, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                    Err(status) => eprintln!("a report was not taken: {status}"),
                }
            }
        }))
        .await;
    }
}

fn workflows() -> [CreateWorkflowVersionRequest; 3] {
    let task = |name: &str, parents: &[&str]| CreateTaskOpts {
        readable_id: name.to_owned(),
        action: format!("bench:{name}"),
        timeout: "300s".to_owned(),
        parents: parents.iter().map(|&parent| parent.to_owned()).collect(),
        ..CreateTaskOpts::default()
    };
    let workflow = |name: &str, tasks: Vec<CreateTaskOpts>| CreateWorkflowVersionRequest {
        name: name.to_owned(),
        tasks,
        ..CreateWorkflowVersionRequest::default()
    };
    [
        workflow("noop", vec![task("noop", &[])]),
        workflow("steps", vec![task("first", &[]), task("second", &["first"]), task("third", &["second"])]),
        workflow("fan-out", vec![task("fan-out", &[])]),
    ]
}

impl Worker {
    async fn carry_out(self, action: AssignedAction) {
        let ended = match action.action_id.as_str() {
            "bench:fan-out" => match self.fan_out(&action).await {
                Ok(children) => (StepActionEventType::StepEventTypeCompleted, format!("{{\"children\":{children}}}")),
                Err(error) => (StepActionEventType::StepEventTypeFailed, format!("{error:#}")),
            },
            _ => (StepActionEventType::StepEventTypeCompleted, "{}".to_owned()),
        };
        let item = BatchActionEventItem {
            task_run_external_id: action.task_run_external_id,
            event_payload: ended.1,
            retry_count: Some(action.retry_count),
            ..BatchActionEventItem::default()
        };
        let _ = self.reporter.send(Ended { action: action.action_id, kind: ended.0, item });
    }

    /// Starts children and waits for the end of each; gives how many.
    async fn fan_out(&self, action: &AssignedAction) -> anyhow::Result<u64> {
        let payload: serde_json::Value = serde_json::from_str(&action.action_payload)?;
        let children = payload["input"]["children"].as_u64().context("how many children?")?;
        let child = |index: u64| TriggerWorkflowRequest {
            name: "noop".to_owned(),
            input: "{}".to_owned(),
            parent_task_run_external_id: Some(action.task_run_external_id.clone()),
            child_index: i32::try_from(index).ok(),
            ..TriggerWorkflowRequest::default()
        };
        let (ask, asked) = mpsc::unbounded_channel();
        let asked = tokio_stream::wrappers::UnboundedReceiverStream::new(asked);
        let mut ended = DispatcherClient::new(self.wire.clone()).subscribe_to_workflow_runs(asked).await?.into_inner();
        for first in (0..children).step_by(BULK as usize) {
            let workflows = (first..children.min(first + BULK)).map(child).collect();
            let mut client = WorkflowServiceClient::new(self.wire.clone());
            let runs = client.bulk_trigger_workflow(BulkTriggerWorkflowRequest { workflows }).await?.into_inner();
            for workflow_run_id in runs.workflow_run_ids {
                let _ = ask.send(SubscribeToWorkflowRunsRequest { workflow_run_id });
            }
        }
        for _ in 0..children {
            ended.message().await?.context("the stream of ended runs ended")?;
        }
        Ok(children)
    }
}
