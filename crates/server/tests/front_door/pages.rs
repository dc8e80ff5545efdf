//! Pages: signing in, staying safe, showing what is there.

use mainspring_server::auth::{COOKIE, Scope};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{Agent, Answer, Server, Setup, TENANT_A, User, http, status};

const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}";

async fn server() -> (Server, User) {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let user = server.user().await;
    (server, user)
}

/// A browser's request: with the cookie, without the header.
fn browse(user: &User, method: Method, path: &str) -> RequestBuilder {
    user.bare(method, path).header("cookie", format!("theme=dark; {COOKIE}={}; x=y", user.token()))
}

async fn page(user: &User, path: &str) -> Answer {
    Answer::of(browse(user, Method::GET, path)).await
}

#[tokio::test]
async fn each_page_is_shown_and_hardened() {
    let (_server, user) = server().await;
    let turn = user.session("echo", "ann").send("hello").await;
    user.turn_ended(&turn).await;
    let paths = ["/", "/chat", "/chat?agent=echo&as=ann", "/runs", "/runs?state=completed&workflow=turn", "/login"];
    let paths = paths.map(str::to_owned).into_iter().chain([format!("/turns/{turn}"), format!("/runs/{turn}")]);
    for path in paths {
        let shown = page(&user, &path).await;
        assert_eq!(shown.status, 200, "{path}: {}", shown.text);
        assert!(shown.header("content-type").starts_with("text/html"), "{path}");
        assert!(shown.text.starts_with("<!doctype html>") && shown.text.trim_end().ends_with("</html>"), "{path}");
        let policy = shown.header("content-security-policy");
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"), "{path}: {policy}");
        assert_eq!(shown.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(shown.header("cache-control"), "no-store", "{path}");
        assert!(!shown.text.contains("style=\"") && !shown.text.contains("onclick"), "{path}: the policy forbids it");
        assert!(!shown.text.contains(user.token()), "{path}");
        // What the page needs is there.
        for asset in shown.text.split("=\"").filter(|rest| rest.starts_with("/assets/")) {
            let asset = asset.split('"').next().expect("a path");
            assert_eq!(Answer::of(user.bare(Method::GET, asset)).await.status, 200, "{asset}");
        }
    }
    let turn_page = page(&user, &format!("/turns/{turn}")).await;
    assert!(turn_page.text.contains("you said: hello"));
}

#[tokio::test]
async fn what_is_not_there_is_a_page_too() {
    let (_server, user) = server().await;
    for path in ["/turns/x", "/runs/00000000-0000-4000-8000-000000000000"] {
        let shown = page(&user, path).await;
        assert_eq!(shown.status, 404);
        assert!(shown.header("content-type").starts_with("text/html") && shown.text.contains("there is no such"));
    }
    let wrong = page(&user, "/runs?state=happy").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.header("content-type").starts_with("text/html"));
    for path in
        ["/assets/nothing.js", "/assets/../Cargo.toml", "/assets/%2e%2e/%2e%2e/Cargo.toml", "/assets//etc/passwd"]
    {
        assert_eq!(Answer::of(user.bare(Method::GET, path)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn whoever_is_not_signed_in_is_led_to_the_login_and_back() {
    let (server, user) = server().await;
    let expired = server.with_token(&server.token(TENANT_A, &[Scope::Read], 0).await);
    let writer = server.with_token(&server.token(TENANT_A, &[Scope::Write], 60).await);
    for path in ["/", "/chat", "/runs", "/turns/x", "/runs/x"] {
        for request in [
            user.bare(Method::GET, path),
            browse(&expired, Method::GET, path),
            browse(&writer, Method::GET, path),
            user.bare(Method::GET, path).header("cookie", format!("{COOKIE}=nonsense")),
        ] {
            let led = Answer::of(request).await;
            assert_eq!((led.status, led.header("location").to_owned()), (303, format!("/login?next={path}")));
        }
    }
    let login = Answer::of(user.bare(Method::GET, "/login?next=/runs")).await;
    assert!(login.text.contains("name=\"next\" value=\"&#x2f;runs\""), "{}", login.text);
    let login = Answer::of(user.bare(Method::GET, "/login?next=%22%3E%3Cscript%3E")).await;
    assert!(!login.text.contains("\"><script>"));
}

#[tokio::test]
async fn a_token_in_the_address_becomes_a_cookie_that_scripts_cannot_read() {
    let (_server, user) = server().await;
    for (path, next) in [("/", "/"), ("/chat", "/chat"), ("/runs", "/runs")] {
        let led = Answer::of(user.bare(Method::GET, &format!("{path}?token={}", user.token()))).await;
        assert_eq!((led.status, led.header("location")), (303, next));
        let cookie = led.header("set-cookie");
        assert!(cookie.starts_with(&format!("{COOKIE}={};", user.token())), "{cookie}");
        for part in ["HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(cookie.split("; ").any(|have| have == part), "{cookie}");
        }
        assert!(!cookie.contains("Secure"), "the server is not reached over https");
    }
    let refused = Answer::of(user.bare(Method::GET, "/?token=nonsense")).await;
    assert_eq!((refused.status, refused.header("set-cookie")), (401, ""));
    assert!(refused.text.contains("not one of this server"));
}

async fn log_in(user: &User, token: &str, next: &str) -> Answer {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let form = format!("token={}&next={}", encode(token), encode(next));
    let request = user.bare(Method::POST, "/login").header("content-type", "application/x-www-form-urlencoded");
    Answer::of(request.body(form)).await
}

#[tokio::test]
async fn the_login_form_leads_on_within_this_server_and_nowhere_else() {
    let (_server, user) = server().await;
    for next in ["/", "/runs", "/turns/x", "/chat?agent=echo&as=ann"] {
        let led = log_in(&user, &format!("  {}\n", user.token()), next).await;
        assert_eq!((led.status, led.header("location")), (303, next));
        assert!(led.header("set-cookie").contains("HttpOnly"));
    }
    for evil in [
        "//evil.example",
        "https://evil.example",
        "evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/\r\n/evil.example",
        "\t//evil.example",
        "javascript:alert(1)",
        "/\u{0}/evil.example",
        "",
    ] {
        let led = log_in(&user, user.token(), evil).await;
        assert_eq!((led.status, led.header("location")), (303, "/"), "{evil:?}");
    }
    let refused = log_in(&user, "nonsense", "/runs").await;
    assert_eq!((refused.status, refused.header("set-cookie")), (401, ""));
    assert!(refused.text.contains("value=\"&#x2f;runs\""), "the way on is kept");
}

#[tokio::test]
async fn a_post_from_another_site_is_refused_although_the_browser_sends_the_cookie() {
    let (server, user) = server().await;
    let path = "/v1/sessions/echo/ann/web/messages";
    let body = json!({ "text": "hello" });
    let post = |path: &str| browse(&user, Method::POST, path).json(&body);
    let own = server.url().to_owned();
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("origin", &format!("{own}.evil.example")),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("x-nothing", "said"),
    ] {
        Answer::of(post(path).header(name, value)).await.problem(403, "cross_site");
        let cancel = Answer::of(post("/v1/runs/x/cancel").header(name, value)).await;
        cancel.problem(403, "cross_site");
        let delete = browse(&user, Method::DELETE, "/v1/tokens/x").header(name, value);
        Answer::of(delete).await.problem(403, "cross_site");
    }
    assert_eq!(user.session("echo", "ann").show().await["turns"], json!([]));
    for (name, value) in [("origin", own.as_str()), ("sec-fetch-site", "same-origin")] {
        assert_eq!(Answer::of(post(path).header(name, value)).await.status, 202);
    }
    // The cookie alone is enough to look.
    assert_eq!(page(&user, "/v1/runs").await.status, 200);
}

#[tokio::test]
async fn the_cancel_button_works_without_scripts_and_only_from_here() {
    let agent = Agent::start(|_| std::future::pending()).await;
    let server = Setup::new().agent("slow", http(agent.url())).start().await;
    let user = server.user().await;
    let turn = user.session("slow", "ann").send("hello").await;
    let path = format!("/runs/{turn}/cancel");
    let form = |user: &User, site: &str| {
        let request = browse(user, Method::POST, &path).header("sec-fetch-site", site);
        request.header("content-type", "application/x-www-form-urlencoded").body("reason=enough")
    };
    assert_eq!(Answer::of(form(&user, "cross-site")).await.status, 403);
    let reader = server.with_token(&server.token(TENANT_A, &[Scope::Read], 60).await);
    assert_eq!(Answer::of(form(&reader, "same-origin")).await.status, 403);
    let other = server.user_of(crate::harness::TENANT_B).await;
    assert_eq!(Answer::of(form(&other, "same-origin")).await.status, 404);
    assert!(user.turn(&turn).await["finished_at"].is_null());
    let led = Answer::of(form(&user, "same-origin")).await;
    assert_eq!((led.status, led.header("location").to_owned()), (303, format!("/runs/{turn}")));
    let ended = user.turn_ended(&turn).await;
    assert_eq!((&ended["state"], &ended["error"]), (&json!("cancelled"), &json!("enough")));
}

#[tokio::test]
async fn a_failed_turns_messages_are_sent_again_without_scripts_and_only_from_here() {
    let agent = Agent::start(|_| async { status(400) }).await;
    let server = Setup::new().agent("bad", http(agent.url())).start().await;
    let user = server.user().await;
    let turn = user.session("bad", "ann").send("hello").await;
    assert_eq!(user.turn_ended(&turn).await["state"], "failed");
    let path = format!("/turns/{turn}/replay");
    assert!(page(&user, &format!("/turns/{turn}")).await.text.contains(&path));
    let press = |site: &str| browse(&user, Method::POST, &path).header("sec-fetch-site", site);
    assert_eq!(Answer::of(press("cross-site")).await.status, 403);
    // Twice is as once: the same messages, in the same turn.
    let mut led = Vec::new();
    for _ in 0..2 {
        let pressed = Answer::of(press("same-origin")).await;
        assert_eq!(pressed.status, 303, "{}", pressed.text);
        led.push(pressed.header("location").to_owned());
    }
    assert_eq!(led[0], led[1]);
    let again = user.turn_ended(led[0].trim_start_matches("/turns/")).await;
    assert_eq!((again["state"].as_str(), again["messages"][0]["text"].as_str()), (Some("failed"), Some("hello")));
}

#[tokio::test]
async fn what_people_and_agents_write_is_text_on_a_page_and_nothing_else() {
    let (_server, user) = server().await;
    let body = json!({ "text": HOSTILE, "data": { HOSTILE: HOSTILE } });
    let path = format!("/v1/sessions/echo/{}/web/messages", "%3Cscript%3Ealert(1)%3C%2Fscript%3E".replace("%2F", ""));
    let accepted = user.post(&path, &body).await.ok();
    let turn = accepted["turn_id"].as_str().expect("a turn");
    user.turn_ended(turn).await;
    for path in ["/".to_owned(), "/runs".to_owned(), format!("/turns/{turn}"), format!("/runs/{turn}")] {
        let shown = page(&user, &path).await;
        assert_eq!(shown.status, 200);
        for forbidden in ["<script>alert", "<img src=x", "49}}"] {
            assert!(!shown.text.contains(forbidden), "{path} has {forbidden}");
        }
    }
    let shown = page(&user, &format!("/turns/{turn}")).await;
    assert!(shown.text.contains("&lt;script&gt;alert(1)"), "it is shown, as text");
    let query = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in [format!("/chat?agent={query}&as={query}"), format!("/runs?workflow={query}")] {
        let shown = page(&user, &path).await;
        assert!(!shown.text.contains("<script>alert"), "{path}");
    }
}
