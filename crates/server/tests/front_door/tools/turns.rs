//! Calls within turns: what a superseded attempt did is handed to the next, or undone before it begins.

use axum::http::StatusCode;
use mainspring_flows::{AgentSettings, OnMessage};
use serde_json::{Value, json};

use super::{Call, Provider, Then, asked_of_a_person, events, execution, nobody_is_asked, put, settle, tool};
use crate::harness::{Answer, Desk, Gate, Server, Session, Setup, User, eventually, http};

async fn desk(on_message: OnMessage) -> (Server, Session, Desk) {
    let desk = Desk::start().await;
    let settings = AgentSettings { on_message, ..http(desk.url()) };
    let server = Setup::new().agent("desk", settings).start().await;
    let session = server.user().await.session("desk", "ann");
    (server, session, desk)
}

/// What an attempt was given to call with.
async fn attempt(server: &Server, desk: &Desk, nth: usize) -> User {
    server.with_token(desk.asked(nth).await.token())
}

async fn call(attempt: &User, name: &str, arguments: Value) -> Answer {
    attempt.post(&format!("/v1/turn/tools/{name}"), &json!({ "arguments": arguments })).await
}

#[tokio::test]
async fn along_a_chain_of_superseded_turns_an_effect_happens_once_and_its_result_is_handed_on() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let provider = Provider::start(|call: Call| async move { Then::Answer(200, call.act()) }).await;
    put(&session.user, "refund", &tool(&provider, "idempotent", json!({}))).await;
    let turn = session.send("one").await;
    for nth in 0..3 {
        let attempt = attempt(&server, &desk, nth).await;
        let answer = call(&attempt, "refund", json!({ "order": 5 })).await.ok();
        let found = (&answer["status"], &answer["result"], &answer["repeated"]);
        assert_eq!(found, (&json!("done"), &json!({ "did": 1 }), &json!(nth > 0)));
        if nth < 2 {
            session.send("more").await;
        }
        // Whoever has lost its turn does nothing more.
        if nth == 1 {
            desk.asked(2).await;
            call(&attempt, "refund", json!({ "order": 6 })).await.problem(409, "turn_attempt_over");
        }
    }
    let told = &desk.asked(2).await.body["effects"][0];
    assert_eq!(
        (&told["tool"], &told["status"], &told["result"]),
        (&json!("refund"), &json!("done"), &json!({ "did": 1 }))
    );
    desk.say(2, "done");
    session.user.turn_after_all(&turn).await;
    assert_eq!((provider.calls().len(), provider.effects()), (1, 1));
    assert!(provider.calls()[0].key().ends_with(&format!(":turn_group:{turn}")), "{}", provider.calls()[0].key());
    // Meant a second time, in a turn of its own, it is another.
    session.send("again, please").await;
    let attempt = attempt(&server, &desk, 3).await;
    assert_eq!(call(&attempt, "refund", json!({ "order": 5 })).await.ok()["repeated"], false);
    assert_eq!(provider.effects(), 2);
}

#[tokio::test]
async fn after_a_call_that_cannot_be_undone_the_turn_is_not_begun_anew() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let provider = Provider::start(|call: Call| async move { Then::Answer(200, call.act()) }).await;
    put(&session.user, "pay", &tool(&provider, "irreversible", json!({}))).await;
    let turn = session.send("one").await;
    let first = attempt(&server, &desk, 0).await;
    assert_eq!(call(&first, "pay", json!({})).await.ok()["status"], "done");
    assert_eq!(first.get("/v1/turn").await.ok()["committed"], true);
    let next = session.send("two").await;
    assert_ne!(next, turn, "it is the next turn's");
    desk.say(0, "paid");
    assert_eq!(session.user.turn_ended(&turn).await["state"], "completed");
    // And one that wants to know better is refused while a message waits.
    let second = attempt(&server, &desk, 1).await;
    session.send("three").await;
    eventually("it waits", || async {
        let standing = second.get("/v1/turn").await;
        (standing.status != 200 || standing.body["has_pending"] == true).then_some(())
    })
    .await;
    let asked = json!({ "arguments": { "other": true }, "unless_pending": true });
    assert_eq!(second.post("/v1/turn/tools/pay", &asked).await.status, StatusCode::CONFLICT.as_u16());
    assert_eq!(provider.effects(), 1);
}

#[tokio::test]
async fn what_can_be_undone_is_undone_once_before_the_successors_agent_is_asked() {
    for crash in [false, true] {
        let (mut server, mut session, desk) = desk(OnMessage::Supersede).await;
        let (gate, began) = (Gate::closed(), Gate::closed());
        let (opened, begun) = (gate.clone(), began.clone());
        let provider = Provider::start(move |call: Call| {
            let (opened, begun) = (opened.clone(), begun.clone());
            async move {
                let result = call.act_once();
                if call.path == "/remove" {
                    begun.open();
                    opened.passed().await;
                }
                Then::Answer(200, result)
            }
        })
        .await;
        let remove = json!({ "provider": { "kind": "http", "url": provider.url("/remove") } });
        put(&session.user, "cart.remove", &tool(&provider, "idempotent", remove)).await;
        let undone = json!({ "compensation": { "tool": "cart.remove", "arguments": { "item": "{{args.item}}" } } });
        put(&session.user, "cart.add", &tool(&provider, "compensatable", undone.clone())).await;
        let mut kept = undone;
        kept["on_supersede"] = json!("keep");
        put(&session.user, "cart.keep", &tool(&provider, "compensatable", kept)).await;
        let turn = session.send("one").await;
        let first = attempt(&server, &desk, 0).await;
        for (name, item) in [("cart.add", "a"), ("cart.keep", "b")] {
            assert_eq!(call(&first, name, json!({ "item": item })).await.ok()["status"], "done");
        }
        session.send("two").await;
        began.passed().await;
        if crash {
            server = server.crash(None).await;
            session = server.user().await.session("desk", "ann");
        }
        assert_eq!(desk.times(), 1, "until it is undone nobody is asked");
        gate.open();
        let second = desk.asked(1).await;
        let removed = provider.calls_of("/remove");
        assert!(removed.iter().all(|call| call.key() == removed[0].key() && call.body == json!({ "item": "a" })));
        assert_eq!(removed.len(), if crash { 2 } else { 1 });
        assert_eq!(provider.effects(), 3, "two added, one removed: {:?}", provider.ledger());
        let told: Vec<(&Value, &Value)> = second.body["effects"]
            .as_array()
            .expect("effects")
            .iter()
            .map(|effect| (&effect["tool"], &effect["status"]))
            .collect();
        assert!(told.contains(&(&json!("cart.add"), &json!("compensated"))), "{told:?}");
        assert!(told.contains(&(&json!("cart.keep"), &json!("done"))), "{told:?}");
        // The successor does it anew if it wants to, and gets what was kept.
        let attempt = server.with_token(second.token());
        assert_eq!(call(&attempt, "cart.add", json!({ "item": "a" })).await.ok()["repeated"], false);
        assert_eq!(call(&attempt, "cart.keep", json!({ "item": "b" })).await.ok()["repeated"], true);
        desk.say(1, "both");
        session.user.turn_after_all(&turn).await;
        assert_eq!(provider.effects(), 4, "{:?}", provider.ledger());
    }
}

#[tokio::test]
async fn an_outcome_for_a_superseded_turn_is_kept_and_given_to_whoever_asks_for_the_same() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let provider = Provider::start(|call: Call| async move {
        call.act();
        Then::Answer(202, json!({}))
    })
    .await;
    put(&session.user, "order", &tool(&provider, "idempotent", json!({ "later": {} }))).await;
    let turn = session.send("one").await;
    let first = attempt(&server, &desk, 0).await;
    let asked = json!({ "arguments": { "item": 1 }, "wait_ms": 0 });
    let receipt = first.post("/v1/turn/tools/order", &asked).await;
    assert_eq!(receipt.status, 202, "{}", receipt.text);
    let id = receipt.body["execution_id"].as_str().expect("an execution").to_owned();
    let sent = provider.called("/act", 1).await.swap_remove(0);
    session.send("two").await;
    let second = desk.asked(1).await;
    let (url, token) = (sent.header("mainspring-callback-url"), sent.header("mainspring-callback-token"));
    let body = json!({ "status": "success", "result": { "number": 17 } });
    let answer = Answer::of(reqwest::Client::new().post(url).bearer_auth(token).json(&body)).await.ok();
    assert_eq!(answer["answer"], "taken");
    assert_eq!(execution(&session.user, &id, "done").await["result"], json!({ "number": 17 }));
    // Nobody has asked the successor's agent anything on account of it.
    assert_eq!(desk.times(), 2);
    let attempt = server.with_token(second.token());
    let claimed = call(&attempt, "order", json!({ "item": 1 })).await.ok();
    assert_eq!((&claimed["result"], &claimed["repeated"]), (&json!({ "number": 17 }), &json!(true)));
    desk.say(1, "ordered");
    let last = session.user.turn_after_all(&turn).await;
    assert_eq!((&last["effects"][0]["tool"], &last["effects"][0]["status"]), (&json!("order"), &json!("done")));
    assert_eq!(provider.effects(), 1);
}

#[tokio::test]
async fn a_yes_comes_in_a_later_turn_of_the_session_and_of_no_other() {
    let (server, session, desk) = desk(OnMessage::Queue).await;
    let provider = Provider::start(|call: Call| async move { Then::Answer(200, call.act()) }).await;
    let confirmation = json!({ "confirmation": { "prompt": "Pay {{args.amount}}?" } });
    put(&session.user, "pay", &tool(&provider, "irreversible", confirmation)).await;
    let turn = session.send("pay 5").await;
    let first = attempt(&server, &desk, 0).await;
    let answer = call(&first, "pay", json!({ "amount": 5 })).await.ok();
    assert_eq!((&answer["status"], &answer["prompt"]), (&json!("awaiting_confirmation"), &json!("Pay 5?")));
    let id = answer["execution_id"].as_str().expect("an execution").to_owned();
    desk.say(0, "Pay 5?");
    session.user.turn_ended(&turn).await;

    let stranger = session.user.session("desk", "eve");
    stranger.send("yes").await;
    let eve = attempt(&server, &desk, 1).await;
    assert_eq!(desk.asked(1).await.body.get("confirmations"), None);
    let confirm = format!("/v1/turn/tool-executions/{id}/confirm");
    assert_eq!(eve.post(&confirm, &json!({ "approve": true })).await.status, 404);
    assert_eq!(eve.get(&format!("/v1/turn/tool-executions/{id}")).await.status, 404);

    session.send("yes").await;
    let second = desk.asked(2).await;
    let waiting = &second.body["confirmations"][0];
    assert_eq!((&waiting["run_id"], &waiting["title"]), (&json!(id), &json!("Pay 5?")));
    let second = server.with_token(second.token());
    assert_eq!(second.post(&confirm, &json!({ "approve": true, "note": "she said yes" })).await.status, 202);
    let done = second.get(&format!("/v1/turn/tool-executions/{id}?wait_ms=30000")).await.ok();
    assert_eq!((&done["status"], &done["result"]), (&json!("done"), &json!({ "did": 1 })));
    nobody_is_asked(&session.user).await;
    // Whoever is not the present attempt says nothing for the person.
    let again = first.post(&confirm, &json!({ "approve": false })).await;
    assert_eq!(again.status, 409, "{}", again.text);
    let told = events(&server, "tool.answered").await;
    assert!(told[0]["by"].as_str().expect("who").starts_with("turn "), "{told:?}");
    assert_eq!(provider.effects(), 1);
}

#[tokio::test]
async fn an_agent_sees_what_it_may_use_and_what_it_could_have() {
    let (server, session, desk) = desk(OnMessage::Queue).await;
    let provider = Provider::honest().await;
    put(&session.user, "on", &tool(&provider, "pure", json!({}))).await;
    put(&session.user, "off", &tool(&provider, "pure", json!({}))).await;
    session.user.put("/v1/agents/desk/tools/off", &json!({ "enabled": false })).await;
    session.send("one").await;
    let attempt = attempt(&server, &desk, 0).await;
    let listed = attempt.get("/v1/turn/tools").await.ok();
    let tiers: Vec<_> =
        listed["tools"].as_array().expect("tools").iter().map(|tool| (&tool["name"], &tool["tier"])).collect();
    assert_eq!(tiers, [(&json!("off"), &json!("available")), (&json!("on"), &json!("enabled"))]);
    call(&attempt, "off", json!({})).await.problem(404, "tool_disabled");
    assert_eq!(call(&attempt, "on", json!({})).await.ok()["status"], "done");
}

#[tokio::test]
async fn an_unknown_outcome_is_told_to_the_next_attempt_and_settled_by_a_person() {
    let (server, session, desk) = desk(OnMessage::Supersede).await;
    let provider = Provider::start(|_| async { Then::Break }).await;
    let undone = json!({ "compensation": { "tool": "undo" } });
    put(&session.user, "undo", &tool(&provider, "idempotent", json!({}))).await;
    put(&session.user, "book", &tool(&provider, "compensatable", undone)).await;
    session.send("one").await;
    let first = attempt(&server, &desk, 0).await;
    let answer = call(&first, "book", json!({})).await.ok();
    assert_eq!(answer["status"], "unknown", "{answer}");
    let id = answer["execution_id"].as_str().expect("an execution").to_owned();
    session.send("two").await;
    let second = desk.asked(1).await;
    assert_eq!(second.body["effects"][0]["status"], "unknown");
    asked_of_a_person(&session.user, &id, "unknown").await;
    settle(&session.user, &id, "call", json!({ "verb": "done", "result": 3 })).await;
    execution(&session.user, &id, "done").await;
    let attempt = server.with_token(second.token());
    assert_eq!(call(&attempt, "book", json!({})).await.ok()["result"], 3);
    assert_eq!(provider.calls().len(), 1);
}
