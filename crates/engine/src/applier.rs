//! Carries durable batches into the tables, checkpoints them, and sweeps what is too old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mainspring_store::Tables;
use mainspring_store::retention::{Retention, Sweep};

use crate::partition::{Partition, now_ms};

/// How long to wait for more after the first batch, so that writes to one row fold. Listings lag by about this much.
const LINGER: Duration = Duration::from_millis(20);
/// Bytes applied in one transaction. Bounds the time a reader of the log's tail has to wait.
const APPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Applied bytes after which the tables are checkpointed, so that log segments can go and recovery stays short.
const CHECKPOINT_BYTES: usize = 64 * 1024 * 1024;
/// With nothing to apply for this long, the tables are checkpointed and swept.
const IDLE: Duration = Duration::from_secs(5);
/// How often a sweep begins.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Rows looked at in one step of a sweep: a few milliseconds.
const SWEEP_ROWS: usize = 500;

pub(crate) fn run(partition: &Arc<Partition>, mut tables: Tables, retention: Retention) {
    let mut since_checkpoint = 0;
    let mut sweep = Sweep::default();
    let mut sweeping = false;
    let mut swept_at = Instant::now();
    loop {
        let idle = if sweeping { Duration::from_millis(50) } else { IDLE };
        let Some(batches) = partition.unapplied.wait_for_some(APPLY_BYTES_MAX, LINGER, idle) else { break };
        if !batches.is_empty() {
            match tables.apply(&batches) {
                Ok(applied) => {
                    partition.stats.applied(applied.rows);
                    partition.stats.set_tables_error(None);
                    since_checkpoint += batches.iter().map(|batch| batch.len()).sum::<usize>();
                    partition.unapplied.mark_applied(applied.position);
                }
                Err(error) => {
                    // The log has everything; the tables get it when they can be written again. Acceptance slows down
                    // by itself as what is unapplied grows.
                    tracing::error!(%error, "the tables could not be written; trying again");
                    partition.stats.set_tables_error(Some(error.to_string()));
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            }
        }
        if since_checkpoint > CHECKPOINT_BYTES || (batches.is_empty() && since_checkpoint > 0 && !sweeping) {
            checkpoint(partition, &tables, &mut since_checkpoint);
        }
        if !sweeping && swept_at.elapsed() > SWEEP_EVERY {
            sweeping = true;
            swept_at = Instant::now();
        }
        if sweeping {
            match tables.sweep(now_ms(), retention, &mut sweep, SWEEP_ROWS) {
                Ok(swept) => {
                    partition.stats.swept(swept.runs);
                    since_checkpoint += swept.runs + swept.events;
                    sweeping = !swept.finished;
                }
                Err(error) => {
                    tracing::warn!(%error, "old rows could not be removed; trying again later");
                    sweeping = false;
                }
            }
        }
    }
    checkpoint(partition, &tables, &mut since_checkpoint);
}

fn checkpoint(partition: &Partition, tables: &Tables, since_checkpoint: &mut usize) {
    let position = partition.unapplied.applied();
    match tables.checkpoint() {
        Ok(()) => {
            *since_checkpoint = 0;
            partition.stats.set_checkpoint(position);
        }
        Err(error) => {
            tracing::warn!(%error, "the tables could not be checkpointed; log segments are kept until they are")
        }
    }
}
