//! What comes in: each entry is taken once in effect, whatever becomes of Redis and of us.

use mainspring_bus::Bus;
use mainspring_flows::receipts::{self, DeliveryStatus};
use redis::Value;
use serde_json::json;

use crate::house::{House, INBOUND, message, session};
use crate::server::RedisServer;

fn add(server: &RedisServer, body: &str) -> String {
    server.ask(&["XADD", INBOUND, "*", "envelope", body])
}

fn dead(server: &RedisServer) -> Vec<(String, String)> {
    let found: Vec<(String, Vec<(String, String)>)> = server.ask(&["XRANGE", &format!("dlq.{INBOUND}"), "-", "+"]);
    let field = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    found.iter().map(|(_, fields)| (field(fields, "id"), field(fields, "reason"))).collect()
}

#[test]
fn messages_become_turns_in_order_and_are_acknowledged() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    for n in 0..200 {
        add(&server, &message(&format!("m{n}"), &format!("person-{}", n % 5), &format!("{n}")));
    }
    let house = House::open(dir.path(), server.redis());
    for person in 0..5 {
        let said = house.said(&format!("person-{person}"), 40);
        let expected: Vec<String> = (0..40).map(|n| format!("{}", n * 5 + person)).collect();
        assert_eq!(said, expected);
    }
    house.until(async || house.lag(INBOUND, "runtime").await == (0, 0));
    assert_eq!(dead(&server), []);
    house.stop();
}

#[test]
fn what_comes_again_is_the_same_message() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    for _ in 0..3 {
        add(&server, &message("m1", "anna", "once"));
    }
    // H-34: whoever lost track publishes it anew under another envelope, but the provider's id is the same.
    for id in ["e1", "e2"] {
        let again = json!({
            "id": id, "channel": "web", "channel_user_id": "anna",
            "content": { "text": "by its provider's id" }, "provider_message_id": "p1",
        });
        add(&server, &again.to_string());
    }
    add(&server, &message("m2", "anna", "twice"));
    assert_eq!(house.said("anna", 3), ["once", "by its provider's id", "twice"]);
    house.until(async || house.lag(INBOUND, "runtime").await == (0, 0));
    assert_eq!(house.said("anna", 3).len(), 3);
}

/// H-30: entries that were taken, and whose acknowledgement was lost, are handed out again.
#[test]
fn a_lost_acknowledgement_repeats_nothing() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    for n in 0..20 {
        add(&server, &message(&format!("m{n}"), "anna", &format!("{n}")));
    }
    assert_eq!(house.said("anna", 20).len(), 20);
    house.kill();
    // As if no XACK had arrived: the group is at the beginning again.
    let _: Value = server.ask(&["XGROUP", "SETID", INBOUND, "runtime", "0"]);
    let house = House::open(dir.path(), server.redis());
    add(&server, &message("last", "anna", "last"));
    let said = house.said("anna", 21);
    assert_eq!(said.len(), 21);
    assert_eq!(said.last().map(String::as_str), Some("last"));
    house.until(async || house.lag(INBOUND, "runtime").await == (0, 0));
}

#[test]
fn a_killed_process_takes_up_what_it_had_in_hand() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let mut expected = Vec::new();
    // Once more, and the first entries might have been in hand as often as an entry may be.
    for round in 0..4 {
        let house = House::open(dir.path(), server.redis());
        for n in 0..30 {
            let text = format!("{round}/{n}");
            add(&server, &message(&text, "anna", &text));
            expected.push(text);
        }
        house.until(async || house.lag(INBOUND, "runtime").await.0 < 30);
        house.kill();
    }
    let house = House::open(dir.path(), server.redis());
    assert_eq!(house.said("anna", expected.len()), expected);
    assert_eq!(dead(&server), []);
}

#[test]
fn what_is_no_envelope_goes_to_the_dead_letters_with_the_reason() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    add(&server, "{");
    add(&server, &json!({ "id": "other", "tenant": "other", "payload": { "text": "x" } }).to_string());
    let to = |agent: &str| json!({ "id": agent, "agent": agent, "channel": "web", "interlocutor": "anna", "payload": { "text": "x" } });
    add(&server, &to("nobody").to_string());
    add(&server, &json!({ "id": "who", "payload": { "text": "x" } }).to_string());
    add(&server, &message("large", "anna", &"x".repeat(300_000)));
    add(&server, &message("good", "anna", "good"));
    assert_eq!(house.said("anna", 1), ["good"]);
    house.until(async || house.lag(INBOUND, "runtime").await == (0, 0));
    let mut dead = dead(&server);
    dead.sort_by_key(|(_, reason)| reason.clone());
    assert_eq!(dead.len(), 5, "{dead:?}");
    for said in ["is no JSON", "is \"other\"", "\"nobody\" is configured", "interlocutor is missing", "at most"] {
        assert!(dead.iter().any(|(_, reason)| reason.contains(said)), "{said}: {dead:?}");
    }
}

#[test]
fn flat_fields_of_an_older_gateway_are_read() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    let fields =
        ["tenant_id", "acme", "channel", "web", "channel_user_id", "anna", "content", "hello", "timestamp", "5"];
    let words: Vec<&str> = ["XADD", INBOUND, "*"].into_iter().chain(fields).collect();
    let _: String = server.ask(&words);
    assert_eq!(house.said("anna", 1), ["hello"]);
}

/// H-77: Redis is down while people write by HTTP; H-35: no hint about an interrupt ever arrives.
#[test]
fn without_redis_turns_go_on() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    add(&server, &message("m1", "anna", "before"));
    assert_eq!(house.said("anna", 1), ["before"]);
    server.kill();
    let body = mainspring_flows::MessageBody { text: "meanwhile".to_owned(), ..Default::default() };
    let key = session("anna");
    let sent = house.client.send(mainspring_flows::turn::WORKFLOW, &key, &body, Default::default());
    house.run(sent).unwrap();
    assert_eq!(house.said("anna", 2), ["before", "meanwhile"]);
    server.run();
    // It comes back empty; the group is made anew.
    let mut interrupt: serde_json::Value = serde_json::from_str(&message("m2", "anna", "after")).unwrap();
    interrupt["type"] = "interrupt".into();
    add(&server, &interrupt.to_string());
    assert_eq!(house.said("anna", 3), ["before", "meanwhile", "after"]);
}

#[test]
fn an_engine_that_starts_without_redis_takes_it_up_later() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    server.kill();
    let house = House::open(dir.path(), server.redis());
    house.run(async { tokio::time::sleep(std::time::Duration::from_millis(300)).await });
    server.run();
    add(&server, &message("m1", "anna", "hello"));
    assert_eq!(house.said("anna", 1), ["hello"]);
}

/// H-36 over the bus: read, delivered, sent.
#[test]
fn receipts_only_go_forward() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    add(&server, &message("m1", "anna", "hello"));
    house.said("anna", 1);
    let scope = session("anna");
    let events = house.run(house.client.events_before(Some(&scope), u64::MAX, 100)).unwrap();
    let sent = events.iter().find(|(_, event)| event.name == "reply.sent").unwrap();
    let sent: serde_json::Value = serde_json::from_slice(&sent.1.data).unwrap();
    let reply_id = sent["reply_id"].as_str().unwrap();
    let receipt = |status: &str| {
        let payload = json!({ "reply_id": reply_id, "status": status, "provider_message_id": "p9" });
        json!({ "type": "receipt", "tenant": "acme", "channel": "web", "payload": payload }).to_string()
    };
    for status in ["read", "delivered", "sent"] {
        add(&server, &receipt(status));
    }
    add(&server, &json!({ "type": "receipt", "payload": { "status": "read", "reply_id": "unknown:0" } }).to_string());
    house.until(async || house.lag(INBOUND, "runtime").await == (0, 0) && dead(&server).len() == 1);
    let record = house.run(receipts::delivery(&house.client, reply_id)).unwrap().unwrap();
    assert_eq!((record.status, record.session), (DeliveryStatus::Read, scope));
    assert!(dead(&server)[0].1.contains("of no reply"), "{:?}", dead(&server));
    assert_eq!(house.said("anna", 1), ["hello"], "a receipt starts no turn");
}

/// A session over its limit waits, and holds up nobody else.
#[test]
fn a_limit_holds_up_one_session_only() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open_with(dir.path(), server.redis(), |settings| {
        settings.protection.session_messages_per_minute = 3;
    });
    for n in 0..6 {
        add(&server, &message(&format!("a{n}"), "anna", &format!("{n}")));
    }
    add(&server, &message("b", "ben", "me too"));
    assert_eq!(house.said("ben", 1), ["me too"]);
    assert_eq!(house.said("anna", 3), ["0", "1", "2"]);
    house.until(async || house.lag(INBOUND, "runtime").await == (0, 3));
}

#[test]
fn whoever_leaves_in_order_is_followed_at_once() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let house = House::open(dir.path(), server.redis());
    add(&server, &message("m1", "anna", "hello"));
    house.said("anna", 1);
    house.stop();
    let bus = server.bus(crate::house::options());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lag = runtime.block_on(bus.lag(INBOUND)).unwrap();
    assert!(lag.iter().all(|one| one.held_by.is_none() && one.pending == 0), "{lag:?}");
}
