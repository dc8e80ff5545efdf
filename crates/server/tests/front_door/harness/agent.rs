//! An HTTP endpoint with a script: an agent, or what replies are delivered to.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::eventually;

type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;
type Script = Arc<dyn Fn(Asked) -> Answering + Send + Sync>;

/// One request to it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Counted from 0, over all requests.
    pub(crate) nth: usize,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The body as it came.
    pub(crate) raw: Bytes,
}

impl Asked {
    pub(crate) fn texts(&self) -> Vec<String> {
        super::texts_of(&self.body)
    }

    /// What entitles to calls on behalf of this attempt.
    pub(crate) fn token(&self) -> &str {
        self.body["token"].as_str().expect("a token")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

/// A scripted endpoint. It ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Agent {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    asked: Mutex<Vec<Asked>>,
    /// Requests whose answer was not waited for.
    cut: AtomicUsize,
}

/// An agent that does not listen yet: its port refuses connections, and nobody else can get it.
pub(crate) struct Down {
    socket: TcpSocket,
    agent: Agent,
}

impl Agent {
    /// Listens, and answers by the script.
    pub(crate) async fn start<F>(script: impl Fn(Asked) -> F + Send + Sync + 'static) -> Agent
    where
        F: Future<Output = Response> + Send + 'static,
    {
        Agent::down(script).up()
    }

    /// Answers every turn with its messages.
    pub(crate) async fn echo() -> Agent {
        Agent::start(|asked| async move { answer(&reply(&asked)) }).await
    }

    /// The same, but each answer is held until the test opens the gate.
    pub(crate) async fn behind_a_gate() -> (Agent, Gate) {
        let gate = Gate::closed();
        let held = gate.clone();
        let agent = Agent::start(move |asked| {
            let held = held.clone();
            async move {
                held.passed().await;
                answer(&reply(&asked))
            }
        });
        (agent.await, gate)
    }

    pub(crate) fn down<F>(script: impl Fn(Asked) -> F + Send + Sync + 'static) -> Down
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let url = format!("http://{}/turn", socket.local_addr().expect("an address"));
        let script: Script = Arc::new(move |asked| Box::pin(script(asked)));
        let shared = Arc::new(Shared { script, asked: Mutex::default(), cut: AtomicUsize::new(0) });
        Down { socket, agent: Agent { url, shared } }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it was asked so often.
    pub(crate) async fn asked_times(&self, times: usize) -> Vec<Asked> {
        eventually(&format!("asked {times} time(s)"), || async { Some(self.asked()).filter(|all| all.len() >= times) })
            .await
    }

    /// Waits until so many of its requests were cut.
    pub(crate) async fn cut_times(&self, times: usize) {
        eventually(&format!("cut {times} time(s)"), || async {
            (self.shared.cut.load(Ordering::SeqCst) >= times).then_some(())
        })
        .await;
    }
}

impl Down {
    pub(crate) fn url(&self) -> &str {
        &self.agent.url
    }

    /// Begins to listen.
    pub(crate) fn up(self) -> Agent {
        let listener = self.socket.listen(1024).expect("it listens");
        let router = Router::new().route("/turn", post(asked)).with_state(self.agent.shared.clone());
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, router).await });
        self.agent
    }
}

async fn asked(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let (raw, body) = (body.clone(), serde_json::from_slice(&body).expect("it is asked in JSON"));
    let asked = {
        let mut all = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Asked { nth: all.len(), headers, body, raw };
        all.push(asked.clone());
        asked
    };
    let cut = Cut(&shared.cut);
    let response = (shared.script)(asked).await;
    std::mem::forget(cut);
    response
}

/// Counts a handler that is dropped before it has answered.
struct Cut<'a>(&'a AtomicUsize);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Holds a script until the test opens it.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Gate {
        Gate(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// An agent that holds every request until the test answers it.
pub(crate) struct Desk {
    agent: Agent,
    answers: Arc<watch::Sender<HashMap<usize, Value>>>,
}

impl Desk {
    pub(crate) async fn start() -> Desk {
        let answers = Arc::new(watch::Sender::new(HashMap::<usize, Value>::new()));
        let given = answers.clone();
        let agent = Agent::start(move |asked| {
            let mut given = given.subscribe();
            async move {
                let answers = given.wait_for(|answers| answers.contains_key(&asked.nth)).await.expect("it lives");
                Json(answers[&asked.nth].clone()).into_response()
            }
        });
        Desk { agent: agent.await, answers }
    }

    pub(crate) fn url(&self) -> &str {
        self.agent.url()
    }

    /// The request, counted from 0, once it has come.
    pub(crate) async fn asked(&self, nth: usize) -> Asked {
        self.agent.asked_times(nth + 1).await.swap_remove(nth)
    }

    /// The requests of one type so far.
    pub(crate) fn asked_of(&self, kind: &str) -> Vec<Asked> {
        self.agent.asked().into_iter().filter(|asked| asked.body["type"] == kind).collect()
    }

    pub(crate) fn times(&self) -> usize {
        self.agent.asked().len()
    }

    /// Answers a request, also one that has not come yet.
    pub(crate) fn answer(&self, nth: usize, answer: Value) {
        self.answers.send_modify(|answers| drop(answers.insert(nth, answer)));
    }

    pub(crate) fn say(&self, nth: usize, text: &str) {
        self.answer(nth, json!({ "text": text }));
    }
}

/// What an echo says to a turn.
pub(crate) fn reply(asked: &Asked) -> String {
    format!("you said: {}", asked.texts().join(" | "))
}

pub(crate) fn answer(text: &str) -> Response {
    Json(json!({ "text": text })).into_response()
}

pub(crate) fn status(status: u16) -> Response {
    StatusCode::from_u16(status).expect("a status").into_response()
}

/// A stream of lines, each sent as it comes.
pub(crate) fn stream_of(lines: impl Stream<Item = Value> + Send + 'static) -> Response {
    let lines = lines.map(|line| Ok::<_, std::convert::Infallible>(format!("{line}\n")));
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Lines at once.
pub(crate) fn ndjson(lines: &[Value]) -> Response {
    stream_of(futures_util::stream::iter(lines.to_vec()))
}
