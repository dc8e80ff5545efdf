//! Which version a session's turns go by.

use reqwest::Method;
use serde_json::{Value, json};

use super::{done, pointer, publish, put_draft, says, server, settings, sound};
use crate::harness::{Answer, Desk, Setup, TENANT_A, http};

/// H-60: a turn looks at the pointer when it begins; nobody has to be told.
#[tokio::test]
async fn sessions_stay_with_their_version_and_new_ones_take_the_newest() {
    let (server, user, agent) = server().await;
    assert_eq!(says(&user, "early").await, "vnull", "nothing is published");
    publish(&user, "one").await;
    assert_eq!(says(&user, "early").await, "v1");
    assert_eq!(says(&user, "ann").await, "v1");
    publish(&user, "two").await;
    assert_eq!(says(&user, "ann").await, "v1", "pinned");
    assert_eq!(says(&user, "bob").await, "v2", "new");
    let asked = agent.asked();
    let config = &asked.last().expect("asked").body["config"];
    let manifest = user.get("/v1/agents/orders/versions/2").await.ok();
    assert_eq!((&config["digest"], &config["epoch"]), (&manifest["digest"], &json!(2)));
    assert_eq!(config["bundles"]["rules"], manifest["bundles"]["rules"]["digest"]);
    let turns = user.session("orders", "ann").turns().await;
    assert_eq!(turns[1]["config"]["version"], 1, "it is on record: {:#}", turns[1]);

    let pins = user.get("/v1/agents/orders/pins").await.ok();
    let of = |version: u64| json!({ "version": version, "holding": if version == 1 { 2 } else { 1 }, "leaving": 0 });
    assert_eq!(pins["pins"], json!([of(2), of(1)]));
    // Over a restart too.
    let server = server.restart().await;
    let user = server.user().await;
    assert_eq!(says(&user, "ann").await, "v1");
    done(&user, "publish", &json!({ "force": true })).await;
    assert_eq!((says(&user, "ann").await, says(&user, "bob").await), ("v3".to_owned(), "v3".to_owned()));
    let mut heard = user.session("orders", "ann").events(0).await;
    let moved = loop {
        let event = heard.next().await.expect("it goes on");
        if event.name == "config.moved" {
            break event.data["data"].clone();
        }
    };
    assert_eq!((&moved["from_version"], &moved["version"], &moved["reason"]), (&json!(1), &json!(3), &json!("forced")));
}

#[tokio::test]
async fn sessions_move_on_as_the_rules_say() {
    let (_server, user, _agent) = server().await;
    publish(&user, "one").await;
    assert_eq!(says(&user, "ann").await, "v1");
    publish(&user, "two").await;
    settings(&user, &json!({ "idle_move_ms": 0 })).await;
    assert_eq!(says(&user, "ann").await, "v2", "silent for long enough");
    publish(&user, "three").await;
    settings(&user, &json!({})).await;
    assert_eq!(says(&user, "ann").await, "v2");
    settings(&user, &json!({ "soft_pin": false })).await;
    assert_eq!(says(&user, "ann").await, "v3", "sessions follow each publish");
}

#[tokio::test]
async fn an_agent_says_when_a_session_may_move_on() {
    let desk = Desk::start().await;
    let server = Setup::new().agent("orders", http(desk.url())).start().await;
    let user = server.user().await;
    publish(&user, "one").await;
    for (nth, answer) in
        [json!({ "text": "bye", "release_config": true }), json!({ "text": "x" }), json!({ "text": "y" })]
            .into_iter()
            .enumerate()
    {
        desk.answer(nth, answer);
    }
    let session = user.session("orders", "ann");
    user.turn_ended(&session.send("one").await).await;
    publish(&user, "two").await;
    user.turn_ended(&session.send("two").await).await;
    publish(&user, "three").await;
    user.turn_ended(&session.send("three").await).await;
    let asked = [desk.asked(0).await, desk.asked(1).await, desk.asked(2).await];
    let versions: Vec<u64> = asked.iter().map(|one| one.body["config"]["version"].as_u64().expect("one")).collect();
    assert_eq!(versions, [1, 2, 2]);
    assert_eq!(asked[1].body["config"]["moved"], json!({ "version": 1, "reason": "released" }));
}

/// H-61: a turn keeps what it began with, also when its agent is asked again after a publish.
#[tokio::test]
async fn a_publish_in_the_middle_of_a_turn_does_not_touch_it() {
    let desk = Desk::start().await;
    let server = Setup::new().agent("orders", http(desk.url())).start().await;
    let user = server.user().await;
    publish(&user, "one").await;
    let turn = user.session("orders", "ann").send("hello").await;
    let first = desk.asked(0).await;
    assert_eq!(first.body["config"]["version"], 1);
    done(&user, "publish", &json!({ "force": true })).await;
    // What it was told the digest of is what it gets, with its token alone.
    let path = first.body["calls_url"].as_str().expect("an address").replace(server.url(), "");
    let bundle = user.bare(Method::GET, &format!("{path}/bundles/1/rules")).bearer_auth(first.token());
    let bundle = Answer::of(bundle).await;
    assert_eq!(bundle.header("etag"), first.body["config"]["bundles"]["rules"].to_string());
    // No answer at all: it is asked again.
    desk.answer(0, json!({ "nothing": "of use" }));
    let second = desk.asked(1).await;
    assert_eq!((&second.body["turn_id"], &second.body["config"]), (&json!(turn), &first.body["config"]));
    desk.say(1, "done");
    let turn = user.turn_ended(&turn).await;
    assert_eq!(turn["config"]["version"], 1, "{turn:#}");
    desk.say(2, "and on");
    let next = user.session("orders", "ann").send("again").await;
    assert_eq!(desk.asked(2).await.body["config"]["version"], 2);
    user.turn_ended(&next).await;
}

/// H-59: a version that is gone while a session is with it: the session moves on, and an event says so.
#[tokio::test]
async fn a_session_whose_version_is_gone_moves_on() {
    let (server, user, _agent) = server().await;
    publish(&user, "one").await;
    assert_eq!(says(&user, "ann").await, "v1");
    publish(&user, "two").await;
    let client = server.state().client(TENANT_A);
    let gone = mainspring_client::PutDocument {
        key: mainspring_client::DocumentKey::new("config-version", "orders/0000000001"),
        expect: None,
        body: axum::body::Bytes::new(),
        ttl_ms: Some(0),
        history: 0,
    };
    client.advance(vec![gone], Vec::new()).await.expect("it is removed");
    assert_eq!(says(&user, "ann").await, "v2");
    let turn = user.session("orders", "ann").turns().await.pop().expect("a turn");
    assert_eq!(turn["config"]["moved"], json!({ "version": 1, "reason": "version_gone" }), "{turn:#}");
}

#[tokio::test]
async fn a_rollback_takes_sessions_off_the_version_that_is_left() {
    let (_server, user, _agent) = server().await;
    publish(&user, "one").await;
    assert_eq!(says(&user, "ann").await, "v1");
    publish(&user, "two").await;
    assert_eq!(says(&user, "bob").await, "v2");
    publish(&user, "three").await;
    assert_eq!(says(&user, "cid").await, "v3");
    done(&user, "rollback", &json!({ "target_version": 1, "reason": "three is bad" })).await;
    assert_eq!(says(&user, "cid").await, "v1");
    assert_eq!(says(&user, "bob").await, "v2", "it was not two that is bad");
    assert_eq!(says(&user, "dan").await, "v1");
    publish(&user, "four").await;
    done(&user, "rollback", &json!({ "target_version": 2, "keep_pinned": true })).await;
    assert_eq!((says(&user, "cid").await, says(&user, "eve").await), ("v1".to_owned(), "v2".to_owned()));
}

#[tokio::test]
async fn a_canary_goes_to_a_part_of_the_sessions_then_to_all_or_to_none() {
    let (_server, user, _agent) = server().await;
    publish(&user, "one").await;
    assert_eq!(says(&user, "old").await, "v1");
    put_draft(&user, &sound("two")).await;
    let canary = done(&user, "publish", &json!({ "canary": { "percent": 50 } })).await;
    assert_eq!(canary["version"], 2);
    let now = pointer(&user).await;
    assert_eq!((&now["version"], &now["canary"]["version"], &now["epoch"]), (&json!(1), &json!(2), &json!(2)));
    assert_eq!(says(&user, "old").await, "v1", "pinned");
    let mut with_it = Vec::new();
    for nth in 0..40 {
        let who = format!("new-{nth}");
        if says(&user, &who).await == "v2" {
            with_it.push(who);
        }
    }
    assert!((8..=32).contains(&with_it.len()), "{} of 40", with_it.len());
    assert_eq!(says(&user, &with_it[0]).await, "v2", "it stays in it");
    // Ended: they go back.
    Answer::of(user.request(Method::DELETE, "/v1/agents/orders/canary")).await.ok();
    crate::harness::eventually("the canary ends", || async { pointer(&user).await["canary"].is_null().then_some(()) })
        .await;
    assert_eq!(says(&user, &with_it[0]).await, "v1");
    // For those listed, then for all.
    let listed = format!("{TENANT_A}:orders:old:web");
    done(&user, "canary", &json!({ "version": 2, "sessions": [listed] })).await;
    assert_eq!((says(&user, "old").await, says(&user, "newer").await), ("v2".to_owned(), "v1".to_owned()));
    done(&user, "promote", &json!({})).await;
    let now = pointer(&user).await;
    assert_eq!((&now["version"], &now["canary"]), (&json!(2), &Value::Null));
    assert_eq!((says(&user, "old").await, says(&user, "newest").await), ("v2".to_owned(), "v2".to_owned()));
    user.post("/v1/agents/orders/promote", &json!({})).await.problem(409, "config_conflict");
    let share = json!({ "version": 1, "percent": 101 });
    user.post("/v1/agents/orders/canary", &share).await.problem(422, "config_unfit");
}

/// 5 MB, a thousand sessions pinned to it, a new version, a rollback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_megabytes_and_a_thousand_sessions() {
    let (_server, user, _agent) = server().await;
    let big = |mark: &str| {
        let rules: Vec<Value> = (0..20_000)
            .map(|nth| {
                let text = noise(nth);
                json!({ "id": format!("rule-{nth}"), "when": format!("{mark} {text}"), "tool": "refund", "text": text.repeat(2) })
            })
            .collect();
        let mut draft = sound(mark);
        draft["scenarios"] = json!([]);
        draft["rules"] = json!(rules);
        draft
    };
    let draft = big("one");
    let bytes = draft.to_string().len();
    assert!(bytes > 5_000_000, "{bytes}");
    put_draft(&user, &draft).await;
    done(&user, "publish", &json!({})).await;
    crowd(&user, "v1").await;
    put_draft(&user, &big("two")).await;
    done(&user, "publish", &json!({})).await;
    let pins = user.get("/v1/agents/orders/pins").await.ok();
    assert_eq!(pins["pins"], json!([{ "version": 1, "holding": 1_000, "leaving": 0 }]));
    crowd(&user, "v1").await;
    assert_eq!(says(&user, "somebody new").await, "v2");
    let rules = user.get("/v1/agents/orders/bundles/1/rules").await;
    assert_eq!(rules.body["items"].as_array().map(Vec::len), Some(20_000));
    let diff = user.get("/v1/agents/orders/versions/1/diff/2").await.ok();
    assert_eq!(diff["kinds"]["rules"]["total"], 20_000);
    done(&user, "rollback", &json!({ "target_version": 1 })).await;
    assert_eq!(says(&user, "somebody new").await, "v1");
}

/// A number in a spelling that does not compress well.
fn noise(nth: u64) -> String {
    let mut state = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    let mut text = String::new();
    for _ in 0..4 {
        state ^= state >> 31;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

/// A thousand people say something, and each is answered by this version.
async fn crowd(user: &crate::harness::User, version: &str) {
    let mut speaking = tokio::task::JoinSet::new();
    for part in 0..20 {
        let (user, version) = (user.clone(), version.to_owned());
        speaking.spawn(async move {
            for nth in 0..50 {
                assert_eq!(says(&user, &format!("p{part}-{nth}")).await, version);
            }
        });
    }
    while let Some(spoke) = speaking.join_next().await {
        spoke.expect("all were answered");
    }
}
