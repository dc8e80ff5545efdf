//! Tokens: made, listed, revoked; a revoked one hears nothing more.

use mainspring_server::auth::Scope;
use serde_json::json;

use crate::harness::{Agent, Server, Setup, TENANT_A, http, in_time};

async fn server() -> Server {
    let agent = Agent::echo().await;
    Setup::new().agent("echo", http(agent.url())).start().await
}

#[tokio::test]
async fn a_token_is_made_once_shown_and_listed_without_itself() {
    let server = server().await;
    let admin = server.user().await;
    let made = admin.post("/v1/tokens", &json!({ "name": "bot", "ttl_days": 2 })).await;
    assert_eq!(made.status, 201);
    let token = made.body["token"].as_str().expect("a token");
    let listed = admin.get("/v1/tokens").await;
    assert!(!listed.text.contains(token));
    let tokens = listed.body["tokens"].as_array().expect("tokens");
    let bot = tokens.iter().find(|one| one["id"] == made.body["id"]).expect("it is listed");
    assert_eq!((&bot["name"], &bot["scopes"]), (&json!("bot"), &json!(["read", "write"])));
    assert_eq!((&bot["expires_at"], &bot["revoked_at"]), (&made.body["expires_at"], &json!(null)));
    let days = bot["expires_at"].as_u64().expect("ms") - bot["created_at"].as_u64().expect("ms");
    assert!(days.abs_diff(2 * 24 * 60 * 60 * 1_000) < 5_000, "{days}");

    let bot = server.with_token(token);
    let turn = bot.session("echo", "ann").send("hello").await;
    assert_eq!(bot.turn_ended(&turn).await["state"], "completed");
    bot.get("/v1/tokens").await.problem(403, "scope_missing");
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_listed_as_revoked() {
    let server = server().await;
    let admin = server.user().await;
    let made = admin.post("/v1/tokens", &json!({ "name": "bot" })).await.ok();
    let path = format!("/v1/tokens/{}", made["id"].as_str().expect("an id"));
    let bot = server.with_token(made["token"].as_str().expect("a token"));
    assert_eq!(bot.get("/v1/runs").await.status, 200);
    assert_eq!(admin.delete(&path).await.status, 204);
    bot.get("/v1/runs").await.problem(401, "token_invalid");
    bot.session("echo", "ann").send_body(&json!({ "text": "hello" })).await.problem(401, "token_invalid");
    assert_eq!(admin.delete(&path).await.status, 204, "repeating is harmless");
    let listed = admin.get("/v1/tokens").await.ok();
    let bot = listed["tokens"].as_array().expect("tokens").iter().find(|one| one["id"] == made["id"]).cloned();
    assert!(bot.expect("still listed")["revoked_at"].as_u64().is_some());
}

#[tokio::test]
async fn the_open_stream_of_a_revoked_token_ends_without_another_word() {
    let server = server().await;
    let admin = server.user().await;
    let made = admin.post("/v1/tokens", &json!({ "name": "bot" })).await.ok();
    let bot = server.with_token(made["token"].as_str().expect("a token")).session("echo", "ann");
    let (mut busy, mut silent) = (bot.events(0).await, bot.user.session("echo", "ben").events(0).await);
    let turn = bot.send("one").await;
    busy.until("turn.completed", &turn).await;
    admin.delete(&format!("/v1/tokens/{}", made["id"].as_str().expect("an id"))).await;

    let turn = admin.session("echo", "ann").send("not for the bot").await;
    admin.turn_ended(&turn).await;
    let heard = in_time("the busy stream ends", busy.next()).await;
    assert!(heard.is_none(), "{heard:#?}");
    assert!(in_time("the silent stream ends", silent.next()).await.is_none());
}

#[tokio::test]
async fn the_open_stream_of_a_token_ends_when_the_token_expires() {
    let server = server().await;
    let short = server.with_token(&server.token(TENANT_A, &[Scope::Read], 2).await);
    let mut events = short.session("echo", "ann").events(0).await;
    assert!(in_time("the stream ends", events.next()).await.is_none());
    short.get("/v1/runs").await.problem(401, "token_invalid");
}
