//! Runs: starting, listing, looking, cancelling, signalling, resuming, waking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainspring_client::{
    Context, Failure, KeyRule, KeyStrategy, RetryRule, SpawnOptions, TaskContext, Worker, WorkflowDef,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Server, Setup, TENANT_B, User, eventually};

/// Workflows of every kind.
fn offer(worker: Worker) -> Worker {
    let mut keyed = WorkflowDef::single("one-at-a-time", true);
    keyed.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    let mut flaky = WorkflowDef::single("flaky", false);
    flaky.tasks[0].retry = RetryRule { attempts_max: 2, backoff_ms: 5, backoff_percent: 100, backoff_max_ms: 5 };
    let triggered = WorkflowDef { event_triggers: vec!["paid".to_owned()], ..WorkflowDef::single("on-paid", false) };
    worker
        .task(WorkflowDef::single("double", false), |_: TaskContext, n: i64| async move { Ok::<_, Failure>(n * 2) })
        .task(flaky, |ctx: TaskContext, text: String| async move {
            Err::<(), _>(Failure::Retryable(format!("{text}, attempt {}", ctx.attempt)))
        })
        .task(triggered, |_: TaskContext, event: Value| async move { Ok::<_, Failure>(event) })
        .function(WorkflowDef::single("signalled", true), |ctx: Context, _: Value| async move {
            ctx.wait_signal::<Value>("go", None).await
        })
        .function(keyed, |ctx: Context, _: Value| async move { ctx.wait_signal::<Value>("go", None).await })
        .function(WorkflowDef::single("listener", true), |ctx: Context, scope: Option<String>| async move {
            ctx.wait_for::<Value>("paid", scope.as_deref(), None).await
        })
        .function(WorkflowDef::single("parent", true), |ctx: Context, _: Value| async move {
            let child = ctx.spawn("signalled", &Value::Null, SpawnOptions::default()).await?;
            ctx.sleep(Duration::from_millis(1)).await?;
            child.result::<Value>().await
        })
}

async fn server() -> (Server, User) {
    let server = Setup::new().offer(offer).start().await;
    let user = server.user().await;
    (server, user)
}

/// Waits until a run has asked so many things of its journal.
async fn waits(user: &User, run: &str, entries: usize) -> Value {
    eventually("the run waits", || async {
        let run = user.run(run).await;
        run["tasks"][0]["journal"].as_array().is_some_and(|journal| journal.len() >= entries).then_some(run)
    })
    .await
}

fn ids(runs: &[Value]) -> Vec<String> {
    runs.iter().map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_run_is_started_and_shown_with_its_task() {
    let (_server, user) = server().await;
    let run = user.start("double", &json!(21)).await;
    let run = user.run_in_state(&run, "completed").await;
    assert_eq!((&run["workflow"], &run["input"], &run["output"]), (&json!("double"), &json!(21), &json!(42)));
    assert_eq!((&run["error"], &run["parent"], &run["waiting_for"]), (&Value::Null, &Value::Null, &Value::Null));
    let task = &run["tasks"][0];
    assert_eq!((&task["state"], &task["attempt"], &task["name"]), (&json!("completed"), &json!(1), &json!("double")));
    let at = |name: &str| run[name].as_u64().expect(name);
    assert!(at("created_at") <= at("started_at") && at("started_at") <= at("finished_at"));
}

#[tokio::test]
async fn a_run_that_fails_says_why_after_its_attempts() {
    let (_server, user) = server().await;
    let run = user.start("flaky", &json!("boom")).await;
    let run = user.run_in_state(&run, "failed").await;
    assert_eq!(run["error"].as_str().map(|error| error.contains("boom, attempt 2")), Some(true), "{}", run["error"]);
    assert_eq!((&run["tasks"][0]["attempt"], &run["tasks"][0]["attempts_max"]), (&json!(2), &json!(2)));
    let wrong = user.start("double", &json!("no number")).await;
    let wrong = user.run_in_state(&wrong, "failed").await;
    assert!(wrong["error"].as_str().is_some_and(|error| error.contains("input")), "{}", wrong["error"]);
}

#[tokio::test]
async fn whoever_starts_a_run_may_wait_for_its_end() {
    let (_server, user) = server().await;
    let start = async |workflow: &str, seconds: u32, input: Value| {
        let path = format!("/v1/workflows/{workflow}/runs?wait_seconds={seconds}");
        user.post(&path, &json!({ "input": input })).await
    };
    let done = start("double", 30, json!(21)).await;
    assert_eq!((done.status, &done.body["state"], &done.body["output"]), (200, &json!("completed"), &json!(42)));
    let failed = start("flaky", 30, json!("boom")).await;
    assert_eq!((failed.status, &failed.body["state"]), (200, &json!("failed")));
    assert!(failed.body["error"].as_str().is_some_and(|error| error.contains("boom")), "{}", failed.text);
    // A wait that is over ends nothing but the wait.
    let waiting = start("signalled", 1, json!(null)).await;
    assert_eq!((waiting.status, &waiting.body["state"]), (202, &Value::Null));
    let run = waiting.body["run_id"].as_str().expect("an id");
    user.run_in_state(run, "running").await;
    start("double", 61, json!(1)).await.problem(400, "wait_too_long");
    assert_eq!(user.runs("workflow=double").await.len(), 1, "what is refused is not started");
}

#[tokio::test]
async fn the_same_key_starts_one_run() {
    let (_server, user) = server().await;
    let start = async |key: &str, input: i64| {
        let request = user.request(Method::POST, "/v1/workflows/double/runs").header("Idempotency-Key", key);
        Answer::of(request.json(&json!({ "input": input }))).await
    };
    let first = start("k1", 1).await.ok();
    assert_eq!(start("k1", 1).await.ok(), first);
    start("k1", 2).await.problem(409, "idempotency_conflict");
    assert_ne!(start("k2", 1).await.ok(), first);
    assert_eq!(user.runs("").await.len(), 2);
}

#[tokio::test]
async fn a_hundred_and_twenty_runs_are_listed_page_by_page_without_gap_or_repeat() {
    let (server, user) = server().await;
    let mut started = Vec::new();
    for nth in 0..120 {
        started.push(user.start(if nth % 3 == 0 { "signalled" } else { "double" }, &json!(nth)).await);
    }
    server.user_of(TENANT_B).await.start("double", &json!(1)).await;
    started.reverse();
    for limit in [1, 7, 40, 120, 200] {
        let all = user.runs(&format!("limit={limit}")).await;
        assert_eq!(ids(&all), started, "newest first, {limit} per page");
    }
    let first = user.get("/v1/runs").await.ok();
    assert_eq!(first["runs"].as_array().map(Vec::len), Some(50));
    let limited = user.get("/v1/runs?limit=100000").await.ok();
    assert_eq!(limited["runs"].as_array().map(Vec::len), Some(120));
    assert!(limited["next_cursor"].is_null());

    // What is started while somebody pages does not disturb the pages that follow.
    let page = user.get("/v1/runs?limit=50").await.ok();
    let cursor = page["next_cursor"].as_str().expect("more");
    for nth in 0..5 {
        user.start("double", &json!(nth)).await;
    }
    let next = user.get(&format!("/v1/runs?limit=70&cursor={cursor}")).await.ok();
    assert_eq!(ids(next["runs"].as_array().expect("runs")), started[50..]);

    let waiting = user.runs("workflow=signalled&limit=9").await;
    assert_eq!(ids(&waiting), started.iter().rev().step_by(3).rev().cloned().collect::<Vec<_>>());
    assert_eq!(user.runs("workflow=signalled&state=running&limit=9").await.len(), 40);
    assert_eq!(user.runs("workflow=double&state=running").await.len(), 0);
    assert_eq!(user.runs("workflow=nothing").await.len(), 0);
}

#[tokio::test]
async fn the_list_is_filtered_by_each_state() {
    let (_server, user) = server().await;
    let keyed = |key: &'static str| {
        let user = user.clone();
        async move {
            let body = json!({ "input": null, "key": key });
            let started = user.post("/v1/workflows/one-at-a-time/runs", &body).await.ok();
            started["run_id"].as_str().expect("an id").to_owned()
        }
    };
    let completed = user.start("double", &json!(1)).await;
    let failed = user.start("flaky", &json!("x")).await;
    let cancelled = user.start("signalled", &Value::Null).await;
    user.post(&format!("/v1/runs/{cancelled}/cancel"), &json!({ "reason": "enough" })).await.ok();
    let (running, queued) = (keyed("k").await, keyed("k").await);
    user.run_in_state(&completed, "completed").await;
    user.run_in_state(&failed, "failed").await;
    for (state, run) in [
        ("completed", &completed),
        ("failed", &failed),
        ("cancelled", &cancelled),
        ("running", &running),
        ("queued", &queued),
    ] {
        let listed = user.runs(&format!("state={state}")).await;
        assert_eq!(ids(&listed), [run.as_str()], "{state}");
        assert_eq!(listed[0]["state"], state);
    }
    assert_eq!(user.runs("state=parked").await.len(), 0);

    let why = user.run(&queued).await["waiting_for"].as_str().expect("a reason").to_owned();
    assert!(why.contains(&running) || why.contains("\"k\""), "it says behind what it waits: {why}");
    user.post(&format!("/v1/runs/{running}/signals/go"), &json!(1)).await.ok();
    user.run_in_state(&queued, "running").await;
    user.post(&format!("/v1/runs/{queued}/signals/go"), &json!(2)).await.ok();
    assert_eq!(user.run_in_state(&queued, "completed").await["output"], 2);
    assert_eq!(user.run(&running).await["output"], 1);
}

#[tokio::test]
async fn a_run_that_waits_says_for_what_and_takes_its_signal_even_if_it_came_first() {
    let (_server, user) = server().await;
    let run = user.start("signalled", &Value::Null).await;
    let shown = waits(&user, &run, 1).await;
    assert!(shown["waiting_for"].as_str().is_some_and(|why| why.contains("go")), "{}", shown["waiting_for"]);
    let entry = &shown["tasks"][0]["journal"][0];
    assert_eq!((&entry["state"], &entry["name"], &entry["position"]), (&json!("pending"), &json!("go"), &json!(0)));
    user.post(&format!("/v1/runs/{run}/signals/stay"), &json!("other")).await.ok();
    user.post(&format!("/v1/runs/{run}/signals/go"), &json!({ "n": 1 })).await.ok();
    assert_eq!(user.run_in_state(&run, "completed").await["output"], json!({ "n": 1 }));

    let parent = user.start("parent", &Value::Null).await;
    let child = eventually("the child is there", || async {
        user.runs("workflow=signalled&state=running").await.first().map(|run| run["id"].as_str().unwrap().to_owned())
    })
    .await;
    user.post(&format!("/v1/runs/{child}/signals/go"), &json!("early")).await.ok();
    assert_eq!(user.run_in_state(&parent, "completed").await["output"], "early");
    assert_eq!(user.run(&child).await["parent"], parent.as_str());
    let bad = user.request(Method::POST, &format!("/v1/runs/{parent}/signals/go")).body("{");
    Answer::of(bad).await.problem(400, "json_malformed");
}

#[tokio::test]
async fn cancelling_a_run_ends_it_and_its_children_and_may_be_repeated() {
    let (_server, user) = server().await;
    let parent = user.start("parent", &Value::Null).await;
    let child = eventually("the child is there", || async {
        user.runs("workflow=signalled").await.first().map(|run| run["id"].as_str().unwrap().to_owned())
    })
    .await;
    let body = json!({ "reason": "changed my mind" });
    for _ in 0..2 {
        let cancelled = user.post(&format!("/v1/runs/{parent}/cancel"), &body).await;
        assert_eq!(cancelled.status, 202);
        assert!(cancelled.body["position"].as_u64() > Some(0));
        let shown = user.run(&parent).await;
        assert_eq!((&shown["state"], &shown["error"]), (&json!("cancelled"), &json!("changed my mind")));
    }
    assert_eq!(user.run(&child).await["state"], "cancelled");
    let other = user.start("signalled", &Value::Null).await;
    let cancelled = Answer::of(user.request(Method::POST, &format!("/v1/runs/{other}/cancel"))).await;
    assert_eq!(cancelled.status, 202, "a body is not needed: {}", cancelled.text);
    let unknown = user.post(&format!("/v1/runs/{other}/cancel"), &json!({ "raison": "x" })).await;
    unknown.problem(400, "json_malformed");
}

#[tokio::test]
async fn events_wake_those_who_wait_for_them_and_start_what_they_trigger() {
    let (_server, user) = server().await;
    let (any, five, six) = (
        user.start("listener", &Value::Null).await,
        user.start("listener", &json!("order 5")).await,
        user.start("listener", &json!("order 6")).await,
    );
    for run in [&any, &five, &six] {
        waits(&user, run, 1).await;
    }
    let emitted = user.post("/v1/events", &json!({ "name": "paid", "scope": "order 5", "data": { "sum": 7 } })).await;
    assert_eq!(emitted.status, 202);
    assert_eq!(user.run_in_state(&five, "completed").await["output"], json!({ "sum": 7 }));
    assert_eq!(user.run_in_state(&any, "completed").await["output"], json!({ "sum": 7 }));
    assert_eq!(user.run(&six).await["state"], "running");
    let started = user.runs("workflow=on-paid").await;
    assert_eq!(started.len(), 1);
    user.run_in_state(started[0]["id"].as_str().expect("an id"), "completed").await;
    user.post("/v1/events", &json!({ "name": "refunded", "scope": "order 6" })).await.ok();
    assert_eq!(user.run(&six).await["state"], "running");
    let more = user.post("/v1/events", &json!({ "name": "paid", "scope": "order 6" })).await.ok();
    assert!(more["seq"].as_u64() > emitted.body["seq"].as_u64());
    assert_eq!(user.run_in_state(&six, "completed").await["output"], Value::Null);
}

#[tokio::test]
async fn a_run_whose_code_changed_is_parked_until_the_code_is_mended_and_it_is_resumed() {
    let changed = Arc::new(AtomicBool::new(false));
    let flag = changed.clone();
    let setup = Setup::new().offer(move |worker| {
        let flag = flag.clone();
        worker.function(WorkflowDef::single("changing", true), move |ctx: Context, _: Value| {
            let step = if flag.load(Ordering::SeqCst) { "new step" } else { "old step" };
            async move {
                ctx.run(step, || async { Ok(1) }).await?;
                ctx.wait_signal::<Value>("go", None).await
            }
        })
    });
    let server = setup.start().await;
    let user = server.user().await;
    let run = user.start("changing", &Value::Null).await;
    waits(&user, &run, 2).await;
    user.post(&format!("/v1/runs/{run}/resume"), &json!({})).await.problem(409, "run_not_parked");

    changed.store(true, Ordering::SeqCst);
    let server = server.restart().await;
    let user = server.user().await;
    let parked = user.run_in_state(&run, "parked").await;
    let why = format!("{} {} {}", parked["error"], parked["tasks"][0]["error"], parked["waiting_for"]);
    assert!(why.contains("new step") && why.contains("old step"), "{why}");
    assert_eq!(ids(&user.runs("state=parked").await), [run.as_str()]);

    changed.store(false, Ordering::SeqCst);
    assert_eq!(user.post(&format!("/v1/runs/{run}/resume"), &json!({})).await.status, 202);
    user.post(&format!("/v1/runs/{run}/signals/go"), &json!("on")).await.ok();
    assert_eq!(user.run_in_state(&run, "completed").await["output"], "on");
}
