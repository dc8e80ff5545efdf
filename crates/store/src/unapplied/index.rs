//! The latest write to each row that is not in the tables yet.
//!
//! Batches come by the thousand a second and wait for a while, so a reader that looked through each of them would spend
//! its time on those that don't concern it. What is here is brought up to date by whoever reads, so that nothing is
//! spent on it while nobody does.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use mainspring_core::Table;

use super::Batch;
use super::known::Known;

/// An index over a queue's batches.
#[derive(Debug, Default)]
pub(super) struct Index {
    rows: BTreeMap<(Table, Vec<u8>), Latest>,
    /// What it was made of, oldest first.
    batches: VecDeque<Arc<Batch>>,
    /// The position of the last batch that was added.
    through: u64,
    /// Rows as the tables have them. One that is in `rows` as well is newer there.
    known: Known,
    /// How many batches went on to the tables.
    gone: u64,
}

#[derive(Debug)]
struct Latest {
    batch: Arc<Batch>,
    /// Where in it the row's body is; `None` if the row is deleted.
    body: Option<Range<usize>>,
}

impl Latest {
    fn body(&self) -> Option<Vec<u8>> {
        self.body.clone().map(|range| self.batch.bytes[range].to_vec())
    }
}

impl Index {
    /// The position of the last batch that was added.
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// Adds the next batch.
    pub(super) fn add(&mut self, batch: Arc<Batch>) {
        assert!(batch.position > self.through, "batches are added in order");
        let base = batch.bytes.as_ptr() as usize;
        // What could not be decoded is never applied either, and the applier says so.
        for op in batch.ops().filter_map(Result::ok) {
            let body = op.body.map(|body| {
                let start = body.as_ptr() as usize - base;
                start..start + body.len()
            });
            self.rows.insert((op.table, op.key.to_vec()), Latest { batch: batch.clone(), body });
        }
        self.through = batch.position;
        self.batches.push_back(batch);
    }

    /// Forgets the oldest batch, if the tables have it by `position`. Answers whether there was one.
    pub(super) fn forget_oldest(&mut self, position: u64) -> bool {
        let Some(batch) = self.batches.pop_front_if(|batch| batch.position <= position) else { return false };
        for op in batch.ops().filter_map(Result::ok) {
            let place = (op.table, op.key.to_vec());
            if self.rows.get(&place).is_some_and(|latest| latest.batch.position == batch.position) {
                let latest = self.rows.remove(&place);
                if Known::keeps(op.table) {
                    self.known.refresh(op.key, latest.and_then(|latest| latest.body()));
                }
            }
        }
        self.gone += 1;
        true
    }

    /// Whether it need not be told of batches: it holds nothing that they could change.
    pub(super) fn is_unused(&self) -> bool {
        self.batches.is_empty() && self.known.is_empty()
    }

    /// How one row stands, if that can be said without the tables: as the latest write to it says, or as they are known to
    /// have it. `Some(None)` if it is not there.
    pub(super) fn get(&mut self, table: Table, key: &[u8]) -> Option<Option<Vec<u8>>> {
        match self.rows.get(&(table, key.to_vec())) {
            Some(latest) => Some(latest.body()),
            None if Known::keeps(table) => self.known.get(key),
            None => None,
        }
    }

    /// The tables have a batch that was never added: it was of no interest, but to whoever reads the tables just now.
    pub(super) fn pass_by(&mut self) {
        self.gone += 1;
    }

    /// Tells what is read in the tables from now on from what was read before.
    pub(super) fn stamp(&self) -> u64 {
        self.gone
    }

    /// Keeps what was read in the tables since `stamp` was taken, unless they may have changed since.
    pub(super) fn keep(&mut self, stamp: u64, table: Table, key: &[u8], body: Option<&[u8]>) {
        if Known::keeps(table) && self.gone == stamp {
            self.known.put(key, body.map(<[u8]>::to_vec));
        }
    }

    /// The latest writes to rows with keys from `from` to before `to`, in key order.
    pub(super) fn between(&self, table: Table, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let wanted = self.rows.range((table, from.to_vec())..(table, to.to_vec()));
        wanted.map(|((_, key), latest)| (key.clone(), latest.body())).collect()
    }

    /// The first row with a key from `from` to before `to` that is written and not deleted.
    pub(super) fn first_between(&self, table: Table, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let wanted = self.rows.range((table, from.to_vec())..(table, to.to_vec()));
        wanted.filter_map(|((_, key), latest)| Some((key.clone(), latest.body()?))).next()
    }

    /// The latest writes to rows whose key begins with `prefix`, in key order.
    pub(super) fn prefixed(&self, table: Table, prefix: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let from = self.rows.range((table, prefix.to_vec())..);
        let wanted = from.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
        wanted.map(|((_, key), latest)| (key.clone(), latest.body())).collect()
    }
}
