//! A store moves from a directory into PostgreSQL and back, with what runs and waits in it.

use std::sync::Arc;

use mainspring_client::{Client, Context, Failure, TenantId, Worker, WorkflowDef};
use mainspring_core::Command;
use mainspring_engine::{Embedded, Engine, EngineOptions, LogOptions, Store, partition_of};
use mainspring_postgres::Postgres;
use mainspring_store::moving::{Movable, Totals, move_store};

use crate::server::Server;

const TENANTS: [TenantId; 5] = [TenantId(3), TenantId(7), TenantId(11), TenantId(400), TenantId(u128::MAX)];

fn moved(from: &dyn Movable, to: &dyn Movable, wanted: u16) -> Totals {
    move_store(from, to, wanted, partition_of, &mut |_| {}).expect("it is moved")
}

fn refused(from: &dyn Movable, to: &dyn Movable) -> String {
    move_store(from, to, 1, partition_of, &mut |_| {}).expect_err("it is refused").to_string()
}

/// Starts functions that wait for as many signals as there are stores, and finishes none.
async fn begin(engine: &Engine, def: &WorkflowDef) -> Vec<mainspring_core::RunId> {
    let mut runs = Vec::new();
    for tenant in TENANTS {
        engine.submit(tenant, Command::PutTenant { name: tenant.to_string() }).await.expect("the tenant is put");
        let client = Client::new(engine.clone(), tenant);
        let _worker = serve(engine, tenant, def).await;
        for nth in 0..8 {
            runs.push(client.start("hello", &format!("run {nth}")).await.unwrap());
        }
        let quick = client.start("quick", &1).await.unwrap();
        assert_eq!(client.wait::<u32>(quick).await.unwrap(), 2);
    }
    runs
}

async fn serve(engine: &Engine, tenant: TenantId, def: &WorkflowDef) -> mainspring_client::RunningWorker {
    let waits = |ctx: Context, name: String| async move {
        let first: u32 = ctx.run("first", || async { Ok(1) }).await?;
        let one: Option<String> = ctx.wait_signal("one", None).await?;
        let two: Option<String> = ctx.wait_signal("two", None).await?;
        Ok::<_, Failure>(format!("{name} {first} {} {}", one.unwrap_or_default(), two.unwrap_or_default()))
    };
    let quick = |_: Context, nth: u32| async move { Ok::<_, Failure>(nth + 1) };
    let worker = Worker::new(Client::new(engine.clone(), tenant), "w");
    let worker = worker.function(def.clone(), waits).function(WorkflowDef::single("quick", true), quick);
    worker.start().await.unwrap()
}

async fn open(store: Arc<dyn Store>) -> Engine {
    tokio::task::spawn_blocking(move || Engine::open(&EngineOptions::on(store)).expect("the engine opens"))
        .await
        .unwrap()
}

async fn shut_down(engine: Engine) {
    tokio::task::spawn_blocking(move || engine.shut_down()).await.expect("the engine shuts down");
}

#[tokio::test(flavor = "multi_thread")]
async fn into_postgres_and_back_with_what_waits() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let embedded = |name: &str| Embedded::new(dir.path().join(name), LogOptions::default());
    let (old, new) = (embedded("old"), embedded("new"));
    let postgres = || Postgres::new(server.options_of("moved")).unwrap();
    let def = WorkflowDef::single("hello", true);

    let engine = open(Arc::new(old.clone())).await;
    let runs = begin(&engine, &def).await;
    // A store in use is refused, by its lock.
    assert!(refused(&old, &postgres()).contains("another process"));
    shut_down(engine).await;

    let there = moved(&old, &postgres(), 64);
    assert!(Store::partitions(&old, 1).unwrap_err().to_string().contains("was moved to postgres://127.0.0.1"));
    assert!(refused(&old, &postgres()).contains("was moved to"));
    let engine = open(Arc::new(postgres())).await;
    let numbers: std::collections::BTreeSet<_> =
        TENANTS.iter().map(|tenant| engine.partition_number(*tenant)).collect();
    assert!(numbers.len() > 2, "the tenants live in several partitions: {numbers:?}");
    for (nth, run) in runs.iter().enumerate() {
        let tenant = TENANTS[nth / 8];
        Client::new(engine.clone(), tenant).signal(*run, "one", &"in postgres").await.unwrap();
    }
    shut_down(engine).await;

    let back = moved(&postgres(), &new, 1);
    assert!(back.rows() >= there.rows(), "what was moved is there, and more: {there:?}, {back:?}");
    let error = Store::partitions(&postgres(), 1).unwrap_err().to_string();
    assert!(error.contains("was moved to") && !error.contains("mainspring@"), "{error}");
    let engine = open(Arc::new(new)).await;
    for (nth, run) in runs.into_iter().enumerate() {
        let tenant = TENANTS[nth / 8];
        let _worker = serve(&engine, tenant, &def).await;
        let client = Client::new(engine.clone(), tenant);
        client.signal(run, "two", &"and back").await.unwrap();
        let output: String = client.wait(run).await.unwrap();
        assert_eq!(output, format!("run {} 1 in postgres and back", nth % 8));
    }
    shut_down(engine).await;
}

#[test]
fn a_database_that_holds_something_is_no_target() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let old = Embedded::new(dir.path().join("old"), LogOptions::default());
    Engine::open(&EngineOptions::on(Arc::new(old.clone()))).unwrap().shut_down();
    let store = Postgres::new(server.options_of("held")).unwrap();
    store.migrate(4).unwrap();
    server.ask("INSERT INTO held.batches VALUES (0, 1, 1, 0, 'x')");
    assert!(refused(&old, &store).contains("is not empty"));
    server.ask("DELETE FROM held.batches");
    moved(&old, &store, 64);
    assert_eq!(Store::partitions(&store, 64).unwrap(), 4, "a schema that was there keeps its number");
}

/// Nothing but leases keeps others from a store in PostgreSQL: one that was taken while it was read is not given up.
#[test]
fn a_source_that_somebody_takes_meanwhile_stays_what_it_is() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let old = || Postgres::new(server.options_of("taken")).unwrap();
    Engine::open(&EngineOptions { partitions: 3, ..EngineOptions::on(Arc::new(old())) }).unwrap().shut_down();
    let new = Embedded::new(dir.path().join("new"), LogOptions::default());
    let taken = move_store(&old(), &new, 1, partition_of, &mut |step| {
        if step == "everything is read back" {
            Engine::open(&EngineOptions::on(Arc::new(old()))).unwrap().shut_down();
        }
    });
    assert!(taken.unwrap_err().to_string().contains("another process has taken the partition over"));
    assert_eq!(Store::partitions(&old(), 1).unwrap(), 3, "the source is served as before");
    assert!(Store::partitions(&new, 1).unwrap_err().to_string().contains("is not complete"));
    moved(&old(), &new, 1);
    assert_eq!(Store::partitions(&new, 1).unwrap(), 1);
}
