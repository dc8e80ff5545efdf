//! Streams: somebody publishes, under ids, until it is answered; consumers of two groups take, work on what they got,
//! settle it, fall silent, die and come back, give back, and give up. Books of their own say what must hold: every entry
//! comes to every group until it was settled, in order for each key, and none after its settling was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::TenantId;
use mainspring_core::stream::{Letter, NewEntry, Place, Span, StreamAsk, StreamReply, StreamSettings, Taken};
use mainspring_core::{Command, Reply};

use crate::chance::Chance;
use crate::host::Host;
use crate::link::{Answered, call};

const STREAM: &str = "events.inbound";
const GROUPS: [&str; 2] = ["router", "archive"];
const CONSUMERS: u64 = 2;
const LEASE_MS: u64 = 1_500;
const DELIVERIES_MAX: u32 = 6;

/// What is known of a tenant's stream.
#[derive(Debug, Default)]
struct Books {
    /// Where entries are, by id, as the first answer said, with their keys.
    published: BTreeMap<String, (Place, String)>,
    latest: BTreeMap<String, Place>,
    /// Settled, as an answer said, by group.
    settled: BTreeMap<&'static str, BTreeSet<Place>>,
    all_published: bool,
}

impl Books {
    fn done(&self, group: &'static str) -> bool {
        let settled = self.settled.get(group).map_or(0, BTreeSet::len);
        self.all_published && self.published.len() == settled
    }
}

#[derive(Debug, Clone)]
struct Desk {
    host: Host,
    tenant: TenantId,
    books: Arc<Mutex<Books>>,
}

/// Uses a tenant's stream until everything that was published is settled by both groups.
pub async fn publish_and_consume(host: Host, tenant: TenantId) {
    let desk = Desk { host, tenant, books: Arc::default() };
    let settings =
        StreamSettings { partitions: Some(3), deliveries_max: Some(DELIVERIES_MAX), ..StreamSettings::default() };
    let mut chance = desk.host.sim().fork();
    desk.insist(&mut chance, StreamAsk::Put(settings)).await;
    let mut all = vec![tokio::spawn(desk.clone().publish())];
    for group in GROUPS {
        all.extend((0..CONSUMERS).map(|nth| tokio::spawn(desk.clone().consume(group, nth))));
    }
    for one in all {
        let _ = one.await;
    }
}

/// After everything: nothing waits, also after the power was lost.
pub async fn check(host: &Host, tenant: TenantId) {
    let Some(process) = host.current() else { return };
    let look = Command::Stream { name: STREAM.to_owned(), ask: StreamAsk::Look };
    match process.engine.submit(tenant, look).await {
        Ok((Reply::Stream(StreamReply::Views(views)), _)) => {
            for group in views.iter().flat_map(|view| &view.groups).filter(|group| group.waiting > 0) {
                host.sim()
                    .violated(format!("{} entries of group {} are not settled any more", group.waiting, group.name));
            }
        }
        other => host.sim().violated(format!("the stream is not there at rest: {other:?}")),
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, chance: &mut Chance, ask: StreamAsk) -> Answered {
        call(&self.host, chance, self.tenant, Command::Stream { name: STREAM.to_owned(), ask }).await
    }

    async fn insist(&self, chance: &mut Chance, ask: StreamAsk) -> Option<Reply> {
        loop {
            match self.ask(chance, ask.clone()).await {
                Answered::Yes(reply) => return Some(reply),
                Answered::No(refusal) if refusal.code() == "tenant_unknown" => {}
                Answered::No(refusal) => {
                    self.host.sim().violated(format!("{ask:?} is refused: {refusal}"));
                    return None;
                }
                Answered::Unknown => {}
            }
            if self.host.sim().has_failed() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(1 + chance.below(400))).await;
        }
    }

    async fn publish(self) {
        let sim = self.host.sim().clone();
        let mut chance = sim.fork();
        for nth in 0..4 * sim.plan().others {
            sim.pause(&mut chance, sim.plan().pause_ms).await;
            let ids: Vec<String> = (0..=chance.below(3)).map(|one| format!("{nth}/{one}")).collect();
            let key = format!("key-{}", chance.below(5));
            let entry =
                |id: &String| NewEntry { key: Some(key.clone()), id: Some(id.clone()), body: Bytes::from(id.clone()) };
            let ask = StreamAsk::Publish(ids.iter().map(entry).collect());
            let Some(Reply::Stream(StreamReply::Published(places))) = self.insist(&mut chance, ask).await else {
                return;
            };
            for (id, (place, duplicate)) in ids.into_iter().zip(places) {
                if duplicate {
                    sim.sometimes("an entry was published twice");
                }
                let mut books = self.lock();
                let before = books.latest.insert(key.clone(), place);
                if before.is_some_and(|before| (before.generation, before.seq) >= (place.generation, place.seq)) {
                    drop(books);
                    sim.violated(format!("entry {id} at {place} is not behind {before:?}"));
                    return;
                }
                books.published.insert(id, (place, key.clone()));
            }
            if chance.permille(80) {
                let partitions = 1 + chance.below(4) as u16;
                let settings = StreamSettings { partitions: Some(partitions), ..StreamSettings::default() };
                if let Answered::Yes(_) = self.ask(&mut chance, StreamAsk::Put(settings)).await {
                    sim.sometimes("a stream got another number of partitions");
                }
            }
        }
        self.lock().all_published = true;
    }

    async fn consume(self, group: &'static str, nth: u64) {
        let sim = self.host.sim().clone();
        let (mut chance, name) = (sim.fork(), format!("consumer-{nth}"));
        while !self.lock().done(group) && !sim.has_failed() {
            sim.pause(&mut chance, 200).await;
            // It settles everything before it takes more, or forgets about it, so it has nothing in hand.
            let ask = StreamAsk::Take {
                group: group.to_owned(),
                consumer: name.clone(),
                max: 1 + chance.below(6) as u32,
                lease_ms: LEASE_MS,
                from_now: false,
                again: true,
            };
            // What was settled before it was asked is never handed out; what is settled meanwhile may be.
            let before = self.lock().settled.get(group).cloned().unwrap_or_default();
            let Answered::Yes(Reply::Stream(StreamReply::Taken(taken))) = self.ask(&mut chance, ask).await else {
                continue;
            };
            let given_up = taken.exhausted.iter().map(|(place, _, _)| Span::of(*place));
            for Span { generation, partition, from, to } in taken.given.iter().map(|(span, _)| *span).chain(given_up) {
                let again = (from..to).map(|seq| Place { generation, partition, seq }).find(|one| before.contains(one));
                if let Some(place) = again {
                    sim.violated(format!("entry {place} is handed out to {group} after it was settled"));
                    return;
                }
            }
            self.work(&mut chance, group, &name, taken).await;
        }
    }

    async fn work(&self, chance: &mut Chance, group: &'static str, name: &str, taken: Taken) {
        let sim = self.host.sim();
        let mut places: Vec<Place> = Vec::new();
        for (Span { generation, partition, from, to }, times) in taken.given {
            if times > 1 {
                sim.sometimes("an entry was handed out again");
            }
            places.extend((from..to).map(|seq| Place { generation, partition, seq }));
        }
        if !taken.exhausted.is_empty() {
            sim.sometimes("an entry was exhausted");
            let letters = taken.exhausted.into_iter().map(|(place, deliveries, reason)| Letter {
                place,
                entry: NewEntry::default(),
                deliveries,
                reason,
            });
            let letters: Vec<Letter> = letters.collect();
            let given_up: Vec<Place> = letters.iter().map(|letter| letter.place).collect();
            let ask = StreamAsk::GiveUp { group: group.to_owned(), consumer: name.to_owned(), letters };
            if self.insist(chance, ask).await.is_some() {
                self.lock().settled.entry(group).or_default().extend(given_up);
            }
        }
        if places.is_empty() {
            return;
        }
        match chance.below(20) {
            0 => {
                sim.sometimes("a consumer fell silent");
                sim.pause(chance, 2 * LEASE_MS).await;
                return;
            }
            1 => {
                let (group, consumer) = (group.to_owned(), name.to_owned());
                let _ = self.ask(chance, StreamAsk::Leave { group, consumer }).await;
                return;
            }
            2 => {
                let (reason, after_ms) = ("simulated: not now".to_owned(), chance.below(600));
                let (group, consumer) = (group.to_owned(), name.to_owned());
                let places = places.into_iter().take(1).collect();
                let ask = StreamAsk::GiveBack { group, consumer, places, reason, after_ms, unseen: false };
                let _ = self.ask(chance, ask).await;
                return;
            }
            _ => {}
        }
        // Some work, in which an answer that settles the same entries may come to another consumer.
        sim.pause(chance, 150).await;
        let ask = StreamAsk::Acknowledge {
            group: group.to_owned(),
            consumer: name.to_owned(),
            spans: places.iter().map(|place| Span::of(*place)).collect(),
        };
        if self.insist(chance, ask).await.is_some() {
            self.lock().settled.entry(group).or_default().extend(places);
        }
    }
}
