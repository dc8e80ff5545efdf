//! Batches that are durable and not yet in the tables.
//!
//! Readers look here first, then in the tables; the applier takes from here and removes only after the tables have
//! committed. So whoever looks in this order sees every durable write.

mod index;
mod known;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainspring_core::write::{BadBatch, ops};
use mainspring_core::{Table, write::Op};

use index::Index;

/// One durable batch of the log.
#[derive(Debug)]
pub struct Batch {
    /// Its position in the log.
    pub position: u64,
    bytes: Vec<u8>,
}

impl Batch {
    /// Wraps the encoded puts and deletes that were appended at `position`.
    pub fn new(position: u64, bytes: Vec<u8>) -> Self {
        Batch { position, bytes }
    }

    /// Its encoded size in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its puts and deletes, in order.
    pub fn ops(&self) -> impl Iterator<Item = Result<Op<'_>, BadBatch>> {
        ops(&self.bytes)
    }
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    applied: u64,
    /// The latest position that somebody waits to see applied.
    wanted: u64,
    closed: bool,
}

impl Queue {
    fn oldest(&self, bytes_max: usize) -> Vec<Arc<Batch>> {
        let mut taken = 0;
        let some = self.batches.iter().take_while(|batch| {
            let wanted = taken == 0 || taken + batch.len() <= bytes_max;
            taken += batch.len();
            wanted
        });
        some.cloned().collect()
    }
}

/// What came while lingering that makes it busy. At 20 ms, 1.6 MB/s.
const BUSY_BYTES: usize = 32 * 1024;

/// How long to wait for more after a first arrival.
#[derive(Debug, Clone, Copy)]
pub struct Linger {
    /// When little comes.
    pub quiet: Duration,
    /// When much comes, in all. Not less than `quiet`.
    pub busy: Duration,
}

/// The queue of batches between the log and the tables. Shared by the log's thread, the applier and readers.
#[derive(Debug, Default)]
pub struct Unapplied {
    queue: Mutex<Queue>,
    /// Of what is in the queue, and perhaps of what has just left it. Locked before the queue, if both are.
    index: Mutex<Index>,
    arrived: Condvar,
    applied: Condvar,
    wanted: Condvar,
}

impl Unapplied {
    /// An empty queue in front of tables that stand at `applied`.
    pub fn new(applied: u64) -> Self {
        let unapplied = Unapplied::default();
        unapplied.lock().applied = applied;
        unapplied
    }

    // A panic elsewhere does not make the queue's own data wrong: each change below is complete before it unlocks.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a durable batch. Called in log order, before anyone is told that it is durable.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut queue = self.lock();
        queue.bytes += batch.len();
        queue.batches.push_back(batch);
        drop(queue);
        self.arrived.notify_one();
    }

    /// Bytes waiting. Whoever accepts work slows down when this grows.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The position the tables stand at.
    pub fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// How one row stands, if that can be said without the tables: `Some(None)` if it is not there.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.indexed().get(table, key)
    }

    /// How one row stands; `read` asks the tables, if need be.
    ///
    /// # Errors
    /// What `read` says.
    pub fn get_or<E>(
        &self,
        table: Table,
        key: &[u8],
        read: impl FnOnce() -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let mut index = self.indexed();
        if let Some(found) = index.get(table, key) {
            return Ok(found);
        }
        let stamp = index.stamp();
        drop(index);
        let body = read()?;
        self.indexed().keep(stamp, table, key, body.as_deref());
        Ok(body)
    }

    /// The latest writes to rows whose key begins with `prefix`, in key order. To be asked before the tables: a write that
    /// is applied in between is then seen twice, and never missed.
    pub fn prefixed(&self, table: Table, prefix: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.indexed().prefixed(table, prefix)
    }

    /// The latest writes to rows with keys from `from` to before `to`, which is not less, in key order. To be asked before
    /// the tables.
    pub fn between(&self, table: Table, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.indexed().between(table, from, to)
    }

    /// The first row with a key from `from` to before `to`, which is not less, that is written and not deleted.
    pub fn first_between(&self, table: Table, from: &[u8], to: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        self.indexed().first_between(table, from, to)
    }

    /// The index, with all that waits.
    fn indexed(&self) -> MutexGuard<'_, Index> {
        let mut index = self.index();
        let new: Vec<_> = {
            let queue = self.lock();
            let known = queue.batches.partition_point(|batch| batch.position <= index.through());
            queue.batches.range(known..).cloned().collect()
        };
        new.into_iter().for_each(|batch| index.add(batch));
        index
    }

    /// Waits for batches and gives the oldest ones, up to about `bytes_max`, without removing them. After the first
    /// arrival it lingers so that writes to one row, and to one page, meet in one transaction: for longer when much
    /// comes. Empty if none came within `idle`; `None`
    /// once closed and drained.
    pub fn wait_for_some(&self, bytes_max: usize, linger: Linger, idle: Duration) -> Option<Vec<Arc<Batch>>> {
        let (mut queue, _) = self
            .arrived
            .wait_timeout_while(self.lock(), idle, |queue| queue.batches.is_empty() && !queue.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if queue.batches.is_empty() {
            return if queue.closed { None } else { Some(Vec::new()) };
        }
        for linger in [linger.quiet, linger.busy - linger.quiet] {
            if queue.closed || queue.bytes >= bytes_max {
                break;
            }
            // Somebody who waits to read ends the lingering.
            let lingers = |queue: &mut Queue| !queue.closed && queue.wanted <= queue.applied;
            (queue, _) = self.wanted.wait_timeout_while(queue, linger, lingers).unwrap_or_else(PoisonError::into_inner);
            if queue.bytes < BUSY_BYTES || queue.wanted > queue.applied {
                break;
            }
        }
        Some(queue.oldest(bytes_max))
    }

    /// Whether nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The oldest batches, up to about `bytes_max`, without waiting and without removing them.
    pub fn oldest(&self, bytes_max: usize) -> Vec<Arc<Batch>> {
        self.lock().oldest(bytes_max)
    }

    /// The tables have committed everything up to `position`.
    pub fn mark_applied(&self, position: u64) {
        // What leaves the queue unseen would leave older rows in the index, to be taken for the latest. One batch at a
        // time, so that readers get in between.
        while self.index_next(position) {}
        let mut index = self.index();
        let mut queue = self.lock();
        while let Some(batch) = queue.batches.front() {
            if batch.position > position {
                break;
            }
            if batch.position > index.through() {
                index.pass_by();
            }
            let bytes = batch.len();
            queue.bytes -= bytes;
            queue.batches.pop_front();
        }
        queue.applied = position;
        drop((queue, index));
        self.applied.notify_all();
        while self.index().forget_oldest(position) {}
    }

    /// Adds the next batch up to `position` to the index, unless that is not used. Answers whether there may be more.
    fn index_next(&self, position: u64) -> bool {
        let mut index = self.index();
        if index.is_unused() {
            return false;
        }
        let next = {
            let queue = self.lock();
            let known = queue.batches.partition_point(|batch| batch.position <= index.through());
            queue.batches.get(known).filter(|batch| batch.position <= position).cloned()
        };
        let Some(batch) = next else { return false };
        index.add(batch);
        true
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic elsewhere leaves an index without some rows, which would be read past: better to panic as well.
        self.index.lock().expect("nobody panicked over the index")
    }

    /// Waits until the tables stand at `position` or later. Answers whether they do by then.
    pub fn wait_applied(&self, position: u64, timeout: Duration) -> bool {
        let mut queue = self.lock();
        // No further than what is here: a position nobody has written yet must not end all lingering from now on.
        let here = queue.batches.back().map_or(queue.applied, |batch| batch.position);
        queue.wanted = queue.wanted.max(position.min(here));
        self.wanted.notify_all();
        let (queue, _) = self
            .applied
            .wait_timeout_while(queue, timeout, |queue| queue.applied < position && !queue.closed)
            .unwrap_or_else(PoisonError::into_inner);
        queue.applied >= position
    }

    /// Nothing more will come; the applier ends when it has applied the rest.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
        self.applied.notify_all();
        self.wanted.notify_all();
    }
}
