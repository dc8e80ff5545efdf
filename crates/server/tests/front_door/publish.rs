//! Configuration through the front door: drafts, publishes stage by stage, the pointer, pins, canary and rollback.

mod collecting;
mod content;
mod mirror;
mod pages;
mod pinning;
mod pipeline;
mod positions;
mod tenants;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainspring_client::{Failure, Worker, WorkflowDef};
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Gate, Server, Setup, User, answer, eventually, http};

/// An agent that answers with the version of its configuration.
async fn versioned() -> Agent {
    Agent::start(|asked| async move { answer(&format!("v{}", asked.body["config"]["version"])) }).await
}

/// A server with the agent `orders`, and an admin of tenant A.
async fn server() -> (Server, User, Agent) {
    started(Setup::new()).await
}

async fn started(setup: Setup) -> (Server, User, Agent) {
    let agent = versioned().await;
    let server = setup.agent("orders", http(agent.url())).start().await;
    let user = server.user().await;
    (server, user, agent)
}

/// A sound configuration that says `mark`.
fn sound(mark: &str) -> Value {
    json!({
        "scenarios": [{ "id": "order", "steps": [
            { "id": "ask", "template": "hello", "next": ["done"] }, { "id": "done", "rules": ["polite"] }] }],
        "rules": [{ "id": "polite", "when": mark }],
        "templates": [{ "id": "hello", "text": "Hello {{name}}" }],
        "tools": [{ "id": "refund", "policy": "irreversible" }],
        "variables": [{ "id": "name" }],
    })
}

async fn put_draft(user: &User, draft: &Value) -> Value {
    user.put("/v1/agents/orders/config/draft", draft).await.ok()
}

async fn settings(user: &User, settings: &Value) {
    user.put("/v1/agents/orders/config/settings", settings).await.ok();
}

/// Asks for something that must be accepted, and gives the publish's id.
async fn ask(user: &User, path: &str, body: &Value) -> String {
    let accepted = user.post(&format!("/v1/agents/orders/{path}"), body).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    accepted.body["publish_id"].as_str().expect("an id").to_owned()
}

async fn look(user: &User, id: &str) -> Answer {
    user.get(&format!("/v1/publishes/{id}")).await
}

/// A publish, once it is over.
async fn over(user: &User, id: &str) -> Value {
    eventually(&format!("publish {id} is over"), || async {
        let found = look(user, id).await.ok();
        let status = found["status"].as_str().expect("a status");
        (!["pending", "running"].contains(&status)).then_some(found)
    })
    .await
}

/// A publish that must come to a good end.
async fn done(user: &User, path: &str, body: &Value) -> Value {
    let id = ask(user, path, body).await;
    let ended = over(user, &id).await;
    assert_eq!(ended["status"], "completed", "{ended:#}");
    ended
}

/// Publishes a draft that says `mark`, and gives its version.
async fn publish(user: &User, mark: &str) -> u64 {
    put_draft(user, &sound(mark)).await;
    done(user, "publish", &json!({ "description": mark })).await["version"].as_u64().expect("a version")
}

async fn pointer(user: &User) -> Value {
    user.get("/v1/agents/orders/pointer").await.ok()
}

/// Says something, and gives what the agent answered: the version it was asked with.
async fn says(user: &User, who: &str) -> String {
    let turn = user.session("orders", who).send("hello").await;
    let turn = user.turn_ended(&turn).await;
    turn["reply"]["text"].as_str().unwrap_or_else(|| panic!("no reply: {turn:#}")).to_owned()
}

/// A stage of a publish.
fn stage<'a>(publish: &'a Value, name: &str) -> &'a Value {
    let stages = publish["stages"].as_array().expect("stages");
    stages.iter().find(|stage| stage["name"] == name).unwrap_or_else(|| panic!("no {name}: {publish:#}"))
}

/// Waits until a stage is at work.
async fn at(user: &User, id: &str, name: &str) {
    eventually(&format!("{id} is at {name}"), || async {
        let found = look(user, id).await.ok();
        (stage(&found, name)["status"] == "running").then_some(())
    })
    .await;
}

/// A workflow of the tenant's that waits for a gate while it is shut, then answers.
fn checker(name: &'static str, gate: Gate, answer: Value) -> impl Fn(Worker) -> Worker + Send + Sync + 'static {
    let shut = Arc::new(AtomicBool::new(true));
    move |worker| {
        let (gate, answer, shut) = (gate.clone(), answer.clone(), shut.clone());
        worker.task(WorkflowDef::single(name, false), move |_, _: Value| {
            let (gate, answer, shut) = (gate.clone(), answer.clone(), shut.clone());
            async move {
                if shut.load(Ordering::SeqCst) {
                    gate.passed().await;
                    shut.store(false, Ordering::SeqCst);
                }
                Ok::<Value, Failure>(answer)
            }
        })
    }
}

/// All events of configurations so far, by name.
async fn events(user: &User, name: &str) -> Vec<Value> {
    // The last one there is ends the stream's catching up: told afterwards, so everything before is heard.
    let marker = user.post("/v1/events", &json!({ "name": "test.marker", "scope": "config" })).await.ok();
    let request = user.request(reqwest::Method::GET, "/v1/config-updates").header("Last-Event-ID", "0");
    let mut stream = crate::harness::Stream::open(request).await;
    let mut found = Vec::new();
    loop {
        let heard = stream.next().await.expect("it goes on");
        if heard.id == marker["seq"].as_u64() {
            return found;
        }
        if heard.name == name {
            found.push(heard.data["data"].clone());
        }
    }
}
