//! What goes out: everything at least once, under ids that stay, whatever becomes of Redis and of us.

use std::collections::BTreeMap;

use mainspring_client::SendOptions;
use mainspring_flows::{MessageBody, turn};
use redis::Value;

use crate::house::{House, OUTBOUND, message, session};
use crate::server::RedisServer;

/// Replies in a stream: text by id, in the order they came.
fn replies(server: &RedisServer) -> Vec<(String, String)> {
    let found: Vec<(String, Vec<(String, String)>)> = server.ask(&["XRANGE", OUTBOUND, "-", "+"]);
    let mut replies = Vec::new();
    for (_, fields) in found {
        let body = fields.iter().find(|(name, _)| name == "envelope").map(|(_, body)| body.as_str()).unwrap();
        let envelope: serde_json::Value = serde_json::from_str(body).unwrap();
        let text = envelope["payload"]["text"].as_str().unwrap_or_default().to_owned();
        replies.push((envelope["id"].as_str().unwrap().to_owned(), text));
    }
    replies
}

fn say(house: &House, who: &str, text: &str) {
    let body = MessageBody { text: text.to_owned(), ..MessageBody::default() };
    house.run(house.client.send(turn::WORKFLOW, &session(who), &body, SendOptions::default())).unwrap();
}

#[test]
fn replies_messages_and_events_go_out() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.until(async || house.client.feed_position("bus").await.unwrap().is_some());
    say(&house, "anna", "hello");
    house.until(async || !replies(&server).is_empty());
    let found = replies(&server);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, "hello");
    let schema: serde_json::Value = serde_json::from_str(mainspring_bus::envelope::SCHEMA).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for stream in [OUTBOUND, "events.routed.acme.web", "events.acf.acme"] {
        house.until(async || server.ask::<u64>(&["XLEN", stream]) > 0);
        let entries: Vec<(String, Vec<(String, String)>)> = server.ask(&["XRANGE", stream, "-", "+"]);
        for (_, fields) in entries {
            let body = &fields.iter().find(|(name, _)| name == "envelope").unwrap().1;
            let value: serde_json::Value = serde_json::from_str(body).unwrap();
            let wrong: Vec<String> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(wrong.is_empty(), "{stream}: {wrong:?} in {body}");
        }
    }
}

#[test]
fn a_long_reply_goes_out_whole() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.until(async || house.client.feed_position("bus").await.unwrap().is_some());
    // More than an event holds, and more than one message of the channel.
    let long: String = (0..30_000).map(|n| format!("word{n} ")).collect();
    say(&house, "anna", &long);
    say(&house, "ben", "short");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let whole = || {
        let of_anna = replies(&server).into_iter().filter(|(_, text)| text != "short");
        of_anna.flat_map(|(_, text)| words(&text)).collect::<Vec<_>>()
    };
    let short = || replies(&server).iter().any(|(_, text)| text == "short");
    house.until(async || short() && whole().len() >= 30_000);
    assert_eq!(whole(), words(&long));
}

/// H-77: what is said while Redis is away waits in the log.
#[test]
fn a_backlog_goes_out_when_redis_is_back() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.until(async || house.client.feed_position("bus").await.unwrap().is_some());
    say(&house, "anna", "before");
    house.until(async || replies(&server).len() == 1);
    server.kill();
    for n in 0..50 {
        say(&house, "anna", &format!("{n}"));
    }
    let spoken = house.said("anna", 51);
    server.run();
    let texts = || {
        replies(&server)
            .into_iter()
            .flat_map(|(_, text)| text.split('\n').map(str::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    house
        .until(async || server.try_ask::<u64>(&["XLEN", OUTBOUND]).unwrap_or(0) > 0 && texts().last() == spoken.last());
    // It came back empty, and nobody had acknowledged the first: that is there again as well.
    assert_eq!(texts(), spoken);
}

#[test]
fn a_flushed_redis_gets_again_what_nobody_acknowledged() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.until(async || house.client.feed_position("bus").await.unwrap().is_some());
    for (n, who) in ["anna", "ben", "cleo", "dora"].into_iter().enumerate() {
        say(&house, who, &format!("{n}"));
        house.until(async || replies(&server).len() == n + 1);
    }
    let first = replies(&server);
    // The sender takes all, and acknowledges two.
    let _: Value = server.ask(&["XREADGROUP", "GROUP", "senders", "x", "STREAMS", OUTBOUND, ">"]);
    let pending: Vec<(String, String, u64, u64)> = server.ask(&["XPENDING", OUTBOUND, "senders", "-", "+", "10"]);
    for (id, ..) in &pending[..2] {
        let _: u64 = server.ask(&["XACK", OUTBOUND, "senders", id]);
    }
    // What is settled goes on record before long.
    let seq_of = |id: &str| id.split_once('-').unwrap().1.parse::<u64>().unwrap() / 128;
    let needed = seq_of(&pending[2].0);
    house.until(async || house.client.feed_position("bus").await.unwrap().unwrap().seq == needed - 1);
    server.flush();
    house.until(async || replies(&server).len() >= 2);
    assert_eq!(replies(&server), first[2..], "the same, under the same ids");
    say(&house, "emil", "next");
    house.until(async || replies(&server).len() == 3);
}

#[test]
fn a_killed_process_repeats_under_the_same_ids() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let mut count = 0;
    for _ in 0..4 {
        let house = House::open(dir.path(), server.redis());
        house.until(async || house.client.feed_position("bus").await.unwrap().is_some());
        for _ in 0..20 {
            say(&house, &format!("person-{count}"), &format!("{count}"));
            count += 1;
        }
        // Killed when some are out and some not.
        house.until(async || replies(&server).len() + 10 > count);
        house.kill();
    }
    let house = House::open(dir.path(), server.redis());
    let texts = || {
        let mut by_id: BTreeMap<String, String> = BTreeMap::new();
        for (id, text) in replies(&server) {
            assert_eq!(by_id.entry(id).or_insert_with(|| text.clone()), &text, "one id, one text");
        }
        by_id.into_values().collect::<std::collections::BTreeSet<_>>()
    };
    house.until(async || texts().len() == count);
    assert_eq!(replies(&server).len(), count, "in Redis, which lost nothing, none is there twice");
}

#[test]
fn a_full_round_trip_over_the_bus() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    house.until(async || house.client.feed_position("bus").await.unwrap().is_some());
    for n in 0..20 {
        let _: String = server.ask(&[
            "XADD",
            crate::house::INBOUND,
            "*",
            "data",
            &message(&format!("m{n}"), "anna", &format!("{n}")),
        ]);
    }
    let texts = || {
        replies(&server)
            .into_iter()
            .flat_map(|(_, text)| text.split('\n').map(str::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    house.until(async || texts().len() == 20);
    assert_eq!(texts(), (0..20).map(|n| format!("{n}")).collect::<Vec<_>>());
}
