//! The verbs that move a store and bring a schema up to date, as an operator runs them: also killed in the middle.

#[path = "../../postgres/tests/private/process.rs"]
mod process;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Client, TenantId, WorkflowDef};
use mainspring_engine::{Embedded, Engine, EngineOptions, LogOptions};
use process::Process;

const BINARY: &str = env!("CARGO_BIN_EXE_mainspring");
const TENANTS: u128 = 5;
const RUNS: usize = 400;

fn mainspring(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("it can be started")
}

/// What it says before it ends without success, in one line.
fn refused(args: &[&str]) -> String {
    let ended = mainspring(args);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.starts_with("mainspring: ") && said.lines().count() == 1, "one sentence: {said}");
    said
}

fn done(args: &[&str]) -> String {
    let ended = mainspring(args);
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap()
}

fn server(dir: &Path) -> Process {
    Process::start(dir, &["fsync=off", "shared_buffers=32MB"]).unwrap()
}

/// A store with runs that wait for a worker.
async fn fill(dir: &Path) {
    let store = Embedded::new(dir, LogOptions::default());
    let engine = Engine::open(&EngineOptions::on(Arc::new(store))).unwrap();
    let input = "x".repeat(2_000);
    for tenant in (1..=TENANTS).map(TenantId) {
        let name = tenant.to_string();
        engine.submit(tenant, mainspring_core::Command::PutTenant { name }).await.unwrap();
        let client = Client::new(engine.clone(), tenant);
        client.register(WorkflowDef::single("hello", false)).await.unwrap();
        let started = (0..RUNS).map(|_| client.start("hello", &input));
        futures_util::future::try_join_all(started).await.unwrap();
    }
    tokio::task::spawn_blocking(move || engine.shut_down()).await.unwrap();
}

/// The last lines of a move, which count what was moved.
fn counts(said: &str) -> Vec<&str> {
    let table: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("table")).skip(1).collect();
    table.into_iter().take_while(|line| line.split_whitespace().count() == 3).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_killed_again_and_again_and_then_finished() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (database, old, new) = (dir.path().join("database"), dir.path().join("old"), dir.path().join("new"));
    std::fs::create_dir(&database).unwrap();
    let server = server(&database);
    fill(&old).await;
    let (old, new, url) = (old.to_str().unwrap(), new.to_str().unwrap(), server.url());
    for delay_ms in [0, 5, 20, 60, 150, 300] {
        let mut moving =
            Command::new(BINARY).args(["move", "--from", old, "--to", &url]).stdout(Stdio::piped()).spawn().unwrap();
        // Killed so long after it has begun to copy, or was done.
        let said = BufReader::new(moving.stdout.take().unwrap()).lines().map_while(Result::ok);
        let _ = said.take_while(|line| !line.contains("go to")).count();
        std::thread::sleep(Duration::from_millis(delay_ms));
        moving.kill().unwrap();
        moving.wait().unwrap();
    }
    let ended = mainspring(&["move", "--from", old, "--to", &url]);
    if !ended.status.success() {
        // One of those that were to be killed was quicker, and has said the same.
        assert!(String::from_utf8_lossy(&ended.stderr).contains("already"), "{ended:?}");
    }
    let back = done(&["move", "--from", &url, "--to", new, "--partitions", "3"]);
    let found = counts(&back);
    let of =
        |name: &str| found.iter().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    assert_eq!(of("runs "), Some(TENANTS as usize * RUNS), "{back}");
    assert_eq!(of("tenants "), Some(TENANTS as usize), "{back}");
    assert!(back.contains("copy the folder keys"), "{back}");
    if ended.status.success() {
        assert_eq!(counts(&String::from_utf8(ended.stdout).unwrap()), found, "there and back is the same");
    }
    let engine = Engine::open(&EngineOptions::on(Arc::new(Embedded::new(new, LogOptions::default())))).unwrap();
    engine.shut_down();
    for gone in [old, &url] {
        assert!(refused(&["move", "--from", gone, "--to", new]).contains("was moved to"));
    }
    assert!(refused(&["dev", "--dir", old, "--listen", "127.0.0.1:0"]).contains("was moved to"));
}

#[test]
fn a_schema_is_brought_up_to_date_or_it_is_said_why_not() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = server(dir.path());
    let url = server.url();
    let said = done(&["migrate", "--postgres", &url, "--partitions", "8"]);
    assert!(said.contains("is new, at version") && said.contains("8 partitions"), "{said}");
    let said = done(&["migrate", "--postgres", &url]);
    assert!(said.contains("was up to date") && said.contains("8 partitions"), "{said}");
    assert!(!said.contains("mainspring@"), "no user or password is shown: {said}");
    let said = refused(&["migrate", "--postgres", &url, "--cluster", "other"]);
    assert!(said.contains("belongs to the cluster"), "{said}");
    assert!(refused(&["migrate", "--postgres", "mysql://x"]).contains("postgres://user@host/name"));
    assert!(refused(&["migrate", "--postgres", &url, "--schema", "A b"]).contains("can't be the schema"));
    assert!(refused(&["move", "--from", "mysql://x", "--to", &url]).contains("neither a directory nor a URL"));
    let nothing = dir.path().join("nothing");
    let nothing = nothing.to_str().unwrap();
    assert!(refused(&["move", "--from", nothing, "--to", &url]).contains("there is no store in"));
    assert!(!Path::new(nothing).exists(), "looking makes nothing");
}
