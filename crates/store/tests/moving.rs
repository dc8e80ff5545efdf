//! Moves between directories, broken off at every point.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use mainspring_core::id::{PayloadId, TenantId};
use mainspring_core::row::{self, MetaRow, TenantRow, key};
use mainspring_core::{Out, Table};
use mainspring_store::backend::{OpenTables, Range};
use mainspring_store::log::{LogError, LogOptions, Position};
use mainspring_store::moving::{Filling, Movable, Note, Progress, move_store};
use mainspring_store::reader::RawRows;
use mainspring_store::{Batch, Embedded, PartitionLog, Rows, Store, StoreError, TablesError};
use tempfile::TempDir;

fn place(tenant: TenantId, count: u16) -> u16 {
    (tenant.0 % u128::from(count)) as u16
}

fn embedded(dir: &TempDir, name: &str) -> Embedded {
    Embedded::new(dir.path().join(name), LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() })
}

/// A store of two partitions with something in its tables, and more in its logs.
fn filled(dir: &TempDir) -> Embedded {
    let store = embedded(dir, "from");
    assert_eq!(store.partitions(2).unwrap(), 2);
    for partition in 0..2 {
        let (mut tables, _) = store.open_tables(partition).unwrap();
        let mut log = store.open_log(partition, 7, Position(1), &mut |_, _| {}).unwrap();
        for position in 1..=6_u64 {
            let mut out = Out::new();
            for tenant in (u128::from(partition)..8).step_by(2).map(TenantId) {
                out.put(Table::Tenant, &key::tenant(tenant), &TenantRow { name: format!("{tenant}"), created_at: 1 });
                let id = PayloadId(u128::from(position));
                out.put_payload(tenant, id, vec![position as u8; 3_000].into());
            }
            out.put(Table::Meta, b"partition", &MetaRow { now: position, event_seq: 10 * position });
            let writes = out.take().writes;
            assert_eq!(log.append(&[&writes]).unwrap(), Position(position));
            if position <= 3 {
                tables.apply(&[Arc::new(Batch::new(position, writes))]).unwrap();
            }
        }
    }
    store
}

/// A store in which everything fails from the nth call on, as if its process had been killed.
#[derive(Debug)]
struct Fused<'a> {
    store: &'a dyn Movable,
    left: &'a Fuse,
}

#[derive(Debug)]
struct Fuse(Mutex<Cell<u64>>);

impl Fuse {
    fn burn(&self) -> Result<(), StoreError> {
        let left = self.0.lock().unwrap();
        let Some(next) = left.get().checked_sub(1) else {
            return Err(StoreError::Unusable { cause: "killed".to_owned() });
        };
        left.set(next);
        Ok(())
    }

    fn burn_tables(&self) -> Result<(), TablesError> {
        self.burn().map_err(|error| TablesError::Unusable { cause: error.to_string() })
    }
}

#[derive(Debug)]
struct FusedFilling<'a>(Box<dyn Filling>, &'a Fuse);

impl Store for Fused<'_> {
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError> {
        self.store.partitions(wanted)
    }
    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError> {
        self.left.burn_tables()?;
        self.store.open_tables(partition)
    }
    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError> {
        self.store.open_log(partition, chance, from, visit)
    }
}

impl Movable for Fused<'static> {
    fn name(&self) -> String {
        self.store.name()
    }
    fn note(&self) -> Result<Option<Note>, StoreError> {
        self.left.burn()?;
        self.store.note()
    }
    fn set_note(&self, note: Option<&Note>) -> Result<(), StoreError> {
        self.left.burn()?;
        self.store.set_note(note)
    }
    fn kept(&self) -> Result<Option<u16>, StoreError> {
        self.store.kept()
    }
    fn create(&self, wanted: u16) -> Result<u16, StoreError> {
        self.left.burn()?;
        self.store.create(wanted)
    }
    fn is_empty(&self) -> Result<bool, StoreError> {
        self.store.is_empty()
    }
    fn clear(&self) -> Result<(), StoreError> {
        self.left.burn()?;
        self.store.clear()
    }
    fn served_by(&self) -> Result<Vec<String>, StoreError> {
        self.store.served_by()
    }
    fn filling(&self, partition: u16) -> Result<Box<dyn Filling>, TablesError> {
        self.left.burn_tables()?;
        Ok(Box::new(FusedFilling(self.store.filling(partition)?, self.left)))
    }
    fn reading(&self, partition: u16) -> Result<Arc<dyn Rows>, TablesError> {
        self.left.burn_tables()?;
        self.store.reading(partition)
    }
}

impl Filling for FusedFilling<'_> {
    fn put(&mut self, table: Table, rows: &RawRows) -> Result<(), TablesError> {
        self.1.burn_tables()?;
        self.0.put(table, rows)
    }
    fn settle(&mut self) -> Result<(), TablesError> {
        self.0.settle()
    }
}

/// What is in a store, whoever has it.
fn everything(store: &dyn Movable, partitions: u16) -> Vec<(u16, Table, Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for partition in 0..partitions {
        let rows = store.reading(partition).unwrap();
        for table in Table::ALL {
            let range = Range { table, from: &[], to: &[0xff; 64], descending: false, limit: 10_000 };
            found.extend(rows.range(range).unwrap().into_iter().map(|(key, body)| (partition, table, key, body)));
        }
    }
    found
}

#[test]
fn a_move_that_is_killed_at_any_point_is_finished_by_the_next() {
    let mut points = 0;
    for left in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (Box::leak(Box::new(filled(&dir))), Box::leak(Box::new(embedded(&dir, "to"))));
        let fuse = Box::leak(Box::new(Fuse(Mutex::new(Cell::new(left)))));
        let (fused_from, fused_to) = (Fused { store: from, left: fuse }, Fused { store: to, left: fuse });
        let first = move_store(&fused_from, &fused_to, 3, place, &mut |_| {});
        let whole = first.is_ok();
        if !whole {
            points += 1;
            // One of the two can be served, or the next move finishes; never both with something in them.
            let served = [from.partitions(1).is_ok(), to.note().unwrap().is_none() && !to.is_empty().unwrap()];
            assert_ne!(served, [true, true], "after {left} calls both would be served");
            let totals = move_store(from, to, 3, place, &mut |_| {}).unwrap();
            assert_eq!(totals.rows(), 8 + 8 * 6, "after {left} calls");
        }
        let error = from.partitions(1).unwrap_err().to_string();
        assert!(error.contains("was moved to"), "{error}");
        assert_eq!(to.partitions(1).unwrap(), 3);
        let found = everything(to, 3);
        assert_eq!(found.len(), 8 + 8 * 6 + 3);
        for (partition, table, key, body) in &found {
            if *table == Table::Meta {
                assert_eq!(row::decode::<MetaRow>(body).unwrap(), MetaRow { now: 6, event_seq: 60 });
            } else {
                assert_eq!(place(key::tenant_of(key).unwrap(), 3), *partition);
            }
        }
        // And it can be opened as any store can: its log begins, and its tables go on.
        let (mut tables, _) = to.open_tables(1).unwrap();
        let mut log = to.open_log(1, 7, Position(tables.applied().unwrap() + 1), &mut |_, _| {}).unwrap();
        let position = log.append(&[&[]]).unwrap();
        tables.apply(&[Arc::new(Batch::new(position.0, Vec::new()))]).unwrap();
        if whole {
            break;
        }
    }
    assert!(points > 20, "there were {points} points to be killed at");
}

#[test]
fn a_source_that_was_used_since_is_moved_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (filled(&dir), embedded(&dir, "to"));
    // As an earlier move left it: a row that the source no longer has.
    to.create(3).unwrap();
    let old = vec![(key::payload(TenantId(1), PayloadId(99)), b"old".to_vec())];
    to.filling(1).unwrap().put(Table::Payload, &old).unwrap();
    let progress = Progress::new(from.name(), vec![3, 3]);
    to.set_note(Some(&Note::Filling { progress })).unwrap();
    move_store(&from, &to, 3, place, &mut |_| {}).unwrap();
    assert_eq!(everything(&to, 3).len(), 8 + 8 * 6 + 3);
}

#[test]
fn what_can_not_be_moved_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (filled(&dir), embedded(&dir, "to"));
    let said =
        |from: &dyn Movable, to: &dyn Movable| move_store(from, to, 3, place, &mut |_| {}).unwrap_err().to_string();
    assert!(said(&to, &from).contains("there is no store in"));
    assert!(said(&from, &from).contains("both ends"));
    let full = embedded(&dir, "full");
    full.partitions(1).unwrap();
    full.open_tables(0).unwrap();
    assert!(said(&from, &full).contains("is not empty"));
    let (tables, _) = from.open_tables(0).unwrap();
    let held = from.open_log(0, 7, Position(tables.applied().unwrap() + 1), &mut |_, _| {}).unwrap();
    let error = said(&from, &to);
    assert!(error.contains("another process"), "{error}");
    drop(held);
    let progress = Progress::new("elsewhere".to_owned(), vec![1]);
    to.create(1).unwrap();
    to.set_note(Some(&Note::Filling { progress })).unwrap();
    assert!(said(&from, &to).contains("a move from elsewhere"));
    let error = to.partitions(1).unwrap_err().to_string();
    assert!(error.contains("is not complete"), "{error}");
}

#[test]
fn notes_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (filled(&dir), embedded(&dir, "to"));
    let totals = move_store(&from, &to, 3, place, &mut |_| {}).unwrap();
    let mut progress = Progress::new("a place: with words".to_owned(), vec![0, 7]);
    (progress.partition, progress.table) = (1, 12);
    (progress.after, progress.totals) = (Some(vec![0, 255, 16]), totals.clone());
    let notes =
        [Note::Moved { to: "b".to_owned() }, Note::Filled { from: "a".to_owned(), totals }, Note::Filling { progress }];
    for note in notes {
        assert_eq!(Note::read(&note.write()), Some(note));
    }
    assert_eq!(Note::read("something else"), None);
}
