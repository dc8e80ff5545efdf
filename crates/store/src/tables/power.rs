//! The power fails: what is on the disk then is what was made durable, and any part of what was written since. From each
//! such disk the tables must open whole, at a position no older than the last checkpoint, with exactly the rows of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use mainspring_core::id::PayloadId;
use mainspring_core::row::{self, MetaRow};
use mainspring_core::{Table, TenantId};

use super::SqliteTables;
use crate::backend::TableStore;
use crate::chance::Chance;
use crate::unapplied::Batch;

const TENANT: TenantId = TenantId(1);
/// Written by a disk at once.
const BLOCK: usize = 512;
/// The beginning of the write-ahead log, which SQLite makes durable itself before it writes it over.
const WAL_HEADER: usize = 32;

/// What is durable of two files, and how they look to those who read them.
#[derive(Clone)]
pub(super) struct Moment {
    durable: [Vec<u8>; 2],
    present: [Vec<u8>; 2],
}

/// Watches what is made durable.
#[derive(Default)]
pub(super) struct Watch(RefCell<Watched>);

#[derive(Default)]
struct Watched {
    durable: [Vec<u8>; 2],
    moments: Vec<Moment>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// One of these files is about to be made durable.
    pub(super) fn before_sync(&self, files: [&File; 2]) {
        let present = files.map(read);
        let mut watched = self.0.borrow_mut();
        let durable = watched.durable.clone();
        watched.moments.push(Moment { durable, present });
    }

    /// It is.
    pub(super) fn after_sync(&self, which: usize, file: &File) {
        self.0.borrow_mut().durable[which] = read(file);
    }

    fn take(&self) -> Vec<Moment> {
        std::mem::take(&mut self.0.borrow_mut().moments)
    }
}

fn read(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata().expect("a length").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("its bytes");
    bytes
}

/// What the disk has: of each block the durable or the present one, as chance has it. `keeps` of ten are present.
fn what_is_left(durable: &[u8], present: &[u8], keeps: usize, chance: &mut Chance) -> Vec<u8> {
    let length = if chance.below(2) == 0 { present.len() } else { durable.len().min(present.len()) };
    let mut left = vec![0; length];
    for (index, block) in left.chunks_mut(BLOCK).enumerate() {
        let from = if chance.below(10) < keeps { present } else { durable };
        let from = from.get(index * BLOCK..).unwrap_or_default();
        let bytes = from.len().min(block.len());
        block[..bytes].copy_from_slice(&from[..bytes]);
    }
    left
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn rows_of(path: &Path) -> (u64, Rows) {
    let tables = SqliteTables::open(path).expect("tables after a power failure");
    let connection = &tables.connection;
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(whole, "ok");
    let mut statement = connection.prepare("SELECT key, body FROM payloads").expect("a query");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    let rows = rows.collect::<Result<_, _>>().expect("rows");
    (tables.applied().expect("a position"), rows)
}

#[test]
fn tables_open_whole_after_any_power_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tables.sqlite");
    let mut tables = SqliteTables::open(&path).expect("tables");
    tables.checkpoint().expect("a beginning that is durable");
    drop(tables.paced.watch.take());
    let mut chance = Chance(7);
    // What the rows were at each position.
    let mut history: Vec<Rows> = vec![Rows::new()];
    // Each moment with the position that was checkpointed before it.
    let mut moments: Vec<(u64, Moment)> = Vec::new();
    let mut checkpointed = 0;
    for position in 1..=40_u64 {
        let mut out = mainspring_core::Out::new();
        out.put(Table::Meta, b"partition", &MetaRow { now: position, event_seq: 0 });
        let mut rows = history.last().expect("one").clone();
        for _ in 0..chance.below(30) {
            let id = PayloadId(chance.below(200) as u128);
            let body = vec![position as u8; 1 + chance.below(3_000)];
            rows.insert(row::key::payload(TENANT, id).to_vec(), body.clone());
            out.put_payload(TENANT, id, body.into());
        }
        history.push(rows);
        tables.apply(&[Arc::new(Batch::new(position, out.take().writes))]).expect("applied");
        tables.paced.watch.before_sync([&tables.paced.tables, &tables.paced.wal]);
        let before = checkpointed;
        if chance.below(4) == 0 {
            tables.checkpoint().expect("a checkpoint");
            checkpointed = position;
        }
        moments.extend(tables.paced.watch.take().into_iter().map(|moment| (before, moment)));
    }
    drop(tables);

    let (mut older, mut ahead) = (0, 0);
    let left = dir.path().join("left");
    for (checkpointed, moment) in &moments {
        for keeps in [0, 1, 5, 9, 10] {
            let _ = std::fs::remove_dir_all(&left);
            std::fs::create_dir(&left).expect("a directory");
            let files = ["tables.sqlite", "tables.sqlite-wal"].map(|name| left.join(name));
            for (which, file) in files.iter().enumerate() {
                let (durable, present) = (&moment.durable[which], &moment.present[which]);
                let mut bytes = what_is_left(durable, present, keeps, &mut chance);
                if which == 1 && bytes.len() >= WAL_HEADER && present.len() >= WAL_HEADER {
                    bytes[..WAL_HEADER].copy_from_slice(&present[..WAL_HEADER]);
                }
                std::fs::write(file, bytes).expect("a disk");
            }
            let (position, rows) = rows_of(&files[0]);
            assert!(position >= *checkpointed, "at {position}, though {checkpointed} was durable");
            assert!(rows == history[position as usize], "other rows than position {position} had");
            older += usize::from(position == *checkpointed);
            ahead += usize::from(position > *checkpointed);
        }
    }
    // Both came about, or nothing was tried.
    assert!(older > 20 && ahead > 20, "{older} disks at their checkpoint, {ahead} ahead of it");
}
