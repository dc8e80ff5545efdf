//! What happens before a log is open: find the segments, check every batch that is wanted, tell a torn tail from
//! damage, and read the batches back.
//!
//! A crash can only hurt the one record that was being written: it is the last thing in the last segment. Whatever is
//! unreadable *before* something readable, or in any other place, was acknowledged once, and then opening is refused
//! rather than made to work: going on would hand out positions and facts that contradict what callers were told.

use std::path::{Path, PathBuf};

use super::{
    LogError, Position,
    disk::{AlignedBuf, Disk, DiskFile},
    format::{BLOCK, HeaderRead, RECORD_HEAD_BYTES, RecordHead, SegmentHeader, VERSION, parse_segment_name},
    writer::Segment,
};

/// Read at once: large enough that a 64 MiB segment is scanned at the speed of the disk. Freed after recovery.
const READ_BYTES: u64 = 1 << 20;

const BLOCK_OF_ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

const ACTION: &str = "nothing was changed; restore this directory from a backup, or examine a copy of it";

/// Reads back the batches the tables do not contain yet, and tells what the crash cut off.
///
/// It reads the files when it is asked to, so replay before removing segments.
#[derive(Debug)]
pub struct Recovery {
    /// The remains of a write that a crash interrupted and that nobody was told had succeeded; already cut off.
    pub torn_tail: Option<TornTail>,
    disk: Disk,
    from: Position,
    next: Position,
    parts: Vec<Part>,
}

/// Says where an unfinished write was found and how much was overwritten with zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file.
    pub file: PathBuf,
    /// Where in that file the unfinished record began, in bytes.
    pub offset: u64,
    /// Bytes from there to the end of what had been written.
    pub bytes_cut: u64,
}

/// The readable records of one segment.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    header: SegmentHeader,
    end: u64,
}

/// What the writer needs to go on where the log ends.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) segments: Vec<Segment>,
    pub(super) active: DiskFile,
    pub(super) header: SegmentHeader,
    pub(super) offset: u64,
    pub(super) next: Position,
    pub(super) last_crc: u32,
    pub(super) recovery: Recovery,
}

impl Recovery {
    pub(super) fn of_new_log(disk: Disk) -> Recovery {
        Recovery { torn_tail: None, disk, from: Position::FIRST, next: Position::FIRST, parts: Vec::new() }
    }

    /// Returns how many batches [`Recovery::replay`] will show.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.next.0 - self.from.0
    }

    /// Shows every batch from the position given to `Log::open` on, in order, to `visit`, holding one piece of a
    /// segment (1 MiB, or one batch if that is larger) in memory. May be called again; shows the same then.
    ///
    /// # Errors
    ///
    /// The first error of `visit`, or a [`LogError`] if a file could not be read as it was when the log was opened.
    pub fn replay<E: From<LogError>>(
        &mut self,
        mut visit: impl FnMut(Position, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for part in &self.parts {
            let file = self.disk.open(&part.path)?;
            let mut reader = SegmentReader::new(&self.disk, file, part.header);
            let mut expected = part.header.first;
            let mut offset = BLOCK;
            while offset < part.end {
                let from = self.from;
                let (head, payload) = match reader.record(offset)? {
                    Some((head, payload)) if head.position == expected => (head, payload),
                    _ => {
                        return Err(damaged(
                            &part.path,
                            offset,
                            expected,
                            "it was readable when the log was opened".into(),
                        )
                        .into());
                    }
                };
                if expected >= from {
                    visit(expected, payload)?;
                }
                offset += head.record_bytes();
                expected = expected.next();
            }
        }
        Ok(())
    }
}

/// Checks the log in `dir` from `from` on and makes it ready to be appended to, or returns `None` if there is none.
pub(super) fn open(disk: &Disk, dir: &Path, partition: u16, from: Position) -> Result<Option<Opened>, LogError> {
    let names = disk.list(dir)?;
    let mut found: Vec<(Position, PathBuf)> =
        names.iter().filter_map(|name| Some((parse_segment_name(name)?, dir.join(name)))).collect();
    found.sort();
    let left_over: Vec<PathBuf> =
        names.iter().filter(|name| name.ends_with(".tmp")).map(|name| dir.join(name)).collect();

    let Some(oldest) = found.first().map(|(first, _)| *first) else {
        remove_left_over(disk, dir, &left_over)?;
        return Ok(None);
    };
    // Segments before the one that holds `from` are in the tables already. They may have holes between them, when a
    // crash kept one removal and forgot another, so they are not looked at.
    let Some(begin) = found.iter().rposition(|(first, _)| *first <= from) else {
        return Err(LogError::Gap { log: dir.display().to_string(), wanted: from, first: oldest });
    };

    let mut parts = Vec::new();
    let mut previous: Option<Scanned> = None;
    let mut index = begin;
    let (last, unfinished) = loop {
        let (first, path) = &found[index];
        let is_last = index + 1 == found.len();
        let file = disk.open(path)?;
        if is_last {
            // What an earlier process wrote and did not wait for may be in the page cache or the disk's own cache
            // only. Before it is believed it must be durable.
            disk.sync(&file)?;
        }
        let mut reader = open_segment(disk, file, *first, partition, previous.as_ref())?;
        let scanned = scan(&mut reader, path)?;
        parts.push(Part { path: path.clone(), header: scanned.header, end: scanned.end });
        if is_last {
            let unfinished = reader.unfinished(path, &scanned)?;
            break ((reader.file, scanned), unfinished);
        }
        check_follows(path, &scanned, found[index + 1].0)?;
        previous = Some(scanned);
        index += 1;
    };
    let (file, scanned) = &last;
    if from > scanned.next {
        return Err(LogError::Behind { log: dir.display().to_string(), wanted: from, next: scanned.next });
    }

    // From here on the log is good. Only now is anything changed.
    remove_left_over(disk, dir, &left_over)?;
    let torn_tail = match unfinished {
        Some(end) => Some(cut(disk, file, scanned.end, end)?),
        None => None,
    };
    disk.sync_dir(dir)?;

    let mut segments = Vec::with_capacity(found.len());
    for (first, path) in found {
        let bytes = disk.size(&path)?;
        segments.push(Segment { first, path, bytes });
    }
    let (active, Scanned { header, end, next, last_crc }) = last;
    let recovery = Recovery { torn_tail, disk: disk.clone(), from: from.max(Position::FIRST), next, parts };
    Ok(Some(Opened { segments, active, header, offset: end, next, last_crc, recovery }))
}

/// What the records of one segment say.
#[derive(Debug)]
struct Scanned {
    header: SegmentHeader,
    /// Where the first byte lies that is not a readable record.
    end: u64,
    /// The position that should be there.
    next: Position,
    last_crc: u32,
}

/// Checks the header of a segment against its name, its size, this log and the segment before it.
fn open_segment<'a>(
    disk: &'a Disk,
    file: DiskFile,
    first: Position,
    partition: u16,
    previous: Option<&Scanned>,
) -> Result<SegmentReader<'a>, LogError> {
    let path = file.path.clone();
    let bytes = disk.size(&path)?;
    if bytes < BLOCK {
        return Err(damaged(&path, 0, first, format!("the file is only {bytes} bytes long")));
    }
    let mut block = AlignedBuf::new(BLOCK as usize);
    disk.read(&file, 0, block.bytes_mut())?;
    let header = match SegmentHeader::decode(block.bytes()) {
        HeaderRead::Valid(header) => header,
        HeaderRead::OtherVersion(found) => {
            return Err(LogError::Format { file: path, found, supported: VERSION });
        }
        HeaderRead::Damaged => {
            return Err(damaged(&path, 0, first, "the header of the segment is unreadable".into()));
        }
    };
    if header.partition != partition {
        return Err(LogError::Partition { file: path, found: header.partition, expected: partition });
    }
    if header.first != first {
        let what = format!("the header says that the segment begins with batch {}; was it renamed", header.first);
        return Err(damaged(&path, 0, first, what));
    }
    if header.capacity_bytes != bytes {
        let what = format!("the file is {bytes} bytes long and should be {}", header.capacity_bytes);
        return Err(damaged(&path, bytes.min(header.capacity_bytes), first, what));
    }
    if previous.is_some_and(|previous| previous.header.salt_after(previous.last_crc, first) != header.salt) {
        return Err(damaged(&path, 0, first, "the segment does not belong after the one before it".into()));
    }
    Ok(SegmentReader::new(disk, file, header))
}

/// Follows the records from the beginning of the segment as far as they are good.
fn scan(reader: &mut SegmentReader<'_>, path: &Path) -> Result<Scanned, LogError> {
    let header = reader.header;
    let mut scanned = Scanned { header, end: BLOCK, next: header.first, last_crc: 0 };
    while scanned.end < header.capacity_bytes {
        let Some((head, _)) = reader.record(scanned.end)? else { break };
        if head.position != scanned.next {
            return Err(damaged(path, scanned.end, scanned.next, format!("batch {} is there instead", head.position)));
        }
        scanned.end += head.record_bytes();
        scanned.next = scanned.next.next();
        scanned.last_crc = head.crc;
    }
    Ok(scanned)
}

/// Checks that the next segment goes on exactly where this one ends.
fn check_follows(path: &Path, scanned: &Scanned, next_first: Position) -> Result<(), LogError> {
    if next_first == scanned.next {
        return Ok(());
    }
    let what = if next_first > scanned.next {
        format!("it is unreadable or missing although the next segment begins with batch {next_first}")
    } else {
        format!("this segment overlaps the next, which begins with batch {next_first}")
    };
    Err(damaged(path, scanned.end, scanned.next, what))
}

/// Overwrites an unfinished record with zeros, durably, so that no later crash can bring parts of it back.
fn cut(disk: &Disk, file: &DiskFile, offset: u64, end: u64) -> Result<TornTail, LogError> {
    let zeros = AlignedBuf::new((end - offset).min(READ_BYTES) as usize);
    let mut at = offset;
    while at < end {
        let bytes = (end - at).min(READ_BYTES) as usize;
        disk.write(file, at, &zeros.bytes()[..bytes])?;
        at += bytes as u64;
    }
    tracing::warn!(file = %file.path.display(), offset, bytes = end - offset, "cut off a write that a crash interrupted");
    Ok(TornTail { file: file.path.clone(), offset, bytes_cut: end - offset })
}

/// Removes segments that were being prepared when the process ended.
fn remove_left_over(disk: &Disk, dir: &Path, left_over: &[PathBuf]) -> Result<(), LogError> {
    for path in left_over {
        disk.remove(path)?;
    }
    if !left_over.is_empty() {
        disk.sync_dir(dir)?;
    }
    Ok(())
}

fn damaged(file: &Path, offset: u64, position: Position, what: String) -> LogError {
    LogError::Damaged { file: file.to_owned(), offset, position, what, action: ACTION }
}

/// Reads one segment through a window of whole blocks.
struct SegmentReader<'a> {
    disk: &'a Disk,
    file: DiskFile,
    header: SegmentHeader,
    window: AlignedBuf,
    window_start: u64,
    window_bytes: u64,
}

impl<'a> SegmentReader<'a> {
    fn new(disk: &'a Disk, file: DiskFile, header: SegmentHeader) -> SegmentReader<'a> {
        SegmentReader { disk, file, header, window: AlignedBuf::new(0), window_start: 0, window_bytes: 0 }
    }

    /// Returns the record at `offset`, or `None` if the bytes there are none.
    fn record(&mut self, offset: u64) -> Result<Option<(RecordHead, &[u8])>, LogError> {
        let salt = self.header.salt;
        let room = self.header.capacity_bytes - offset;
        let head = RecordHead::decode(self.at(offset, RECORD_HEAD_BYTES as u64)?);
        if head.position.0 == 0 || head.record_bytes() > room {
            return Ok(None);
        }
        let bytes = self.at(offset, RECORD_HEAD_BYTES as u64 + u64::from(head.length))?;
        let payload = &bytes[RECORD_HEAD_BYTES..];
        Ok(head.matches(salt, payload).then_some((head, payload)))
    }

    /// Looks at what follows the last good record: `None` if it is all zeros, the end of the rest if it is what a
    /// crash leaves behind. It is damage if a good record follows after all, because records are written one after
    /// the other: the unreadable one before it was acknowledged.
    fn unfinished(&mut self, path: &Path, scanned: &Scanned) -> Result<Option<u64>, LogError> {
        let mut end = None;
        let mut offset = scanned.end;
        while offset < self.header.capacity_bytes {
            let block = self.at(offset, BLOCK)?;
            if block != BLOCK_OF_ZEROS {
                end = Some(offset + BLOCK);
                // Each record between takes a block at least. That rules out nearly all payload bytes before any
                // checksum is computed over them.
                let position = RecordHead::decode(block).position.0;
                let possible = scanned.next.0 + 1..=scanned.next.0 + (offset - scanned.end) / BLOCK;
                if possible.contains(&position) && self.record(offset)?.is_some() {
                    let what = format!("it is unreadable although batch {position} follows at byte {offset}");
                    return Err(damaged(path, scanned.end, scanned.next, what));
                }
            }
            offset += BLOCK;
        }
        Ok(end)
    }

    /// Returns `bytes` bytes from `offset` on, which lie inside the segment.
    fn at(&mut self, offset: u64, bytes: u64) -> Result<&[u8], LogError> {
        if offset < self.window_start || offset + bytes > self.window_start + self.window_bytes {
            let start = offset - offset % BLOCK;
            let needed = (offset + bytes - start).next_multiple_of(BLOCK);
            let size = needed.max(READ_BYTES).min(self.header.capacity_bytes - start);
            if (self.window.bytes().len() as u64) < size {
                self.window = AlignedBuf::new(size as usize);
            }
            self.window_bytes = 0;
            self.disk.read(&self.file, start, &mut self.window.bytes_mut()[..size as usize])?;
            (self.window_start, self.window_bytes) = (start, size);
        }
        let begin = (offset - self.window_start) as usize;
        Ok(&self.window.bytes()[begin..begin + bytes as usize])
    }
}
