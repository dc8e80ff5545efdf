//! Replies as a channel takes them: segment by segment, in order, and what the channel says about them afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::{IntoResponse, Response};
use mainspring_flows::channel::CapabilityChanges;
use mainspring_flows::{AgentSettings, ChannelSettings};
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Asked, Gate, Session, Setup, eventually, http, status};

/// An echo whose replies go to an endpoint, in messages of so many characters.
async fn delivering(endpoint: &Agent, chars_max: usize, natural_delay_ms: u64) -> (AgentSettings, Agent) {
    let agent = Agent::echo().await;
    let capability = CapabilityChanges {
        chars_max: Some(chars_max),
        natural_delay_ms: Some(natural_delay_ms),
        ..Default::default()
    };
    let settings = AgentSettings {
        deliver_url: Some(endpoint.url().to_owned()),
        channels: [("web".to_owned(), ChannelSettings { capability, ..Default::default() })].into(),
        ..http(agent.url())
    };
    (settings, agent)
}

fn taken(asked: &Asked) -> Response {
    let id = format!("wamid.{}", asked.body["reply_id"].as_str().expect("an id"));
    axum::Json(json!({ "provider_message_id": id })).into_response()
}

async fn receipt(session: &Session, body: &Value) -> Answer {
    session.user.post(&format!("{}/receipts", session.path), body).await
}

/// What was told about segments, in order, up to the end of a turn that comes after all of it.
async fn told(session: &Session) -> Vec<(String, String)> {
    let last = session.send("the end").await;
    let heard = session.events(0).await.until("turn.completed", &last).await;
    let told = heard.into_iter().filter(|event| event.name.starts_with("reply.") && event.id.is_some());
    let told = told.map(|event| (event.name, event.data["data"]["reply_id"].as_str().unwrap_or_default().to_owned()));
    told.filter(|(_, id)| !id.starts_with(&last)).collect()
}

async fn delivered(session: &Session, runs: usize) {
    eventually("everything is delivered", || async {
        (session.user.runs("workflow=deliver-reply&state=completed").await.len() == runs).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_the_segment_that_failed_is_sent_again_and_the_order_is_kept() {
    let endpoint = Agent::start(|asked| async move { if asked.nth == 1 { status(503) } else { taken(&asked) } }).await;
    let (settings, agent) = delivering(&endpoint, 10, 0).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("aaa bbb ccc").await;
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!(ended["reply"]["text"], "you said: aaa bbb ccc");
    let next = session.send("d").await;
    let posts = endpoint.asked_times(6).await;
    let said: Vec<_> = posts
        .iter()
        .map(|post| (post.body["text"].as_str().expect("text"), post.body["segment"].as_u64().expect("a place")))
        .collect();
    let first = [("you said:", 0), ("aaa bbb", 1), ("aaa bbb", 1), ("ccc", 2)];
    assert_eq!(said[..4], first);
    assert_eq!(said[4..], [("you said:", 0), ("d", 1)], "and the next reply waited for all of it");
    for post in &posts[..4] {
        let id = format!("{turn}:{}", post.body["segment"]);
        assert_eq!((post.header("mainspring-reply-id"), post.header("idempotency-key")), (id.as_str(), id.as_str()));
        assert_eq!((&post.body["segments"], &post.body["turn_id"]), (&json!(3), &json!(turn)));
    }
    session.user.turn_ended(&next).await;
    delivered(&session, 5).await;
    assert_eq!((endpoint.asked().len(), agent.asked().len()), (6, 2));
    let heard = session.events(0).await.until("turn.completed", &next).await;
    let replies: Vec<_> = heard.iter().filter(|event| event.name == "reply.sent").collect();
    assert_eq!(replies.len(), 2, "a reply is told once, however many segments it has: {replies:#?}");
    assert_eq!((&replies[0].data["data"]["segments"], replies[0].turn()), (&json!(3), turn.as_str()));
}

#[tokio::test]
async fn receipts_that_come_in_any_order_never_go_back_and_begin_no_turn() {
    let endpoint = Agent::start(|asked| async move { taken(&asked) }).await;
    let (settings, agent) = delivering(&endpoint, 0, 0).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let turn = session.send(text).await;
        session.user.turn_ended(&turn).await;
        ids.push(format!("{turn}:0"));
    }
    delivered(&session, 3).await;

    let orders = [["read", "delivered", "sent"], ["delivered", "read", "delivered"], ["failed", "delivered", "sent"]];
    let expected = [[true, false, false], [true, true, false], [true, true, false]];
    for ((id, order), expected) in ids.iter().zip(orders).zip(expected) {
        for (said, advances) in order.iter().zip(expected) {
            let taken = receipt(&session, &json!({ "reply_id": id, "status": said })).await.ok();
            assert_eq!(taken, json!({ "advanced": advances, "reply_id": id }), "{said} of {order:?}");
        }
    }
    assert_eq!((session.turns().await.len(), agent.asked().len()), (3, 3), "no receipt begins a turn");
    let told = told(&session).await;
    let of =
        |id: &str| -> Vec<&str> { told.iter().filter(|(_, of)| of == id).map(|(name, _)| name.as_str()).collect() };
    assert_eq!(of(&ids[0]), ["reply.sent", "reply.taken", "reply.read"]);
    assert_eq!(of(&ids[1]), ["reply.sent", "reply.taken", "reply.delivered", "reply.read"]);
    assert_eq!(of(&ids[2]), ["reply.sent", "reply.taken", "reply.failed", "reply.delivered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_that_come_at_once_and_twice_go_forward_once() {
    let endpoint = Agent::start(|asked| async move { taken(&asked) }).await;
    let (settings, _agent) = delivering(&endpoint, 0, 0).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    session.user.turn_ended(&turn).await;
    delivered(&session, 1).await;
    let mut sending = tokio::task::JoinSet::new();
    for nth in 0..30 {
        let session = session.clone();
        let status = ["read", "sent", "delivered"][nth % 3];
        let body = json!({ "reply_id": format!("{turn}:0"), "status": status });
        sending.spawn(async move { receipt(&session, &body).await.ok()["advanced"] == true });
    }
    let advanced = sending.join_all().await.into_iter().filter(|advanced| *advanced).count();
    let told: Vec<_> = told(&session).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(advanced, told.len() - 2, "the reply itself and that it was taken are told without a receipt: {told:?}");
    assert!(
        [
            &["reply.sent", "reply.taken", "reply.read"][..],
            &["reply.sent", "reply.taken", "reply.delivered", "reply.read"]
        ]
        .contains(&told.iter().map(String::as_str).collect::<Vec<_>>().as_slice())
    );
}

#[tokio::test]
async fn a_receipt_is_taken_by_the_providers_id_and_only_for_what_was_sent_to_its_session() {
    let endpoint = Agent::start(|asked| async move { taken(&asked) }).await;
    let (settings, _agent) = delivering(&endpoint, 0, 0).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    session.user.turn_ended(&turn).await;
    delivered(&session, 1).await;
    let id = format!("{turn}:0");
    let taken = receipt(&session, &json!({ "provider_message_id": format!("wamid.{id}"), "status": "read" })).await;
    assert_eq!(taken.ok(), json!({ "advanced": true, "reply_id": id }));

    let other = session.user.session("echo", "ben");
    for session_and_body in [
        (&session, json!({ "status": "read" })),
        (&session, json!({ "provider_message_id": "wamid.unheard", "status": "read" })),
        (&session, json!({ "reply_id": format!("{turn}:1"), "status": "read" })),
        (&other, json!({ "reply_id": id, "status": "read" })),
        (&other, json!({ "provider_message_id": format!("wamid.{id}"), "status": "read" })),
    ] {
        let (session, body) = session_and_body;
        receipt(session, &body).await.problem(404, "not_found");
    }
    let theirs = server.user_of(crate::harness::TENANT_B).await.session("echo", "ann");
    receipt(&theirs, &json!({ "reply_id": id, "status": "read" })).await.problem(404, "not_found");
    receipt(&session, &json!({ "reply_id": id, "status": "eaten" })).await.problem(400, "json_malformed");
}

#[tokio::test]
async fn a_reply_that_was_committed_before_a_crash_is_sent_after_it() {
    let endpoint = Agent::start(|asked| async move { taken(&asked) }).await;
    // A pause before the sending, in which the server dies.
    let (settings, agent) = delivering(&endpoint, 10, 3_000).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let old_tables = server.tables_now().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("aaa bbb").await;
    session.user.turn_ended(&turn).await;
    let server = server.crash(Some(old_tables)).await;
    let session = server.user().await.session("echo", "ann");
    delivered(&session, 2).await;
    let posts = endpoint.asked();
    let ids: Vec<_> = posts.iter().map(|post| post.header("mainspring-reply-id").to_owned()).collect();
    assert_eq!(ids, [format!("{turn}:0"), format!("{turn}:1")]);
    assert_eq!(agent.asked().len(), 1, "the agent is not asked again for what it has answered");
}

#[tokio::test]
async fn a_crash_between_the_sending_and_its_record_repeats_the_same_id_and_never_the_agent() {
    let gate = Gate::closed();
    let (held, arrived) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = arrived.clone();
    // The provider has taken it, and its answer does not come back.
    let endpoint = Agent::start(move |asked| {
        let (held, counted) = (held.clone(), counted.clone());
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            held.passed().await;
            taken(&asked)
        }
    })
    .await;
    let (settings, agent) = delivering(&endpoint, 0, 0).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    endpoint.asked_times(1).await;
    let server = server.crash(None).await;
    gate.open();
    let session = server.user().await.session("echo", "ann");
    delivered(&session, 1).await;
    let ids: Vec<_> = endpoint.asked().iter().map(|post| post.header("mainspring-reply-id").to_owned()).collect();
    assert_eq!(ids, [format!("{turn}:0"), format!("{turn}:0")], "the provider can tell that it is the same");
    assert_eq!((agent.asked().len(), arrived.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(session.turns().await.len(), 1);
}

#[tokio::test]
async fn a_channel_that_wants_to_be_asked_later_is() {
    let endpoint = Agent::start(|asked| async move {
        if asked.nth == 0 {
            let wait = [("retry-after", "3")];
            return (axum::http::StatusCode::TOO_MANY_REQUESTS, wait).into_response();
        }
        taken(&asked)
    })
    .await;
    let (settings, _agent) = delivering(&endpoint, 0, 0).await;
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    session.send("one").await;
    delivered(&session, 1).await;
    let run = session.user.runs("workflow=deliver-reply").await[0]["id"].as_str().expect("an id").to_owned();
    let run = session.user.run(&run).await;
    let journal = run["tasks"][0]["journal"].as_array().expect("a journal");
    let slept = journal.iter().find(|step| step["kind"] == "sleep").expect("it waited");
    let (from, to) = (slept["requested_at"].as_u64().expect("a time"), slept["completed_at"].as_u64().expect("a time"));
    assert!(to - from >= 3_000, "{slept}");
}

#[tokio::test]
async fn an_answer_that_is_a_picture_goes_as_the_channel_can_carry_it() {
    let endpoint = Agent::start(|asked| async move { taken(&asked) }).await;
    let agent = Agent::start(|_| async {
        let media = json!({ "type": "image", "url": "https://example.org/a.png", "caption": "the **blue** one" });
        axum::Json(json!({ "media": [media] })).into_response()
    })
    .await;
    let capability = CapabilityChanges { natural_delay_ms: Some(0), ..Default::default() };
    let channel = ChannelSettings { capability, ..Default::default() };
    let settings = AgentSettings {
        deliver_url: Some(endpoint.url().to_owned()),
        channels: [("web".to_owned(), channel.clone()), ("sms".to_owned(), channel)].into(),
        ..http(agent.url())
    };
    let server = Setup::new().agent("painter", settings).start().await;
    let user = server.user().await;
    for (nth, channel) in ["web", "sms"].into_iter().enumerate() {
        let session = user.session_on("painter", "ann", channel);
        let turn = session.send("show me").await;
        assert_eq!(user.turn_ended(&turn).await["state"], "completed");
        delivered(&session, nth + 1).await;
        let post = &endpoint.asked()[nth].body;
        assert_eq!((&post["segment"], &post["segments"]), (&json!(0), &json!(1)));
        if channel == "web" {
            assert_eq!((&post["text"], &post["media"]["url"]), (&json!(""), &json!("https://example.org/a.png")));
            assert_eq!(post["media"]["caption"], "the **blue** one");
        } else {
            assert_eq!(
                (&post["text"], &post["media"]),
                (&json!("the blue one: https://example.org/a.png"), &Value::Null)
            );
        }
    }
}
