//! Providers in trouble: each answer has a stated outcome, and secrets stay where they are.

use serde_json::{Value, json};

use super::{Call, Provider, Then, asked_of_a_person, begin, events, execute, execution, put, server, tool};
use crate::harness::TENANT_B;

/// What comes of a provider's first answer, for a policy: the status, the error's code, and how often it was called.
async fn outcome(policy: &str, not_done: &[u16], first: fn(&Call) -> Then) -> (String, String, usize) {
    let (_server, user) = server().await;
    let provider = Provider::start(move |call: Call| async move {
        if call.nth == 0 { first(&call) } else { Then::Answer(200, json!({ "ok": call.act_once() })) }
    })
    .await;
    let http = json!({ "kind": "http", "url": provider.url("/act"), "not_done_statuses": not_done });
    put(&user, "t", &tool(&provider, policy, json!({ "provider": http }))).await;
    let answer = execute(&user, "t", &json!({ "arguments": {}, "idempotency_key": "k" })).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&answer["status"]), text(&answer["error"]["code"]), provider.calls().len())
}

#[tokio::test]
async fn each_answer_of_a_provider_has_a_stated_outcome_by_policy() {
    type First = fn(&Call) -> Then;
    type Row<'a> = (&'a str, First, &'a [u16], [(&'a str, &'a str, usize); 3]);
    let broken: First = |call| {
        call.act_once();
        Then::BreakWithin(200, "application/json", "{\"half\":".to_owned())
    };
    let failing: First = |_| Then::Answer(500, json!({}));
    let busy: First = |_| Then::With(429, vec![("retry-after", "0")], json!({}));
    let refusing: First = |_| Then::Answer(422, json!({ "why": "no" }));
    let moved: First = |_| Then::With(302, vec![("location", "http://127.0.0.1:1/")], json!({}));
    // The last says with a 500 that it did nothing, as its tool knows.
    let table: [Row<'_>; 6] = [
        ("broken", broken, &[], [("done", "", 2), ("done", "", 2), ("unknown", "answer_broken", 1)]),
        ("failing", failing, &[], [("done", "", 2), ("done", "", 2), ("unknown", "provider_failed", 1)]),
        ("busy", busy, &[], [("done", "", 2); 3]),
        ("refusing", refusing, &[], [("failed", "provider_refused", 1); 3]),
        ("moved", moved, &[], [("failed", "provider_refused", 1); 3]),
        ("failing before it did anything", failing, &[500], [("done", "", 2); 3]),
    ];
    for (what, first, not_done, expected) in table {
        for (policy, (status, code, calls)) in ["pure", "idempotent", "irreversible"].into_iter().zip(expected) {
            let found = outcome(policy, not_done, first).await;
            assert_eq!(found, (status.to_owned(), code.to_owned(), calls), "{what} of {policy}");
        }
    }
}

#[tokio::test]
async fn a_result_over_the_limit_or_against_its_schema_was_carried_out_all_the_same() {
    let schema = json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } });
    for (more, code) in [
        (json!({ "result_bytes_max": 100 }), "result_too_large"),
        (json!({ "result": schema }), "result_unfit"),
        (json!({ "provider": true }), "result_missing"),
    ] {
        for (policy, status) in [("pure", "failed"), ("idempotent", "done"), ("irreversible", "done")] {
            let (_server, user) = server().await;
            let provider = Provider::start(|call: Call| async move {
                call.act();
                Then::Answer(200, json!({ "id": "no number", "text": "x".repeat(300) }))
            })
            .await;
            let mut more = more.clone();
            if more.get("provider").is_some() {
                more["provider"] = json!({ "kind": "http", "url": provider.url("/act"), "result_at": "data.id" });
            }
            put(&user, "t", &tool(&provider, policy, more)).await;
            let asked = json!({ "arguments": {}, "idempotency_key": "k" });
            let answer = execute(&user, "t", &asked).await.ok();
            let found = (&answer["status"], &answer["error"]["code"], &answer["result"]);
            assert_eq!(found, (&json!(status), &json!(code), &Value::Null), "{policy}");
            if policy != "pure" {
                let again = execute(&user, "t", &asked).await.ok();
                assert_eq!((&again["repeated"], &again["error"]["code"]), (&json!(true), &json!(code)), "{again}");
            }
            assert_eq!(provider.effects(), 1, "{policy}: it is not done again for that");
        }
    }
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_is_left_alone_and_others_are_not() {
    let (server, user) = server().await;
    let provider = Provider::start(|call: Call| async move {
        call.act();
        Then::Answer(500, json!({}))
    })
    .await;
    let well = Provider::honest().await;
    let once = json!({ "retry": { "tries_max": 1 } });
    put(&user, "ill", &tool(&provider, "irreversible", once.clone())).await;
    put(&user, "look", &tool(&provider, "pure", once.clone())).await;
    put(&user, "well", &tool(&well, "irreversible", once.clone())).await;
    for nth in 0..5 {
        let id = begin(&user, "ill", &format!("k{nth}"), json!({})).await;
        asked_of_a_person(&user, &id, "unknown").await;
    }
    // From here on nothing leaves: it certainly was not carried out.
    for name in ["ill", "look"] {
        let answer = execute(&user, name, &json!({ "arguments": {}, "idempotency_key": "k6" })).await.ok();
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!("failed"), &json!("circuit_open")),
            "{answer}"
        );
    }
    assert_eq!(provider.calls().len(), 5);
    assert_eq!(execute(&user, "well", &json!({ "arguments": {} })).await.ok()["status"], "done");
    let other = server.user_of(TENANT_B).await;
    put(&other, "look", &tool(&provider, "pure", once)).await;
    let answer = execute(&other, "look", &json!({})).await.ok();
    assert_eq!(answer["error"]["code"], "provider_failed", "another tenant finds out for itself: {answer}");
}

#[tokio::test]
async fn a_request_does_not_wait_for_as_long_as_a_provider_likes() {
    let (_server, user) = server().await;
    let provider = Provider::start(|_| async { Then::With(503, vec![("retry-after", "86400")], json!({})) }).await;
    let http = json!({ "kind": "http", "url": provider.url("/act"), "not_done_statuses": [503] });
    put(&user, "look", &tool(&provider, "pure", json!({ "provider": http }))).await;
    let answer = execute(&user, "look", &json!({})).await.ok();
    assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failed"), &json!("provider_busy")), "{answer}");
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_not_begun() {
    let (_server, user) = server().await;
    let provider = Provider::start(|_| async { Then::With(429, vec![("retry-after", "0")], json!({})) }).await;
    for policy in ["pure", "idempotent", "irreversible"] {
        let retry = json!({ "retry": { "tries_max": 100, "backoff_ms": 40, "backoff_max_ms": 40 } });
        put(&user, policy, &tool(&provider, policy, retry)).await;
        let asked = json!({ "arguments": {}, "idempotency_key": "k", "deadline_ms": 100 });
        let answer = execute(&user, policy, &asked).await.ok();
        assert_eq!(
            (&answer["status"], &answer["error"]["code"]),
            (&json!("failed"), &json!("deadline_exceeded")),
            "{answer}"
        );
    }
    assert!(provider.calls().len() < 30, "{}", provider.calls().len());
}

#[tokio::test]
async fn secrets_are_sent_and_shown_nowhere() {
    let secret = "geheim-4711";
    let (server, user) = server().await;
    let provider = Provider::start(|call: Call| async move {
        // It says everything it was sent.
        let said = json!({ "you_sent": call.body, "as": call.header("x-key"), "token": call.header("mainspring-callback-token") });
        match call.nth % 3 {
            0 => Then::Answer(200, said),
            1 => Then::Answer(422, said),
            _ => Then::Answer(500, said),
        }
    })
    .await;
    let http = json!({
        "kind": "http", "url": provider.url("/act"), "headers": { "x-key": "Key {{secrets.provider}}" },
        "body": { "order": "{{args.order}}", "pin": "{{secrets.provider}}" },
    });
    let more = json!({ "provider": http, "sensitive": ["card"], "later": {}, "retry": { "tries_max": 1 } });
    put(&user, "t", &tool(&provider, "irreversible", more)).await;
    let mut texts = Vec::new();
    for nth in 0..3 {
        let asked = json!({ "arguments": { "order": nth, "card": "4111-1111" }, "idempotency_key": format!("k{nth}") });
        let answer = execute(&user, "t", &asked).await;
        let id = answer.body["execution_id"].as_str().expect("an execution").to_owned();
        texts.push(answer.text);
        for path in
            [format!("/v1/tool-executions/{id}"), format!("/v1/runs/{id}"), format!("/v1/tool-executions/{id}/stream")]
        {
            if !path.ends_with("/stream") || nth < 2 {
                texts.push(user.get(&path).await.text);
            }
        }
    }
    let calls = provider.calls();
    assert_eq!((calls.len(), calls[0].header("x-key"), &calls[0].body["pin"]), (3, "Key geheim-4711", &json!(secret)));
    for path in ["/v1/tools", "/v1/tools/t", "/v1/tool-executions", "/v1/attention", "/v1/runs"] {
        texts.push(user.get(path).await.text);
    }
    for name in ["tool.started", "tool.done", "tool.failed", "tool.unknown"] {
        texts.extend(events(&server, name).await.iter().map(Value::to_string));
    }
    let token = calls[0].header("mainspring-callback-token").to_owned();
    assert!(!token.is_empty());
    for text in &texts {
        assert!(!text.contains(secret), "the secret is in {text}");
        assert!(!text.contains(&token), "the token is in {text}");
    }
    // Arguments a tool calls sensitive are sent, and shown to nobody who lists.
    let lists = [user.get("/v1/tool-executions").await.text, user.get("/v1/attention").await.text];
    assert!(lists.iter().all(|text| !text.contains("4111-1111")), "{lists:?}");
    assert!(events(&server, "tool.started").await.iter().all(|told| !told.to_string().contains("4111-1111")));
    // A secret nobody configured.
    let http = json!({ "kind": "http", "url": provider.url("/act"), "headers": { "x-key": "{{secrets.other}}" } });
    put(&user, "without", &tool(&provider, "pure", json!({ "provider": http }))).await;
    let answer = execute(&user, "without", &json!({})).await.ok();
    assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failed"), &json!("request")), "{answer}");
    assert_eq!(provider.calls().len(), 3, "nothing is sent without it");
}

#[tokio::test]
async fn nothing_of_a_call_is_another_tenants() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "t", &tool(&provider, "irreversible", json!({ "confirmation": { "prompt": "Really?" } }))).await;
    let id = begin(&user, "t", "k", json!({})).await;
    asked_of_a_person(&user, &id, "confirmation").await;
    let stranger = server.user_of(TENANT_B).await;
    assert_eq!(stranger.get("/v1/attention").await.ok()["attention"], json!([]));
    assert_eq!(stranger.get("/v1/tool-executions").await.ok()["executions"], json!([]));
    stranger.get(&format!("/v1/tool-executions/{id}")).await.problem(404, "not_found");
    stranger.get(&format!("/v1/tool-executions/{id}/stream")).await.problem(404, "not_found");
    stranger.post(&format!("/v1/tool-executions/{id}/cancel"), &json!({})).await.problem(404, "not_found");
    stranger.post(&format!("/v1/tool-executions/{id}/compensate"), &json!({})).await.problem(404, "not_found");
    super::settle(&stranger, &id, "confirm", json!({ "verb": "yes" })).await.problem(409, "tool_conflict");
    // The same name and key, and another call.
    put(&stranger, "t", &tool(&provider, "irreversible", json!({}))).await;
    execute(&stranger, "t", &json!({ "arguments": {}, "idempotency_key": "k" })).await.ok();
    super::settle(&user, &id, "confirm", json!({ "verb": "yes" })).await;
    execution(&user, &id, "done").await;
    assert_eq!(provider.ledger().len(), 2, "{:?}", provider.ledger());
    // A run that is no execution is none here.
    let turn = user.get("/v1/tool-executions/00000000000000000000000000000001").await;
    assert_eq!(turn.status, 404, "{}", turn.text);
}
