//! Streams against a real engine in a temporary directory.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{Client, NewEntry, Place, Span, StreamEntry, StreamSettings, TakeOptions, TenantId, letter};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};

const TENANT: TenantId = TenantId(7);

async fn open(dir: &Path) -> Client {
    let engine = Engine::open(&EngineOptions::new(dir)).expect("the engine opens");
    engine.submit(TENANT, Command::PutTenant { name: "test".into() }).await.expect("the tenant is put");
    Client::new(engine, TENANT)
}

async fn close(client: Client) {
    let engine = client.engine().clone();
    drop(client);
    tokio::task::spawn_blocking(move || engine.shut_down()).await.expect("the engine shuts down");
}

fn entries(ids: impl IntoIterator<Item = u32>) -> Vec<NewEntry> {
    let entry = |id: u32| NewEntry {
        key: Some(format!("k{}", id % 7)),
        id: Some(format!("e{id}")),
        body: Bytes::from(id.to_string()),
    };
    ids.into_iter().map(entry).collect()
}

fn places(entries: &[StreamEntry]) -> Vec<Place> {
    entries.iter().map(|entry| entry.place).collect()
}

fn waiting(seconds: u64) -> TakeOptions {
    TakeOptions { wait: Duration::from_secs(seconds), ..TakeOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_taken_until_it_is_acknowledged_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let streams = client.streams();
    let published = streams.publish("s", entries(0..100)).await.expect("published");
    assert!(published.iter().all(|(_, duplicate)| !duplicate));
    let again = streams.publish("s", entries(90..110)).await.expect("published again");
    assert_eq!(again[..10], published[90..].iter().map(|(place, _)| (*place, true)).collect::<Vec<_>>());
    assert!(again[10..].iter().all(|(_, duplicate)| !duplicate));
    let first = streams.take("s", "g", "a", waiting(30)).await.expect("taken");
    assert_eq!(first.len(), 100, "as many as asked for");
    for entry in &first {
        let id = entry.row.id.as_deref().expect("an id");
        assert_eq!((id.strip_prefix('e'), entry.deliveries), (std::str::from_utf8(&entry.row.body).ok(), 1));
    }
    streams.ack("s", "g", "a", &places(&first[..60])).await.expect("acknowledged");
    close(client).await;

    let client = open(dir.path()).await;
    let streams = client.streams();
    let known = streams.publish("s", entries(0..3)).await.expect("published again");
    assert!(known.iter().all(|(_, duplicate)| *duplicate), "ids are known after a restart: {known:?}");
    let rest = streams.take("s", "g", "b", waiting(30)).await.expect("taken");
    assert_eq!(rest.len(), 50, "what was not acknowledged");
    streams.ack("s", "g", "b", &places(&rest)).await.expect("acknowledged");
    let view = streams.look("s").await.expect("a look").expect("a stream");
    assert_eq!((view.published, view.groups[0].waiting, view.groups[0].waiting_bytes), (110, 0, 0));
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_and_who_gave_up_waiting_keeps_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let streams = client.streams();
    // Gives up waiting in the middle of it.
    let gave_up = tokio::time::timeout(Duration::from_millis(30), streams.take("s", "g", "a", waiting(3_600))).await;
    assert!(gave_up.is_err(), "nothing came");
    let waits = tokio::spawn({
        let streams = streams.clone();
        async move { streams.take("s", "g", "a", waiting(3_600)).await }
    });
    streams.publish("s", entries(0..1)).await.expect("published");
    let taken = waits.await.expect("it ends").expect("taken");
    assert_eq!((taken.len(), taken[0].deliveries), (1, 1));
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_lies_with_its_reason_and_is_replayed_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let streams = client.streams();
    let settings = StreamSettings { partitions: Some(1), deliveries_max: Some(2), ..StreamSettings::default() };
    streams.put("s", settings).await.expect("a stream");
    streams.publish("s", entries(0..3)).await.expect("published");
    // By hand.
    let taken = streams.take("s", "g", "a", waiting(30)).await.expect("taken");
    let StreamEntry { place, row, .. } = taken[1].clone();
    let letters = vec![letter(place, row, 1, "no envelope".to_owned())];
    for _ in 0..2 {
        streams.give_up("s", "g", "a", letters.clone()).await.expect("given up");
    }
    streams.ack("s", "g", "a", &[taken[2].place]).await.expect("acknowledged");
    // And by being given back as often as may be.
    for times in 1..=2 {
        streams.give_back("s", "g", "a", vec![taken[0].place], "not today", Duration::ZERO).await.expect("given back");
        let again = streams.take("s", "g", "a", TakeOptions::default()).await.expect("taken");
        assert_eq!(again.len(), usize::from(times == 1), "twice in all, and then it is given up");
    }
    let dead = streams.take("dlq.s", "people", "p", waiting(30)).await.expect("taken");
    let reasons: Vec<_> =
        dead.iter().map(|entry| entry.row.dead.as_ref().expect("a dead letter").reason.clone()).collect();
    assert_eq!(reasons, ["no envelope", "handed out 2 times in vain: not today"]);
    assert_eq!(dead[0].row.id.as_deref(), Some("e1"), "a letter keeps its id");
    assert_eq!(streams.replay("dlq.s", 1_000).await.expect("replayed"), 2);
    assert_eq!(streams.replay("dlq.s", 1_000).await.expect("nothing to replay"), 0);
    let replayed = streams.take("s", "g", "a", waiting(30)).await.expect("taken");
    let bodies: Vec<&[u8]> = replayed.iter().map(|entry| &entry.row.body[..]).collect();
    assert_eq!(bodies, [b"1", b"0"]);
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_entries_come_in_pieces_and_none_is_counted_that_was_not_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let streams = client.streams();
    let body = Bytes::from(vec![b'x'; 256 * 1024]);
    for _ in 0..4 {
        let large = NewEntry { key: Some("k".to_owned()), id: None, body: body.clone() };
        streams.publish("s", vec![large; 30]).await.expect("published");
    }
    let mut came = 0;
    while came < 120 {
        let options = TakeOptions { max: 1_000, ..waiting(30) };
        let taken = streams.take("s", "g", "a", options).await.expect("taken");
        assert!(taken.len() < 120 && taken.iter().all(|entry| entry.deliveries == 1), "{} came", taken.len());
        came += taken.len();
        streams.ack("s", "g", "a", &places(&taken)).await.expect("acknowledged");
    }
    assert_eq!(came, 120);
    let view = streams.look("s").await.expect("a look").expect("a stream");
    let span = Span { generation: 0, partition: taken_partition(&view), from: 0, to: 120 };
    assert_eq!(streams.read(view.row.number, span, usize::MAX).await.expect("read").len(), 120);
    close(client).await;
}

fn taken_partition(view: &mainspring_client::view::StreamView) -> u16 {
    let parts = &view.groups[0].parts;
    parts.iter().find(|part| part.next > 0).expect("a partition with entries").partition
}
