//! The only place of the log that asks for files: one function per thing the log wants of the file system.
//!
//! Every operation passes through [`Disk::perform`], which turns a failure into a [`LogError::Io`] that names the
//! operation and the path. Tests observe and fail operations at the same point. This module does not know what a
//! segment or a record is, nor whether the file system is the machine's or a simulated one.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    LogError, SyncMode,
    files::{BlockFile, Files, Held, Mode},
    format::BLOCK,
};

/// Zeros written at once while filling: large enough for throughput, small enough that an append on the same disk
/// waits no longer than about 0.2 ms behind one of them.
const FILL_CHUNK_BYTES: usize = 256 << 10;

/// Zeros made durable at once while filling gently, and the pause after that: 64 MiB take half a second.
const GENTLE_BYTES: u64 = 1 << 20;
const GENTLE_PAUSE: Duration = Duration::from_millis(3);

const LOCK_NAME: &str = "LOCK";
const LOCK_TEXT: &str = "This file keeps a second process from opening this log. It holds no data.\n";

/// How one log talks to its file system.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    files: Arc<dyn Files>,
    sync: SyncMode,
    /// Whether the file system takes `O_DIRECT`. Without it, writes go through the page cache.
    direct: bool,
    #[cfg(test)]
    pub(super) tap: Option<super::test_tap::Tap>,
}

/// An open segment file, and the path it has at the moment.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: Box<dyn BlockFile>,
    pub(super) path: PathBuf,
}

/// One thing asked of the file system.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "what exactly is written where, only the crash tests look at"))]
pub(super) enum Op<'a> {
    MakeDir(&'a Path),
    List(&'a Path),
    Lock(&'a Path),
    Open(&'a Path),
    Read(&'a Path),
    Create(&'a Path),
    /// Writes zeros that are durable only after the next `Sync` of the file.
    Fill {
        path: &'a Path,
        offset: u64,
        bytes: usize,
    },
    Sync(&'a Path),
    /// Writes bytes that are durable when it returns.
    Write {
        path: &'a Path,
        offset: u64,
        bytes: &'a [u8],
    },
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Remove(&'a Path),
    SyncDir(&'a Path),
}

impl Disk {
    /// Chooses how to write; `direct` asks for `O_DIRECT`, which [`Disk::lock`] gives up if it is refused.
    pub(super) fn new(files: Arc<dyn Files>, sync: SyncMode, direct: bool) -> Disk {
        Disk {
            files,
            sync,
            direct: direct && sync == SyncMode::Durable,
            #[cfg(test)]
            tap: None,
        }
    }

    /// Makes the directory, and durably so, if it is not there.
    pub(super) fn make_dir(&self, dir: &Path) -> Result<(), LogError> {
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !self.files.exists(path)).collect();
        self.perform(Op::MakeDir(dir), || self.files.make_dir(dir))?;
        for made in missing {
            match made.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent)?,
                _ => self.sync_dir(Path::new("."))?,
            }
        }
        Ok(())
    }

    /// Takes the directory for this process, until what is returned is dropped, and finds out whether its file system
    /// takes `O_DIRECT`.
    pub(super) fn lock(&mut self, dir: &Path) -> Result<Box<dyn Held>, LogError> {
        let path = dir.join(LOCK_NAME);
        let lock = match self.files.lock(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(LogError::InUse { dir: dir.to_owned() });
            }
            Err(source) => return Err(Op::Lock(&path).failed(source)),
        };
        if self.direct && !self.takes_direct(&path)? {
            tracing::warn!(dir = %dir.display(), "the file system refuses O_DIRECT; the log writes through the page cache, durably but slower");
            self.direct = false;
        }
        Ok(lock)
    }

    /// Tries a direct write on the lock file, because some file systems refuse only that and not the open. Always the
    /// same block, so that a full disk does not keep an existing log from opening.
    fn takes_direct(&self, path: &Path) -> Result<bool, LogError> {
        let mut block = AlignedBuf::new(BLOCK as usize);
        block.bytes_mut().fill(b'\n');
        block.bytes_mut()[..LOCK_TEXT.len()].copy_from_slice(LOCK_TEXT.as_bytes());
        let tried = self.files.open(path, Mode { durable: false, direct: true });
        match tried.and_then(|file| file.write_all_at(block.bytes(), 0)) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(false),
            Err(source) => Err(Op::Lock(path).failed(source)),
        }
    }

    /// Returns the names of the directory's entries, in no particular order.
    pub(super) fn list(&self, dir: &Path) -> Result<Vec<String>, LogError> {
        self.perform(Op::List(dir), || self.files.list(dir))
    }

    /// Opens a file whose bytes are already allocated, to read and to write durably.
    pub(super) fn open(&self, path: &Path) -> Result<DiskFile, LogError> {
        let mode = Mode { durable: self.sync == SyncMode::Durable, direct: self.direct };
        let file = self.perform(Op::Open(path), || self.files.open(path, mode))?;
        Ok(DiskFile { file, path: path.to_owned() })
    }

    /// Creates a file of `capacity_bytes` zeros, durable as far as the file goes (its name is not until
    /// [`Disk::sync_dir`]), replacing what had that name. Returns `None` when `cancel` was set meanwhile.
    ///
    /// Until `hurry` is set it goes gently, so that appends beside it are not held up: what a disk is made to flush at
    /// once makes every durable write wait that comes behind it. 64 MiB in one go took up to 300 ms.
    ///
    /// The zeros are really written: blocks that are only reserved turn every later durable write into a change of the
    /// file system's own records as well, which costs twice the time.
    pub(super) fn create_zeroed(
        &self,
        path: &Path,
        capacity_bytes: u64,
        cancel: &AtomicBool,
        hurry: &AtomicBool,
    ) -> Result<Option<DiskFile>, LogError> {
        let file = self.perform(Op::Create(path), || self.files.create(path, self.direct))?;
        let zeros = AlignedBuf::new(FILL_CHUNK_BYTES);
        let mut offset = 0;
        while offset < capacity_bytes {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let bytes = (capacity_bytes - offset).min(FILL_CHUNK_BYTES as u64) as usize;
            self.perform(Op::Fill { path, offset, bytes }, || file.write_all_at(&zeros.bytes()[..bytes], offset))?;
            offset += bytes as u64;
            let gently = self.sync == SyncMode::Durable && !hurry.load(Ordering::Relaxed);
            if gently && offset.is_multiple_of(GENTLE_BYTES) && offset < capacity_bytes {
                self.perform(Op::Sync(path), || file.sync_data())?;
                std::thread::sleep(GENTLE_PAUSE);
            }
        }
        if self.sync == SyncMode::Durable {
            self.perform(Op::Sync(path), || file.sync_all())?;
        }
        self.open(path).map(Some)
    }

    /// Returns the size of the file at this path in bytes.
    pub(super) fn size(&self, path: &Path) -> Result<u64, LogError> {
        self.perform(Op::Read(path), || self.files.size(path))
    }

    /// Fills `bytes` from `offset` on; both are whole blocks inside the file.
    pub(super) fn read(&self, file: &DiskFile, offset: u64, bytes: &mut [u8]) -> Result<(), LogError> {
        self.perform(Op::Read(&file.path), || file.file.read_exact_at(bytes, offset))
    }

    /// Writes whole blocks inside the file; durable when it returns.
    pub(super) fn write(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
        debug_assert!(offset.is_multiple_of(BLOCK) && (bytes.len() as u64).is_multiple_of(BLOCK));
        self.perform(Op::Write { path: &file.path, offset, bytes }, || file.file.write_all_at(bytes, offset))
    }

    /// Makes durable what an earlier process wrote to this file and may not have waited for.
    pub(super) fn sync(&self, file: &DiskFile) -> Result<(), LogError> {
        match self.sync {
            SyncMode::Durable => self.perform(Op::Sync(&file.path), || file.file.sync_data()),
            SyncMode::Off => Ok(()),
        }
    }

    /// Gives the file its new name, replacing what had it. The name is durable after [`Disk::sync_dir`].
    pub(super) fn rename(&self, file: &mut DiskFile, to: PathBuf) -> Result<(), LogError> {
        self.perform(Op::Rename { from: &file.path, to: &to }, || self.files.rename(&file.path, &to))?;
        file.path = to;
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), LogError> {
        self.perform(Op::Remove(path), || self.files.remove(path))
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync_dir(&self, dir: &Path) -> Result<(), LogError> {
        match self.sync {
            SyncMode::Durable => self.perform(Op::SyncDir(dir), || self.files.sync_dir(dir)),
            SyncMode::Off => Ok(()),
        }
    }

    fn perform<T>(&self, op: Op<'_>, act: impl FnOnce() -> io::Result<T>) -> Result<T, LogError> {
        #[cfg(test)]
        let act = || match &self.tap {
            Some(tap) => tap.observe(op, act),
            None => act(),
        };
        act().map_err(|source| op.failed(source))
    }
}

impl Op<'_> {
    fn failed(self, source: io::Error) -> LogError {
        let (op, path) = match self {
            Op::MakeDir(path) => ("make the directory", path),
            Op::List(path) => ("list", path),
            Op::Lock(path) => ("lock", path),
            Op::Open(path) => ("open", path),
            Op::Read(path) => ("read", path),
            Op::Create(path) => ("create", path),
            Op::Fill { path, .. } => ("fill", path),
            Op::Sync(path) => ("sync", path),
            Op::Write { path, .. } => ("write", path),
            Op::Rename { from, .. } => ("rename", from),
            Op::Remove(path) => ("remove", path),
            Op::SyncDir(path) => ("sync the directory", path),
        };
        LogError::Io { op, path: path.to_owned(), source }
    }
}

/// A buffer of zeros that begins on a block boundary in memory, as `O_DIRECT` demands. Pages of it that are never
/// touched take no memory.
#[derive(Debug)]
pub(super) struct AlignedBuf {
    /// One block more than asked for, so that an aligned beginning can be found without `unsafe`. Never reallocated:
    /// that would move the bytes off the boundary.
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl AlignedBuf {
    pub(super) fn new(size: usize) -> AlignedBuf {
        let bytes = vec![0; size + BLOCK as usize];
        let start = bytes.as_ptr().align_offset(BLOCK as usize);
        assert!(start <= BLOCK as usize, "an aligned beginning lies within the first block");
        AlignedBuf { bytes, start, size }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }
}
