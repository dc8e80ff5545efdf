//! Carries durable batches into the tables, checkpoints them, and sweeps what is too old.

use std::sync::Arc;
use std::time::Duration;

use mainspring_store::retention::{Retention, Sweep};
use mainspring_store::{Batch, TableStore, TablesError};

use crate::partition::Partition;

/// Bytes applied in one transaction. Bounds the time a reader of the log's tail has to wait.
const APPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Applied bytes after which the tables are checkpointed, so that log segments can go and recovery stays short.
const CHECKPOINT_BYTES: usize = 16 * 1024 * 1024;
/// With nothing to apply for this long, the tables are checkpointed and swept.
const IDLE: Duration = Duration::from_secs(5);
/// While a sweep is going on, how long between its steps at most.
const SWEEP_STEP: Duration = Duration::from_millis(50);
/// How often a sweep begins.
const SWEEP_EVERY_MS: u64 = 60_000;
/// Rows looked at in one step of a sweep: a few milliseconds.
const SWEEP_ROWS: usize = 500;
/// How long to wait before tables that could not be written are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The one writer of a partition's tables.
#[derive(Debug)]
pub(crate) struct Applier {
    tables: Box<dyn TableStore>,
    retention: Retention,
    since_checkpoint: usize,
    /// Where the sweep that is going on stands.
    sweep: Option<Sweep>,
    swept_at: u64,
    /// Another process has the tables: nothing here changes them any more.
    fenced: bool,
}

impl Applier {
    pub(crate) fn new(tables: Box<dyn TableStore>, retention: Retention, now: u64) -> Self {
        Applier { tables, retention, since_checkpoint: 0, sweep: None, swept_at: now, fenced: false }
    }

    /// Applies what waits until the partition is closed and all of it is in the tables.
    pub(crate) fn run(mut self, partition: &Partition) {
        loop {
            let idle = if self.sweep.is_some() { SWEEP_STEP } else { IDLE };
            let Some(batches) = partition.unapplied.wait_for_some(APPLY_BYTES_MAX, self.tables.linger(), idle) else {
                break;
            };
            if !self.apply(partition, &batches) {
                if self.fenced {
                    return;
                }
                if partition.unapplied.is_closed() {
                    tracing::warn!("ending with tables that are behind: the next start reads the rest from the log");
                    return;
                }
                std::thread::sleep(TRY_AGAIN);
                continue;
            }
            self.look_after(partition, batches.is_empty());
        }
        self.checkpoint(partition);
    }

    /// Applies these batches. False if the tables could not be written: the log has everything, so they are tried again,
    /// and acceptance slows down by itself as what is unapplied grows.
    pub(crate) fn apply(&mut self, partition: &Partition, batches: &[Arc<Batch>]) -> bool {
        if batches.is_empty() {
            return true;
        }
        match self.tables.apply(batches) {
            Ok(applied) => {
                partition.stats.applied(applied.rows);
                partition.stats.set_tables_error(None);
                self.since_checkpoint += batches.iter().map(|batch| batch.len()).sum::<usize>();
                partition.unapplied.mark_applied(applied.position);
                true
            }
            Err(error @ TablesError::Fenced) => {
                self.fenced = true;
                partition.stop(format!("{error}; ask the process that has it"));
                false
            }
            Err(error) => {
                tracing::error!(%error, "the tables could not be written; trying again");
                partition.stats.set_tables_error(Some(error.to_string()));
                false
            }
        }
    }

    /// Checkpoints and sweeps, if it is time to.
    pub(crate) fn look_after(&mut self, partition: &Partition, idle: bool) {
        let waits = idle && self.since_checkpoint > 0 && self.sweep.is_none();
        if waits || self.since_checkpoint > CHECKPOINT_BYTES {
            self.checkpoint(partition);
        }
        let now = partition.world.now_ms();
        // A clock that was set back makes a sweep begin early rather than never.
        if self.sweep.is_none() && now.abs_diff(self.swept_at) > SWEEP_EVERY_MS {
            self.sweep = Some(Sweep::default());
            self.swept_at = now;
        }
        let Some(sweep) = &mut self.sweep else { return };
        match self.tables.sweep(now, self.retention, sweep, SWEEP_ROWS) {
            Ok(swept) => {
                partition.stats.swept(swept.runs);
                self.since_checkpoint += swept.runs + swept.events + swept.entries;
                if swept.finished {
                    self.sweep = None;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "old rows could not be removed; trying again later");
                self.sweep = None;
            }
        }
    }

    /// Makes what was applied durable, so that the log may let go of it.
    pub(crate) fn checkpoint(&mut self, partition: &Partition) {
        let position = partition.unapplied.applied();
        match self.tables.checkpoint() {
            Ok(()) => {
                self.since_checkpoint = 0;
                partition.stats.set_checkpoint(position);
            }
            Err(error) => {
                tracing::warn!(%error, "the tables could not be checkpointed; log segments are kept until they are");
            }
        }
    }
}
