//! H-62: nobody publishes, reads or hears of another tenant's agents, and not everybody may publish.

use reqwest::Method;
use serde_json::json;

use super::{done, events, publish, put_draft, server, sound};
use crate::harness::{Answer, TENANT_A, TENANT_B};
use mainspring_server::auth::Scope;

#[tokio::test]
async fn another_tenant_publishes_reads_and_hears_nothing() {
    let (server, a, _agent) = server().await;
    let b = server.user_of(TENANT_B).await;
    publish(&a, "a secret of A").await;
    let id =
        a.get("/v1/agents/orders/publish").await.ok()["publishes"][0]["publish_id"].as_str().expect("one").to_owned();
    let theirs = format!("{TENANT_A}:orders");
    for path in
        ["publish", "pointer", "versions", "pins", "config/draft", "config/settings", "bundles/1/rules", "versions/1"]
    {
        b.get(&format!("/v1/agents/{theirs}/{path}")).await.problem(403, "tenant_forbidden");
    }
    for path in ["publish", "rollback", "canary", "promote", "config/collect"] {
        b.post(&format!("/v1/agents/{theirs}/{path}"), &json!({})).await.problem(403, "tenant_forbidden");
    }
    b.put(&format!("/v1/agents/{theirs}/config/draft"), &sound("x")).await.problem(403, "tenant_forbidden");
    b.get(&format!("/v1/config-updates?agent={theirs}")).await.problem(403, "tenant_forbidden");
    // Under the same name they have an agent of their own, of which nothing is published.
    assert!(b.get("/v1/agents/orders/pointer").await.ok()["version"].is_null());
    b.get("/v1/agents/orders/bundles/1/rules").await.problem(404, "not_found");
    b.get(&format!("/v1/publishes/{id}")).await.problem(404, "not_found");
    b.post(&format!("/v1/publishes/{id}/cancel"), &json!({})).await.problem(404, "not_found");
    let digest = a.get("/v1/agents/orders/pointer").await.ok()["bundles"]["rules"].as_str().expect("one").to_owned();
    assert_eq!(a.get(&format!("/v1/config/content/{digest}")).await.status, 200);
    b.get(&format!("/v1/config/content/{digest}")).await.problem(404, "not_found");
    assert!(events(&b, "config.updated").await.is_empty());
    // What they publish is theirs.
    put_draft(&b, &sound("b")).await;
    assert_eq!(done(&b, "publish", &json!({})).await["version"], 1);
    assert_eq!(events(&a, "config.updated").await.len(), 1);
    let of_a = format!("{TENANT_A}:orders");
    assert_eq!(a.get(&format!("/v1/agents/{of_a}/pointer")).await.ok()["version"], 1, "one's own may be named so");
    a.get("/v1/agents/nobody/pointer").await.problem(404, "agent_unknown");
}

#[tokio::test]
async fn only_admins_publish() {
    let (server, admin, _agent) = server().await;
    publish(&admin, "x").await;
    let writer = server.with_token(&server.token(TENANT_A, &[Scope::Read, Scope::Write], 600).await);
    writer.post("/v1/agents/orders/publish", &json!({})).await.problem(403, "scope_missing");
    writer.put("/v1/agents/orders/config/draft", &sound("y")).await.problem(403, "scope_missing");
    writer.post("/v1/agents/orders/rollback", &json!({ "target_version": 1 })).await.problem(403, "scope_missing");
    writer.post("/v1/config-mirror/rebuild", &json!({})).await.problem(403, "scope_missing");
    assert_eq!(writer.get("/v1/agents/orders/pointer").await.ok()["version"], 1);
    Answer::of(writer.bare(Method::GET, "/v1/agents/orders/pointer")).await.problem(401, "token_invalid");
}

#[tokio::test]
async fn updates_are_heard_by_agent_and_resumed() {
    let (_server, user, _agent) = server().await;
    publish(&user, "one").await;
    let listen = |after: u64| {
        let request = user.request(Method::GET, "/v1/config-updates?agent=orders");
        crate::harness::Stream::open(request.header("Last-Event-ID", after.to_string()))
    };
    let mut heard = listen(0).await;
    let first = heard.next().await.expect("an update");
    assert_eq!((first.name.as_str(), &first.data["data"]["version"]), ("config.updated", &json!(1)));
    assert!(first.data["session"].is_null() && first.data["turn_id"].is_null());
    publish(&user, "two").await;
    let mut resumed = listen(first.id.expect("a number")).await;
    let next = loop {
        let heard = resumed.next().await.expect("it goes on");
        if heard.name == "config.updated" {
            break heard;
        }
    };
    assert_eq!(next.data["data"]["version"], 2);
    // By polling, for those who missed it.
    let pointer = user.get("/v1/agents/orders/pointer").await;
    assert_eq!(pointer.header("etag"), "\"2\"");
    let ask = || user.request(Method::GET, "/v1/agents/orders/pointer").header("If-None-Match", "\"2\"");
    assert_eq!(Answer::of(ask()).await.status, 304);
    publish(&user, "three").await;
    assert_eq!(Answer::of(ask()).await.ok()["version"], 3);
}
