//! The rows of streams: what they are, what is in them, and how far each group has come.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Row;
use crate::id::Ms;
use crate::stream::Place;

/// A stream with one number of partitions. Another number begins another generation, which a group reads once it is done
/// with the one before: so entries of one ordering key stay in order while the number changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Counted from 0.
    pub number: u32,
    /// How many partitions it has.
    pub partitions: u16,
    /// When it began.
    pub since: Ms,
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// What stands for its name in the keys of its rows. Never used for another stream of the tenant.
    pub number: u32,
    /// Its generations, oldest first. The last is the one that is published to.
    pub generations: Vec<Generation>,
    /// Milliseconds entries are kept, and longer while a group has not acknowledged them.
    pub keep_ms: u64,
    /// Entries the slowest group may have left before publishing is refused.
    pub waiting_max: u64,
    /// Bytes of them.
    pub waiting_bytes_max: u64,
    /// How often an entry is handed out before it goes to the dead letters.
    pub deliveries_max: u32,
    /// When it was created.
    pub created_at: Ms,
}

impl Row for StreamRow {}

/// A partition of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamPartRow {
    /// The number the next entry gets.
    pub next: u64,
    /// Bytes of all entries so far.
    pub bytes: u64,
    /// How many of these were before some of the entries: number and bytes, in order. A few, by which what waits is
    /// estimated without looking at it.
    pub trail: Vec<(u64, u64)>,
}

impl Row for StreamPartRow {}

impl StreamPartRow {
    /// Places of its trail.
    const TRAIL_MAX: usize = 16;

    /// About how many bytes the entries from `floor` on have: as if between two places of the trail all were of one size.
    pub fn bytes_from(&self, floor: u64) -> u64 {
        if floor >= self.next {
            return 0;
        }
        let at = self.trail.partition_point(|(seq, _)| *seq <= floor);
        let (from, before) = at.checked_sub(1).map_or((0, 0), |at| self.trail[at]);
        let (to, until) = self.trail.get(at).copied().unwrap_or((self.next, self.bytes));
        let part = u128::from(until - before) * u128::from(floor - from) / u128::from((to - from).max(1));
        self.bytes - before - part as u64
    }

    /// Leaves a mark where it stands, and forgets those that are only of entries before `floor`.
    pub fn mark(&mut self, floor: u64) {
        let passed = self.trail.partition_point(|(seq, _)| *seq <= floor);
        self.trail.drain(..passed.saturating_sub(1));
        if self.trail.last().is_none_or(|(seq, _)| *seq < self.next) {
            self.trail.push((self.next, self.bytes));
        }
        if self.trail.len() > StreamPartRow::TRAIL_MAX {
            let mut nth = 0;
            self.trail.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
    }
}

/// Where a dead letter comes from, and why it is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The group that gave it up.
    pub group: String,
    /// Where it is in its own stream.
    pub place: Place,
    /// How often it was handed out.
    pub deliveries: u32,
    /// Why it was given up.
    pub reason: String,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntryRow {
    /// When it was published.
    pub at: Ms,
    /// What it stays in order with.
    pub key: Option<String>,
    /// The publisher's own id for it.
    pub id: Option<String>,
    /// What it says.
    pub body: Bytes,
    /// Of a dead letter: where it comes from.
    pub dead: Option<DeadLetter>,
}

impl Row for StreamEntryRow {}

/// Where the entry with a publisher's id is. Kept as long as the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntryIdRow {
    /// Where.
    pub place: Place,
}

impl Row for StreamEntryIdRow {}

/// A group of consumers, each entry being for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamGroupRow {
    /// The generation it reads: it has acknowledged all of those before.
    pub generation: u32,
    /// When it was created.
    pub created_at: Ms,
    /// When a consumer of it was last heard of, to within ten minutes.
    pub seen_at: Ms,
}

impl Row for StreamGroupRow {}

/// How far a group has come in a partition of the generation it reads. No row is the same as an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamProgressRow {
    /// All before this number is acknowledged.
    pub floor: u64,
    /// What is acknowledged beyond it: first number, and the number after the last. In order, and never touching.
    pub above: Vec<(u64, u64)>,
    /// How often entries were handed out, for those that were more than once and are not acknowledged.
    pub deliveries: BTreeMap<u64, u32>,
}

impl Row for StreamProgressRow {}

impl StreamProgressRow {
    /// Whether an entry is acknowledged.
    pub fn has(&self, seq: u64) -> bool {
        seq < self.floor || self.above.iter().any(|(from, to)| (*from..*to).contains(&seq))
    }

    /// How many entries from the floor to `end` are acknowledged.
    pub fn acknowledged_before(&self, end: u64) -> u64 {
        self.above.iter().map(|(from, to)| (*to).min(end).saturating_sub(*from)).sum()
    }

    /// How many of the first `next` entries are not acknowledged.
    pub fn waiting(&self, next: u64) -> u64 {
        next.saturating_sub(self.floor) - self.acknowledged_before(next)
    }

    /// Acknowledges entries from one number to before another. Answers how many were not acknowledged already.
    pub fn acknowledge(&mut self, from: u64, to: u64) -> u64 {
        let from = from.max(self.floor);
        if from >= to {
            return 0;
        }
        let (mut start, mut end, mut known) = (from, to, 0);
        let mut kept = Vec::with_capacity(self.above.len() + 1);
        for (a, b) in core::mem::take(&mut self.above) {
            if b < start || a > end {
                kept.push((a, b));
                continue;
            }
            known += b.min(to).saturating_sub(a.max(from));
            (start, end) = (start.min(a), end.max(b));
        }
        let at = kept.partition_point(|(a, _)| *a < start);
        kept.insert(at, (start, end));
        if kept[0].0 <= self.floor {
            self.floor = kept.remove(0).1;
        }
        self.above = kept;
        let floor = self.floor;
        self.deliveries.retain(|seq, _| *seq >= floor && !(start..end).contains(seq));
        to - from - known
    }
}
