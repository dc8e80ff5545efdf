//! Zero-fills the next segment in the background, so that a full segment does not make an append wait.
//!
//! A thread lives only while a file is being filled: an idle log has none. Until it is needed the file is called
//! `next.tmp`; after a crash it is simply removed, because nothing tells how far the filling came.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{
    LogError, Prepare,
    disk::{Disk, DiskFile},
};

/// The next segment in the making: at most one at a time.
#[derive(Debug)]
pub(super) struct Preparer {
    disk: Disk,
    path: PathBuf,
    when: Prepare,
    running: Option<Running>,
    cancel: Arc<AtomicBool>,
    /// Somebody waits for what is being prepared.
    hurry: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Running {
    capacity_bytes: u64,
    thread: JoinHandle<Result<Option<DiskFile>, LogError>>,
}

impl Preparer {
    pub(super) fn new(disk: Disk, dir: &Path, when: Prepare) -> Preparer {
        Preparer {
            disk,
            path: dir.join("next.tmp"),
            when,
            running: None,
            cancel: Arc::default(),
            hurry: Arc::default(),
        }
    }

    /// Begins to prepare a file of this size, unless one is prepared or in the making. If no thread can be started
    /// nothing happens: the file is then made when it is asked for.
    pub(super) fn start(&mut self, capacity_bytes: u64) {
        if self.running.is_some() || self.when == Prepare::WhenNeeded {
            return;
        }
        self.hurry.store(false, Ordering::Relaxed);
        let (disk, path) = (self.disk.clone(), self.path.clone());
        let (cancel, hurry) = (Arc::clone(&self.cancel), Arc::clone(&self.hurry));
        let fill = move || {
            let filled = disk.create_zeroed(&path, capacity_bytes, &cancel, &hurry);
            if let Err(error) = &filled {
                tracing::warn!(%error, "could not prepare the next log segment; the log stops when this one is full");
            }
            filled
        };
        let spawned = thread::Builder::new().name("log-prepare".into()).spawn(fill);
        self.running = spawned.ok().map(|thread| Running { capacity_bytes, thread });
    }

    /// Returns an open file of at least `needed_bytes` zeros with its size: the prepared one if it is large enough,
    /// waiting for it if it is not finished, else one of `planned_bytes` made on the spot.
    pub(super) fn take(&mut self, needed_bytes: u64, planned_bytes: u64) -> Result<(DiskFile, u64), LogError> {
        self.hurry.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take_if(|running| running.capacity_bytes >= needed_bytes) {
            let finished = running.thread.join().unwrap_or_else(|_| Err(self.stopped()))?;
            return Ok((finished.ok_or_else(|| self.stopped())?, running.capacity_bytes));
        }
        let capacity_bytes = planned_bytes.max(needed_bytes);
        let made =
            self.disk.create_zeroed(&self.path.with_file_name("now.tmp"), capacity_bytes, &self.cancel, &self.hurry)?;
        Ok((made.ok_or_else(|| self.stopped())?, capacity_bytes))
    }

    fn stopped(&self) -> LogError {
        let source = io::Error::other("the thread that prepares segments stopped");
        LogError::Io { op: "fill", path: self.path.clone(), source }
    }
}

impl Drop for Preparer {
    /// Stops the filling and removes the file, so that a closed log leaves only segments behind. A failure does not
    /// matter: the next opener removes what is left.
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            let _ = running.thread.join();
            let _ = self.disk.remove(&self.path);
        }
    }
}
