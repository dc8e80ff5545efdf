//! How often something was done in another process: a number in a file, written now and then while it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How late the file may be.
pub const LATE: Duration = Duration::from_millis(10);

/// Counts, and has a thread write it down.
#[must_use]
pub fn counted_in(path: PathBuf) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        let (mut written, next) = (None, path.with_extension("next"));
        loop {
            let now = counted.load(Ordering::Relaxed);
            // Renamed into place, so that whoever reads finds a whole number.
            let put = || std::fs::write(&next, now.to_string()).and_then(|()| std::fs::rename(&next, &path));
            if written != Some(now) && put().is_ok() {
                written = Some(now);
            }
            std::thread::sleep(LATE);
        }
    });
    count
}

/// The number in such a file; 0 while there is none.
#[must_use]
pub fn read(path: &Path) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
