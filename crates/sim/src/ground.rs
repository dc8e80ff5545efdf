//! What a deployment stands on, with the faults it can have: a disk and tables in memory, or a real PostgreSQL.

pub mod memory;
pub mod postgres;
pub mod proxy;

use std::fmt::Debug;
use std::sync::Arc;

use mainspring_core::Table;
use mainspring_store::{Store, StoreError};

use crate::disk::Crash;
use crate::tables::TableFaults;

/// Which ground a simulation is to stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum On {
    /// The real log on a disk in memory, and tables in memory.
    #[default]
    Memory,
    /// The real store in the database with this URL, in a schema of the simulation's own.
    Postgres {
        /// The URL. Whoever it names must be allowed to create schemas.
        url: String,
    },
}

/// What writing may meet with, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no room.
    Full,
    /// Writes fail.
    Failing,
}

/// Is shown a row: its table, key and body.
pub type EachRow<'a> = &'a mut dyn FnMut(Table, &[u8], &[u8]);

/// What a deployment stands on.
pub trait Ground: Send + Sync + Debug {
    /// The store, as one process has it.
    ///
    /// # Errors
    /// [`StoreError`], which ends the simulation.
    fn store(&self, process: u64) -> Result<Arc<dyn Store>, StoreError>;

    /// Whether what this process still does to a partition may come to something.
    fn may_own(&self, process: u64, partition: u16) -> bool;

    /// Whether a second process that opens the store takes it over. Where it does not it is refused.
    fn lets_second_in(&self) -> bool;

    /// Another process is about to take the store from one that is taken to be gone, and may not be.
    fn take_over(&self);

    /// A process ends. Whatever it still tries fails.
    fn crash(&self, process: u64, how: Crash);

    /// Lets the process that makes the `changes`th change from now die in the middle of it.
    fn die_in(&self, changes: u64);

    /// Whether this process died in the middle of a change; says so once.
    fn take_died(&self, process: u64) -> bool;

    /// What writing meets with from now on.
    fn set_trouble(&self, trouble: Option<Trouble>);

    /// The tables do not answer, or do again.
    fn set_away(&self, away: bool);

    /// What goes wrong with tables from now on.
    fn set_table_faults(&self, faults: TableFaults);

    /// From now on nothing goes wrong by itself, and what was on its way has arrived.
    fn calm_down(&self);

    /// The position a partition's tables stand at.
    fn position(&self, partition: u16) -> u64;

    /// Shows every row of a partition's tables.
    fn each(&self, partition: u16, each: EachRow<'_>);
}
