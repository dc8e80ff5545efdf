//! What the disk could do at best, measured with the log's own way of writing: the number to hold a benchmark against.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use super::{
    LogError, SyncMode,
    disk::{AlignedBuf, Disk},
    files::MachineFiles,
    format::{BLOCK, record_bytes},
};

/// Written at most before the measurement begins again at the front of its file.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Tells how fast single durable writes follow one another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyncRates {
    /// Durable writes per second, one at a time.
    pub per_second: f64,
    /// Half of the writes took no longer than this, in milliseconds.
    pub median_ms: f64,
    /// 99 of 100 writes took no longer than this, in milliseconds.
    pub p99_ms: f64,
}

/// Measures `rounds` durable writes of records with `bytes` bytes each, on a zero-filled file of its own below `dir`
/// that is removed again.
///
/// # Errors
///
/// [`LogError::Io`] when the file system refuses, for instance for lack of room: it takes `rounds` records or 256 MiB,
/// whichever is less.
pub fn measure_sync(dir: &Path, bytes: usize, rounds: usize) -> Result<SyncRates, LogError> {
    let place = dir.join("measure-sync");
    let mut disk = Disk::new(Arc::new(MachineFiles), SyncMode::Durable, true);
    disk.make_dir(&place)?;
    let lock = disk.lock(&place)?;
    let taken = take_rounds(&disk, &place, bytes, rounds.max(1));
    drop(lock);
    let removed = fs::remove_dir_all(&place).map_err(|source| LogError::Io { op: "remove", path: place, source });
    let mut taken_ms = taken?;
    removed?;
    let total_ms: f64 = taken_ms.iter().sum();
    taken_ms.sort_by(f64::total_cmp);
    let count = taken_ms.len();
    Ok(SyncRates {
        per_second: count as f64 / total_ms * 1e3,
        median_ms: taken_ms[count / 2],
        p99_ms: taken_ms[count * 99 / 100],
    })
}

fn take_rounds(disk: &Disk, place: &Path, bytes: usize, rounds: usize) -> Result<Vec<f64>, LogError> {
    let record_bytes = record_bytes(bytes as u64);
    let records = (rounds as u64).min((FILE_BYTES_MAX / record_bytes).max(1));
    let path = place.join("measure.tmp");
    let file = disk.create_zeroed(&path, records * record_bytes, &AtomicBool::new(false), &AtomicBool::new(true))?;
    let file = file.ok_or_else(|| LogError::Io { op: "fill", path, source: io::Error::other("cancelled") })?;
    let mut record = AlignedBuf::new(record_bytes as usize);
    record.bytes_mut().fill(0x5a);
    debug_assert!(record_bytes.is_multiple_of(BLOCK));
    (0..rounds as u64)
        .map(|round| {
            let begun = Instant::now();
            disk.write(&file, round % records * record_bytes, record.bytes())?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}
