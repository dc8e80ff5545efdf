//! Streams under a random load over many seeds: publishers that repeat themselves, consumers that come, go, fall silent,
//! answer late, fail, and settle in any order, restarts in between, partitions that change. Books of its own say what
//! must hold. `SEED=n cargo test -p mainspring-core --test streams` runs one seed alone.

#![allow(clippy::print_stdout, reason = "a test may say what it found")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use harness::load::Chance;
use harness::world::World;
use mainspring_core::limit::Limits;
use mainspring_core::row::{StreamEntryRow, StreamPartRow, StreamProgressRow, key};
use mainspring_core::stream::{
    Letter, NewEntry, Place, Span, StreamAsk, StreamReply, StreamSettings, Taken, partition_of,
};
use mainspring_core::{Command, Refusal, Reply, Table, TenantId};

const SEEDS: u64 = 150;
const STEPS: usize = 900;
const TENANT: TenantId = TenantId(1);
const STREAM: &str = "orders";
const DEAD: &str = "dlq.orders";
const GROUPS: [&str; 2] = ["g", "h"];
const CONSUMERS: [&str; 4] = ["c0", "c1", "c2", "c3"];
const DELIVERIES_MAX: u32 = 4;
const LEASE_MS: u64 = 1_000;

/// What a group's books say of one entry.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// How often it was handed out.
    deliveries: u32,
    acknowledged: bool,
    dead: bool,
}

/// Who has a partition, until when nobody else may have it, and what of it is in hand.
#[derive(Debug, Default)]
struct Holder {
    who: usize,
    until: u64,
    in_hand: BTreeSet<Place>,
}

/// What a group has seen.
#[derive(Debug, Default)]
struct Book {
    entries: BTreeMap<Place, Known>,
    holders: BTreeMap<(u32, u16), Holder>,
    /// What each consumer has in hand, in the order it came.
    hands: Vec<Vec<(Place, u32)>>,
}

struct Load {
    chance: Chance,
    world: World,
    books: BTreeMap<&'static str, Book>,
    /// Where each entry is, by its publisher's id.
    published: BTreeMap<String, (Place, String)>,
    /// The last entry of each key, which the next must come after.
    latest: BTreeMap<String, Place>,
    sent: u64,
    partitions: u16,
    seen: BTreeMap<&'static str, usize>,
}

impl Load {
    fn new(seed: u64) -> Self {
        let limits = Limits { document_mark_ms: 50, stream_in_hand_max: 8, ..Limits::default() };
        let mut load = Load {
            chance: Chance::new(seed),
            world: World::new(limits, seed),
            books: BTreeMap::new(),
            published: BTreeMap::new(),
            latest: BTreeMap::new(),
            sent: 0,
            partitions: 3,
            seen: BTreeMap::new(),
        };
        load.world.now = 1_000;
        load.world.submit(TENANT, Command::PutTenant { name: "t".into() }).answer.expect("a tenant");
        let (partitions, deliveries_max) = (Some(3), Some(DELIVERIES_MAX));
        load.ask(StreamAsk::Put(StreamSettings { partitions, deliveries_max, ..StreamSettings::default() }))
            .expect("a stream");
        for group in GROUPS {
            let hands = vec![Vec::new(); CONSUMERS.len()];
            load.books.insert(group, Book { hands, ..Book::default() });
        }
        load
    }

    fn ask(&mut self, ask: StreamAsk) -> Result<Reply, Refusal> {
        self.world.submit(TENANT, Command::Stream { name: STREAM.into(), ask }).answer
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.chance.below(100) {
            0..22 => self.publish(),
            22..55 => self.take(),
            55..80 => self.settle(),
            80..84 => self.give_back(),
            84..88 => self.leave(),
            88..94 => {
                self.world.now += self.chance.below(400);
                self.world.tick();
            }
            94..96 => self.repartition(),
            96 => self.fall_silent(),
            _ => self.restart(),
        }
    }

    fn publish(&mut self) {
        let mut entries = Vec::new();
        for _ in 0..=self.chance.below(4) {
            // Sometimes one that was published before, with another text, which is not heard.
            let nth = if self.chance.percent(20) { self.chance.below(self.sent + 1) } else { self.sent };
            self.sent = self.sent.max(nth + 1);
            let key = format!("k{}", nth % 7);
            entries.push(NewEntry { key: Some(key), id: Some(format!("e{nth}")), body: Bytes::from(nth.to_string()) });
        }
        let asked = entries.clone();
        let Ok(Reply::Stream(StreamReply::Published(places))) = self.ask(StreamAsk::Publish(entries)) else {
            panic!("what is published is taken");
        };
        for (entry, (place, duplicate)) in asked.into_iter().zip(places) {
            let (id, key) = (entry.id.expect("an id"), entry.key.expect("a key"));
            if let Some((known, _)) = self.published.get(&id) {
                assert_eq!((place, duplicate), (*known, true), "{id} is where it was");
                self.saw("published again");
                continue;
            }
            assert!(!duplicate, "{id} is new");
            assert_eq!(place.partition, partition_of(&key, self.partitions), "{key} chooses its partition");
            let before = self.latest.insert(key.clone(), place);
            let after = before.is_none_or(|before| (before.generation, before.seq) < (place.generation, place.seq));
            assert!(after, "{key} stays in order");
            self.published.insert(id, (place, key));
        }
    }

    fn take(&mut self) {
        let (group, who) = (GROUPS[self.chance.below(2) as usize], self.chance.below(4) as usize);
        self.take_for(group, who);
    }

    fn take_for(&mut self, group: &'static str, who: usize) -> bool {
        let max = self.chance.below(7) as u32;
        // An answer was lost, or the consumer died and came back.
        let again = self.chance.percent(10);
        if again {
            self.saw("handed out again to who had it");
            let book = self.books.get_mut(group).expect("a group has a book");
            book.hands[who].clear();
            book.holders.values_mut().filter(|holder| holder.who == who).for_each(|holder| holder.in_hand.clear());
        }
        let ask = StreamAsk::Take {
            group: group.into(),
            consumer: CONSUMERS[who].into(),
            max,
            lease_ms: LEASE_MS,
            from_now: false,
            again,
        };
        let now = self.world.now;
        let Ok(Reply::Stream(StreamReply::Taken(taken))) = self.ask(ask) else { panic!("a taking is answered") };
        let Taken { given, exhausted, .. } = taken;
        let book = self.books.get_mut(group).expect("a group has a book");
        let places = given.iter().flat_map(|(span, times)| {
            let Span { generation, partition, from, to } = *span;
            (from..to).map(move |seq| (Place { generation, partition, seq }, *times))
        });
        let places: Vec<(Place, u32)> = places.collect();
        assert!(places.len() + exhausted.len() <= max as usize, "no more than asked for");
        let mut alone = false;
        for (place, times) in &places {
            let of = self.published.values().any(|(known, _)| known == place);
            assert!(of, "{place} was published");
            let known = book.entries.entry(*place).or_default();
            assert!(!known.acknowledged && !known.dead, "{place} is handed out though it is settled");
            known.deliveries += 1;
            assert!(*times <= DELIVERIES_MAX && *times <= known.deliveries, "{place} is counted {times} times");
            let part = (place.generation, place.partition);
            let holder = book.holders.entry(part).or_default();
            let others = holder.who != who && holder.until > now && !holder.in_hand.is_empty();
            assert!(!others, "{place} goes to {who} while another works on its partition");
            if holder.who != who || holder.until <= now {
                holder.in_hand.clear();
            }
            (holder.who, holder.until) = (who, now + LEASE_MS);
            holder.in_hand.insert(*place);
            alone |= *times >= 3;
            // In order within the partition, among what this consumer got by this taking.
            book.hands[who].retain(|(mine, _)| mine != place);
            book.hands[who].push((*place, *times));
        }
        // All that is older and not settled is in somebody's hands, or given back, which holds the partition up.
        for pair in places.windows(2) {
            let [(a, _), (b, _)] = pair else { continue };
            assert!((a.generation, a.partition) != (b.generation, b.partition) || a.seq < b.seq, "in order");
        }
        let letters: Vec<Letter> = exhausted
            .iter()
            .map(|(place, deliveries, reason)| {
                assert_eq!(*deliveries, DELIVERIES_MAX, "{place} was tried as often as may be");
                let at = key::stream_entry(TENANT, 0, *place);
                let row: StreamEntryRow = self.world.tables.get(Table::StreamEntry, &at).expect("an entry");
                let entry = NewEntry { key: row.key, id: row.id, body: row.body };
                Letter { place: *place, entry, deliveries: *deliveries, reason: reason.clone() }
            })
            .collect();
        for (place, _, _) in &exhausted {
            let known = book.entries.entry(*place).or_default();
            assert!(!known.acknowledged && !known.dead, "{place} is given up though it is settled");
            known.dead = true;
        }
        if alone {
            self.saw("handed out alone");
        }
        if !letters.is_empty() {
            self.saw("given up");
            let consumer = CONSUMERS[who].to_owned();
            let ask = StreamAsk::GiveUp { group: group.into(), consumer, letters };
            for _ in 0..=self.chance.below(2) {
                self.ask(ask.clone()).expect("a letter is taken");
            }
        }
        !places.is_empty() || !exhausted.is_empty()
    }

    /// Some consumer acknowledges some of what it has, or believes it has, in any order, perhaps twice.
    fn settle(&mut self) {
        let (group, who) = (GROUPS[self.chance.below(2) as usize], self.chance.below(4) as usize);
        let all = self.chance.percent(60);
        self.settle_for(group, who, all);
    }

    fn settle_for(&mut self, group: &'static str, who: usize, all: bool) {
        let book = self.books.get_mut(group).expect("a group has a book");
        let hand = std::mem::take(&mut book.hands[who]);
        let (settled, kept): (Vec<_>, Vec<_>) = hand.into_iter().partition(|_| all || self.chance.percent(40));
        book.hands[who] = kept;
        if settled.is_empty() {
            return;
        }
        let now = self.world.now;
        let late = settled.iter().any(|(place, _)| {
            let holder = book.holders.get(&(place.generation, place.partition));
            holder.is_none_or(|holder| holder.who != who || holder.until <= now)
        });
        for (place, _) in &settled {
            book.entries.entry(*place).or_default().acknowledged = true;
        }
        for holder in book.holders.values_mut() {
            holder.in_hand.retain(|mine| settled.iter().all(|(place, _)| place != mine));
            if holder.who == who && holder.until > now {
                holder.until = now + LEASE_MS;
            }
        }
        let spans = settled.iter().map(|(place, _)| Span::of(*place)).collect();
        let ask = StreamAsk::Acknowledge { group: group.into(), consumer: CONSUMERS[who].into(), spans };
        if late {
            self.saw("acknowledged late");
        }
        for _ in 0..=self.chance.below(2) {
            self.ask(ask.clone()).expect("an acknowledgement is taken");
        }
    }

    fn give_back(&mut self) {
        let (group, who) = (GROUPS[self.chance.below(2) as usize], self.chance.below(4) as usize);
        let book = self.books.get_mut(group).expect("a group has a book");
        let Some((place, _)) = book.hands[who].pop() else { return };
        if let Some(holder) = book.holders.get_mut(&(place.generation, place.partition)).filter(|of| of.who == who) {
            holder.in_hand.remove(&place);
        }
        let (reason, after_ms) = ("not yet".to_owned(), self.chance.below(300));
        let (group, consumer) = (group.into(), CONSUMERS[who].into());
        let ask = StreamAsk::GiveBack { group, consumer, places: vec![place], reason, after_ms, unseen: false };
        self.ask(ask).expect("what is given back is taken");
        self.saw("given back");
    }

    fn leave(&mut self) {
        let (group, who) = (GROUPS[self.chance.below(2) as usize], self.chance.below(4) as usize);
        let book = self.books.get_mut(group).expect("a group has a book");
        book.holders.retain(|_, holder| holder.who != who);
        // It may remember what it had, and say something late.
        if self.chance.percent(70) {
            book.hands[who].clear();
        }
        self.ask(StreamAsk::Leave { group: group.into(), consumer: CONSUMERS[who].into() }).expect("anybody may leave");
    }

    fn fall_silent(&mut self) {
        self.world.now += LEASE_MS + 1;
        self.world.tick();
        for book in self.books.values_mut() {
            book.hands.iter_mut().for_each(Vec::clear);
        }
    }

    fn repartition(&mut self) {
        let partitions = 1 + self.chance.below(4) as u16;
        let settings = StreamSettings { partitions: Some(partitions), ..StreamSettings::default() };
        match self.ask(StreamAsk::Put(settings)) {
            Ok(_) => {
                if partitions != self.partitions {
                    self.saw("another number of partitions");
                }
                self.partitions = partitions;
            }
            Err(refusal) => assert!(matches!(refusal, Refusal::Full { .. }), "{refusal}"),
        }
    }

    fn restart(&mut self) {
        self.world.crash();
        for book in self.books.values_mut() {
            book.holders.clear();
        }
    }

    /// All that was published comes to each group, or to the dead letters, and nothing else.
    fn come_to_rest(&mut self) {
        self.fall_silent();
        for group in GROUPS {
            let mut idle = 0;
            let bound = 200 + self.published.len() * 8;
            for round in 0.. {
                assert!(round < bound, "group {group} is not done after {bound} rounds");
                let more = self.take_for(group, 0);
                self.settle_for(group, 0, true);
                self.world.now += 50;
                idle = if more { 0 } else { idle + 1 };
                if idle > 30 {
                    break;
                }
            }
            let book = &self.books[group];
            for (id, (place, _)) in &self.published {
                let known = book.entries.get(place).copied().unwrap_or_default();
                assert!(known.acknowledged || known.dead, "{id} at {place} never came to {group}");
            }
            assert_eq!(book.entries.len(), self.published.len(), "{group} got what was published and nothing else");
        }
        self.world.check();
        let Ok(Reply::Stream(StreamReply::Views(views))) = self.ask(StreamAsk::Look) else { panic!("a look") };
        for group in &views[0].groups {
            assert_eq!((group.waiting, group.in_hand), (0, 0), "nothing waits for {}", group.name);
        }
        let given_up: usize =
            self.books.values().map(|book| book.entries.values().filter(|known| known.dead).count()).sum();
        let dead = self.world.tables.all::<StreamEntryRow>(Table::StreamEntry).filter(|(_, row)| row.dead.is_some());
        assert_eq!(dead.count(), given_up, "each that was given up lies in {DEAD} once");
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, usize> {
    let mut load = Load::new(seed);
    for step in 0..STEPS {
        load.step();
        if step % 150 == 0 {
            load.world.check();
        }
    }
    load.come_to_rest();
    let settled: BTreeSet<Place> = load.published.values().map(|(place, _)| *place).collect();
    assert_eq!(settled.len(), load.published.len(), "no two entries share a place");
    load.seen
}

#[test]
fn every_entry_comes_to_every_group_in_order_and_to_one_consumer_at_a_time() {
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("SEED is a number"));
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(seen) => seen.into_iter().for_each(|(what, count)| *total.entry(what).or_default() += count),
            Err(_) => panic!("failed with SEED={seed}"),
        }
    }
    println!("what came to pass: {total:?}");
    let wanted = [
        "published again",
        "handed out alone",
        "given up",
        "acknowledged late",
        "given back",
        "handed out again to who had it",
        "another number of partitions",
    ];
    for what in wanted {
        assert!(only.is_some() || total.get(what).is_some_and(|count| *count > 30), "hardly any was {what}");
    }
}

#[test]
fn what_is_acknowledged_is_as_in_a_set() {
    for seed in 0..200 {
        let (mut chance, mut row, mut set) = (Chance::new(seed), StreamProgressRow::default(), BTreeSet::new());
        for _ in 0..60 {
            let from = chance.below(50);
            let to = from + chance.below(6);
            let fresh = (from..to).filter(|seq| set.insert(*seq)).count() as u64;
            assert_eq!(row.acknowledge(from, to), fresh, "seed {seed}: {from}..{to}");
            let floor = (0..).find(|seq| !set.contains(seq)).expect("there is a first that is missing");
            assert_eq!(row.floor, floor, "seed {seed}");
            assert!((0..60).all(|seq| row.has(seq) == set.contains(&seq)), "seed {seed}: {row:?} {set:?}");
            assert_eq!(row.waiting(60), 60 - set.len() as u64, "seed {seed}");
            let above = row.above.iter().flat_map(|(from, to)| [*from, *to]).collect::<Vec<_>>();
            assert!(above.windows(2).all(|two| two[0] < two[1]), "in order, and never touching: {above:?}");
            assert!(above.first().is_none_or(|first| *first > row.floor), "the floor is as high as can be");
        }
    }
}

#[test]
fn what_waits_is_estimated_from_a_few_marks() {
    let mut chance = Chance::new(7);
    let (mut part, mut sizes, mut floor) = (StreamPartRow::default(), Vec::new(), 0_u64);
    for _ in 0..3_000 {
        for _ in 0..=chance.below(20) {
            // Sizes change with time, as they do.
            let size = 100 + chance.below(100) + sizes.len() as u64 / 50;
            part.next += 1;
            part.bytes += size;
            sizes.push(size);
        }
        if chance.percent(45) {
            floor = (floor + chance.below(40)).min(part.next);
        }
        part.mark(floor);
        assert!(part.trail.len() <= 16, "a few");
        let exact: u64 = sizes[floor as usize..].iter().sum();
        let (found, more) = (part.bytes_from(floor), exact / 3 + 2_000);
        assert!(found.abs_diff(exact) <= more, "{found} for {exact} from {floor} of {}", part.next);
    }
    assert_eq!((part.bytes_from(part.next), part.bytes_from(u64::MAX)), (0, 0));
    let none = StreamPartRow::default();
    assert_eq!(none.bytes_from(0), 0);
}
