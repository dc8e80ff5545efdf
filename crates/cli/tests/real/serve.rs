//! What `mainspring serve` does with little in its configuration.

use serde_json::{Value, json};

use crate::house::Server;

#[tokio::test]
async fn a_tenant_without_agents_is_served_and_refuses_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mainspring.toml"), "[tenants.jobs]").expect("writable");
    let server = Server::serve(dir.path()).await;
    let token = server.token("jobs");

    let path = format!("{}/v1/workflows/nightly/runs", server.url);
    let started = server.http.post(path).bearer_auth(&token).json(&json!({ "input": {} })).send().await;
    let started = started.expect("an answer");
    let (status, body): (_, Value) = (started.status().as_u16(), started.json().await.expect("JSON"));
    // Nobody has registered it: what is refused is the name alone.
    assert_eq!((status, body["code"].as_str()), (404, Some("workflow_unknown")), "{body}");

    let path = format!("{}/v1/sessions/orders/anna/web/messages", server.url);
    let refused = server.http.post(path).bearer_auth(&token).json(&json!({ "text": "hello" })).send().await;
    let refused = refused.expect("an answer");
    let (status, body): (_, Value) = (refused.status().as_u16(), refused.json().await.expect("JSON"));
    assert_eq!((status, body["code"].as_str()), (404, Some("agent_unknown")), "{body}");
    assert_eq!(body["action"], "configure it under [[agents]] in mainspring.toml: this tenant has no agent yet");
}
