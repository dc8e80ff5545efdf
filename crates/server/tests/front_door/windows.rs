//! How long a turn waits for one more message, and how it says why.

use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentSettings, ChannelSettings};
use serde_json::{Value, json};

use crate::harness::{Desk, Server, Session, Setup, http, texts_of};

async fn desk_with(window: WindowRules) -> (Server, Session, Desk) {
    let desk = Desk::start().await;
    let server = Setup::new().agent("desk", AgentSettings { window, ..http(desk.url()) }).start().await;
    let session = server.user().await.session("desk", "ann");
    (server, session, desk)
}

/// How the window of a turn went that begins with this message and is answered like this.
async fn window_of(session: &Session, desk: &Desk, text: &str, answer: Value) -> Value {
    desk.answer(desk.times(), answer);
    let turn = session.send(text).await;
    session.user.turn_ended(&turn).await["accumulation"].clone()
}

#[tokio::test]
async fn an_adaptive_window_says_why_it_waited() {
    let (_server, session, desk) = desk_with(WindowRules::default()).await;
    let plain = json!({ "text": "yes" });
    for (text, ms, explanation) in [
        ("Hello", 1_100, "waits 1100 ms: web 600, a greeting +500"),
        ("I need help with my order.", 300, "waits 300 ms: web 600, a complete sentence -300"),
        ("Cancel my order #12345", 600, "waits 600 ms: web 600"),
    ] {
        let window = window_of(&session, &desk, text, plain.clone()).await;
        assert_eq!((&window["quiet_ms"], &window["explanation"]), (&json!(ms), &json!(explanation)));
        assert_eq!((&window["ended_by"], &window["waited_ms"]), (&json!("timeout"), &json!(ms)), "{text}");
    }
}

#[tokio::test]
async fn what_an_agent_expects_changes_the_next_window_also_over_a_restart() {
    let (server, session, desk) = desk_with(WindowRules::default()).await;
    let hint = json!({ "awaiting_required_field": true, "expected_input_type": "order number" });
    window_of(&session, &desk, "Cancel my order #12345", json!({ "text": "which one?", "hint": hint })).await;
    let server = server.restart().await;
    let session = server.user().await.session("desk", "ann");
    let single = json!({ "single_message": true });
    let window = window_of(&session, &desk, "the large blue one", json!({ "text": "a or b?", "hint": single })).await;
    assert_eq!(window["explanation"], "waits 1600 ms: web 600, the agent asked for something +1000");
    let told = &desk.asked(1).await.body["hint"];
    assert_eq!(told["expected_input_type"], "order number", "the agent is told what it expected");
    let window = window_of(&session, &desk, "Hello", json!({ "text": "fine" })).await;
    assert_eq!(
        (&window["ended_by"], &window["waited_ms"]),
        (&json!("agent_hint"), &json!(0)),
        "it was not waited after"
    );
    let window = window_of(&session, &desk, "Hello", json!({ "text": "fine" })).await;
    assert_eq!(window["ended_by"], "timeout", "a hint is for one turn");
}

#[tokio::test]
async fn whoever_says_that_this_was_all_is_answered_at_once() {
    let (_server, session, desk) = desk_with(WindowRules { max_wait_ms: 600_000, ..WindowRules::fixed(600_000) }).await;
    let turn = session.send("one").await;
    let last = session.send_body(&json!({ "text": "two", "end": true })).await.ok();
    assert_eq!(last["turn_id"], turn.as_str());
    assert_eq!(desk.asked(0).await.texts(), ["one", "two"]);
    let later = session.send("three").await;
    assert_ne!(later, turn, "what comes after it is the next turn's");
    desk.say(0, "both");
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!((&ended["accumulation"]["ended_by"], texts_of(&ended).len()), (&json!("explicit_signal"), 2));
}

#[tokio::test]
async fn a_channel_has_its_own_window_and_one_without_any_is_answered_at_once() {
    let desk = Desk::start().await;
    let window = Some(WindowRules::fixed(250));
    let channels = [("sms".to_owned(), ChannelSettings { window, ..Default::default() })].into();
    let settings = AgentSettings { window: WindowRules::default(), channels, ..http(desk.url()) };
    let server = Setup::new().agent("desk", settings).start().await;
    let user = server.user().await;
    let sms = window_of(&user.session_on("desk", "ann", "sms"), &desk, "Hello", json!({ "text": "x" })).await;
    assert_eq!((&sms["explanation"], &sms["ended_by"]), (&json!("waits 250 ms: configured 250"), &json!("timeout")));
    let mail = window_of(&user.session_on("desk", "ann", "email"), &desk, "Hello", json!({ "text": "x" })).await;
    assert_eq!(
        (&mail["explanation"], &mail["ended_by"]),
        (&json!("does not wait: email 0"), &json!("no_accumulation"))
    );
    assert_eq!(mail["waited_ms"], 0);
}

#[tokio::test]
async fn the_wait_shrinks_with_each_message_and_the_persons_pace_is_learnt() {
    let window = WindowRules { base_ms: Some(3_000), quiet_max_ms: 10_000, messages_max: 7, ..WindowRules::default() };
    let (_server, session, desk) = desk_with(WindowRules { max_wait_ms: 60_000, ..window }).await;
    let turn = session.send("a plain first message").await;
    for nth in 1..7 {
        assert_eq!(session.send(&format!("a plain message {nth}")).await, turn);
    }
    desk.say(0, "all of it");
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!(ended["accumulation"]["ended_by"], "max_messages");
    let explanation = ended["accumulation"]["explanation"].as_str().expect("text").to_owned();
    assert!(explanation.contains("message 7 of the turn -"), "{explanation}");
    let turn = session.send_body(&json!({ "text": "one plain message more", "end": true })).await.ok();
    desk.say(1, "fine");
    let ended = session.user.turn_ended(turn["turn_id"].as_str().expect("a turn")).await;
    let explanation = ended["accumulation"]["explanation"].as_str().expect("text");
    assert!(explanation.contains("this person's usual pause of "), "six gaps are enough to know it: {explanation}");
}

#[tokio::test]
async fn whoever_never_stops_typing_is_answered_all_the_same() {
    // H-10. The window would begin anew with each message, but for its longest wait.
    let (_server, session, desk) = desk_with(WindowRules { max_wait_ms: 600, ..WindowRules::fixed(600_000) }).await;
    (0..100).for_each(|nth| desk.say(nth, "yes"));
    let mut sent = vec!["m0".to_owned()];
    let first = session.send("m0").await;
    while session.send(&format!("m{}", sent.len())).await == first {
        sent.push(format!("m{}", sent.len()));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let ended = session.user.turn_ended(&first).await;
    assert!(["max_wait", "max_messages"].iter().any(|by| ended["accumulation"]["ended_by"] == *by), "{ended:#}");
    assert_eq!(texts_of(&ended), sent, "all that was offered to it");
    let turns = session.turns().await;
    assert_eq!(turns.iter().flat_map(texts_of).count(), sent.len() + 1, "the rest forms the next turn");
}
