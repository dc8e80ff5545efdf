//! Batches that are durable and not yet in the tables.
//!
//! Readers look here first, then in the tables; the applier takes from here and removes only after the tables have
//! committed. So whoever looks in this order sees every durable write.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use mainspring_core::write::{BadBatch, ops};
use mainspring_core::{Table, write::Op};

/// One durable batch of the log.
#[derive(Debug)]
pub struct Batch {
    /// Its position in the log.
    pub position: u64,
    bytes: Vec<u8>,
    /// Built by the first reader that looks; most batches are applied before anybody does.
    index: OnceLock<Vec<IndexEntry>>,
}

#[derive(Debug)]
struct IndexEntry {
    table: Table,
    key: Range<usize>,
    body: Option<Range<usize>>,
}

impl Batch {
    /// Wraps the encoded puts and deletes that were appended at `position`.
    pub fn new(position: u64, bytes: Vec<u8>) -> Self {
        Batch { position, bytes, index: OnceLock::new() }
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

    /// Sorted by table and key; of several writes to one row the last one.
    fn index(&self) -> &[IndexEntry] {
        self.index.get_or_init(|| {
            let base = self.bytes.as_ptr() as usize;
            let range = |part: &[u8]| {
                let start = part.as_ptr() as usize - base;
                start..start + part.len()
            };
            let mut index: Vec<IndexEntry> = ops(&self.bytes)
                .filter_map(Result::ok)
                .map(|op| IndexEntry { table: op.table, key: range(op.key), body: op.body.map(range) })
                .collect();
            index.sort_by(|a, b| (a.table, &self.bytes[a.key.clone()]).cmp(&(b.table, &self.bytes[b.key.clone()])));
            // The sort is stable, so the last of equal keys is the latest write.
            let mut latest: Vec<IndexEntry> = Vec::with_capacity(index.len());
            for entry in index {
                match latest.last_mut() {
                    Some(last)
                        if last.table == entry.table
                            && self.bytes[last.key.clone()] == self.bytes[entry.key.clone()] =>
                    {
                        *last = entry;
                    }
                    _ => latest.push(entry),
                }
            }
            latest
        })
    }

    fn first_at_or_after(&self, table: Table, key: &[u8]) -> usize {
        self.index().partition_point(|entry| (entry.table, &self.bytes[entry.key.clone()]) < (table, key))
    }

    /// The write to one row: `None` if this batch does not touch it, `Some(None)` if it deletes it.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        let entry = self.index().get(self.first_at_or_after(table, key))?;
        (entry.table == table && &self.bytes[entry.key.clone()] == key)
            .then(|| entry.body.clone().map(|range| &self.bytes[range]))
    }

    /// The writes to rows whose key begins with `prefix`, in key order.
    pub fn prefixed<'a>(&'a self, table: Table, prefix: &'a [u8]) -> impl Iterator<Item = Op<'a>> {
        self.index()[self.first_at_or_after(table, prefix)..]
            .iter()
            .map(|entry| Op {
                table: entry.table,
                key: &self.bytes[entry.key.clone()],
                body: entry.body.clone().map(|range| &self.bytes[range]),
            })
            .take_while(move |op| op.table == table && op.key.starts_with(prefix))
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

    /// All waiting batches, oldest first.
    pub fn snapshot(&self) -> Vec<Arc<Batch>> {
        self.lock().batches.iter().cloned().collect()
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
        let mut queue = self.lock();
        while let Some(batch) = queue.batches.front() {
            if batch.position > position {
                break;
            }
            let bytes = batch.len();
            queue.bytes -= bytes;
            queue.batches.pop_front();
        }
        queue.applied = position;
        drop(queue);
        self.applied.notify_all();
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
