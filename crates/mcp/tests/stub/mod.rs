//! An MCP server of the session kind that goes wrong on demand: the name of a tool says how.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A running stub.
pub(crate) struct Stub {
    /// Its MCP endpoint.
    pub(crate) url: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    sessions: Mutex<HashSet<String>>,
    handshakes: Mutex<u32>,
    /// Tools that were begun with, in order.
    begun: Mutex<Vec<String>>,
    /// Requests that were given up, as the client said.
    cancelled: Notify,
    listed: Mutex<bool>,
    tokens: Mutex<HashSet<String>>,
}

impl Stub {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Stub {
        let seen = Arc::new(Seen::default());
        let router = Router::new().route("/mcp", post(answer).delete(forget)).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Stub { url, seen }
    }

    /// The tools that ran.
    pub(crate) fn begun(&self) -> Vec<String> {
        self.seen.begun.lock().unwrap().clone()
    }

    /// How often a session was begun.
    pub(crate) fn handshakes(&self) -> u32 {
        *self.seen.handshakes.lock().unwrap()
    }

    /// Sessions that are open.
    pub(crate) fn sessions(&self) -> usize {
        self.seen.sessions.lock().unwrap().len()
    }

    /// The values of `Authorization` it was sent.
    pub(crate) fn tokens(&self) -> HashSet<String> {
        self.seen.tokens.lock().unwrap().clone()
    }

    /// Forgets all sessions, as a restarted server does.
    pub(crate) fn forget_sessions(&self) {
        self.seen.sessions.lock().unwrap().clear();
    }

    /// Waits until a client has said that it gave a request up.
    pub(crate) async fn cancelled(&self) {
        self.seen.cancelled.notified().await;
    }
}

async fn forget(State(seen): State<Arc<Seen>>, headers: HeaderMap) -> StatusCode {
    seen.sessions.lock().unwrap().remove(session(&headers));
    StatusCode::OK
}

fn session(headers: &HeaderMap) -> &str {
    headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default()
}

async fn answer(State(seen): State<Arc<Seen>>, headers: HeaderMap, Json(asked): Json<Value>) -> Response {
    if let Some(token) = headers.get("authorization") {
        seen.tokens.lock().unwrap().insert(token.to_str().unwrap().to_owned());
    }
    let method = asked["method"].as_str().unwrap_or_default();
    if method == "initialize" {
        let mut handshakes = seen.handshakes.lock().unwrap();
        *handshakes += 1;
        let id = format!("session-{handshakes}");
        seen.sessions.lock().unwrap().insert(id.clone());
        let result = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "stub", "version": "1" },
        });
        return ([("mcp-session-id", id)], ok(&asked, result)).into_response();
    }
    if session(&headers).is_empty() {
        return (StatusCode::BAD_REQUEST, error(&asked, -32600, "no session")).into_response();
    }
    if !seen.sessions.lock().unwrap().contains(session(&headers)) {
        return (StatusCode::NOT_FOUND, "no such session").into_response();
    }
    match method {
        "notifications/cancelled" => {
            seen.cancelled.notify_one();
            StatusCode::ACCEPTED.into_response()
        }
        "tools/list" => {
            *seen.listed.lock().unwrap() = true;
            list(&asked)
        }
        "tools/call" => call(&seen, &headers, &asked).await,
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

/// Two pages; the endless one is asked for by a cursor that nobody gave out.
fn list(asked: &Value) -> Response {
    let tool = |name: &str| {
        json!({
            "name": name,
            "description": "d",
            "inputSchema": { "type": "object" },
            "annotations": { "title": "T", "readOnlyHint": true, "destructiveHint": false },
        })
    };
    let result = match asked["params"]["cursor"].as_str() {
        None => json!({ "tools": [tool("echo"), tool("fails")], "nextCursor": "2" }),
        _ => json!({ "tools": [{ "name": "bare", "inputSchema": { "type": "object" } }] }),
    };
    ok(asked, result).into_response()
}

async fn call(seen: &Seen, headers: &HeaderMap, asked: &Value) -> Response {
    let params = &asked["params"];
    let tool = params["name"].as_str().unwrap();
    let refused = |status: u16| StatusCode::from_u16(status).unwrap();
    // Those that answer without beginning.
    match tool {
        "unknown" => return error(asked, -32602, "Unknown tool: unknown").into_response(),
        "needs_headers" if !*seen.listed.lock().unwrap() => {
            return (refused(400), error(asked, -32020, "Mcp-Param-X is missing")).into_response();
        }
        "wrong_path" => return (refused(405), error(asked, -32601, "no such thing")).into_response(),
        "no_id" => {
            let Json(mut error) = error(asked, -32600, "not read");
            error["id"] = Value::Null;
            return (refused(400), Json(error)).into_response();
        }
        "other_id" => {
            let Json(mut error) = error(asked, -32600, "not read");
            error["id"] = "server-error".into();
            return (refused(400), Json(error)).into_response();
        }
        "moved" => return (refused(307), [("location", "http://127.0.0.1:9/")]).into_response(),
        "no_entry" => return (refused(401), [("www-authenticate", "Bearer")]).into_response(),
        "forbidden" => return (refused(403), "no").into_response(),
        "conflict" => return (refused(409), "no").into_response(),
        "busy" => return (refused(429), [("retry-after", "7")]).into_response(),
        _ => {}
    }
    seen.begun.lock().unwrap().push(tool.to_owned());
    match tool {
        "echo" | "needs_headers" => {
            let structured = json!({
                "arguments": params["arguments"],
                "key_in_meta": params["_meta"]["mainspring/idempotency-key"],
                "correlation_id": params["_meta"]["mainspring/correlation-id"],
                "key_in_header": headers.get("idempotency-key").and_then(|key| key.to_str().ok()),
            });
            let content = json!([{ "type": "text", "text": "one" }, { "type": "text", "text": "two" }]);
            ok(asked, json!({ "content": content, "structuredContent": structured })).into_response()
        }
        "fails" => {
            let content = json!([{ "type": "text", "text": "no such hotel" }]);
            ok(asked, json!({ "content": content, "isError": true })).into_response()
        }
        "nothing" => ok(asked, json!({})).into_response(),
        "internal" => error(asked, -32603, "out of ideas").into_response(),
        "asks" => ok(asked, json!({ "resultType": "input_required", "requestState": "s" })).into_response(),
        "slow" => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            StatusCode::OK.into_response()
        }
        // Ends the task of the connection, and with it the connection, as a killed process does.
        "dies" => std::panic::resume_unwind(Box::new("the stub plays dead")),
        "dies_in_answer" => {
            let parts = [Ok(Bytes::from_static(b"{\"jsonrpc\":")), Err(std::io::Error::other("gone"))];
            ([("content-type", "application/json")], Body::from_stream(stream::iter(parts))).into_response()
        }
        "dies_in_stream" => {
            let parts = [Ok(Bytes::from_static(b": hello\n\n")), Err(std::io::Error::other("gone"))];
            ([("content-type", "text/event-stream")], Body::from_stream(stream::iter(parts))).into_response()
        }
        "ends_stream" => ([("content-type", "text/event-stream")], ": hello\n\n").into_response(),
        "streams" => {
            let Json(result) = ok(asked, json!({ "content": [{ "type": "text", "text": "streamed" }] }));
            let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": {
                "progressToken": params["_meta"]["progressToken"], "progress": 1 } });
            let events = format!("data: {progress}\n\nevent: message\ndata: {result}\n\n");
            ([("content-type", "text/event-stream")], events).into_response()
        }
        "big" => ok(asked, json!({ "content": [{ "type": "text", "text": "x".repeat(300_000) }] })).into_response(),
        "big_stream" => {
            let Json(result) = ok(asked, json!({ "content": [{ "type": "text", "text": "x".repeat(300_000) }] }));
            ([("content-type", "text/event-stream")], format!("data: {result}\n\n")).into_response()
        }
        "garbage" => ([("content-type", "application/json")], "not json").into_response(),
        "page" => ([("content-type", "text/html")], "<p>hello</p>").into_response(),
        "broken" => (refused(500), "broken").into_response(),
        "gateway" => (refused(503), [("retry-after", "7")]).into_response(),
        "patience" => (refused(408), "too slow").into_response(),
        other => panic!("the stub knows no {other}"),
    }
}

fn ok(asked: &Value, result: Value) -> Json<Value> {
    Json(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result }))
}

fn error(asked: &Value, code: i32, message: &str) -> Json<Value> {
    Json(json!({ "jsonrpc": "2.0", "id": asked["id"], "error": { "code": code, "message": message } }))
}
