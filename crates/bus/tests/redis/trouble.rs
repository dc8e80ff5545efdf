//! What can be wrong with Redis: each is said in words that name what to do, and is over when it is over.

use std::sync::Arc;
use std::time::Duration;

use mainspring_bus::conformance::{self, Patience};
use mainspring_bus::trouble::Kind;
use mainspring_bus::{Bus, BusError, Health, NewEntry, Redis, RedisBus, RedisBusOptions, RedisOptions};
use redis::Value;

use crate::server::{RedisServer, quick, setting};

fn connect(url: &str) -> Redis {
    Redis::new(&RedisOptions { timeout: Duration::from_millis(500), ..RedisOptions::new(url) }).unwrap()
}

async fn trouble_of(redis: &Redis) -> (Kind, String) {
    let trouble = redis.ping().await.unwrap_err();
    assert!(matches!(redis.health(), Health::Ill(known) if known.kind == trouble.kind));
    (trouble.kind, trouble.to_string())
}

async fn until_well(redis: &Redis) {
    let patience = Patience::with("Redis to be well");
    while let Err(trouble) = redis.ping().await {
        patience.or_give_up(trouble);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(redis.health(), Health::Well);
}

fn entry() -> Vec<NewEntry> {
    let body = bytes::Bytes::from(vec![b'x'; 100_000]);
    vec![NewEntry { id: "x".to_owned(), key: "k".to_owned(), body, place: None }]
}

#[tokio::test]
async fn nobody_at_the_address() {
    let server = RedisServer::start();
    let redis = server.redis();
    assert_eq!(redis.health(), Health::Unknown);
    until_well(&redis).await;
    server.kill();
    let (kind, said) = trouble_of(&redis).await;
    assert_eq!(kind, Kind::Unreachable);
    assert!(said.contains("check that it runs"), "{said}");
    server.run();
    until_well(&redis).await;
}

/// A future that is kept and not polled, as one beside others in a loop is, holds nobody up: neither while it makes a
/// connection nor while it waits for one.
#[tokio::test]
async fn a_call_nobody_goes_on_with_holds_up_no_other() {
    let server = RedisServer::start();
    for _ in 0..20 {
        let redis = server.redis();
        server.signal("-STOP");
        let (mut first, mut second) = (Box::pin(redis.ping()), Box::pin(redis.ping()));
        for kept in [&mut first, &mut second] {
            assert!(futures_util::poll!(kept).is_pending());
        }
        server.signal("-CONT");
        // Not a promise that it is answered at once, but that it is answered.
        until_well(&redis).await;
        assert!(first.await.is_ok() && second.await.is_ok());
    }
}

/// A group that was there already is no trouble.
#[tokio::test]
async fn a_group_that_is_there_is_no_trouble() {
    let server = RedisServer::start();
    let _: Value = server.ask(&["XGROUP", "CREATE", "s.p0", "g", "0", "MKSTREAM"]);
    let bus = server.bus(quick());
    bus.publish("s", entry()).await.unwrap();
    let redis = server.redis();
    until_well(&redis).await;
    let bus = RedisBus::new(redis.clone(), quick());
    while bus.take("s", "g", "c", 10, Duration::from_millis(50)).await.unwrap().is_empty() {}
    assert_eq!(redis.health(), Health::Well);
}

#[tokio::test]
async fn no_password_a_wrong_one_and_one_that_is_changed() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    for url in [server.url(), format!("redis://:wrong@127.0.0.1:{}", server.port)] {
        let (kind, said) = trouble_of(&connect(&url)).await;
        assert_eq!(kind, Kind::Credentials, "{said}");
        assert!(said.contains("password in redis.url") && !said.contains("wrong@"), "{said}");
    }
    until_well(&connect(&format!("redis://:right@127.0.0.1:{}", server.port))).await;
}

#[tokio::test]
async fn a_user_who_may_not() {
    let server = RedisServer::start();
    let _: Value = server.ask(&["ACL", "SETUSER", "reader", "on", ">secret", "~other*", "+@read", "+ping", "+client"]);
    let redis = connect(&format!("redis://reader:secret@127.0.0.1:{}", server.port));
    until_well(&redis).await;
    let refused = RedisBus::new(redis, quick()).publish("s", entry()).await.unwrap_err().to_string();
    assert!(refused.contains("does not permit") && refused.contains("docs/redis.md"), "{refused}");
}

#[tokio::test]
async fn tls_where_there_is_none() {
    let server = RedisServer::start();
    let (kind, said) = trouble_of(&connect(&format!("rediss://127.0.0.1:{}", server.port))).await;
    // A port without TLS waits for more of what it takes for a command.
    assert!(matches!(kind, Kind::Tls | Kind::Silent), "{said}");
    assert!(said.contains("rediss://"), "{said}");
}

#[tokio::test]
async fn a_replica_takes_no_writes_until_it_is_the_primary() {
    let primary = RedisServer::start();
    let replica = RedisServer::start();
    let bus = replica.bus(quick());
    bus.publish("s", entry()).await.unwrap();
    let _: Value = replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    let patience = Patience::with("a replica to refuse writes, and take them as a primary");
    let refused = loop {
        patience.or_give_up("it takes writes");
        match bus.publish("s", entry()).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert!(refused.is_passing(), "{refused}");
    // While it fetches the primary's data it may say that it is loading.
    while !matches!(bus.redis().health(), Health::Ill(known) if known.kind == Kind::ReadOnly) {
        patience.or_give_up(bus.publish("s", entry()).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _: Value = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    while let Err(error) = bus.publish("s", entry()).await {
        patience.or_give_up(error);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bus.redis().health(), Health::Well);
}

#[tokio::test]
async fn no_memory_left() {
    let server = RedisServer::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let bus = server.bus(quick());
    let patience = Patience::with("a Redis without memory to say so");
    let full = loop {
        patience.or_give_up("it takes more");
        if let Err(error) = bus.publish("s", entry()).await {
            break error;
        }
    };
    assert!(matches!(full, BusError::Away { .. }), "{full}");
    assert!(full.to_string().contains("maxmemory"), "{full}");
    let _: Value = server.ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    bus.publish("s", entry()).await.unwrap();
    assert_eq!(bus.redis().health(), Health::Well);
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_for_good() {
    let server = RedisServer::start();
    let _: Value = server.ask(&["SET", "s.p0", "something else"]);
    let bus = server.bus(RedisBusOptions { partitions: 1, ..quick() });
    let refused = bus.publish("s", entry()).await.unwrap_err();
    assert!(matches!(refused, BusError::Refused { .. }), "{refused}");
    assert_eq!(bus.redis().health(), Health::Well, "that is no trouble with Redis");
}

#[tokio::test]
async fn part_of_a_cluster_that_is_not_whole() {
    let server = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let bus = server.bus(quick());
    let down = bus.publish("s", entry()).await.unwrap_err();
    assert!(down.is_passing() && down.to_string().contains("cluster"), "{down}");
}

#[tokio::test]
async fn a_cluster_is_followed() {
    let server = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let _: Value = server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    // A node that has just started waits two seconds before it takes its cluster for whole. It answers by then.
    let options = RedisOptions { cluster: true, timeout: Duration::from_secs(1), ..RedisOptions::new(server.url()) };
    let redis = Redis::new(&options).unwrap();
    let bus = RedisBus::new(redis.clone(), quick());
    let patience = Patience::with("a cluster to be whole");
    while let Err(error) = bus.publish("s", entry()).await {
        assert!(error.to_string().contains("mend the cluster"), "{error}");
        patience.or_give_up(error);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(redis.health(), Health::Well);
    conformance::hold(Arc::new(RedisBus::new(redis, quick())), setting(&quick())).await;
}
