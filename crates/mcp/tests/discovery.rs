//! The discovery server as its clients see it: by raw requests of both generations of the protocol, and by our own
//! client half.

mod sample;

use std::time::Duration;

use mainspring_mcp::discovery::{PAGE_BYTES_MAX, PAGE_TOOLS_MAX};
use mainspring_mcp::{Call, Cause, Outcome, Remote, RemoteLimits, Server};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

const LONG: Duration = Duration::from_secs(60);

struct Served {
    url: String,
    http: reqwest::Client,
}

impl Served {
    async fn start() -> Served {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, sample::router()).await });
        Served { url, http: reqwest::Client::new() }
    }

    /// Asks as a client of the generation with a handshake, which can be left out here: there are no sessions.
    fn request(&self, query: &str, method: &str, params: Value) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}{query}", self.url))
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25")
            .json(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }))
    }

    async fn asked(&self, token: &str, query: &str, method: &str, params: Value) -> Value {
        let response = self.request(query, method, params).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    async fn read(&self, token: &str, uri: &str) -> Value {
        let answer = self.asked(token, "", "resources/read", json!({ "uri": uri })).await;
        let contents = &answer["result"]["contents"][0];
        assert_eq!((&contents["uri"], &contents["mimeType"]), (&json!(uri), &json!("application/json")), "{answer}");
        serde_json::from_str(contents["text"].as_str().unwrap()).unwrap()
    }
}

fn names(tools: &Value) -> Vec<&str> {
    tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn nobody_gets_in_without_a_token() {
    let served = Served::start().await;
    let asked = |authorization: Option<&'static str>, query: &'static str| {
        let request = served.request(query, "tools/list", json!({}));
        async move {
            let request = match authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let response = request.send().await.unwrap();
            let challenge = response.headers().get("www-authenticate").is_some_and(|value| value == "Bearer");
            let status = response.status().as_u16();
            let answer: Value = response.json().await.unwrap();
            let problem = &answer["error"]["data"];
            assert_eq!(problem["status"], status);
            assert!(!problem["action"].as_str().unwrap().is_empty());
            (status, challenge, problem["detail"].as_str().unwrap().to_owned())
        }
    };
    let is = |status, challenge, detail: &str| (status, challenge, detail.to_owned());
    assert_eq!(asked(None, "").await, is(401, true, "no token was sent"));
    assert_eq!(asked(Some("Basic YTpi"), "").await, is(401, true, "the Authorization header has no bearer token"));
    assert_eq!(asked(Some("Bearer "), "").await.0, 401);
    assert_eq!(asked(Some("Bearer nonsense"), "").await, is(401, true, "this token is not known"));
    assert_eq!(asked(Some("Bearer weak"), "").await, is(403, false, "this token may not read"));
    assert_eq!(asked(Some("bearer unlucky"), "").await, is(503, false, "tokens can't be checked now"));
    let bound = asked(Some("Bearer trips-of-acme"), "?agent=other").await;
    assert_eq!(bound, is(403, false, "this token is bound to another agent"));
    assert_eq!(asked(Some("Bearer acme"), "?agent=").await.0, 400);
}

#[tokio::test]
async fn tools_are_those_of_the_tenant_or_of_its_agent() {
    let served = Served::start().await;
    let all = ["calendar.look", "gmail.label", "hotel.book", "money.refund"];
    for (token, query, expected) in [
        ("acme", "", &all[..]),
        ("acme", "?agent=trips", &all[..3]),
        ("trips-of-acme", "", &all[..3]),
        ("trips-of-acme", "?agent=trips", &all[..3]),
        ("empty", "", &[]),
    ] {
        let answer = served.asked(token, query, "tools/list", json!({})).await;
        assert_eq!(names(&answer["result"]["tools"]), expected, "{token}{query}: {answer}");
        assert_eq!(answer["result"].get("nextCursor"), None);
    }
    let answer = served.asked("empty", "?agent=trips", "tools/list", json!({})).await;
    assert_eq!(answer["error"]["message"], "there is no such agent");
    let answer = served.asked("acme", "?agent=unlucky", "tools/list", json!({})).await;
    assert_eq!(answer["error"]["message"], "the catalogue can't be read now: the store does not answer");
}

#[tokio::test]
async fn a_tool_says_what_it_does_to_the_world() {
    let served = Served::start().await;
    let answer = served.asked("acme", "", "tools/list", json!({})).await;
    let tools = answer["result"]["tools"].as_array().unwrap();
    let hints: Vec<Value> = tools.iter().map(|tool| tool["annotations"].clone()).collect();
    let hint = |name: &str, read_only: bool, idempotent: bool, destructive: bool| {
        json!({
            "title": format!("Title of {name}"),
            "readOnlyHint": read_only,
            "idempotentHint": idempotent,
            "destructiveHint": destructive,
        })
    };
    let expected = [
        hint("calendar.look", true, true, false),
        hint("gmail.label", false, true, false),
        hint("hotel.book", false, false, false),
        hint("money.refund", false, false, true),
    ];
    assert_eq!(hints, expected);
    let refund = &tools[3];
    assert_eq!(refund["inputSchema"]["required"], json!(["subject"]));
    assert_eq!(refund.get("outputSchema"), None);
    let meta = json!({
        "mainspring/policy": "irreversible",
        "mainspring/confirmation_required": true,
        "mainspring/version": "3",
        "mainspring/execute": "POST /v1/tools/money.refund/execute",
    });
    assert_eq!(refund["_meta"], meta);
    let free = json!({ "type": "object", "properties": { "free": { "type": "boolean" } } });
    assert_eq!(tools[0]["outputSchema"], free);
}

#[tokio::test]
async fn nothing_is_executed_here() {
    let served = Served::start().await;
    let params = json!({ "name": "money.refund", "arguments": { "subject": "x" } });
    let answer = served.asked("acme", "", "tools/call", params).await;
    assert_eq!(answer["result"]["isError"], true);
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("money.refund was not executed"), "{text}");
    assert!(text.contains("POST /v1/tools/money.refund/execute"), "{text}");
}

#[tokio::test]
async fn tiers_are_read_as_resources() {
    let served = Served::start().await;
    let listed = served.asked("acme", "", "resources/list", json!({})).await;
    let uris = |listed: &Value, what: &str, key: &str| -> Vec<String> {
        let all = listed["result"][what].as_array().unwrap();
        all.iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(uris(&listed, "resources", "uri"), ["mainspring://tools/catalogue", "mainspring://tools/available"]);
    let listed = served.asked("acme", "?agent=trips", "resources/list", json!({})).await;
    let of_agent = ["mainspring://tools/agent/trips/enabled", "mainspring://tools/agent/trips/unavailable"];
    assert_eq!(uris(&listed, "resources", "uri")[2..], of_agent);
    let templates = served.asked("acme", "", "resources/templates/list", json!({})).await;
    let expected =
        ["mainspring://tools/agent/{agent}/enabled{?after}", "mainspring://tools/agent/{agent}/unavailable{?after}"];
    assert_eq!(uris(&templates, "resourceTemplates", "uriTemplate"), expected);

    let enabled = served.read("acme", of_agent[0]).await;
    assert_eq!(names(&enabled["tools"]), ["calendar.look", "gmail.label", "hotel.book"]);
    assert_eq!((&enabled["tenant"], &enabled["next"]), (&json!("acme"), &Value::Null));
    let unavailable = served.read("trips-of-acme", of_agent[1]).await;
    let why = json!([{ "code": "not_enabled", "detail": "the agent has not enabled it", "action": "enable it for the agent" }]);
    assert_eq!(names(&unavailable["tools"]), ["money.refund"]);
    assert_eq!(unavailable["tools"][0]["why_not"], why);

    for (token, uri, message) in [
        ("acme", "mainspring://tools/nothing", "there is no such resource"),
        ("acme", "mainspring://tools/agent/other/enabled", "there is no such agent"),
        ("empty", "mainspring://tools/agent/trips/enabled", "there is no such agent"),
        ("trips-of-acme", "mainspring://tools/agent/other/enabled", "the caller is bound to another agent"),
    ] {
        let answer = served.asked(token, "", "resources/read", json!({ "uri": uri })).await;
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{token} {uri}: {answer}");
        assert_eq!(answer["error"]["code"], -32002);
    }
}

#[tokio::test]
async fn a_long_list_comes_in_pages_of_a_limited_size() {
    let served = Served::start().await;
    let mut uri = json!("mainspring://tools/catalogue");
    let (mut seen, mut pages) = (Vec::new(), Vec::new());
    while let Some(at) = uri.as_str() {
        let page = served.read("acme", at).await;
        let bytes = page["tools"].to_string().len();
        assert!(bytes <= PAGE_BYTES_MAX + 1_024, "{bytes}");
        pages.push(names(&page["tools"]).len());
        seen.extend(names(&page["tools"]).into_iter().map(str::to_owned));
        uri = page["next"].clone();
    }
    assert_eq!(seen.len(), 4 + sample::MANY);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert_eq!(pages[0], PAGE_TOOLS_MAX);
    // The last thirty have 64 KiB each.
    assert!(pages.len() > 3 && pages.iter().all(|&tools| tools <= PAGE_TOOLS_MAX), "{pages:?}");
    let cursor = "x".repeat(2_000);
    let answer = served.asked("acme", "", "tools/list", json!({ "cursor": cursor })).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
}

#[tokio::test]
async fn requests_are_limited_and_only_of_this_kind() {
    let served = Served::start().await;
    let large = served.request("", "tools/list", json!({ "x": "x".repeat(100_000) })).bearer_auth("acme");
    assert_eq!(large.send().await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    let get = served.http.get(&served.url).bearer_auth("acme").header("accept", "text/event-stream");
    assert_eq!(get.send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let unknown = served.asked("acme", "", "prompts/list", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32601);
}

#[tokio::test]
async fn our_own_client_finds_the_same() {
    let served = Served::start().await;
    let remote = Remote::new(served.http.clone(), RemoteLimits::default());
    let server = |token: &str| {
        Server::new("t", &format!("{}?agent=trips", served.url))
            .unwrap()
            .with_header("authorization", &format!("Bearer {token}"))
            .unwrap()
    };
    let tools = remote.list_tools(&server("acme"), LONG).await.unwrap();
    assert_eq!(tools.len(), 3);
    assert_eq!((tools[0].name.as_str(), tools[0].read_only), ("calendar.look", Some(true)));
    let refused = remote.list_tools(&server("nonsense"), LONG).await.unwrap_err();
    assert_eq!(refused.cause, Cause::Unauthorized, "{refused:?}");
    let arguments = Map::new();
    let call =
        Call { tool: "hotel.book", arguments: &arguments, idempotency_key: "k", correlation_id: None, timeout: LONG };
    let Outcome::ToolError(answer) = remote.call_tool(&server("acme"), &call).await else { panic!() };
    assert!(answer.text.contains("POST /v1/tools/hotel.book/execute"), "{answer:?}");
}
