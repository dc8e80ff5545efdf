//! A publish from request to pointer: its stages, what stops it, and two at once.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    ask, at, checker, done, events, look, over, pointer, publish, put_draft, server, settings, sound, stage, started,
};
use crate::harness::{Agent, Answer, Gate, Setup, answer as said, status};

const STAGES: [&str; 8] =
    ["accept", "validate", "compile", "apply", "write_bundles", "swap_pointer", "invalidate_cache", "notify"];

#[tokio::test]
async fn a_draft_becomes_a_version_that_everybody_is_told_of() {
    let (_server, user, _agent) = server().await;
    let before = user.get("/v1/agents/orders/publish").await.ok();
    assert_eq!((&before["current_version"], &before["has_unpublished_changes"]), (&Value::Null, &json!(false)));
    user.post("/v1/agents/orders/publish", &json!({})).await.problem(409, "config_conflict");
    put_draft(&user, &sound("first")).await;
    let drafted = user.get("/v1/agents/orders/publish").await.ok();
    assert_eq!(drafted["has_unpublished_changes"], true, "{drafted:#}");

    let published = done(&user, "publish", &json!({ "description": "the first" })).await;
    assert_eq!((&published["version"], &published["epoch"]), (&json!(1), &json!(1)));
    let names: Vec<&str> = published["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .map(|one| one["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, STAGES);
    for stage in published["stages"].as_array().expect("stages") {
        assert_eq!(stage["status"], "completed", "{stage}");
        assert!(stage["duration_ms"].is_u64() && stage["started_at"].is_u64(), "{stage}");
    }
    let pointer = pointer(&user).await;
    assert_eq!((&pointer["version"], &pointer["reason"]), (&json!(1), &json!("the first")));
    assert_eq!(pointer["bundles"].as_object().expect("bundles").len(), 5);
    let after = user.get("/v1/agents/orders/publish").await.ok();
    assert_eq!((&after["current_version"], &after["has_unpublished_changes"]), (&json!(1), &json!(false)));

    let bundle = user.get("/v1/agents/orders/bundles/1/rules").await;
    assert_eq!(bundle.header("etag"), format!("{}", pointer["bundles"]["rules"]).replace('\\', ""));
    assert_eq!(bundle.body["items"][0]["when"], "first", "{}", bundle.text);
    let again =
        user.request(Method::GET, "/v1/agents/orders/bundles/1/rules").header("If-None-Match", bundle.header("etag"));
    assert_eq!(Answer::of(again).await.status, 304);
    let told = events(&user, "config.updated").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&told[0]["version"], &told[0]["agent_id"], &told[0]["epoch"]),
        (&json!(1), &json!("orders"), &json!(1))
    );
}

#[tokio::test]
async fn every_mistake_is_listed_with_its_line_and_nothing_is_published() {
    let (_server, user, _agent) = server().await;
    publish(&user, "sound").await;
    let rules = "[\n  {\"id\": \"a\"},\n  {\"id\": \"a\",\n   \"template\": \"none\"}\n]";
    let put = user.request(Method::PUT, "/v1/agents/orders/config/draft/rules").body(rules);
    Answer::of(put).await.ok();
    let schema = json!({ "type": "array", "items": { "required": ["text"] } });
    settings(&user, &json!({ "schemas": { "templates": schema } })).await;
    let put = user.request(Method::PUT, "/v1/agents/orders/config/draft/templates").body("[\n{\"id\": \"hello\"}]");
    Answer::of(put).await.ok();
    let id = ask(&user, "publish", &json!({})).await;
    let failed = over(&user, &id).await;
    assert_eq!(failed["status"], "failed", "{failed:#}");
    assert_eq!(stage(&failed, "validate")["status"], "failed");
    assert_eq!(stage(&failed, "compile")["status"], "pending");
    let mut found: Vec<(String, String, u64)> = failed["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().expect("text").to_owned();
            (text("kind"), text("path"), one["line"].as_u64().expect("a line"))
        })
        .collect();
    found.sort();
    let place = |kind: &str, path: &str, line| (kind.to_owned(), path.to_owned(), line);
    let expected = [
        place("rules", "/1/id", 3),
        place("rules", "/1/template", 4),
        place("scenarios", "/0/steps/1/rules/0", 1),
        place("templates", "/0", 2),
    ];
    assert_eq!(found, expected, "{failed:#}");
    assert_eq!(pointer(&user).await["version"], 1);
    let told = events(&user, "publish.failed").await;
    assert_eq!((told.len(), &told[0]["findings"]), (1, &json!(4)));
    // Its number is used up.
    assert_eq!(publish(&user, "mended").await, 3);
}

#[tokio::test]
async fn a_draft_that_is_no_json_or_changed_meanwhile_is_refused() {
    let (_server, user, _agent) = server().await;
    let put = |body: &'static str| user.request(Method::PUT, "/v1/agents/orders/config/draft/rules").body(body);
    let (detail, _) = Answer::of(put("[\n1,\n}")).await.problem(422, "draft_malformed");
    assert!(detail.contains("line 3"), "{detail}");
    let put_odd = user.request(Method::PUT, "/v1/agents/orders/config/draft/Bad-Kind").body("1");
    Answer::of(put_odd).await.problem(422, "config_unfit");
    let first = Answer::of(put("[]")).await;
    assert_eq!(first.header("etag"), "\"1\"");
    Answer::of(put("[ ]").header("If-Match", "\"1\"")).await.ok();
    Answer::of(put("[  ]").header("If-Match", "\"1\"")).await.problem(409, "draft_changed");
    user.post("/v1/agents/orders/publish", &json!({ "draft_version": 1 })).await.problem(409, "draft_changed");
    assert_eq!(user.get("/v1/agents/orders/config/draft/rules").await.text, "[ ]");
    user.delete("/v1/agents/orders/config/draft/rules").await;
    assert_eq!(user.get("/v1/agents/orders/config/draft/rules").await.status, 404);
}

#[tokio::test]
async fn the_same_key_is_the_same_publish() {
    let (_server, user, _agent) = server().await;
    put_draft(&user, &sound("once")).await;
    let with_key = |body: Value| {
        let request = user.request(Method::POST, "/v1/agents/orders/publish").header("Idempotency-Key", "release-7");
        Answer::of(request.json(&body))
    };
    let first = with_key(json!({ "description": "x" })).await.ok();
    over(&user, first["publish_id"].as_str().expect("an id")).await;
    put_draft(&user, &sound("changed")).await;
    let again = with_key(json!({ "description": "x" })).await.ok();
    assert_eq!(
        (&again["publish_id"], &again["version"], &again["repeated"]),
        (&first["publish_id"], &json!(1), &json!(true))
    );
    with_key(json!({ "description": "y" })).await.problem(409, "idempotency_conflict");
    assert_eq!(pointer(&user).await["epoch"], 1);
}

/// H-56: of two publishes at once one is refused, and their numbers differ.
#[tokio::test]
async fn a_second_publish_is_refused_while_one_is_under_way() {
    let gate = Gate::closed();
    let (_server, user, _agent) = started(Setup::new().offer(checker("check", gate.clone(), json!({})))).await;
    settings(&user, &json!({ "validate": { "workflow": "check" } })).await;
    put_draft(&user, &sound("a")).await;
    let first = ask(&user, "publish", &json!({})).await;
    at(&user, &first, "validate").await;
    let (detail, _) = user.post("/v1/agents/orders/publish", &json!({})).await.problem(409, "publish_in_progress");
    assert!(detail.contains(&first) && detail.contains("version 1"), "{detail}");
    user.post("/v1/agents/orders/rollback", &json!({ "target_version": 1 })).await.problem(409, "config_conflict");
    gate.open();
    let first = over(&user, &first).await;
    assert_eq!((&first["status"], &first["version"]), (&json!("completed"), &json!(1)));
    assert_eq!(publish(&user, "b").await, 2);
}

#[tokio::test]
async fn many_at_once_get_numbers_of_their_own_and_move_the_pointer_once_each() {
    let (_server, user, _agent) = server().await;
    settings(&user, &json!({ "concurrency": "queue", "keep_versions": 50 })).await;
    put_draft(&user, &sound("many")).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let user = user.clone();
        asking.spawn(async move { ask(&user, "publish", &json!({})).await });
    }
    let mut versions = Vec::new();
    while let Some(id) = asking.join_next().await {
        let ended = over(&user, &id.expect("accepted")).await;
        assert_eq!(ended["status"], "completed", "{ended:#}");
        versions.push(ended["version"].as_u64().expect("a version"));
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<u64>>());
    let told: Vec<u64> =
        events(&user, "config.updated").await.iter().map(|one| one["version"].as_u64().expect("a version")).collect();
    assert_eq!(told, (1..=8).collect::<Vec<u64>>(), "in order, once each");
    let pointer = pointer(&user).await;
    assert_eq!((&pointer["version"], &pointer["epoch"]), (&json!(8), &json!(8)));
}

/// H-57: a publish that was overtaken never moves the pointer back.
#[tokio::test]
async fn one_that_was_overtaken_ends_superseded_and_moves_nothing() {
    let gate = Gate::closed();
    let (_server, user, _agent) = started(Setup::new().offer(checker("check", gate.clone(), json!({})))).await;
    settings(&user, &json!({ "concurrency": "latest_wins", "validate": { "workflow": "check" } })).await;
    put_draft(&user, &sound("old")).await;
    let old = ask(&user, "publish", &json!({})).await;
    at(&user, &old, "validate").await;
    settings(&user, &json!({ "concurrency": "latest_wins" })).await;
    assert_eq!(publish(&user, "new").await, 2);
    gate.open();
    let old = over(&user, &old).await;
    assert_eq!((&old["status"], &old["version"], &old["epoch"]), (&json!("superseded"), &json!(1), &Value::Null));
    let pointer = pointer(&user).await;
    assert_eq!((&pointer["version"], &pointer["epoch"]), (&json!(2), &json!(1)));
    assert_eq!(events(&user, "config.updated").await.len(), 1);
}

#[tokio::test]
async fn one_that_waits_begins_when_the_one_before_is_cancelled() {
    let gate = Gate::closed();
    let (_server, user, _agent) = started(Setup::new().offer(checker("check", gate.clone(), json!({})))).await;
    settings(&user, &json!({ "concurrency": "queue", "validate": { "workflow": "check" } })).await;
    put_draft(&user, &sound("a")).await;
    let first = ask(&user, "publish", &json!({})).await;
    let second = ask(&user, "publish", &json!({})).await;
    assert_eq!(look(&user, &second).await.ok()["status"], "pending");
    at(&user, &first, "validate").await;
    settings(&user, &json!({ "concurrency": "queue" })).await;
    let cancelled = user.post(&format!("/v1/publishes/{first}/cancel"), &json!({})).await.ok();
    assert_eq!(cancelled["status"], "cancelled");
    user.post(&format!("/v1/publishes/{first}/cancel"), &json!({})).await.problem(409, "config_conflict");
    let second = over(&user, &second).await;
    assert_eq!((&second["status"], &second["version"]), (&json!("completed"), &json!(2)));
    let late = format!("/v1/publishes/{}/cancel", second["publish_id"].as_str().expect("an id"));
    user.post(&late, &json!({})).await.problem(409, "config_conflict");
    assert_eq!(pointer(&user).await["version"], 2);
}

/// A run that was ended by other means frees the line.
#[tokio::test]
async fn a_publish_whose_run_was_cancelled_does_not_stand_in_the_way() {
    let gate = Gate::closed();
    let (_server, user, _agent) = started(Setup::new().offer(checker("check", gate.clone(), json!({})))).await;
    settings(&user, &json!({ "validate": { "workflow": "check" } })).await;
    put_draft(&user, &sound("a")).await;
    let id = ask(&user, "publish", &json!({})).await;
    at(&user, &id, "validate").await;
    let runs = user.runs("workflow=publish").await;
    user.post(&format!("/v1/runs/{}/cancel", runs[0]["id"].as_str().expect("a run")), &json!({})).await.ok();
    let failed = over(&user, &id).await;
    assert_eq!(failed["status"], "failed", "{failed:#}");
    settings(&user, &json!({})).await;
    assert_eq!(publish(&user, "b").await, 2);
}

#[tokio::test]
async fn workflows_and_endpoints_of_the_tenant_check_compile_and_prepare() {
    let finding = json!({ "findings": [{ "kind": "rules", "path": "/0", "line": 1, "message": "never say never" }] });
    let endpoint = Agent::start(|asked| async move {
        match asked.body["stage"].as_str() {
            Some("compile") if asked.nth == 0 => status(503),
            Some("compile") => {
                let rules = json!({ "content": { "compiled": asked.body["bundles"]["rules"]["content"] } });
                axum_json(&json!({ "bundles": { "rules": rules, "extra": { "content": [1] } } }))
            }
            _ => said("no such stage"),
        }
    })
    .await;
    let open = Gate::closed();
    open.open();
    let setup = Setup::new().offer({
        let (strict, ready) = (checker("strict", open.clone(), finding), checker("ready", open, json!({})));
        move |worker| ready(strict(worker))
    });
    let (_server, user, _agent) = started(setup).await;
    settings(&user, &json!({ "validate": { "workflow": "strict" } })).await;
    put_draft(&user, &sound("a")).await;
    let id = ask(&user, "publish", &json!({})).await;
    let failed = over(&user, &id).await;
    assert_eq!((&failed["status"], &failed["findings"][0]["message"]), (&json!("failed"), &json!("never say never")));

    let compile = json!({ "url": endpoint.url(), "secret": "provider" });
    settings(&user, &json!({ "compile": compile, "apply": { "workflow": "ready" } })).await;
    let published = done(&user, "publish", &json!({})).await;
    assert_eq!(stage(&published, "compile")["failed_tries"], 1, "{published:#}");
    assert!(stage(&published, "apply")["note"].as_str().expect("a note").contains("\"ready\""));
    let bundle = user.get("/v1/agents/orders/bundles/2/rules").await.ok();
    assert_eq!(bundle["compiled"][0]["when"], "a", "{bundle:#}");
    assert_eq!(user.get("/v1/agents/orders/bundles/2/extra").await.text, "[1]");
    assert_eq!(user.get("/v1/agents/orders/bundles/2/tools").await.ok()["items"][0]["id"], "refund", "as built in");
    let asked = endpoint.asked();
    assert_eq!(asked[0].header("idempotency-key"), asked[1].header("idempotency-key"), "a repeat can be told");
    assert!(asked[1].header("webhook-signature").starts_with("v1,"));
    for (hook, field) in [
        (json!({ "validate": {} }), "validate"),
        (json!({ "compile": { "url": "ftp://x" } }), "compile"),
        (json!({ "keep_versions": 0 }), "keep_versions"),
        (json!({ "schemas": { "rules": { "type": 5 } } }), "schemas.rules"),
    ] {
        let (detail, _) = user.put("/v1/agents/orders/config/settings", &hook).await.problem(422, "config_unfit");
        assert!(detail.starts_with(field), "{detail}");
    }
}

fn axum_json(value: &Value) -> axum::response::Response {
    axum::response::IntoResponse::into_response(axum::Json(value.clone()))
}

/// H-58: numbers go on after a rollback, and what was published stays as it is.
#[tokio::test]
async fn after_a_rollback_numbers_go_on_and_old_versions_stay() {
    let (_server, user, _agent) = server().await;
    for nth in 1..=7 {
        assert_eq!(publish(&user, &format!("m{nth}")).await, nth);
    }
    let fifth = user.get("/v1/agents/orders/bundles/5/rules").await.text;
    let back = user.post("/v1/agents/orders/rollback", &json!({ "target_version": 4, "reason": "seven is bad" })).await;
    assert_eq!(back.status, 202, "{}", back.text);
    assert_eq!((&back.body["from_version"], &back.body["to_version"]), (&json!(7), &json!(4)));
    let ended = over(&user, back.body["rollback_id"].as_str().expect("an id")).await;
    assert_eq!(ended["status"], "completed", "{ended:#}");
    let moved = pointer(&user).await;
    assert_eq!((&moved["version"], &moved["epoch"], &moved["reason"]), (&json!(4), &json!(8), &json!("seven is bad")));
    assert_eq!(publish(&user, "m8").await, 8);
    assert_eq!(user.get("/v1/agents/orders/bundles/5/rules").await.text, fifth);
    user.post("/v1/agents/orders/rollback", &json!({ "target_version": 8 })).await.problem(409, "config_conflict");
    user.post("/v1/agents/orders/rollback", &json!({ "target_version": 99 })).await.problem(409, "config_conflict");
    user.post("/v1/agents/orders/canary", &json!({ "version": 99, "percent": 5 })).await.problem(404, "not_found");
    let diff = user.get("/v1/agents/orders/versions/4/diff/8").await.ok();
    assert_eq!(diff["kinds"]["rules"]["changed"], json!(["polite"]), "{diff:#}");
    assert!(diff["kinds"]["tools"].is_null(), "what is the same is left out");
    let versions = user.get("/v1/agents/orders/versions").await.ok();
    let standing: Vec<(u64, &str)> = versions["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .map(|one| (one["version"].as_u64().expect("a number"), one["status"].as_str().expect("a word")))
        .take(3)
        .collect();
    assert_eq!(standing, [(8, "current"), (7, "withdrawn"), (6, "kept")]);
}
