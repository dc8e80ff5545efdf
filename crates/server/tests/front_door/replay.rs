//! Turns that failed: what the person hears, and sending their messages again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainspring_flows::AgentSettings;
use mainspring_flows::channel::CapabilityChanges;
use mainspring_flows::window::WindowRules;
use serde_json::json;

use crate::harness::{Agent, Session, Setup, answer, http, reply, status, texts_of};

/// An agent that refuses everything until it is mended.
async fn broken() -> (Agent, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let works = mended.clone();
    let agent = Agent::start(move |asked| {
        let works = works.load(Ordering::SeqCst);
        async move { if works { answer(&reply(&asked)) } else { status(400) } }
    });
    (agent.await, mended)
}

#[tokio::test]
async fn a_failed_turn_is_sent_again_in_order_and_a_second_time_it_is_the_same() {
    let (agent, mended) = broken().await;
    let window = WindowRules { messages_max: 3, ..WindowRules::fixed(5_000) };
    let server = Setup::new().agent("echo", AgentSettings { window, ..http(agent.url()) }).start().await;
    let session = server.user().await.session("echo", "ann");
    let failed = session.send("one").await;
    session.send_body(&json!({ "text": "two", "data": { "picture": 7 }, "message_id": "wa-2" })).await.ok();
    session.send("three").await;
    let original = session.user.turn_ended(&failed).await;
    assert_eq!((&original["state"], texts_of(&original).len()), (&json!("failed"), 3));
    mended.store(true, Ordering::SeqCst);

    let path = format!("/v1/turns/{failed}/replay");
    let replayed = session.user.post(&path, &json!({})).await;
    assert_eq!(replayed.status, 202, "{}", replayed.text);
    let replayed = replayed.body;
    let again = session.user.post(&path, &json!({})).await.ok();
    assert_eq!(again["message_ids"], replayed["message_ids"]);
    let turn = session.user.turn_ended(replayed["turn_id"].as_str().expect("a turn")).await;
    assert_eq!(
        (&turn["state"], texts_of(&turn)),
        (&json!("completed"), ["one", "two", "three"].map(str::to_owned).to_vec())
    );
    assert_eq!(turn["messages"][1]["data"], json!({ "picture": 7 }));
    let ids: Vec<_> =
        turn["messages"].as_array().expect("messages").iter().map(|message| message["id"].clone()).collect();
    assert_eq!(json!(ids), replayed["message_ids"], "new messages, in order");
    assert_ne!(ids[0], original["messages"][0]["id"]);
    assert_eq!(turn["turn_group_id"], original["turn_group_id"], "what the failed turn did stays known");

    // Also after it was answered, and after a restart; and the provider's own repeat is still the first message.
    let server = server.restart().await;
    let session = server.user().await.session("echo", "ann");
    let again = session.user.post(&path, &json!({})).await.ok();
    assert_eq!((&again["message_ids"], &again["turn_id"]), (&replayed["message_ids"], &replayed["turn_id"]));
    assert_eq!(session.send_body(&json!({ "text": "two", "message_id": "wa-2" })).await.ok()["duplicate"], true);
    assert_eq!(session.turns().await.len(), 2);
    assert_eq!(session.user.turn(&failed).await["state"], "failed", "what happened stays on record");
}

#[tokio::test]
async fn only_what_failed_or_was_cancelled_is_sent_again() {
    let (agent, mended) = broken().await;
    mended.store(true, Ordering::SeqCst);
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    session.user.turn_ended(&turn).await;
    let replay = async |turn: &str| session.user.post(&format!("/v1/turns/{turn}/replay"), &json!({})).await;
    let (detail, _) = replay(&turn).await.problem(409, "turn_not_replayable");
    assert!(detail.contains("completed"), "{detail}");
    replay("01a20000-0000-7000-8000-000000000000").await.problem(404, "not_found");
    replay("nonsense").await.problem(404, "not_found");
    let theirs = server.user_of(crate::harness::TENANT_B).await;
    theirs.post(&format!("/v1/turns/{turn}/replay"), &json!({})).await.problem(404, "not_found");
    assert_eq!(session.turns().await.len(), 1);
}

#[tokio::test]
async fn the_person_hears_that_it_failed_where_the_agent_is_configured_so() {
    let (agent, _) = broken().await;
    let endpoint = Agent::start(|_| async { status(204) }).await;
    let capability = CapabilityChanges { natural_delay_ms: Some(0), ..Default::default() };
    let settings = AgentSettings {
        failure_reply: Some("Something went wrong, please try again later.".to_owned()),
        deliver_url: Some(endpoint.url().to_owned()),
        channels: [("web".to_owned(), mainspring_flows::ChannelSettings { capability, ..Default::default() })].into(),
        ..http(agent.url())
    };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    let failed = session.user.turn_ended(&turn).await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["reply"].is_null(), "it is no answer");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("400")), "{}", failed["error"]);
    let heard = session.events(0).await.until("turn.failed", &turn).await;
    let sent: Vec<_> = heard.iter().filter(|event| event.name == "reply.sent").collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].data["data"]["text"], "Something went wrong, please try again later.");
    let posts = endpoint.asked_times(1).await;
    assert_eq!(posts[0].body["text"], sent[0].data["data"]["text"]);
    assert_eq!(posts[0].body["reply_id"], sent[0].data["data"]["reply_id"]);
    assert_eq!(session.user.get(&format!("{}/state", session.path)).await.ok()["version"], 0);
}

/// Everything but this message is answered.
async fn all_but(poison: &'static str, session: &Session) -> Vec<(String, String)> {
    let turns = session.turns().await;
    turns
        .iter()
        .map(|turn| {
            let expected = if texts_of(turn) == [poison] { "failed" } else { "completed" };
            assert_eq!(turn["state"], expected, "{turn:#}");
            (texts_of(turn).join(" | "), expected.to_owned())
        })
        .collect()
}

#[tokio::test]
async fn a_poisonous_message_fails_after_its_tries_and_those_behind_it_are_answered() {
    let agent = Agent::start(|asked| async move {
        if asked.texts().iter().any(|text| text == "poison") { status(500) } else { answer(&reply(&asked)) }
    })
    .await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    session.send("poison").await;
    agent.asked_times(1).await;
    session.send("two").await;
    session.send("three").await;
    let turns = all_but("poison", &session).await;
    let completed: Vec<_> =
        turns.iter().filter(|(_, state)| state == "completed").map(|(texts, _)| texts.clone()).collect();
    assert_eq!(completed.join(" | "), "two | three");
    assert_eq!(agent.asked().iter().filter(|asked| asked.texts() == ["poison"]).count(), 3);
}

#[tokio::test]
async fn an_agent_function_that_panics_each_time_fails_its_turn_and_no_other() {
    use mainspring_client::{Context, Failure, WorkflowDef};
    use mainspring_flows::{AgentAnswer, AgentRequest};
    let setup = Setup::new().agent("echo", crate::harness::workflow("nervous")).offer(|worker| {
        worker.function(WorkflowDef::single("nervous", true), |_: Context, request: AgentRequest| async move {
            assert!(request.messages[0].text != "poison", "no nerves");
            Ok::<_, Failure>(AgentAnswer::text("fine"))
        })
    });
    let server = setup.start().await;
    let session = server.user().await.session("echo", "ann");
    let poison = session.send("poison").await;
    session.user.turn_ended(&poison).await;
    session.send("two").await;
    assert_eq!(all_but("poison", &session).await.len(), 2);
}
