//! What the log asks of a file system, so that a simulated one can stand in for the machine's.
//!
//! The machine's own is [`MachineFiles`]. Whoever implements these traits decides what survives a crash; the log assumes
//! no more than what is written at each function.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Each write is durable when it returns (`O_DSYNC`).
    pub durable: bool,
    /// Writes go around the page cache (`O_DIRECT`), from aligned memory to aligned offsets.
    pub direct: bool,
}

/// Keeps a lock until it is dropped.
pub trait Held: Send + Sync + Debug {}

/// A file system.
pub trait Files: Send + Sync + Debug {
    /// Makes a directory and its parents. Their names are durable after [`Files::sync_dir`] of the directory above.
    ///
    /// # Errors
    /// What the system says, as in every function here.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether there is something at this path.
    fn exists(&self, path: &Path) -> bool;
    /// The names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the file if need be and takes it for one opener, until what is returned is dropped or the process ends.
    /// [`io::ErrorKind::WouldBlock`] while another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Held>>;
    /// Opens a file to read and write.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn BlockFile>>;
    /// Makes an empty file, replacing what had that name, to write. Its writes are durable after
    /// [`BlockFile::sync_all`], its name after [`Files::sync_dir`].
    fn create(&self, path: &Path, direct: bool) -> io::Result<Box<dyn BlockFile>>;
    /// The size of a file in bytes.
    fn size(&self, path: &Path) -> io::Result<u64>;
    /// Gives a file another name, replacing what had it. Durable after [`Files::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Files::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait BlockFile: Send + Sync + Debug {
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// What the system says, as in every function here.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable, the file's size included.
    fn sync_all(&self) -> io::Result<()>;
    /// Makes the bytes written so far durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineFiles;

impl Files for MachineFiles {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Held>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(FileHeld(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(source)) => Err(source),
        }
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn BlockFile>> {
        let mut flags = OFlags::empty();
        flags.set(OFlags::DSYNC, mode.durable);
        flags.set(OFlags::DIRECT, mode.direct);
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        Ok(Box::new(file))
    }

    fn create(&self, path: &Path, direct: bool) -> io::Result<Box<dyn BlockFile>> {
        let mut flags = OFlags::empty();
        flags.set(OFlags::DIRECT, direct);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(flags.bits().cast_signed());
        Ok(Box::new(options.open(path)?))
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        fs::metadata(path).map(|metadata| metadata.len())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct FileHeld(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Held for FileHeld {}

impl BlockFile for File {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
