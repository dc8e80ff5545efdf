//! The laws every bus keeps, whoever keeps its streams: what [`Bus`] says, as checks. A bus's test calls [`hold`] with a
//! bus whose leases are short; every law has streams of its own. Where a bus may choose (how entries are spread, how many
//! of them come at once), all choices pass.
//!
//! Nothing here is about how fast it is: what is waited for may take long. It is not waited for without an end, because a
//! law that is broken says so and does not hang.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bus::{BODY_BYTES_MAX, Bus, BusError, ENTRIES_MAX, Entry, EntryId, NewEntry};

/// What a bus under test was set up with.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What names of streams begin with, different each time if the streams outlive the test.
    pub prefix: String,
    /// How long a silent consumer keeps its partitions.
    pub lease: Duration,
    /// How often an entry is handed out before it is a dead letter.
    pub deliveries_max: u32,
    /// How many partitions a stream has. With one, a group has one consumer at a time that gets anything; with more,
    /// consumers share.
    pub partitions: u32,
}

/// How long anything is waited for before it is said that it does not come. Far more than a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waiting with an end, that says what for.
#[derive(Debug)]
pub struct Patience {
    what: String,
    until: Instant,
}

impl Patience {
    /// Begins to wait.
    pub fn with(what: impl Into<String>) -> Self {
        Patience { what: what.into(), until: Instant::now() + PATIENCE }
    }

    /// To be called in each round of the waiting.
    ///
    /// # Panics
    /// When it has taken too long: with what was waited for, and what there was instead.
    pub fn or_give_up(&self, instead: impl std::fmt::Debug) {
        assert!(Instant::now() < self.until, "waited {PATIENCE:?} for {}; so far: {instead:?}", self.what);
    }
}

/// How long one call waits for something that will come.
const WAIT: Duration = Duration::from_millis(200);

/// Checks all laws, one after another.
///
/// # Panics
/// Saying how, if the bus breaks one.
pub async fn hold(bus: Arc<dyn Bus>, setting: Setting) {
    let laws = Laws { bus, setting };
    laws.entries_of_a_key_stay_in_order().await;
    laws.every_group_gets_everything().await;
    laws.what_a_consumer_leaves_goes_to_another().await;
    laws.what_a_silent_consumer_has_goes_to_another().await;
    laws.a_late_acknowledgement_is_harmless().await;
    laws.whoever_says_so_keeps_what_it_has().await;
    laws.an_entry_published_again_at_its_place_is_the_same().await;
    laws.a_dead_letter_is_found_with_its_reason().await;
    laws.what_is_never_acknowledged_becomes_a_dead_letter().await;
    laws.only_the_one_to_blame_is_given_up().await;
    laws.consumers_share().await;
    laws.whoever_waits_is_woken().await;
    laws.lag_says_what_waits().await;
    laws.what_can_not_be_is_refused().await;
}

struct Laws {
    bus: Arc<dyn Bus>,
    setting: Setting,
}

fn entry(id: impl Into<String>, key: &str) -> NewEntry {
    let id = id.into();
    NewEntry { body: Bytes::from(format!("{{\"said\":\"{id}\"}}")), id, key: key.to_owned(), place: None }
}

fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.entry.clone()).collect()
}

impl Laws {
    fn stream(&self, law: &str) -> String {
        format!("{}.{law}", self.setting.prefix)
    }

    async fn publish(&self, stream: &str, entries: Vec<NewEntry>) -> Vec<EntryId> {
        self.bus.publish(stream, entries).await.expect("entries are published")
    }

    async fn take(&self, stream: &str, consumer: &str, max: usize) -> Vec<Entry> {
        self.bus.take(stream, "group", consumer, max, WAIT).await.expect("entries are taken")
    }

    async fn ack(&self, stream: &str, consumer: &str, entries: &[Entry]) {
        self.bus.ack(stream, "group", consumer, &ids(entries)).await.expect("entries are acknowledged");
    }

    async fn leave(&self, stream: &str, consumer: &str) {
        self.bus.leave(stream, "group", consumer).await.expect("the group is left");
    }

    /// Takes until there are so many, without acknowledging.
    async fn take_all(&self, stream: &str, consumer: &str, count: usize) -> Vec<Entry> {
        let mut taken = Vec::new();
        let patience = Patience::with(format!("{count} entries of {stream} for {consumer}"));
        while taken.len() < count {
            patience.or_give_up(&taken);
            taken.extend(self.take(stream, consumer, ENTRIES_MAX).await);
        }
        assert_eq!(taken.len(), count, "no entry is handed out twice to one that has it: {taken:?}");
        taken
    }

    async fn entries_of_a_key_stay_in_order(&self) {
        const KEYS: usize = 10;
        const COUNT: usize = 400;
        let stream = self.stream("order");
        for chunk in (0..COUNT).collect::<Vec<_>>().chunks(90) {
            let entries = chunk.iter().map(|n| entry(format!("{n}"), &format!("key {}", n % KEYS))).collect();
            let places = self.publish(&stream, entries).await;
            assert_eq!(places.len(), chunk.len(), "each entry has a place");
            assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), chunk.len(), "no two have one place");
        }
        let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut count = 0;
        let patience = Patience::with(format!("{COUNT} entries of {stream}, whoever gets them"));
        // Three take in turns, so that partitions go from one to the other meanwhile.
        for turn in 0.. {
            patience.or_give_up(count);
            let consumer = ["a", "b", "c"][turn % 3];
            let taken = self.take(&stream, consumer, 17).await;
            for Entry { id, key, body, deliveries, .. } in &taken {
                assert_eq!(body, &format!("{{\"said\":\"{id}\"}}"), "the body is what was published");
                assert_eq!(*deliveries, 1, "nothing was handed out in vain");
                seen.entry(key.clone()).or_default().push(id.parse().expect("a number"));
            }
            count += taken.len();
            self.ack(&stream, consumer, &taken).await;
            if count >= COUNT {
                break;
            }
        }
        assert_eq!(count, COUNT, "every entry came once");
        assert_eq!(seen.len(), KEYS);
        for (key, order) in seen {
            assert!(order.is_sorted(), "{key}: {order:?}");
        }
        for consumer in ["a", "b", "c"] {
            self.leave(&stream, consumer).await;
        }
    }

    async fn every_group_gets_everything(&self) {
        let stream = self.stream("groups");
        self.publish(&stream, (0..20).map(|n| entry(format!("{n}"), &format!("{n}"))).collect()).await;
        for group in ["one", "two"] {
            let mut got = BTreeSet::new();
            let patience = Patience::with(format!("20 entries of {stream} for group {group}"));
            while got.len() < 20 {
                patience.or_give_up(&got);
                let taken = self.bus.take(&stream, group, "a", 100, WAIT).await.expect("entries are taken");
                self.bus.ack(&stream, group, "a", &ids(&taken)).await.expect("entries are acknowledged");
                got.extend(taken.into_iter().map(|entry| entry.id));
            }
            self.bus.leave(&stream, group, "a").await.expect("the group is left");
        }
    }

    async fn what_a_consumer_leaves_goes_to_another(&self) {
        let stream = self.stream("left");
        self.publish(&stream, (0..6).map(|n| entry(format!("{n}"), "one key")).collect()).await;
        let first = self.take_all(&stream, "a", 6).await;
        self.ack(&stream, "a", &first[..2]).await;
        self.publish(&stream, (6..8).map(|n| entry(format!("{n}"), "one key")).collect()).await;
        self.leave(&stream, "a").await;
        let second = self.take_all(&stream, "b", 6).await;
        let got: Vec<(&str, u32)> = second.iter().map(|entry| (entry.id.as_str(), entry.deliveries)).collect();
        let expected = [("2", 2), ("3", 2), ("4", 2), ("5", 2), ("6", 1), ("7", 1)];
        assert_eq!(got, expected, "what was not acknowledged comes again, first, and in order");
        self.ack(&stream, "b", &second).await;
        self.leave(&stream, "b").await;
    }

    async fn what_a_silent_consumer_has_goes_to_another(&self) {
        let stream = self.stream("silent");
        self.publish(&stream, (0..50).map(|n| entry(format!("{n}"), &format!("{}", n % 7))).collect()).await;
        let lost = self.take_all(&stream, "a", 50).await;
        // It says nothing more. The other is there from the beginning.
        let again = self.take_all(&stream, "b", 50).await;
        let names = |entries: &[Entry]| entries.iter().map(|entry| entry.id.clone()).collect::<BTreeSet<_>>();
        assert_eq!(names(&lost), names(&again));
        assert!(again.iter().all(|entry| entry.deliveries == 2), "each is handed out for the second time");
        self.ack(&stream, "b", &again).await;
        self.leave(&stream, "b").await;
    }

    async fn a_late_acknowledgement_is_harmless(&self) {
        let stream = self.stream("late");
        self.publish(&stream, vec![entry("x", "k")]).await;
        let first = self.take_all(&stream, "a", 1).await;
        self.leave(&stream, "a").await;
        let second = self.take_all(&stream, "b", 1).await;
        self.ack(&stream, "b", &second).await;
        self.ack(&stream, "a", &first).await;
        self.ack(&stream, "b", &second).await;
        self.publish(&stream, vec![entry("y", "k")]).await;
        let next = self.take_all(&stream, "b", 1).await;
        assert_eq!(next[0].id, "y", "what was acknowledged does not come again");
        self.ack(&stream, "b", &next).await;
        self.leave(&stream, "b").await;
    }

    async fn whoever_says_so_keeps_what_it_has(&self) {
        let stream = self.stream("kept");
        self.publish(&stream, vec![entry("slow", "k")]).await;
        let slow = self.take_all(&stream, "a", 1).await;
        let began = Instant::now();
        while began.elapsed() < self.setting.lease * 3 {
            assert!(self.bus.take(&stream, "group", "a", 0, Duration::ZERO).await.expect("it is kept").is_empty());
            for other in self.take(&stream, "b", 10).await {
                assert_ne!(other.id, "slow", "one that is worked on is not handed to another");
            }
        }
        self.ack(&stream, "a", &slow).await;
        self.leave(&stream, "a").await;
        self.publish(&stream, vec![entry("next", "k")]).await;
        let next = self.take_all(&stream, "b", 1).await;
        assert_eq!(next[0].id, "next");
        self.ack(&stream, "b", &next).await;
        self.leave(&stream, "b").await;
    }

    async fn an_entry_published_again_at_its_place_is_the_same(&self) {
        let stream = self.stream("again");
        // Later than any clock says, so that it is not old already.
        let at = |n: u64| NewEntry { place: Some((4_000_000_000_000 + n, n)), ..entry(format!("{n}"), "k") };
        let first = self.publish(&stream, (1..=3).map(at).collect()).await;
        // The answer was lost; it is published again with the next.
        let second = self.publish(&stream, (1..=4).map(at).collect()).await;
        assert_eq!(first, second[..3], "they are where they were");
        let taken = self.take_all(&stream, "a", 4).await;
        assert_eq!(taken.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
        self.ack(&stream, "a", &taken).await;
        self.leave(&stream, "a").await;
    }

    async fn a_dead_letter_is_found_with_its_reason(&self) {
        let stream = self.stream("dead");
        self.publish(&stream, vec![entry("bad", "k"), entry("good", "k")]).await;
        let taken = self.take_all(&stream, "a", 2).await;
        self.bus.dead_letter(&stream, "group", "a", &taken[0], "it is no envelope").await.expect("it is put there");
        self.leave(&stream, "a").await;
        let rest = self.take_all(&stream, "b", 1).await;
        assert_eq!(rest[0].id, "good", "a dead letter is acknowledged, and holds up nobody");
        self.ack(&stream, "b", &rest).await;
        self.leave(&stream, "b").await;
        let dead = format!("dlq.{stream}");
        let found = self.take_all(&dead, "people", 1).await;
        assert_eq!((found[0].id.as_str(), &found[0].body), ("bad", &taken[0].body));
        self.ack(&dead, "people", &found).await;
        self.leave(&dead, "people").await;
    }

    async fn what_is_never_acknowledged_becomes_a_dead_letter(&self) {
        let stream = self.stream("poison");
        self.publish(&stream, vec![entry("poison", "k"), entry("after", "k")]).await;
        for time in 1..=self.setting.deliveries_max {
            let consumer = format!("victim-{time}");
            let taken = self.take_all(&stream, &consumer, if time == 1 { 2 } else { 1 }).await;
            assert_eq!((taken[0].id.as_str(), taken[0].deliveries), ("poison", time));
            self.ack(&stream, &consumer, &taken[1..]).await;
            self.leave(&stream, &consumer).await;
        }
        let dead = format!("dlq.{stream}");
        let patience = Patience::with(format!("a dead letter in {dead}"));
        let found = loop {
            patience.or_give_up("none");
            assert!(self.take(&stream, "survivor", 10).await.is_empty(), "it is not handed out once more");
            let found = self.take(&dead, "people", 10).await;
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(found[0].id, "poison");
        self.ack(&dead, "people", &found).await;
        self.publish(&stream, vec![entry("new", "k")]).await;
        let new = self.take_all(&stream, "survivor", 1).await;
        assert_eq!(new[0].id, "new", "the partition goes on");
        self.ack(&stream, "survivor", &new).await;
        self.leave(&stream, "survivor").await;
        self.leave(&dead, "people").await;
    }

    async fn only_the_one_to_blame_is_given_up(&self) {
        const GOOD: usize = 6;
        let stream = self.stream("blame");
        let good = |n: usize| entry(format!("good {n}"), "k");
        let entries = (0..3).map(good).chain([entry("poison", "k")]).chain((3..GOOD).map(good));
        self.publish(&stream, entries.collect()).await;
        let mut done = Vec::new();
        let patience = Patience::with(format!("all of {stream} but one entry to be worked on"));
        for time in 0.. {
            patience.or_give_up(&done);
            let consumer = format!("worker-{time}");
            // Nothing if all that is left was given up.
            let taken = self.take(&stream, &consumer, 100).await;
            if !taken.iter().any(|entry| entry.id == "poison") {
                self.ack(&stream, &consumer, &taken).await;
                done.extend(taken.into_iter().map(|entry| entry.id));
            }
            // With it, whoever has it is lost before it acknowledges anything.
            self.leave(&stream, &consumer).await;
            if done.len() >= GOOD {
                break;
            }
        }
        assert_eq!(done, (0..GOOD).map(|n| format!("good {n}")).collect::<Vec<_>>(), "the others in order, each once");
        let dead = format!("dlq.{stream}");
        let found = self.take_all(&dead, "people", 1).await;
        assert_eq!(found[0].id, "poison");
        self.ack(&dead, "people", &found).await;
        self.leave(&dead, "people").await;
    }

    async fn consumers_share(&self) {
        let stream = self.stream("share");
        let batch = |round: usize| (0..40).map(|n| entry(format!("{round}/{n}"), &format!("{n}"))).collect();
        if self.setting.partitions == 1 {
            // There is nothing to share: whoever has the partition gets all, and the next when it leaves.
            self.publish(&stream, batch(0)).await;
            let first = self.take_all(&stream, "a", 40).await;
            assert!(self.take(&stream, "b", 100).await.is_empty(), "a partition has one consumer of a group at a time");
            self.ack(&stream, "a", &first).await;
            self.publish(&stream, batch(1)).await;
            self.leave(&stream, "a").await;
            let second = self.take_all(&stream, "b", 40).await;
            self.ack(&stream, "b", &second).await;
            self.leave(&stream, "b").await;
            return;
        }
        let (mut by_a, mut by_b) = (0, 0);
        let patience = Patience::with(format!("two consumers that share {stream}"));
        for round in 0.. {
            patience.or_give_up((by_a, by_b));
            self.publish(&stream, batch(round)).await;
            for (consumer, count) in [("a", &mut by_a), ("b", &mut by_b)] {
                let taken = self.take(&stream, consumer, 100).await;
                self.ack(&stream, consumer, &taken).await;
                *count += taken.len();
            }
            if by_a > 0 && by_b > 0 {
                break;
            }
        }
        self.leave(&stream, "a").await;
        self.leave(&stream, "b").await;
    }

    async fn whoever_waits_is_woken(&self) {
        let stream = self.stream("woken");
        let (bus, name) = (self.bus.clone(), stream.clone());
        let waiting = tokio::spawn(async move { bus.take(&name, "group", "a", 10, Duration::from_secs(3_600)).await });
        tokio::time::sleep(WAIT).await;
        self.publish(&stream, vec![entry("hello", "k")]).await;
        let taken = tokio::time::timeout(PATIENCE, waiting).await.expect("whoever waits is woken by what is published");
        let taken = taken.expect("the call ends").expect("entries are taken");
        assert_eq!(taken[0].id, "hello");
        self.ack(&stream, "a", &taken).await;
        self.leave(&stream, "a").await;
    }

    async fn lag_says_what_waits(&self) {
        let stream = self.stream("lag");
        self.publish(&stream, (0..10).map(|n| entry(format!("{n}"), &format!("{n}"))).collect()).await;
        let taken = self.take_all(&stream, "a", 10).await;
        self.ack(&stream, "a", &taken[..4]).await;
        self.publish(&stream, (10..13).map(|n| entry(format!("{n}"), &format!("{n}"))).collect()).await;
        // It may lag a little.
        let patience = Patience::with(format!("3 entries of {stream} that nobody was handed, and 6 in hand"));
        loop {
            let lag = self.bus.lag(&stream).await.expect("it says how far behind it is");
            let of_group: Vec<_> = lag.iter().filter(|one| one.group == "group").collect();
            let (backlog, pending) =
                of_group.iter().fold((0, 0), |(backlog, pending), one| (backlog + one.backlog, pending + one.pending));
            assert!(pending <= 6 && backlog <= 3, "{of_group:?}");
            patience.or_give_up(&of_group);
            if (backlog, pending) == (3, 6) {
                assert!(of_group.iter().any(|one| one.held_by.as_deref() == Some("a")), "{of_group:?}");
                assert!(of_group.iter().any(|one| one.oldest_at_ms.is_some()), "{of_group:?}");
                break;
            }
            tokio::time::sleep(WAIT / 10).await;
        }
        self.leave(&stream, "a").await;
    }

    async fn what_can_not_be_is_refused(&self) {
        let refused = |outcome: Result<Vec<EntryId>, BusError>| matches!(outcome, Err(BusError::Refused { .. }));
        let stream = self.stream("refused");
        assert!(refused(self.bus.publish("a b", vec![entry("x", "k")]).await), "a name with a space");
        assert!(refused(self.bus.publish(&stream, vec![entry("", "k")]).await), "an empty id");
        let large = NewEntry { body: Bytes::from(vec![b'x'; BODY_BYTES_MAX + 1]), ..entry("x", "k") };
        assert!(refused(self.bus.publish(&stream, vec![large]).await), "a body that is too large");
        let many = (0..=ENTRIES_MAX).map(|n| entry(format!("{n}"), "k")).collect();
        assert!(refused(self.bus.publish(&stream, many).await), "too many at once");
        let outcome = self.bus.take(&stream, "a group", "a", 1, Duration::ZERO).await;
        assert!(matches!(outcome, Err(BusError::Refused { .. })), "a group's name with a space");
    }
}
