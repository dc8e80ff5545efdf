//! Outcomes that come later than the answer: early, late, twice, contradicting, from whoever is not entitled to them.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Call, Provider, Then, asked_of_a_person, begin, events, execution, nobody_is_asked, put, server, settle, tool,
};
use crate::harness::{Answer, Gate, TENANT_B, User, eventually};

fn later(provider: &Provider, policy: &str, later: Value) -> Value {
    tool(provider, policy, json!({ "later": later }))
}

/// Says what came of a call, as its provider does.
async fn call_back(url: &str, token: &str, body: &Value) -> Answer {
    Answer::of(reqwest::Client::new().request(Method::POST, url).bearer_auth(token).json(body)).await
}

async fn call_back_to(call: &Call, body: &Value) -> Answer {
    call_back(call.header("mainspring-callback-url"), call.header("mainspring-callback-token"), body).await
}

/// A provider that accepts, does it, and says what came of it when a test does so.
async fn accepting() -> Provider {
    Provider::start(|call: Call| async move {
        call.act();
        Then::Answer(202, json!({}))
    })
    .await
}

/// A call that was accepted, and the request that was sent for it.
async fn accepted(user: &User, provider: &Provider, key: &str) -> (String, Call) {
    let calls = provider.calls_of("/act").len();
    let id = begin(user, "t", key, json!({ "order": key })).await;
    (id, provider.called("/act", calls + 1).await.swap_remove(calls))
}

fn success(result: Value) -> Value {
    json!({ "status": "success", "result": result })
}

#[tokio::test]
async fn an_outcome_that_comes_before_the_providers_own_answer_counts() {
    for breaks in [false, true] {
        let (_server, user) = server().await;
        let provider = Provider::start(move |call: Call| async move {
            let result = call.act();
            call_back_to(&call, &success(result)).await.ok();
            if breaks { Then::Break } else { Then::Answer(202, json!({})) }
        })
        .await;
        put(&user, "t", &later(&provider, "irreversible", json!({}))).await;
        let id = begin(&user, "t", "k", json!({})).await;
        // Also if that answer never came: what came of it is on record.
        assert_eq!(execution(&user, &id, "done").await["result"], json!({ "did": 1 }));
        assert_eq!((provider.calls().len(), provider.effects()), (1, 1));
        nobody_is_asked(&user).await;
    }
}

#[tokio::test]
async fn the_first_outcome_counts_the_same_again_is_fine_and_another_is_a_conflict() {
    let (server, user) = server().await;
    let provider = accepting().await;
    put(&user, "t", &later(&provider, "irreversible", json!({}))).await;
    let (id, call) = accepted(&user, &provider, "k").await;
    assert_eq!(user.get(&format!("/v1/tool-executions/{id}")).await.ok()["status"], "running");
    assert_eq!(call_back_to(&call, &success(json!(1))).await.ok()["answer"], "taken");
    assert_eq!(execution(&user, &id, "done").await["result"], 1);
    for server_is_new in [false, true] {
        let again = call_back_to(&call, &success(json!(1))).await.ok();
        assert_eq!(again["answer"], "repeated", "{server_is_new}");
    }
    let failed = json!({ "status": "error", "error": { "code": "sold_out", "message": "no more" } });
    for other in [failed, success(json!(2))] {
        call_back_to(&call, &other).await.problem(409, "callback_conflict");
    }
    assert_eq!(execution(&user, &id, "done").await["result"], 1);
    let told = events(&server, "tool.callback_conflict").await;
    assert_eq!((told.len(), &told[0]["execution_id"]), (2, &json!(id)));
    assert_eq!((events(&server, "tool.done").await.len(), provider.effects()), (1, 1));
    // What ends nothing, and what contradicts itself.
    call_back_to(&call, &json!({ "status": "working" })).await.problem(400, "callback_unusable");
    let both = json!({ "status": "success", "error": { "code": "x", "message": "y" } });
    call_back_to(&call, &both).await.problem(400, "callback_unusable");
}

#[tokio::test]
async fn an_outcome_survives_a_crash_on_either_side_of_it() {
    let (server, user) = server().await;
    let provider = accepting().await;
    put(&user, "t", &later(&provider, "irreversible", json!({}))).await;
    let (id, call) = accepted(&user, &provider, "k").await;
    let token = call.header("mainspring-callback-token").to_owned();
    eventually("it waits for its outcome", || async {
        let run = user.run(&id).await;
        let journal = run["tasks"][0]["journal"].as_array().expect("a journal").clone();
        journal.last().is_some_and(|entry| entry["kind"] == "wait_signal").then_some(())
    })
    .await;
    let server = server.crash(None).await;
    let url = format!("{}/v1/tool-callbacks/{id}", server.url());
    let failed = json!({ "status": "error", "error": { "code": "sold_out", "message": "no more" } });
    assert_eq!(call_back(&url, &token, &failed).await.ok()["answer"], "taken");
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(execution(&user, &id, "failed").await["error"]["code"], "sold_out");
    let url = format!("{}/v1/tool-callbacks/{id}", server.url());
    assert_eq!(call_back(&url, &token, &failed).await.ok()["answer"], "repeated");
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test]
async fn whoever_is_not_entitled_changes_nothing_and_it_is_told() {
    let (server, user) = server().await;
    let provider = accepting().await;
    put(&user, "t", &later(&provider, "irreversible", json!({}))).await;
    let (id, call) = accepted(&user, &provider, "k").await;
    let (other, other_call) = accepted(&user, &provider, "other").await;
    let stranger = server.user_of(TENANT_B).await;
    put(&stranger, "t", &later(&provider, "irreversible", json!({}))).await;
    let (_, strange_call) = accepted(&stranger, &provider, "k").await;
    let url = call.header("mainspring-callback-url");
    for wrong in [&other_call, &strange_call] {
        let answer = call_back(url, wrong.header("mainspring-callback-token"), &success(json!("stolen"))).await;
        let (detail, _) = answer.problem(403, "callback_forbidden");
        assert!(!answer.text.contains(&id) && !detail.is_empty(), "{}", answer.text);
    }
    let ours = events(&server, "tool.callback_refused").await;
    assert_eq!(ours.len(), 1, "the tenant of the token is told: {ours:?}");
    assert_eq!((&ours[0]["execution_id"], &ours[0]["asked_for"]), (&json!(other), &json!(id)));
    let right = call.header("mainspring-callback-token");
    let changed = format!("{}{}", &right[..right.len() - 2], if right.ends_with("AA") { "BB" } else { "AA" });
    for bad in ["", "x", user.token(), &changed] {
        call_back(url, bad, &success(json!("stolen"))).await.problem(401, "callback_token_invalid");
    }
    // And the token opens no other door.
    server.with_token(right).get("/v1/tools").await.problem(401, "token_invalid");
    for waiting in [&id, &other] {
        assert_eq!(user.get(&format!("/v1/tool-executions/{waiting}")).await.ok()["status"], "running");
    }
    assert_eq!(call_back_to(&call, &success(json!("ours"))).await.ok()["answer"], "taken");
    assert_eq!(execution(&user, &id, "done").await["result"], "ours");
}

#[tokio::test]
async fn an_outcome_that_never_comes_is_unknown_and_one_that_comes_then_settles_it() {
    let (_server, user) = server().await;
    let provider = accepting().await;
    put(&user, "t", &later(&provider, "irreversible", json!({ "expires_ms": 40 }))).await;
    let (id, call) = accepted(&user, &provider, "k").await;
    let waits = asked_of_a_person(&user, &id, "unknown").await;
    assert_eq!(waits["detail"]["error"]["code"], "no_outcome");
    assert_eq!(provider.effects(), 1);
    // Its token has expired with the waiting.
    call_back_to(&call, &success(json!(1))).await.problem(401, "callback_token_invalid");
    settle(&user, &id, "call", json!({ "verb": "done", "result": 1 })).await;
    assert_eq!(execution(&user, &id, "done").await["result"], 1);
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test]
async fn who_does_not_call_back_is_asked() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call: Call| async move {
        match (call.path.as_str(), call.nth) {
            ("/poll", 0) => Then::Answer(200, json!({ "state": "working" })),
            ("/poll", 1) => Then::Break,
            ("/poll", _) => call.probed(),
            _ => {
                call.act();
                Then::Answer(202, json!({}))
            }
        }
    })
    .await;
    let poll = json!({
        "policy": "pure", "provider": { "kind": "http", "url": provider.url("/poll"), "body": { "key": "{{args.key}}" } },
        "retry": { "tries_max": 1 },
    });
    put(&user, "poll", &poll).await;
    let by = json!({ "tool": "poll", "arguments": { "key": "{{call.key}}" }, "every_ms": 100 });
    put(&user, "t", &later(&provider, "irreversible", json!({ "poll": by }))).await;
    let (id, _) = accepted(&user, &provider, "k").await;
    assert_eq!(execution(&user, &id, "done").await["result"], json!({ "did": 1 }));
    assert_eq!((provider.calls_of("/act").len(), provider.calls_of("/poll").len()), (1, 3));
}

#[tokio::test]
async fn an_outcome_after_the_end_is_on_record_and_changes_nothing() {
    let (server, user) = server().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |call: Call| {
        let held = held.clone();
        async move {
            held.passed().await;
            // It answers at once after all.
            Then::Answer(200, call.act())
        }
    })
    .await;
    put(&user, "t", &later(&provider, "irreversible", json!({}))).await;
    let (id, call) = accepted(&user, &provider, "k").await;
    gate.open();
    execution(&user, &id, "done").await;
    assert_eq!(call_back_to(&call, &success(json!("late"))).await.ok()["answer"], "late");
    assert_eq!(call_back_to(&call, &success(json!("late"))).await.ok()["answer"], "repeated");
    assert_eq!(execution(&user, &id, "done").await["result"], json!({ "did": 1 }));
    let told = events(&server, "tool.callback").await;
    assert_eq!((told.len(), &told[0]["answer"]), (1, &json!("late")));
}
