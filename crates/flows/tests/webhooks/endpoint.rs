//! An endpoint of a tenant, in a thread of its own: it outlives the process that calls it, keeps a ledger, and behaves
//! as a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use mainspring_flows::{Secret, sign};
use serde_json::{Value, json};

/// What an endpoint answers.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    Status(u16),
    /// A status with a header.
    With(u16, &'static str, String),
    /// No answer for ever.
    Hang,
    /// A status, after a while.
    After(Duration, u16),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) at: Instant,
    pub(crate) id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Answers = Arc<dyn Fn(&Got, usize) -> Manner + Send + Sync>;

struct Inside {
    ledger: Mutex<Vec<Got>>,
    answers: Mutex<Answers>,
}

pub(crate) struct Endpoint {
    address: SocketAddr,
    inside: Arc<Inside>,
    _runtime: tokio::runtime::Runtime,
}

impl Got {
    pub(crate) fn said(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn n(&self) -> u64 {
        self.said()["data"]["n"].as_u64().unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }

    /// Whether one of its signatures is made with the secret.
    pub(crate) fn is_signed_with(&self, secret: &Secret) -> bool {
        let at = self.header(sign::TIMESTAMP_HEADER).parse().unwrap();
        let right = sign::signature(secret, &self.id, at, &self.body);
        self.header(sign::SIGNATURE_HEADER).split(' ').any(|one| one == right)
    }
}

impl Endpoint {
    /// Challenges are answered right; everything else as `answers` says of the request and how many came before it.
    pub(crate) fn new(answers: impl Fn(&Got, usize) -> Manner + Send + Sync + 'static) -> Endpoint {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside { ledger: Mutex::default(), answers: Mutex::new(Arc::new(answers)) });
        let router = Router::new().route("/hook", post(take)).with_state(inside.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Endpoint { address, inside, _runtime: runtime }
    }

    pub(crate) fn good() -> Endpoint {
        Endpoint::new(|_, _| Manner::Status(200))
    }

    pub(crate) fn behave(&self, answers: impl Fn(&Got, usize) -> Manner + Send + Sync + 'static) {
        *self.inside.answers.lock().unwrap() = Arc::new(answers);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.inside.ledger.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.inside.ledger.lock().unwrap().len()
    }

    /// What came, once there is so much of it.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Got> {
        while self.count() < count {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.got()
    }
}

async fn take(State(inside): State<Arc<Inside>>, headers: HeaderMap, body: Bytes) -> Response {
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    if said["type"] == "webhook.verification" {
        return axum::Json(json!({ "challenge": said["challenge"] })).into_response();
    }
    let id = headers.get(sign::ID_HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let got = Got { at: Instant::now(), id, headers, body };
    let before = {
        let mut ledger = inside.ledger.lock().unwrap();
        ledger.push(got.clone());
        ledger.len() - 1
    };
    let answers = inside.answers.lock().unwrap().clone();
    let status = |code: u16| StatusCode::from_u16(code).unwrap();
    match answers(&got, before) {
        Manner::Status(code) => (status(code), format!("answer {before}")).into_response(),
        Manner::With(code, name, value) => (status(code), [(name, value)], "").into_response(),
        Manner::Hang => std::future::pending().await,
        Manner::After(wait, code) => {
            tokio::time::sleep(wait).await;
            status(code).into_response()
        }
    }
}
