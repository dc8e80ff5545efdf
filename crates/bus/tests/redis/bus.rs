//! The bus itself: the laws every bus keeps, and what is particular to this one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mainspring_bus::conformance::{self, Patience};
use mainspring_bus::{Bus, BusError, Entry, EntryId, NewEntry, RedisBus, RedisBusOptions, Settled, partition_of};
use redis::Value;

use crate::server::{RedisServer, quick, setting};

const WAIT: Duration = Duration::from_millis(100);

fn at(n: u64, key: &str) -> NewEntry {
    // Later than any clock says, so that it is not old already.
    let place = Some((4_000_000_000_000 + n, n));
    NewEntry { id: format!("{n}"), key: key.to_owned(), body: Bytes::from_static(b"{}"), place }
}

fn ids(entries: &[Entry]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.entry.clone()).collect()
}

async fn take_all(bus: &RedisBus, stream: &str, consumer: &str, count: usize) -> Vec<Entry> {
    let mut taken = Vec::new();
    let patience = Patience::with(format!("{count} entries of {stream} for {consumer}"));
    while taken.len() < count {
        patience.or_give_up(&taken);
        taken.extend(bus.take(stream, "g", consumer, 100, WAIT).await.unwrap());
    }
    taken
}

#[tokio::test]
async fn it_keeps_the_laws_of_a_bus() {
    let server = RedisServer::start();
    let options = quick();
    let setting = setting(&options);
    conformance::hold(Arc::new(server.bus(options)), setting).await;
}

#[tokio::test]
async fn it_keeps_them_without_partitions() {
    let server = RedisServer::start();
    let options = RedisBusOptions { partitions: 0, ..quick() };
    let setting = setting(&options);
    conformance::hold(Arc::new(server.bus(options)), setting).await;
}

/// Two processes, each with a bus of its own, as nodes have.
#[tokio::test]
async fn consumers_of_two_processes_hand_partitions_over() {
    let server = RedisServer::start();
    let (one, two) = (server.bus(quick()), server.bus(quick()));
    let entries = |from: u64| (from..from + 100).map(|n| at(n, &format!("key {}", n % 20))).collect::<Vec<_>>();
    one.publish("s", entries(1)).await.unwrap();
    let first = take_all(&one, "s", "node", 100).await;
    one.ack("s", "g", "node", &ids(&first)).await.unwrap();
    // The same name in another process is another consumer.
    let (mut by_one, mut by_two, mut from) = (0, 0, 101);
    let patience = Patience::with("both processes to be handed something, each entry one of them");
    while by_one == 0 || by_two == 0 {
        one.publish("s", entries(from)).await.unwrap();
        from += 100;
        let mut seen = BTreeSet::new();
        while seen.len() < 100 {
            patience.or_give_up((by_one, by_two, &seen));
            for (bus, count) in [(&one, &mut by_one), (&two, &mut by_two)] {
                let taken = bus.take("s", "g", "node", 100, WAIT).await.unwrap();
                bus.ack("s", "g", "node", &ids(&taken)).await.unwrap();
                *count += taken.len();
                for entry in taken {
                    assert!(seen.insert(entry.id), "no entry comes to both");
                }
            }
            if seen.len() == 100 && by_two == 0 {
                by_one = 0;
            }
        }
    }
}

/// H-29: a consumer dies with fifty entries in hand.
#[tokio::test]
async fn what_a_dead_process_had_is_taken_over() {
    let server = RedisServer::start();
    let dead = server.bus(quick());
    dead.publish("s", (1..=50).map(|n| at(n, &format!("{}", n % 10))).collect()).await.unwrap();
    assert_eq!(take_all(&dead, "s", "a", 50).await.len(), 50);
    drop(dead);
    let heir = server.bus(quick());
    let again = take_all(&heir, "s", "b", 50).await;
    assert!(again.iter().all(|entry| entry.deliveries == 2));
    for key in 0..10 {
        let order: Vec<u64> =
            again.iter().filter(|entry| entry.key == format!("{key}")).map(|entry| entry.id.parse().unwrap()).collect();
        assert!(order.is_sorted(), "{order:?}");
    }
    heir.ack("s", "g", "b", &ids(&again)).await.unwrap();
    let lag = heir.lag("s").await.unwrap();
    assert!(lag.iter().all(|one| one.pending == 0 && one.backlog == 0), "{lag:?}");
}

/// Programs that know nothing of leases read the same group; what they leave is found by how long it is idle.
#[tokio::test]
async fn what_another_program_left_is_found() {
    let server = RedisServer::start();
    let bus = server.bus(RedisBusOptions { partitions: 0, ..quick() });
    for n in 1..=3 {
        let _: String = server.ask(&["XADD", "s", "*", "data", &format!("{{\"n\":{n}}}")]);
    }
    let _: Value = server.ask(&["XGROUP", "CREATE", "s", "g", "0"]);
    // Ours holds the partition before the other reads.
    assert!(bus.take("s", "g", "a", 0, Duration::ZERO).await.unwrap().is_empty());
    let read: Value = server.ask(&["XREADGROUP", "GROUP", "g", "other", "COUNT", "2", "STREAMS", "s", ">"]);
    assert_ne!(read, Value::Nil);
    let taken = take_all(&bus, "s", "a", 3).await;
    assert_eq!(taken.len(), 3);
    assert!(taken.iter().any(|entry| entry.deliveries == 2));
    bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_dropped_loses_nothing() {
    let server = RedisServer::start();
    let bus = Arc::new(server.bus(quick()));
    bus.publish("s", vec![at(1, "k")]).await.unwrap();
    let first = take_all(&bus, "s", "a", 1).await;
    bus.ack("s", "g", "a", &ids(&first)).await.unwrap();
    // It waits in Redis when it is dropped; the entry goes to nobody, or to a connection that nobody reads.
    for n in 2..=20 {
        let waiting = {
            let bus = bus.clone();
            tokio::spawn(async move { bus.take("s", "g", "a", 10, Duration::from_secs(60)).await })
        };
        tokio::time::sleep(Duration::from_millis(3 * (n % 4))).await;
        bus.publish("s", vec![at(n, "k")]).await.unwrap();
        waiting.abort();
        // It may have been quicker than we.
        if let Ok(Ok(taken)) = waiting.await {
            bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
            continue;
        }
        let taken = take_all(&bus, "s", "a", 1).await;
        assert_eq!(taken[0].id, format!("{n}"));
        bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
    }
}

/// H-32: a group that stalls keeps its entries from being trimmed, and publishing ends before memory does.
#[tokio::test]
async fn nothing_is_trimmed_that_a_group_needs() {
    let server = RedisServer::start();
    let options = RedisBusOptions { partitions: 0, entries_max: 100, keep: Duration::from_secs(1), ..quick() };
    let bus = server.bus(options);
    let entry = |n: u64| NewEntry { place: None, ..at(n, "k") };
    let _: Value = server.ask(&["XGROUP", "CREATE", "s", "slow", "0", "MKSTREAM"]);
    bus.publish("s", (0..60).map(entry).collect()).await.unwrap();
    let taken = take_all(&bus, "s", "a", 60).await;
    bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
    bus.trim("s").await.unwrap();
    assert_eq!(server.ask::<u64>(&["XLEN", "s"]), 60, "the slow group has read nothing");
    bus.publish("s", (60..100).map(entry).collect()).await.unwrap();
    let full = bus.publish("s", vec![entry(100)]).await.unwrap_err();
    assert!(matches!(full, BusError::Full { max: 100, .. }) && full.is_passing(), "{full}");
    // It reads half, and acknowledges all but one of that.
    let _: Value = server.ask(&["XREADGROUP", "GROUP", "slow", "x", "COUNT", "50", "STREAMS", "s", ">"]);
    let pending: Vec<(String, String, u64, u64)> = server.ask(&["XPENDING", "s", "slow", "-", "+", "50"]);
    for (id, ..) in pending.iter().skip(1) {
        let _: u64 = server.ask(&["XACK", "s", "slow", id]);
    }
    assert!(matches!(bus.publish("s", vec![entry(100)]).await, Err(BusError::Full { .. })));
    let _: u64 = server.ask(&["XACK", "s", "slow", &pending[0].0]);
    bus.publish("s", vec![entry(100)]).await.unwrap();
    let taken = take_all(&bus, "s", "a", 41).await;
    assert_eq!(taken.last().unwrap().id, "100");
    bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
    // By age, what nobody needs goes as well.
    let _: Value = server.ask(&["XGROUP", "DESTROY", "s", "slow"]);
    let patience = Patience::with("old entries that nobody needs to be trimmed");
    while server.ask::<u64>(&["XLEN", "s"]) > 0 {
        patience.or_give_up(());
        bus.trim("s").await.unwrap();
        tokio::time::sleep(WAIT).await;
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_is_not_settled() {
    let server = RedisServer::start();
    let groups_of = [("s".to_owned(), vec!["g".to_owned()])].into();
    let bus = server.bus(RedisBusOptions { partitions: 2, groups_of, ..quick() });
    assert_eq!(bus.settled("s").await.unwrap(), Settled::All);
    bus.publish("s", (1..=20).map(|n| at(n, &format!("{n}"))).collect()).await.unwrap();
    assert_eq!(bus.settled("s").await.unwrap(), Settled::Below(1), "the group is there before anybody reads for it");
    let taken = take_all(&bus, "s", "a", 20).await;
    let (done, rest): (Vec<Entry>, Vec<Entry>) =
        taken.into_iter().partition(|entry| entry.id != "7" && entry.id != "12");
    bus.ack("s", "g", "a", &ids(&done)).await.unwrap();
    assert_eq!(bus.settled("s").await.unwrap(), Settled::Below(7));
    bus.ack("s", "g", "a", &ids(&rest)).await.unwrap();
    assert_eq!(bus.settled("s").await.unwrap(), Settled::All);
}

/// H-34: Redis comes back with less than it had.
#[tokio::test]
async fn entries_that_are_lost_are_missed() {
    let server = RedisServer::start();
    let groups_of = [("s".to_owned(), vec!["g".to_owned()])].into();
    let bus = server.bus(RedisBusOptions { partitions: 0, groups_of, ..quick() });
    bus.publish("s", (1..=5).map(|n| at(n, "k")).collect()).await.unwrap();
    server.flush();
    assert!(matches!(bus.publish("s", vec![at(6, "k")]).await, Err(BusError::Lost { .. })), "before anything is added");
    assert_eq!(server.ask::<u64>(&["EXISTS", "s"]), 1, "its group waits already");
    bus.publish("s", (1..=6).map(|n| at(n, "k")).collect()).await.unwrap();
    assert_eq!(take_all(&bus, "s", "a", 6).await.len(), 6);
    // A replica that took over lacks the last two.
    let last: Vec<(String, Value)> = server.ask(&["XREVRANGE", "s", "+", "-", "COUNT", "2"]);
    for (id, _) in &last {
        let _: u64 = server.ask(&["XDEL", "s", id]);
    }
    let _: Value = server.ask(&["XSETID", "s", "4000000000004-4"]);
    assert_eq!(bus.settled("s").await.unwrap(), Settled::Lost);
    bus.publish("s", (1..=6).map(|n| at(n, "k")).collect()).await.unwrap();
    assert_eq!(server.ask::<u64>(&["XLEN", "s"]), 6, "what was still there is not there twice");
}

#[tokio::test]
async fn a_flushed_redis_is_read_on() {
    let server = RedisServer::start();
    let bus = server.bus(quick());
    for round in 0..3_u64 {
        // Without places, as producers do that do not publish again.
        let entries = (0..10).map(|n| NewEntry { place: None, ..at(round * 10 + n, &format!("{n}")) }).collect();
        bus.publish("s", entries).await.unwrap();
        let taken = take_all(&bus, "s", "a", 10).await;
        if round < 2 {
            server.flush();
        }
        bus.ack("s", "g", "a", &ids(&taken)).await.unwrap();
    }
}

#[tokio::test]
async fn while_redis_is_away_calls_say_so_and_then_go_on() {
    let server = RedisServer::start();
    let bus = server.bus(quick());
    bus.publish("s", vec![at(1, "k")]).await.unwrap();
    server.kill();
    let away = bus.publish("s", vec![at(2, "k")]).await.unwrap_err();
    assert!(away.is_passing() && away.to_string().contains("redis.url"), "{away}");
    assert!(bus.take("s", "g", "a", 1, WAIT).await.unwrap_err().is_passing());
    server.run();
    let entry = || NewEntry { place: None, ..at(3, "k") };
    let patience = Patience::with("Redis to be used again once it is back");
    while let Err(error) = bus.publish("s", vec![entry()]).await {
        patience.or_give_up(error);
        tokio::time::sleep(WAIT).await;
    }
    loop {
        patience.or_give_up("published, and not handed out");
        if bus.take("s", "g", "a", 1, WAIT).await.is_ok_and(|taken| taken.iter().any(|entry| entry.id == "3")) {
            break;
        }
    }
}

#[tokio::test]
async fn a_redis_that_says_nothing_is_not_waited_for_for_ever() {
    let server = RedisServer::start();
    let bus = server.bus(quick());
    bus.publish("s", vec![at(1, "k")]).await.unwrap();
    server.signal("-STOP");
    let began = Instant::now();
    let silent = bus.publish("s", vec![at(2, "k")]).await.unwrap_err();
    assert!(silent.to_string().contains("does not answer"), "{silent} after {:?}", began.elapsed());
    server.signal("-CONT");
    let patience = Patience::with("Redis to be used again once it answers");
    while let Err(error) = bus.publish("s", vec![at(2, "k")]).await {
        patience.or_give_up(error);
        tokio::time::sleep(WAIT).await;
    }
    // The one that was not answered came nevertheless: it is the same entry.
    let lengths: u64 = server.ask(&["XLEN", &format!("s.p{}", partition_of("k", 8))]);
    assert_eq!(lengths, 2);
}

/// A flush may come at any time, also right before an entry is added: its groups are there all the same.
#[tokio::test]
async fn a_group_that_was_flushed_is_there_before_the_next_entry() {
    let server = RedisServer::start();
    let groups_of = [("s".to_owned(), vec!["g".to_owned()])].into();
    let bus = server.bus(RedisBusOptions { partitions: 0, groups_of, ..quick() });
    let entry = |n| NewEntry { place: None, ..at(n, "k") };
    for n in 1..=2 {
        bus.publish("s", vec![entry(n)]).await.unwrap();
        assert_eq!(bus.settled("s").await.unwrap(), Settled::Below(0), "nobody has read it");
        server.flush();
    }
    // Somebody removes the group, and with it what it had not read.
    bus.publish("s", vec![at(3, "k")]).await.unwrap();
    let _: Value = server.ask(&["XGROUP", "DESTROY", "s", "g"]);
    assert_eq!(bus.settled("s").await.unwrap(), Settled::Lost);
    bus.publish("s", vec![at(3, "k")]).await.unwrap();
    assert_eq!(take_all(&bus, "s", "a", 1).await[0].id, "3", "it is there once, and not read");
}
