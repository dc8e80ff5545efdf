//! Event streams: what is durable has a number, what is not has none; a resumed stream has no gap and no repeat.

use std::time::Duration;

use mainspring_flows::AgentSettings;
use mainspring_flows::window::WindowRules;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Agent, Gate, Heard, Setup, Stream, answer, eventually, http, reply, stream_of};

#[tokio::test]
async fn statuses_and_deltas_are_heard_without_an_id_and_the_reply_with_one() {
    let gate = Gate::closed();
    let held = gate.clone();
    let agent = Agent::start(move |_| {
        let held = held.clone();
        async move {
            held.passed().await;
            let lines = [
                json!({ "type": "status", "text": "thinking" }),
                json!({ "type": "delta", "text": "Hel" }),
                json!({ "type": "delta", "text": "lo\n" }),
                json!({ "type": "final" }),
            ];
            stream_of(futures_util::stream::iter(lines))
        }
    })
    .await;
    let server = Setup::new().agent("talker", http(agent.url())).start().await;
    let session = server.user().await.session("talker", "ann");
    let mut events = session.events(0).await;
    let turn = session.send("hi").await;
    // Whoever hears that the work begins is listening live: from here on nothing may be missed.
    events.until("turn.processing", &turn).await;
    gate.open();
    let heard = events.until("turn.completed", &turn).await;
    let whispers: Vec<_> = heard.iter().filter(|event| event.id.is_none()).collect();
    let said: Vec<_> =
        whispers.iter().map(|event| (event.name.as_str(), event.data["data"]["text"].as_str())).collect();
    let expected = [("agent.status", "thinking"), ("reply.delta", "Hel"), ("reply.delta", "lo\n")];
    assert_eq!(said, expected.map(|(name, text)| (name, Some(text))));
    assert!(whispers.iter().all(|event| event.turn() == turn), "{whispers:#?}");
    let sent = heard.iter().find(|event| event.name == "reply.sent").expect("a reply");
    assert!(sent.id.is_some());
    assert_eq!(sent.data["data"]["text"], "Hello\n", "a final line without text means all deltas");
    assert_eq!(session.user.turn(&turn).await["reply"]["text"], "Hello\n");
}

#[tokio::test]
async fn a_stream_resumed_at_any_event_hears_exactly_the_rest() {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    for nth in 0..4 {
        let turn = session.send(&format!("m{nth}")).await;
        session.user.turn_ended(&turn).await;
    }
    let last = session.turns().await.pop().expect("a turn")["id"].as_str().expect("an id").to_owned();
    let all = ids(&session.events(0).await.until("turn.completed", &last).await);
    assert!(all.is_sorted() && all.len() >= 16, "{all:?}");
    for (nth, id) in all.iter().enumerate().take(all.len() - 1) {
        let rest = ids(&session.events(*id).await.until("turn.completed", &last).await);
        assert_eq!(rest, all[nth + 1..]);
    }
    // The query says the same as the header, for those who cannot set one.
    let request = session.user.request(Method::GET, &format!("{}/events?after={}", session.path, all[2]));
    assert_eq!(ids(&Stream::open(request).await.until("turn.completed", &last).await), all[3..]);
}

#[tokio::test]
async fn a_stream_without_a_place_to_resume_hears_only_what_is_new() {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    let old = session.send("old").await;
    session.user.turn_ended(&old).await;
    let mut events = Stream::open(session.user.request(Method::GET, &format!("{}/events", session.path))).await;
    let new = session.send("new").await;
    let heard = events.until("turn.completed", &new).await;
    assert!(heard.iter().all(|event| event.turn() == new), "{heard:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_listeners_of_one_busy_session_hear_the_same_in_the_same_order() {
    let agent = Agent::start(|asked| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        answer(&reply(&asked))
    })
    .await;
    // Few messages in a turn, so that there are many turns however they come.
    let window = WindowRules { messages_max: 3, ..WindowRules::off() };
    let server = Setup::new().agent("echo", AgentSettings { window, ..http(agent.url()) }).start().await;
    let session = server.user().await.session("echo", "ann");
    let mut listening = tokio::task::JoinSet::new();
    for nth in 0..10 {
        let session = session.clone();
        listening.spawn(async move {
            // Half of them listen from the beginning; the others join in the middle and ask for all there was.
            if nth % 2 == 1 {
                eventually("the session is busy", || async {
                    (session.show().await["turns"].as_array().is_some_and(|turns| turns.len() > 5)).then_some(())
                })
                .await;
            }
            let mut events = session.events(0).await;
            let (mut heard, mut last) = (Vec::new(), None);
            loop {
                let event = events.next().await.expect("the stream goes on");
                if event.name == "message.accepted" && event.data["data"]["message"]["text"] == "the end" {
                    last = Some(event.turn().to_owned());
                }
                let over = event.name == "turn.completed" && last.as_deref() == Some(event.turn());
                heard.push((event.id, event.name.clone(), event.turn().to_owned()));
                if over {
                    return heard;
                }
            }
        });
    }
    for nth in 0..60 {
        session.send(&format!("m{nth}")).await;
    }
    session.send("the end").await;
    let mut all: Vec<Vec<_>> = Vec::new();
    while let Some(heard) = listening.join_next().await {
        all.push(heard.expect("it listened to the end"));
    }
    for heard in &all {
        assert!(heard.iter().map(|event| event.0).is_sorted(), "in order");
        assert_eq!(heard, &all[0]);
    }
}

fn ids(heard: &[Heard]) -> Vec<u64> {
    heard.iter().filter_map(|event| event.id).collect()
}
