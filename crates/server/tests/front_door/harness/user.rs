//! Someone with a token, and a conversation they have.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use super::{Stream, eventually};

/// Someone with a token.
#[derive(Clone)]
pub(crate) struct User {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// `null` if it is no JSON.
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl User {
    pub(super) fn new(http: reqwest::Client, url: &str, token: &str) -> User {
        User { http, url: url.to_owned(), token: token.to_owned() }
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// A request with the token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.token)
    }

    /// A request without it.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).timeout(super::PATIENCE)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) fn session(&self, agent: &str, interlocutor: &str) -> Session {
        self.session_on(agent, interlocutor, "web")
    }

    pub(crate) fn session_on(&self, agent: &str, interlocutor: &str, channel: &str) -> Session {
        let path = format!("/v1/sessions/{agent}/{interlocutor}/{channel}");
        Session { user: self.clone(), path }
    }

    pub(crate) async fn turn(&self, id: &str) -> Value {
        self.get(&format!("/v1/turns/{id}")).await.ok()
    }

    /// The turn, once it has ended.
    pub(crate) async fn turn_ended(&self, id: &str) -> Value {
        eventually(&format!("turn {id} ends"), || async {
            let found = self.get(&format!("/v1/turns/{id}")).await;
            // A turn that is only promised is not there yet.
            (found.status == 200 && !found.body["finished_at"].is_null()).then_some(found.body)
        })
        .await
    }

    /// The turn that answered in the end, following those that were superseded.
    pub(crate) async fn turn_after_all(&self, id: &str) -> Value {
        let mut turn = self.turn_ended(id).await;
        while turn["state"] == "superseded" {
            turn = self.turn_ended(turn["superseded_by"].as_str().expect("a successor")).await;
        }
        turn
    }

    pub(crate) async fn run(&self, id: &str) -> Value {
        self.get(&format!("/v1/runs/{id}")).await.ok()
    }

    /// The run, once it is in this state.
    pub(crate) async fn run_in_state(&self, id: &str, state: &str) -> Value {
        eventually(&format!("run {id} is {state}"), || async {
            Some(self.run(id).await).filter(|run| run["state"] == state)
        })
        .await
    }

    pub(crate) async fn start(&self, workflow: &str, input: &Value) -> String {
        let started = self.post(&format!("/v1/workflows/{workflow}/runs"), &json!({ "input": input })).await;
        assert_eq!(started.status, 202, "{}", started.text);
        started.body["run_id"].as_str().expect("a run").to_owned()
    }

    /// All runs of a query, page by page, once the list shows everything that was accepted.
    pub(crate) async fn runs(&self, query: &str) -> Vec<Value> {
        eventually("the list is current", || async {
            let first = self.get("/v1/runs?limit=1").await.ok();
            (first["as_of"]["lag_ms"] == 0).then_some(())
        })
        .await;
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/runs?{query}&cursor={cursor}")).await.ok();
            all.extend(page["runs"].as_array().expect("runs").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return all,
            }
        }
    }
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a whole answer");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, body, text }
    }

    /// The body of a success.
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.body
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Checks that it is a whole problem document with this code, and gives its detail and action.
    pub(crate) fn problem(&self, status: u16, code: &str) -> (String, String) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let text = |name: &str| {
            let text = self.body[name].as_str().unwrap_or_default().to_owned();
            assert!(!text.is_empty(), "no {name} in {}", self.text);
            text
        };
        assert_eq!(self.body["status"], status, "{}", self.text);
        assert_eq!(text("code"), code, "{}", self.text);
        assert_eq!(text("type"), format!("urn:mainspring:problem:{code}"));
        text("title");
        (text("detail"), text("action"))
    }
}

/// One conversation.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) user: User,
    pub(crate) path: String,
}

impl Session {
    /// Sends a message that must be accepted, and gives the turn it is offered to.
    pub(crate) async fn send(&self, text: &str) -> String {
        self.send_body(&json!({ "text": text })).await.ok()["turn_id"].as_str().expect("a turn").to_owned()
    }

    pub(crate) async fn send_body(&self, body: &Value) -> Answer {
        self.user.post(&format!("{}/messages", self.path), body).await
    }

    pub(crate) async fn send_with_key(&self, key: &str, body: &Value) -> Answer {
        let request = self.user.request(Method::POST, &format!("{}/messages", self.path));
        Answer::of(request.header("Idempotency-Key", key).json(body)).await
    }

    pub(crate) async fn show(&self) -> Value {
        self.user.get(&self.path).await.ok()
    }

    /// Every turn there was, oldest first, once nothing is live any more.
    pub(crate) async fn turns(&self) -> Vec<Value> {
        let session = eventually("the session is quiet", || async {
            Some(self.show().await).filter(|shown| shown["live_turn"].is_null())
        })
        .await;
        let mut turns = Vec::new();
        for summary in session["turns"].as_array().expect("turns").iter().rev() {
            // One that takes no messages any more is not live, and may still be about to end.
            turns.push(self.user.turn_ended(summary["id"].as_str().expect("an id")).await);
        }
        turns
    }

    /// Everything from the beginning, or from behind an event.
    pub(crate) async fn events(&self, after: u64) -> Stream {
        let request = self.user.request(Method::GET, &format!("{}/events", self.path));
        // The deadline of ordinary requests does not suit a stream; waiting for its events has one.
        let request = request.timeout(Duration::from_secs(600)).header("Last-Event-ID", after.to_string());
        Stream::open(request).await
    }
}

/// The texts of a turn's messages.
pub(crate) fn texts_of(turn: &Value) -> Vec<String> {
    let messages = turn["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["text"].as_str().expect("text").to_owned()).collect()
}
