//! What `mainspring serve` does with little in its configuration.

use serde_json::json;

use crate::house::Server;

#[tokio::test]
async fn a_tenant_without_agents_is_served_and_refuses_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mainspring.toml"), "[tenants.jobs]").expect("writable");
    let server = Server::serve(dir.path()).await;
    let token = server.token("jobs");

    let (status, body) = server.post(&token, "/v1/workflows/nightly/runs", &json!({ "input": {} })).await;
    // Nobody has registered it: what is refused is the name alone.
    assert_eq!((status, body["code"].as_str()), (404, Some("workflow_unknown")), "{body}");

    let path = "/v1/sessions/orders/anna/web/messages";
    let (status, body) = server.post(&token, path, &json!({ "text": "hello" })).await;
    assert_eq!((status, body["code"].as_str()), (404, Some("agent_unknown")), "{body}");
    assert_eq!(body["action"], "configure it under [[agents]] in mainspring.toml: this tenant has no agent yet");
}
