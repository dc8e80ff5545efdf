//! What operators and machines ask: health, metrics, the API's description.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Server, Setup, User, http};

/// The routes as they are written in the code.
const ROUTES: &str = include_str!("../../src/api/mod.rs");

async fn server() -> (Server, User) {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let user = server.user().await;
    (server, user)
}

#[tokio::test]
async fn health_is_told_to_everybody() {
    let (_server, user) = server().await;
    for path in ["/healthz", "/readyz"] {
        let answer = Answer::of(user.bare(Method::GET, path)).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({ "status": "ok" })));
    }
}

#[tokio::test]
async fn a_server_that_ends_says_it_is_not_ready_and_refuses_work_with_503() {
    let (server, user) = server().await;
    let engine = server.state().engine().clone();
    tokio::task::spawn_blocking(move || engine.shut_down()).await.expect("it ends");
    assert_eq!(user.get("/healthz").await.status, 200, "the process still lives");
    user.get("/readyz").await.problem(503, "shutting_down");
    let refused = user.session("echo", "ann").send_body(&json!({ "text": "hello" })).await;
    refused.problem(503, "shutting_down");
    assert_eq!(refused.header("retry-after"), "1");
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_count_what_happened() {
    let (_server, user) = server().await;
    let session = user.session("echo", "a-telling-name");
    for text in ["one", "two"] {
        let turn = session.send(text).await;
        user.turn_ended(&turn).await;
    }
    session.send_with_key("k", &json!({ "text": "three" })).await.ok();
    session.send_with_key("k", &json!({ "text": "three" })).await.ok();
    let answer = Answer::of(user.bare(Method::GET, "/metrics")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let metrics = parse(&answer.text);
    assert_eq!(metrics["mainspring_messages_accepted_total"], 3.0);
    assert_eq!(metrics["mainspring_accepting"], 1.0);
    // Of two tenants: the flows, and webhooks.
    assert_eq!(metrics["mainspring_workers"], 4.0);
    assert!(metrics["mainspring_log_batches_total"] > 0.0);
    assert!(!answer.text.contains("a-telling-name"));
}

/// Reads the text format strictly.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let (mut metrics, mut types, mut helps) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => assert!(helps.insert((*name).to_owned()) && !help.is_empty(), "{line}"),
            ["#", "TYPE", name, kind] => {
                assert!(["counter", "gauge", "histogram", "summary"].contains(kind), "{line}");
                assert!(types.insert((*name).to_owned(), (*kind).to_owned()).is_none(), "{line}");
            }
            [name, value] => {
                let kind = types.get(*name).unwrap_or_else(|| panic!("no type before {line:?}"));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'), "{line}");
                assert!(metrics.insert((*name).to_owned(), value.parse().expect("a number")).is_none(), "{line}");
            }
            _ => panic!("not of the format: {line:?}"),
        }
    }
    assert_eq!(helps, metrics.keys().cloned().collect());
    metrics
}

async fn document(user: &User) -> Value {
    let answer = Answer::of(user.bare(Method::GET, "/openapi.json")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert!(answer.body["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    answer.body
}

fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        item.as_object().expect("an item").keys().map(|method| (path.clone(), method.clone())).collect()
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test]
async fn every_route_is_documented_and_nothing_else_is() {
    let (_server, user) = server().await;
    let documented = documented(&document(&user).await);
    let mut written = BTreeSet::new();
    for route in ROUTES.split(".route(").skip(1) {
        let route = route.split("\n}").next().expect("a first part").trim_start();
        let (path, methods) = route[1..].split_once('"').expect("a path");
        for method in ["get", "post", "put", "patch", "delete"] {
            if methods.contains(&format!("{method}(")) {
                written.insert((path.to_owned(), method.to_owned()));
            }
        }
    }
    assert!(written.len() >= 18, "{written:?}");
    assert_eq!(documented, written);
    for (path, method) in documented {
        let path = path.replace("{id}", "x").replace(['{', '}'], "");
        let method: Method = method.to_uppercase().parse().expect("a method");
        let answer = Answer::of(user.bare(method.clone(), &path)).await;
        if path.starts_with("/v1/incoming/") {
            // Platforms carry no token of ours: their requests are signed, and this one is not.
            assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.status);
            continue;
        }
        let public = ["/healthz", "/readyz", "/metrics", "/openapi.json"].contains(&path.as_str());
        assert_eq!(answer.status, if public { 200 } else { 401 }, "{method} {path}");
    }
}

#[tokio::test]
async fn every_reference_of_the_description_leads_somewhere_and_answers_have_its_shape() {
    let (_server, user) = server().await;
    let document = document(&user).await;
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 20);
    for reference in &references {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }

    let session = user.session("echo", "ann");
    let accepted = session.send_body(&json!({ "text": "hello", "data": 1 })).await.ok();
    let id = |name: &str| accepted[name].as_str().expect("an id").to_owned();
    let (turn, message) = (id("turn_id"), id("message_id"));
    user.turn_ended(&turn).await;
    assert_shape(&document, &accepted, "/v1/sessions/{agent}/{interlocutor}/{channel}/messages", "post", "202");
    for (path, documented) in [
        (format!("/v1/turns/{turn}"), "/v1/turns/{id}"),
        (format!("/v1/runs/{turn}"), "/v1/runs/{id}"),
        (format!("/v1/messages/{message}"), "/v1/messages/{id}"),
        ("/v1/runs".to_owned(), "/v1/runs"),
        ("/v1/tokens".to_owned(), "/v1/tokens"),
        ("/readyz".to_owned(), "/readyz"),
        (session.path.clone(), "/v1/sessions/{agent}/{interlocutor}/{channel}"),
    ] {
        let answer = user.get(&path).await;
        assert_eq!(answer.status, 200);
        assert_shape(&document, &answer.body, documented, "get", "200");
    }
    let problem = user.get("/v1/turns/x").await;
    assert_shape(&document, &problem.body, "/v1/turns/{id}", "get", "404");
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| collect(field, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn assert_shape(document: &Value, body: &Value, path: &str, method: &str, status: &str) {
    let response = &document["paths"][path][method]["responses"][status];
    let content = response["content"].as_object().and_then(|content| content.values().next());
    let schema = &content.unwrap_or_else(|| panic!("{method} {path} {status} has no content"))["schema"];
    let (mut allowed, mut required) = (BTreeSet::new(), BTreeSet::new());
    fields(document, schema, &mut allowed, &mut required);
    assert!(!allowed.is_empty(), "{method} {path} {status} has no fields");
    let found: BTreeSet<String> = body.as_object().expect("an object").keys().cloned().collect();
    assert!(found.is_subset(&allowed), "{path}: {:?} are not documented", found.difference(&allowed));
    assert!(required.is_subset(&found), "{path}: {:?} are missing", required.difference(&found));
}

/// The fields of an object's schema, and those that must be there.
fn fields(document: &Value, schema: &Value, allowed: &mut BTreeSet<String>, required: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).expect("it leads somewhere");
        return fields(document, schema, allowed, required);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fields(document, part, allowed, required);
    }
    allowed.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    let names = schema["required"].as_array().into_iter().flatten();
    required.extend(names.map(|name| name.as_str().expect("a name").to_owned()));
}
