//! Appends of several partitions that go in one statement: each is told what came of its own.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::log::{LogError, Position};
use mainspring_store::{PartitionLog, Store};

use crate::cut::settled;
use crate::proxy::{Cut, Proxy};
use crate::server::Server;

const PARTITIONS: u16 = 24;
const BATCHES: u64 = 30;

fn opened(options: &PostgresOptions) -> (Postgres, Vec<Box<dyn PartitionLog>>) {
    let store = Postgres::new(options.clone()).unwrap();
    store.partitions(PARTITIONS).unwrap();
    let logs = (0..PARTITIONS).map(|partition| store.open_log(partition, 7, Position(1), &mut |_, _| {}).unwrap());
    let logs = logs.collect();
    (store, logs)
}

fn body(partition: usize, nth: u64) -> String {
    format!("batch {nth} of {partition};")
}

/// Appends, and finds out what became of it as often as it is not known; says how often that was.
fn append(log: &mut dyn PartitionLog, bytes: &[u8], unknown: &AtomicUsize) -> Result<Position, LogError> {
    loop {
        match log.append(&[bytes]) {
            Err(LogError::Unknown { .. }) => unknown.fetch_add(1, Ordering::Relaxed),
            other => return other,
        };
        if let Some(position) = settled(log)? {
            return Ok(position);
        }
    }
}

/// Appends to all partitions at the same time.
fn append_all(logs: Vec<Box<dyn PartitionLog>>, each: impl Fn(usize, &mut dyn PartitionLog) + Sync) {
    let begin = Barrier::new(logs.len());
    std::thread::scope(|scope| {
        for (partition, mut log) in logs.into_iter().enumerate() {
            let (begin, each) = (&begin, &each);
            scope.spawn(move || {
                begin.wait();
                each(partition, &mut *log);
            });
        }
    });
}

/// What somebody else finds who opens a log afterwards.
fn found(options: &PostgresOptions) -> BTreeMap<usize, Vec<String>> {
    let store = Postgres::new(options.clone()).unwrap();
    let found = (0..PARTITIONS).map(|partition| {
        let mut batches = Vec::new();
        let show = &mut |_: Position, bytes: &[u8]| batches.push(String::from_utf8(bytes.to_vec()).unwrap());
        store.open_log(partition, 7, Position(1), show).unwrap();
        (usize::from(partition), batches)
    });
    found.collect()
}

fn everything() -> BTreeMap<usize, Vec<String>> {
    let of = |partition| (1..=BATCHES).map(|nth| body(partition, nth)).collect();
    (0..usize::from(PARTITIONS)).map(|partition| (partition, of(partition))).collect()
}

#[test]
fn what_waits_goes_in_one_statement() {
    let server = Server::start();
    let options = server.options();
    let (_store, logs) = opened(&options);
    append_all(logs, |partition, log| {
        for nth in 1..=BATCHES {
            assert_eq!(log.append(&[body(partition, nth).as_bytes()]).unwrap(), Position(nth));
        }
    });
    // Each statement is a transaction of its own.
    let statements = server.ask(&format!("SELECT count(DISTINCT xmin::text) FROM {}.batches", options.schema));
    let (statements, batches): (u64, u64) = (statements.parse().unwrap(), u64::from(PARTITIONS) * BATCHES);
    assert!(statements < batches / 2, "{batches} batches went in {statements} statements");
    assert_eq!(found(&options), everything());
}

#[test]
fn a_partition_that_is_locked_or_taken_holds_up_no_other() {
    let server = Server::start();
    let options = server.options();
    let (_store, logs) = opened(&options);
    let other = Postgres::new(options.clone()).unwrap();
    let held = server.hold(&format!("SELECT 1 FROM {}.partitions WHERE partition = 0 FOR UPDATE", options.schema));
    let held = std::sync::Mutex::new(Some(held));
    let (others, unknown) = (AtomicUsize::new(0), AtomicUsize::new(0));
    append_all(logs, |partition, log| {
        for nth in 1..=BATCHES {
            if partition == 1 && nth == BATCHES / 2 {
                other.open_tables(1).unwrap();
                assert!(matches!(append(log, b"too late", &unknown), Err(LogError::Fenced)), "it is another's now");
                break;
            }
            assert_eq!(append(log, body(partition, nth).as_bytes(), &unknown).unwrap(), Position(nth));
        }
        if partition == 0 {
            assert!(held.lock().unwrap().is_none(), "it waited for whoever had locked it");
        } else if others.fetch_add(1, Ordering::Relaxed) + 2 == usize::from(PARTITIONS) {
            // All others are done. Were they held up, this would never be.
            held.lock().unwrap().take();
        }
    });
    let mut expected = everything();
    expected.get_mut(&1).unwrap().truncate(BATCHES as usize / 2 - 1);
    assert_eq!(found(&options), expected);
}

/// Connections that are cut while they carry appends of several: each finds out what became of its own.
#[test]
fn each_finds_out_what_became_of_its_own() {
    let server = Server::start();
    let direct = server.options();
    let proxy = Proxy::to(server.port);
    let options = PostgresOptions { url: server.url_at(proxy.port), ..direct.clone() };
    let (_store, logs) = opened(&options);
    let unknown = AtomicUsize::new(0);
    let cuts = [(5, Cut::After), (11, Cut::Before), (17, Cut::Held), (23, Cut::After)];
    let mut plan = cuts.into_iter();
    let mut arm = || plan.next().map(|(nth, how)| proxy.cut(body(7, nth).as_bytes(), how));
    arm();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (done, unknown) = (&done, &unknown);
        let appending = scope.spawn(move || {
            append_all(logs, |partition, log| {
                for nth in 1..=BATCHES {
                    let position = append(log, body(partition, nth).as_bytes(), unknown).unwrap();
                    assert_eq!(position, Position(nth));
                    // The next cut is prepared before the one that is cut goes on.
                    let so_far = cuts.iter().filter(|(cut, _)| *cut <= nth).count();
                    while partition == 7 && done.load(Ordering::Acquire) < so_far {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        });
        for (_, how) in cuts {
            let held = proxy.cut_done();
            arm();
            if how == Cut::Held {
                held.let_go();
            }
            done.fetch_add(1, Ordering::Release);
        }
        appending.join().unwrap();
    });
    assert!(unknown.load(Ordering::Relaxed) >= cuts.len(), "at least the one that was looked for, each time");
    assert_eq!(found(&direct), everything());
}
