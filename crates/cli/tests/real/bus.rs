//! The real binary with `[bus]` and without `[redis]`: channel gateways and senders that know only HTTP sit on both sides
//! of it, and it is killed in between.

use std::path::Path;
use std::time::{Duration, Instant};

use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::house::Server;

const INBOUND: &str = "events.inbound.acme.web";
const OUTBOUND: &str = "events.outbound.acme.web";
/// How long anything is waited for before it is said that it does not come.
const PATIENCE: Duration = Duration::from_secs(120);

/// A tenant's caller.
struct Caller<'a> {
    server: &'a Server,
    token: String,
}

/// What a page or a probe says to anybody.
async fn said(server: &Server, path: &str) -> String {
    let response = server.http.get(format!("{}{path}", server.url)).send().await.expect("an answer");
    response.text().await.expect("text")
}

impl<'a> Caller<'a> {
    fn of(server: &'a Server, tenant: &str) -> Self {
        Caller { server, token: server.token(tenant) }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.server.http.post(format!("{}{path}", self.server.url)).bearer_auth(&self.token);
        let response = request.json(&body).send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("text");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.server.get(&self.token, path).await;
        assert!(!answer.is_null(), "{path}: {status} without JSON");
        answer
    }

    /// As a channel gateway does.
    async fn publish(&self, id: &str, who: &str, text: &str) {
        let envelope = json!({
            "v": 1, "id": id, "type": "message", "tenant": "acme", "channel": "web", "interlocutor": who, "time": 1,
            "payload": { "text": text },
        });
        self.post(&format!("/v1/streams/{INBOUND}/entries"), json!({ "key": who, "body": envelope })).await;
    }

    /// Takes until there are so many, and acknowledges them.
    async fn take(&self, stream: &str, group: &str, count: usize) -> Vec<Value> {
        let (began, mut taken) = (Instant::now(), Vec::new());
        let group = format!("/v1/streams/{stream}/groups/{group}");
        while taken.len() < count {
            assert!(began.elapsed() < PATIENCE, "waited for {count} entries of {stream}: {taken:#?}");
            let asked = json!({ "consumer": "one", "wait_ms": 500, "again": true });
            let mut answer = self.post(&format!("{group}/take"), asked).await;
            let Value::Array(entries) = answer["entries"].take() else { panic!("no entries: {answer}") };
            if !entries.is_empty() {
                let places: Vec<&Value> = entries.iter().map(|entry| &entry["entry"]).collect();
                self.post(&format!("{group}/ack"), json!({ "consumer": "one", "entries": places })).await;
            }
            taken.extend(entries);
        }
        taken
    }

    /// What a person was told, line by line, once so much was, as a sender hears it. Repeats are known by their ids.
    async fn told(&self, who: &str, count: usize) -> Vec<String> {
        let (began, mut lines, mut known) = (Instant::now(), Vec::new(), Vec::new());
        while lines.len() < count {
            assert!(began.elapsed() < PATIENCE, "waited for {count} lines to {who}: {lines:?}");
            for entry in self.take(OUTBOUND, "delivery", 1).await {
                let envelope = &entry["body"];
                assert_eq!(envelope["type"], "outbound", "{envelope}");
                assert_eq!(envelope["interlocutor"], who, "{envelope}");
                if !known.contains(&envelope["id"]) {
                    known.push(envelope["id"].clone());
                    let text = envelope["payload"]["text"].as_str().expect("a text");
                    lines.extend(text.split('\n').map(str::to_owned));
                }
            }
        }
        lines
    }
}

/// An agent that says back what it was told.
async fn agent() -> String {
    let echo = async |Json(asked): Json<Value>| {
        let messages = asked["messages"].as_array().cloned().unwrap_or_default();
        let texts: Vec<&str> = messages.iter().filter_map(|message| message["text"].as_str()).collect();
        Json(json!({ "text": texts.join("\n") }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/turn", post(echo))).await });
    format!("http://{address}/turn")
}

fn configure(dir: &Path, agent: &str) {
    let of = |name: &str, tenant: &str| {
        format!(
            "[[agents]]\nname = \"{name}\"\ntenant = \"{tenant}\"\nkind = \"http\"\nurl = \"{agent}\"\nquiet_ms = 10\n\
             attempts_max = 10\nprotection = {{ session_messages_per_minute = 0 }}\n"
        )
    };
    let bus = "[bus]\nchannels = [\"web\"]\npartitions = 4\noutbound_groups = [\"delivery\"]\n\
               [bus.agents]\nacme = \"echo\"\nother = \"echo\"\n";
    std::fs::write(dir.join("mainspring.toml"), format!("{bus}{}{}", of("echo", "acme"), of("echo", "other")))
        .expect("the configuration is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_and_senders_without_redis() {
    let dir = tempfile::tempdir().expect("a directory");
    configure(dir.path(), &agent().await);
    let server = Server::serve(dir.path()).await;
    let acme = Caller::of(&server, "acme");
    for n in 0..10 {
        acme.publish(&format!("m{n}"), "anna", &format!("{n}")).await;
    }
    // Published again because an answer was lost.
    acme.publish("m3", "anna", "3").await;
    // What is no envelope holds up nobody, and is found with the reason.
    acme.post(&format!("/v1/streams/{INBOUND}/entries"), json!({ "key": "anna", "body": { "type": "nonsense" } }))
        .await;
    let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(acme.told("anna", 10).await, expected);
    let dead = acme.take(&format!("dlq.{INBOUND}"), "people", 1).await;
    assert!(dead[0].to_string().contains("nonsense"), "{dead:#?}");
    let routed = acme.take("events.routed.acme.web", "router", 10).await;
    assert_eq!(routed.len(), 10, "each message was accepted once: {routed:#?}");

    // Killed with entries in hand and replies under way; what was acknowledged does not come again.
    for n in 10..30 {
        acme.publish(&format!("m{n}"), "anna", &format!("{n}")).await;
    }
    drop(server);
    let server = Server::serve(dir.path()).await;
    let acme = Caller::of(&server, "acme");
    acme.publish("m30", "anna", "30").await;
    let expected: Vec<String> = (10..31).map(|n| n.to_string()).collect();
    assert_eq!(acme.told("anna", 21).await, expected);

    // The other tenant has streams of its own, and sees nothing of these.
    let other = Caller::of(&server, "other").get("/v1/streams").await.to_string();
    assert!(!other.contains("acme"), "{other}");
    let metrics = said(&server, "/metrics").await;
    assert!(metrics.contains("bus_taken_total") && !metrics.contains("redis_well"), "{metrics}");
    let ready: Value = serde_json::from_str(&said(&server, "/readyz").await).expect("JSON");
    assert_ne!(ready["status"], "degraded", "without Redis nothing is missing: {ready}");
}
