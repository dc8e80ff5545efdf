//! Durable functions against a real engine in a temporary directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mainspring_client::{
    Client, Context, Failure, KeyRule, KeyStrategy, OnParentEnd, Received, RetryPolicy, RetryRule, RunId, SendOptions,
    SpawnOptions, StartOptions, TaskContext, TenantId, Worker, WorkflowDef,
};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};

const TENANT: TenantId = TenantId(7);

async fn open(dir: &std::path::Path) -> Client {
    let engine = Engine::open(&EngineOptions::new(dir)).expect("the engine opens");
    engine.submit(TENANT, Command::PutTenant { name: "test".into() }).await.expect("the tenant is put");
    Client::new(engine, TENANT)
}

async fn close(client: Client) {
    let engine = client.engine().clone();
    drop(client);
    tokio::task::spawn_blocking(move || engine.shut_down()).await.expect("the engine shuts down");
}

fn inbox(name: &str) -> WorkflowDef {
    WorkflowDef { inbox: true, lifecycle_events: Some("turn".into()), ..WorkflowDef::single(name, true) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_survives_a_restart_and_repeats_no_recorded_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let steps = Arc::new(AtomicU32::new(0));
    let function = |steps: Arc<AtomicU32>| {
        move |ctx: Context, name: String| {
            let steps = steps.clone();
            async move {
                let first: u32 = ctx.run("first", || async { Ok(steps.fetch_add(1, Ordering::SeqCst)) }).await?;
                let answer: Option<String> = ctx.wait_signal("go", None).await?;
                let second: u32 = ctx.run("second", || async { Ok(steps.fetch_add(1, Ordering::SeqCst)) }).await?;
                Ok::<_, Failure>(format!("{name} {first} {second} {}", answer.unwrap_or_default()))
            }
        }
    };
    let client = open(dir.path()).await;
    let def = WorkflowDef::single("hello", true);
    let worker = Worker::new(client.clone(), "w").function(def.clone(), function(steps.clone()));
    let _running = worker.start().await.expect("the worker starts");
    let run = client.start("hello", &"ann").await.expect("a run starts");
    while steps.load(Ordering::SeqCst) < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    close(client).await;

    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(def, function(steps.clone()));
    let _running = worker.start().await.expect("the worker starts again");
    client.signal(run, "go", &"now").await.expect("the signal is taken");
    let output: String = client.wait(run).await.expect("the run completes");
    assert!(output.starts_with("ann ") && output.ends_with(" now"), "{output}");
    // The first step may have been interrupted before it was recorded, then it ran twice; never more, and the second once.
    assert!((2..=3).contains(&steps.load(Ordering::SeqCst)), "{output}");
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_function_leaves_memory_and_is_replayed_when_its_message_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let invocations = Arc::new(AtomicU32::new(0));
    let counted = invocations.clone();
    let worker = Worker::new(client.clone(), "w").idle_after(Duration::from_millis(30)).function(
        inbox("chat"),
        move |ctx: Context, _: ()| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let mut texts = Vec::new();
                while texts.len() < 2 {
                    if let Received::Messages(messages) = ctx.receive(None, 1).await? {
                        texts.extend(messages.into_iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()));
                    }
                }
                Ok::<_, Failure>(texts)
            }
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let first = client.send("chat", "ann", &"one", SendOptions::default()).await.expect("accepted");
    until_suspended(&client, 1).await;
    let second = client.send("chat", "ann", &"two", SendOptions::default()).await.expect("accepted");
    assert_eq!(first.run, second.run);
    let texts: Vec<String> = client.wait(first.run).await.expect("the run completes");
    assert_eq!(texts, ["\"one\"", "\"two\""]);
    assert_eq!(invocations.load(Ordering::SeqCst), 2, "replayed exactly once");
    running.stop().await;
    close(client).await;
}

/// Waits until so many runs have left memory.
async fn until_suspended(client: &Client, runs: u64) {
    loop {
        let counts = client.engine().submit(TENANT, Command::Count).await.expect("counted").0;
        if matches!(counts, mainspring_core::Reply::Counts(counts) if counts.tasks_suspended == runs) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_sleeps_for_long_does_not_stay_in_memory_for_as_long_as_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    // So long that the test would not end if it were kept for that time.
    let worker = Worker::new(client.clone(), "w").idle_after(Duration::from_secs(86_400)).function(
        WorkflowDef::single("long", true),
        |ctx: Context, (): ()| async move {
            ctx.sleep(Duration::from_secs(1_000_000)).await?;
            Ok::<_, Failure>(())
        },
    );
    let worker = worker.function(WorkflowDef::single("both", true), |ctx: Context, (): ()| async move {
        // Whatever else it waits for may come at any time, so it stays.
        let long = ctx.sleep(Duration::from_secs(1_000_000));
        let go = ctx.wait_signal::<()>("go", None);
        futures_util::future::select(Box::pin(long), Box::pin(go)).await;
        Ok::<_, Failure>(())
    });
    let running = worker.start().await.expect("the worker starts");
    let both = client.start("both", &()).await.expect("a run starts");
    let long = client.start("long", &()).await.expect("a run starts");
    until_suspended(&client, 1).await;
    let state = |run| client.task(mainspring_core::TaskId { run, index: 0 });
    let is_suspended = |task: Option<mainspring_core::row::TaskRow>| {
        matches!(task.expect("the task").state, mainspring_core::row::TaskState::Suspended { .. })
    };
    assert!(is_suspended(state(long).await.expect("read")), "it sleeps");
    assert!(!is_suspended(state(both).await.expect("read")), "it waits for more than its sleep");
    client.signal(both, "go", &()).await.expect("the signal is taken");
    client.wait::<()>(both).await.expect("the run completes");
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_wait_for_many_children_over_a_restart() {
    const CHILDREN: u64 = 40;
    let dir = tempfile::tempdir().expect("a directory");
    let offer = |client: &Client| {
        let parent = |ctx: Context, children: u64| async move {
            let numbers: Vec<u64> = (0..children).collect();
            let begin = numbers.iter().map(|nth| ctx.spawn("child", nth, SpawnOptions::default()));
            let mut sum = 0;
            for call in futures_util::future::try_join_all(begin).await? {
                sum += call.result::<u64>().await?;
            }
            Ok::<_, Failure>(sum)
        };
        let child = |ctx: Context, nth: u64| async move {
            if nth % 2 == 1 {
                let _: Option<()> = ctx.wait_signal("go", None).await?;
            }
            Ok::<_, Failure>(nth)
        };
        Worker::new(client.clone(), "w")
            .idle_after(Duration::from_millis(50))
            .function(WorkflowDef::single("parent", true), parent)
            .function(WorkflowDef::single("child", true), child)
    };
    let client = open(dir.path()).await;
    let running = offer(&client).start().await.expect("the worker starts");
    let run = client.start("parent", &CHILDREN).await.expect("a run starts");
    // The parent and every other child: the others have ended.
    until_suspended(&client, 1 + CHILDREN / 2).await;
    running.stop().await;
    close(client).await;

    let client = open(dir.path()).await;
    until_suspended(&client, 1 + CHILDREN / 2).await;
    let task = client.task(mainspring_core::TaskId { run, index: 0 }).await.expect("read").expect("the task");
    assert_eq!(task.pending.len() as u64, CHILDREN / 2, "whoever looks at the task sees all that it waits for");
    let children = task.pending.values().map(|pending| match pending.kind {
        mainspring_core::journal::PendingKind::Child { run } => run,
        _ => panic!("it waits for children: {pending:?}"),
    });
    for child in children {
        client.signal(child, "go", &()).await.expect("the signal is taken");
    }
    let running = offer(&client).start().await.expect("the worker starts again");
    let sum: u64 = client.wait(run).await.expect("the run completes");
    assert_eq!(sum, (0..CHILDREN).sum::<u64>());
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_run_hands_every_message_to_its_successor() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(inbox("chat"), |ctx: Context, _: ()| async move {
        let Received::Messages(messages) = ctx.receive(None, 10).await? else { return Ok(0) };
        let count = messages.len();
        let interrupted: bool = ctx
            .run("think", || async {
                let limit = tokio::time::sleep(Duration::from_millis(300));
                Ok(tokio::select! { () = ctx.message_waits() => true, () = limit => false })
            })
            .await?;
        if interrupted || !ctx.close_inbox(false).await? {
            return Err(Failure::Supersede("a message came".into()));
        }
        Ok(count)
    });
    let running = worker.start().await.expect("the worker starts");
    let first = client.send("chat", "ann", &1, SendOptions::default()).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("chat", "ann", &2, SendOptions::default()).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("chat", "ann", &3, SendOptions::default()).await.expect("accepted");
    let mut run = first.run;
    let count: usize = loop {
        let row = client.engine().wait_run(TENANT, run).await.expect("it ends");
        match row.superseded_by {
            Some(next) => run = next,
            None => break client.wait(run).await.expect("it completes"),
        }
    };
    assert_eq!(count, 3);
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_code_parks_the_run_and_says_where() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let def = WorkflowDef::single("job", true);
    let worker = Worker::new(client.clone(), "w").function(def.clone(), |ctx: Context, _: ()| async move {
        let _: u32 = ctx.run("charge", || async { Ok(1) }).await?;
        let _: Option<()> = ctx.wait_signal("never", None).await?;
        Ok::<_, Failure>(())
    });
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("job", &()).await.expect("started");
    wait_until(&client, run, |row, _| row.started_at.is_some()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.stop().await;
    let worker = Worker::new(client.clone(), "w").function(def, |ctx: Context, _: ()| async move {
        let _: u32 = ctx.run("refund", || async { Ok(1) }).await?;
        Ok::<_, Failure>(())
    });
    let running = worker.start().await.expect("the changed worker starts");
    let error = wait_until(&client, run, |row, _| row.error.is_some()).await;
    assert!(error.contains("position 0") && error.contains("refund") && error.contains("charge"), "{error}");
    running.stop().await;
    close(client).await;
}

async fn wait_until(
    client: &Client,
    run: RunId,
    is_so: impl Fn(&mainspring_core::row::RunRow, &Client) -> bool,
) -> String {
    loop {
        let row = client.engine().read(TENANT, move |reader| reader.run(TENANT, run)).await.expect("readable");
        if let Some(row) = row.filter(|row| is_so(row, client)) {
            return row.error.unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_retries_keys_and_events_work_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    let mut flaky = WorkflowDef::single("flaky", false);
    flaky.tasks[0].retry = RetryRule { attempts_max: 3, backoff_ms: 1, backoff_percent: 200, backoff_max_ms: 10 };
    flaky.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    let worker = Worker::new(client.clone(), "w")
        .task(flaky, move |task: TaskContext, add: u32| {
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                if task.attempt < 3 && nth < 2 { Err(Failure::retryable("not yet")) } else { Ok(add + task.attempt) }
            }
        })
        .function(WorkflowDef::single("parent", true), |ctx: Context, key: String| async move {
            let options =
                || SpawnOptions { key: Some(key.clone()), on_parent_end: OnParentEnd::Cancel, priority: None };
            let one = ctx.spawn("flaky", &10, options()).await?;
            let two = ctx.spawn("flaky", &20, options()).await?;
            let sum = one.result::<u32>().await? + two.result::<u32>().await?;
            let policy = RetryPolicy {
                attempts_max: 2,
                backoff: Duration::from_millis(1),
                backoff_max: Duration::from_millis(1),
            };
            let retried: u32 = ctx
                .run_retrying("shaky", policy, |attempt| async move {
                    if attempt == 1 { Err(Failure::retryable("once")) } else { Ok(attempt) }
                })
                .await?;
            ctx.emit("sum.known", &sum).await?;
            let told: Option<u32> = ctx.wait_for("sum.confirmed", Some("here"), Some(Duration::from_secs(10))).await?;
            Ok::<_, Failure>((sum, retried, told))
        });
    let running = worker.start().await.expect("the worker starts");
    let options = StartOptions { idempotency_key: Some("once".into()), ..StartOptions::default() };
    let run = client.start_with("parent", &"k", options.clone()).await.expect("started");
    assert_eq!(run, client.start_with("parent", &"k", options).await.expect("the same again"));
    loop {
        // Scoped waits are not satisfied by other scopes; emit to both until the run is through.
        client.emit("sum.confirmed", Some("elsewhere"), &1).await.expect("emitted");
        client.emit("sum.confirmed", Some("here"), &2).await.expect("emitted");
        let row = client.engine().read(TENANT, move |reader| reader.run(TENANT, run)).await.expect("readable");
        if row.is_some_and(|row| row.state.ended()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (sum, retried, told): (u32, u32, Option<u32>) = client.wait(run).await.expect("completes");
    assert_eq!((sum, retried, told), (10 + 3 + 20 + 1, 2, Some(2)));
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_refused_fails_the_run_rather_than_leave_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let payload_max = client.engine().limits().payload_bytes_max;
    let worker = Worker::new(client.clone(), "w")
        .task(WorkflowDef::single("too-large", false), move |_: TaskContext, _: ()| async move {
            Ok::<_, Failure>("x".repeat(payload_max))
        })
        .function(WorkflowDef::single("no-inbox", true), |_: Context, _: ()| async move {
            Err::<(), _>(Failure::Supersede("it has none".to_owned()))
        })
        .task(WorkflowDef::single("panics-at-once", false), |_: TaskContext, _: ()| {
            assert!(std::env::args().count() == 0, "before the first await");
            async move { Ok::<_, Failure>(()) }
        });
    let running = worker.start().await.expect("the worker starts");
    for (workflow, why) in
        [("too-large", "the output has"), ("no-inbox", "no inbox"), ("panics-at-once", "before the first await")]
    {
        let run = client.start(workflow, &()).await.expect("a run starts");
        let waited = tokio::time::timeout(Duration::from_secs(20), client.wait::<serde_json::Value>(run)).await;
        let error = waited.expect("it ends").expect_err("it fails").to_string();
        assert!(error.contains("failed") && error.contains(why), "{workflow}: {error}");
    }
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_worker_is_given_nothing_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let def = || WorkflowDef::single("echo", false);
    let echo = |_: TaskContext, text: String| async move { Ok::<_, Failure>(text) };
    drop(Worker::new(client.clone(), "dropped").task(def(), echo).start().await.expect("the worker starts"));
    let running = Worker::new(client.clone(), "stays").task(def(), echo).start().await.expect("the worker starts");
    for nth in 0..20 {
        let run = client.start("echo", &nth.to_string()).await.expect("a run starts");
        let answer = tokio::time::timeout(Duration::from_secs(20), client.wait::<String>(run)).await;
        assert_eq!(answer.expect("it ends").expect("it completes"), nth.to_string());
    }
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_does_not_use_up_its_place_in_the_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(
        WorkflowDef::single("goes-on", true),
        |ctx: Context, _: ()| async move {
            let refused = ctx.spawn("there is no such workflow", &(), SpawnOptions::default()).await;
            let refused = matches!(refused, Err(Failure::Final(_)));
            let after: u32 = ctx.run("after", || async { Ok(5) }).await?;
            Ok::<_, Failure>((refused, after))
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("goes-on", &()).await.expect("a run starts");
    assert_eq!(client.wait::<(bool, u32)>(run).await.expect("it completes"), (true, 5));
    running.stop().await;
    close(client).await;
}
