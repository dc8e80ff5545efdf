//! The life of an open log: append, go on to the next segment, remove what the tables contain.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    LogError, LogOptions, Position, Recovery,
    disk::{AlignedBuf, Disk, DiskFile},
    files::{Files, Held, MachineFiles},
    format::{self, BLOCK, RECORD_HEAD_BYTES, RecordHead, SegmentHeader, record_bytes, segment_name},
    prepare::Preparer,
    recover::{self, Opened},
};

/// Written at once at most: a larger batch goes out in several writes, so that its size does not become the size of a
/// buffer that is kept. The pages of the buffer take memory only once a batch was that large.
const BUFFER_BYTES: usize = 512 << 10;

/// A new log begins this small, because zero-filling a full segment would delay the first start.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// Each segment is this much larger than the one before until the full size is reached: the next one is then ready
/// long before the present one is full.
const SEGMENT_GROWTH: u64 = 8;

/// An open log, held by the one thread that appends to it. Dropping it releases the directory.
#[derive(Debug)]
pub struct Log {
    disk: Disk,
    dir: PathBuf,
    options: LogOptions,
    /// Segments from the oldest to the active one, which is the last; never empty.
    segments: Vec<Segment>,
    active: DiskFile,
    header: SegmentHeader,
    /// Where in the active segment the next record goes.
    offset: u64,
    next: Position,
    /// Checksum of the last record in the active segment, from which the next segment's salt follows.
    last_crc: u32,
    preparer: Preparer,
    buffer: AlignedBuf,
    poisoned: Option<String>,
    /// Keeps other openers out for as long as it is open.
    _lock: Box<dyn Held>,
}

/// One segment file as the directory shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: Position,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// Tells what a log consists of at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    /// Segment files on disk, the active one included.
    pub segments: usize,
    /// Their size in bytes, the unused part of the active one included; the segment being prepared is not.
    pub bytes: u64,
    /// The oldest position that is still on disk; equal to `next` when nothing is.
    pub first: Position,
    /// The position the next batch will get.
    pub next: Position,
}

impl Log {
    /// Opens the log of `partition` in `dir`, or begins a new one if there is none, and returns it with a reader for
    /// the batches from `from` on, which is the position after the last one the caller's tables contain.
    ///
    /// Every acknowledged batch from `from` on is checked before this returns. If the last write was cut short by a
    /// crash, its remains are overwritten with zeros, durably, and reported in [`Recovery::torn_tail`]; nothing else
    /// is ever changed, apart from left-over temporary files. That includes the one kind of damage that cannot be told
    /// from a crash: the very last record having gone bad later. Its loss shows as [`LogError::Behind`] when the
    /// tables already contain it.
    ///
    /// # Errors
    ///
    /// * [`LogError::InUse`]: another process has it open.
    /// * [`LogError::Damaged`], [`LogError::Format`], [`LogError::Partition`]: see there; nothing was changed on disk.
    /// * [`LogError::Gap`], [`LogError::Behind`]: `from` lies before or after what the log has.
    /// * [`LogError::Io`]: the file system refused.
    pub fn open(dir: &Path, partition: u16, options: LogOptions, from: Position) -> Result<(Log, Recovery), LogError> {
        Log::open_in(Arc::new(MachineFiles), dir, partition, options, from)
    }

    /// Like [`Log::open`], in a file system of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Log::open`].
    pub fn open_in(
        files: Arc<dyn Files>,
        dir: &Path,
        partition: u16,
        options: LogOptions,
        from: Position,
    ) -> Result<(Log, Recovery), LogError> {
        let disk = Disk::new(files, options.sync, true);
        Log::open_on(disk, dir, partition, options, from)
    }

    pub(super) fn open_on(
        mut disk: Disk,
        dir: &Path,
        partition: u16,
        options: LogOptions,
        from: Position,
    ) -> Result<(Log, Recovery), LogError> {
        disk.make_dir(dir)?;
        let lock = disk.lock(dir)?;
        let preparer = Preparer::new(disk.clone(), dir, options.prepare);
        let Some(opened) = recover::open(&disk, dir, partition, from)? else {
            return Log::begin(disk, dir, partition, options, from, lock, preparer);
        };
        let Opened { segments, active, header, offset, next, last_crc, recovery } = opened;
        let log = Log {
            disk,
            dir: dir.to_owned(),
            options,
            segments,
            active,
            header,
            offset,
            next,
            last_crc,
            preparer,
            buffer: AlignedBuf::new(BUFFER_BYTES),
            poisoned: None,
            _lock: lock,
        };
        Ok((log, recovery))
    }

    /// Begins a log in a directory that has none.
    fn begin(
        disk: Disk,
        dir: &Path,
        partition: u16,
        options: LogOptions,
        from: Position,
        lock: Box<dyn Held>,
        mut preparer: Preparer,
    ) -> Result<(Log, Recovery), LogError> {
        if from > Position::FIRST {
            return Err(LogError::Behind { log: dir.display().to_string(), wanted: from, next: Position::FIRST });
        }
        let planned_bytes = segment_bytes(&options).min(FIRST_SEGMENT_BYTES);
        let (mut file, capacity_bytes) = preparer.take(planned_bytes, planned_bytes)?;
        let header = SegmentHeader {
            partition,
            first: Position::FIRST,
            capacity_bytes,
            salt: format::first_salt(options.salt_seed, partition),
        };
        let mut buffer = AlignedBuf::new(BUFFER_BYTES);
        let segment = install(&disk, dir, &mut file, &header, &mut buffer)?;
        let log = Log {
            disk: disk.clone(),
            dir: dir.to_owned(),
            options,
            segments: vec![segment],
            active: file,
            header,
            offset: BLOCK,
            next: Position::FIRST,
            last_crc: 0,
            preparer,
            buffer,
            poisoned: None,
            _lock: lock,
        };
        Ok((log, Recovery::of_new_log(disk)))
    }

    /// Appends one batch, the concatenation of `parts`, and returns its position. The batch is durable when this
    /// returns (see [`SyncMode`](super::SyncMode)).
    ///
    /// # Errors
    ///
    /// * [`LogError::TooLarge`]: the batch exceeds the limit; nothing was written, go on.
    /// * [`LogError::Io`]: a write or sync failed. The batch may or may not be found by the next [`Log::open`]; this
    ///   log takes no more.
    /// * [`LogError::Poisoned`]: it took no more already.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        self.check_not_poisoned()?;
        let bytes = parts.iter().map(|part| part.len()).sum();
        let bytes_max = self.options.batch_bytes_max.min(u32::MAX as usize - RECORD_HEAD_BYTES);
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        let written = self.write_record(parts, bytes as u32);
        self.poison_on_error(written)
    }

    /// Removes the oldest segments as far as all their batches are at or before `position`, which the tables contain
    /// durably. The active segment stays. The removal is durable when this returns; calling it again is harmless.
    /// Returns how many segments were removed.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`] when the file system refuses, after which the log is poisoned; [`LogError::Poisoned`] if it
    /// was.
    pub fn remove_up_to(&mut self, position: Position) -> Result<usize, LogError> {
        self.check_not_poisoned()?;
        // A segment ends before the next one begins; the active one has no next, so it is never counted.
        let obsolete = self.segments.windows(2).take_while(|pair| pair[1].first.0 - 1 <= position.0).count();
        if obsolete == 0 {
            return Ok(0);
        }
        let removed = self.remove_segments(obsolete);
        self.poison_on_error(removed)
    }

    /// Tells how large the log is and where it stands.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        LogStats {
            segments: self.segments.len(),
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
            first: self.segments[0].first,
            next: self.next,
        }
    }

    fn write_record(&mut self, parts: &[&[u8]], length: u32) -> Result<Position, LogError> {
        let record_bytes = record_bytes(u64::from(length));
        if self.header.capacity_bytes - self.offset < record_bytes {
            self.next_segment(record_bytes)?;
        }
        // With every batch, because a log may be opened in the middle of a segment; it does nothing while one is ready.
        self.preparer.start(self.planned_bytes());
        let head = RecordHead::of(self.header.salt, self.next, length, parts);
        let encoded = head.encode();
        let mut filled = 0;
        let mut offset = self.offset;
        for mut part in std::iter::once(&encoded[..]).chain(parts.iter().copied()) {
            while !part.is_empty() {
                if filled == BUFFER_BYTES {
                    self.disk.write(&self.active, offset, self.buffer.bytes())?;
                    offset += BUFFER_BYTES as u64;
                    filled = 0;
                }
                let (now, later) = part.split_at(part.len().min(BUFFER_BYTES - filled));
                self.buffer.bytes_mut()[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                part = later;
            }
        }
        let padded = filled.next_multiple_of(BLOCK as usize);
        self.buffer.bytes_mut()[filled..padded].fill(0);
        self.disk.write(&self.active, offset, &self.buffer.bytes()[..padded])?;
        assert_eq!(offset + padded as u64, self.offset + record_bytes, "a record fills exactly its blocks");

        let position = self.next;
        self.offset += record_bytes;
        self.next = position.next();
        self.last_crc = head.crc;
        Ok(position)
    }

    /// Makes a segment active that has room for a record of this size. An active segment that is still empty is
    /// replaced, because the new one would have the same first position and so the same name.
    fn next_segment(&mut self, record_bytes: u64) -> Result<(), LogError> {
        let empty = self.offset == BLOCK;
        let (mut file, capacity_bytes) = self.preparer.take(BLOCK + record_bytes, self.planned_bytes())?;
        let salt = if empty { self.header.salt } else { self.header.salt_after(self.last_crc, self.next) };
        let header = SegmentHeader { partition: self.header.partition, first: self.next, capacity_bytes, salt };
        let segment = install(&self.disk, &self.dir, &mut file, &header, &mut self.buffer)?;
        if empty {
            self.segments.pop();
        }
        self.segments.push(segment);
        self.active = file;
        self.header = header;
        self.offset = BLOCK;
        Ok(())
    }

    fn planned_bytes(&self) -> u64 {
        segment_bytes(&self.options).min(self.header.capacity_bytes.saturating_mul(SEGMENT_GROWTH))
    }

    fn remove_segments(&mut self, count: usize) -> Result<usize, LogError> {
        // Oldest first. Should a crash keep some of these removals and forget others, the survivors lie before what
        // the tables contain, and recovery does not look at them.
        for segment in self.segments.drain(..count) {
            self.disk.remove(&segment.path)?;
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(count)
    }

    fn check_not_poisoned(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn poison_on_error<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
        }
        result
    }
}

/// Turns a zeroed file into the active segment. The header is durable before the file gets a segment's name, and the
/// name is durable before any record is: a segment without a good header is therefore damage, never a crash.
fn install(
    disk: &Disk,
    dir: &Path,
    file: &mut DiskFile,
    header: &SegmentHeader,
    buffer: &mut AlignedBuf,
) -> Result<Segment, LogError> {
    let block = &mut buffer.bytes_mut()[..BLOCK as usize];
    let encoded = header.encode();
    block.fill(0);
    block[..encoded.len()].copy_from_slice(&encoded);
    disk.write(file, 0, block)?;
    disk.rename(file, dir.join(segment_name(header.first)))?;
    disk.sync_dir(dir)?;
    Ok(Segment { first: header.first, path: file.path.clone(), bytes: header.capacity_bytes })
}

/// Returns the size of a full segment: whole blocks, at least the header and one record.
fn segment_bytes(options: &LogOptions) -> u64 {
    options.segment_bytes.max(2 * BLOCK).next_multiple_of(BLOCK)
}
