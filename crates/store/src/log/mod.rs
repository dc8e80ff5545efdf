//! The segment log: the truth of an embedded partition.
//!
//! A log is a directory of segment files holding opaque batches of bytes, numbered 1, 2, 3 and so on without a hole.
//! One thread appends; a batch is durable when [`Log::append`] returns. After a crash [`Log::open`] finds every batch
//! that was acknowledged, at most one more that was not, and nothing else, or it refuses to open and says why.
//!
//! What this module does not know: what a batch means, which batches the tables contain (the caller says so through
//! `from` and [`Log::remove_up_to`]), and how callers are grouped into one batch.
//!
//! Where things live: `format` is the bytes, `files` what is wanted of a file system,
//! `disk` the only place that asks for it, `prepare` zero-fills the next
//! segment in the background, `writer` is the life of an open log, `recover` is what happens before that, `measure`
//! tells what the disk could do at best.
//!
//! # What was measured, and what follows from it
//!
//! Median time in ms to make one batch durable on a zero-filled, preallocated file (ext4, virtual disk, three runs):
//!
//! | batch | `O_DIRECT\|O_DSYNC`, padded to 4 KiB | the same, rewriting the last block | `pwrite` + `fdatasync` |
//! |---|---|---|---|
//! | 1 KiB | 0.11 - 0.15 | 0.11 - 0.12 | 0.13 - 0.17 |
//! | 16 KiB | 0.12 - 0.13 | 0.11 - 0.16 | 0.14 - 0.15 |
//! | 256 KiB | 0.19 - 0.23 | 0.20 - 0.24 | 0.21 - 0.29 |
//!
//! So records are padded to 4 KiB and written with `O_DIRECT|O_DSYNC`. Packing records tightly would save space but
//! rewrite a block that holds acknowledged batches, and a power cut in that write could take them along; padded, a
//! block is written once and never again. Where a file system refuses `O_DIRECT`, the same writes go through the page
//! cache with `O_DSYNC` alone.

mod disk;
mod error;
pub mod files;
mod format;
mod measure;
mod prepare;
mod recover;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod test_tap;
#[cfg(test)]
mod tests;

pub use error::LogError;
pub use measure::{SyncRates, measure_sync};
pub use recover::{Recovery, TornTail};
pub use writer::{Log, LogStats};

use std::fmt;

/// Is the number of one batch in the log: the first is 1, and there are no holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Is the position of the first batch ever appended.
    pub const FIRST: Position = Position(1);

    /// Returns the position after this one.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Says how much a log may write at once, and how hard it tries to keep it.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size of one segment file in bytes, rounded up to whole 4 KiB blocks. A new log begins with a segment of at
    /// most 1 MiB and grows to this size in steps of eight, so that it opens at once and stays small while idle.
    pub segment_bytes: u64,
    /// Largest batch in bytes. A larger one is refused with [`LogError::TooLarge`] and nothing is written. A batch
    /// within this limit but larger than a segment gets a segment of its own size.
    pub batch_bytes_max: usize,
    /// Whether a batch is durable when `append` returns.
    pub sync: SyncMode,
    /// Who prepares the next segment.
    pub prepare: Prepare,
    /// Chance, handed in: mixed into the checksums of a *new* log, from where it is inherited by every later segment.
    /// Give a random number so that no bytes of one log can pass as records of another. Ignored for an existing log.
    pub salt_seed: u64,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            // A decision is bounded by the core's limits, and the largest they allow must still be written.
            batch_bytes_max: 1 << 30,
            sync: SyncMode::Durable,
            prepare: Prepare::InBackground,
            salt_seed: 0,
        }
    }
}

/// Says when the next segment is filled with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepare {
    /// By a thread, while the present one is being written.
    InBackground,
    /// When it is needed, by whoever appends: no thread, so that a simulation is one.
    WhenNeeded,
}

/// Says whether `append` waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// A batch is on the disk when `append` returns.
    Durable,
    /// **Unsafe, for experiments only.** `append` returns when the kernel has the bytes. `kill -9` loses nothing, but
    /// a power cut or a kernel crash loses acknowledged batches and may leave a log that refuses to open.
    Off,
}
