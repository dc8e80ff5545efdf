//! Content: large, compressed, by its digest.

use reqwest::Method;
use serde_json::{Value, json};

use super::server;
use crate::harness::Answer;

#[tokio::test]
async fn sixteen_megabytes_are_taken_and_no_more() {
    let (server, user, _agent) = server().await;
    // Hardly compressible, so that there are many parts.
    let mut state = 7_u64;
    let mut text = String::from("[\"");
    while text.len() < 16 * 1024 * 1024 - 64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:016x}", state ^ (state >> 29)));
    }
    text.push_str("\"]");
    let put = user.request(Method::POST, "/v1/config/content").body(text.clone());
    let stored = Answer::of(put).await.ok();
    assert_eq!(stored["bytes"], text.len());
    assert!(stored["stored_bytes"].as_u64().expect("bytes") > 7_000_000, "{stored}");
    let path = format!("/v1/config/content/{}", stored["digest"].as_str().expect("a digest"));
    assert!(user.get(&path).await.text == text);
    // Over a crash that leaves the tables behind the log, too.
    let server = server.crash(None).await;
    let user = server.user().await;
    assert!(user.get(&path).await.text == text);
    let put = user.request(Method::POST, "/v1/config/content").body(format!("[{}]", " ".repeat(16 * 1024 * 1024)));
    Answer::of(put).await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn content_is_sent_compressed_to_those_who_take_it_so() {
    let (_server, user, _agent) = server().await;
    let value: Value = json!(vec!["the same again"; 1_000]);
    let stored = user.post("/v1/config/content", &value).await.ok();
    let path = format!("/v1/config/content/{}", stored["digest"].as_str().expect("a digest"));
    let ask = |with: &'static str| Answer::of(user.request(Method::GET, &path).header("Accept-Encoding", with));
    let packed = ask("gzip, br").await;
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), ("gzip", "Accept-Encoding"));
    assert_eq!(packed.header("content-length"), stored["stored_bytes"].to_string());
    let plain = ask("identity").await;
    assert_eq!(plain.header("content-encoding"), "");
    assert_eq!(plain.body, value);
    user.get("/v1/config/content/sha256:no-digest").await.problem(404, "not_found");
    let put = user.request(Method::POST, "/v1/config/content").body("{");
    Answer::of(put).await.problem(422, "draft_malformed");
}
