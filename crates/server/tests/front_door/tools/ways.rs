//! The three ways a call goes, and what a key stands for.

use serde_json::{Value, json};

use super::{Provider, Then, begin, events, execute, execution, listed, put, server, tool};
use crate::harness::{Gate, eventually};

#[tokio::test]
async fn what_only_reads_is_called_in_the_request_and_tried_again() {
    let (server, user) = server().await;
    let provider = Provider::start(|call| async move {
        match call.nth {
            0 => Then::Break,
            1 => Then::Answer(500, json!({ "sorry": true })),
            _ => Then::Answer(200, json!({ "found": call.body["q"] })),
        }
    })
    .await;
    put(&user, "look", &tool(&provider, "pure", json!({}))).await;
    let answer = execute(&user, "look", &json!({ "arguments": { "q": "x" } })).await;
    assert_eq!(answer.status, 200);
    let answer = answer.ok();
    assert_eq!((&answer["status"], &answer["result"]), (&json!("done"), &json!({ "found": "x" })));
    assert_eq!(answer["execution_id"], Value::Null, "nothing was recorded before");
    let calls = provider.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.key().is_empty()), "an answer that was kept for a key is no news");
    let told = events(&server, "tool.done").await;
    assert_eq!((told.len(), &told[0]["tool"]), (1, &json!("look")), "it is in the audit all the same");
}

#[tokio::test]
async fn each_policy_has_its_way_and_each_way_its_receipt() {
    let (server, user) = server().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |call| {
        let held = held.clone();
        async move {
            held.passed().await;
            Then::Answer(200, call.act_once())
        }
    })
    .await;
    let undo = tool(&provider, "idempotent", json!({}));
    put(&user, "undo", &undo).await;
    let mut ids = Vec::new();
    for policy in ["idempotent", "compensatable", "irreversible"] {
        let more = json!({ "compensation": { "tool": "undo" } });
        put(&user, policy, &tool(&provider, policy, more)).await;
        let asked = json!({ "arguments": {}, "idempotency_key": policy, "wait_ms": 0 });
        let receipt = execute(&user, policy, &asked).await;
        assert_eq!(receipt.status, 202, "{}", receipt.text);
        assert_eq!(receipt.body["status"], "running", "{}", receipt.text);
        ids.push(receipt.body["execution_id"].as_str().expect("an execution").to_owned());
    }
    provider.called("/act", 3).await;
    let workflows = [(0, "tool-call-task"), (1, "tool-call"), (2, "tool-call")];
    for (nth, workflow) in workflows {
        assert_eq!(user.run(&ids[nth]).await["workflow"], workflow);
    }
    gate.open();
    for id in &ids {
        execution(&user, id, "done").await;
    }
    assert_eq!(provider.effects(), 3);
    listed(&user, "status=done", 3).await;
    listed(&user, "status=failed", 0).await;
    assert_eq!(events(&server, "tool.started").await.len(), 3);
    assert_eq!(events(&server, "tool.done").await.len(), 3);
}

#[tokio::test]
async fn of_many_who_claim_one_key_at_once_one_executes_and_all_get_its_result() {
    for policy in ["idempotent", "irreversible"] {
        let (_server, user) = server().await;
        let provider = Provider::start(|call| async move {
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            Then::Answer(200, call.act())
        })
        .await;
        put(&user, "t", &tool(&provider, policy, json!({}))).await;
        let asked = json!({ "arguments": { "order": 5 }, "idempotency_key": "k" });
        let calls = (0..12).map(|_| execute(&user, "t", &asked));
        let answers = futures_util::future::join_all(calls).await;
        let mut first = 0;
        for answer in answers {
            let answer = answer.ok();
            assert_eq!((&answer["status"], &answer["result"]), (&json!("done"), &json!({ "did": 1 })), "{answer}");
            first += usize::from(answer["repeated"] == false);
        }
        assert_eq!((first, provider.calls().len(), provider.effects()), (1, 1, 1), "{policy}");
        // Long after, and elsewhere.
        let again = execute(&user, "t", &asked).await.ok();
        assert_eq!((&again["repeated"], &again["result"]), (&json!(true), &json!({ "did": 1 })));
        assert_eq!(provider.calls().len(), 1);
    }
}

#[tokio::test]
async fn an_empty_result_is_a_result() {
    for (policy, empty) in [("idempotent", json!({})), ("irreversible", json!(null)), ("irreversible", json!(false))] {
        let (server, user) = server().await;
        let given = empty.clone();
        let provider = Provider::start(move |call| {
            let given = given.clone();
            async move {
                call.act();
                Then::Answer(200, given)
            }
        })
        .await;
        put(&user, "t", &tool(&provider, policy, json!({}))).await;
        let asked = json!({ "arguments": {}, "idempotency_key": "k" });
        let first = execute(&user, "t", &asked).await.ok();
        assert_eq!((&first["status"], &first["result"]), (&json!("done"), &empty));
        let server = server.crash(None).await;
        let again = execute(&server.user().await, "t", &asked).await.ok();
        assert_eq!((&again["status"], &again["result"], &again["repeated"]), (&json!("done"), &empty, &json!(true)));
        assert_eq!(provider.effects(), 1);
    }
}

#[tokio::test]
async fn a_key_with_other_arguments_is_another_wish_and_refused() {
    let (_server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "t", &tool(&provider, "irreversible", json!({}))).await;
    let asked = |amount: u32| json!({ "arguments": { "amount": amount }, "idempotency_key": "k" });
    execute(&user, "t", &asked(1)).await.ok();
    let (detail, _) = execute(&user, "t", &asked(2)).await.problem(409, "tool_conflict");
    assert!(detail.contains("other arguments"), "{detail}");
    assert_eq!(provider.effects(), 1);
    // Members in another order are the same arguments.
    let one = json!({ "arguments": { "a": 1, "b": 2 }, "idempotency_key": "order" });
    execute(&user, "t", &one).await.ok();
    let text = r#"{"arguments": {"b": 2, "a": 1}, "idempotency_key": "order"}"#;
    let request = user.request(reqwest::Method::POST, "/v1/tools/t/execute").header("content-type", "application/json");
    let again = crate::harness::Answer::of(request.body(text)).await.ok();
    assert_eq!(again["repeated"], true);
    // Without a key each call is a call of its own; with key fields the arguments are the key.
    execute(&user, "t", &json!({ "arguments": { "amount": 1 } })).await.ok();
    execute(&user, "t", &json!({ "arguments": { "amount": 1 } })).await.ok();
    assert_eq!(provider.effects(), 4);
    put(&user, "keyed", &tool(&provider, "irreversible", json!({ "key_fields": ["order.id"] }))).await;
    let by_order = |id: Value| json!({ "arguments": { "order": { "id": id } } });
    execute(&user, "keyed", &by_order(json!("o1"))).await.ok();
    assert_eq!(execute(&user, "keyed", &by_order(json!("o1"))).await.ok()["repeated"], true);
    let (detail, _) = execute(&user, "keyed", &by_order(json!(""))).await.problem(422, "call_unusable");
    assert!(detail.contains("order.id"), "two incomplete calls are not one: {detail}");
    assert_eq!(provider.effects(), 5);
}

#[tokio::test]
async fn a_stream_tells_how_it_goes_and_ends_with_one_line() {
    let (_server, user) = server().await;
    let provider = Provider::start(|call| async move {
        let result = json!({ "type": "final_result", "result": call.act() });
        let lines = [json!({ "type": "progress", "percent": 50 }), result].map(|line| format!("{line}\n"));
        Then::Text(200, "application/x-ndjson", lines.concat())
    })
    .await;
    put(&user, "slow", &tool(&provider, "irreversible", json!({}))).await;
    put(&user, "quick", &tool(&provider, "pure", json!({}))).await;
    put(&user, "wrong", &json!({ "policy": "irreversible", "provider": { "kind": "builtin", "name": "fail" } })).await;
    for (name, last, execution) in
        [("slow", "final_result", true), ("quick", "final_result", false), ("wrong", "error", true)]
    {
        let asked = json!({ "arguments": {}, "idempotency_key": "k" });
        let answer = user.post(&format!("/v1/tools/{name}/execute-stream"), &asked).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"), "{}", answer.text);
        let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().expect("a type")).collect();
        let terminal = kinds.iter().filter(|kind| ["final_result", "error"].contains(kind)).count();
        assert_eq!((kinds[0], kinds[kinds.len() - 1], terminal), ("status", last, 1), "{kinds:?}");
        for (nth, line) in lines.iter().enumerate() {
            assert_eq!(line["seq"], json!(nth));
        }
        assert_eq!(lines[0]["execution_id"].is_string(), execution);
        if execution {
            // Whoever lost the stream comes back.
            let id = lines[0]["execution_id"].as_str().expect("an execution");
            let rest = user.get(&format!("/v1/tool-executions/{id}/stream?after_seq=4")).await.text;
            let rest: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!((&rest[0]["seq"], &rest.last().expect("lines")["type"]), (&json!(5), &json!(last)));
        }
    }
    assert_eq!(provider.effects(), 2);
}

#[tokio::test]
async fn calls_with_one_concurrency_key_go_one_after_another() {
    let (_server, user) = server().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |call| {
        let held = held.clone();
        async move {
            held.passed().await;
            Then::Answer(200, call.act())
        }
    })
    .await;
    put(&user, "t", &tool(&provider, "idempotent", json!({ "concurrency_key": "{{args.account}}" }))).await;
    let mut ids = Vec::new();
    for (key, account) in [("1", "a"), ("2", "a"), ("3", "b")] {
        ids.push(begin(&user, "t", key, json!({ "account": account })).await);
    }
    let calls = provider.called("/act", 2).await;
    let accounts: Vec<_> = calls.iter().map(|call| call.body["account"].as_str().expect("an account")).collect();
    assert_eq!(accounts, ["a", "b"], "the second of an account waits for the first");
    let waiting = eventually("it says why it waits", || async {
        Some(user.run(&ids[1]).await).filter(|run| run["state"] == "queued")
    });
    waiting.await;
    gate.open();
    for id in &ids {
        execution(&user, id, "done").await;
    }
    assert_eq!(provider.effects(), 3);
}

#[tokio::test]
async fn more_calls_than_the_tools_rate_allows_are_refused_and_not_sent() {
    let (_server, user) = server().await;
    let provider = Provider::honest().await;
    for policy in ["pure", "irreversible"] {
        let rate = json!({ "rate": { "limit": 3, "window_ms": 600_000 } });
        put(&user, policy, &tool(&provider, policy, rate)).await;
        let before = provider.calls().len();
        for nth in 0..3 {
            let asked = json!({ "arguments": { "nth": nth }, "idempotency_key": format!("k{nth}") });
            assert_eq!(execute(&user, policy, &asked).await.ok()["status"], "done");
        }
        let over = execute(&user, policy, &json!({ "arguments": {}, "idempotency_key": "k4" })).await;
        assert_eq!(over.status, 429, "{}", over.text);
        assert_eq!(provider.calls().len() - before, 3);
        let known = execute(&user, policy, &json!({ "arguments": { "nth": 0 }, "idempotency_key": "k0" })).await.ok();
        assert_eq!(known["repeated"], true, "what is known costs nothing");
    }
}
