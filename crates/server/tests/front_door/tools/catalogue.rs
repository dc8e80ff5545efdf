//! Which tools there are, for whom, and what is refused before anything is sent.

use serde_json::json;

use super::{Provider, execute, execution, listed, put, server, tool};
use crate::harness::TENANT_B;

async fn tiers(user: &crate::harness::User, agent: &str) -> Vec<(String, String)> {
    let listed = user.get(&format!("/v1/tools?agent={agent}")).await.ok();
    let mut tiers: Vec<_> = listed["tools"]
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| [&tool["name"], &tool["tier"]].map(|text| text.as_str().expect("text").to_owned()))
        .map(|[name, tier]| (name, tier))
        .collect();
    tiers.sort();
    tiers
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_tool_is_listed_and_nothing_is_stored() {
    let (_server, user) = server().await;
    let bad = json!({
        "policy": "compensatable",
        "parameters": { "type": 5 },
        "timeout_ms": 0,
        "path": "direct",
        "probe": { "tool": "nobody" },
        "provider": {
            "kind": "http", "method": "BREW", "url": "https://{{args.host}}/x",
            "headers": { "host": "evil", "x-key": "{{secret.key}}" },
        },
    });
    let (detail, action) = user.put("/v1/tools/shop.buy", &bad).await.problem(422, "tool_unfit");
    for place in [
        "/parameters",
        "/timeout_ms",
        "/compensation",
        "/path",
        "/provider/method",
        "/provider/url",
        "/provider/headers/host",
        "/provider/headers/x-key",
    ] {
        assert!(detail.contains(&format!("{place}: ")), "no {place} in {detail}");
    }
    assert!(action.contains("each place"), "{action}");
    user.get("/v1/tools/shop.buy").await.problem(404, "not_found");
    // What needs the other tools is told once it can be told.
    let probed = json!({ "policy": "irreversible", "probe": { "tool": "nobody" }, "provider": { "kind": "builtin", "name": "echo" } });
    let (detail, _) = user.put("/v1/tools/shop.buy", &probed).await.problem(422, "tool_unfit");
    assert!(detail.contains("/probe/tool: there is no tool \"nobody\""), "{detail}");
    let (detail, _) = user.put("/v1/tools/bad%20name", &probed).await.problem(422, "tool_unfit");
    assert!(detail.contains("/name"), "{detail}");
}

#[tokio::test]
async fn a_policy_nobody_knows_is_refused_and_a_missing_one_is_taken_for_irreversible() {
    let (_server, user) = server().await;
    let provider = Provider::honest().await;
    for unknown in [json!("reversible"), json!("PURE"), json!(""), json!(null), json!(1)] {
        let (detail, _) = user
            .put("/v1/tools/t", &tool(&provider, "", json!({ "policy": unknown })))
            .await
            .problem(422, "tool_unfit");
        assert!(detail.contains("/policy") && detail.contains("irreversible"), "{detail}");
    }
    let mut unsaid = tool(&provider, "", json!({}));
    unsaid.as_object_mut().expect("an object").remove("policy");
    let advice = put(&user, "t", &unsaid).await;
    assert!(advice.iter().any(|one| one["place"] == "/policy"), "its author is told: {advice:?}");
    assert_eq!(user.get("/v1/tools/t").await.ok()["policy"], "irreversible");
}

#[tokio::test]
async fn each_tool_is_in_a_tier_and_a_call_says_in_which() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    put(&user, "kept", &tool(&provider, "idempotent", json!({ "available": false }))).await;
    put(&user, "off", &tool(&provider, "idempotent", json!({}))).await;
    put(&user, "strict", &tool(&provider, "idempotent", json!({}))).await;
    assert_eq!(user.put("/v1/agents/ann/tools/off", &json!({ "enabled": false })).await.status, 204);
    let stricter = json!({ "enabled": true, "policy": "irreversible" });
    assert_eq!(user.put("/v1/agents/ann/tools/strict", &stricter).await.status, 204);
    let expected = [("kept", "catalogue"), ("off", "available"), ("strict", "enabled")];
    assert_eq!(tiers(&user, "ann").await, expected.map(|(name, tier)| (name.to_owned(), tier.to_owned())));
    let expected = [("kept", "catalogue"), ("off", "enabled"), ("strict", "enabled")];
    assert_eq!(tiers(&user, "bob").await, expected.map(|(name, tier)| (name.to_owned(), tier.to_owned())));

    let by = |agent: &str| json!({ "agent": agent, "arguments": {} });
    let (detail, _) = execute(&user, "kept", &by("ann")).await.problem(404, "tool_unavailable");
    assert!(detail.contains("catalogue"), "{detail}");
    let (detail, _) = execute(&user, "off", &by("ann")).await.problem(404, "tool_disabled");
    assert!(detail.contains("not enabled for agent \"ann\""), "{detail}");
    execute(&user, "none", &by("ann")).await.problem(404, "tool_unknown");
    assert_eq!(provider.calls().len(), 0, "nothing was sent");
    assert_eq!(execute(&user, "off", &by("bob")).await.ok()["status"], "done");
    execute(&user, "strict", &by("ann")).await.ok();
    let listed = listed(&user, "tool=strict", 1).await;
    assert_eq!(listed[0]["policy"], "irreversible", "an agent's own policy holds");

    // Looser than the tool, or a confirmation nobody wrote.
    let (detail, _) =
        user.put("/v1/agents/ann/tools/strict", &json!({ "policy": "pure" })).await.problem(422, "tool_unfit");
    assert!(detail.contains("/policy"), "{detail}");
    user.put("/v1/agents/ann/tools/strict", &json!({ "confirmation": true })).await.problem(422, "tool_unfit");
    user.put("/v1/agents/ann/tools/none", &json!({ "enabled": true })).await.problem(422, "tool_unfit");

    // Nothing of it is another tenant's.
    let other = server.user_of(TENANT_B).await;
    assert_eq!(other.get("/v1/tools").await.ok()["tools"], json!([]));
    execute(&other, "off", &by("bob")).await.problem(404, "tool_unknown");
    other.delete("/v1/tools/off").await.problem(404, "not_found");
    // And only an administrator changes it.
    let writer = server.token(crate::harness::TENANT_A, &[mainspring_server::auth::Scope::Write], 60).await;
    assert_eq!(server.with_token(&writer).put("/v1/tools/off", &tool(&provider, "pure", json!({}))).await.status, 403);
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_listed_by_place_and_nothing_is_sent() {
    let (_server, user) = server().await;
    let provider = Provider::honest().await;
    let parameters = json!({
        "type": "object", "required": ["order", "amount"], "additionalProperties": false,
        "properties": {
            "order": { "type": "object", "properties": { "id": { "type": "string" } } },
            "amount": { "type": "number", "minimum": 1 },
        },
    });
    for policy in ["pure", "idempotent", "irreversible"] {
        put(&user, policy, &tool(&provider, policy, json!({ "parameters": parameters }))).await;
        let bad = json!({ "arguments": { "order": { "id": 7 }, "amount": 0, "card": "4111111111111111" } });
        let answer = execute(&user, policy, &bad).await;
        let (detail, action) = answer.problem(422, "arguments_unfit");
        for place in ["/order/id: ", "/amount: "] {
            assert!(detail.contains(place), "no {place} in {detail}");
        }
        assert!(detail.starts_with("3 thing(s)"), "{detail}");
        assert!(!answer.text.contains("4111111111111111"), "what was sent is not repeated: {}", answer.text);
        assert!(action.contains("each place"), "{action}");
    }
    assert_eq!(provider.calls().len(), 0);
    assert_eq!(user.get("/v1/tool-executions").await.ok()["executions"], json!([]));
    let large = "x".repeat(300 * 1024);
    let answer = execute(&user, "pure", &json!({ "arguments": { "order": { "id": large }, "amount": 1 } })).await;
    let (detail, _) = answer.problem(422, "call_unusable");
    assert!(detail.contains("bytes"), "{detail}");
}

#[tokio::test]
async fn what_was_asked_for_goes_on_as_the_tool_was_then() {
    let (server, user) = server().await;
    let provider = Provider::honest().await;
    let confirmation = json!({ "confirmation": { "prompt": "Really {{args.what}}?" }, "sensitive": ["pin"] });
    put(&user, "t", &tool(&provider, "irreversible", confirmation)).await;
    let asked = json!({ "arguments": { "what": "this", "pin": "geheim" }, "idempotency_key": "k" });
    let answer = execute(&user, "t", &asked).await.ok();
    assert_eq!((&answer["status"], &answer["prompt"]), (&json!("awaiting_confirmation"), &json!("Really this?")));
    let id = answer["execution_id"].as_str().expect("an execution").to_owned();
    let changed = json!({ "provider": { "kind": "builtin", "name": "fail" } });
    user.put("/v1/tools/t", &tool(&provider, "irreversible", changed)).await.ok();
    assert_eq!(user.get("/v1/tools/t").await.ok()["version"], 2);
    assert_eq!(user.delete("/v1/tools/t").await.status, 204);
    execute(&user, "t", &asked).await.problem(404, "tool_unknown");
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(super::settle(&user, &id, "confirm", json!({ "verb": "yes" })).await.status, 202);
    assert_eq!(execution(&user, &id, "done").await["result"], json!({ "did": 1 }));
    // Names are used again, and its history goes on.
    user.put("/v1/tools/t", &tool(&provider, "pure", json!({}))).await.ok();
    let text = user.get("/v1/tool-executions").await.text;
    assert!(!text.contains("geheim"), "what is sensitive is not shown: {text}");
    assert_eq!(execute(&user, "t", &json!({})).await.ok()["result"], json!({ "did": 2 }));
}
