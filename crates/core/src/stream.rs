//! Streams: entries published under a name, kept in order, and read by groups until each has acknowledged them.
//!
//! A stream has partitions; the ordering key of an entry chooses one, and within it entries have numbers. Entries are
//! not resident: what is kept in memory is the next number of each partition, how far each group has come in it
//! (`group.rs`), and for a while the ids that were published lately. So memory does not grow with what waits to be read.

pub(crate) mod group;
pub mod view;

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{Fact, Facts, Need};
use crate::effect::Effect;
use crate::id::Ms;
use crate::machine::Step;
use crate::reply::{Refusal, Reply};
use crate::row::{
    self, DeadLetter, Generation, StreamEntryIdRow, StreamEntryRow, StreamGroupRow, StreamPartRow, StreamProgressRow,
    StreamRow,
};
use crate::timer::TimerKey;
use crate::write::Table;

/// Ids forgotten by one timer, so that a tick stays short.
const FORGOTTEN_PER_TIMER_MAX: usize = 1_024;
/// Generations one stream may have at once.
const GENERATIONS_MAX: usize = 16;

/// Partitions of a stream nobody has said anything about.
pub const PARTITIONS_DEFAULT: u16 = 8;
/// Milliseconds for which entries are kept if nothing is said: a day.
pub const KEEP_MS_DEFAULT: u64 = 24 * 60 * 60 * 1_000;
/// Entries that may wait for the slowest group if nothing is said.
pub const WAITING_MAX_DEFAULT: u64 = 1_000_000;
/// Bytes of entries that may wait for the slowest group if nothing is said.
pub const WAITING_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;
/// How often an entry is handed out if nothing is said.
pub const DELIVERIES_MAX_DEFAULT: u32 = 5;
/// What the name of a stream's dead letters begins with.
pub const DEAD_LETTERS: &str = "dlq.";
/// Milliseconds for which dead letters are kept if nothing is said: thirty days, as finished runs.
pub const DEAD_KEEP_MS_DEFAULT: u64 = 30 * KEEP_MS_DEFAULT;

/// Where an entry is in its stream. Written `generation-partition-number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// In which generation of partitions.
    pub generation: u32,
    /// In which partition.
    pub partition: u16,
    /// Its number there, counted from 0.
    pub seq: u64,
}

/// The text given is not a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the place of an entry: expected three numbers, like 0-3-17")]
pub struct NotAPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.generation, self.partition, self.seq)
    }
}

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let mut parts = text.split('-');
        let mut next = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())).ok_or(NotAPlace);
        let place = Place {
            generation: next()?.parse().map_err(|_| NotAPlace)?,
            partition: next()?.parse().map_err(|_| NotAPlace)?,
            seq: next()?.parse().map_err(|_| NotAPlace)?,
        };
        if parts.next().is_none() { Ok(place) } else { Err(NotAPlace) }
    }
}

/// Entries that follow each other in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// In which generation.
    pub generation: u32,
    /// In which partition.
    pub partition: u16,
    /// The first.
    pub from: u64,
    /// The number after the last.
    pub to: u64,
}

impl Span {
    /// The one entry at a place.
    pub fn of(place: Place) -> Self {
        let Place { generation, partition, seq } = place;
        Span { generation, partition, from: seq, to: seq.saturating_add(1) }
    }
}

/// An entry to publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEntry {
    /// What it stays in order with. One without may go to any partition.
    pub key: Option<String>,
    /// The publisher's own id: published again under it, it is the same entry, for as long as that is kept.
    pub id: Option<String>,
    /// What it says.
    pub body: Bytes,
}

/// An entry that is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where it is.
    pub place: Place,
    /// What it is, as it was read there.
    pub entry: NewEntry,
    /// How often it was handed out.
    pub deliveries: u32,
    /// Why it is given up.
    pub reason: String,
}

/// What may be changed of a stream. `None` leaves it as it is, or takes the default for one that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSettings {
    /// How many partitions it has from now on.
    pub partitions: Option<u16>,
    /// Milliseconds entries are kept.
    pub keep_ms: Option<u64>,
    /// Entries the slowest group may have left before publishing is refused.
    pub waiting_max: Option<u64>,
    /// Bytes of them.
    pub waiting_bytes_max: Option<u64>,
    /// How often an entry is handed out before it is given up.
    pub deliveries_max: Option<u32>,
}

/// What may be asked of a stream. One that does not exist is created by whoever publishes to it or takes from it first.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamAsk {
    /// Creates it, or changes what is said. Repeating it changes nothing.
    Put(StreamSettings),
    /// Adds entries, in the order given: all of them, or none.
    Publish(Vec<NewEntry>),
    /// Hands entries out to a consumer, and makes it a member of its group for as long as its lease lasts.
    Take {
        /// The group. A new one begins with the oldest entry that is kept.
        group: String,
        /// The consumer.
        consumer: String,
        /// How many at most. 0 only keeps what the consumer holds.
        max: u32,
        /// How long it holds its partitions without being heard of, in milliseconds.
        lease_ms: u64,
        /// A new group begins with what is published from now on.
        from_now: bool,
        /// The consumer has nothing in hand: what was handed to it and is not settled never arrived, or was lost with it.
        again: bool,
    },
    /// Acknowledges entries. Late and repeated acknowledgements change nothing that matters.
    Acknowledge {
        /// The group.
        group: String,
        /// The consumer. Its lease begins anew.
        consumer: String,
        /// Which entries.
        spans: Vec<Span>,
    },
    /// Gives entries back. Each is handed out again after a time, and its partition waits for it, so that order is kept.
    /// Not recorded; what was given back before a restart comes again at once.
    GiveBack {
        /// The group.
        group: String,
        /// The consumer. Only what it has in hand is given back.
        consumer: String,
        /// Which entries.
        places: Vec<Place>,
        /// Why.
        reason: String,
        /// After how many milliseconds they are handed out again.
        after_ms: u64,
        /// The consumer never saw them: that they were handed out does not count.
        unseen: bool,
    },
    /// Puts entries into the stream of dead letters, and acknowledges them. Those acknowledged already are left out.
    GiveUp {
        /// The group.
        group: String,
        /// The consumer.
        consumer: String,
        /// Which entries, with what they say.
        letters: Vec<Letter>,
    },
    /// A consumer leaves its group: others get what it holds at once. Not recorded.
    Leave {
        /// The group.
        group: String,
        /// The consumer.
        consumer: String,
    },
    /// Forgets a group. What it has not acknowledged is not kept for it any more.
    DropGroup {
        /// The group.
        group: String,
    },
    /// Asks how it stands. Records nothing.
    Look,
}

/// What a stream answers.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamReply {
    /// Where each entry is, in the order they were given, and whether it was published before.
    Published(Vec<(Place, bool)>),
    /// What was handed out.
    Taken(Taken),
    /// How streams stand.
    Views(Vec<view::StreamView>),
}

/// What was handed out. The entries are in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// What stands for the stream in the keys of its rows.
    pub number: u32,
    /// Which entries, and which time they are handed out, counted from 1.
    pub given: Vec<(Span, u32)>,
    /// Entries that were handed out as often as may be. Whoever reads them for the consumer gives them up.
    pub exhausted: Vec<(Place, u32, String)>,
    /// After how many milliseconds there may be more without anything being published.
    pub again_after_ms: Option<u64>,
}

/// A live stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) row: StreamRow,
    /// The partitions that have entries, by generation and partition.
    pub(crate) parts: BTreeMap<(u32, u16), StreamPartRow>,
    pub(crate) groups: BTreeMap<String, Group>,
}

/// How far a group has come.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) row: StreamGroupRow,
    /// By partition of the generation it reads. One that is not here has acknowledged nothing.
    pub(crate) progress: BTreeMap<u16, StreamProgressRow>,
}

impl Stream {
    /// The generation that is published to.
    pub(crate) fn newest(&self) -> Generation {
        self.row.generations.last().copied().unwrap_or_else(|| unreachable!("a stream has at least one generation"))
    }

    pub(crate) fn generation(&self, number: u32) -> Option<Generation> {
        self.row.generations.iter().find(|generation| generation.number == number).copied()
    }

    pub(crate) fn next_of(&self, generation: u32, partition: u16) -> u64 {
        self.parts.get(&(generation, partition)).map_or(0, |part| part.next)
    }

    /// The first entry of a partition that a group has not acknowledged.
    fn floor_of(group: &Group, generation: u32, partition: u16) -> u64 {
        if generation > group.row.generation {
            return 0;
        }
        if generation < group.row.generation {
            return u64::MAX;
        }
        group.progress.get(&partition).map_or(0, |progress| progress.floor)
    }

    /// Entries a group has not acknowledged.
    pub(crate) fn waiting(&self, group: &Group) -> u64 {
        let of = |((generation, partition), part): (&(u32, u16), &StreamPartRow)| {
            if *generation > group.row.generation {
                return part.next;
            }
            group.progress.get(partition).map_or(part.next, |progress| progress.waiting(part.next))
        };
        self.parts.range((group.row.generation, 0)..).map(of).sum()
    }

    /// About how many bytes these have.
    pub(crate) fn waiting_bytes(&self, group: &Group) -> u64 {
        let parts = self.parts.range((group.row.generation, 0)..);
        parts.map(|((of, nth), part)| part.bytes_from(Stream::floor_of(group, *of, *nth))).sum()
    }

    /// Whether a group has so much left that no more may be published.
    fn full(&self, name: &str, fresh: (u64, u64)) -> Option<Refusal> {
        self.groups.iter().find_map(|(group_name, group)| {
            let entries = (self.waiting(group), fresh.0, self.row.waiting_max, "entries");
            let bytes = (self.waiting_bytes(group), fresh.1, self.row.waiting_bytes_max, "bytes");
            let (waiting, _, max, unit) =
                [entries, bytes].into_iter().find(|(waiting, fresh, max, _)| waiting + fresh > *max)?;
            let (stream, group) = (name.to_owned(), group_name.clone());
            Some(Refusal::StreamFull { stream, group, waiting, max, unit })
        })
    }
}

/// The partition an ordering key belongs to: its CRC-32C (Castagnoli, as in iSCSI), modulo the number of partitions.
/// Programs that add entries elsewhere choose the same, so it never changes.
pub fn partition_of(key: &str, partitions: u16) -> u16 {
    (crc32c(key.as_bytes()) % u32::from(partitions.max(1))) as u16
}

/// Small, as keys are; bodies are never summed here.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// An id that was published lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMark {
    place: Place,
    /// When it may be forgotten.
    until: Ms,
}

/// Ids that were published lately, by the number of their stream.
pub(crate) type IdMarks = BTreeMap<u32, BTreeMap<Arc<str>, IdMark>>;

impl crate::tenant::Tenant {
    fn entry_mark(&self, stream: u32, id: &str) -> Option<&IdMark> {
        self.entry_marks.get(&stream)?.get(id)
    }

    /// What has to be known for a command to a stream and is not resident.
    pub(crate) fn stream_needs(&self, name: &str, ask: &StreamAsk) -> Vec<Need> {
        let Some(stream) = self.streams.get(name) else { return Vec::new() };
        let number = stream.row.number;
        match ask {
            StreamAsk::Publish(entries) => {
                let ids = entries.iter().filter_map(|entry| entry.id.as_deref());
                let unknown = ids.filter(|id| self.entry_mark(number, id).is_none());
                unknown.map(|id| Need::StreamEntryId(number, id.to_owned())).collect()
            }
            StreamAsk::Take { group, from_now: false, .. } if !stream.groups.contains_key(group) => {
                Vec::from([Need::StreamOldest(number)])
            }
            StreamAsk::Put(_)
            | StreamAsk::Take { .. }
            | StreamAsk::Acknowledge { .. }
            | StreamAsk::GiveBack { .. }
            | StreamAsk::GiveUp { .. }
            | StreamAsk::Leave { .. }
            | StreamAsk::DropGroup { .. }
            | StreamAsk::Look => Vec::new(),
        }
    }
}

impl Step<'_> {
    pub(crate) fn ask_stream(&mut self, name: &str, ask: StreamAsk, facts: &Facts) -> Result<Reply, Refusal> {
        self.check_label("the stream's name", name)?;
        match ask {
            StreamAsk::Put(settings) => self.put_stream(name, settings),
            StreamAsk::Publish(entries) => self.publish_entries(name, entries, facts),
            StreamAsk::Take { group, consumer, max, lease_ms, from_now, again } => {
                self.take_entries(name, &group, &consumer, max, lease_ms, (from_now, again), facts)
            }
            StreamAsk::Acknowledge { group, consumer, spans } => {
                self.acknowledge_entries(name, &group, &consumer, &spans)
            }
            StreamAsk::GiveBack { group, consumer, places, reason, after_ms, unseen } => {
                self.give_back_entries(name, &group, &consumer, places, reason, after_ms, unseen)
            }
            StreamAsk::GiveUp { group, consumer, letters } => self.give_up_entries(name, &group, &consumer, letters),
            StreamAsk::Leave { group, consumer } => self.leave_stream_group(name, &group, &consumer),
            StreamAsk::DropGroup { group } => self.drop_stream_group(name, &group),
            StreamAsk::Look => {
                let stream = self.t.streams.get(name).ok_or_else(|| no_stream(name))?;
                Ok(Reply::Stream(StreamReply::Views(Vec::from([view::of(self.t, name, stream, self.now, true)]))))
            }
        }
    }

    fn put_stream(&mut self, name: &str, settings: StreamSettings) -> Result<Reply, Refusal> {
        let max = self.limits.stream_partitions_max;
        if settings.partitions.is_some_and(|partitions| usize::from(partitions) > max) {
            return Err(Refusal::Full {
                what: "partitions of a stream",
                max,
                action: "use fewer: each has one consumer",
            });
        }
        if [
            settings.partitions.map(u64::from),
            settings.deliveries_max.map(u64::from),
            settings.waiting_max,
            settings.waiting_bytes_max,
        ]
        .contains(&Some(0))
        {
            return Err(Refusal::Empty {
                what: "a stream's number of partitions, of deliveries, or of waiting entries",
            });
        }
        let Some(stream) = self.t.streams.get(name) else {
            self.create_stream(name, settings)?;
            return Ok(Reply::Done);
        };
        let mut row = stream.row.clone();
        row.keep_ms = settings.keep_ms.unwrap_or(row.keep_ms);
        row.waiting_max = settings.waiting_max.unwrap_or(row.waiting_max);
        row.waiting_bytes_max = settings.waiting_bytes_max.unwrap_or(row.waiting_bytes_max);
        row.deliveries_max = settings.deliveries_max.unwrap_or(row.deliveries_max);
        let newest = stream.newest();
        let partitions = settings.partitions.filter(|partitions| *partitions != newest.partitions);
        let mut forgotten = None;
        if let Some(partitions) = partitions {
            if row.generations.len() >= GENERATIONS_MAX {
                forgotten = Some(self.forgettable_generation(stream)?);
                row.generations.remove(0);
            }
            row.generations.push(Generation { number: newest.number + 1, partitions, since: self.now });
        }
        if row == stream.row {
            return Ok(Reply::Done);
        }
        self.out.put(Table::Stream, &row::key::stream(self.tenant, name), &row);
        if let Some(stream) = self.t.streams.get_mut(name) {
            if let Some(old) = forgotten {
                for partition in 0..old.partitions {
                    if stream.parts.remove(&(old.number, partition)).is_some() {
                        let key = row::key::stream_part(self.tenant, row.number, old.number, partition);
                        self.out.delete(Table::StreamPart, &key);
                    }
                }
            }
            stream.row = row;
        }
        self.move_groups_on(name);
        Ok(Reply::Done)
    }

    /// The oldest generation, if nobody reads it and all that was in it is past being kept.
    fn forgettable_generation(&self, stream: &Stream) -> Result<Generation, Refusal> {
        let too_many = || Refusal::Full {
            what: "generations of partitions of a stream",
            max: GENERATIONS_MAX,
            action: "wait until each group has read the oldest and its entries are past being kept",
        };
        let [old, next, ..] = stream.row.generations[..] else { return Err(too_many()) };
        let read = stream.groups.values().all(|group| group.row.generation > old.number);
        let over = next.since.saturating_add(stream.row.keep_ms) < self.now;
        if read && over { Ok(old) } else { Err(too_many()) }
    }

    fn create_stream(&mut self, name: &str, settings: StreamSettings) -> Result<(), Refusal> {
        let max = self.limits.streams_max;
        if self.t.streams.len() >= max {
            let action = "give several purposes one stream, and tell them apart by what entries say";
            return Err(Refusal::Full { what: "streams of this tenant", max, action });
        }
        let (partitions, keep_ms) = if name.starts_with(DEAD_LETTERS) {
            // Dead letters are few, and lie in the order they were given up in.
            (1, DEAD_KEEP_MS_DEFAULT)
        } else {
            (PARTITIONS_DEFAULT, KEEP_MS_DEFAULT)
        };
        let partitions = settings.partitions.unwrap_or(partitions);
        let row = StreamRow {
            // No stream is ever removed, so this is a number nobody had.
            number: self.t.streams.len() as u32,
            generations: Vec::from([Generation { number: 0, partitions, since: self.now }]),
            keep_ms: settings.keep_ms.unwrap_or(keep_ms),
            waiting_max: settings.waiting_max.unwrap_or(WAITING_MAX_DEFAULT),
            waiting_bytes_max: settings.waiting_bytes_max.unwrap_or(WAITING_BYTES_MAX_DEFAULT),
            deliveries_max: settings.deliveries_max.unwrap_or(DELIVERIES_MAX_DEFAULT),
            created_at: self.now,
        };
        self.out.put(Table::Stream, &row::key::stream(self.tenant, name), &row);
        self.t.streams.insert(name.to_owned(), Stream { row, parts: BTreeMap::new(), groups: BTreeMap::new() });
        Ok(())
    }

    /// Sees to it that a stream exists. The last thing that may refuse before something is recorded.
    pub(crate) fn ensure_stream(&mut self, name: &str) -> Result<(), Refusal> {
        if self.t.streams.contains_key(name) { Ok(()) } else { self.create_stream(name, StreamSettings::default()) }
    }

    fn publish_entries(&mut self, name: &str, entries: Vec<NewEntry>, facts: &Facts) -> Result<Reply, Refusal> {
        self.check_entries(&entries)?;
        let fresh = self.count_fresh(name, &entries, facts);
        let stream = self.t.streams.get(name).filter(|_| fresh.0 > 0);
        if let Some(full) = stream.and_then(|stream| stream.full(name, fresh)) {
            return Err(full);
        }
        self.ensure_stream(name)?;
        let mut places = Vec::with_capacity(entries.len());
        let mut parts = BTreeSet::new();
        for entry in entries {
            let known = entry.id.as_deref().and_then(|id| self.known_entry(name, id, facts));
            if let Some(place) = known {
                places.push((place, true));
                continue;
            }
            let place = self.add_stream_entry(name, entry, None);
            parts.insert((place.generation, place.partition));
            places.push((place, false));
        }
        self.record_parts(name, parts);
        Ok(Reply::Stream(StreamReply::Published(places)))
    }

    fn check_entries(&self, entries: &[NewEntry]) -> Result<(), Refusal> {
        let max = self.limits.stream_entries_max;
        if entries.is_empty() {
            return Err(Refusal::Empty { what: "the list of entries" });
        }
        if entries.len() > max {
            return Err(Refusal::Full {
                what: "entries published at once",
                max,
                action: "publish them in several calls",
            });
        }
        for entry in entries {
            let (found, max) = (entry.body.len(), self.limits.stream_entry_bytes_max);
            if found > max {
                return Err(Refusal::TooLarge { what: "an entry's body", found, max });
            }
            // A session's key fits.
            entry.key.as_ref().map_or(Ok(()), |key| self.check_key("an entry's ordering key", key))?;
            entry.id.as_ref().map_or(Ok(()), |id| self.check_label("an entry's id", id))?;
        }
        let (found, max) = (entries.iter().map(|entry| entry.body.len()).sum(), self.limits.commit_bytes_max);
        if found > max { Err(Refusal::TooLarge { what: "all entries together", found, max }) } else { Ok(()) }
    }

    /// How many of these were not published before, and how many bytes they have.
    fn count_fresh(&self, name: &str, entries: &[NewEntry], facts: &Facts) -> (u64, u64) {
        let mut ids = BTreeSet::new();
        let fresh = entries.iter().filter(|entry| match entry.id.as_deref() {
            Some(id) => ids.insert(id) && self.known_entry(name, id, facts).is_none(),
            None => true,
        });
        fresh.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.body.len() as u64))
    }

    fn known_entry(&self, name: &str, id: &str, facts: &Facts) -> Option<Place> {
        let number = self.t.streams.get(name)?.row.number;
        // What this core has written goes before what was loaded, which may be older.
        if let Some(mark) = self.t.entry_mark(number, id) {
            return Some(mark.place);
        }
        match facts.get(&Need::StreamEntryId(number, id.to_owned())) {
            Some(Fact::StreamEntryId(StreamEntryIdRow { place })) => Some(*place),
            _ => None,
        }
    }

    /// Adds a checked entry to a stream that exists. Its partition has to be recorded afterwards.
    pub(crate) fn add_stream_entry(&mut self, name: &str, entry: NewEntry, dead: Option<DeadLetter>) -> Place {
        let chance = if entry.key.is_none() { self.ids.mint() } else { 0 };
        let Some(stream) = self.t.streams.get_mut(name) else {
            unreachable!("streams are created before they are added to")
        };
        let newest = stream.newest();
        let partition = match &entry.key {
            Some(key) => partition_of(key, newest.partitions),
            None => (chance % u128::from(newest.partitions)) as u16,
        };
        let part = stream.parts.entry((newest.number, partition)).or_default();
        let place = Place { generation: newest.number, partition, seq: part.next };
        part.next += 1;
        part.bytes += entry.body.len() as u64;
        let number = stream.row.number;
        // A letter keeps the id it had; what tells it from others is where it comes from.
        if let Some(id) = entry.id.as_ref().filter(|_| dead.is_none()) {
            let id_row = StreamEntryIdRow { place };
            self.out.put(Table::StreamEntryId, &row::key::stream_entry_id(self.tenant, number, id), &id_row);
            self.mark_entry(number, Arc::from(id.as_str()), place);
        }
        let row = StreamEntryRow { at: self.now, key: entry.key, id: entry.id, body: entry.body, dead };
        self.out.put(Table::StreamEntry, &row::key::stream_entry(self.tenant, number, place), &row);
        place
    }

    /// Records the next numbers of partitions, and tells those who wait for entries.
    pub(crate) fn record_parts(&mut self, name: &str, parts: BTreeSet<(u32, u16)>) {
        let Some(stream) = self.t.streams.get_mut(name).filter(|_| !parts.is_empty()) else { return };
        for (generation, partition) in parts {
            let floors = stream.groups.values().map(|group| Stream::floor_of(group, generation, partition));
            let floor = floors.min().unwrap_or(u64::MAX);
            let Some(part) = stream.parts.get_mut(&(generation, partition)) else { continue };
            part.mark(floor);
            let key = row::key::stream_part(self.tenant, stream.row.number, generation, partition);
            self.out.put(Table::StreamPart, &key, part);
        }
        self.stir_stream(name);
    }

    /// Tells those who wait for entries of a stream to look again.
    pub(crate) fn stir_stream(&mut self, name: &str) {
        self.out.effect(Effect::StreamStirred { tenant: self.tenant, stream: name.to_owned() });
    }

    fn mark_entry(&mut self, stream: u32, id: Arc<str>, place: Place) {
        let until = self.now.saturating_add(self.limits.document_mark_ms);
        if self.t.entry_marks_due.is_empty() {
            self.timers.set(until, self.tenant, TimerKey::EntryMarks);
        }
        let marks = self.t.entry_marks.entry(stream).or_default();
        if let Some(before) = marks.insert(id.clone(), IdMark { place, until }) {
            self.t.entry_marks_due.remove(&(before.until, stream, id.clone()));
        }
        self.t.entry_marks_due.insert((until, stream, id));
    }

    /// Forgets ids that were published long enough ago, a bounded number at a time. They are in the tables.
    pub(crate) fn forget_entry_marks(&mut self) {
        for _ in 0..FORGOTTEN_PER_TIMER_MAX {
            match self.t.entry_marks_due.first() {
                Some((until, _, _)) if *until <= self.now => {}
                Some(_) | None => break,
            }
            if let Some((_, stream, id)) = self.t.entry_marks_due.pop_first()
                && let Some(marks) = self.t.entry_marks.get_mut(&stream)
            {
                marks.remove(&id);
                if marks.is_empty() {
                    self.t.entry_marks.remove(&stream);
                }
            }
        }
        if let Some((until, _, _)) = self.t.entry_marks_due.first() {
            self.timers.set(*until, self.tenant, TimerKey::EntryMarks);
        }
    }

    pub(crate) fn look_at_streams(&self) -> Reply {
        let views = self.t.streams.iter().map(|(name, stream)| view::of(self.t, name, stream, self.now, false));
        Reply::Stream(StreamReply::Views(views.collect()))
    }
}

pub(crate) fn no_stream(name: &str) -> Refusal {
    Refusal::NoStream { name: name.to_owned() }
}
