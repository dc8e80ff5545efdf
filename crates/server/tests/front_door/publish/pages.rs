//! The pages about configuration: what they show, and what their forms do without scripts.

use reqwest::Method;
use serde_json::json;

use super::{ask, over, pointer, publish, put_draft, server, settings, sound};
use crate::harness::Answer;
use crate::harness::{TENANT_A, eventually};
use mainspring_server::auth::Scope;

#[tokio::test]
async fn a_person_sees_versions_and_moves_the_pointer() {
    let (server, user, _agent) = server().await;
    let page = |path: &'static str| user.get(path);
    assert!(page("/agents").await.text.contains("nothing is published"));
    publish(&user, "the first one").await;
    put_draft(&user, &sound("another")).await;
    let shown = page("/agents/orders/config").await.text;
    for told in ["version 1", "the first one", "publish-confirm", "The draft differs from version 1 in rules"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    let form = |path: &str, body: &'static str| {
        let request = user.request(Method::POST, path).header("Content-Type", "application/x-www-form-urlencoded");
        Answer::of(request.body(body))
    };
    let published = form("/agents/orders/config/publish", "description=by+hand").await;
    assert_eq!(published.status, 303, "{}", published.text);
    let place = published.header("location").to_owned();
    let id = place.trim_start_matches("/publishes/").to_owned();
    over(&user, &id).await;
    let shown = user.get(&place).await.text;
    for told in ["data-final", "swap pointer", "by hand", "epoch 2"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert_eq!(form("/agents/orders/config/rollback", "target_version=1&reason=bad").await.status, 303);
    eventually("it is rolled back", || async { (pointer(&user).await["version"] == 1).then_some(()) }).await;
    eventually("the next is taken", || async {
        let asked = form("/agents/orders/config/canary", "version=2&percent=10").await;
        (asked.status == 303).then_some(())
    })
    .await;
    eventually("there is a canary", || async { (pointer(&user).await["canary"]["version"] == 2).then_some(()) }).await;
    assert!(page("/agents/orders/config").await.text.contains("canary: version 2 for 10 %"));
    let reader = server.with_token(&server.token(TENANT_A, &[Scope::Read], 600).await);
    let shown = reader.get("/agents/orders/config").await.text;
    assert!(shown.contains("version 1") && !shown.contains("<form"), "{shown}");
}

#[tokio::test]
async fn a_person_sees_what_is_wrong_and_stops_a_publish() {
    let (_server, user, _agent) = server().await;
    let rules = "[\n{\"id\": \"a\", \"template\": \"none\"}]";
    let put = user.request(Method::PUT, "/v1/agents/orders/config/draft/rules").body(rules);
    Answer::of(put).await.ok();
    let id = ask(&user, "publish", &json!({})).await;
    over(&user, &id).await;
    let shown = user.get(&format!("/publishes/{id}")).await.text;
    for told in ["nothing was published", "&#x2f;0&#x2f;template", ">2</td>"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    // Nobody does this check, so the publish waits at it.
    settings(&user, &json!({ "validate": { "url": "http://127.0.0.1:9/none" } })).await;
    put_draft(&user, &sound("x")).await;
    let id = ask(&user, "publish", &json!({})).await;
    let shown = user.get(&format!("/publishes/{id}")).await.text;
    assert!(shown.contains("cancel-confirm") && !shown.contains("data-final"), "{shown}");
    let cancelled = Answer::of(user.request(Method::POST, &format!("/publishes/{id}/cancel"))).await;
    assert_eq!(cancelled.status, 303, "{}", cancelled.text);
    assert_eq!(over(&user, &id).await["status"], "cancelled");
}
