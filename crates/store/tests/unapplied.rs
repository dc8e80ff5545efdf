//! Readers in front of the tables: whatever comes between, a row is read as it was durable when it was asked for, or as it
//! became since.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mainspring_core::{Out, Table, row};
use mainspring_store::unapplied::Linger;
use mainspring_store::{Batch, Unapplied};

/// Few, so that they meet.
const KEYS: u64 = 4;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A batch that writes its position to some keys, or deletes them.
fn batch(position: u64, keys: &[u64], deletes: bool) -> Arc<Batch> {
    let mut out = Out::new();
    for key in keys {
        let key = key.to_be_bytes();
        if deletes {
            out.delete(Table::Document, &key);
        } else {
            out.put(Table::Document, &key, &row::MetaRow { now: position, event_seq: 0 });
        }
    }
    Arc::new(Batch::new(position, out.take().writes))
}

fn apply(rows: &mut Rows, batch: &Batch) {
    for op in batch.ops() {
        let op = op.unwrap();
        match op.body {
            Some(body) => rows.insert(op.key.to_vec(), body.to_vec()),
            None => rows.remove(op.key),
        };
    }
}

/// What is true, by simple means.
#[derive(Default)]
struct World {
    queue: Vec<Arc<Batch>>,
    tables: Rows,
    durable: Rows,
    position: u64,
    chance: u64,
    asked: u64,
    read: u64,
}

impl World {
    fn chance(&mut self, of: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % of
    }
}

/// Something becomes durable, or the tables commit some of it.
fn disturb(unapplied: &Unapplied, world: &RefCell<World>) {
    let mut world = world.borrow_mut();
    if world.chance(3) > 0 {
        world.position += 1;
        let (first, second, deletes) = (world.chance(KEYS), world.chance(KEYS), world.chance(4) == 0);
        let batch = batch(world.position, &[first, second], deletes);
        apply(&mut world.durable, &batch);
        unapplied.push(batch.clone());
        world.queue.push(batch);
    } else {
        let waiting = world.queue.len() as u64;
        let some = world.chance(waiting + 1) as usize;
        let committed: Vec<_> = world.queue.drain(..some).collect();
        committed.iter().for_each(|batch| apply(&mut world.tables, batch));
        if let Some(last) = committed.last() {
            unapplied.mark_applied(last.position);
        }
    }
}

/// Reads a row, while as much happens as does. Nothing may be read that had been replaced before.
fn read(unapplied: &Unapplied, world: &RefCell<World>) {
    let key = world.borrow_mut().chance(KEYS).to_be_bytes();
    let now = || world.borrow().durable.get(key.as_slice()).cloned();
    let mut right = vec![now()];
    let found = unapplied.get_or(Table::Document, &key, || {
        let (before, after) = {
            let mut world = world.borrow_mut();
            world.asked += 1;
            (world.chance(3), world.chance(3))
        };
        for _ in 0..before {
            disturb(unapplied, world);
            right.push(now());
        }
        let found = world.borrow().tables.get(key.as_slice()).cloned();
        for _ in 0..after {
            disturb(unapplied, world);
            right.push(now());
        }
        Ok::<_, Infallible>(found)
    });
    let found = found.unwrap();
    world.borrow_mut().read += 1;
    assert!(right.contains(&found), "key {key:?} was read as {found:?}, it was one of {right:?}");
}

#[test]
fn what_is_read_is_never_what_was_replaced_before() {
    let (mut asked, mut read_in_all) = (0, 0);
    for seed in 0..500 {
        let (unapplied, world) = (Unapplied::new(0), RefCell::new(World { chance: seed, ..World::default() }));
        for _ in 0..300 {
            if world.borrow_mut().chance(3) == 0 {
                disturb(&unapplied, &world);
            } else {
                read(&unapplied, &world);
            }
        }
        asked += world.borrow().asked;
        read_in_all += world.borrow().read;
    }
    assert!(asked * 3 < read_in_all, "the tables were asked {asked} times for {read_in_all} reads");
}

/// The same with threads: one makes durable, one applies, some read, and a row never goes back.
#[test]
fn a_row_never_goes_back() {
    const BATCHES: u64 = 30_000;
    let unapplied = Unapplied::new(0);
    let tables: Mutex<Rows> = Mutex::default();
    let durable: [AtomicU64; KEYS as usize] = Default::default();
    let version = |body: Option<Vec<u8>>| body.map_or(0, |body| row::decode::<row::MetaRow>(&body).unwrap().now);
    thread::scope(|scope| {
        scope.spawn(|| {
            for position in 1..=BATCHES {
                let key = position * position % KEYS;
                unapplied.push(batch(position, &[key, (key + position) % KEYS], false));
                for key in [key, (key + position) % KEYS] {
                    durable[key as usize].store(position, Ordering::Release);
                }
                if position % 64 == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
            unapplied.close();
        });
        scope.spawn(|| {
            let linger = Linger { quiet: Duration::from_micros(300), busy: Duration::from_micros(600) };
            while let Some(batches) = unapplied.wait_for_some(1 << 20, linger, Duration::from_millis(1)) {
                let Some(last) = batches.last() else { continue };
                batches.iter().for_each(|batch| apply(&mut tables.lock().unwrap(), batch));
                unapplied.mark_applied(last.position);
            }
        });
        for reader in 0..3_u64 {
            let (unapplied, tables, durable) = (&unapplied, &tables, &durable);
            scope.spawn(move || {
                for nth in 0_u64.. {
                    let key = (nth * 7 + reader) % KEYS;
                    let before = durable[key as usize].load(Ordering::Acquire);
                    let read =
                        || Ok::<_, Infallible>(tables.lock().unwrap().get(key.to_be_bytes().as_slice()).cloned());
                    let found = version(unapplied.get_or(Table::Document, &key.to_be_bytes(), read).unwrap());
                    assert!(found >= before, "key {key} was at {before} and is read at {found}");
                    if unapplied.applied() == BATCHES {
                        break;
                    }
                    // Now and then nobody reads for a while.
                    if nth % 500 == 0 {
                        thread::sleep(Duration::from_millis(2));
                    }
                }
            });
        }
    });
    assert_eq!(unapplied.applied(), BATCHES);
}
