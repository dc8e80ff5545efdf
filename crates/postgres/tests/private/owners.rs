//! One owner: whoever had a partition before can do nothing to it any more.

use std::sync::Arc;

use mainspring_core::row::MetaRow;
use mainspring_core::{Out, Table};
use mainspring_postgres::Postgres;
use mainspring_store::log::{LogError, Position};
use mainspring_store::retention::{Retention, Sweep};
use mainspring_store::{Batch, Store, TablesError};

use crate::server::Server;

fn batch(position: u64) -> Arc<Batch> {
    let mut out = Out::new();
    out.put(Table::Meta, b"partition", &MetaRow { now: position, event_seq: 0 });
    Arc::new(Batch::new(position, out.take().writes))
}

#[test]
fn a_former_owner_is_refused_everywhere() {
    let server = Server::start();
    let options = server.options();
    let [first, second] = [(); 2].map(|()| Postgres::new(options.clone()).unwrap());
    assert_eq!((first.partitions(2).unwrap(), second.partitions(1).unwrap()), (2, 2));
    let (mut tables, _rows) = first.open_tables(0).unwrap();
    let mut log = first.open_log(0, 7, Position(1), &mut |_, _| {}).unwrap();
    for position in 1..=3 {
        assert_eq!(log.append(&[b"x"]).unwrap(), Position(position));
    }
    tables.apply(&[batch(1)]).unwrap();

    let (mut taken, _) = second.open_tables(0).unwrap();
    assert_eq!(taken.applied().unwrap(), 1);
    // From here on what the second has read stands still, even before it has the log.
    assert!(matches!(tables.apply(&[batch(2)]), Err(TablesError::Fenced)));
    assert!(matches!(tables.applied(), Err(TablesError::Fenced)));
    let swept = tables.sweep(u64::MAX >> 1, Retention::default(), &mut Sweep::default(), 10);
    assert!(matches!(swept, Err(TablesError::Fenced)));
    assert!(matches!(log.append(&[b"not this"]), Err(LogError::Fenced)));
    assert!(matches!(log.append(&[b"nor this"]), Err(LogError::Fenced)));
    assert!(matches!(log.remove_up_to(Position(3)), Err(LogError::Fenced)));

    let mut shown = Vec::new();
    let mut log = second.open_log(0, 7, Position(2), &mut |position, _| shown.push(position.0)).unwrap();
    assert_eq!(shown, [2, 3]);
    assert_eq!(log.append(&[b"x"]).unwrap(), Position(4));
    taken.apply(&[batch(2), batch(3), batch(4)]).unwrap();
    // The other partition is still the first one's to take.
    first.open_log(1, 7, Position(1), &mut |_, _| {}).unwrap().append(&[b"x"]).unwrap();
}

/// Opened tables, and then somebody else takes the partition: what was read no longer stands still.
#[test]
fn a_log_is_not_opened_over_tables_that_were_taken() {
    let server = Server::start();
    let options = server.options();
    let [first, second] = [(); 2].map(|()| Postgres::new(options.clone()).unwrap());
    first.partitions(1).unwrap();
    first.open_tables(0).unwrap();
    second.open_tables(0).unwrap();
    assert!(matches!(first.open_log(0, 7, Position(1), &mut |_, _| {}), Err(LogError::Fenced)));
    second.open_log(0, 7, Position(1), &mut |_, _| {}).unwrap();
}

/// Many take it from each other, all at once, while each appends what it can: positions have no hole and no batch is
/// there twice.
#[test]
fn owners_that_fight_lose_nothing() {
    const OWNERS: u64 = 4;
    const TURNS: u64 = 15;
    let server = Server::start();
    let options = server.options();
    Postgres::new(options.clone()).unwrap().partitions(1).unwrap();
    let mut told: Vec<(u64, String)> = std::thread::scope(|scope| {
        let owners: Vec<_> = (0..OWNERS)
            .map(|owner| {
                let options = options.clone();
                scope.spawn(move || {
                    let mut told = Vec::new();
                    let store = Postgres::new(options).unwrap();
                    for turn in 0..TURNS {
                        let mut log = loop {
                            match store.open_log(0, 7, Position(1), &mut |_, _| {}) {
                                Ok(log) => break log,
                                Err(LogError::Fenced) => {}
                                Err(error) => panic!("{error}"),
                            }
                        };
                        for nth in 0..5 {
                            let batch = format!("{owner} {turn} {nth}");
                            match log.append(&[batch.as_bytes()]) {
                                Ok(position) => told.push((position.0, batch)),
                                Err(LogError::Fenced) => break,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                    told
                })
            })
            .collect();
        owners.into_iter().flat_map(|owner| owner.join().unwrap()).collect()
    });
    told.sort();
    let mut shown = Vec::new();
    let store = Postgres::new(options).unwrap();
    let show = &mut |position: Position, bytes: &[u8]| {
        shown.push((position.0, String::from_utf8(bytes.to_vec()).unwrap()));
    };
    store.open_log(0, 7, Position(1), show).unwrap();
    assert!(told.len() > 10, "this test tries something: {}", told.len());
    assert_eq!(shown, told, "what was told, in order, and nothing else");
}
