//! Groups: each entry of a stream is for one consumer of every group, and is handed out until it is acknowledged.
//!
//! A partition has one consumer of a group at a time, so that entries of one ordering key are worked on in order while
//! consumers are added. The consumer holds it by a lease, which begins anew each time it takes or acknowledges; when it
//! lapses or the consumer leaves, the partition goes to another, which gets everything unacknowledged again, in order.
//!
//! What is acknowledged is recorded, and how often an entry was handed out if that was more than once. Who holds what,
//! and up to where it was handed out, is in memory only: after a restart everything unacknowledged is handed out again.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{DEAD_LETTERS, Group, Letter, Place, Span, StreamReply, Taken, no_stream};
use crate::command::{Fact, Facts, Need};
use crate::id::Ms;
use crate::machine::Step;
use crate::reply::{Refusal, Reply};
use crate::row::{self, DeadLetter, StreamGroupRow, StreamProgressRow};
use crate::write::Table;

/// From this delivery on an entry is handed out alone. Of entries that are lost together with their consumer again and
/// again, only the one that is to blame should be given up.
const ALONE_FROM: u32 = 3;
/// The shortest lease. Shorter ones would lapse between two looks of a consumer that has nothing to do.
const LEASE_MS_MIN: u64 = 1_000;
/// The longest lease.
const LEASE_MS_MAX: u64 = 60 * 60 * 1_000;
/// The longest time after which entries that were given back are handed out again.
const AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// How much a group's note of when it was seen may lag.
const SEEN_MS: u64 = 10 * 60 * 1_000;
/// Bytes kept of why an entry was given back.
const REASON_BYTES_MAX: usize = 1_024;

/// What is with the consumers of a group. In memory only.
#[derive(Debug, Default)]
pub(crate) struct Handing {
    /// The generation it is about.
    generation: u32,
    pub(crate) consumers: BTreeMap<String, Consumer>,
    pub(crate) hands: BTreeMap<u16, Hand>,
}

/// A consumer that is in a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consumer {
    /// Until when it holds what it holds.
    pub(crate) until: Ms,
    lease_ms: u64,
    /// The partition its next taking begins at, so that a busy one does not keep its others waiting. Each consumer has
    /// its own: were it the group's, some of what one holds might never come first.
    turn: u16,
}

/// A partition as it is handed out.
#[derive(Debug, Default)]
pub(crate) struct Hand {
    /// Who has it.
    pub(crate) holder: Option<String>,
    /// All before this number was handed to the holder, or is acknowledged.
    pub(crate) cursor: u64,
    /// All before this number was handed to somebody before.
    before: u64,
    /// What the holder gave back: when it is due again, and why.
    pub(crate) returned: BTreeMap<u64, (Ms, String)>,
    /// Of these, what the holder never saw: that it was handed out does not count.
    unseen: BTreeSet<u64>,
    /// The entry that is out alone.
    pub(crate) alone: Option<u64>,
}

impl Hand {
    /// Entries the holder has in hand.
    pub(crate) fn count(&self, progress: &StreamProgressRow) -> u64 {
        let out = self.cursor.saturating_sub(progress.floor);
        let back = self.returned.range(..self.cursor).filter(|(seq, _)| !progress.has(**seq)).count() as u64;
        out.saturating_sub(progress.acknowledged_before(self.cursor)).saturating_sub(back)
    }

    /// Nobody has it any more, and what was in hand is handed out again.
    fn let_go(&mut self) {
        self.holder = None;
        self.before = self.before.max(self.cursor);
        self.cursor = 0;
        self.alone = None;
    }
}

impl Handing {
    fn let_go_of(&mut self, consumer: &str) -> bool {
        let mut held = false;
        for hand in self.hands.values_mut().filter(|hand| hand.holder.as_deref() == Some(consumer)) {
            hand.let_go();
            held = true;
        }
        self.consumers.remove(consumer);
        held
    }

    /// Takes what they hold from consumers that were silent for too long.
    fn let_go_of_lapsed(&mut self, now: Ms) {
        let lapsed = self.consumers.iter().filter(|(_, known)| known.until <= now).map(|(name, _)| name.clone());
        for consumer in lapsed.collect::<Vec<_>>() {
            self.let_go_of(&consumer);
        }
    }

    fn held_by(&self, consumer: &str) -> usize {
        self.hands.values().filter(|hand| hand.holder.as_deref() == Some(consumer)).count()
    }
}

/// How partitions are handed out.
struct Rule {
    deliveries_max: u32,
    in_hand_max: u64,
    now: Ms,
}

impl Step<'_> {
    #[expect(clippy::too_many_arguments, reason = "it is one command, field by field")]
    pub(crate) fn take_entries(
        &mut self,
        name: &str,
        group: &str,
        consumer: &str,
        max: u32,
        lease_ms: u64,
        (from_now, again): (bool, bool),
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        self.check_label("the group's name", group)?;
        self.check_label("the consumer's name", consumer)?;
        self.check_room(name, group, consumer)?;
        self.ensure_stream(name)?;
        self.ensure_group(name, group, from_now, facts);
        let lease_ms = lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
        let key = (name.to_owned(), group.to_owned());
        let handing = self.t.handing.entry(key).or_default();
        handing.let_go_of_lapsed(self.now);
        let turn = handing.consumers.get(consumer).map_or(0, |known| known.turn);
        let known = Consumer { until: self.now.saturating_add(lease_ms), lease_ms, turn };
        handing.consumers.insert(consumer.to_owned(), known);
        if again {
            for hand in handing.hands.values_mut().filter(|hand| hand.holder.as_deref() == Some(consumer)) {
                hand.let_go();
                hand.holder = Some(consumer.to_owned());
            }
        }
        let max = (max as usize).min(self.limits.stream_entries_max) as u32;
        Ok(Reply::Stream(StreamReply::Taken(self.hand_out(name, group, consumer, max))))
    }

    fn check_room(&self, name: &str, group: &str, consumer: &str) -> Result<(), Refusal> {
        let (max, known) = (self.limits.stream_groups_max, self.t.streams.get(name));
        if known.is_some_and(|stream| stream.groups.len() >= max && !stream.groups.contains_key(group)) {
            let action = "drop a group that nobody reads for any more";
            return Err(Refusal::Full { what: "groups of this stream", max, action });
        }
        let max = self.limits.stream_consumers_max;
        let handing = self.t.handing.get(&(name.to_owned(), group.to_owned()));
        if handing.is_some_and(|all| all.consumers.len() >= max && !all.consumers.contains_key(consumer)) {
            let action = "let some leave; more consumers than partitions have nothing to do";
            return Err(Refusal::Full { what: "consumers of this group", max, action });
        }
        Ok(())
    }

    /// Creates a group that is not there, and notes that it was seen.
    fn ensure_group(&mut self, name: &str, group: &str, from_now: bool, facts: &Facts) {
        let now = self.now;
        let Some(stream) = self.t.streams.get_mut(name) else { return };
        let number = stream.row.number;
        let key = row::key::stream_group(self.tenant, number, group);
        if let Some(known) = stream.groups.get_mut(group) {
            if now.saturating_sub(known.row.seen_at) > SEEN_MS {
                known.row.seen_at = now;
                self.out.put(Table::StreamGroup, &key, &known.row);
            }
            return;
        }
        let newest = stream.newest().number;
        // Before the oldest entry that is kept nothing is left to read.
        let oldest: BTreeMap<(u32, u16), u64> = match facts.get(&Need::StreamOldest(number)) {
            _ if from_now => stream.parts.range((newest, 0)..).map(|(of, part)| (*of, part.next)).collect(),
            Some(Fact::StreamOldest(oldest)) => oldest.iter().copied().collect(),
            _ => BTreeMap::new(),
        };
        let first = stream.row.generations.first().map_or(newest, |generation| generation.number);
        let kept = stream.parts.iter().find(|(of, part)| part.next > oldest.get(of).copied().unwrap_or(0));
        let generation = if from_now { newest } else { kept.map_or(newest, |((number, _), _)| *number).max(first) };
        let row = StreamGroupRow { generation, created_at: now, seen_at: now };
        self.out.put(Table::StreamGroup, &key, &row);
        let mut progress = BTreeMap::new();
        for ((_, partition), floor) in oldest.range((generation, 0)..(generation + 1, 0)).filter(|(_, at)| **at > 0) {
            let floor = (*floor).min(stream.next_of(generation, *partition));
            let begun = StreamProgressRow { floor, ..StreamProgressRow::default() };
            let key = row::key::stream_progress(self.tenant, number, generation, *partition, group);
            self.out.put(Table::StreamProgress, &key, &begun);
            progress.insert(*partition, begun);
        }
        stream.groups.insert(group.to_owned(), Group { row, progress });
    }

    /// Gives a consumer its share of the partitions, and of these as much as there is room for.
    fn hand_out(&mut self, name: &str, group_name: &str, consumer: &str, max: u32) -> Taken {
        self.move_group_on(name, group_name);
        let rule_now = self.now;
        let key = (name.to_owned(), group_name.to_owned());
        let (Some(stream), Some(handing)) = (self.t.streams.get_mut(name), self.t.handing.get_mut(&key)) else {
            return Taken::default();
        };
        let mut taken = Taken { number: stream.row.number, ..Taken::default() };
        let Some(group) = stream.groups.get(group_name) else { return taken };
        let generation = group.row.generation;
        let partitions = stream.generation(generation).map_or(0, |generation| generation.partitions);
        let rule = Rule {
            deliveries_max: stream.row.deliveries_max,
            in_hand_max: self.limits.stream_in_hand_max,
            now: rule_now,
        };
        let freed = share(handing, group, consumer, partitions);
        let turn = handing.consumers.get(consumer).map_or(0, |known| known.turn).min(partitions);
        let mut served = None;
        let mut dirty = BTreeSet::new();
        let surplus = handing.held_by(consumer).saturating_sub(fair_share(handing, partitions));
        let leaving: BTreeSet<u16> = leaving(handing, consumer, surplus);
        let mut room = u64::from(max);
        for partition in (turn..partitions).chain(0..turn.min(partitions)) {
            let next = stream.next_of(generation, partition);
            let Some(hand) = handing.hands.get_mut(&partition) else { continue };
            if hand.holder.as_deref() != Some(consumer) || leaving.contains(&partition) || next == 0 {
                continue;
            }
            let Some(group) = stream.groups.get_mut(group_name) else { break };
            let none = StreamProgressRow::default();
            let progress = group.progress.get(&partition).unwrap_or(&none);
            let out = hand.hand_out(progress, next, room, &rule);
            let count = (out.given.len() + out.exhausted.len()) as u64;
            room -= count;
            served = served.or((count > 0).then_some(partition));
            if !out.counted.is_empty() {
                group.progress.entry(partition).or_default().deliveries.extend(out.counted);
                dirty.insert(partition);
            }
            let place = |seq| Place { generation, partition, seq };
            for (seq, deliveries) in out.given {
                match taken.given.last_mut() {
                    Some((span, of)) if *of == deliveries && span.partition == partition && span.to == seq => {
                        span.to += 1;
                    }
                    _ => taken.given.push((Span::of(place(seq)), deliveries)),
                }
            }
            let given_up = out.exhausted.into_iter().map(|(seq, deliveries, why)| (place(seq), deliveries, why));
            taken.exhausted.extend(given_up);
            sooner(&mut taken.again_after_ms, out.due.map(|due| due.saturating_sub(rule_now)));
        }
        if let (Some(served), Some(known)) = (served, handing.consumers.get_mut(consumer)) {
            known.turn = served + 1;
        }
        let others = handing.consumers.iter().filter(|(name, _)| *name != consumer).map(|(_, known)| known.until).min();
        sooner(&mut taken.again_after_ms, others.map(|until| until.saturating_sub(rule_now)));
        for partition in dirty {
            self.record_progress(name, group_name, partition);
        }
        if freed {
            self.stir_stream(name);
        }
        taken
    }

    pub(crate) fn acknowledge_entries(
        &mut self,
        name: &str,
        group_name: &str,
        consumer: &str,
        spans: &[Span],
    ) -> Result<Reply, Refusal> {
        self.check_group(name, group_name)?;
        let max = self.limits.stream_entries_max;
        if spans.len() > max {
            return Err(Refusal::Full { what: "entries acknowledged at once", max, action: "use several calls" });
        }
        for span in spans {
            self.check_published(name, *span)?;
        }
        self.hear_of(name, group_name, consumer);
        let mut dirty = BTreeSet::new();
        for span in spans {
            if self.settle_span(name, group_name, *span) {
                dirty.insert(span.partition);
            }
        }
        for partition in dirty {
            self.record_progress(name, group_name, partition);
        }
        if self.move_group_on(name, group_name) {
            self.stir_stream(name);
        }
        Ok(Reply::Done)
    }

    /// Acknowledges a span in memory. Answers whether that changed anything.
    fn settle_span(&mut self, name: &str, group_name: &str, span: Span) -> bool {
        let Some(group) = self.t.streams.get_mut(name).and_then(|stream| stream.groups.get_mut(group_name)) else {
            return false;
        };
        // What is older than what it reads is acknowledged whole.
        if span.generation != group.row.generation || span.from >= span.to {
            return false;
        }
        if group.progress.get(&span.partition).map_or(0, |progress| progress.floor) >= span.to {
            return false;
        }
        let progress = group.progress.entry(span.partition).or_default();
        let changed = progress.acknowledge(span.from, span.to) > 0;
        let floor = progress.floor;
        let key = (name.to_owned(), group_name.to_owned());
        if let Some(hand) = self.t.handing.get_mut(&key).and_then(|all| all.hands.get_mut(&span.partition)) {
            hand.alone = hand.alone.filter(|alone| !(span.from..span.to).contains(alone));
            hand.returned.retain(|seq, _| !(span.from..span.to).contains(seq));
            hand.cursor = hand.cursor.max(floor);
        }
        changed
    }

    #[expect(clippy::too_many_arguments, reason = "it is one command, field by field")]
    pub(crate) fn give_back_entries(
        &mut self,
        name: &str,
        group_name: &str,
        consumer: &str,
        places: Vec<Place>,
        mut reason: String,
        after_ms: u64,
        unseen: bool,
    ) -> Result<Reply, Refusal> {
        self.check_group(name, group_name)?;
        for place in &places {
            self.check_published(name, Span::of(*place))?;
        }
        self.hear_of(name, group_name, consumer);
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        let due = self.now.saturating_add(after_ms.min(AFTER_MS_MAX));
        let Some(group) = self.t.streams.get(name).and_then(|stream| stream.groups.get(group_name)) else {
            return Ok(Reply::Done);
        };
        let key = (name.to_owned(), group_name.to_owned());
        let none = StreamProgressRow::default();
        for Place { generation, partition, seq } in places {
            let hand = self.t.handing.get_mut(&key).and_then(|all| all.hands.get_mut(&partition));
            let progress = group.progress.get(&partition).unwrap_or(&none);
            let Some(hand) = hand.filter(|hand| hand.holder.as_deref() == Some(consumer)) else { continue };
            let in_hand = generation == group.row.generation && seq < hand.cursor && !progress.has(seq);
            if in_hand && !hand.returned.contains_key(&seq) {
                hand.returned.insert(seq, (due, reason.clone()));
                if unseen {
                    hand.unseen.insert(seq);
                }
                hand.before = hand.before.max(seq + 1);
                hand.alone = hand.alone.filter(|alone| *alone != seq);
            }
        }
        self.stir_stream(name);
        Ok(Reply::Done)
    }

    pub(crate) fn give_up_entries(
        &mut self,
        name: &str,
        group_name: &str,
        consumer: &str,
        letters: Vec<Letter>,
    ) -> Result<Reply, Refusal> {
        self.check_group(name, group_name)?;
        let max = self.limits.stream_entries_max;
        if letters.len() > max {
            return Err(Refusal::Full { what: "entries given up at once", max, action: "use several calls" });
        }
        let (found, max) = (letters.iter().map(|letter| letter.entry.body.len()).sum(), self.limits.commit_bytes_max);
        if found > max {
            return Err(Refusal::TooLarge { what: "all entries together", found, max });
        }
        let dead = format!("{DEAD_LETTERS}{name}");
        self.check_label("the name of the stream of dead letters", &dead)?;
        for letter in &letters {
            self.check_published(name, Span::of(letter.place))?;
        }
        self.ensure_stream(&dead)?;
        self.hear_of(name, group_name, consumer);
        let (mut dirty, mut parts) = (BTreeSet::new(), BTreeSet::new());
        for Letter { place, entry, deliveries, reason } in letters {
            // The same letter again: it is acknowledged, and so it lies there already.
            if !self.settle_span(name, group_name, Span::of(place)) {
                continue;
            }
            dirty.insert(place.partition);
            let reason = self.kept_text(reason);
            let from = DeadLetter { group: group_name.to_owned(), place, deliveries, reason };
            let put = self.add_stream_entry(&dead, entry, Some(from));
            parts.insert((put.generation, put.partition));
        }
        self.record_parts(&dead, parts);
        for partition in dirty {
            self.record_progress(name, group_name, partition);
        }
        if self.move_group_on(name, group_name) {
            self.stir_stream(name);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn leave_stream_group(&mut self, name: &str, group: &str, consumer: &str) -> Result<Reply, Refusal> {
        let held = self.t.handing.get_mut(&(name.to_owned(), group.to_owned()));
        if held.is_some_and(|handing| handing.let_go_of(consumer)) {
            self.stir_stream(name);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn drop_stream_group(&mut self, name: &str, group_name: &str) -> Result<Reply, Refusal> {
        let stream = self.t.streams.get_mut(name).ok_or_else(|| no_stream(name))?;
        let Some(group) = stream.groups.remove(group_name) else { return Ok(Reply::Done) };
        let number = stream.row.number;
        self.out.delete(Table::StreamGroup, &row::key::stream_group(self.tenant, number, group_name));
        for partition in group.progress.keys() {
            let (generation, partition) = (group.row.generation, *partition);
            let key = row::key::stream_progress(self.tenant, number, generation, partition, group_name);
            self.out.delete(Table::StreamProgress, &key);
        }
        self.t.handing.remove(&(name.to_owned(), group_name.to_owned()));
        self.stir_stream(name);
        Ok(Reply::Done)
    }

    /// Groups that have read all of a generation go on with the next.
    pub(crate) fn move_groups_on(&mut self, name: &str) {
        let groups = self.t.streams.get(name).map(|stream| stream.groups.keys().cloned().collect::<Vec<_>>());
        for group in groups.unwrap_or_default() {
            if self.move_group_on(name, &group) {
                self.stir_stream(name);
            }
        }
    }

    /// A group that has read all of a generation that is not published to any more goes on with the next.
    fn move_group_on(&mut self, name: &str, group_name: &str) -> bool {
        let Some(stream) = self.t.streams.get_mut(name) else { return false };
        let newest = stream.newest().number;
        let Some(group) = stream.groups.get_mut(group_name) else { return false };
        let (number, began) = (stream.row.number, group.row.generation);
        while group.row.generation < newest {
            let now = group.row.generation;
            let left = stream.parts.range((now, 0)..(now + 1, 0)).any(|((_, partition), part)| {
                group.progress.get(partition).map_or(part.next, |progress| progress.waiting(part.next)) > 0
            });
            if left {
                break;
            }
            for partition in core::mem::take(&mut group.progress).into_keys() {
                let key = row::key::stream_progress(self.tenant, number, now, partition, group_name);
                self.out.delete(Table::StreamProgress, &key);
            }
            group.row.generation += 1;
        }
        let moved = group.row.generation > began;
        if moved {
            self.out.put(Table::StreamGroup, &row::key::stream_group(self.tenant, number, group_name), &group.row);
        }
        let generation = group.row.generation;
        let key = (name.to_owned(), group_name.to_owned());
        if let Some(handing) = self.t.handing.get_mut(&key).filter(|handing| handing.generation != generation) {
            handing.generation = generation;
            handing.hands.clear();
        }
        moved
    }

    fn check_group(&self, name: &str, group: &str) -> Result<(), Refusal> {
        let stream = self.t.streams.get(name).ok_or_else(|| no_stream(name))?;
        let none = || Refusal::NoStreamGroup { stream: name.to_owned(), group: group.to_owned() };
        stream.groups.get(group).map(|_| ()).ok_or_else(none)
    }

    /// What is acknowledged or given back must have been published: a place that is still to come would be passed over.
    fn check_published(&self, name: &str, span: Span) -> Result<(), Refusal> {
        let Some(stream) = self.t.streams.get(name) else { return Err(no_stream(name)) };
        if span.to <= stream.next_of(span.generation, span.partition) || span.from >= span.to {
            return Ok(());
        }
        // Of a generation that is forgotten there is nothing left to say.
        if stream.row.generations.first().is_some_and(|first| span.generation < first.number) {
            return Ok(());
        }
        let Span { generation, partition, to, .. } = span;
        Err(Refusal::NoEntry { stream: name.to_owned(), place: Place { generation, partition, seq: to - 1 } })
    }

    /// A consumer's lease begins anew, for as long as it was.
    fn hear_of(&mut self, name: &str, group: &str, consumer: &str) {
        let now = self.now;
        let Some(handing) = self.t.handing.get_mut(&(name.to_owned(), group.to_owned())) else { return };
        if let Some(known) = handing.consumers.get_mut(consumer).filter(|known| known.until > now) {
            known.until = now.saturating_add(known.lease_ms);
        }
    }

    fn record_progress(&mut self, name: &str, group_name: &str, partition: u16) {
        let Some(stream) = self.t.streams.get(name) else { return };
        let Some(group) = stream.groups.get(group_name) else { return };
        let Some(progress) = group.progress.get(&partition) else { return };
        let generation = group.row.generation;
        let key = row::key::stream_progress(self.tenant, stream.row.number, generation, partition, group_name);
        self.out.put(Table::StreamProgress, &key, progress);
    }
}

/// What one partition gives.
#[derive(Default)]
struct HandedOut {
    given: Vec<(u64, u32)>,
    exhausted: Vec<(u64, u32, String)>,
    /// Deliveries to be noted.
    counted: Vec<(u64, u32)>,
    /// When it gives more by itself.
    due: Option<Ms>,
}

impl Hand {
    fn hand_out(&mut self, progress: &StreamProgressRow, next: u64, room: u64, rule: &Rule) -> HandedOut {
        let mut out = HandedOut::default();
        self.cursor = self.cursor.max(progress.floor);
        let mut in_hand = self.count(progress);
        let alone_from = ALONE_FROM.min(rule.deliveries_max).max(2);
        while ((out.given.len() + out.exhausted.len()) as u64) < room && in_hand < rule.in_hand_max {
            if self.alone.is_some() {
                break;
            }
            // What was given back comes before anything new.
            let back = self.returned.range(..self.cursor).next().map(|(seq, _)| *seq);
            let seq = back.unwrap_or(self.cursor);
            if seq >= next {
                break;
            }
            if progress.has(seq) {
                self.returned.remove(&seq);
                self.unseen.remove(&seq);
                self.cursor = if back.is_none() { seq + 1 } else { self.cursor };
                continue;
            }
            let reason = match self.returned.get(&seq) {
                Some((due, _)) if *due > rule.now => {
                    out.due = Some(*due);
                    break;
                }
                Some((_, reason)) => Some(reason.clone()),
                None => None,
            };
            let known = progress.deliveries.get(&seq).copied();
            let again = seq < self.before || known.is_some();
            let counts = u32::from(again && !self.unseen.contains(&seq));
            let deliveries = known.unwrap_or(1) + counts;
            if deliveries >= alone_from && deliveries <= rule.deliveries_max && in_hand > 0 {
                break;
            }
            self.returned.remove(&seq);
            self.unseen.remove(&seq);
            if back.is_none() {
                self.cursor = seq + 1;
                self.before = self.before.max(self.cursor);
            }
            in_hand += 1;
            if deliveries > rule.deliveries_max {
                let reason = reason.unwrap_or_else(|| "its consumer went away each time without an answer".to_owned());
                out.exhausted.push((seq, deliveries - 1, reason));
                continue;
            }
            if counts > 0 {
                out.counted.push((seq, deliveries));
            }
            out.given.push((seq, deliveries));
            if deliveries >= alone_from {
                self.alone = Some(seq);
            }
        }
        out
    }
}

fn sooner(known: &mut Option<u64>, other: Option<u64>) {
    *known = known.iter().copied().chain(other).min();
}

/// How many partitions each consumer may hold.
fn fair_share(handing: &Handing, partitions: u16) -> usize {
    usize::from(partitions).div_ceil(handing.consumers.len().max(1))
}

/// The partitions a consumer has too many of. It gets nothing more from them, and lets go of each when it has nothing of
/// it in hand.
fn leaving(handing: &Handing, consumer: &str, surplus: usize) -> BTreeSet<u16> {
    let held = handing.hands.iter().filter(|(_, hand)| hand.holder.as_deref() == Some(consumer));
    held.rev().take(surplus).map(|(partition, _)| *partition).collect()
}

/// Gives a consumer partitions nobody has, up to its share, and lets go of what it has too many of. Answers whether it
/// let go of any.
fn share(handing: &mut Handing, group: &Group, consumer: &str, partitions: u16) -> bool {
    let fair = fair_share(handing, partitions);
    let mut held = handing.held_by(consumer);
    let none = StreamProgressRow::default();
    let mut freed = false;
    for partition in leaving(handing, consumer, held.saturating_sub(fair)) {
        let progress = group.progress.get(&partition).unwrap_or(&none);
        if let Some(hand) = handing.hands.get_mut(&partition)
            && hand.count(progress) == 0
        {
            hand.let_go();
            held -= 1;
            freed = true;
        }
    }
    for partition in 0..partitions {
        if held >= fair {
            break;
        }
        let hand = handing.hands.entry(partition).or_default();
        if hand.holder.is_none() {
            hand.holder = Some(consumer.to_owned());
            hand.cursor = 0;
            held += 1;
        }
    }
    freed
}
