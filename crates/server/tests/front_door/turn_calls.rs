//! What an agent asks on behalf of a turn: only while its attempt lasts, and side effects once per turn group.

use std::time::Duration;

use axum::response::Response;
use mainspring_flows::{AgentSettings, Grant, OnMessage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Asked, Desk, Server, Session, Setup, User, eventually, http, status, texts_of};

async fn desk_with(change: impl FnOnce(AgentSettings) -> AgentSettings) -> (Server, Session, Desk) {
    let desk = Desk::start().await;
    let server = Setup::new().agent("desk", change(http(desk.url()))).start().await;
    let session = server.user().await.session("desk", "ann");
    (server, session, desk)
}

async fn desk(on_message: OnMessage) -> (Server, Session, Desk) {
    desk_with(|settings| AgentSettings { on_message, ..settings }).await
}

fn effect(tool: &str, key: &str, policy: &str) -> Value {
    json!({ "tool": tool, "key": key, "policy": policy })
}

async fn begin(calls: &User, effect: &Value) -> Value {
    calls.post("/v1/turn/effects", effect).await.ok()
}

async fn outcome(calls: &User, tool: &str, key: &str, status: &str, result: Value) -> Answer {
    let outcome = json!({ "tool": tool, "key": key, "status": status, "result": result });
    calls.post("/v1/turn/effects/outcome", &outcome).await
}

fn artifact(data: &str, input: &str, dependency: &str, reuse: &str) -> Value {
    json!({ "data": data, "input_fingerprint": input, "dependency_fingerprint": dependency, "reuse": reuse })
}

async fn keep(calls: &User, phase: &str, artifact: &Value) {
    let kept = calls.put(&format!("/v1/turn/artifacts/{phase}"), artifact).await;
    assert_eq!(kept.status, 204, "{}", kept.text);
}

async fn kept(calls: &User, phase: &str, input: &str, dependency: &str) -> Answer {
    calls.get(&format!("/v1/turn/artifacts/{phase}?input={input}&dependency={dependency}")).await
}

/// Every call there is, but for the one that is always taken.
async fn every_call(calls: &User) -> Vec<(&'static str, Answer)> {
    vec![
        ("standing", calls.get("/v1/turn").await),
        ("commit point", calls.post("/v1/turn/commit-point", &json!({})).await),
        ("state", calls.get("/v1/turn/state").await),
        ("status", calls.post("/v1/turn/say", &json!({ "status": "still here" })).await),
        ("delta", calls.post("/v1/turn/say", &json!({ "delta": "and more" })).await),
        ("event", calls.post("/v1/turn/events", &json!({ "name": "lead.found", "data": 1 })).await),
        ("put artifact", calls.put("/v1/turn/artifacts/plan", &artifact("late", "a", "", "always")).await),
        ("get artifact", kept(calls, "first", "a", "").await),
        ("effect", calls.post("/v1/turn/effects", &effect("late", "1", "idempotent")).await),
        ("known effect", calls.post("/v1/turn/effects", &effect("mail", "1", "idempotent")).await),
    ]
}

async fn assert_over(calls: &User) {
    for (call, answer) in every_call(calls).await {
        assert_eq!(answer.status, 409, "{call}: {}", answer.text);
        let (detail, action) = answer.problem(409, "turn_attempt_over");
        assert!(detail.contains("over") && action.contains("stop"), "{detail} {action}");
    }
}

#[tokio::test]
async fn the_address_and_the_token_of_a_request_entitle_to_every_call() {
    let (_server, session, desk) = desk(OnMessage::Queue).await;
    let mut events = session.events(0).await;
    let turn = session.send("one").await;
    let asked = desk.asked(0).await;
    assert!(asked.body["deadline_at"].as_u64() > asked.body["messages"][0]["accepted_at"].as_u64());
    // Whoever heard that the work began is listening live.
    events.until("turn.processing", &turn).await;
    // Just as an agent would: nothing but what it was sent.
    let url = asked.body["calls_url"].as_str().expect("an address");
    let standing = Answer::of(reqwest::Client::new().get(url).bearer_auth(asked.token())).await.ok();
    let expected = json!({
        "turn_id": turn, "turn_group_id": turn, "has_pending": false, "pending": 0, "committed": true,
    });
    assert_eq!(standing, expected, "a turn that queues what comes has passed its commit point from the beginning");

    let request =
        |method, path: &str| reqwest::Client::new().request(method, format!("{url}{path}")).bearer_auth(asked.token());
    let put = artifact("found", "a", "", "always");
    Answer::of(request(Method::PUT, "/artifacts/first").json(&put)).await.ok();
    Answer::of(request(Method::POST, "/effects").json(&effect("mail", "1", "idempotent"))).await.ok();
    Answer::of(request(Method::POST, "/events").json(&json!({ "name": "lead.found", "data": { "at": 5 } }))).await.ok();
    Answer::of(request(Method::POST, "/say").json(&json!({ "status": "thinking", "delta": "He" }))).await.ok();
    desk.say(0, "Hello");
    let heard = events.until("turn.completed", &turn).await;
    let told = |name: &str| heard.iter().find(|event| event.name == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(told("lead.found").data["data"], json!({ "at": 5 }));
    assert_eq!(told("agent.status").data["data"]["text"], "thinking");
    assert_eq!((&told("reply.delta").data["data"]["text"], told("reply.delta").id), (&json!("He"), None));
    assert_eq!(told("artifact.stored").data["data"]["phase"], "first");
    assert_eq!(told("effect.started").data["data"]["tool"], "mail");
    let shown = session.user.turn(&turn).await;
    assert_eq!((&shown["effects"][0]["status"], &shown["artifacts"][0]["phase"]), (&json!("started"), &json!("first")));
}

#[tokio::test]
async fn whoever_was_superseded_can_do_nothing_more_but_say_what_happened() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("one").await;
    let zombie = server.with_token(desk.asked(0).await.token());
    begin(&zombie, &effect("mail", "1", "idempotent")).await;
    session.send("two").await;
    let next = desk.asked(1).await;
    assert_over(&zombie).await;
    // What was begun has happened, whoever says so: the next attempt must know.
    assert_eq!(outcome(&zombie, "mail", "1", "done", json!({ "sent": true })).await.status, 204);
    let calls = server.with_token(next.token());
    let verdict = begin(&calls, &effect("mail", "1", "idempotent")).await;
    assert_eq!(verdict, json!({ "verdict": "done", "result": { "sent": true } }));
    desk.say(1, "both");
    let last = session.user.turn_after_all(&turn).await;
    let tools: Vec<_> = last["effects"].as_array().expect("effects").iter().map(|effect| &effect["tool"]).collect();
    assert_eq!(tools, ["mail"], "nothing of what it tried was done");
    assert_eq!(last["artifacts"], json!([]));
    assert_over(&zombie).await;
    assert_over(&calls).await;
}

#[tokio::test]
async fn whoever_was_absorbed_failed_cancelled_or_left_behind_by_a_crash_can_do_nothing_more() {
    // Absorbed.
    let (server, session, desk) = desk(OnMessage::Absorb).await;
    session.send("one").await;
    let zombie = server.with_token(desk.asked(0).await.token());
    session.send("two").await;
    let calls = server.with_token(desk.asked(1).await.token());
    assert_over(&zombie).await;
    assert_eq!(calls.get("/v1/turn").await.status, 200);

    // Cancelled.
    let turn = desk.asked(1).await.body["turn_id"].as_str().expect("a turn").to_owned();
    session.user.post(&format!("/v1/runs/{turn}/cancel"), &json!({ "reason": "no more" })).await.ok();
    session.user.turn_ended(&turn).await;
    assert_over(&calls).await;

    // Tried again after a failure.
    let agent = Agent::start(|asked: Asked| async move {
        if asked.nth == 0 { status(500) } else { std::future::pending::<Response>().await }
    })
    .await;
    let server = Setup::new().agent("moody", http(agent.url())).start().await;
    let session = server.user().await.session("moody", "ann");
    session.send("one").await;
    let asked = agent.asked_times(2).await;
    assert_eq!((&asked[0].body["attempt"], &asked[1].body["attempt"]), (&json!(1), &json!(2)));
    assert_over(&server.with_token(asked[0].token())).await;
    assert_eq!(server.with_token(asked[1].token()).get("/v1/turn").await.status, 200);

    // Left behind by a crash.
    let server = server.crash(None).await;
    let asked = agent.asked_times(3).await;
    assert_over(&server.with_token(asked[1].token())).await;
    assert_eq!(server.with_token(asked[2].token()).get("/v1/turn").await.status, 200, "its token is as good as ever");
}

#[tokio::test]
async fn tokens_that_are_forged_changed_expired_or_of_another_kind_are_worth_nothing() {
    let (server, session, desk) = desk(OnMessage::Queue).await;
    session.send("one").await;
    let token = desk.asked(0).await.token().to_owned();
    let grant = Grant::of_token(&token).expect("a token");
    let now = server.state().engine().world().now_ms();
    let tokens = server.state().auth().keys().turn_tokens();
    let expired = tokens.sign(&grant, now.saturating_sub(1));
    let foreign = mainspring_flows::TurnTokens::new([7; 32]).sign(&grant, now + 60_000);
    let changed = {
        let mut bytes = token.clone().into_bytes();
        bytes[40] = if bytes[40] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).expect("ASCII")
    };
    let admin = session.user.token().to_owned();
    for bad in [expired.as_str(), &foreign, &changed, &admin, "", "mst_", "mst_AAAA", &token[..token.len() - 1]] {
        let calls = server.with_token(bad);
        for (call, answer) in every_call(&calls).await {
            assert_eq!(answer.status, 401, "{call} with {bad:?}: {}", answer.text);
            answer.problem(401, "turn_token_invalid");
        }
        outcome(&calls, "mail", "1", "done", Value::Null).await.problem(401, "turn_token_invalid");
    }
    Answer::of(session.user.bare(Method::GET, "/v1/turn")).await.problem(401, "turn_token_invalid");
    // And it opens no other door.
    server.with_token(&token).get("/v1/runs").await.problem(401, "token_invalid");
    assert_eq!(server.with_token(&token).get("/v1/turn").await.status, 200, "the real one still holds");

    // Whose fence stands nowhere, however well it is signed.
    let other = tokens.sign(&Grant { position: grant.position + 1, ..grant.clone() }, now + 60_000);
    assert_over(&server.with_token(&other)).await;
    let other = tokens.sign(&Grant { tenant: crate::harness::TENANT_B, ..grant }, now + 60_000);
    assert_over(&server.with_token(&other)).await;
}

#[tokio::test]
async fn after_an_effect_that_cannot_be_undone_messages_are_queued() {
    for policy in ["irreversible", "something of next year"] {
        let (server, session, desk) = desk(OnMessage::Supersede).await;
        let turn = session.send("refund order 1042").await;
        let calls = server.with_token(desk.asked(0).await.token());
        assert_eq!(calls.get("/v1/turn").await.ok()["committed"], false);
        let verdict = begin(&calls, &effect("refund", "1042", policy)).await;
        let key = format!("refund:1042:turn_group:{turn}");
        assert_eq!(verdict, json!({ "verdict": "go", "idempotency_key": key, "tries": 1 }));
        assert_eq!(calls.get("/v1/turn").await.ok()["committed"], true);
        let next = session.send("no, wait").await;
        assert_ne!(next, turn);
        assert_eq!(calls.get("/v1/turn").await.ok()["has_pending"], true, "it is still the present attempt");
        assert_eq!(outcome(&calls, "refund", "1042", "done", json!({})).await.status, 204);
        desk.say(0, "refunded");
        desk.say(1, "too late");
        let (ended, next) = (session.user.turn_ended(&turn).await, session.user.turn_ended(&next).await);
        assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("refunded")));
        assert_eq!((texts_of(&next), &next["turn_group_id"]), (vec!["no, wait".to_owned()], &next["id"]));
        assert_eq!((desk.times(), next["effects"].as_array().map(Vec::len)), (2, Some(0)));
    }
}

#[tokio::test]
async fn an_effect_that_wants_to_know_better_is_refused_while_a_message_waits() {
    let (server, session, desk) = desk_with(|settings| AgentSettings { on_message: OnMessage::Ask, ..settings }).await;
    let turn = session.send("refund order 1042").await;
    let calls = server.with_token(desk.asked(0).await.token());
    session.send("no, order 1043").await;
    desk.asked(1).await;
    let careful = json!({ "tool": "refund", "key": "1042", "unless_pending": true });
    let (_, action) = calls.post("/v1/turn/effects", &careful).await.problem(409, "message_waits");
    assert!(action.contains("message"), "{action}");
    assert_eq!(session.user.turn(&turn).await["effects"], json!([]), "it was not begun");
    assert_eq!(calls.get("/v1/turn").await.ok()["committed"], false, "and nothing is committed");
    desk.answer(1, json!({ "action": "absorb" }));
    let again = desk.asked(2).await;
    let calls = server.with_token(again.token());
    let careful = json!({ "tool": "refund", "key": "1043", "unless_pending": true });
    assert_eq!(begin(&calls, &careful).await["verdict"], "go", "the message is read now");
    desk.say(2, "refunded 1043");
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!(ended["effects"].as_array().expect("effects").len(), 1);
}

#[tokio::test]
async fn effects_of_a_superseded_turn_are_known_to_the_next_of_its_group_and_to_no_other() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    let keys = ["done", "empty", "null", "lost", "again", "failed"];
    let policy = |key: &str| if key == "again" { "idempotent" } else { "compensatable" };
    let mut first = Vec::new();
    for key in keys {
        first.push(begin(&calls, &effect("cart", key, policy(key))).await);
    }
    outcome(&calls, "cart", "done", "done", json!({ "item": 7 })).await.ok();
    outcome(&calls, "cart", "empty", "done", json!({})).await.ok();
    outcome(&calls, "cart", "null", "done", Value::Null).await.ok();
    outcome(&calls, "cart", "failed", "failed", json!("sold out")).await.ok();

    session.send("two").await;
    let next = desk.asked(1).await;
    let told: Vec<_> = next.body["effects"].as_array().expect("effects").clone();
    assert_eq!(told.len(), keys.len());
    assert!(told.iter().all(|effect| effect["turn_id"] == turn.as_str()), "{told:#?}");
    let calls = server.with_token(next.token());
    let verdict = async |key: &str| begin(&calls, &effect("cart", key, policy(key))).await;
    assert_eq!(verdict("done").await, json!({ "verdict": "done", "result": { "item": 7 } }));
    assert_eq!(verdict("empty").await, json!({ "verdict": "done", "result": {} }), "an empty result is one");
    assert_eq!(verdict("null").await, json!({ "verdict": "done", "result": null }));
    assert_eq!(verdict("lost").await, json!({ "verdict": "unknown", "turn_id": turn }));
    let again = verdict("again").await;
    assert_eq!((&again["verdict"], &again["tries"]), (&json!("go"), &json!(2)));
    assert_eq!(again["idempotency_key"], first[4]["idempotency_key"], "the provider is told the same key");
    let failed = verdict("failed").await;
    assert_eq!((&failed["verdict"], &failed["tries"]), (&json!("go"), &json!(2)), "it certainly did not happen");
    desk.say(1, "both");
    session.user.turn_after_all(&turn).await;

    // What is asked for anew is meant anew.
    let third = session.send("the same once more").await;
    let calls = server.with_token(desk.asked(2).await.token());
    let anew = begin(&calls, &effect("cart", "done", "compensatable")).await;
    assert_eq!((&anew["verdict"], &anew["tries"]), (&json!("go"), &json!(1)));
    assert_eq!(anew["idempotency_key"], format!("cart:done:turn_group:{third}"));
}

#[tokio::test]
async fn an_effect_of_the_first_turn_of_a_chain_is_done_for_all_that_follow() {
    // H-16.
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("m0").await;
    for nth in 0..4 {
        let asked = desk.asked(nth).await;
        assert_eq!((asked.texts().len(), &asked.body["turn_group_id"]), (nth + 1, &json!(turn)));
        let calls = server.with_token(asked.token());
        let verdict = begin(&calls, &effect("book", "table 5", "compensatable")).await;
        if nth == 0 {
            assert_eq!(verdict["verdict"], "go");
            outcome(&calls, "book", "table 5", "done", json!({ "booking": 77 })).await;
        } else {
            assert_eq!(verdict, json!({ "verdict": "done", "result": { "booking": 77 } }));
        }
        if nth < 3 {
            session.send(&format!("m{}", nth + 1)).await;
        }
    }
    desk.say(3, "booked");
    let last = session.user.turn_after_all(&turn).await;
    assert_eq!((&last["effects"][0]["turn_id"], last["effects"].as_array().map(Vec::len)), (&json!(turn), Some(1)));
}

#[tokio::test]
async fn an_agent_that_fails_after_an_effect_finds_what_came_of_it_in_its_next_try_and_after_a_crash() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    begin(&calls, &effect("refund", "1", "irreversible")).await;
    begin(&calls, &effect("refund", "2", "irreversible")).await;
    outcome(&calls, "refund", "1", "done", json!({ "cents": 500 })).await.ok();
    desk.answer(0, json!({ "no": "answer" }));

    let check = async |server: &Server, asked: Asked| {
        assert_eq!(asked.body["turn_id"], turn.as_str());
        assert_eq!(asked.body["effects"].as_array().map(Vec::len), Some(2), "it is told of both");
        let calls = server.with_token(asked.token());
        let verdict = begin(&calls, &effect("refund", "1", "irreversible")).await;
        assert_eq!(verdict, json!({ "verdict": "done", "result": { "cents": 500 } }));
        let verdict = begin(&calls, &effect("refund", "2", "irreversible")).await;
        assert_eq!(verdict, json!({ "verdict": "unknown", "turn_id": turn }), "nobody does it again by itself");
    };
    check(&server, desk.asked(1).await).await;
    let old_tables = server.tables_now().await;
    let server = server.crash(Some(old_tables)).await;
    check(&server, desk.asked(2).await).await;
    let session = server.user().await.session("desk", "ann");
    let next = session.send("two").await;
    assert_ne!(next, turn, "it is past its commit point for good");
    desk.say(2, "refunded");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "refunded");
}

#[tokio::test]
async fn an_agent_in_its_first_try_again_after_a_crash_is_told_of_what_it_did_before() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("one").await;
    let first = desk.asked(0).await;
    assert_eq!(first.body["effects"], Value::Null, "there is nothing to tell of");
    begin(&server.with_token(first.token()), &effect("refund", "1", "irreversible")).await;
    keep(&server.with_token(first.token()), "plan", &artifact("x", "a", "", "always")).await;
    let server = server.crash(None).await;
    let again = desk.asked(1).await;
    assert_eq!((&again.body["turn_id"], &again.body["attempt"]), (&json!(turn), &first.body["attempt"]));
    assert_eq!(again.body["effects"].as_array().map(Vec::len), Some(1));
    assert_eq!(again.body["artifacts"].as_array().map(Vec::len), Some(1));
    desk.say(1, "refunded");
    assert_eq!(server.user().await.turn_ended(&turn).await["reply"]["text"], "refunded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_claim_an_effect_at_once_one_goes() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    for key in 0..5 {
        let mut claiming = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (calls, effect) = (calls.clone(), effect("refund", &key.to_string(), "irreversible"));
            claiming.spawn(async move { begin(&calls, &effect).await["verdict"].clone() });
        }
        let verdicts = claiming.join_all().await;
        let count = |wanted: &str| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert_eq!((count("go"), count("unknown")), (1, 11), "{verdicts:?}");
    }
}

#[tokio::test]
async fn the_first_outcome_counts_and_what_was_not_begun_has_none() {
    let (server, session, desk) = desk(OnMessage::Queue).await;
    session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    outcome(&calls, "mail", "1", "done", Value::Null).await.problem(422, "call_unusable");
    begin(&calls, &effect("mail", "1", "idempotent")).await;
    outcome(&calls, "mail", "1", "started", Value::Null).await.problem(422, "call_unusable");
    for _ in 0..2 {
        assert_eq!(outcome(&calls, "mail", "1", "done", json!(1)).await.status, 204, "the same again is the same");
    }
    for (status, result) in [("done", json!(2)), ("failed", json!(1))] {
        let (detail, _) = outcome(&calls, "mail", "1", status, result).await.problem(422, "call_unusable");
        assert!(detail.contains("first counts"), "{detail}");
    }
    // Names whose parts could be taken for one another are not.
    begin(&calls, &effect("a:b", "c", "irreversible")).await;
    assert_eq!(begin(&calls, &effect("a", "b:c", "irreversible")).await["verdict"], "go");
}

#[tokio::test]
async fn names_that_are_not_the_agents_to_use_and_sizes_that_do_not_fit_are_refused() {
    let (server, session, desk) = desk(OnMessage::Queue).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    for own in [
        "turn.completed",
        "reply.sent",
        "message.accepted",
        "session.x",
        "supersede.x",
        "effect.x",
        "artifact.x",
        "follow_up.x",
    ] {
        let answer = calls.post("/v1/turn/events", &json!({ "name": own })).await;
        let (detail, _) = answer.problem(422, "call_unusable");
        assert!(detail.contains(own), "{detail}");
    }
    for bad in [effect("", "1", "pure"), effect("mail", "", "pure"), effect(&"x".repeat(201), "1", "pure")] {
        calls.post("/v1/turn/effects", &bad).await.problem(422, "call_unusable");
    }
    let large = artifact(&"x".repeat(200 * 1024), "a", "", "always");
    calls.put("/v1/turn/artifacts/plan", &large).await.problem(422, "call_unusable");
    calls.put("/v1/turn/artifacts/plan", &artifact("x", "", "", "always")).await.problem(422, "call_unusable");
    for nth in 0..32 {
        keep(&calls, &format!("phase-{nth}"), &artifact("x", "a", "", "always")).await;
    }
    calls.put("/v1/turn/artifacts/one-more", &artifact("x", "a", "", "always")).await.problem(422, "call_unusable");
    keep(&calls, "phase-3", &artifact("y", "a", "", "always")).await;
    desk.say(0, "done");
    assert_eq!(session.user.turn_ended(&turn).await["artifacts"].as_array().map(Vec::len), Some(32));
}

#[tokio::test]
async fn a_phases_result_is_used_again_as_its_policy_says() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    keep(&calls, "context", &artifact("of ann", "in", "v1", "always")).await;
    keep(&calls, "retrieval", &artifact("found", "in", "v1", "conditional")).await;
    keep(&calls, "tools", &artifact("called", "in", "v1", "never")).await;

    session.send("two").await;
    let next = desk.asked(1).await;
    let phases: Vec<_> =
        next.body["artifacts"].as_array().expect("artifacts").iter().map(|one| &one["phase"]).collect();
    assert_eq!(phases, ["context", "retrieval"], "what is never used again is not offered");
    assert!(next.body["artifacts"].as_array().expect("some").iter().all(|one| one["turn_id"] == turn.as_str()));
    let calls = server.with_token(next.token());
    let refused = async |phase: &str, input: &str, dependency: &str, why: &str| {
        let (detail, _) = kept(&calls, phase, input, dependency).await.problem(404, "artifact_not_reusable");
        assert!(detail.contains(why), "{phase} {input} {dependency}: {detail}");
    };
    for count in 1..=2 {
        let context = kept(&calls, "context", "in", "v2").await.ok();
        assert_eq!((&context["data"], &context["reuse_count"]), (&json!("of ann"), &json!(count)));
    }
    refused("context", "other", "v1", "input").await;
    assert_eq!(kept(&calls, "retrieval", "in", "v1").await.ok()["data"], "found");
    refused("retrieval", "in", "v2", "depended").await;
    refused("retrieval", "in", "", "depended").await;
    refused("retrieval", "other", "v1", "input").await;
    refused("tools", "in", "v1", "never").await;
    refused("nothing", "in", "v1", "none").await;
    // Carried out anew, it is kept anew.
    keep(&calls, "retrieval", &artifact("found more", "in2", "v2", "conditional")).await;
    assert_eq!(kept(&calls, "retrieval", "in2", "v2").await.ok()["data"], "found more");
    refused("retrieval", "in", "v1", "input").await;
    desk.say(1, "both");
    let last = session.user.turn_after_all(&turn).await;
    assert_eq!(last["artifacts"].as_array().map(Vec::len), Some(2));

    // The next turn is another group: it begins with nothing.
    session.send("three").await;
    let third = desk.asked(2).await;
    assert!(third.body["artifacts"].is_null());
    let calls = server.with_token(third.token());
    kept(&calls, "context", "in", "v1").await.problem(404, "artifact_not_reusable");
}

#[tokio::test]
async fn a_phases_result_is_not_used_after_its_time() {
    let artifact_ttl = Duration::from_millis(1);
    let (server, session, desk) = desk_with(|settings| AgentSettings { artifact_ttl, ..settings }).await;
    session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    keep(&calls, "context", &artifact("of ann", "in", "", "always")).await;
    eventually("it is gone", || async {
        // Being used, it is kept for as long again.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let answer = kept(&calls, "context", "in", "").await;
        (answer.status == 404).then(|| answer.problem(404, "artifact_not_reusable"))
    })
    .await;
}

#[tokio::test]
async fn the_first_words_said_by_a_call_pass_the_commit_point_and_a_status_does_not() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    assert_eq!(calls.post("/v1/turn/say", &json!({ "status": "thinking" })).await.status, 204);
    assert_eq!(calls.get("/v1/turn").await.ok()["committed"], false);
    assert_eq!(calls.post("/v1/turn/say", &json!({ "delta": "He" })).await.status, 204);
    assert_eq!(calls.get("/v1/turn").await.ok()["committed"], true);
    assert_ne!(session.send("two").await, turn);
    desk.say(0, "Hello");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "Hello");
}

#[tokio::test]
async fn where_words_may_be_taken_back_a_call_that_says_some_does_not_pass_the_commit_point() {
    let (server, session, desk) =
        desk_with(|settings| AgentSettings { on_message: OnMessage::Supersede, streaming_commits: false, ..settings })
            .await;
    let mut events = session.events(0).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    // Whoever heard that the work began is listening live.
    events.until("turn.processing", &turn).await;
    assert_eq!(calls.post("/v1/turn/say", &json!({ "delta": "He" })).await.status, 204);
    assert_eq!(calls.get("/v1/turn").await.ok()["committed"], false);
    events.until("reply.delta", &turn).await;
    session.send("two").await;
    assert_eq!(desk.asked(1).await.texts(), ["one", "two"]);
    assert_over(&calls).await;
}

#[tokio::test]
async fn a_commit_point_that_is_declared_holds() {
    let (server, session, desk) = desk(OnMessage::Absorb).await;
    let turn = session.send("one").await;
    let calls = server.with_token(desk.asked(0).await.token());
    for _ in 0..2 {
        assert_eq!(calls.post("/v1/turn/commit-point", &json!({})).await.ok()["committed"], true);
    }
    let next = session.send("two").await;
    desk.say(0, "to one");
    desk.say(1, "to two");
    let (ended, next) = (session.user.turn_ended(&turn).await, session.user.turn_ended(&next).await);
    assert_eq!((texts_of(&ended), texts_of(&next)), (vec!["one".to_owned()], vec!["two".to_owned()]));
}

#[tokio::test]
async fn what_a_failed_turn_did_is_not_done_again_when_its_messages_are_sent_again() {
    let (server, session, desk) = desk(OnMessage::Queue).await;
    let failed = session.send("refund 1042").await;
    let first = desk.asked(0).await;
    let calls = server.with_token(first.token());
    let verdict = begin(&calls, &effect("refund", "1042", "irreversible")).await;
    assert_eq!(verdict["verdict"], "go");
    outcome(&calls, "refund", "1042", "done", json!({ "receipt": 7 })).await;
    desk.answer(0, json!({ "nonsense": true }));
    for nth in 1..3 {
        desk.answer(nth, json!({ "nonsense": true }));
    }
    assert_eq!(session.user.turn_ended(&failed).await["state"], "failed");

    session.user.post(&format!("/v1/turns/{failed}/replay"), &json!({})).await;
    let again = desk.asked(3).await;
    assert_eq!(again.body["turn_group_id"], json!(failed));
    assert_eq!(again.body["effects"][0]["result"], json!({ "receipt": 7 }));
    let verdict = begin(&server.with_token(again.token()), &effect("refund", "1042", "irreversible")).await;
    assert_eq!((&verdict["verdict"], &verdict["result"]), (&json!("done"), &json!({ "receipt": 7 })));
    desk.say(3, "refunded");
    let turn = session.user.turn_ended(again.body["turn_id"].as_str().expect("a turn")).await;
    assert_eq!((&turn["state"], &turn["effects"][0]["tool"]), (&json!("completed"), &json!("refund")));
}
