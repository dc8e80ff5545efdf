//! Entries that are recorded with the next: what is durable when, and what a crash or a refusal leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mainspring_client::{Client, Context, Failure, SpawnOptions, TenantId, Worker, WorkflowDef};
use mainspring_core::{Command, TaskId};
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

/// The labels in a run's journal, in order, as they are durable.
async fn journal(client: &Client, run: mainspring_client::RunId) -> Vec<String> {
    let task = TaskId { run, index: 0 };
    let rows = client.engine().read(TENANT, move |reader| reader.journal(TENANT, task)).await;
    rows.expect("the journal is read")
        .into_iter()
        .map(|(_, row)| format!("{} {}", row.kind.word(), row.label))
        .collect()
}

async fn journal_of(ctx: &Context) -> Vec<String> {
    journal(ctx.client(), ctx.run_id()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_noted_is_durable_before_a_step_and_before_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(
        WorkflowDef::single("notes", true),
        |ctx: Context, _: ()| async move {
            let noted: u32 = ctx.note("read", || async { Ok(5) }).await?;
            ctx.emit_with_next("told", &noted).await?;
            let before = journal_of(&ctx).await;
            let in_step: Vec<String> = ctx.run("step", || async { Ok(journal_of(&ctx).await) }).await?;
            ctx.emit_with_next("over", &noted).await?;
            Ok::<_, Failure>((before, in_step))
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("notes", &()).await.expect("a run starts");
    let (before, in_step) = client.wait::<(Vec<String>, Vec<String>)>(run).await.expect("it completes");
    assert_eq!(before, Vec::<String>::new());
    assert_eq!(in_step, ["run read", "emit told"]);
    assert_eq!(journal(&client, run).await, ["run read", "emit told", "run step", "emit over"]);
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_noted_and_not_recorded_is_noted_anew_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let reads = Arc::new(AtomicU32::new(0));
    let function = |reads: Arc<AtomicU32>, goes_on: bool| {
        move |ctx: Context, _: ()| {
            let reads = reads.clone();
            async move {
                let first: u32 = ctx.note("read", || async { Ok(reads.fetch_add(1, Ordering::SeqCst)) }).await?;
                if !goes_on {
                    std::future::pending::<()>().await;
                }
                let go: Option<u32> = ctx.wait_signal("go", None).await?;
                let second: u32 = ctx.note("read", || async { Ok(reads.fetch_add(1, Ordering::SeqCst)) }).await?;
                Ok::<_, Failure>((first, go, second))
            }
        }
    };
    let def = WorkflowDef::single("notes", true);
    let mut run = None;
    // It is ended with a note that nothing followed, then with one that a wait followed.
    for (reads_before, goes_on) in [(0, false), (1, true), (2, true)] {
        let client = open(dir.path()).await;
        let worker = Worker::new(client.clone(), "w").function(def.clone(), function(reads.clone(), goes_on));
        let _running = worker.start().await.expect("the worker starts");
        let run = match run {
            Some(run) => run,
            None => *run.insert(client.start("notes", &()).await.expect("a run starts")),
        };
        if reads_before < 2 {
            while reads.load(Ordering::SeqCst) == reads_before || goes_on && journal(&client, run).await.len() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            client.signal(run, "go", &7).await.expect("the signal is taken");
            let ended = client.wait::<(u32, Option<u32>, u32)>(run).await.expect("it completes");
            assert_eq!(ended, (1, Some(7), 2), "the note that was recorded is read back, the other is not");
            assert_eq!(journal(&client, run).await, ["run read", "wait_signal go", "run read"]);
        }
        close(client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_what_follows_leaves_what_was_noted() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(
        WorkflowDef::single("goes-on", true),
        |ctx: Context, _: ()| async move {
            let noted: u32 = ctx.note("read", || async { Ok(3) }).await?;
            ctx.emit_with_next("told", &noted).await?;
            let refused = ctx.spawn("there is no such workflow", &(), SpawnOptions::default()).await;
            let refused = matches!(refused, Err(Failure::Final(_)));
            let after: u32 = ctx.run("after", || async { Ok(5) }).await?;
            Ok::<_, Failure>((noted, refused, after))
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("goes-on", &()).await.expect("a run starts");
    assert_eq!(client.wait::<(u32, bool, u32)>(run).await.expect("it completes"), (3, true, 5));
    assert_eq!(journal(&client, run).await, ["run read", "emit told", "run after"]);
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_noted_and_is_refused_ends_the_function() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(
        WorkflowDef::single("told", true),
        |ctx: Context, _: ()| async move {
            let name = "x".repeat(ctx.client().engine().limits().name_bytes_max + 1);
            ctx.emit_with_next(&name, &()).await?;
            // It does not mind; but what follows would be at another place in each replay.
            let _ = ctx.run("step", || async { Ok(()) }).await;
            Ok::<_, Failure>(())
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("told", &()).await.expect("a run starts");
    let error = client.wait::<()>(run).await.expect_err("it fails").to_string();
    assert!(error.contains("the event's name has 257 bytes, at most 256 are allowed"), "{error}");
    assert_eq!(journal(&client, run).await, Vec::<String>::new());
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_nobody_looks_after_holds_no_step_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(
        WorkflowDef::single("branches", true),
        |ctx: Context, _: ()| async move {
            let noted: u32 = ctx.note("read", || async { Ok(3) }).await?;
            // Asked, with the note before it, and from then on left alone.
            let mut slept = Box::pin(ctx.sleep(Duration::from_secs(3_600)));
            tokio::select! {
                biased;
                slept = &mut slept => panic!("it slept: {slept:?}"),
                () = std::future::ready(()) => {}
            }
            let seen: Vec<String> = ctx.run("step", || async { Ok(journal_of(&ctx).await) }).await?;
            drop(slept);
            Ok::<_, Failure>((noted, seen))
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("branches", &()).await.expect("a run starts");
    let (noted, seen) = client.wait::<(u32, Vec<String>)>(run).await.expect("it completes");
    assert_eq!((noted, seen), (3, vec!["run read".to_owned(), "sleep ".to_owned()]));
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_is_sent_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let worker = Worker::new(client.clone(), "w").function(
        WorkflowDef::single("many", true),
        |ctx: Context, _: ()| async move {
            let limits = *ctx.client().engine().limits();
            for nth in 0..limits.entries_before_max + 3 {
                ctx.note("small", || async { Ok(nth) }).await?;
            }
            let small = journal_of(&ctx).await.len();
            let large = "x".repeat(limits.entries_before_bytes_max);
            let read: String = ctx.note("large", || async { Ok(large.clone()) }).await?;
            Ok::<_, Failure>((small, read.len(), journal_of(&ctx).await.len()))
        },
    );
    let running = worker.start().await.expect("the worker starts");
    let run = client.start("many", &()).await.expect("a run starts");
    let max = client.engine().limits().entries_before_max;
    let bytes = client.engine().limits().entries_before_bytes_max;
    let ended = client.wait::<(usize, usize, usize)>(run).await.expect("it completes");
    assert_eq!(ended, (max + 1, bytes, max + 4));
    running.stop().await;
    close(client).await;
}
