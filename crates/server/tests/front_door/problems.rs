//! Refusals: each says what happened and what to do, and stores nothing.

use axum::body::Bytes;
use mainspring_core::limit::Limits;
use mainspring_server::auth::Scope;
use reqwest::{Body, Method};
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Gate, Server, Setup, TENANT_A, User, answer, http};

const MESSAGES: &str = "/v1/sessions/echo/ann/web/messages";
const NO_ID: &str = "00000000-0000-4000-8000-000000000000";

async fn server() -> Server {
    let agent = Agent::echo().await;
    Setup::new().agent("echo", http(agent.url())).start().await
}

/// Every route that wants a token.
fn routes() -> Vec<(Method, String)> {
    let id = NO_ID;
    let get = ["/v1/sessions/echo/ann/web", "/v1/sessions/echo/ann/web/events", "/v1/runs", "/v1/tokens"];
    let mut all: Vec<_> = get.iter().map(|path| (Method::GET, (*path).to_owned())).collect();
    for noun in ["messages", "turns", "runs"] {
        all.push((Method::GET, format!("/v1/{noun}/{id}")));
    }
    let post = [MESSAGES, "/v1/workflows/x/runs", "/v1/events", "/v1/tokens"];
    all.extend(post.iter().map(|path| (Method::POST, (*path).to_owned())));
    for verb in ["cancel", "resume", "signals/x"] {
        all.push((Method::POST, format!("/v1/runs/{id}/{verb}")));
    }
    all.push((Method::DELETE, format!("/v1/tokens/{id}")));
    all
}

async fn assert_nothing_stored(user: &User) {
    assert_eq!(user.runs("").await, Vec::<Value>::new());
    assert_eq!(user.session("echo", "ann").show().await["turns"], json!([]));
}

#[tokio::test]
async fn without_a_good_token_every_route_says_401() {
    let server = server().await;
    let admin = server.user().await;
    let revoked = admin.post("/v1/tokens", &json!({ "name": "gone", "scopes": ["admin"] })).await.ok();
    let gone = admin.delete(&format!("/v1/tokens/{}", revoked["id"].as_str().expect("an id"))).await;
    assert_eq!(gone.status, 204);
    let expired = server.token(TENANT_A, &[Scope::Admin], 0).await;
    let other = self::server().await.user().await.token().to_owned();
    let tampered = format!("{}x", admin.token());
    let (head, rest) = admin.token().split_once('.').expect("a JWT");
    let unsigned = format!("{head}.{}.", rest.split_once('.').expect("a JWT").0);
    let long = "x".repeat(9_000);
    let bad = [expired.as_str(), revoked["token"].as_str().expect("a token"), &other, &tampered, &unsigned, &long, ""];
    for (method, path) in routes() {
        let none = Answer::of(admin.bare(method.clone(), &path)).await;
        none.problem(401, "token_invalid");
        assert_eq!(none.header("www-authenticate"), "Bearer");
        for token in bad {
            let refused = Answer::of(admin.bare(method.clone(), &path).bearer_auth(token)).await;
            let (detail, _) = refused.problem(401, "token_invalid");
            assert!(token.len() < 20 || !refused.text.contains(token), "a token must not be repeated: {detail}");
        }
        let basic = Answer::of(admin.bare(method.clone(), &path).basic_auth("a", Some("b"))).await;
        basic.problem(401, "token_invalid");
    }
    assert_nothing_stored(&admin).await;
}

#[tokio::test]
async fn a_token_without_the_scope_says_403_and_which_one_is_missing() {
    let server = server().await;
    let reader = server.with_token(&server.token(TENANT_A, &[Scope::Read], 60).await);
    let writer = server.with_token(&server.token(TENANT_A, &[Scope::Write], 60).await);
    for (method, path) in routes() {
        let admin_only = path.starts_with("/v1/tokens");
        let (lacking, scope) = match (admin_only, &method) {
            (true, _) => (&writer, "admin"),
            (false, &Method::GET) => (&writer, "read"),
            (false, _) => (&reader, "write"),
        };
        let refused = Answer::of(lacking.request(method.clone(), &path).json(&json!({ "text": "hello" }))).await;
        let (detail, action) = refused.problem(403, "scope_missing");
        assert!(detail.contains(scope) && action.contains(scope), "{method} {path}: {detail} {action}");
    }
    assert_nothing_stored(&server.user().await).await;
}

#[tokio::test]
async fn what_is_not_there_says_404() {
    let server = server().await;
    let user = server.user().await;
    for noun in ["turns", "runs", "messages"] {
        for id in [NO_ID, "nonsense", "%00", "%2e%2e%2fruns"] {
            user.get(&format!("/v1/{noun}/{id}")).await.problem(404, "not_found");
        }
        user.get(&format!("/v1/{noun}/%FF")).await.problem(400, "address_malformed");
    }
    let unknown = user.session("nobody", "ann");
    let (detail, action) = unknown.send_body(&json!({ "text": "hello" })).await.problem(404, "agent_unknown");
    assert!(detail.contains("nobody") && action.contains("echo"), "{detail} {action}");
    user.get(&unknown.path).await.problem(404, "agent_unknown");
    user.get(&format!("{}/events", unknown.path)).await.problem(404, "agent_unknown");
    user.get("/v1/nothing").await.problem(404, "no_such_route");
    user.post("/v1/nothing", &json!({})).await.problem(404, "no_such_route");
    user.post(&format!("/v1/runs/{NO_ID}/cancel"), &json!({})).await.problem(404, "run_unknown");
    user.post(&format!("/v1/runs/{NO_ID}/resume"), &json!({})).await.problem(404, "run_unknown");
    user.post(&format!("/v1/runs/{NO_ID}/signals/go"), &json!({})).await.problem(404, "run_unknown");
    user.post("/v1/workflows/nothing/runs", &json!({})).await.problem(404, "workflow_unknown");
    user.delete(&format!("/v1/tokens/{NO_ID}")).await.problem(404, "token_unknown");
    assert_nothing_stored(&user).await;
}

#[tokio::test]
async fn a_wrong_method_says_405_as_a_problem() {
    let server = server().await;
    let user = server.user().await;
    user.delete("/v1/runs").await.problem(405, "method_not_allowed");
    user.get(MESSAGES).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn what_is_not_understood_says_400() {
    let server = server().await;
    let user = server.user().await;
    let bodies: [(&str, &str); 8] = [
        ("", "json_malformed"),
        ("{", "json_malformed"),
        ("[]", "json_malformed"),
        ("{}", "json_malformed"),
        (r#"{"text": 5}"#, "json_malformed"),
        (r#"{"text": "a", "colour": "red"}"#, "json_malformed"),
        (r#"{"text": "a"} x"#, "json_malformed"),
        ("{\"text\": \"\u{0}\"}", "json_malformed"),
    ];
    for (body, code) in bodies {
        let refused = Answer::of(user.request(Method::POST, MESSAGES).body(body.to_owned())).await;
        refused.problem(400, code);
    }
    let unknown = Answer::of(user.request(Method::POST, MESSAGES).body(r#"{"text": "a", "colour": "red"}"#)).await;
    assert!(unknown.problem(400, "json_malformed").0.contains("colour"), "the field is named");
    let invalid = Answer::of(user.request(Method::POST, MESSAGES).body(b"{\"text\": \"\xff\"}".to_vec())).await;
    invalid.problem(400, "json_malformed");

    let long = "x".repeat(201);
    for (agent, interlocutor, channel, part) in [
        ("a%3Ab", "ann", "web", "agent"),
        ("echo", "a%3Ab", "web", "interlocutor"),
        ("echo", "a%2Fb", "web", "interlocutor"),
        ("echo", "a%0Ab", "web", "interlocutor"),
        ("echo", long.as_str(), "web", "interlocutor"),
        ("echo", "ann", "we%00b", "channel"),
    ] {
        let path = format!("/v1/sessions/{agent}/{interlocutor}/{channel}");
        let refused = user.post(&format!("{path}/messages"), &json!({ "text": "hello" })).await;
        let (_, action) = refused.problem(400, "session_key_malformed");
        assert!(action.contains(part), "{action}");
        user.get(&path).await.problem(400, "session_key_malformed");
        user.get(&format!("{path}/events")).await.problem(400, "session_key_malformed");
    }
    user.get("/v1/runs?state=happy").await.problem(400, "state_unknown");
    user.get("/v1/runs?cursor=nonsense").await.problem(400, "cursor_malformed");
    user.get("/v1/runs?limit=many").await.problem(400, "query_malformed");
    user.get("/v1/sessions/echo/ann/web/events?after=yesterday").await.problem(400, "query_malformed");
    user.post("/v1/tokens", &json!({ "name": "x", "scopes": ["root"] })).await.problem(400, "scope_unknown");
    for ttl in [0, 100_000] {
        user.post("/v1/tokens", &json!({ "name": "x", "ttl_days": ttl })).await.problem(400, "token_malformed");
    }
    user.post("/v1/tokens", &json!({ "name": "x", "scopes": [] })).await.problem(400, "token_malformed");
    user.post("/v1/events", &json!({ "nome": "x" })).await.problem(400, "json_malformed");
    assert_nothing_stored(&user).await;
}

#[tokio::test]
async fn a_body_over_the_limit_says_413_and_the_limit_however_it_is_sent() {
    let server = server().await;
    let user = server.user().await;
    let limit = Limits::default().payload_bytes_max;
    let body = json!({ "text": "x".repeat(5 * 1024 * 1024) }).to_string();

    let whole = Answer::of(user.request(Method::POST, MESSAGES).body(body.clone())).await;
    let (detail, _) = whole.problem(413, "payload_too_large");
    assert!(detail.contains(&limit.to_string()), "{detail}");

    let pieces: Vec<Result<Bytes, std::io::Error>> =
        body.as_bytes().chunks(60_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let chunked = Body::wrap_stream(futures_util::stream::iter(pieces));
    let chunked = Answer::of(user.request(Method::POST, MESSAGES).body(chunked)).await;
    let (detail, _) = chunked.problem(413, "payload_too_large");
    assert!(detail.contains(&limit.to_string()), "{detail}");

    let other = user.post("/v1/workflows/turn/runs", &json!({ "input": "x".repeat(5 << 20) })).await;
    other.problem(413, "payload_too_large");
    let event = user.post("/v1/events", &json!({ "name": "x", "data": "x".repeat(5 << 20) })).await;
    event.problem(413, "payload_too_large");
    user.post("/v1/events", &json!({ "name": "x".repeat(300) })).await.problem(413, "too_large");
    assert_nothing_stored(&user).await;

    let fits = json!({ "text": "x".repeat(3 * 1024 * 1024) });
    assert_eq!(user.post(MESSAGES, &fits).await.status, 202);
}

#[tokio::test]
async fn a_full_inbox_says_429_until_its_turn_is_answered() {
    let gate = Gate::closed();
    let held = gate.clone();
    let agent = Agent::start(move |_| {
        let held = held.clone();
        async move {
            held.passed().await;
            answer("done")
        }
    })
    .await;
    let limits = Limits { inbox_messages_max: 3, ..Limits::default() };
    let server = Setup::new().agent("echo", http(agent.url())).limits(limits).start().await;
    let user = server.user().await;
    let session = user.session("echo", "ann");
    session.send("m0").await;
    agent.asked_times(1).await;
    session.send("m1").await;
    let promised = session.send("m2").await;
    let full = session.send_with_key("k3", &json!({ "text": "m3" })).await;
    let (detail, _) = full.problem(429, "limit_reached");
    assert!(detail.contains('3'), "{detail}");
    assert_eq!((full.header("retry-after"), &full.body["retry_after_ms"]), ("1", &json!(1_000)));
    assert_eq!(session.show().await["pending_messages"], 2, "the refused one is not there");
    user.session("echo", "ben").send("another inbox is not full").await;
    gate.open();
    user.turn_ended(&promised).await;
    let again = session.send_with_key("k3", &json!({ "text": "m3" })).await.ok();
    assert_eq!(again["duplicate"], false, "a refusal uses up no key");
}

#[tokio::test]
async fn what_does_not_fit_the_state_says_409_or_422() {
    let server = server().await;
    let user = server.user().await;
    let turn = user.session("echo", "ann").send("hello").await;
    user.turn_ended(&turn).await;
    user.post(&format!("/v1/runs/{turn}/signals/go"), &json!({})).await.problem(409, "run_ended");
    user.post(&format!("/v1/runs/{turn}/resume"), &json!({})).await.problem(409, "run_ended");
    user.post("/v1/workflows/turn/runs", &json!({})).await.problem(422, "started_by_messages");
    user.post("/v1/workflows/deliver-reply/runs", &json!({})).await.problem(422, "key_missing");
    assert_eq!(user.post(&format!("/v1/runs/{turn}/cancel"), &json!({})).await.status, 202, "repeating is harmless");
    assert_eq!(user.turn(&turn).await["state"], "completed");
}
