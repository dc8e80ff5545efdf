//! What is not known: a connection that breaks, a server that dies between the call and its outcome. Nothing is repeated
//! that may not happen twice, and nothing is dropped.

use serde_json::{Value, json};

use super::{
    Call, Provider, Then, asked_of_a_person, begin, events, execute, execution, nobody_is_asked, probe, put, server,
    settle, tool,
};
use crate::harness::Gate;

/// A provider whose first call goes wrong: it never answers.
async fn hanging(acts: bool) -> Provider {
    Provider::start(move |call: Call| async move {
        match (call.path.as_str(), call.nth) {
            ("/probe", _) => call.probed(),
            ("/act", 0) => {
                if acts {
                    call.act_once();
                }
                std::future::pending().await
            }
            _ => Then::Answer(200, call.act_once()),
        }
    })
    .await
}

/// A provider whose first call breaks, after or before it acts.
async fn breaking(acts: bool) -> Provider {
    Provider::start(move |call: Call| async move {
        match (call.path.as_str(), call.nth) {
            ("/probe", _) => call.probed(),
            ("/act", 0) => {
                if acts {
                    call.act_once();
                }
                Then::Break
            }
            _ => Then::Answer(200, call.act_once()),
        }
    })
    .await
}

async fn definitions(user: &crate::harness::User, provider: &Provider) {
    put(user, "probe", &probe(provider)).await;
    put(
        user,
        "undo",
        &tool(provider, "idempotent", json!({ "provider": { "kind": "http", "url": provider.url("/undo") } })),
    )
    .await;
    let probed = json!({ "probe": { "tool": "probe", "arguments": { "key": "{{call.key}}" } } });
    let undone = json!({ "compensation": { "tool": "undo" } });
    put(user, "idempotent", &tool(provider, "idempotent", json!({}))).await;
    put(user, "durable", &tool(provider, "idempotent", json!({ "path": "durable" }))).await;
    put(user, "compensatable", &tool(provider, "compensatable", undone)).await;
    put(user, "irreversible", &tool(provider, "irreversible", json!({}))).await;
    put(user, "probed", &tool(provider, "irreversible", probed)).await;
}

#[tokio::test]
async fn what_may_not_happen_twice_and_is_in_doubt_is_unknown_and_never_repeated() {
    for policy in ["irreversible", "compensatable"] {
        for acts in [true, false] {
            let (server, user) = server().await;
            let provider = breaking(acts).await;
            definitions(&user, &provider).await;
            let asked = json!({ "arguments": { "order": 5 }, "idempotency_key": "k" });
            let answer = execute(&user, policy, &asked).await;
            assert_eq!((answer.status, &answer.body["status"]), (202, &json!("unknown")), "{}", answer.text);
            let id = answer.body["execution_id"].as_str().expect("an execution").to_owned();
            // Asked for again, in whatever way, it is still the same call.
            assert_eq!(execute(&user, policy, &asked).await.ok()["status"], "unknown");
            let server = server.crash(None).await;
            let user = server.user().await;
            assert_eq!(execute(&user, policy, &asked).await.ok()["execution_id"], json!(id));
            let waits = asked_of_a_person(&user, &id, "unknown").await;
            assert!(waits["title"].as_str().expect("a title").contains("nobody knows"), "{waits}");
            assert!(waits["detail"]["key"].as_str().expect("the key").ends_with(":k"), "{waits}");
            let verbs: Vec<_> =
                waits["verbs"].as_array().expect("verbs").iter().map(|verb| verb.as_str().expect("a verb")).collect();
            let more: &[&str] = if policy == "compensatable" { &["compensate"] } else { &[] };
            assert_eq!(verbs, [&["done", "not_done", "retry"], more].concat());
            assert_eq!((provider.calls_of("/act").len(), provider.effects()), (1, usize::from(acts)), "{policy}");
            assert_eq!(events(&server, "tool.unknown").await.len(), 1);

            // What a person finds out is the outcome.
            settle(&user, &id, "call", json!({ "verb": "perhaps" })).await.problem(422, "call_unusable");
            let verdict = json!({ "verb": "done", "result": { "receipt": 17 }, "note": "asked them" });
            assert_eq!(settle(&user, &id, "call", verdict).await.status, 202);
            assert_eq!(execution(&user, &id, "done").await["result"], json!({ "receipt": 17 }));
            let known = execute(&user, policy, &asked).await.ok();
            assert_eq!((&known["result"], &known["repeated"]), (&json!({ "receipt": 17 }), &json!(true)));
            nobody_is_asked(&user).await;
            settle(&user, &id, "call", json!({ "verb": "retry" })).await.problem(409, "tool_conflict");
            assert_eq!(provider.calls_of("/act").len(), 1);
            let told = events(&server, "tool.answered").await;
            assert_eq!((told.len(), &told[0]["note"], &told[0]["verb"]), (1, &json!("asked them"), &json!("done")));
        }
    }
}

#[tokio::test]
async fn what_may_happen_twice_is_repeated_with_the_same_key_until_it_is_done() {
    for name in ["idempotent", "durable"] {
        for acts in [true, false] {
            let (_server, user) = server().await;
            let provider = breaking(acts).await;
            definitions(&user, &provider).await;
            let answer = execute(&user, name, &json!({ "arguments": {}, "idempotency_key": "k" })).await.ok();
            assert_eq!((&answer["status"], &answer["result"]), (&json!("done"), &json!({ "did": 1 })));
            let keys: Vec<_> = provider.calls_of("/act").iter().map(|call| call.key().to_owned()).collect();
            assert_eq!(keys.len(), 2);
            assert_eq!(keys[0], keys[1]);
            assert_eq!(provider.effects(), 1);
        }
    }
}

#[tokio::test]
async fn a_server_that_dies_during_a_call_goes_on_as_its_policy_says() {
    for acts in [true, false] {
        for name in ["idempotent", "durable", "compensatable", "irreversible", "probed"] {
            let (server, user) = server().await;
            let provider = hanging(acts).await;
            definitions(&user, &provider).await;
            let id = begin(&user, name, "k", json!({ "order": 5 })).await;
            provider.called("/act", 1).await;
            let server = server.crash(None).await;
            let user = server.user().await;
            match name {
                "idempotent" | "durable" | "probed" => {
                    assert_eq!(execution(&user, &id, "done").await["result"], json!({ "did": 1 }), "{name}");
                    // A probe that knows spares the second call.
                    let calls = if name == "probed" && acts { 1 } else { 2 };
                    assert_eq!((provider.calls_of("/act").len(), provider.effects()), (calls, 1), "{name} {acts}");
                }
                _ => {
                    asked_of_a_person(&user, &id, "unknown").await;
                    assert_eq!((provider.calls_of("/act").len(), provider.effects()), (1, usize::from(acts)), "{name}");
                }
            }
            let keys: Vec<_> = provider.calls_of("/act").iter().map(|call| call.key().to_owned()).collect();
            assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        }
    }
}

#[tokio::test]
async fn a_probe_decides_and_one_that_does_not_know_leaves_it_to_a_person() {
    for (said, outcome) in [
        (json!({ "state": "done", "result": { "receipt": 4 } }), "done"),
        (json!({ "state": "not_done" }), "again"),
        (json!({ "state": "pending" }), "unknown"),
        (json!("what?"), "unknown"),
    ] {
        let (_server, user) = server().await;
        let provider = Provider::start(move |call: Call| {
            let said = said.clone();
            async move {
                match (call.path.as_str(), call.nth) {
                    // It is not even there at first.
                    ("/probe", 0) => Then::Answer(500, json!({})),
                    ("/probe", _) => Then::Answer(200, said),
                    (_, 0) => Then::Break,
                    _ => Then::Answer(200, call.act()),
                }
            }
        })
        .await;
        definitions(&user, &provider).await;
        let answer = execute(&user, "probed", &json!({ "arguments": {}, "idempotency_key": "k" })).await.ok();
        let calls = provider.calls_of("/act").len();
        match outcome {
            "done" => assert_eq!((&answer["result"], calls), (&json!({ "receipt": 4 }), 1)),
            "again" => assert_eq!((&answer["result"], calls), (&json!({ "did": 1 }), 2)),
            _ => assert_eq!((&answer["status"], calls), (&json!("unknown"), 1), "{answer}"),
        }
        assert_eq!(provider.calls_of("/probe")[0].body["key"], provider.calls_of("/act")[0].key());
    }
}

#[tokio::test]
async fn a_person_may_say_not_done_retry_or_have_it_undone() {
    let (server, user) = server().await;
    let provider = Provider::start(|call: Call| async move {
        match (call.path.as_str(), call.nth) {
            ("/undo", _) => Then::Answer(200, json!({})),
            (_, 0..=3) => Then::Break,
            _ => Then::Answer(200, call.act()),
        }
    })
    .await;
    definitions(&user, &provider).await;
    let mut ids = Vec::new();
    for key in ["not_done", "retry", "compensate"] {
        let id = begin(&user, "compensatable", key, json!({ "order": key })).await;
        asked_of_a_person(&user, &id, "unknown").await;
        ids.push(id);
    }
    settle(&user, &ids[0], "call", json!({ "verb": "not_done" })).await;
    assert_eq!(execution(&user, &ids[0], "failed").await["error"]["code"], "not_carried_out");
    assert_eq!(provider.calls_of("/act").len(), 3);

    settle(&user, &ids[2], "call", json!({ "verb": "compensate" })).await;
    execution(&user, &ids[2], "compensated").await;
    let undone = provider.calls_of("/undo");
    assert_eq!((undone.len(), &undone[0].body["args"]["order"]), (1, &json!("compensate")));
    assert!(undone[0].key().ends_with(":comp"), "{}", undone[0].key());

    // It breaks once more: that is asked about anew, and what was said before does not answer it.
    settle(&user, &ids[1], "call", json!({ "verb": "retry" })).await;
    provider.called("/act", 4).await;
    asked_of_a_person(&user, &ids[1], "unknown").await;
    settle(&user, &ids[1], "call", json!({ "verb": "retry" })).await;
    assert_eq!(execution(&user, &ids[1], "done").await["result"], json!({ "did": 1 }));
    assert_eq!((provider.calls_of("/act").len(), provider.effects()), (5, 1));
    // What was certainly not done may be asked for again; what was undone is done anew under another key.
    execute(&user, "compensatable", &json!({ "arguments": { "order": "not_done" }, "idempotency_key": "not_done" }))
        .await
        .ok();
    execute(
        &user,
        "compensatable",
        &json!({ "arguments": { "order": "compensate" }, "idempotency_key": "compensate" }),
    )
    .await
    .ok();
    let keys: Vec<_> = provider.calls_of("/act").iter().map(|call| call.key().to_owned()).collect();
    assert_eq!(keys[5], keys[0]);
    assert!(keys[6].starts_with(&keys[2]) && keys[6].contains(":again:"), "{keys:?}");
    assert_eq!(events(&server, "tool.unknown").await.len(), 4);
}

#[tokio::test]
async fn an_answer_to_one_question_does_not_answer_the_next() {
    let (_server, user) = server().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |call: Call| {
        let held = held.clone();
        async move {
            if call.nth == 1 {
                held.passed().await;
            }
            call.act();
            Then::Break
        }
    })
    .await;
    definitions(&user, &provider).await;
    let id = begin(&user, "irreversible", "k", json!({})).await;
    asked_of_a_person(&user, &id, "unknown").await;
    // Two people look at the same question, and both say that it should be tried again.
    let both = [(); 2].map(|()| settle(&user, &id, "call", json!({ "verb": "retry" })));
    for answer in futures_util::future::join_all(both).await {
        assert!([202, 409].contains(&answer.status), "{}", answer.text);
    }
    provider.called("/act", 2).await;
    gate.open();
    asked_of_a_person(&user, &id, "unknown").await;
    // Whatever was left over would have been heard by now: this question is still there to be answered.
    settle(&user, &id, "call", json!({ "verb": "done", "result": 2 })).await;
    assert_eq!(execution(&user, &id, "done").await["result"], 2);
    assert_eq!(provider.effects(), 2, "the second was one person's word, not two");
}

#[tokio::test]
async fn a_providers_stream_that_is_cut_after_progress_is_in_doubt() {
    for (name, ends) in [("irreversible", "unknown"), ("idempotent", "done"), ("probed", "done")] {
        for broken in [true, false] {
            let (server, user) = server().await;
            let provider = Provider::start(move |call: Call| async move {
                let progress = format!("{}\n", json!({ "type": "progress", "percent": 50 }));
                match (call.path.as_str(), call.nth) {
                    ("/probe", _) => call.probed(),
                    (_, 0) => {
                        call.act_once();
                        let kind = "application/x-ndjson";
                        if broken { Then::BreakWithin(200, kind, progress) } else { Then::Text(200, kind, progress) }
                    }
                    _ => Then::Answer(200, call.act_once()),
                }
            })
            .await;
            definitions(&user, &provider).await;
            let id = begin(&user, name, "k", json!({})).await;
            if ends == "unknown" {
                asked_of_a_person(&user, &id, "unknown").await;
                settle(&user, &id, "call", json!({ "verb": "done", "result": { "did": 1 } })).await;
            }
            assert_eq!(execution(&user, &id, "done").await["result"], json!({ "did": 1 }));
            let calls = if name == "idempotent" { 2 } else { 1 };
            assert_eq!((provider.calls_of("/act").len(), provider.effects()), (calls, 1), "{name}");
            let terminal = [events(&server, "tool.done").await, events(&server, "tool.failed").await].concat();
            let ours: Vec<_> = terminal.iter().filter(|told| told["execution_id"] == json!(id)).collect();
            assert_eq!(ours.len(), 1, "one terminal event: {ours:?}");
        }
    }
}

#[tokio::test]
async fn what_may_happen_twice_and_never_answers_has_failed_in_doubt_and_may_be_asked_for_again() {
    let (server, user) = server().await;
    let provider = Provider::start(|call: Call| async move {
        let result = call.act_once();
        if call.nth < 4 { Then::Break } else { Then::Answer(200, result) }
    })
    .await;
    definitions(&user, &provider).await;
    let asked = json!({ "arguments": {}, "idempotency_key": "k" });
    let answer = execute(&user, "idempotent", &asked).await.ok();
    assert_eq!(
        (&answer["status"], &answer["in_doubt"]),
        (&json!("failed"), &json!(true)),
        "it does not say that nothing was done: {answer}"
    );
    assert_eq!(events(&server, "tool.failed").await[0]["in_doubt"], true);
    let again = execute(&user, "idempotent", &asked).await.ok();
    assert_eq!((&again["status"], &again["result"]), (&json!("done"), &json!({ "did": 1 })));
    let keys: Vec<_> = provider.calls_of("/act").iter().map(|call| call.key().to_owned()).collect();
    assert!(keys.len() == 5 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(provider.effects(), 1);
    // Carried out durably it waits for a person instead.
    let (_server, user) = super::server().await;
    let provider = Provider::start(|_| async { Then::Break }).await;
    definitions(&user, &provider).await;
    let id = begin(&user, "durable", "k", json!({})).await;
    asked_of_a_person(&user, &id, "unknown").await;
    assert_eq!(provider.calls_of("/act").len(), 4);
    assert_eq!(execute(&user, "durable", &asked).await.ok()["execution_id"], Value::from(id));
}
