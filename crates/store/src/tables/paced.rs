//! The tables' files are made durable here, not by SQLite, and go to the disk in small pieces.
//!
//! What SQLite writes is in the system's memory at first, and a sync has all of it flushed at once: a durable write of the
//! log waits behind that, for tens of milliseconds. So what was written is handed to the disk a piece at a time, each
//! once the one before it is written, and the sync that follows finds little left to do.
//!
//! Nothing is lost by it that was promised: the log has every batch until a checkpoint, and a checkpoint keeps SQLite's
//! own order. First its write-ahead log is durable, then pages are copied to the tables, then those are durable, and
//! only then is the write-ahead log written over.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What SQLite puts before the frames of its write-ahead log, and before the page in each of them:
/// <https://sqlite.org/fileformat2.html#walformat>.
const WAL_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// Bytes on their way to the disk at once. A write of the log waits for no more than that.
const PIECE: u64 = 128 * 1024;
/// The same for tables that are behind: they are what the log waits for then, and the disk has to be kept busy.
const PIECE_BEHIND: u64 = 4 * 1024 * 1024;
/// Bytes that were applied at once by tables that are behind.
const BEHIND: usize = 8 * 1024 * 1024;

/// The files of one database, beside the connection that writes them.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) tables: File,
    pub(super) wal: File,
    /// Bytes in a page.
    page: u64,
    /// Frames of the write-ahead log that are on the disk, or on their way.
    handed: u64,
    /// Bytes that are handed over at once.
    piece: u64,
    #[cfg(test)]
    pub(super) watch: super::power::Watch,
}

impl Paced {
    /// The files of the database in `path`, which is open and has pages of so many bytes. To be let go of after the
    /// connection: whoever closes one of its files in this process takes SQLite's locks on it away.
    pub(super) fn open(path: &Path, page: u64) -> io::Result<Paced> {
        let mut wal = PathBuf::from(path).into_os_string();
        wal.push("-wal");
        let open = |path: &Path| File::options().read(true).write(true).open(path);
        Ok(Paced {
            tables: open(path)?,
            wal: open(Path::new(&wal))?,
            page,
            handed: 0,
            piece: PIECE,
            #[cfg(test)]
            watch: super::power::Watch::default(),
        })
    }

    /// So many bytes were applied at once.
    pub(super) fn applied(&mut self, bytes: usize) {
        self.piece = if bytes < BEHIND { PIECE } else { PIECE_BEHIND };
    }

    /// Hands over what came to the write-ahead log, which has this many frames now. Whether the disk took it is found out
    /// by the next [`Paced::sync_wal`].
    pub(super) fn hand_over(&mut self, frames: u64) {
        let mut pieces = Pieces::of(&self.wal, self.piece);
        pieces.add(self.frame(self.handed)..self.frame(frames));
        pieces.end();
        self.handed = frames;
    }

    /// Makes the write-ahead log durable, and says which pages of the tables are in its frames, in order.
    pub(super) fn sync_wal(&mut self, frames: u64) -> io::Result<Vec<u32>> {
        self.hand_over(frames);
        self.sync(&self.wal)?;
        let mut pages = Vec::new();
        for frame in 0..frames {
            let mut number = [0; 4];
            self.wal.read_exact_at(&mut number, self.frame(frame))?;
            pages.push(u32::from_be_bytes(number));
        }
        pages.sort_unstable();
        pages.dedup();
        Ok(pages)
    }

    /// Makes the tables durable. These pages were copied to them, which may be those of [`Paced::sync_wal`].
    pub(super) fn sync_tables(&mut self, pages: &[u32]) -> io::Result<()> {
        let mut pieces = Pieces::of(&self.tables, self.piece);
        for page in pages {
            let end = u64::from(*page) * self.page;
            pieces.add(end.saturating_sub(self.page)..end);
        }
        pieces.end();
        // The write-ahead log begins anew, or what is gone over again is on the disk already.
        self.handed = 0;
        self.sync(&self.tables)
    }

    /// Whatever is made durable, is made so here.
    fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        self.watch.before_sync([&self.tables, &self.wal]);
        file.sync_data()?;
        #[cfg(test)]
        self.watch.after_sync(usize::from(std::ptr::eq(file, &self.wal)), file);
        Ok(())
    }

    /// Another file in the place of the write-ahead log.
    #[cfg(test)]
    pub(super) fn swap_wal(&mut self, wal: File) -> File {
        std::mem::replace(&mut self.wal, wal)
    }

    /// Where a frame of the write-ahead log begins.
    fn frame(&self, index: u64) -> u64 {
        WAL_HEADER + index * (FRAME_HEADER + self.page)
    }
}

/// Ranges of a file on their way to the disk, in the order of the file.
struct Pieces<'a> {
    file: &'a File,
    /// Bytes in one.
    piece: u64,
    /// Begun and not waited for: what they span, and the bytes of them.
    begun: Option<(Range<u64>, u64)>,
}

impl Pieces<'_> {
    fn of(file: &File, piece: u64) -> Pieces<'_> {
        Pieces { file, piece, begun: None }
    }

    /// Begins to write a range that comes after those before it.
    fn add(&mut self, range: Range<u64>) {
        let mut from = range.start;
        while from < range.end {
            let to = range.end.min(from + self.piece);
            write_back(self.file, from..to, libc::SYNC_FILE_RANGE_WRITE);
            let (span, bytes) = self.begun.take().unwrap_or((from..to, 0));
            let bytes = bytes + (to - from);
            self.begun = Some((span.start..to, bytes));
            if bytes >= self.piece {
                self.end();
            }
            from = to;
        }
    }

    /// Waits until what was begun is written.
    fn end(&mut self) {
        if let Some((span, _)) = self.begun.take() {
            write_back(self.file, span, libc::SYNC_FILE_RANGE_WAIT_BEFORE);
        }
    }
}

/// Begins or awaits the writing of a range. Makes nothing durable, and a file system that can't do it leaves it to the
/// sync that follows, which also says what went wrong: so its answer tells nothing.
#[expect(unsafe_code, reason = "no crate offers this call")]
fn write_back(file: &File, range: Range<u64>, how: libc::c_uint) {
    let (from, bytes) = (range.start as libc::off64_t, (range.end - range.start) as libc::off64_t);
    // SAFETY: it is given numbers alone, of which the first is a file that is open while it is borrowed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, bytes, how) };
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn the_pages_that_are_handed_over_are_those_a_checkpoint_writes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tables.sqlite");
        let connection = Connection::open(&path).expect("a database");
        connection
            .execute_batch(
                "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; \
                 CREATE TABLE rows(key INTEGER PRIMARY KEY, body BLOB);",
            )
            .expect("a table");
        let mut paced = Paced::open(&path, 8192).expect("its files");
        let mut written = 0;
        for round in 0..4 {
            let before = std::fs::read(&path).expect("the tables");
            for key in 0..300 {
                let sql = "INSERT OR REPLACE INTO rows VALUES (?1, randomblob(900))";
                connection.execute(sql, [key * (round + 1)]).expect("a row");
            }
            let frames = |how: &str| -> u64 {
                let frames = connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| row.get(1));
                frames.map(|frames: i64| frames as u64).expect("a count")
            };
            let handed = paced.sync_wal(frames("NOOP")).expect("durable");
            frames("RESTART");
            paced.sync_tables(&handed).expect("durable");

            let after = std::fs::read(&path).expect("the tables");
            let pages = after.chunks(8192).zip(before.chunks(8192).map(Some).chain(std::iter::repeat(None)));
            let changed = pages.enumerate().filter(|(_, (after, before))| Some(*after) != *before);
            let changed: Vec<u32> = changed.map(|(index, _)| index as u32 + 1).collect();
            let unknown: Vec<&u32> = changed.iter().filter(|page| !handed.contains(page)).collect();
            assert!(unknown.is_empty(), "pages {unknown:?} were written in round {round} and not handed over");
            let beyond = handed.iter().any(|page| *page as usize * 8192 > after.len());
            assert!(!beyond, "a page beyond the end of the tables in {handed:?}");
            written += changed.len();
        }
        assert!(written > 40, "{written} pages were written in all");
    }
}
