//! What a bus can do: named streams, read by groups of consumers. Each stream has partitions; the ordering key of an
//! entry chooses one, and a partition has one consumer of a group at a time, so that entries of one key stay in order
//! while consumers are added.
//!
//! Whoever implements this is held to `conformance`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Bytes of a stream's, a group's or a consumer's name.
pub const NAME_BYTES_MAX: usize = 200;
/// Bytes of an entry's id.
pub const ID_BYTES_MAX: usize = 200;
/// Bytes of an entry's ordering key. A session's fits.
pub const KEY_BYTES_MAX: usize = 1_000;
/// Bytes of an entry's body.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Entries published or taken by one call.
pub const ENTRIES_MAX: usize = 1_000;

/// What the names of streams for entries that were given up begin with.
pub const DEAD_PREFIX: &str = "dlq.";

/// From this delivery on an entry is handed out alone of its partition. Of entries that are lost together with their
/// consumer again and again, only the one that is to blame should be given up.
pub const ALONE_FROM: u32 = 3;

/// A bus: named streams read by groups. Entries of one ordering key stay in order; each is handed out until it is
/// acknowledged. Repeats are normal: after a lost answer, a crash, or a hand-over an entry comes again, with its id.
pub trait Bus: Send + Sync {
    /// Adds entries in the order given. All of them are kept when it returns; if it fails, some may be, and publishing
    /// them again under the same ids is right.
    fn publish<'a>(&'a self, stream: &'a str, entries: Vec<NewEntry>) -> BoxFuture<'a, Result<Vec<EntryId>, BusError>>;

    /// Takes up to `max` entries, those handed out in vain before first; waits up to `wait` if there are none. From its
    /// [`ALONE_FROM`]th delivery on an entry comes alone, and what is behind it waits until it is acknowledged.
    ///
    /// Makes the consumer a member of the group: it holds a fair share of the partitions for as long as it takes or
    /// acknowledges now and then. With `max` 0 it takes nothing and keeps what it holds, with the entries it was handed,
    /// for whoever needs longer.
    fn take<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        max: usize,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Entry>, BusError>>;

    /// Acknowledges entries: they are not handed out to the group again. Late and repeated acknowledgements are harmless.
    fn ack<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        ids: &'a [EntryId],
    ) -> BoxFuture<'a, Result<(), BusError>>;

    /// Puts an entry into the stream `dlq.{stream}` with the reason, and acknowledges it.
    fn dead_letter<'a>(
        &'a self,
        stream: &'a str,
        group: &'a str,
        consumer: &'a str,
        entry: &'a Entry,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), BusError>>;

    /// Leaves the group: what the consumer holds goes to the others at once, with the entries it has not acknowledged.
    fn leave<'a>(&'a self, stream: &'a str, group: &'a str, consumer: &'a str) -> BoxFuture<'a, Result<(), BusError>>;

    /// How far each group is behind, one line per group and partition. May lag a little.
    fn lag<'a>(&'a self, stream: &'a str) -> BoxFuture<'a, Result<Vec<GroupLag>, BusError>>;

    /// How much of what was published at places need not be remembered any more by whoever published it. A bus that
    /// keeps what it is given says that all of it is settled.
    fn settled<'a>(&'a self, stream: &'a str) -> BoxFuture<'a, Result<Settled, BusError>> {
        let _ = stream;
        Box::pin(async { Ok(Settled::All) })
    }
}

/// How much of a stream is settled: read and acknowledged by every group, or kept as safely as the log keeps things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// All that was published.
    All,
    /// What was published at a number below this one.
    Below(u64),
    /// The bus has lost entries since they were published: it was flushed, or failed over to one that had less. What
    /// is not settled has to be published again.
    Lost,
}

/// An entry to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Its id, the envelope's: published again under it, it is the same entry.
    pub id: String,
    /// Its ordering key, the session's.
    pub key: String,
    /// What it says.
    pub body: Bytes,
    /// Its place, if whoever publishes can tell: milliseconds since the Unix epoch, and a number that grows. Places of
    /// one stream are published in growing order, and the same entry always at the same. A bus that knows entries by
    /// their ids has no need of it.
    pub place: Option<(u64, u64)>,
}

/// An entry handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, for acknowledging it.
    pub entry: EntryId,
    /// The id it was published with. Of one that was added by another program without an id, its place in the stream.
    pub id: String,
    /// Its ordering key. Empty if another program added it without one.
    pub key: String,
    /// What it says.
    pub body: Bytes,
    /// Which time it is handed out, counted from 1.
    pub deliveries: u32,
}

/// Where an entry is in a stream. Opaque: only the bus that gave it reads it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub String);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupLag {
    /// Which group.
    pub group: String,
    /// Which partition.
    pub partition: u32,
    /// Entries not handed out yet.
    pub backlog: u64,
    /// Entries handed out and not acknowledged.
    pub pending: u64,
    /// When the oldest entry that is not acknowledged was published, in milliseconds since the Unix epoch.
    pub oldest_at_ms: Option<u64>,
    /// Which consumer holds the partition.
    pub held_by: Option<String>,
}

/// A call of a bus that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The bus can't be reached, or can't do it at the moment: trying again later is right.
    #[error("the bus is away: {cause}")]
    Away {
        /// What it said, and what to do about it.
        cause: String,
    },
    /// So much waits in the stream that no more is taken.
    #[error(
        "stream {stream:?} is full: {max} entries wait: let its groups catch up, or remove a group that nobody reads for"
    )]
    Full {
        /// Which stream.
        stream: String,
        /// How many may wait.
        max: u64,
    },
    /// The stream has lost entries since they were published at places: nothing was added. What is not settled has to be
    /// published again, from the first on.
    #[error("stream {stream:?} has lost entries: publish again what is not settled")]
    Lost {
        /// Which stream.
        stream: String,
    },
    /// It can't be done, now or later.
    #[error("{what}: {action}")]
    Refused {
        /// What is wrong.
        what: String,
        /// What to change.
        action: String,
    },
    /// The process is shutting down.
    #[error("the process is shutting down")]
    ShuttingDown,
}

impl BusError {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, BusError::Away { .. } | BusError::Full { .. } | BusError::Lost { .. })
    }

    /// A refusal for good.
    pub fn refused(what: impl Into<String>, action: impl Into<String>) -> Self {
        BusError::Refused { what: what.into(), action: action.into() }
    }
}

/// The partition an ordering key belongs to: its CRC-32C (Castagnoli, as in iSCSI), modulo the number of partitions.
/// Programs that add entries by themselves choose the same, so it never changes.
pub fn partition_of(key: &str, partitions: u32) -> u32 {
    crc32c::crc32c(key.as_bytes()) % partitions.max(1)
}

/// Checks what is published against the limits.
///
/// # Errors
/// [`BusError::Refused`] names the entry and the limit.
pub fn check_entries(entries: &[NewEntry]) -> Result<(), BusError> {
    if entries.len() > ENTRIES_MAX {
        let what = format!("{} entries are published at once, at most {ENTRIES_MAX}", entries.len());
        return Err(BusError::refused(what, "publish them in several calls"));
    }
    for NewEntry { id, key, body, .. } in entries {
        if !(1..=ID_BYTES_MAX).contains(&id.len()) || key.len() > KEY_BYTES_MAX {
            let what = format!("an entry's id has {} bytes and its key {}", id.len(), key.len());
            return Err(BusError::refused(
                what,
                format!("use 1 to {ID_BYTES_MAX} for the id, at most {KEY_BYTES_MAX} for the key"),
            ));
        }
        if body.len() > BODY_BYTES_MAX {
            let what = format!("entry {id:?} has {} bytes, at most {BODY_BYTES_MAX}", body.len());
            return Err(BusError::refused(what, "keep the content elsewhere and publish where it is"));
        }
    }
    Ok(())
}

/// Checks the name of a stream, a group or a consumer.
///
/// # Errors
/// [`BusError::Refused`] says what is wrong with it.
pub fn check_name(what: &str, name: &str) -> Result<(), BusError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if fits && !name.chars().any(|c| c.is_whitespace() || c.is_control() || "{}/*?[]".contains(c)) {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    let action = format!("use 1 to {NAME_BYTES_MAX} bytes without spaces and without {{ }} / * ? [ ]");
    Err(BusError::refused(format!("{shown:?} can't be the name of a {what}"), action))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other programs compute the same: these values are a promise.
    #[test]
    fn a_key_keeps_its_partition() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        let chosen = ["orders:anna:web", "orders:ben:web", ""].map(|key| partition_of(key, 8));
        assert_eq!(chosen, [7, 6, 0], "as examples/redis/gateway.py chooses");
        assert_eq!(partition_of("anything", 0), 0);
    }

    #[test]
    fn names_that_would_reach_another_stream_are_refused() {
        for bad in ["", "a b", "a*", "a{b}", "a\n", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(matches!(check_name("stream", bad), Err(BusError::Refused { .. })), "{bad:?}");
        }
        assert_eq!(check_name("stream", "channel:inbound:acme"), Ok(()));
    }
}
