//! A server that is killed at every position of its journal while it publishes or rolls back: the pointer moves once, to a
//! version that is complete, and readers are told once, wherever it was.

use serde_json::{Value, json};

use super::{events, look, over, pointer, publish, put_draft, server, sound, stage};
use crate::harness::{Answer, Server, User};

/// Everything a reader can get of a version is there.
async fn complete(user: &User, version: u64, mark: &str) {
    let manifest = user.get(&format!("/v1/agents/orders/versions/{version}")).await.ok();
    for kind in manifest["bundles"].as_object().expect("bundles").keys() {
        let bundle = user.get(&format!("/v1/agents/orders/bundles/{version}/{kind}")).await;
        assert_eq!(bundle.status, 200, "{kind}: {}", bundle.text);
    }
    let rules = user.get(&format!("/v1/agents/orders/bundles/{version}/rules")).await.ok();
    assert_eq!(rules["items"][0]["when"], mark);
}

async fn request(user: &User, path: &str, body: &Value) -> Answer {
    let request = user.request(reqwest::Method::POST, &format!("/v1/agents/orders/{path}"));
    Answer::of(request.header("Idempotency-Key", "the one").json(body)).await
}

/// After a restart: the request as it stands, or, if it was never accepted, made again; once it is over.
async fn goes_on(server: &Server, path: &str, body: &Value, id: &str) -> (User, Value, bool) {
    let user = server.user().await;
    let found = look(&user, id).await;
    let accepted = found.status != 404;
    if !accepted {
        let again = request(&user, path, body).await;
        assert_eq!((again.status, &again.body["publish_id"]), (202, &json!(id)), "{}", again.text);
    }
    let ended = over(&user, id).await;
    assert_eq!(ended["status"], "completed", "{ended:#}");
    (user, ended, accepted)
}

#[tokio::test]
async fn a_publish_ends_once_wherever_the_server_is_killed() {
    let (server, user, _agent) = server().await;
    assert_eq!(publish(&user, "one").await, 1);
    put_draft(&user, &sound("two")).await;
    let mark = server.mark().await;
    let body = json!({ "description": "two" });
    let id = request(&user, "publish", &body).await.ok()["publish_id"].as_str().expect("an id").to_owned();
    over(&user, &id).await;
    let history = server.history(mark).await;
    let mut phases = std::collections::BTreeSet::new();
    for records in history.cuts() {
        let server = history.after(records).await;
        // Whatever it finds, what the pointer names is whole at once, before anything goes on.
        let early = server.user().await;
        let named = pointer(&early).await["version"].as_u64().expect("a version");
        complete(&early, named, if named == 1 { "one" } else { "two" }).await;
        let found = look(&early, &id).await;
        if found.status == 200 {
            let stages = found.body["stages"].as_array().expect("stages");
            let at = stages.iter().find(|stage| stage["status"] == "running");
            phases.insert(at.map_or("between", |stage| stage["name"].as_str().expect("a name")).to_owned());
        }
        let (user, ended, _) = goes_on(&server, "publish", &body, &id).await;
        assert_eq!(ended["version"], 2, "after {records} records");
        let pointer = pointer(&user).await;
        assert_eq!((&pointer["version"], &pointer["epoch"]), (&json!(2), &json!(2)), "after {records} records");
        complete(&user, 2, "two").await;
        let told: Vec<u64> =
            events(&user, "config.updated").await.iter().map(|one| one["epoch"].as_u64().expect("one")).collect();
        assert_eq!(told, [1, 2], "after {records} records");
        for stage in ended["stages"].as_array().expect("stages") {
            assert_eq!(stage["status"], "completed", "after {records} records: {stage}");
        }
        assert!(stage(&ended, "swap_pointer")["note"].as_str().is_some());
        assert_eq!(publish(&user, "three").await, 3, "after {records} records");
    }
    assert!(phases.len() > 3, "it was killed in the middle of several stages: {phases:?}");
}

#[tokio::test]
async fn a_rollback_ends_once_wherever_the_server_is_killed() {
    let (server, user, _agent) = server().await;
    publish(&user, "one").await;
    publish(&user, "two").await;
    let mark = server.mark().await;
    let body = json!({ "target_version": 1, "reason": "two is bad" });
    let id = request(&user, "rollback", &body).await.ok()["publish_id"].as_str().expect("an id").to_owned();
    over(&user, &id).await;
    let history = server.history(mark).await;
    for records in history.cuts() {
        let server = history.after(records).await;
        let (user, ended, _) = goes_on(&server, "rollback", &body, &id).await;
        assert_eq!((&ended["from_version"], &ended["version"]), (&json!(2), &json!(1)));
        let pointer = pointer(&user).await;
        assert_eq!((&pointer["version"], &pointer["epoch"]), (&json!(1), &json!(3)), "after {records} records");
        assert_eq!(events(&user, "config.updated").await.len(), 3, "after {records} records");
    }
}

/// One waits behind another that is killed at each position: both come to their end, in order.
#[tokio::test]
async fn a_line_goes_on_wherever_the_server_is_killed() {
    let (server, user, _agent) = server().await;
    super::settings(&user, &json!({ "concurrency": "queue" })).await;
    put_draft(&user, &sound("both")).await;
    let mark = server.mark().await;
    let first = super::ask(&user, "publish", &json!({ "description": "first" })).await;
    let second = super::ask(&user, "publish", &json!({ "description": "second" })).await;
    over(&user, &first).await;
    over(&user, &second).await;
    let history = server.history(mark).await;
    for records in history.cuts() {
        let server = history.after(records).await;
        let user = server.user().await;
        let mut versions = Vec::new();
        for id in [&first, &second] {
            if look(&user, id).await.status == 200 {
                let ended = over(&user, id).await;
                assert_eq!(ended["status"], "completed", "after {records} records: {ended:#}");
                versions.push(ended["version"].as_u64().expect("a version"));
            }
        }
        let told: Vec<u64> =
            events(&user, "config.updated").await.iter().map(|one| one["version"].as_u64().expect("one")).collect();
        assert_eq!(told, versions, "after {records} records");
    }
}
