//! The embedded store keeps the laws of every store: on the machine's own files and SQLite.

use mainspring_store::conformance::{BATCH_BYTES_MAX, LAWS, Opener, SWEEPING, hold};
use mainspring_store::log::{LogOptions, SyncMode};
use mainspring_store::{Embedded, Store};

/// Checks every law, each in a directory of its own.
fn hold_with(segment_bytes: u64, sync: SyncMode) {
    let mut fresh = || -> Opener {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogOptions { segment_bytes, batch_bytes_max: BATCH_BYTES_MAX, sync, ..LogOptions::default() };
        // The directory goes with the last who could open it.
        Box::new(move || Box::new(Embedded::new(dir.path().join("store"), log.clone())) as Box<dyn Store>)
    };
    hold(LAWS, &mut fresh);
    hold(SWEEPING, &mut fresh);
}

#[test]
fn durable() {
    hold_with(LogOptions::default().segment_bytes, SyncMode::Durable);
}

/// So small that a few batches fill one, and some batches need one of their own.
#[test]
fn in_small_segments() {
    hold_with(16 << 10, SyncMode::Durable);
}

#[test]
fn without_waiting_for_the_disk() {
    hold_with(64 << 10, SyncMode::Off);
}
