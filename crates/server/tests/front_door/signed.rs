//! Requests that say whom they are from.

use axum::response::IntoResponse;
use mainspring_flows::{AgentSettings, OnMessage, Secret, sign};
use serde_json::json;

use crate::harness::{Agent, Asked, Setup, answer, http, status};

#[tokio::test]
async fn requests_are_signed_with_the_agents_secret() {
    let secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
    let agent = Agent::start(|asked: Asked| async move {
        if asked.body["type"] == "decide" {
            return axum::Json(json!({ "action": "absorb" })).into_response();
        }
        match asked.nth {
            0 => status(500),
            1 => std::future::pending().await,
            _ => answer("signed"),
        }
    })
    .await;
    let settings = AgentSettings { secret: Some(secret.clone()), on_message: OnMessage::Ask, ..http(agent.url()) };
    let setup = Setup::new().agent("signed", settings.clone());
    let server = setup.agent("bare", AgentSettings { secret: None, ..settings }).start().await;
    let user = server.user().await;
    let session = user.session("signed", "ann");
    let turn = session.send("ü").await;
    agent.asked_times(2).await;
    session.send("two").await;
    assert_eq!(user.turn_ended(&turn).await["reply"]["text"], "signed");
    let asked = agent.asked();
    assert_eq!(asked.len(), 4, "two tries, a question, and once more with both");
    for one in &asked {
        let (id, at) = (one.header(sign::ID_HEADER), one.header(sign::TIMESTAMP_HEADER).parse().expect("seconds"));
        assert_eq!(one.header(sign::SIGNATURE_HEADER), sign::signature(&secret, id, at, &one.raw));
        assert_ne!(one.header(sign::SIGNATURE_HEADER), sign::signature(&Secret("other".to_owned()), id, at, &one.raw));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        assert!(at <= now && now - at < 600, "{at} is not now, {now}");
        assert_eq!(one.header("idempotency-key"), id);
    }
    let ids: Vec<_> = asked.iter().map(|one| one.header(sign::ID_HEADER)).collect();
    assert_eq!((ids[0], ids[1], ids[3]), (turn.as_str(), turn.as_str(), turn.as_str()), "the same for each repeat");
    assert!(ids[2].starts_with(&format!("{turn}:decide:")), "{}", ids[2]);
    // The secret is in no journal.
    let steps = user.get(&format!("/v1/turns/{turn}")).await.text;
    assert!(!steps.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));

    let turn = user.session("bare", "ann").send("one").await;
    user.turn_ended(&turn).await;
    assert_eq!(agent.asked().last().expect("asked").header(sign::SIGNATURE_HEADER), "");
}
