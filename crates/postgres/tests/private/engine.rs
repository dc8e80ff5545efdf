//! A real engine on this store: what it was told is durable is there after the database was killed, and an engine whose
//! partitions were taken by another stops.

use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Client, Context, Failure, TenantId, Worker, WorkflowDef};
use mainspring_core::row::RunRow;
use mainspring_core::{Command, Start, Table};
use mainspring_engine::{Engine, EngineError, EngineOptions};
use mainspring_postgres::{Postgres, PostgresOptions};

use crate::server::Server;

const TENANT: TenantId = TenantId(7);

fn open(options: &PostgresOptions) -> Engine {
    let store = Postgres::new(options.clone()).expect("the options are right");
    Engine::open(&EngineOptions { partitions: 3, ..EngineOptions::on(Arc::new(store)) }).expect("the engine opens")
}

async fn put_tenant(engine: &Engine) {
    engine.submit(TENANT, Command::PutTenant { name: "test".to_owned() }).await.expect("the tenant is put");
}

async fn shut_down(engine: Engine) {
    tokio::task::spawn_blocking(move || engine.shut_down()).await.expect("the engine shuts down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_goes_on_after_engine_and_database_were_started_again() {
    let server = Server::start();
    let options = server.options();
    let function = |ctx: Context, name: String| async move {
        let first: u32 = ctx.run("first", || async { Ok(1) }).await?;
        let answer: Option<String> = ctx.wait_signal("go", None).await?;
        Ok::<_, Failure>(format!("{name} {first} {}", answer.unwrap_or_default()))
    };
    let def = WorkflowDef::single("hello", true);
    let engine = open(&options);
    put_tenant(&engine).await;
    let client = Client::new(engine.clone(), TENANT);
    let running = Worker::new(client.clone(), "w").function(def.clone(), function).start().await.unwrap();
    let run = client.start("hello", &"ann").await.unwrap();
    drop((client, running));
    shut_down(engine).await;
    server.kill();
    server.run();

    let engine = open(&options);
    let client = Client::new(engine.clone(), TENANT);
    let _running = Worker::new(client.clone(), "w").function(def, function).start().await.unwrap();
    client.signal(run, "go", &"now").await.unwrap();
    let output: String = client.wait(run).await.unwrap();
    assert_eq!(output, "ann 1 now");
    shut_down(engine).await;
}

/// The database is killed under load and comes back: everybody is answered in the end, and each start is one run.
#[tokio::test(flavor = "multi_thread")]
async fn starts_while_the_database_is_killed_are_each_one_run() {
    const CALLERS: usize = 16;
    const STARTS: usize = 20;
    let server = Arc::new(Server::start());
    let options = server.options();
    let engine = open(&options);
    put_tenant(&engine).await;
    engine.submit(TENANT, Command::PutWorkflow { def: WorkflowDef::single("job", false) }).await.unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for _ in 0..STARTS {
                    let start = Start { workflow: "job".to_owned(), ..Start::default() };
                    engine
                        .submit(TENANT, Command::StartRun { start })
                        .await
                        .expect("late, perhaps, but it is answered");
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            std::thread::sleep(Duration::from_millis(100));
            server.run();
        })
        .await
        .unwrap();
    }
    for caller in callers {
        caller.await.unwrap();
    }
    shut_down(engine).await;

    let engine = open(&options);
    let runs = engine.read(TENANT, |reader| reader.all::<RunRow>(TENANT, Table::Run)).await.unwrap();
    assert_eq!(runs.len(), CALLERS * STARTS);
    shut_down(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_partitions_were_taken_stops() {
    let server = Server::start();
    let options = server.options();
    let first = open(&options);
    put_tenant(&first).await;
    let second = open(&options);
    assert_eq!(second.tenants().await.unwrap(), [(TENANT, "test".to_owned())]);
    let refused = first.submit(TENANT, Command::PutTenant { name: "late".to_owned() }).await;
    let Err(EngineError::Stopped { cause }) = refused else { panic!("it is not the owner: {refused:?}") };
    assert!(cause.contains("another process has taken the partition over"), "{cause}");
    put_tenant(&second).await;
    assert_eq!(second.tenants().await.unwrap(), [(TENANT, "test".to_owned())]);
    shut_down(first).await;
    shut_down(second).await;
}
