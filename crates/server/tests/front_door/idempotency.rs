//! The same request twice is the same message.

use mainspring_flows::AgentSettings;
use mainspring_flows::window::WindowRules;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Agent, Answer, Server, Session, Setup, http, texts_of};

async fn session() -> (Server, Session) {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    (server, session)
}

#[tokio::test]
async fn the_same_key_gives_the_same_answer_even_after_the_turn_has_ended_and_after_a_restart() {
    let (server, session) = session().await;
    let body = json!({ "text": "hello" });
    let first = session.send_with_key("k1", &body).await.ok();
    assert_eq!(first["duplicate"], false);
    session.user.turn_ended(first["turn_id"].as_str().expect("a turn")).await;
    let again = session.send_with_key("k1", &body).await;
    assert_eq!(again.status, 202);
    assert_eq!(again.body["duplicate"], true);
    for same in ["message_id", "turn_id", "session"] {
        assert_eq!(again.body[same], first[same]);
    }
    assert_eq!(session.turns().await.len(), 1);

    let server = server.restart().await;
    let session = server.user().await.session("echo", "ann");
    let again = session.send_with_key("k1", &body).await.ok();
    assert_eq!((&again["duplicate"], &again["message_id"]), (&json!(true), &first["message_id"]));
    assert_eq!(session.turns().await.len(), 1);
}

#[tokio::test]
async fn the_same_key_with_another_body_is_a_conflict_and_stores_nothing() {
    let (_server, session) = session().await;
    session.send_with_key("k1", &json!({ "text": "hello" })).await.ok();
    session.send_with_key("k1", &json!({ "text": "other" })).await.problem(409, "idempotency_conflict");
    session.send_with_key("k1", &json!({ "text": "hello", "data": 1 })).await.problem(409, "idempotency_conflict");
    let turns = session.turns().await;
    assert_eq!(turns.iter().flat_map(texts_of).collect::<Vec<_>>(), ["hello"]);
}

#[tokio::test]
async fn a_key_belongs_to_its_session() {
    let (server, session) = session().await;
    let body = json!({ "text": "hello" });
    let mine = session.send_with_key("k1", &body).await.ok();
    let others =
        [session.user.session("echo", "ben"), server.user_of(crate::harness::TENANT_B).await.session("echo", "ann")];
    for other in others {
        let theirs = other.send_with_key("k1", &body).await.ok();
        assert_eq!(theirs["duplicate"], false);
        assert_ne!(theirs["message_id"], mine["message_id"]);
    }
}

#[tokio::test]
async fn a_providers_id_is_the_same_message_whatever_it_says_and_whatever_key_it_comes_with() {
    let (server, session) = session().await;
    let body = json!({ "text": "hello", "message_id": "wa-1" });
    let first = session.send_body(&body).await.ok();
    assert_eq!(first["duplicate"], false);
    // Providers repeat what was edited meanwhile under the same id; and a key names a request, not a message.
    let again = [
        session.send_body(&body).await,
        session.send_body(&json!({ "text": "other", "message_id": "wa-1" })).await,
        session.send_with_key("k9", &body).await,
        session.send_with_key("k9", &body).await,
    ];
    for again in again {
        assert_eq!(again.status, 202, "{}", again.text);
        assert_eq!((&again.body["duplicate"], &again.body["message_id"]), (&json!(true), &first["message_id"]));
    }
    // Another id is another message, and so is the same id of another session.
    let other = session.send_body(&json!({ "text": "hello", "message_id": "wa-2" })).await.ok();
    assert_eq!(other["duplicate"], false);
    let theirs = session.user.session("echo", "ben").send_body(&body).await.ok();
    assert_eq!(theirs["duplicate"], false);
    assert_eq!(session.turns().await.iter().flat_map(texts_of).collect::<Vec<_>>(), ["hello", "hello"]);

    let server = server.restart().await;
    let session = server.user().await.session("echo", "ann");
    let again = session.send_body(&json!({ "text": "later", "message_id": "wa-1" })).await.ok();
    assert_eq!((&again["duplicate"], &again["message_id"]), (&json!(true), &first["message_id"]));
}

#[tokio::test]
async fn one_message_of_a_turn_that_ended_long_ago_is_known_by_itself() {
    let agent = Agent::echo().await;
    let window = WindowRules { messages_max: 2, ..WindowRules::fixed(30_000) };
    let server = Setup::new().agent("echo", AgentSettings { window, ..http(agent.url()) }).start().await;
    let session = server.user().await.session("echo", "ann");
    let first = session.send_body(&json!({ "text": "one", "message_id": "wa-1" })).await.ok();
    session.send_body(&json!({ "text": "two", "message_id": "wa-2" })).await.ok();
    session.user.turn_ended(first["turn_id"].as_str().expect("a turn")).await;
    let again = session.send_body(&json!({ "text": "one", "message_id": "wa-1" })).await.ok();
    assert_eq!((&again["duplicate"], &again["turn_id"]), (&json!(true), &first["turn_id"]));
    assert_eq!((session.turns().await.len(), agent.asked().len()), (1, 1));
}

#[tokio::test]
async fn an_empty_or_endless_providers_id_is_refused_rather_than_taken_for_one() {
    let (_server, session) = session().await;
    let empty = session.send_body(&json!({ "text": "one", "message_id": "" })).await;
    assert_eq!(empty.status, 400, "{}", empty.text);
    empty.problem(400, "message_id_malformed");
    let endless = session.send_body(&json!({ "text": "one", "message_id": "x".repeat(3_000) })).await;
    endless.problem(400, "message_id_malformed");
    assert!(session.turns().await.is_empty());
}

#[tokio::test]
async fn a_header_that_looks_like_a_providers_id_is_not_one() {
    let (_server, session) = session().await;
    session.send_body(&json!({ "text": "one", "message_id": "7" })).await.ok();
    let other = session.send_with_key("provider:7", &json!({ "text": "two" })).await;
    assert_eq!(other.status, 202, "{}", other.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_identical_requests_at_once_are_one_message() {
    let (_server, session) = session().await;
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let session = session.clone();
        sending.spawn(async move { session.send_with_key("k1", &json!({ "text": "hello" })).await.ok() });
    }
    let mut all = Vec::new();
    while let Some(answer) = sending.join_next().await {
        all.push(answer.expect("an answer"));
    }
    assert_eq!(all.iter().filter(|answer| answer["duplicate"] == false).count(), 1);
    assert!(all.iter().all(|answer| answer["message_id"] == all[0]["message_id"]));
    let turns = session.turns().await;
    assert_eq!(turns.iter().flat_map(texts_of).collect::<Vec<_>>(), ["hello"]);
}

#[tokio::test]
async fn bad_keys_are_refused() {
    let (_server, session) = session().await;
    for bad in ["", " ", &"x".repeat(201), "ü"] {
        let request = session.user.request(Method::POST, &format!("{}/messages", session.path));
        let request = request.header("Idempotency-Key", bad.as_bytes()).json(&json!({ "text": "hello" }));
        Answer::of(request).await.problem(400, "idempotency_key_malformed");
    }
    assert!(session.turns().await.is_empty());
}
