//! The bus of the engine's own streams, on a real engine: the laws every bus keeps, also over a restart.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainspring_bus::bus::{BODY_BYTES_MAX, ENTRIES_MAX};
use mainspring_bus::conformance::{self, Patience, Setting};
use mainspring_bus::{Bus, BusError, EmbeddedBus, EmbeddedBusOptions, Entry, EntryId, NewEntry, Settled};
use mainspring_client::{Client, StreamSettings, TenantId};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};

const TENANT: TenantId = TenantId(0xa);
const WAIT: Duration = Duration::from_millis(100);

/// An engine with a bus, that can be opened again on the same directory.
struct House {
    engine: Engine,
    bus: EmbeddedBus,
}

impl House {
    async fn open(dir: &Path, options: EmbeddedBusOptions) -> House {
        let engine = Engine::open(&EngineOptions::new(dir)).unwrap();
        engine.submit(TENANT, Command::PutTenant { name: "acme".to_owned() }).await.unwrap();
        let bus = EmbeddedBus::new(&Client::new(engine.clone(), TENANT), options);
        House { engine, bus }
    }

    async fn close(self) {
        let engine = self.engine;
        tokio::task::spawn_blocking(move || engine.shut_down()).await.unwrap();
    }
}

/// Short leases; the engine knows none below a second.
fn quick(partitions: u16) -> EmbeddedBusOptions {
    let settings = StreamSettings { partitions: Some(partitions), ..StreamSettings::default() };
    EmbeddedBusOptions { settings, lease: Duration::from_secs(1), ..EmbeddedBusOptions::default() }
}

fn entry(id: impl ToString, key: &str) -> NewEntry {
    NewEntry { id: id.to_string(), key: key.to_owned(), body: Bytes::from_static(b"{}"), place: None }
}

fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.entry.clone()).collect()
}

async fn take_all(bus: &EmbeddedBus, group: &str, consumer: &str, count: usize) -> Vec<Entry> {
    let mut taken = Vec::new();
    let patience = Patience::with(format!("{count} entries for {consumer} of {group}"));
    while taken.len() < count {
        patience.or_give_up(taken.len());
        taken.extend(bus.take("s", group, consumer, 100, WAIT).await.unwrap());
    }
    taken
}

async fn keeps_the_laws(partitions: u16) {
    let dir = tempfile::tempdir().unwrap();
    let options = quick(partitions);
    let setting = Setting {
        prefix: "law".to_owned(),
        lease: options.lease,
        deliveries_max: mainspring_core::stream::DELIVERIES_MAX_DEFAULT,
        partitions: u32::from(partitions),
    };
    let house = House::open(dir.path(), options).await;
    conformance::hold(Arc::new(house.bus.clone()), setting).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_laws_of_a_bus() {
    keeps_the_laws(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_them_without_partitions() {
    keeps_the_laws(1).await;
}

/// What Redis may forget, this one never does: what was published is there after a restart, and what was acknowledged
/// stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_and_repeats_only_what_was_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), quick(4)).await;
    house.bus.publish("s", (0..30).map(|n| entry(n, &format!("{}", n % 7))).collect()).await.unwrap();
    let taken = take_all(&house.bus, "g", "a", 30).await;
    house.bus.ack("s", "g", "a", &ids(&taken[..10])).await.unwrap();
    assert_eq!(house.bus.settled("s").await.unwrap(), Settled::All, "all of it is as safe as the log");
    house.close().await;

    let house = House::open(dir.path(), quick(4)).await;
    // As a relay does that does not know how far it got: the same under their ids.
    house.bus.publish("s", (0..35).map(|n| entry(n, &format!("{}", n % 7))).collect()).await.unwrap();
    // The same name as before, which has forgotten what it had in hand.
    let again = take_all(&house.bus, "g", "a", 25).await;
    let mut got: Vec<u32> = again.iter().map(|entry| entry.id.parse().unwrap()).collect();
    got.sort_unstable();
    let done: Vec<u32> = taken[..10].iter().map(|entry| entry.id.parse().unwrap()).collect();
    assert_eq!(got, (0..35).filter(|n| !done.contains(n)).collect::<Vec<_>>());
    house.bus.ack("s", "g", "a", &ids(&again)).await.unwrap();
    assert!(house.bus.take("s", "g", "a", 100, WAIT).await.unwrap().is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_decision_carries_is_published_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), quick(2)).await;
    let body = Bytes::from(vec![b'x'; BODY_BYTES_MAX]);
    let large = |n: u32| NewEntry { body: body.clone(), ..entry(n, "k") };
    let places = house.bus.publish("s", (0..100).map(large).collect()).await.unwrap();
    assert_eq!(places.len(), 100);
    let mut got = Vec::new();
    let patience = Patience::with("100 entries of 256 KiB");
    while got.len() < 100 {
        patience.or_give_up(got.len());
        let taken = house.bus.take("s", "g", "a", ENTRIES_MAX, WAIT).await.unwrap();
        house.bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
        got.extend(taken.into_iter().map(|entry| entry.id.parse::<u32>().unwrap()));
    }
    assert_eq!(got, (0..100).collect::<Vec<_>>());
    house.close().await;
}

/// A group that is expected has everything from the first entry on, and holds publishers up when it does not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_expected_misses_nothing_and_fills_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StreamSettings { waiting_max: Some(50), ..quick(2).settings };
    let groups_of = [("s".to_owned(), vec!["later".to_owned()])].into();
    let options = EmbeddedBusOptions { settings, groups_of, ..quick(2) };
    let house = House::open(dir.path(), options).await;
    house.bus.publish("s", (0..50).map(|n| entry(n, "k")).collect()).await.unwrap();
    let lag = house.bus.lag("s").await.unwrap();
    assert_eq!(lag.iter().filter(|one| one.group == "later").map(|one| one.backlog).sum::<u64>(), 50, "{lag:?}");
    let full = house.bus.publish("s", vec![entry("more", "k")]).await.unwrap_err();
    assert!(full.is_passing() && matches!(full, BusError::Full { max: 50, .. }), "{full}");
    let taken = take_all(&house.bus, "later", "a", 50).await;
    house.bus.ack("s", "later", "a", &ids(&taken)).await.unwrap();
    house.bus.publish("s", vec![entry("more", "k")]).await.unwrap();
    house.close().await;
}
