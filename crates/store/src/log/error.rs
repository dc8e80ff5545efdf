//! What can go wrong with a log, each as one sentence that says what to do.

use std::{io, path::PathBuf};

use super::Position;

/// Says why the log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused a file operation: the disk is full, failing or not ours to write.
    #[error("could not {op} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory it was attempted on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// Another process, or another `Log` of this one, has the directory open. Stop it first.
    #[error("the log in {} is in use by another process; stop that one first", dir.display())]
    InUse {
        /// The directory of the log.
        dir: PathBuf,
    },

    /// The batch is larger than the limit; nothing was written and the log remains usable.
    #[error("a batch of {bytes} bytes is larger than the limit of {bytes_max}; split it or raise the limit")]
    TooLarge {
        /// Size of the refused batch.
        bytes: usize,
        /// The limit, from `LogOptions::batch_bytes_max`.
        bytes_max: usize,
    },

    /// An earlier write or sync failed, so what is on disk is not known until the log is opened again. A failed sync is
    /// never repeated: the kernel may have dropped the pages and would report success.
    #[error("the log takes no more batches after an earlier failure ({cause}); repair that and start again")]
    Poisoned {
        /// The first failure, in words.
        cause: String,
    },

    /// Whether the batch was appended could not be told. Nobody may be answered before [`crate::PartitionLog::settle`]
    /// has said.
    #[error("it is not known whether the last batch was appended: {cause}")]
    Unknown {
        /// What cut the answer off.
        cause: String,
    },

    /// Another process owns the partition now. Whatever this one still wants to append is refused.
    #[error("another process has taken the partition over; this one must not go on with it")]
    Fenced,

    /// What keeps the log refuses, and will go on refusing until somebody has mended it. The batch was not appended.
    #[error("{log} can't be used: {cause}")]
    Unusable {
        /// Which log.
        log: String,
        /// What was said, and what to do.
        cause: String,
    },

    /// Acknowledged batches are unreadable or missing. Nothing was changed on disk.
    #[error("{} is damaged at byte {offset}, where batch {position} was looked for: {what}; {action}", file.display())]
    Damaged {
        /// The segment file.
        file: PathBuf,
        /// Where in that file, in bytes.
        offset: u64,
        /// The position that was expected there.
        position: Position,
        /// What was found instead.
        what: String,
        /// What the operator should do.
        action: &'static str,
    },

    /// The segment was written by a newer version of this program. Run that version.
    #[error("{} has log format version {found}, this program reads version {supported}; run the newer program", file.display())]
    Format {
        /// The segment file.
        file: PathBuf,
        /// The version found in its header.
        found: u8,
        /// The version this program writes and reads.
        supported: u8,
    },

    /// The segment belongs to another partition: the directory is not the right one, or files were mixed up.
    #[error("{} belongs to partition {found}, not to partition {expected}; give each partition its own directory", file.display())]
    Partition {
        /// The segment file.
        file: PathBuf,
        /// The partition named in its header.
        found: u16,
        /// The partition that was to be opened.
        expected: u16,
    },

    /// The tables want a batch that was already removed from the log: the tables are older than the log allows.
    #[error("batch {wanted} is wanted but {log} begins with batch {first}; restore tables and log from one backup")]
    Gap {
        /// Which log: its directory, or what it is called elsewhere.
        log: String,
        /// The first position the caller asked for.
        wanted: Position,
        /// The first position on disk.
        first: Position,
    },

    /// The tables contain batches that the log does not have: the log is older than the tables, or lost its end.
    #[error("batch {wanted} is wanted but {log} ends before batch {next}; restore tables and log from one backup")]
    Behind {
        /// Which log: its directory, or what it is called elsewhere.
        log: String,
        /// The first position the caller asked for.
        wanted: Position,
        /// The position the log would assign next.
        next: Position,
    },
}
