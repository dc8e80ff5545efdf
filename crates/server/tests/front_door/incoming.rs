//! Webhooks of platforms, coming in.

use mainspring_flows::incoming::{Integration, Platform};
use mainspring_flows::{Secret, sign};
use mainspring_server::api::incoming::Placed;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Setup, TENANT_A, User, http};

fn placed(platform: Platform, channel: &str) -> Placed {
    let integration = Integration {
        platform,
        secret: Secret("sesame".to_owned()),
        verify_token: Some(Secret("token".to_owned())),
        url: "https://example.com/in".to_owned(),
        accounts: Vec::new(),
    };
    Placed { integration, tenant: TENANT_A, agent: "echo".to_owned(), channel: channel.to_owned() }
}

async fn post(user: &User, id: &str, message: &str, body: &Value, secret: &str) -> Answer {
    let body = body.to_string();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let signature = sign::signature(&Secret(secret.to_owned()), message, now, body.as_bytes());
    let request = user.bare(Method::POST, &format!("/v1/incoming/{id}"));
    let signed = request.header(sign::ID_HEADER, message).header(sign::TIMESTAMP_HEADER, now);
    Answer::of(signed.header(sign::SIGNATURE_HEADER, signature).body(body)).await
}

#[tokio::test]
async fn a_message_becomes_a_turn_once() {
    let agent = Agent::echo().await;
    let setup = Setup::new().agent("echo", http(agent.url())).integration("mine", placed(Platform::Generic, "chat"));
    let server = setup.start().await;
    let user = server.user().await;
    let attachment = json!([{ "type": "image", "url": "https://example.com/a.png" }]);
    let message = json!({ "sender": "ann", "text": "hello", "message_id": "m1", "attachments": attachment });
    for _ in 0..3 {
        let taken = post(&user, "mine", "req_1", &message, "sesame").await;
        assert_eq!(taken.status, 200, "{}", taken.text);
    }
    let asked = agent.asked_times(1).await;
    assert_eq!(asked[0].texts(), ["hello"]);
    assert_eq!(asked[0].body["messages"][0]["data"]["attachments"], attachment);
    let second = json!({ "sender": "ann", "text": "again", "message_id": "m2" });
    post(&user, "mine", "req_2", &second, "sesame").await;
    let asked = agent.asked_times(2).await;
    assert_eq!(asked[1].texts(), ["again"], "the repeats of the first were the first");
}

#[tokio::test]
async fn what_is_not_signed_is_not_taken() {
    let agent = Agent::echo().await;
    let setup = Setup::new().agent("echo", http(agent.url()));
    let setup = setup.integration("mine", placed(Platform::Generic, "chat"));
    let server = setup.integration("meta", placed(Platform::Meta, "whatsapp")).start().await;
    let user = server.user().await;
    let message = json!({ "sender": "ann", "text": "hello" });
    post(&user, "mine", "req_1", &message, "wrong").await.problem(401, "signature_invalid");
    post(&user, "none", "req_1", &message, "sesame").await.problem(404, "not_found");
    // A token of this server is no signature.
    user.post("/v1/incoming/mine", &message).await.problem(401, "signature_invalid");
    post(&user, "mine", "req_1", &json!({ "text": "hello" }), "sesame").await.problem(400, "body_malformed");
    let ask = |token: &str| {
        let query = format!("hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444");
        Answer::of(user.bare(Method::GET, &format!("/v1/incoming/meta?{query}")))
    };
    assert_eq!(ask("token").await.text, "1158201444");
    ask("other").await.problem(403, "verify_token_wrong");
    assert!(agent.asked().is_empty());
}
