//! What a server's log would have held, had it been killed after any of its records.
//!
//! A segment is a header block, then records that begin on block boundaries: checksum, length, position, payload, zeros.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::server::{Server, Setup, copy_all, copy_files, files_of};

const BLOCK: u64 = 4096;
const RECORD_HEAD_BYTES: u64 = 16;
const MAGIC: &[u8] = b"MSPRGLOG";

/// How things stood: the tables, and how many records the log had.
pub(crate) struct Mark {
    pub(super) tables: TempDir,
    records: usize,
}

/// All that one server ever wrote.
pub(crate) struct History {
    setup: Setup,
    dir: TempDir,
    mark: Mark,
}

/// A log's only segment. Tests write too little for two.
#[derive(Clone)]
pub(crate) struct Segment(PathBuf);

impl Segment {
    fn of(dir: &Path) -> Segment {
        let mut found = Vec::new();
        find(dir, &mut found);
        assert_eq!(found.len(), 1, "one segment: {found:?}");
        Segment(found.remove(0))
    }

    /// Where each record ends.
    fn ends(&self) -> Vec<u64> {
        let file = std::fs::File::open(&self.0).expect("the segment is there");
        let bytes = file.metadata().expect("its size").len();
        let (mut at, mut ends) = (BLOCK, Vec::new());
        while at < bytes {
            let mut length = [0; 4];
            file.read_exact_at(&mut length, at + 4).expect("a head");
            let length = u64::from(u32::from_le_bytes(length));
            if length == 0 {
                break;
            }
            at += (RECORD_HEAD_BYTES + length).next_multiple_of(BLOCK);
            ends.push(at);
        }
        ends
    }

    /// How many records it has.
    pub(crate) fn records(&self) -> usize {
        self.ends().len()
    }

    /// Makes everything behind so many records zeros, as it is before it is written.
    fn cut(&self, records: usize) {
        let end = records.checked_sub(1).map_or(BLOCK, |last| self.ends()[last]);
        let file = std::fs::File::options().write(true).open(&self.0).expect("the segment is there");
        let bytes = file.metadata().expect("its size").len();
        file.set_len(end).expect("shorter");
        file.set_len(bytes).expect("and as long as before");
    }
}

fn find(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            find(&path, found);
        } else {
            let mut magic = [0; 8];
            let read = std::fs::File::open(&path).and_then(|file| file.read_exact_at(&mut magic, 0));
            if read.is_ok() && magic == MAGIC {
                found.push(path);
            }
        }
    }
}

impl Server {
    /// Where its records are.
    pub(crate) fn segment(&self) -> Segment {
        Segment::of(self.directory())
    }

    /// How things stand now, as the beginning of a history.
    pub(crate) async fn mark(&self) -> Mark {
        let tables = self.tables_now().await;
        // Counted afterwards: the tables are never ahead of these.
        Mark { tables, records: self.segment().records() }
    }

    /// Ends, and gives all that was written since.
    pub(crate) async fn history(self, mark: Mark) -> History {
        let (setup, dir) = self.end().await;
        History { setup, dir, mark }
    }
}

impl History {
    /// After how many records it could have ended.
    pub(crate) fn cuts(&self) -> std::ops::RangeInclusive<usize> {
        self.mark.records..=Segment::of(self.dir.path()).records()
    }

    /// A server that finds the first so many records, and tables that are older still.
    pub(crate) async fn after(&self, records: usize) -> Server {
        let image = tempfile::tempdir().expect("a directory");
        copy_all(self.dir.path(), image.path());
        let partition = image.path().join("p0");
        for file in files_of(&partition) {
            std::fs::remove_file(&file).expect("the newer table goes");
        }
        copy_files(self.mark.tables.path(), &partition);
        Segment::of(image.path()).cut(records);
        Server::start(self.setup.clone(), image).await
    }
}
