//! A provider on a bare socket, so that a connection can break wherever a test wants it to. It keeps a ledger of what it
//! did, by the key it was sent.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use mainspring_core::row::EventRow;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Server, TENANT_A, eventually};

type Thinking = Pin<Box<dyn Future<Output = Then> + Send>>;
type Script = Arc<dyn Fn(Call) -> Thinking + Send + Sync>;

/// How a call goes on.
pub(super) enum Then {
    /// This status, with this JSON.
    Answer(u16, Value),
    /// The same with headers.
    With(u16, Vec<(&'static str, &'static str)>, Value),
    /// A body as it is, with its type.
    Text(u16, &'static str, String),
    /// The connection ends without an answer.
    Break,
    /// The connection ends in the middle of an answer that begins like this.
    BreakWithin(u16, &'static str, String),
}

/// One request.
#[derive(Clone)]
pub(super) struct Call {
    /// Counted from 0, over the requests to this path.
    pub(super) nth: usize,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Value,
    shared: Arc<Shared>,
}

/// A provider under test. It ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Provider {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    calls: Mutex<Vec<Call>>,
    /// What was done, in order: the key, and with what.
    ledger: Mutex<Vec<(String, Value)>>,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.as_str())
    }

    /// The key it was sent to recognise a repeat by.
    pub(super) fn key(&self) -> &str {
        self.header("idempotency-key")
    }

    /// Does what is asked, whether or not it was done before, and gives the result.
    pub(super) fn act(&self) -> Value {
        let mut ledger = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.push((self.key().to_owned(), self.body.clone()));
        json!({ "did": ledger.len() })
    }

    /// Does it unless it was done under this key: what a provider does that takes keys seriously.
    pub(super) fn act_once(&self) -> Value {
        match self.done(self.key()) {
            Some(nth) => json!({ "did": nth }),
            None => self.act(),
        }
    }

    /// Answers a probe by the ledger.
    pub(super) fn probed(&self) -> Then {
        let key = self.body["key"].as_str().expect("a probe names the key");
        Then::Answer(
            200,
            match self.done(key) {
                Some(nth) => json!({ "state": "done", "result": { "did": nth } }),
                None => json!({ "state": "not_done" }),
            },
        )
    }

    fn done(&self, key: &str) -> Option<usize> {
        let ledger = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.iter().position(|(known, _)| known == key).map(|at| at + 1)
    }
}

impl Provider {
    /// Does what it is asked, once per key, and answers probes.
    pub(super) async fn honest() -> Provider {
        Provider::start(|call| async move {
            if call.path == "/probe" { call.probed() } else { Then::Answer(200, call.act_once()) }
        })
        .await
    }

    /// Goes by a script.
    pub(super) async fn start<F>(script: impl Fn(Call) -> F + Send + Sync + 'static) -> Provider
    where
        F: Future<Output = Then> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let script: Script = Arc::new(move |call| Box::pin(script(call)));
        let shared = Arc::new(Shared { script, calls: Mutex::default(), ledger: Mutex::default() });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that ends is the caller's business.
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        Provider { address, shared }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn calls_of(&self, path: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.path == path).collect()
    }

    /// Waits until a path was asked for so often.
    pub(super) async fn called(&self, path: &str, times: usize) -> Vec<Call> {
        eventually(&format!("{path} is called {times} time(s)"), || async {
            Some(self.calls_of(path)).filter(|calls| calls.len() >= times)
        })
        .await
    }

    /// Begins anew, as if only this had been done.
    pub(super) fn reset(&self, done: &[String]) {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut ledger = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        *ledger = done.iter().map(|key| (key.clone(), Value::Null)).collect();
    }

    /// How often something was done under each key.
    pub(super) fn ledger(&self) -> BTreeMap<String, usize> {
        let mut counted = BTreeMap::new();
        for (key, _) in &*self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner) {
            *counted.entry(key.clone()).or_default() += 1;
        }
        counted
    }

    /// How much was done in all.
    pub(super) fn effects(&self) -> usize {
        self.ledger().values().sum()
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = Vec::new();
        loop {
            line.clear();
            stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length =
            headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let call = {
            let mut calls = shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
            let nth = calls.iter().filter(|call| call.path == path).count();
            let call = Call { nth, path, headers, body, shared: shared.clone() };
            calls.push(call.clone());
            call
        };
        let (status, headers, body, missing) = match (shared.script)(call).await {
            Then::Answer(status, body) => (status, vec![("content-type", "application/json")], body.to_string(), 0),
            Then::With(status, mut headers, body) => {
                headers.push(("content-type", "application/json"));
                (status, headers, body.to_string(), 0)
            }
            Then::Text(status, kind, body) => (status, vec![("content-type", kind)], body, 0),
            Then::Break => return None,
            // More is announced than comes.
            Then::BreakWithin(status, kind, body) => (status, vec![("content-type", kind)], body, 100),
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len() + missing;
        let answer = format!("HTTP/1.1 {status} So\r\n{headers}content-length: {length}\r\n\r\n{body}");
        stream.get_mut().write_all(answer.as_bytes()).await.ok()?;
        if missing > 0 {
            return None;
        }
    }
}

/// What was told of a tenant by events of one name, in order.
pub(super) async fn events(server: &Server, name: &str) -> Vec<Value> {
    let read = move |reader: &mainspring_engine::Reader| reader.feed(TENANT_A, 0, 10_000);
    let rows: Vec<(u64, EventRow)> = server.state().engine().read(TENANT_A, read).await.expect("the events are read");
    let told = rows.into_iter().filter(|(_, row)| row.name == name);
    told.map(|(_, row)| serde_json::from_slice(&row.data).expect("JSON")).collect()
}
