//! The machine's own limit, to hold every result against.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use mainspring_store::log::{SyncRates, measure_sync};

/// Writes per measurement: a second or less on most disks.
const ROUNDS: usize = 2_000;
const BLOCK_BYTES: usize = 4_000;

/// How fast this machine makes one 4 KiB block durable, one at a time, in the way the log does it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// What was measured.
    pub sync: SyncRates,
}

impl Machine {
    /// Measures in `dir`, which must be on the disk the load will use.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn measure(dir: &Path) -> anyhow::Result<Machine> {
        let sync = measure_sync(dir, BLOCK_BYTES, ROUNDS).context("the disk could not be measured")?;
        Ok(Machine { sync })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SyncRates { per_second, median_ms, p99_ms } = self.sync;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        write!(
            f,
            "{cpus} cores; durable 4 KiB appends, one at a time: {per_second:.0}/s, median {median_ms:.3} ms, p99 {p99_ms:.3} ms"
        )
    }
}
