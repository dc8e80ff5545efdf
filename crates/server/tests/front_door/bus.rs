//! Streams over HTTP: what was published is handed out until it is acknowledged, through crashes, hand-overs, poison and
//! another number of partitions.

use mainspring_core::limit::Limits;
use mainspring_server::auth::{COOKIE, Scope};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Server, Setup, TENANT_A, TENANT_B, User, eventually, in_time};

async fn publish(user: &User, stream: &str, entries: &[(&str, &str)]) -> Answer {
    let entries: Vec<Value> =
        entries.iter().map(|(key, id)| json!({ "key": key, "id": id, "body": { "says": id } })).collect();
    user.post(&format!("/v1/streams/{stream}/entries"), &json!({ "entries": entries })).await
}

async fn take(user: &User, stream: &str, consumer: &str, more: Value) -> Vec<Value> {
    let mut body = json!({ "consumer": consumer });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let taken = user.post(&format!("/v1/streams/{stream}/groups/g/take"), &body).await.ok();
    taken["entries"].as_array().expect("entries").clone()
}

/// Takes until everything that is expected has come, acknowledging nothing.
async fn take_all(user: &User, stream: &str, consumer: &str, ids: &[&str]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    while all.len() < ids.len() {
        all.extend(take(user, stream, consumer, json!({ "wait_ms": 20_000 })).await);
    }
    let mut found = ids_of(&all);
    found.sort();
    assert_eq!(found, ids);
    all
}

fn ids_of(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|entry| entry["id"].as_str().expect("an id").to_owned()).collect()
}

async fn settle(user: &User, verb: &str, consumer: &str, entries: &[Value], more: Value) -> Answer {
    let places: Vec<&Value> = entries.iter().map(|entry| &entry["entry"]).collect();
    let mut body = json!({ "consumer": consumer, "entries": places });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    user.post(&format!("/v1/streams/orders/groups/g/{verb}"), &body).await
}

async fn ack(user: &User, consumer: &str, entries: &[Value]) {
    let answer = settle(user, "ack", consumer, entries, json!({})).await;
    assert_eq!(answer.status, 204, "{}", answer.text);
}

async fn group(user: &User, stream: &str) -> Value {
    user.get(&format!("/v1/streams/{stream}")).await.ok()["groups"][0].clone()
}

async fn one_partition(user: &User) {
    user.put("/v1/streams/orders", &json!({ "partitions": 1 })).await.ok();
}

#[tokio::test]
async fn what_is_published_is_handed_out_until_it_is_acknowledged_also_after_a_crash() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    one_partition(&user).await;
    let published = publish(&user, "orders", &[("ann", "e1"), ("ann", "e2"), ("ann", "e3")]).await;
    assert_eq!(published.status, 201, "{}", published.text);
    assert_eq!(published.body["entries"][2], json!({ "entry": "0-0-2", "duplicate": false }));
    let entries = take_all(&user, "orders", "c1", &["e1", "e2", "e3"]).await;
    assert_eq!((&entries[0]["body"], &entries[0]["key"]), (&json!({ "says": "e1" }), &json!("ann")));
    ack(&user, "c1", &entries[..1]).await;
    assert_eq!(take(&user, "orders", "c1", json!({})).await, Vec::<Value>::new(), "the rest is with it already");

    // Killed with old tables: all of it is read from the log.
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(group(&user, "orders").await["waiting"], 2);
    let again = publish(&user, "orders", &[("ann", "e2"), ("ann", "e4")]).await;
    assert_eq!(again.body["entries"][0], json!({ "entry": "0-0-1", "duplicate": true }));
    let entries = take_all(&user, "orders", "c2", &["e2", "e3", "e4"]).await;
    assert_eq!(ids_of(&entries), ["e2", "e3", "e4"], "in order");
    ack(&user, "c2", &entries).await;
    let server = server.restart().await;
    let user = server.user().await;
    assert_eq!(take(&user, "orders", "c1", json!({})).await, Vec::<Value>::new());
    assert_eq!(group(&user, "orders").await["waiting"], 0);
}

#[tokio::test]
async fn whoever_waits_is_told_when_something_comes() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    let waiting = tokio::spawn({
        let user = user.clone();
        async move { take(&user, "orders", "c1", json!({ "wait_ms": 30_000 })).await }
    });
    eventually("it waits", || async {
        let shown = user.get("/v1/streams/orders").await;
        (shown.status == 200 && shown.body["groups"][0]["consumers"][0]["name"] == "c1").then_some(())
    })
    .await;
    publish(&user, "orders", &[("ann", "e1")]).await;
    let entries = in_time("it is told", waiting).await.expect("a taking");
    assert_eq!(ids_of(&entries), ["e1"]);
}

#[tokio::test]
async fn an_answer_that_never_arrived_is_not_lost() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    one_partition(&user).await;
    publish(&user, "orders", &[("ann", "e1"), ("ann", "e2")]).await;
    take_all(&user, "orders", "c1", &["e1", "e2"]).await;
    let entries = take(&user, "orders", "c1", json!({ "again": true })).await;
    assert_eq!((ids_of(&entries), &entries[0]["deliveries"]), (vec!["e1".to_owned(), "e2".to_owned()], &json!(2)));
    ack(&user, "c1", &entries).await;
    // Who hangs up while it waits gets nothing, and what came just then goes to whoever asks next.
    let waits = user.request(Method::POST, "/v1/streams/orders/groups/g/take");
    let waits =
        waits.json(&json!({ "consumer": "c1", "wait_ms": 30_000 })).timeout(std::time::Duration::from_millis(50));
    assert!(waits.send().await.is_err(), "nothing came in time");
    publish(&user, "orders", &[("ann", "e3")]).await;
    let entries = take(&user, "orders", "c1", json!({ "wait_ms": 20_000 })).await;
    assert_eq!((ids_of(&entries), &entries[0]["deliveries"]), (vec!["e3".to_owned()], &json!(1)));
}

/// H-29 and H-30: a consumer that is lost loses nothing, and what it says late does no harm.
#[tokio::test]
async fn what_a_lost_consumer_had_goes_to_another_and_its_late_word_is_harmless() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    one_partition(&user).await;
    let ids: Vec<String> = (10..60).map(|nth| format!("e{nth}")).collect();
    let entries: Vec<(&str, &str)> = ids.iter().map(|id| ("ann", id.as_str())).collect();
    publish(&user, "orders", &entries).await;
    let wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
    let lost = take_all(&user, "orders", "lost", &wanted).await;
    // The shortest lease is a second; another waits for it to lapse.
    take(&user, "orders", "lost", json!({ "max": 0, "lease_ms": 1_000 })).await;
    let entries = take_all(&user, "orders", "heir", &wanted).await;
    assert_eq!(ids_of(&entries), ids, "all of them, in order");
    assert!(entries.iter().all(|entry| entry["deliveries"] == 2), "{entries:?}");
    ack(&user, "lost", &lost[..20]).await;
    ack(&user, "heir", &entries).await;
    ack(&user, "lost", &lost).await;
    let shown = group(&user, "orders").await;
    assert_eq!((&shown["waiting"], &shown["pending"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn whoever_leaves_hands_over_at_once() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    one_partition(&user).await;
    publish(&user, "orders", &[("ann", "e1"), ("ann", "e2")]).await;
    take_all(&user, "orders", "c1", &["e1", "e2"]).await;
    let waiting = tokio::spawn({
        let user = user.clone();
        async move { take(&user, "orders", "c2", json!({ "wait_ms": 30_000 })).await }
    });
    let left = user.post("/v1/streams/orders/groups/g/leave", &json!({ "consumer": "c1" })).await;
    assert_eq!(left.status, 204);
    assert_eq!(ids_of(&in_time("it goes to the other", waiting).await.expect("a taking")), ["e1", "e2"]);
}

/// H-31: an entry that fails again and again becomes a dead letter with its cause, its partition goes on, and it can be
/// published again.
#[tokio::test]
async fn poison_becomes_a_dead_letter_and_can_be_replayed() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    user.put("/v1/streams/orders", &json!({ "partitions": 1, "deliveries_max": 3 })).await.ok();
    publish(&user, "orders", &[("ann", "bad"), ("ann", "good")]).await;
    for delivery in 1..=3 {
        let entries = take(&user, "orders", "c1", json!({ "wait_ms": 20_000, "max": 1 })).await;
        assert_eq!((ids_of(&entries), &entries[0]["deliveries"]), (vec!["bad".to_owned()], &json!(delivery)));
        let back = settle(&user, "nack", "c1", &entries, json!({ "reason": "it falls over", "after_ms": 1 })).await;
        assert_eq!(back.status, 204, "{}", back.text);
    }
    let entries = take(&user, "orders", "c1", json!({ "wait_ms": 20_000 })).await;
    assert_eq!(ids_of(&entries), ["good"], "the partition goes on");
    ack(&user, "c1", &entries).await;
    let shown = user.get("/v1/streams/orders").await.ok();
    assert_eq!((&shown["dead_letters"], &shown["groups"][0]["waiting"]), (&json!(1), &json!(0)));

    let dead = take(&user, "dlq.orders", "person", json!({})).await;
    assert_eq!(dead[0]["dead"]["reason"], "handed out 3 times in vain: it falls over");
    assert_eq!((&dead[0]["dead"]["group"], &dead[0]["dead"]["entry"]), (&json!("g"), &json!("0-0-0")));
    assert_eq!(dead[0]["body"], json!({ "says": "bad" }));
    for replayed in [1, 0] {
        let answer = user.post("/v1/streams/dlq.orders/replay", &json!({})).await.ok();
        assert_eq!(answer["replayed"], replayed, "each letter once");
    }
    let entries = take(&user, "orders", "c1", json!({ "wait_ms": 20_000 })).await;
    assert_eq!((&entries[0]["body"], &entries[0]["deliveries"]), (&json!({ "says": "bad" }), &json!(1)));
    let wrong = user.post("/v1/streams/orders/replay", &json!({})).await;
    assert_eq!((wrong.status, &wrong.body["code"]), (400, &json!("not_dead_letters")));
}

#[tokio::test]
async fn a_consumer_may_give_up_at_once() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    one_partition(&user).await;
    publish(&user, "orders", &[("ann", "e1"), ("ann", "e2")]).await;
    let entries = take_all(&user, "orders", "c1", &["e1", "e2"]).await;
    for _ in 0..2 {
        let answer = settle(&user, "dead-letter", "c1", &entries[..1], json!({ "reason": "no envelope" })).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
    let dead = take(&user, "dlq.orders", "c1", json!({})).await;
    assert_eq!((dead.len(), &dead[0]["dead"]["reason"]), (1, &json!("no envelope")), "once, however often it is said");
    assert_eq!(group(&user, "orders").await["waiting"], 1);
}

/// H-33: while the number of partitions changes, a key is never with two consumers, and stays in order.
#[tokio::test]
async fn another_number_of_partitions_keeps_the_order_of_each_key() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    user.put("/v1/streams/orders", &json!({ "partitions": 8 })).await.ok();
    let keys: Vec<String> = (0..20).map(|nth| format!("k{nth}")).collect();
    let round = |nth: usize| keys.iter().map(move |key| (key.clone(), format!("{key}-{nth}"))).collect::<Vec<_>>();
    let publish_round = |nth: usize| {
        let (user, entries) = (user.clone(), round(nth));
        async move {
            let entries: Vec<(&str, &str)> = entries.iter().map(|(key, id)| (key.as_str(), id.as_str())).collect();
            assert_eq!(publish(&user, "orders", &entries).await.status, 201);
        }
    };
    publish_round(0).await;
    // Two consumers, so that old and new partitions could be read by different ones.
    let first = take(&user, "orders", "c1", json!({ "max": 5 })).await;
    let changed = user.put("/v1/streams/orders", &json!({ "partitions": 16 })).await.ok();
    assert_eq!((&changed["partitions"], &changed["generation"]), (&json!(16), &json!(1)));
    publish_round(1).await;
    let mut came: Vec<Value> = Vec::new();
    ack(&user, "c1", &first).await;
    came.extend(first);
    while came.len() < 40 {
        for consumer in ["c2", "c1"] {
            let entries = take(&user, "orders", consumer, json!({ "max": 3 })).await;
            if entries.iter().any(|entry| entry["entry"].as_str().is_some_and(|place| place.starts_with("1-"))) {
                let old = came.iter().filter(|entry| entry["id"].as_str().is_some_and(|id| id.ends_with("-0")));
                assert_eq!(old.count(), 20, "the old partitions are read to their end first");
            }
            ack(&user, consumer, &entries).await;
            came.extend(entries);
        }
    }
    for key in &keys {
        let of: Vec<String> = ids_of(&came).into_iter().filter(|id| id.starts_with(&format!("{key}-"))).collect();
        assert_eq!(of, [format!("{key}-0"), format!("{key}-1")]);
    }
}

/// H-32: publishing is refused before anything would be lost, and says for whom.
#[tokio::test]
async fn a_full_stream_says_so_and_loses_nothing() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    user.put("/v1/streams/orders", &json!({ "partitions": 1, "waiting_max": 2 })).await.ok();
    publish(&user, "orders", &[("ann", "e1"), ("ann", "e2")]).await;
    let entries = take_all(&user, "orders", "c1", &["e1", "e2"]).await;
    let full = publish(&user, "orders", &[("ann", "e3")]).await;
    assert_eq!((full.status, &full.body["code"]), (429, &json!("stream_full")), "{}", full.text);
    assert!(full.body["detail"].as_str().is_some_and(|detail| detail.contains("\"g\"")), "{}", full.text);
    assert!(full.headers.contains_key("retry-after"));
    ack(&user, "c1", &entries).await;
    assert_eq!(publish(&user, "orders", &[("ann", "e3")]).await.status, 201);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_in_words() {
    let limits = Limits { stream_entry_bytes_max: 64, stream_entries_max: 2, ..Limits::default() };
    let server = Setup::new().limits(limits).start().await;
    let user = server.user().await;
    let entries = |body: Value| {
        let user = user.clone();
        async move { user.post("/v1/streams/orders/entries", &body).await }
    };
    for (body, status, code) in [
        (json!({ "entries": [] }), 422, "empty"),
        (json!({ "key": "ann" }), 400, "body_missing"),
        (json!({ "body": 1, "body_base64": "eA==" }), 400, "body_missing"),
        (json!({ "body_base64": "?" }), 400, "body_malformed"),
        (json!({ "body": "x".repeat(64) }), 413, "too_large"),
        (json!({ "body": 1, "colour": "red" }), 400, "json_malformed"),
        (json!({ "entries": [{ "body": 1 }, { "body": 2 }, { "body": 3 }] }), 429, "limit_reached"),
    ] {
        let answer = entries(body.clone()).await;
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{body}: {}", answer.text);
    }
    assert_eq!(user.get("/v1/streams/orders").await.status, 404, "nothing was published");
    for bad in ["a%20b", "a*", "%7Btenant%7D"] {
        let answer = user.post(&format!("/v1/streams/{bad}/entries"), &json!({ "body": 1 })).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("name_malformed")), "{bad}");
    }
    entries(json!({ "body": 1 })).await.ok();
    take(&user, "orders", "c1", json!({})).await;
    for (entry, status, code) in [("nonsense", 400, "entry_malformed"), ("0-0-99", 404, "entry_unknown")] {
        let answer = settle(&user, "ack", "c1", &[json!({ "entry": entry })], json!({})).await;
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{}", answer.text);
    }
    let none = user.post("/v1/streams/orders/groups/none/ack", &json!({ "consumer": "c", "entries": ["0-0-0"] })).await;
    assert_eq!((none.status, &none.body["code"]), (404, &json!("stream_group_unknown")));
    // What is no JSON comes back as it went in.
    entries(json!({ "key": "b", "body_base64": "AP8=" })).await.ok();
    let taken = take(&user, "orders", "c1", json!({})).await;
    assert_eq!((&taken[0]["body_base64"], &taken[0]["body"]), (&json!("AP8="), &Value::Null));
}

#[tokio::test]
async fn streams_are_their_tenants_and_need_the_scope() {
    let server = Setup::new().start().await;
    let (ours, theirs) = (server.user().await, server.user_of(TENANT_B).await);
    publish(&ours, "orders", &[("ann", "e1")]).await;
    assert_eq!(theirs.get("/v1/streams/orders").await.status, 404);
    assert_eq!(take(&theirs, "orders", "c1", json!({})).await, Vec::<Value>::new());
    assert_eq!(theirs.get("/v1/streams").await.ok()["streams"][0]["published"], 0, "one of its own");
    let reader = server.with_token(&server.token(TENANT_A, &[Scope::Read], 60).await);
    assert_eq!(reader.get("/v1/streams/orders").await.status, 200);
    assert_eq!(publish(&reader, "orders", &[("ann", "e2")]).await.status, 403);
    let take = reader.post("/v1/streams/orders/groups/g/take", &json!({ "consumer": "c" })).await;
    assert_eq!(take.status, 403);
    assert_eq!(reader.bare(Method::GET, "/v1/streams").send().await.expect("an answer").status(), 401);
}

/// The blocks of an event stream: id and data.
async fn heard(response: &mut reqwest::Response, wanted: usize) -> Vec<(String, Value)> {
    let (mut text, mut heard) = (String::new(), Vec::new());
    while heard.len() < wanted {
        let chunk = in_time("the stream says something", response.chunk()).await.expect("a chunk").expect("more");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        while let Some((block, rest)) = text.split_once("\n\n") {
            let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let (Some(id), Some(data)) = (line("id:"), line("data:")) {
                heard.push((id.to_owned(), serde_json::from_str(data).expect("JSON")));
            }
            text = rest.to_owned();
        }
    }
    heard
}

#[tokio::test]
async fn a_stream_can_be_followed_without_a_group_and_resumed() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    user.put("/v1/streams/orders", &json!({ "partitions": 2 })).await.ok();
    publish(&user, "orders", &[("k0", "e1"), ("k1", "e2"), ("k0", "e3")]).await;
    let follow = |query: &str| user.request(Method::GET, &format!("/v1/streams/orders/events{query}"));
    let mut all = follow("?from=start").send().await.expect("an answer");
    let first = heard(&mut all, 3).await;
    let mut ids: Vec<&str> = first.iter().filter_map(|(_, entry)| entry["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["e1", "e2", "e3"]);

    let mut live = follow("").send().await.expect("an answer");
    user.put("/v1/streams/orders", &json!({ "partitions": 3 })).await.ok();
    publish(&user, "orders", &[("k0", "e4")]).await;
    assert_eq!(heard(&mut live, 1).await[0].1["id"], "e4");
    assert_eq!(heard(&mut all, 1).await[0].1["id"], "e4");
    let mut resumed = follow("").header("last-event-id", &first[1].0).send().await.expect("an answer");
    let rest = heard(&mut resumed, 2).await;
    assert_eq!((&rest[0].1["id"], &rest[1].1["id"]), (&first[2].1["id"], &json!("e4")));
    for bad in ["x", "0:1", "7:0,0"] {
        let answer = Answer::of(follow("").header("last-event-id", bad)).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("event_id_malformed")), "{bad}");
    }
    assert_eq!(user.get("/v1/streams/none/events").await.status, 404);
}

#[tokio::test]
async fn the_pages_and_metrics_show_who_is_behind_and_why() {
    let server = Setup::new().start().await;
    let user = server.user().await;
    one_partition(&user).await;
    publish(&user, "orders", &[("ann", "e1"), ("ann", "e2")]).await;
    let entries = take_all(&user, "orders", "<c1>", &["e1", "e2"]).await;
    ack(&user, "<c1>", &entries[..1]).await;
    let shown = group(&user, "orders").await;
    assert_eq!((&shown["waiting"], &shown["pending"]), (&json!(1), &json!(1)));
    assert!(shown["oldest_at"].is_u64() && shown["partitions"][0]["oldest_at"].is_u64(), "{shown}");
    assert_eq!(shown["partitions"][0]["held_by"], "<c1>");
    let why = shown["partitions"][0]["why"].as_str().expect("a reason");
    assert!(why.contains("consumer \"<c1>\" has 1 of it in hand"), "{why}");

    let page = |path: &str| user.bare(Method::GET, path).header("cookie", format!("{COOKIE}={}", user.token()));
    let list = Answer::of(page("/streams")).await;
    assert!(list.status == 200 && list.text.contains(r#"href="/streams/orders""#), "{}", list.text);
    let one = Answer::of(page("/streams/orders")).await;
    assert!(
        one.status == 200 && one.text.contains("of it in hand, and holds it") && !one.text.contains("<c1>"),
        "{}",
        one.text
    );
    assert_eq!(Answer::of(page("/streams/none")).await.status, 404);
    let metrics = user.get("/metrics").await.text;
    for line in ["mainspring_stream_lag 1", "mainspring_stream_pending 1", "mainspring_stream_entries_total 2"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let left = user.post("/v1/streams/orders/groups/g/leave", &json!({ "consumer": "<c1>" })).await;
    assert_eq!(left.status, 204);
    let shown = group(&user, "orders").await;
    assert_eq!(shown["partitions"][0]["why"], "nobody reads for this group");
    let dropped = user.delete("/v1/streams/orders/groups/g").await;
    assert_eq!(dropped.status, 204);
    assert_eq!(user.get("/v1/streams/orders").await.ok()["groups"], json!([]));
}

#[tokio::test]
async fn a_server_killed_at_any_moment_loses_no_entry_and_hands_none_out_that_is_acknowledged() {
    let mut server: Server = Setup::new().start().await;
    let (mut done, mut published) = (Vec::<String>::new(), 0);
    for round in 0..4 {
        let user = server.user().await;
        let ids: Vec<String> = (0..30).map(|nth| format!("r{round}-{nth:02}")).collect();
        let entries: Vec<(String, &String)> =
            ids.iter().enumerate().map(|(nth, id)| (format!("k{}", nth % 5), id)).collect();
        let entries: Vec<(&str, &str)> = entries.iter().map(|(key, id)| (key.as_str(), id.as_str())).collect();
        // Twice, as somebody would who had no answer.
        for duplicate in [false, true] {
            let answer = publish(&user, "orders", &entries).await;
            assert_eq!(answer.body["entries"][7]["duplicate"], duplicate, "{}", answer.text);
        }
        published += ids.len();
        let entries = take(&user, "orders", "c1", json!({ "max": 20 + round, "wait_ms": 20_000 })).await;
        ack(&user, "c1", &entries).await;
        done.extend(ids_of(&entries));
        // Handed out, and never acknowledged.
        take(&user, "orders", "c1", json!({ "max": 5 })).await;
        server = if round % 2 == 0 { server.crash(None).await } else { server.restart().await };
    }
    let user = server.user().await;
    while done.len() < published {
        let entries = take(&user, "orders", "c1", json!({ "max": 50, "wait_ms": 20_000 })).await;
        ack(&user, "c1", &entries).await;
        done.extend(ids_of(&entries));
    }
    let count = done.len();
    done.sort();
    done.dedup();
    assert_eq!((done.len(), count), (published, published), "each once, as each was acknowledged");
}
