//! Webhooks out, by the API and the pages.

use axum::response::IntoResponse;
use mainspring_flows::{Secret, sign};
use mainspring_server::auth::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Asked, Server, Setup, TENANT_A, TENANT_B, User, eventually, http, status};

async fn server() -> Server {
    let agent = Agent::echo().await;
    Setup::new().agent("echo", http(agent.url())).start().await
}

/// An endpoint that answers challenges, and everything else with what it is told.
async fn endpoint(code: u16) -> Agent {
    Agent::start(move |asked: Asked| async move {
        if asked.body["type"] == "webhook.verification" {
            axum::Json(json!({ "challenge": asked.body["challenge"] })).into_response()
        } else {
            status(code)
        }
    })
    .await
}

async fn subscribed(user: &User, url: &str, more: Value) -> (String, Secret) {
    let mut body = json!({ "url": url, "events": ["step"] });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let made = user.post("/v1/webhooks", &body).await;
    assert_eq!((made.status, &made.body["state"]), (201, &json!("pending")), "{}", made.text);
    let id = made.body["id"].as_str().expect("an id").to_owned();
    let verified = user.post(&format!("/v1/webhooks/{id}/verify"), &json!({})).await.ok();
    assert_eq!((&verified["state"], &verified["secret"]), (&json!("active"), &Value::Null));
    (id, Secret(made.body["secret"].as_str().expect("shown once").to_owned()))
}

async fn patch(user: &User, path: &str, body: Value) -> Answer {
    Answer::of(user.request(Method::PATCH, path).json(&body)).await
}

#[tokio::test]
async fn a_turns_events_arrive_where_they_are_wanted() {
    let (server, endpoint) = (server().await, endpoint(204).await);
    let user = server.user().await;
    let (id, secret) = subscribed(&user, endpoint.url(), json!({ "events": ["turn.completed"] })).await;
    let session = user.session("echo", "ann");
    let turn = session.send("hello").await;
    session.user.turn_ended(&turn).await;
    let posts = endpoint.asked_times(2).await;
    let post = &posts[1];
    assert_eq!(
        (&post.body["type"], &post.body["turn_id"], &post.body["agent_id"]),
        (&json!("turn.completed"), &json!(turn), &json!("echo"))
    );
    assert!(!String::from_utf8_lossy(&post.raw).contains("ann:"), "no session key");
    let (event, at) = (post.header(sign::ID_HEADER), post.header(sign::TIMESTAMP_HEADER));
    assert_eq!(
        post.header(sign::SIGNATURE_HEADER),
        sign::signature(&secret, event, at.parse().expect("a time"), &post.raw)
    );
    let tried = eventually("the try is listed", || async {
        let listed = user.get(&format!("/v1/webhooks/{id}/attempts")).await.ok();
        listed["attempts"].get(0).cloned()
    })
    .await;
    assert_eq!((&tried["outcome"], &tried["status"]), (&json!("delivered"), &json!(204)));
}

#[tokio::test]
async fn what_is_chosen_can_be_changed_and_is_refused_with_a_reason() {
    let (server, endpoint) = (server().await, endpoint(200).await);
    let user = server.user().await;
    for (body, code) in [
        (json!({ "url": "ftp://example.com/" }), "webhook_url_refused"),
        (json!({ "url": "http://10.0.0.1/" }), "webhook_url_refused"),
        (json!({ "url": endpoint.url(), "concurrency": 0 }), "webhook_choice_invalid"),
        (json!({ "url": endpoint.url(), "filter": "1" }), "webhook_filter_invalid"),
    ] {
        user.post("/v1/webhooks", &body).await.problem(422, code);
    }
    user.post("/v1/webhooks", &json!({ "uri": "https://example.com/" })).await.problem(400, "json_malformed");
    let (id, _) = subscribed(&user, endpoint.url(), json!({ "headers": { "x-key": "hush" } })).await;
    let path = format!("/v1/webhooks/{id}");
    let shown = user.get(&path).await;
    assert!(!shown.text.contains("hush") && shown.text.contains("x-key"), "{}", shown.text);
    let changed = patch(&user, &path, json!({ "name": "mine", "timeout_ms": 2000 })).await.ok();
    assert_eq!(
        (&changed["name"], &changed["timeout_ms"], &changed["state"]),
        (&json!("mine"), &json!(2000), &json!("active"))
    );
    patch(&user, &path, json!({ "timeout_ms": 1 })).await.problem(422, "webhook_choice_invalid");
    let moved = patch(&user, &path, json!({ "url": format!("{}other", endpoint.url()) })).await.ok();
    assert_eq!((&moved["state"], &moved["verified"]), (&json!("pending"), &json!(false)), "it is verified again");
    user.post(&format!("{path}/resume"), &json!({})).await.problem(409, "webhook_state");
    user.post(&format!("{path}/test"), &json!({})).await.problem(409, "webhook_state");
    let rotated = user.post(&format!("{path}/rotate-secret"), &json!({})).await.ok();
    assert!(rotated["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    assert_eq!(user.delete(&path).await.status, 204);
    user.get(&path).await.problem(404, "not_found");
    assert_eq!(user.get("/v1/webhooks").await.ok()["webhooks"], json!([]));
}

#[tokio::test]
async fn dead_letters_are_listed_and_sent_again() {
    let (server, endpoint) = (server().await, endpoint(400).await);
    let user = server.user().await;
    let (id, _) = subscribed(&user, endpoint.url(), json!({})).await;
    for n in 0..3 {
        user.post("/v1/events", &json!({ "name": "step", "data": { "n": n } })).await;
    }
    let path = format!("/v1/webhooks/{id}");
    let letters = eventually("three are given up", || async {
        let listed = user.get(&format!("{path}/dead-letters?limit=10")).await.ok();
        listed["dead_letters"].as_array().filter(|letters| letters.len() == 3).cloned()
    })
    .await;
    assert_eq!((&letters[0]["last_attempt"]["status"], &letters[0]["attempts"]), (&json!(400), &json!(1)));
    let one = json!({ "sequence": letters[1]["sequence"] });
    let replay = user.post(&format!("{path}/replays"), &one).await;
    assert_eq!(replay.status, 202, "{}", replay.text);
    let progress = format!("{path}/replays/{}", replay.body["id"].as_str().expect("an id"));
    let done = eventually("the replay is through", || async {
        let found = user.get(&progress).await;
        (found.status == 200 && found.body["done"] == true).then_some(found.body)
    })
    .await;
    assert_eq!(done["matched"], 1);
    // The challenge, three, and one of them again.
    let posts = endpoint.asked_times(5).await;
    assert_eq!(posts[4].header(sign::ID_HEADER), letters[1]["delivery_id"]);
}

#[tokio::test]
async fn webhooks_are_a_tenants_own_and_a_users_token_sees_nothing_else() {
    let (server, endpoint) = (server().await, endpoint(200).await);
    let user = server.user().await;
    let (id, _) = subscribed(&user, endpoint.url(), json!({ "name": "Mine <b>" })).await;
    user.post("/v1/events", &json!({ "name": "step", "data": {} })).await;
    endpoint.asked_times(2).await;
    let path = format!("/v1/webhooks/{id}");
    let other = server.user_of(TENANT_B).await;
    for found in [other.get(&path).await, other.get(&format!("{path}/attempts")).await, other.delete(&path).await] {
        found.problem(404, "not_found");
    }
    assert_eq!(other.get("/v1/webhooks").await.ok()["webhooks"], json!([]));
    let seer = server.with_token(&server.token(TENANT_A, &[Scope::Webhooks], 600).await);
    assert_eq!(seer.get("/v1/webhooks").await.ok()["webhooks"][0]["id"], json!(id));
    eventually("the try is listed", || async {
        let listed = seer.get(&format!("{path}/attempts")).await.ok();
        listed["attempts"].get(0).cloned()
    })
    .await;
    for hidden in ["/v1/runs", "/v1/tokens", "/v1/sessions/echo/ann/web"] {
        seer.get(hidden).await.problem(403, "scope_missing");
    }
    seer.post(&format!("{path}/pause"), &json!({})).await.problem(403, "scope_missing");
    let page = seer.get("/webhooks").await;
    assert!(page.status == 200 && page.text.contains("Mine &lt;b&gt;"), "{}", page.text);
    let page = seer.get(&format!("/webhooks/{id}")).await;
    assert!(page.status == 200 && page.text.contains("attempt-row"), "{}", page.text);
    assert_ne!(seer.get("/runs").await.status, 200);
}

#[tokio::test]
async fn the_buttons_of_its_page_work_without_scripts_and_for_who_may_write() {
    let (server, endpoint) = (server().await, endpoint(204).await);
    let user = server.user().await;
    let (id, _) = subscribed(&user, endpoint.url(), json!({})).await;
    let press = async |user: &User, verb: &str| {
        Answer::of(user.request(Method::POST, &format!("/webhooks/{id}/{verb}"))).await.status
    };
    let state = async || user.get(&format!("/v1/webhooks/{id}")).await.ok()["state"].clone();
    assert_eq!((press(&user, "pause").await, state().await), (303, json!("paused")));
    assert_eq!((press(&user, "resume").await, state().await), (303, json!("active")));
    assert_eq!(press(&user, "test").await, 303);
    endpoint.asked_times(2).await;
    eventually("it is counted", || async {
        let metrics = user.get("/metrics").await.text;
        metrics.contains("mainspring_webhooks_delivered_total 1\n").then_some(())
    })
    .await;
    assert_eq!(press(&user, "replay").await, 303);
    assert_eq!(press(&user, "erase").await, 404);
    let reader = server.with_token(&server.token(TENANT_A, &[Scope::Webhooks], 600).await);
    let page = reader.get(&format!("/webhooks/{id}")).await;
    assert!(page.status == 200 && !page.text.contains("<form"), "{}", page.text);
    assert_eq!((press(&reader, "pause").await, state().await), (403, json!("active")));
}
