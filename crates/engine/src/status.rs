//! How the engine stands, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether a partition accepts work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Accepting,
    /// It does not, and why.
    Stopped {
        /// What failed.
        cause: String,
    },
    /// It ends.
    ShuttingDown,
}

/// Counters of one partition since it was opened.
#[derive(Debug, Default)]
pub struct Stats {
    batches: AtomicU64,
    commands: AtomicU64,
    bytes: AtomicU64,
    rows_applied: AtomicU64,
    runs_swept: AtomicU64,
    /// A position the tables contain durably and whose segments have not been removed yet; 0 for none.
    checkpoint: AtomicU64,
    tables_error: Mutex<Option<String>>,
}

impl Stats {
    pub(crate) fn wrote(&self, commands: usize, bytes: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn applied(&self, rows: usize) {
        self.rows_applied.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn swept(&self, runs: usize) {
        self.runs_swept.fetch_add(runs as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_checkpoint(&self, position: u64) {
        self.checkpoint.store(position, Ordering::Release);
    }

    pub(crate) fn take_checkpoint(&self) -> Option<u64> {
        if self.checkpoint.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.checkpoint.swap(0, Ordering::AcqRel)).filter(|position| *position > 0)
    }

    pub(crate) fn set_tables_error(&self, error: Option<String>) {
        *self.tables_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Batches made durable.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Commands made durable. Commands that changed nothing are counted with the batch they were answered in.
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Bytes made durable.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows written to the tables, after folding.
    pub fn rows_applied(&self) -> u64 {
        self.rows_applied.load(Ordering::Relaxed)
    }

    /// Finished runs removed by retention.
    pub fn runs_swept(&self) -> u64 {
        self.runs_swept.load(Ordering::Relaxed)
    }

    /// Why the tables can't be written at the moment, if they can't.
    pub fn tables_error(&self) -> Option<String> {
        self.tables_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
