//! Replies delivered to a channel's endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainspring_flows::settings::Secret;
use mainspring_flows::{AgentSettings, sign};
use serde_json::json;

use crate::harness::{Agent, Setup, answer, http, status};

/// An agent whose replies go to this endpoint.
async fn delivering(endpoint: &Agent) -> AgentSettings {
    let agent = Agent::echo().await;
    AgentSettings { deliver_url: Some(endpoint.url().to_owned()), ..http(agent.url()) }
}

#[tokio::test]
async fn a_reply_is_posted_with_its_id_and_again_with_the_same_after_a_failure() {
    let endpoint = Agent::start(|asked| async move { status(if asked.nth == 0 { 500 } else { 204 }) }).await;
    let server = Setup::new().agent("echo", delivering(&endpoint).await).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    let turn = session.user.turn_ended(&turn).await;
    let posts = endpoint.asked_times(2).await;
    for post in &posts {
        assert_eq!(post.header("mainspring-reply-id"), turn["reply"]["id"]);
        assert_eq!(post.header("idempotency-key"), turn["reply"]["id"]);
        assert_eq!(post.body["reply_id"], turn["reply"]["id"]);
        assert_eq!((&post.body["turn_id"], &post.body["session"]), (&turn["id"], &turn["session"]));
        assert_eq!(post.body["text"], "you said: one");
    }
    let runs = session.user.runs("workflow=deliver-reply").await;
    assert_eq!(runs.len(), 1);
    let run = session.user.run_in_state(runs[0]["id"].as_str().expect("an id"), "completed").await;
    assert_eq!((&run["tasks"][0]["attempt"], &run["input"]["turn_id"]), (&json!(1), &turn["id"]));
    let journal = run["tasks"][0]["journal"].as_array().expect("a journal");
    let tries: Vec<_> = journal.iter().filter(|step| step["name"] == "post").map(|step| &step["detail"]).collect();
    assert_eq!(tries.len(), 2, "its tries are steps of its journal: {journal:#?}");
    assert!(tries[0].as_str().is_some_and(|detail| detail.contains("500")), "{tries:?}");
    assert_eq!(endpoint.asked().len(), 2);
}

#[tokio::test]
async fn replies_of_one_session_arrive_in_order_although_the_first_fails_at_first() {
    let failed = Arc::new(AtomicUsize::new(0));
    let endpoint = Agent::start(move |asked| {
        let first = asked.body["text"] == "you said: m0" && failed.fetch_add(1, Ordering::SeqCst) == 0;
        async move { status(if first { 503 } else { 200 }) }
    })
    .await;
    let server = Setup::new().agent("echo", delivering(&endpoint).await).start().await;
    let session = server.user().await.session("echo", "ann");
    for nth in 0..5 {
        let turn = session.send(&format!("m{nth}")).await;
        session.user.turn_ended(&turn).await;
    }
    let texts: Vec<_> =
        endpoint.asked_times(6).await.iter().map(|post| post.body["text"].as_str().expect("text").to_owned()).collect();
    let expected = ["m0", "m0", "m1", "m2", "m3", "m4"].map(|text| format!("you said: {text}"));
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_not_asked_again_and_the_run_says_why() {
    let endpoint = Agent::start(|asked| async move {
        if asked.body["text"] == "you said: bad" { status(400) } else { answer("taken") }
    })
    .await;
    let server = Setup::new().agent("echo", delivering(&endpoint).await).start().await;
    let session = server.user().await.session("echo", "ann");
    let bad = session.send("bad").await;
    assert_eq!(session.user.turn_ended(&bad).await["state"], "completed", "the turn has its reply all the same");
    let good = session.send("good").await;
    session.user.turn_ended(&good).await;
    // The second delivery waits for the first, so there was no second try at the first.
    let posts = endpoint.asked_times(2).await;
    assert_eq!(posts.iter().map(|post| post.body["turn_id"].clone()).collect::<Vec<_>>(), [json!(bad), json!(good)]);
    let failed = session.user.runs("workflow=deliver-reply&state=failed").await;
    assert_eq!(failed.len(), 1);
    assert!(failed[0]["error"].as_str().is_some_and(|error| error.contains("400")), "{}", failed[0]);
}

#[tokio::test]
async fn replies_are_signed_each_try_anew_under_the_same_id() {
    let endpoint = Agent::start(|asked| async move { status(if asked.nth == 0 { 503 } else { 200 }) }).await;
    let secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
    let settings = AgentSettings { deliver_secret: Some(secret.clone()), ..delivering(&endpoint).await };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    session.user.turn_ended(&turn).await;
    for post in endpoint.asked_times(2).await {
        let id = post.header("webhook-id");
        assert_eq!(id, post.header("mainspring-reply-id"));
        let at: u64 = post.header("webhook-timestamp").parse().expect("seconds");
        assert_eq!(post.header("webhook-signature"), sign::signature(&secret, id, at, &post.raw));
    }
    let runs = session.user.runs("workflow=deliver-reply").await;
    let run = session.user.run_in_state(runs[0]["id"].as_str().expect("an id"), "completed").await;
    assert!(!run.to_string().contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "the secret is on no record");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_success() {
    let elsewhere = Agent::start(|_| async move { status(200) }).await;
    let to = elsewhere.url().to_owned();
    let endpoint = Agent::start(move |_| {
        let to = to.clone();
        async move {
            let mut answer = status(307);
            answer.headers_mut().insert("location", to.parse().expect("a header"));
            answer
        }
    })
    .await;
    let server = Setup::new().agent("echo", delivering(&endpoint).await).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    session.user.turn_ended(&turn).await;
    endpoint.asked_times(1).await;
    let runs = session.user.runs("workflow=deliver-reply").await;
    let run = session.user.run_in_state(runs[0]["id"].as_str().expect("an id"), "failed").await;
    assert!(run["error"].as_str().is_some_and(|error| error.contains("307")), "{run}");
    assert_eq!((endpoint.asked().len(), elsewhere.asked().len()), (1, 0));
}
