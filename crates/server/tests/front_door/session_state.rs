//! A session's state: written with the end of a turn and never before, over the version the agent has seen.

use mainspring_flows::channel::CapabilityChanges;
use mainspring_flows::{AgentSettings, ChannelSettings, OnMessage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Desk, Server, Session, Setup, eventually, http};

async fn desk() -> (Server, Session, Desk) {
    let desk = Desk::start().await;
    let server = Setup::new().agent("desk", http(desk.url())).start().await;
    let session = server.user().await.session("desk", "ann");
    (server, session, desk)
}

async fn state(session: &Session) -> Value {
    session.user.get(&format!("{}/state", session.path)).await.ok()
}

async fn put(session: &Session, version: &str, data: &Value) -> Answer {
    let request = session.user.request(Method::PUT, &format!("{}/state", session.path));
    Answer::of(request.header("If-Match", version).json(data)).await
}

/// The versions on record, once the latest is this one.
async fn history(session: &Session, latest: u64) -> Vec<(u64, Value, Value)> {
    let versions = eventually("the history is current", || async {
        let shown = session.user.get(&format!("{}/state/history", session.path)).await.ok();
        (shown["versions"][0]["version"] == latest).then(|| shown["versions"].as_array().expect("versions").clone())
    })
    .await;
    let of = |one: &Value| (one["version"].as_u64().expect("a version"), one["data"].clone(), one["turn_id"].clone());
    versions.iter().map(of).collect()
}

#[tokio::test]
async fn state_is_written_with_the_turn_and_read_by_the_next() {
    let (server, session, desk) = desk().await;
    assert_eq!(state(&session).await, json!({ "version": 0, "data": null, "updated_at": null, "turn_id": null }));
    let first = session.send("one").await;
    let asked = desk.asked(0).await;
    assert_eq!(asked.body["state"], json!({ "version": 0, "data": null }));
    let calls = server.with_token(asked.token());
    assert_eq!(calls.get("/v1/turn/state").await.ok(), json!({ "version": 0, "data": null }));
    assert_eq!(state(&session).await["version"], 0, "nothing is written before the turn ends");
    desk.answer(0, json!({ "text": "a", "state": { "step": 1 } }));
    session.user.turn_ended(&first).await;
    let written = state(&session).await;
    assert_eq!(
        (&written["version"], &written["data"], &written["turn_id"]),
        (&json!(1), &json!({ "step": 1 }), &json!(first))
    );

    // An answer without a state leaves it as it is; a null is a state.
    desk.say(1, "b");
    let second = session.send("two").await;
    session.user.turn_ended(&second).await;
    assert_eq!(desk.asked(1).await.body["state"], json!({ "version": 1, "data": { "step": 1 } }));
    assert_eq!(state(&session).await, written);
    let heard = session.events(0).await.until("turn.completed", &second).await;
    let changes: Vec<_> = heard.iter().filter(|event| event.name == "session.state_changed").collect();
    assert_eq!(changes.len(), 1);
    assert_eq!((&changes[0].data["data"]["version"], changes[0].turn()), (&json!(1), first.as_str()));

    // Another session of the same agent has its own.
    session.user.session("desk", "ben").send("hello").await;
    assert_eq!(desk.asked(2).await.body["state"]["version"], 0);

    let server = server.crash(None).await;
    let session = server.user().await.session("desk", "ann");
    assert_eq!(state(&session).await, written);
}

#[tokio::test]
async fn an_answer_of_a_superseded_attempt_or_one_that_cannot_be_sent_writes_no_state() {
    let desk = Desk::start().await;
    let capability = CapabilityChanges { chars_max: Some(1), natural_delay_ms: Some(0), ..Default::default() };
    let settings = AgentSettings {
        on_message: OnMessage::Supersede,
        deliver_url: Some("http://127.0.0.1:1/".to_owned()),
        channels: [("web".to_owned(), ChannelSettings { capability, ..Default::default() })].into(),
        grace: std::time::Duration::from_secs(1),
        ..http(desk.url())
    };
    let server = Setup::new().agent("desk", settings).start().await;
    let session = server.user().await.session("desk", "ann");
    let first = session.send("one").await;
    desk.asked(0).await;
    session.send("two").await;
    // It is told to stop, and answers all the same.
    desk.answer(0, json!({ "text": "a", "state": "of the zombie" }));
    let again = eventually("the successor is asked", || async {
        desk.asked_of("turn").into_iter().find(|asked| asked.body["turn_id"] != first.as_str())
    })
    .await;
    assert_eq!(again.body["state"]["version"], 0);
    // More messages of the channel than a reply may be.
    desk.answer(again.nth, json!({ "text": "x".repeat(101), "state": "too long" }));
    let failed = session.user.turn_after_all(&first).await;
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("101 characters")), "{}", failed["error"]);
    assert_eq!(state(&session).await["version"], 0, "what did not end well leaves no state");
    assert_eq!(session.user.runs("workflow=deliver-reply").await.len(), 0);
}

#[tokio::test]
async fn a_change_from_outside_names_the_version_it_is_meant_for() {
    let (_server, session, _desk) = desk().await;
    let bare = session.user.put(&format!("{}/state", session.path), &json!({ "vip": true })).await;
    bare.problem(428, "version_missing");
    put(&session, "soon", &json!(1)).await.problem(428, "version_missing");
    put(&session, "3", &json!(1)).await.problem(409, "version_conflict");
    assert_eq!(put(&session, "0", &json!({ "vip": true })).await.ok()["version"], 1);
    put(&session, "0", &json!({ "vip": false })).await.problem(409, "version_conflict");
    assert_eq!(put(&session, "\"1\"", &json!({ "vip": false })).await.ok()["version"], 2);
    let shown = state(&session).await;
    assert_eq!((&shown["data"], &shown["turn_id"]), (&json!({ "vip": false }), &Value::Null));
    assert_eq!(put(&session, "2", &json!("x".repeat(300 * 1024))).await.status, 413);
    assert_eq!(state(&session).await["version"], 2);
}

#[tokio::test]
async fn an_agent_that_worked_with_an_older_state_is_asked_again_with_the_present_one() {
    let (_server, session, desk) = desk().await;
    let turn = session.send("one").await;
    desk.asked(0).await;
    put(&session, "0", &json!({ "vip": true })).await.ok();
    desk.answer(0, json!({ "text": "hello", "state": { "seen": 1 } }));
    let again = desk.asked(1).await;
    assert_eq!((&again.body["turn_id"], &again.body["attempt"]), (&json!(turn), &json!(2)));
    assert_eq!(again.body["restart"], json!({ "reason": "state_conflict", "count": 0 }));
    assert_eq!(again.body["state"], json!({ "version": 1, "data": { "vip": true } }));
    desk.answer(1, json!({ "text": "hello, dear", "state": { "vip": true, "seen": 1 } }));
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!(ended["reply"]["text"], "hello, dear");
    let shown = state(&session).await;
    assert_eq!((&shown["version"], &shown["data"]), (&json!(2), &json!({ "vip": true, "seen": 1 })));
    let heard = session.events(0).await.until("turn.completed", &turn).await;
    assert_eq!(heard.iter().filter(|event| event.name == "reply.sent").count(), 1);

    // One that says nothing about the state is in nobody's way.
    let turn = session.send("two").await;
    desk.asked(2).await;
    put(&session, "2", &json!("changed")).await.ok();
    desk.say(2, "fine");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "fine");
    assert_eq!((state(&session).await["data"].clone(), desk.times()), (json!("changed"), 3));
}

#[tokio::test]
async fn a_state_that_changes_each_time_fails_the_turn_in_the_end() {
    let (_server, session, desk) = desk().await;
    let turn = session.send("one").await;
    let changing = async {
        for version in 0_usize.. {
            desk.asked(version).await;
            put(&session, &version.to_string(), &json!(version)).await.ok();
            desk.answer(version, json!({ "text": "x", "state": "mine" }));
        }
    };
    let failed = tokio::select! {
        failed = session.user.turn_ended(&turn) => failed,
        () = changing => unreachable!("it goes on for ever"),
    };
    assert_eq!(failed["state"], "failed");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("state was changed")), "{}", failed["error"]);
    assert!(desk.times() < 20, "it was asked {} times", desk.times());
    let asked = desk.times();
    desk.say(asked, "peace");
    let next = session.send("two").await;
    assert_eq!(session.user.turn_ended(&next).await["reply"]["text"], "peace");
}

#[tokio::test]
async fn the_latest_versions_are_kept_by_turn() {
    let (server, session, desk) = desk().await;
    let mut turns = Vec::new();
    for nth in 0..22 {
        desk.answer(nth, json!({ "text": "x", "state": nth }));
        let turn = session.send(&format!("m{nth}")).await;
        session.user.turn_ended(&turn).await;
        turns.push(turn);
    }
    put(&session, "22", &json!("by hand")).await.ok();
    let check = async |session: &Session| {
        let versions = history(session, 23).await;
        assert_eq!(versions[0], (23, json!("by hand"), Value::Null));
        assert_eq!(versions.len(), 20, "{versions:?}");
        for (at, (version, data, turn)) in versions.iter().enumerate().skip(1) {
            let nth = 22 - at;
            assert_eq!((*version, data, turn), (nth as u64 + 1, &json!(nth), &json!(turns[nth])));
        }
    };
    check(&session).await;
    let server = server.restart().await;
    check(&server.user().await.session("desk", "ann")).await;
}
