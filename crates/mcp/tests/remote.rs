//! Calls over a server that goes wrong in every way: what is said of a call has to be true of what the server did.

mod stub;

use std::time::Duration;

use mainspring_mcp::{Answer, Call, Cause, Doubt, NotDone, Outcome, Remote, RemoteLimits, Server};
use serde_json::{Map, Value, json};
use stub::Stub;

const LONG: Duration = Duration::from_secs(60);

fn remote_with(limits: RemoteLimits) -> Remote {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    Remote::new(http, limits)
}

fn remote() -> Remote {
    remote_with(RemoteLimits { answer_bytes_max: 64 * 1024, ..RemoteLimits::default() })
}

fn server(url: &str) -> Server {
    Server::new("acme", url).unwrap().with_header("authorization", "Bearer geheim").unwrap()
}

async fn call_within(remote: &Remote, url: &str, tool: &str, timeout: Duration) -> Outcome {
    let arguments = json!({ "a": 1 }).as_object().cloned().unwrap();
    let call = Call { tool, arguments: &arguments, idempotency_key: "key-1", correlation_id: Some("t:a:s:1"), timeout };
    remote.call_tool(&server(url), &call).await
}

async fn call(stub: &Stub, tool: &str) -> Outcome {
    call_within(&remote(), &stub.url, tool, LONG).await
}

fn not_done(outcome: Outcome) -> NotDone {
    match outcome {
        Outcome::NotDone(why) => why,
        other => panic!("{other:?}"),
    }
}

fn doubt(outcome: Outcome) -> Doubt {
    match outcome {
        Outcome::InDoubt(doubt) => doubt,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tool_answers_and_gets_the_key_twice() {
    let stub = Stub::start().await;
    let Outcome::Succeeded(answer) = call(&stub, "echo").await else { panic!() };
    assert_eq!(answer.text, "one\ntwo");
    assert_eq!(answer.content.len(), 2);
    let expected = json!({
        "arguments": { "a": 1 },
        "key_in_meta": "key-1",
        "correlation_id": "t:a:s:1",
        "key_in_header": "key-1",
    });
    assert_eq!(answer.structured, Some(expected));
    assert_eq!(stub.tokens().into_iter().collect::<Vec<_>>(), ["Bearer geheim"]);
    let Outcome::Succeeded(answer) = call(&stub, "streams").await else { panic!() };
    assert_eq!(answer.text, "streamed");
    assert_eq!(call(&stub, "nothing").await, Outcome::Succeeded(Answer::default()));
}

#[tokio::test]
async fn a_tool_says_that_it_failed() {
    let stub = Stub::start().await;
    let Outcome::ToolError(answer) = call(&stub, "fails").await else { panic!() };
    assert_eq!((answer.text.as_str(), answer.structured), ("no such hotel", None));
}

#[tokio::test]
async fn a_refused_call_was_certainly_not_begun() {
    let stub = Stub::start().await;
    for (tool, cause, words) in [
        ("unknown", Cause::Refused, "Unknown tool: unknown (-32602)"),
        ("wrong_path", Cause::Refused, "no such thing (-32601)"),
        ("no_id", Cause::Refused, "not read (-32600)"),
        ("other_id", Cause::Refused, "not read (-32600)"),
        ("moved", Cause::Refused, "redirects are not followed"),
        ("conflict", Cause::Refused, "HTTP 409"),
        ("no_entry", Cause::Unauthorized, "HTTP 401"),
        ("forbidden", Cause::Unauthorized, "HTTP 403"),
        ("busy", Cause::Busy, "HTTP 429"),
    ] {
        let why = not_done(call(&stub, tool).await);
        assert_eq!(why.cause, cause, "{tool}: {why:?}");
        assert!(why.detail.contains(words), "{tool}: {why:?}");
        assert_eq!(why.retry_after, (tool == "busy").then(|| Duration::from_secs(7)), "{tool}");
    }
    assert_eq!(stub.begun(), [""; 0]);
}

#[tokio::test]
async fn whatever_else_goes_wrong_after_the_call_left_is_in_doubt() {
    let stub = Stub::start().await;
    type Expected = fn(&Doubt) -> bool;
    let kinds: [(&str, Expected); 12] = [
        ("dies", |doubt| matches!(doubt, Doubt::ConnectionLost(_))),
        ("dies_in_answer", |doubt| matches!(doubt, Doubt::ConnectionLost(_))),
        ("dies_in_stream", |doubt| matches!(doubt, Doubt::ConnectionLost(_))),
        ("ends_stream", |doubt| matches!(doubt, Doubt::ConnectionLost(_))),
        ("big", |doubt| *doubt == Doubt::TooLarge { max: 64 * 1024 }),
        ("big_stream", |doubt| *doubt == Doubt::TooLarge { max: 64 * 1024 }),
        ("garbage", |doubt| matches!(doubt, Doubt::Unreadable(_))),
        ("page", |doubt| matches!(doubt, Doubt::Unreadable(_))),
        ("asks", |doubt| matches!(doubt, Doubt::Unreadable(_))),
        ("internal", |doubt| *doubt == Doubt::ServerError("out of ideas (-32603)".to_owned())),
        ("broken", |doubt| matches!(doubt, Doubt::ServerError(_))),
        ("gateway", |doubt| *doubt == Doubt::ServerError("HTTP 503".to_owned())),
    ];
    for (tool, expected) in kinds {
        let doubt = doubt(call(&stub, tool).await);
        assert!(expected(&doubt), "{tool}: {doubt:?}");
    }
    assert!(matches!(doubt(call(&stub, "patience").await), Doubt::Unreadable(_)));
    // Once each: nothing was called again by itself.
    let mut expected: Vec<&str> = kinds.iter().map(|(tool, _)| *tool).collect();
    expected.push("patience");
    assert_eq!(stub.begun(), expected);
}

#[tokio::test]
async fn a_slow_tool_is_in_doubt_and_its_server_is_told() {
    let stub = Stub::start().await;
    let timeout = Duration::from_millis(300);
    let doubt = doubt(call_within(&remote(), &stub.url, "slow", timeout).await);
    assert_eq!(doubt, Doubt::TimedOut { timeout });
    assert_eq!(stub.begun(), ["slow"]);
    stub.cancelled().await;
}

#[tokio::test]
async fn a_server_is_told_when_the_caller_goes_away() {
    let stub = Stub::start().await;
    let remote = remote();
    let url = stub.url.clone();
    let calling = tokio::spawn(async move { call_within(&remote, &url, "slow", LONG).await });
    while stub.begun().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    calling.abort();
    stub.cancelled().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_got_nothing() {
    let remote = remote();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Takes connections and says nothing: the handshake runs out of time.
    let url = format!("http://127.0.0.1:{port}/mcp?secret=geheim");
    let why = not_done(call_within(&remote, &url, "echo", Duration::from_millis(200)).await);
    assert_eq!(why.cause, Cause::TimedOut);
    drop(listener);
    let why = not_done(call_within(&remote, &url, "echo", LONG).await);
    assert_eq!(why.cause, Cause::Unreachable, "{why:?}");
    assert!(!why.detail.contains("geheim"), "{why:?}");
    let nowhere = not_done(call_within(&remote, "http://no-such-host.invalid/mcp", "echo", LONG).await);
    assert_eq!(nowhere.cause, Cause::Unreachable, "{nowhere:?}");
    let unreachable = remote.list_tools(&server(&url), LONG).await.unwrap_err();
    assert_eq!(unreachable.cause, Cause::Unreachable, "{unreachable:?}");
}

#[tokio::test]
async fn what_is_no_mcp_server_got_no_call() {
    let router = axum::Router::new()
        .route("/page", axum::routing::any(|| async { axum::response::Html("<p>hello</p>") }))
        .route("/json", axum::routing::any(|| async { axum::Json(json!({ "hello": 1 })) }))
        .route("/failing", axum::routing::any(|| async { axum::http::StatusCode::BAD_GATEWAY }))
        .route("/closed", axum::routing::any(|| async { (axum::http::StatusCode::UNAUTHORIZED, "no") }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    for (path, cause) in [
        ("/page", Cause::NotMcp),
        ("/json", Cause::NotMcp),
        ("/failing", Cause::ServerFailed),
        ("/closed", Cause::Unauthorized),
        ("/missing", Cause::Refused),
    ] {
        let why = not_done(call_within(&remote(), &format!("{base}{path}"), "echo", LONG).await);
        assert_eq!(why.cause, cause, "{path}: {why:?}");
    }
}

#[tokio::test]
async fn a_connection_is_shared_and_renewed() {
    let stub = Stub::start().await;
    let remote = remote();
    for _ in 0..3 {
        assert!(matches!(call_within(&remote, &stub.url, "echo", LONG).await, Outcome::Succeeded(_)));
    }
    assert_eq!(stub.handshakes(), 1);
    // The server is restarted and knows the session no more. It says so before it begins with anything.
    stub.forget_sessions();
    assert!(matches!(call_within(&remote, &stub.url, "echo", LONG).await, Outcome::Succeeded(_)));
    assert_eq!(stub.handshakes(), 2);
    // After a doubt the connection is not trusted.
    assert!(matches!(call_within(&remote, &stub.url, "garbage", LONG).await, Outcome::InDoubt(_)));
    assert!(matches!(call_within(&remote, &stub.url, "echo", LONG).await, Outcome::Succeeded(_)));
    assert_eq!(stub.handshakes(), 3);
    assert_eq!(stub.begun(), ["echo", "echo", "echo", "echo", "garbage", "echo"]);
    // Another tenant never shares it.
    let arguments = Map::new();
    let call = Call { tool: "echo", arguments: &arguments, idempotency_key: "k", correlation_id: None, timeout: LONG };
    let other = Server::new("other", &stub.url).unwrap().with_header("authorization", "Bearer geheim").unwrap();
    assert!(matches!(remote.call_tool(&other, &call).await, Outcome::Succeeded(_)));
    assert_eq!(stub.handshakes(), 4);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let stub = Stub::start().await;
    let remote = remote_with(RemoteLimits { idle: Duration::from_millis(50), ..RemoteLimits::default() });
    assert!(matches!(call_within(&remote, &stub.url, "echo", LONG).await, Outcome::Succeeded(_)));
    while stub.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(call_within(&remote, &stub.url, "echo", LONG).await, Outcome::Succeeded(_)));
    assert_eq!(stub.handshakes(), 2);
}

#[tokio::test]
async fn connections_are_limited() {
    let (one, two) = (Stub::start().await, Stub::start().await);
    let remote = remote_with(RemoteLimits { links_max: 1, ..RemoteLimits::default() });
    for stub in [&one, &two] {
        assert!(matches!(call_within(&remote, &stub.url, "echo", LONG).await, Outcome::Succeeded(_)));
    }
    while one.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(two.sessions(), 1);
}

#[tokio::test]
async fn headers_the_server_wants_are_learnt_from_its_list() {
    let stub = Stub::start().await;
    assert!(matches!(call(&stub, "needs_headers").await, Outcome::Succeeded(_)));
    assert_eq!(stub.begun(), ["needs_headers"]);
}

#[tokio::test]
async fn tools_are_listed_page_by_page() {
    let stub = Stub::start().await;
    let tools = remote().list_tools(&server(&stub.url), LONG).await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["echo", "fails", "bare"]);
    assert_eq!(tools[0].title.as_deref(), Some("T"));
    assert_eq!((tools[0].read_only, tools[0].destructive, tools[0].idempotent), (Some(true), Some(false), None));
    assert_eq!(tools[2].input_schema, json!({ "type": "object" }).as_object().cloned().unwrap());
    let few = remote_with(RemoteLimits { tools_max: 2, ..RemoteLimits::default() });
    let why = few.list_tools(&server(&stub.url), LONG).await.unwrap_err();
    assert_eq!(why.cause, Cause::TooLarge);
    assert!(why.detail.contains("more than 2 tools"), "{why:?}");
}

#[tokio::test]
async fn too_much_is_not_sent() {
    let stub = Stub::start().await;
    let remote = remote_with(RemoteLimits { arguments_bytes_max: 100, ..RemoteLimits::default() });
    let arguments = Map::from_iter([("a".to_owned(), Value::from("x".repeat(100)))]);
    let call = Call { tool: "echo", arguments: &arguments, idempotency_key: "k", correlation_id: None, timeout: LONG };
    let why = not_done(remote.call_tool(&server(&stub.url), &call).await);
    assert_eq!(why.cause, Cause::TooLarge);
    assert_eq!(stub.handshakes(), 0);
}
