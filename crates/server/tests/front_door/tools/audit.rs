//! The audit, as it is exported.

use serde_json::{Value, json};

use super::{Provider, begin, execute, execution, put, server, settle, tool};
use crate::harness::{TENANT_B, User};

/// The lines of an export but the last, and the last.
async fn export(user: &User, query: &str) -> (Vec<Value>, Value) {
    let text = user.get(&format!("/v1/audit?{query}")).await.text;
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let end = lines.pop().expect("a last line");
    (lines, end)
}

fn told(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().expect("a name")).filter(|name| *name != "tool.defined").collect()
}

#[tokio::test]
async fn who_asked_who_decided_and_what_came_of_it_is_exported_in_order() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    let asked = json!({
        "confirmation": { "prompt": "Pay {{args.amount}}?", "expires_ms": 600_000 }, "sensitive": ["card"],
    });
    put(&user, "pay", &tool(&provider, "irreversible", asked)).await;
    put(&user, "look", &tool(&provider, "pure", json!({}))).await;
    let paid = begin(&user, "pay", "k", json!({ "amount": 5, "card": "4111-secret" })).await;
    execution(&user, &paid, "awaiting_confirmation").await;
    execute(&user, "look", &json!({})).await.ok();
    assert_eq!(settle(&user, &paid, "confirm", json!({ "verb": "yes", "note": "as agreed" })).await.status, 202);
    execution(&user, &paid, "done").await;

    let (lines, end) = export(&user, "").await;
    assert_eq!(end["end"], true);
    assert!(lines.iter().all(|line| line["seq"].as_u64() <= end["seq"].as_u64()));
    assert!(lines.is_sorted_by_key(|line| line["seq"].as_u64()), "in order");
    let all = lines.iter().map(Value::to_string).collect::<String>();
    assert!(!all.contains("4111-secret") && all.contains("as agreed"), "{all}");

    let (of_call, _) = export(&user, &format!("execution_id={paid}")).await;
    let expected = ["tool.confirmation_needed", "tool.answered", "tool.confirmed", "tool.done"];
    assert_eq!(told(&of_call), expected);
    let answered = of_call.iter().find(|line| line["event"] == "tool.answered").expect("who said it");
    assert!(answered["data"]["by"].as_str().expect("who").starts_with("token "), "{answered}");
    assert_eq!(told(&export(&user, "tool=look").await.0), ["tool.done"]);

    let (first, rest) = lines.split_at(lines.len() / 2);
    let from = first.last().expect("a line")["seq"].as_u64().expect("a number");
    assert_eq!(export(&user, &format!("after={from}")).await.0, rest, "it goes on where it was cut off");
    let at = rest[0]["at"].as_u64().expect("a time");
    assert!(export(&user, &format!("from={at}")).await.0.iter().all(|line| line["at"].as_u64() >= Some(at)));
    assert!(export(&user, &format!("to={at}")).await.0.iter().all(|line| line["at"].as_u64() < Some(at)));
    user.get("/v1/audit?tools=look").await.problem(400, "query_malformed");
    let other = server.user_of(TENANT_B).await;
    assert_eq!(export(&other, "").await.0, Vec::<Value>::new(), "another tenant's is its own");
}
