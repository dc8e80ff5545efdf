//! Connections that are cut in mid-call: what became of a batch is found out, whatever became of it.

use std::sync::Arc;
use std::time::Duration;

use mainspring_core::row::{self, MetaRow};
use mainspring_core::{Out, Table};
use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::log::{LogError, Position};
use mainspring_store::{Batch, PartitionLog, Store, TablesError};

use crate::proxy::{Cut, Proxy};
use crate::server::Server;

/// A store behind a proxy, and its log, in which one batch is already.
fn opened(server: &Server) -> (Proxy, PostgresOptions, Postgres, Box<dyn PartitionLog>) {
    let proxy = Proxy::to(server.port);
    let direct = server.options();
    let options = PostgresOptions { url: server.url_at(proxy.port), ..direct.clone() };
    let store = Postgres::new(options).unwrap();
    store.partitions(1).unwrap();
    let mut log = store.open_log(0, 7, Position(1), &mut |_, _| {}).unwrap();
    assert_eq!(log.append(&[b"the first"]).unwrap(), Position(1));
    (proxy, direct, store, log)
}

/// What became of a batch, asked until it is known.
pub(crate) fn settled(log: &mut dyn PartitionLog) -> Result<Option<Position>, LogError> {
    loop {
        match log.settle() {
            Err(LogError::Unknown { .. }) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
}

fn append_unknown(log: &mut dyn PartitionLog, bytes: &[u8]) {
    match log.append(&[bytes]) {
        Err(LogError::Unknown { .. }) => {}
        other => panic!("its outcome can't be known: {other:?}"),
    }
}

/// What somebody finds who opens the log afterwards, by a way of their own.
fn found(options: &PostgresOptions) -> Vec<(u64, Vec<u8>)> {
    let store = Postgres::new(options.clone()).unwrap();
    let mut found = Vec::new();
    store.open_log(0, 7, Position(1), &mut |position, bytes| found.push((position.0, bytes.to_vec()))).unwrap();
    found
}

fn numbered(batches: &[&str]) -> Vec<(u64, Vec<u8>)> {
    (1..).zip(batches.iter().map(|batch| batch.as_bytes().to_vec())).collect()
}

#[test]
fn an_append_whose_answer_was_lost_is_found() {
    let server = Server::start();
    let (proxy, options, _store, mut log) = opened(&server);
    proxy.cut(b"the second", Cut::After);
    append_unknown(&mut *log, b"the second");
    proxy.cut_done();
    assert_eq!(settled(&mut *log).unwrap(), Some(Position(2)));
    assert_eq!(log.append(&[b"the third"]).unwrap(), Position(3));
    drop(log);
    assert_eq!(found(&options), numbered(&["the first", "the second", "the third"]));
}

#[test]
fn an_append_that_never_arrived_is_not_found() {
    let server = Server::start();
    let (proxy, options, _store, mut log) = opened(&server);
    proxy.cut(b"the second", Cut::Before);
    append_unknown(&mut *log, b"the second");
    proxy.cut_done();
    assert_eq!(settled(&mut *log).unwrap(), None);
    assert_eq!(log.append(&[b"the second"]).unwrap(), Position(2));
    drop(log);
    assert_eq!(found(&options), numbered(&["the first", "the second"]));
}

/// The worst of it: looked for and not there, and then it arrives.
#[test]
fn an_append_that_arrives_after_it_was_looked_for_does_nothing() {
    let server = Server::start();
    let (proxy, options, _store, mut log) = opened(&server);
    for nth in 2..5_u64 {
        proxy.cut(b"the late one", Cut::Held);
        append_unknown(&mut *log, b"the late one");
        let held = proxy.cut_done();
        assert_eq!(settled(&mut *log).unwrap(), None);
        // Before the next takes its place, or after.
        let held = if nth % 2 == 0 {
            held.let_go();
            None
        } else {
            Some(held)
        };
        let batch = format!("batch {nth}");
        assert_eq!(log.append(&[batch.as_bytes()]).unwrap(), Position(nth));
        if let Some(held) = held {
            held.let_go();
        }
        let count = server.ask(&format!("SELECT count(*) FROM {}.batches", options.schema));
        assert_eq!(count, nth.to_string(), "the late one is not in the log");
    }
    drop(log);
    assert_eq!(found(&options), numbered(&["the first", "batch 2", "batch 3", "batch 4"]));
}

/// The question itself is cut, and arrives late as well: it must end no attempt that came after it.
#[test]
fn a_question_that_arrives_late_ends_nothing() {
    let server = Server::start();
    let (proxy, options, _store, mut log) = opened(&server);
    proxy.cut(b"the second", Cut::Before);
    append_unknown(&mut *log, b"the second");
    proxy.cut_done();
    // As it is on the wire: the epoch, and the attempt that is to come, each behind its length.
    let number = |of: u64| [8_u32.to_be_bytes().as_slice(), &of.to_be_bytes()].concat();
    proxy.cut(&[number(1), number(1)].concat(), Cut::Held);
    log.settle().expect_err("the question was cut");
    let held = proxy.cut_done();
    assert_eq!(settled(&mut *log).unwrap(), None);
    assert_eq!(log.append(&[b"the second"]).unwrap(), Position(2));
    let attempt = || server.ask(&format!("SELECT attempt FROM {}.partitions", options.schema));
    let before = attempt();
    held.let_go();
    assert_eq!((attempt(), before.as_str()), (before.clone(), "2"), "it was the first of two questions");
    assert_eq!(log.append(&[b"the third"]).unwrap(), Position(3));
    drop(log);
    assert_eq!(found(&options), numbered(&["the first", "the second", "the third"]));
}

fn meta(position: u64) -> Arc<Batch> {
    let mut out = Out::new();
    out.put(Table::Meta, b"partition", &MetaRow { now: position, event_seq: 0 });
    Arc::new(Batch::new(position, out.take().writes))
}

#[test]
fn an_application_is_repeated_until_it_is_heard_of() {
    let server = Server::start();
    let (proxy, _, store, _log) = opened(&server);
    let (mut tables, rows) = store.open_tables(0).unwrap();
    for (position, how) in (1..).zip([Cut::After, Cut::Before, Cut::Held]) {
        proxy.cut(b"COMMIT", how);
        match tables.apply(&[meta(position)]) {
            Err(TablesError::Unavailable { .. }) => {}
            other => panic!("its outcome can't be known: {other:?}"),
        }
        let held = proxy.cut_done();
        if how == Cut::Held {
            // What it holds is let go, and it is done after all.
            held.let_go();
        }
        let stands = if how == Cut::Before { position - 1 } else { position };
        assert_eq!(tables.applied().unwrap(), stands, "{how:?}");
        assert_eq!(tables.apply(&[meta(position)]).unwrap().position, position, "{how:?}");
        let body = rows.get(Table::Meta, b"partition").unwrap().expect("a row");
        assert_eq!(row::decode::<MetaRow>(&body).unwrap().now, position, "{how:?}");
    }
}

/// The database ends in the midst of it, and comes back: nothing that was told is lost, and nothing is there twice.
#[test]
fn a_database_that_restarts_is_waited_for() {
    let server = Server::start();
    let options = server.options();
    let store = Postgres::new(options.clone()).unwrap();
    store.partitions(1).unwrap();
    let mut log = store.open_log(0, 7, Position(1), &mut |_, _| {}).unwrap();
    let mut expected = Vec::new();
    for nth in 0..60_u64 {
        if nth % 20 == 10 {
            server.kill();
        }
        let batch = format!("batch {nth}").into_bytes();
        let mut is_down = nth % 20 == 10;
        let position = loop {
            match log.append(&[&batch]) {
                Ok(position) => break position,
                Err(LogError::Unknown { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if std::mem::take(&mut is_down) {
                assert!(matches!(log.settle(), Err(LogError::Unknown { .. })), "nobody is there to ask");
                server.run();
            }
            if let Some(position) = settled(&mut *log).unwrap() {
                break position;
            }
        };
        assert_eq!(position, Position(nth + 1));
        expected.push((nth + 1, batch));
    }
    drop(log);
    assert_eq!(found(&options), expected);
}
