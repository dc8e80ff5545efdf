//! The pages about tools: the catalogue, executions, what waits for a person, and the buttons of a browser without scripts.

use mainspring_server::auth::{COOKIE, Scope};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Server, Setup, TENANT_A, TENANT_B, User, eventually, http, status};

const HOSTILE: &str = "<script>alert(1)</script>";

fn browse(user: &User, method: Method, path: &str) -> RequestBuilder {
    user.bare(method, path).header("cookie", format!("{COOKIE}={}", user.token()))
}

async fn page(user: &User, path: &str) -> String {
    let shown = Answer::of(browse(user, Method::GET, path)).await;
    assert_eq!(shown.status, 200, "{path}: {}", shown.text);
    shown.text
}

/// Presses a button: posts a form as a browser without scripts does.
async fn press(user: &User, path: &str, form: &str) -> Answer {
    let request = browse(user, Method::POST, path).header("sec-fetch-site", "same-origin");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    Answer::of(request.body(form.to_owned())).await
}

/// A server whose bank fails in a way that leaves everybody in doubt.
async fn server() -> (Server, User, Agent) {
    let bank = Agent::start(|_| async { status(500) }).await;
    let server = Setup::new().agent("echo", http(bank.url())).start().await;
    let user = server.user().await;
    let text = json!({"type": "object", "properties": {"to": {"type": "string"}}});
    for (name, tool) in [
        ("refund", json!({"policy": "idempotent", "provider": {"kind": "builtin", "name": "echo"}})),
        (
            "charge",
            json!({"policy": "compensatable", "provider": {"kind": "http", "url": bank.url()}, "parameters": text,
                "compensation": {"tool": "refund", "arguments": {"key": "{{call.key}}"}}, "sensitive": ["card"]}),
        ),
        (
            "seat",
            json!({"policy": "compensatable", "provider": {"kind": "builtin", "name": "echo"},
                "compensation": {"tool": "refund", "arguments": {"key": "{{call.key}}"}}}),
        ),
        (
            "trip",
            json!({"policy": "compensatable", "description": HOSTILE, "sensitive": ["card"], "provider": {"kind": "steps", "steps": [
                {"name": "seat", "tool": "seat", "arguments": {"to": "{{args.to}}"}},
                {"name": "charge", "tool": "charge"},
            ]}}),
        ),
    ] {
        user.put(&format!("/v1/tools/{name}"), &tool).await.ok();
    }
    (server, user, bank)
}

async fn call(user: &User, tool: &str, arguments: &Value) -> String {
    let body = json!({"arguments": arguments, "wait_ms": 0});
    let answered = user.post(&format!("/v1/tools/{tool}/execute"), &body).await;
    let said: Value = serde_json::from_str(&answered.text).expect("JSON");
    said["execution_id"].as_str().unwrap_or_else(|| panic!("no execution: {said}")).to_owned()
}

/// Waits until an execution's page says this.
async fn says(user: &User, path: &str, wanted: &str) -> String {
    eventually(&format!("{path} says {wanted:?}"), || async {
        let text = page(user, path).await;
        text.contains(wanted).then_some(text)
    })
    .await
}

#[tokio::test]
async fn the_catalogue_says_what_each_tool_does_and_what_undoes_it() {
    let (_server, user, _bank) = server().await;
    let shown = says(&user, "/tools", "trip").await;
    for told in ["data-policy=\"compensatable\"", "a plan: seat, charge", "refund", "built in: echo", "its steps"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(!shown.contains(HOSTILE) && shown.contains("&lt;script&gt;"), "a description is text");
    user.put("/v1/agents/echo/tools/seat", &json!({"enabled": false})).await;
    let seen = says(&user, "/tools?agent=echo", "data-state=\"available\"").await;
    assert!(seen.contains("data-state=\"enabled\""), "the others are enabled");
}

#[tokio::test]
async fn what_nobody_knows_is_settled_by_a_button_and_the_plan_is_undone() {
    let (server, user, bank) = server().await;
    let id = call(&user, "trip", &json!({"to": HOSTILE, "card": "4111"})).await;
    let asked = says(&user, "/attention", "verb-compensate").await;
    for told in ["data-kind=\"unknown\"", "nobody knows whether charge was carried out", "verb-not_done", "data-json"] {
        assert!(asked.contains(told), "{told}: {asked}");
    }
    assert!(!asked.contains("4111") && !asked.contains(HOSTILE), "what is sensitive is not shown: {asked}");
    // The menu counts, and may lag behind the list by what the tables do.
    says(&user, "/attention", "title=\"So much waits for a person\">1<").await;
    let path = format!("/tools/executions/{id}");
    let shown = page(&user, &path).await;
    for told in
        ["data-testid=\"execution-status\">unknown", "data-step=\"seat\" data-state=\"done\"", "verb-compensate"]
    {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(shown.contains("data-step=\"charge\" data-state=\"unknown\""), "{shown}");

    let settle = format!("/attention/{id}/charge/settle");
    let reader = server.with_token(&server.token(TENANT_A, &[Scope::Read], 60).await);
    assert_eq!(press(&reader, &settle, "verb=not_done").await.status, 403);
    let other = server.user_of(TENANT_B).await;
    assert_eq!(press(&other, &settle, "verb=not_done").await.status, 409, "nothing is asked there");
    assert_eq!(press(&user, &settle, "verb=perhaps").await.status, 422);
    assert_eq!(press(&user, &settle, "verb=done&result=%7B").await.status, 400, "that is no JSON");
    let led = press(&user, &settle, "verb=compensate&note=asked+the+bank").await;
    assert_eq!((led.status, led.header("location")), (303, "/attention"));
    let ended = says(&user, &path, "data-testid=\"execution-status\">compensated").await;
    assert!(ended.contains("data-step=\"seat\" data-state=\"compensated\""), "{ended}");
    assert!(ended.contains("data-step=\"charge\" data-state=\"compensated\"") && ended.contains("asked the bank"));
    says(&user, "/attention", "Nothing waits for a person").await;
    says(&user, "/attention", "person\" hidden>0<").await;
    assert_eq!(bank.asked().len(), 1, "the bank was asked once");
    let listed = says(&user, "/tools/executions?tool=trip&status=compensated", &id).await;
    assert!(!listed.contains(HOSTILE));
    assert!(!page(&user, "/tools/executions?tool=seat").await.contains(&id));
    // The run's own page and the API hide as much.
    assert!(!page(&user, &format!("/runs/{id}")).await.contains("4111"));
    assert!(!user.get(&format!("/v1/runs/{id}")).await.text.contains("4111"));
}

#[tokio::test]
async fn a_call_that_is_done_is_undone_by_a_button() {
    let (server, user, _bank) = server().await;
    let id = call(&user, "seat", &json!({"row": 7})).await;
    let path = format!("/tools/executions/{id}");
    says(&user, &path, "compensate-confirm").await;
    let other = server.user_of(TENANT_B).await;
    assert_eq!(Answer::of(browse(&other, Method::GET, &path)).await.status, 404);
    assert_eq!(press(&other, &format!("{path}/compensate"), "").await.status, 404);
    let led = press(&user, &format!("{path}/compensate"), "").await;
    assert_eq!(led.status, 303, "{}", led.text);
    let undoing = led.header("location").to_owned();
    assert_eq!(press(&user, &format!("{path}/compensate"), "").await.header("location"), undoing, "it is one undoing");
    let shown = says(&user, &undoing, "data-testid=\"execution-status\">done").await;
    assert!(shown.contains("<b>Undoes</b>"), "{shown}");
    let shown = page(&user, &path).await;
    assert!(shown.contains("data-testid=\"undone-by\"") && !shown.contains("compensate-confirm"), "{shown}");
}

#[tokio::test]
async fn what_is_under_way_is_cancelled_by_a_button() {
    let (_server, user, _bank) = server().await;
    let confirmed = json!({"policy": "irreversible", "provider": {"kind": "builtin", "name": "echo"},
        "confirmation": {"prompt": "Pay {{args.to}}?"}});
    user.put("/v1/tools/pay", &confirmed).await.ok();
    let id = call(&user, "pay", &json!({"to": "ann"})).await;
    let asked = says(&user, "/attention", "Pay ann?").await;
    assert!(asked.contains("Yes, go on") && asked.contains("then it is a no"), "{asked}");
    let path = format!("/tools/executions/{id}");
    assert!(page(&user, &path).await.contains("awaiting confirmation"));
    let led = press(&user, &format!("{path}/cancel"), "reason=enough").await;
    assert_eq!((led.status, led.header("location").to_owned()), (303, path.clone()));
    let ended = says(&user, &path, "data-testid=\"execution-status\">failed").await;
    assert!(ended.contains("enough") && !ended.contains("cancel-confirm"), "{ended}");
    says(&user, "/attention", "Nothing waits for a person").await;
}
