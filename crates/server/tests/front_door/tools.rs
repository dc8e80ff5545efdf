//! Tools through the front door: a provider with a ledger of its own says what was done in the world, and how often.

mod audit;
mod callbacks;
mod catalogue;
mod doubt;
mod people;
mod plans;
mod positions;
mod provider;
mod trouble;
mod turns;
mod ways;

use serde_json::{Value, json};

use crate::harness::{Answer, Server, Setup, User, eventually};

use provider::{Call, Provider, Then, events};

/// A server without agents, and an admin of tenant A.
async fn server() -> (Server, User) {
    let server = Setup::new().start().await;
    let user = server.user().await;
    (server, user)
}

/// A tool of the provider's, with more of its definition.
fn tool(provider: &Provider, policy: &str, more: Value) -> Value {
    let mut tool = json!({
        "policy": policy,
        "provider": { "kind": "http", "url": provider.url("/act") },
        "retry": { "tries_max": 4, "backoff_ms": 5, "backoff_max_ms": 20 },
    });
    for (name, value) in more.as_object().expect("an object") {
        tool[name] = value.clone();
    }
    tool
}

/// A tool that asks the provider whether a call was carried out.
fn probe(provider: &Provider) -> Value {
    json!({
        "policy": "pure",
        "provider": { "kind": "http", "url": provider.url("/probe"), "body": { "key": "{{args.key}}" } },
        "retry": { "tries_max": 4, "backoff_ms": 5, "backoff_max_ms": 20 },
    })
}

/// Puts a tool that must be accepted, and gives what its author should know.
async fn put(user: &User, name: &str, tool: &Value) -> Vec<Value> {
    let put = user.put(&format!("/v1/tools/{name}"), tool).await.ok();
    put["advice"].as_array().expect("advice").clone()
}

async fn execute(user: &User, name: &str, asked: &Value) -> Answer {
    user.post(&format!("/v1/tools/{name}/execute"), asked).await
}

/// Calls, and waits for nothing; gives the execution's id.
async fn begin(user: &User, name: &str, key: &str, arguments: Value) -> String {
    let asked = json!({ "arguments": arguments, "idempotency_key": key, "wait_ms": 0 });
    let answer = execute(user, name, &asked).await;
    let answer = answer.ok();
    answer["execution_id"].as_str().unwrap_or_else(|| panic!("no execution: {answer}")).to_owned()
}

/// An execution, once it has this status.
async fn execution(user: &User, id: &str, status: &str) -> Value {
    eventually(&format!("execution {id} is {status}"), || async {
        let found = user.get(&format!("/v1/tool-executions/{id}")).await.ok();
        let over = ["done", "failed", "declined", "compensated"].contains(&found["status"].as_str().expect("a status"));
        assert!(!over || found["status"] == status, "it ended as {found}, not {status}");
        (found["status"] == status).then_some(found)
    })
    .await
}

/// The executions of a query, once there are so many: lists may lag.
async fn listed(user: &User, query: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} are listed"), || async {
        let listed = user.get(&format!("/v1/tool-executions?{query}")).await.ok();
        listed["executions"].as_array().cloned().filter(|all| all.len() == count)
    })
    .await
}

/// Everything that waits for a person.
async fn attention(user: &User) -> Vec<Value> {
    user.get("/v1/attention").await.ok()["attention"].as_array().expect("a list").clone()
}

/// What is asked of a person about an execution, once it is of this kind.
async fn asked_of_a_person(user: &User, id: &str, kind: &str) -> Value {
    eventually(&format!("{kind} of {id} waits for a person"), || async {
        attention(user).await.into_iter().find(|one| one["run_id"] == id && one["kind"] == kind)
    })
    .await
}

/// Waits until nothing waits for a person any more.
async fn nobody_is_asked(user: &User) {
    eventually("nothing waits for a person", || async { attention(user).await.is_empty().then_some(()) }).await;
}

async fn settle(user: &User, id: &str, step: &str, verdict: Value) -> Answer {
    let step = step.replace(' ', "%20");
    user.post(&format!("/v1/attention/{id}/{step}/settle"), &verdict).await
}
