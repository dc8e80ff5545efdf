//! The laws every store keeps, whatever it is made of: what the traits of [`crate::backend`] say, as checks.
//!
//! A backend's test gives [`hold`] a way to make a store and to open it again, and every law is checked on a store of its
//! own. A law says nothing that the traits do not say: where a backend may choose (how much of a log it keeps, whether
//! commits since the last checkpoint survive), all choices pass. So the same laws hold under a process that ends and
//! under power that goes between two openings.
//!
//! What is not checked here: faults in mid-call (crash images of the log, the simulator) and what is fast.

mod log;
mod model;
mod reading;
mod sweeping;
mod sweeping_streams;
mod tables;
mod together;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::backend::{OpenTables, PartitionLog, Store};
use crate::log::{LogError, Position};

/// Opens one store, again at each call. Everything from an earlier opening is dropped by then.
pub type Open<'a> = &'a mut dyn FnMut() -> Box<dyn Store>;

/// Something a store does or never does.
#[derive(Debug, Clone, Copy)]
pub struct Law {
    /// What, as a sentence.
    pub says: &'static str,
    /// Panics, saying how, if a store breaks it. The store is new when it is first opened.
    pub check: fn(Open<'_>),
}

/// The largest batch that stores under test take.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// The partitions that stores under test have, unless a law wants others.
const PARTITIONS: u16 = 2;

/// What every store keeps.
pub const LAWS: &[Law] = &[
    Law { says: "the number of partitions never changes", check: together::the_number_of_partitions_never_changes },
    Law { says: "there is at least one partition", check: together::there_is_at_least_one_partition },
    Law { says: "partitions know nothing of each other", check: together::partitions_know_nothing_of_each_other },
    Law { says: "positions have no hole", check: log::positions_have_no_hole },
    Law { says: "batches come back byte for byte", check: log::batches_come_back_byte_for_byte },
    Law { says: "a batch that is too large changes nothing", check: log::a_batch_that_is_too_large_changes_nothing },
    Law { says: "what is not contained is never removed", check: log::what_is_not_contained_is_never_removed },
    Law { says: "a log has one owner", check: log::a_log_has_one_owner },
    Law { says: "batches are applied once", check: tables::batches_are_applied_once },
    Law { says: "after an error nothing was applied", check: tables::after_an_error_nothing_was_applied },
    Law { says: "nobody sees half of an application", check: tables::nobody_sees_half_of_an_application },
    Law { says: "the last write of a row stands", check: tables::the_last_write_of_a_row_stands },
    Law { says: "live rows are what a restart needs", check: tables::live_rows_are_what_a_restart_needs },
    Law { says: "rows are as in a map", check: reading::rows_are_as_in_a_map },
    Law { says: "ranges are as in a map", check: reading::ranges_are_as_in_a_map },
    Law { says: "a tenant's runs are as in a map", check: reading::runs_are_as_in_a_map },
    Law { says: "pages of runs miss none and repeat none", check: reading::pages_miss_none_and_repeat_none },
    Law { says: "a read by id sees every durable write", check: reading::a_read_by_id_sees_every_durable_write },
    Law { says: "opened again, log and tables lack nothing", check: together::opened_again_nothing_is_lacking },
];

/// What a store keeps that lives as long as its tenants do. The simulator's does not sweep: its books compare with
/// everything that ever was.
pub const SWEEPING: &[Law] = &[
    Law { says: "a sweep takes what is too old and nothing else", check: sweeping::a_sweep_takes_what_is_too_old },
    Law { says: "a sweep takes what has expired and nothing else", check: sweeping::a_sweep_takes_what_has_expired },
    Law { says: "a sweep leaves what a reader has not read", check: sweeping::a_sweep_leaves_what_is_not_read },
    Law { says: "a sweep takes entries that all have", check: sweeping_streams::a_sweep_takes_entries_that_all_have },
    Law { says: "a sweep comes around", check: sweeping::a_sweep_comes_around },
];

/// A way to open a store.
pub type Opener = Box<dyn FnMut() -> Box<dyn Store>>;

/// Checks `laws`, each on a store of its own: `fresh` makes a new store and answers how to open it.
///
/// # Panics
/// If a law is broken, after all were tried; the message names the broken ones.
pub fn hold(laws: &[Law], fresh: &mut dyn FnMut() -> Opener) {
    let broken: Vec<&str> = laws
        .iter()
        .filter(|law| catch_unwind(AssertUnwindSafe(|| (law.check)(&mut *fresh()))).is_err())
        .map(|law| law.says)
        .collect();
    assert!(broken.is_empty(), "broken: {broken:?}; each says how, above");
}

fn opened(open: Open<'_>) -> Box<dyn Store> {
    let store = open();
    store.partitions(PARTITIONS).expect("a store says how many partitions it has");
    store
}

fn tables_of(store: &dyn Store, partition: u16) -> OpenTables {
    store.open_tables(partition).expect("tables open")
}

/// A log and the batches it showed.
type OpenLog = (Box<dyn PartitionLog>, Vec<(u64, Vec<u8>)>);

fn try_log_of(store: &dyn Store, partition: u16, from: u64) -> Result<OpenLog, LogError> {
    let mut shown = Vec::new();
    let log = store.open_log(partition, 7, Position(from), &mut |Position(position), bytes| {
        shown.push((position, bytes.to_vec()));
    })?;
    Ok((log, shown))
}

fn log_of(store: &dyn Store, partition: u16, from: u64) -> OpenLog {
    match try_log_of(store, partition, from) {
        Ok(opened) => opened,
        Err(error) => panic!("the log opens from {from} on: {error}"),
    }
}
