//! What is given up, and what is not: the newest, the current, the canary, and whatever a session is with.

use std::time::Duration;

use mainspring_flows::publish::{Configs, Shared};
use serde_json::{Value, json};

use super::{done, publish, put_draft, says, server, settings, sound};
use crate::harness::{Server, TENANT_A, User};

/// Gives up as if much time had passed since anything was used.
async fn collect(server: &Server) -> (Vec<u64>, Vec<u64>, usize) {
    let configs = Configs::new(server.state().client(TENANT_A), Shared::default());
    let collected = configs.collect("orders", Duration::ZERO, Duration::ZERO).await.expect("collected");
    (collected.versions, collected.pinned, collected.content)
}

async fn kept(user: &User) -> Vec<u64> {
    let versions = user.get("/v1/agents/orders/versions").await.ok();
    let all = versions["versions"].as_array().expect("versions").iter();
    let kept = all.filter(|one| one["status"] != "given_up");
    kept.map(|one| one["version"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn what_is_in_use_is_kept_and_the_rest_is_given_up() {
    let (server, user, _agent) = server().await;
    settings(&user, &json!({ "keep_versions": 2 })).await;
    publish(&user, "m1").await;
    publish(&user, "m2").await;
    assert_eq!(says(&user, "ann").await, "v2");
    for nth in 3..=6 {
        publish(&user, &format!("m{nth}")).await;
    }
    done(&user, "canary", &json!({ "version": 3, "percent": 1 })).await;
    // What happens by itself after each publish leaves alone what was current a moment ago.
    assert_eq!(kept(&user).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(collect(&server).await.0, [1, 4]);
    assert_eq!(kept(&user).await, [6, 5, 3, 2]);
    assert_eq!(says(&user, "ann").await, "v2", "it was pinned");
    user.get("/v1/agents/orders/bundles/1/rules").await.problem(409, "config_conflict");
    user.post("/v1/agents/orders/rollback", &json!({ "target_version": 4 })).await.problem(409, "config_conflict");
    assert_eq!(user.get("/v1/agents/orders/bundles/2/rules").await.ok()["items"][0]["when"], "m2");
    // A pin that would not hold any more keeps nothing.
    settings(&user, &json!({ "keep_versions": 2, "idle_move_ms": 0 })).await;
    let (gone, pinned, _) = collect(&server).await;
    assert_eq!((gone, pinned), (vec![2], vec![]));
    assert_eq!(says(&user, "ann").await, "v6");
    assert_eq!(publish(&user, "m7").await, 7, "and numbers go on");
}

#[tokio::test]
async fn content_that_nothing_refers_to_goes_and_comes_back_when_it_is_put_again() {
    let (server, user, _agent) = server().await;
    settings(&user, &json!({ "keep_versions": 1 })).await;
    publish(&user, "a").await;
    let put = |value: Value| {
        let user = user.clone();
        async move { user.post("/v1/config/content", &value).await.ok()["digest"].as_str().expect("one").to_owned() }
    };
    let loose = put(json!({ "loose": true })).await;
    let of = |digest: &str| format!("/v1/config/content/{digest}");
    assert_eq!(user.get(&of(&loose)).await.ok(), json!({ "loose": true }));
    let old = user.get("/v1/agents/orders/pointer").await.ok()["bundles"]["rules"].as_str().expect("one").to_owned();
    publish(&user, "b").await;
    let (gone, _, content) = collect(&server).await;
    // The loose one, the old rules, and the draft they were made of.
    assert_eq!((gone, content), (vec![1], 3));
    assert_eq!((user.get(&of(&loose)).await.status, user.get(&of(&old)).await.status), (404, 404));
    assert_eq!(user.get("/v1/agents/orders/bundles/2/tools").await.status, 200, "what both had is kept");
    assert_eq!(put(json!({ "loose": true })).await, loose);
    assert_eq!(user.get(&of(&loose)).await.ok(), json!({ "loose": true }));
    put_draft(&user, &sound("a")).await;
    done(&user, "publish", &json!({})).await;
    assert_eq!(user.get(&of(&old)).await.status, 200, "the same content is the same bundle");
}
