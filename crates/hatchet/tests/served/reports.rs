//! What workers report: many reports in one call are so many single ones.

use std::collections::BTreeMap;

use mainspring_core::RunId;
use mainspring_core::row::RunState;
use mainspring_hatchet::wire::root::dispatcher_server::Dispatcher;
use mainspring_hatchet::wire::root::workflow_service_server::WorkflowService;
use mainspring_hatchet::wire::root::{
    BatchActionEvent, BatchActionEventItem, StepActionEvent, StepActionEventType, WorkerListenRequest,
    WorkerRegisterRequest,
};
use mainspring_hatchet::wire::v1::TriggerWorkflowRequest;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::harness::{Served, TENANT, call, register};

/// So many runs of one task each, given to a worker that has not said a word about them, and its stream.
async fn in_hand(served: &Served, count: usize) -> (Vec<String>, impl Sized) {
    register(served, "Simple", &[("step", &[])]).await;
    let worker = WorkerRegisterRequest {
        worker_name: "worker".to_owned(),
        actions: vec!["simple:step".to_owned()],
        slot_config: BTreeMap::from([("default".to_owned(), 100)]),
        ..WorkerRegisterRequest::default()
    };
    let worker = served.hatchet.register(call(worker)).await.expect("registered").into_inner().worker_id;
    let stream = served.hatchet.listen_v2(call(WorkerListenRequest { worker_id: worker })).await;
    let mut stream = stream.expect("a stream").into_inner();
    let mut tasks = Vec::new();
    for _ in 0..count {
        let run = TriggerWorkflowRequest {
            name: "Simple".to_owned(),
            input: "{}".to_owned(),
            ..TriggerWorkflowRequest::default()
        };
        served.hatchet.trigger_workflow(call(run)).await.expect("started");
        let given = stream.next().await.expect("the stream goes on").expect("a task");
        tasks.push(given.task_run_external_id);
    }
    (tasks, stream)
}

fn item(task: &str, payload: &str) -> BatchActionEventItem {
    BatchActionEventItem {
        task_run_external_id: task.to_owned(),
        event_payload: payload.to_owned(),
        retry_count: Some(0),
        ..BatchActionEventItem::default()
    }
}

async fn report(served: &Served, kind: StepActionEventType, items: Vec<BatchActionEventItem>) -> Result<(), Status> {
    let event = BatchActionEvent {
        worker_id: "worker".to_owned(),
        event_type: kind.into(),
        items,
        ..BatchActionEvent::default()
    };
    served.hatchet.send_batch_action_event(call(event)).await.map(|answer| {
        assert_eq!(answer.get_ref().worker_id, "worker");
        assert_eq!(answer.get_ref().tenant_id, TENANT.to_string());
    })
}

async fn state(served: &Served, task: &str) -> RunState {
    let run: RunId = task.parse().expect("the only task of a run has its id");
    served.engine.run(TENANT, run).await.expect("readable").expect("there").state
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reports_in_one_call_are_so_many_single_ones() {
    let served = Served::start().await;
    let (tasks, _stream) = in_hand(&served, 4).await;
    let (done, failed) = (StepActionEventType::StepEventTypeCompleted, StepActionEventType::StepEventTypeFailed);
    let all: Vec<_> = tasks[..3].iter().map(|task| item(task, "{\"n\":1}")).collect();
    report(&served, StepActionEventType::StepEventTypeStarted, all.clone()).await.expect("heard");
    assert_eq!(state(&served, &tasks[0]).await, RunState::Running, "a beginning ends nothing");
    report(&served, done, all.clone()).await.expect("taken");
    for task in &tasks[..3] {
        assert_eq!(state(&served, task).await, RunState::Completed);
    }
    // Again, as after an answer that got lost, and then otherwise: the first word counts.
    report(&served, done, all.clone()).await.expect("answered like the first time");
    report(&served, failed, all).await.expect("answered like the first time");
    assert_eq!(state(&served, &tasks[0]).await, RunState::Completed);

    // What ended with no JSON has failed, here as alone; beside it the others are taken.
    report(&served, done, vec![item(&tasks[3], "no json")]).await.expect("taken");
    assert_eq!(state(&served, &tasks[3]).await, RunState::Failed);
    report(&served, done, Vec::new()).await.expect("nothing is to be done");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_report_that_is_refused_keeps_none_of_the_others_from_being_taken() {
    let served = Served::start().await;
    let (tasks, _stream) = in_hand(&served, 2).await;
    let done = StepActionEventType::StepEventTypeCompleted;
    let unknown = "0191e0c5-7a2b-7c3d-8e4f-a1b2c3d50000";
    let items = vec![item(&tasks[0], "{}"), item(unknown, "{}"), item(&tasks[1], "{}")];
    let refused = report(&served, done, items).await.expect_err("there is no such task");
    let single = StepActionEvent {
        task_run_external_id: unknown.to_owned(),
        event_type: done.into(),
        event_payload: "{}".to_owned(),
        ..StepActionEvent::default()
    };
    let alone = served.hatchet.send_step_action_event(call(single)).await.expect_err("alone as well");
    assert_eq!((refused.code(), refused.message()), (alone.code(), alone.message()));
    for task in &tasks {
        assert_eq!(state(&served, task).await, RunState::Completed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_can_not_be_read_reports_nothing() {
    let served = Served::start().await;
    let (tasks, _stream) = in_hand(&served, 1).await;
    let done = StepActionEventType::StepEventTypeCompleted;
    let bad = report(&served, done, vec![item(&tasks[0], "{}"), item("no id", "{}")]).await.expect_err("no id");
    assert_eq!(bad.code(), Code::InvalidArgument);
    let many = vec![item(&tasks[0], "{}"); 10_001];
    let bad = report(&served, done, many).await.expect_err("too many");
    assert_eq!((bad.code(), bad.message().contains("10000 at most")), (Code::InvalidArgument, true));
    let unknown = StepActionEventType::StepEventTypeUnknown;
    let bad = report(&served, unknown, vec![item(&tasks[0], "{}")]).await.expect_err("no meaning");
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert_eq!(state(&served, &tasks[0]).await, RunState::Running);
}
