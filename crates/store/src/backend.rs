//! What an engine stands on: for each partition a log, tables behind it, and a way to read the tables.
//!
//! Three kinds exist: [`crate::Embedded`] (segment files and SQLite), the one on PostgreSQL (crate
//! `mainspring-postgres`), and the simulator's, which forgets what was not made durable, is slow, full, away, or does not
//! know what became of a commit.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainspring_core::id::{Ms, RunId, TenantId};
use mainspring_core::write::Op;
use mainspring_core::{Table, row};

use crate::log::{LogError, Position};
use crate::reader::{RawRows, RunFilter};
use crate::retention::{Retention, Sweep, Swept};
use crate::tables::{Applied, TablesError};
use crate::unapplied::{Batch, Linger};

/// A store can't say how many partitions it has.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory can't be used.
    #[error("{path} can't be used: {source}")]
    Dir {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that says how many partitions there are is damaged.
    #[error("{path} should hold the number of partitions, it holds {found:?}: restore it from a backup")]
    Partitions {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// What keeps the store can't be used as it is.
    #[error("{cause}")]
    Unusable {
        /// What was found, and what to do.
        cause: String,
    },
}

/// A partition's tables: to write, and to read.
pub type OpenTables = (Box<dyn TableStore>, Arc<dyn Rows>);

/// Where the partitions of an engine are kept.
pub trait Store: Send + Sync + Debug {
    /// How many partitions there are; creates that many, at least one, in a store that is new. The number never changes
    /// afterwards, because it decides where tenants live.
    ///
    /// # Errors
    /// [`StoreError`].
    fn partitions(&self, wanted: u16) -> Result<u16, StoreError>;

    /// Opens a partition's tables, creating them if need be. Whoever opens them is about to open the log as well: where
    /// several processes can reach the store, this takes the partition over, so that what is read from now on stands
    /// still until the log is open.
    ///
    /// # Errors
    /// [`TablesError`].
    fn open_tables(&self, partition: u16) -> Result<OpenTables, TablesError>;

    /// Opens a partition's log for this process alone and shows every batch from `from` on to `visit`, in order.
    /// `chance` is mixed into the checksums of a new log.
    ///
    /// # Errors
    /// [`LogError::InUse`] if another process has it and can't be put aside; other [`LogError`]s for damage and refusals.
    fn open_log(
        &self,
        partition: u16,
        chance: u64,
        from: Position,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<Box<dyn PartitionLog>, LogError>;
}

/// The log of one partition, held by the one thread that appends.
pub trait PartitionLog: Send + Debug {
    /// Appends a batch, given in parts. Durable when it returns.
    ///
    /// # Errors
    /// [`LogError::TooLarge`]: nothing was written, go on. [`LogError::Unknown`]: ask [`PartitionLog::settle`] before
    /// anything else. Any other: the log takes no more batches.
    fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError>;

    /// After [`LogError::Unknown`]: whether that batch was appended after all.
    ///
    /// # Errors
    /// [`LogError::Unknown`] while it still can't be told: ask again later. Any other: the log takes no more batches.
    fn settle(&mut self) -> Result<Option<Position>, LogError>;

    /// Lets go of what the tables contain durably. May keep some of it.
    ///
    /// # Errors
    /// [`LogError`]; then it is tried again later.
    fn remove_up_to(&mut self, contained: Position) -> Result<(), LogError>;

    /// The position the next batch will get.
    fn next(&self) -> Position;
}

/// The writing side of a partition's tables, held by its applier.
pub trait TableStore: Send + Debug {
    /// The log position these tables stand at; 0 when empty.
    ///
    /// # Errors
    /// [`TablesError`], as in every function here. [`TablesError::Fenced`]: another process has the partition; stop.
    fn applied(&self) -> Result<u64, TablesError>;

    /// Shows every row a restart needs, table by table in the order of their numbers, in key order: the live runs with their tasks, the messages that
    /// are not done, and the whole of small tables.
    fn live_rows(&self, each: &mut dyn FnMut(Op<'_>)) -> Result<(), TablesError>;

    /// Applies batches in one transaction and moves the position with them. Batches the tables contain already change
    /// nothing; after an error nothing was applied, unless it is [`TablesError::Unavailable`]: then all of it was, or
    /// nothing. A batch that does not decode is an error, and so is a run, a message or an event that does not.
    fn apply(&mut self, batches: &[Arc<Batch>]) -> Result<Applied, TablesError>;

    /// How long to wait for more after the first batch, so that writes to one row, and to one page, meet in one
    /// transaction. Listings lag by about this much; whoever waits to read ends it. As it is, it is right for SQLite: a
    /// page that is touched is written whole with each transaction, so a busy engine waits longer; at 1,000 messages a
    /// second it would else write fifteen times what it applies, on the disk that the log is on.
    fn linger(&self) -> Linger {
        Linger { quiet: Duration::from_millis(20), busy: Duration::from_millis(150) }
    }

    /// Makes everything applied so far durable. Only then may the log let go of it.
    fn checkpoint(&mut self) -> Result<(), TablesError>;

    /// Removes what is older than `retention` allows, looking at no more than `rows_max` rows of each kind, in one
    /// transaction. Runs that have not ended are never touched, however old.
    fn sweep(
        &mut self,
        now: Ms,
        retention: Retention,
        sweep: &mut Sweep,
        rows_max: usize,
    ) -> Result<Swept, TablesError>;
}

/// A range of rows of one table, and how much of it is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    /// Of which table.
    pub table: Table,
    /// The first key that may be in it.
    pub from: &'a [u8],
    /// The first key beyond it.
    pub to: &'a [u8],
    /// Whether the greatest keys come first.
    pub descending: bool,
    /// How many rows at most.
    pub limit: usize,
}

/// The reading side of a partition's tables. Calls block.
pub trait Rows: Send + Sync + Debug {
    /// One row's bytes.
    ///
    /// # Errors
    /// [`TablesError`], as in every function here.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError>;

    /// The rows of a range; none if it ends before it begins.
    fn range(&self, range: Range<'_>) -> Result<RawRows, TablesError>;

    /// A tenant's events of all scopes after one of them, in the order of their numbers: at most `limit`, and no more
    /// after those that together have `bytes_max`.
    fn events_after(
        &self,
        tenant: TenantId,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<RawRows, TablesError>;

    /// A tenant's runs that a filter lets through, newest first, and the key of the last one looked at if there may be
    /// more: after `limit` found, or `examined_max` looked at. Where either is 0 none is looked at.
    fn runs(
        &self,
        tenant: TenantId,
        before: Option<RunId>,
        filter: &RunFilter,
        limit: usize,
        examined_max: usize,
    ) -> Result<(RawRows, Option<Vec<u8>>), TablesError>;
}

/// The end of the range of keys that begin with `prefix`: the first key that is greater than all of them.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        // Nothing is greater than 0xff for ever; a tenant's key, a run's, a task's and a position are 38 bytes.
        None => vec![0xff; prefix.len() + 64],
    }
}

/// The bounds of a tenant's runs before one of them, neither of them included.
pub fn run_bounds(tenant: TenantId, before: Option<RunId>) -> (Vec<u8>, Vec<u8>) {
    let from = tenant.to_bytes();
    (from.to_vec(), before.map_or_else(|| end_of(&from), |before| row::key::run(tenant, before)))
}
