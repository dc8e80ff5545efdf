//! An agent hands its session over to another: the answer, what is remembered and the other's first message in one.

use serde_json::{Value, json};

use crate::harness::{Agent, Desk, Server, Setup, User, eventually, http, texts_of};

/// Two agents whose answers the test gives.
async fn two() -> (Server, User, Desk, Desk) {
    let (sales, billing) = (Desk::start().await, Desk::start().await);
    let setup = Setup::new().agent("sales", http(sales.url())).agent("billing", http(billing.url()));
    let server = setup.start().await;
    let user = server.user().await;
    (server, user, sales, billing)
}

fn handing_to(agent: &str) -> Value {
    json!({
        "text": "I pass you on.", "state": { "sold": true },
        "handoff": { "agent": agent, "context": "wants a refund of 1042", "reason": "money" },
    })
}

#[tokio::test]
async fn the_other_agent_is_told_once_and_what_comes_afterwards_arrives_there() {
    let (server, user, sales, billing) = two().await;
    let session = user.session("sales", "ann");
    let turn = session.send("I want my money back").await;
    sales.answer(0, handing_to("billing"));
    let ended = user.turn_ended(&turn).await;
    assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("I pass you on.")));
    let asked = billing.asked(0).await;
    let first = &asked.body["messages"][0];
    assert_eq!((&first["kind"], &first["text"]), (&json!("handoff"), &json!("wants a refund of 1042")));
    assert_eq!(first["data"], json!({ "from_agent": "sales", "reason": "money", "turn_id": turn }));
    assert_eq!((&asked.body["agent"], &asked.body["interlocutor"]), (&json!("billing"), &json!("ann")));
    assert_eq!(asked.body["state"]["version"], 0, "its state is its own");
    assert_eq!(asked.body["turn_group_id"], asked.body["turn_id"]);
    billing.say(0, "Refunded.");
    user.turn_ended(asked.body["turn_id"].as_str().expect("a turn")).await;

    // Whoever still writes to the old session is heard in the new one, in order.
    let server = server.restart().await;
    let user = server.user().await;
    let (old, new) = (user.session("sales", "ann"), user.session("billing", "ann"));
    billing.say(1, "You are welcome.");
    billing.say(2, "Really.");
    let passed = old.send_body(&json!({ "text": "thanks", "data": 7, "message_id": "wa-9" })).await.ok();
    let passed = user.turn_ended(passed["turn_id"].as_str().expect("a turn")).await;
    assert_eq!((&passed["state"], &passed["reply"]["text"]), (&json!("completed"), &json!("")));
    let asked = billing.asked(1).await;
    assert_eq!((asked.texts(), &asked.body["messages"][0]["data"]), (vec!["thanks".to_owned()], &json!(7)));
    assert_eq!(old.send_body(&json!({ "text": "thanks", "message_id": "wa-9" })).await.ok()["duplicate"], true);
    let heard = old.events(0).await.until("turn.completed", passed["id"].as_str().expect("an id")).await;
    let named = |name: &str| heard.iter().filter(|event| event.name == name).count();
    assert_eq!((named("session.handed_over"), named("session.passed_on"), named("reply.sent")), (1, 1, 1));
    let turns =
        eventually("both are answered", || async { Some(new.turns().await).filter(|turns| turns.len() == 2) }).await;
    let replies: Vec<_> = turns.iter().map(|turn| turn["reply"]["text"].clone()).collect();
    assert_eq!(replies, ["Refunded.", "You are welcome."]);
    assert_eq!((sales.times(), billing.times()), (1, 2));
}

#[tokio::test]
async fn many_messages_to_the_old_session_arrive_in_order() {
    let (_server, user, sales, billing) = two().await;
    let session = user.session("sales", "ann");
    let turn = session.send("hello").await;
    sales.answer(0, handing_to("billing"));
    (0..40).for_each(|nth| billing.say(nth, "yes"));
    user.turn_ended(&turn).await;
    let texts: Vec<String> = (0..30).map(|nth| format!("m{nth}")).collect();
    for text in &texts {
        session.send(text).await;
    }
    let new = user.session("billing", "ann");
    let answered = eventually("all have arrived", || async {
        let turns = new.turns().await;
        let answered: Vec<String> = turns.iter().flat_map(texts_of).collect();
        (answered.len() > 30).then_some(answered)
    })
    .await;
    assert_eq!(answered[0], "wants a refund of 1042");
    assert_eq!(answered[1..], texts);
}

#[tokio::test]
async fn one_who_is_handed_a_session_may_hand_it_back() {
    let (_server, user, sales, billing) = two().await;
    let (old, new) = (user.session("sales", "ann"), user.session("billing", "ann"));
    old.send("hello").await;
    sales.answer(0, handing_to("billing"));
    billing.answer(0, handing_to("sales"));
    let back = sales.asked(1).await;
    assert_eq!(back.body["messages"][0]["data"]["from_agent"], "billing");
    assert_eq!(back.body["state"]["data"], json!({ "sold": true }), "its state waited for it");
    sales.say(1, "Here again.");
    sales.say(2, "Still here.");
    user.turn_ended(back.body["turn_id"].as_str().expect("a turn")).await;
    let turn = old.send("and now?").await;
    assert_eq!(user.turn_ended(&turn).await["reply"]["text"], "Still here.");
    let turn = new.send("are you there?").await;
    user.turn_ended(&turn).await;
    sales.say(3, "No, I am.");
    assert_eq!(sales.asked(3).await.texts(), ["are you there?"]);
    assert_eq!(billing.times(), 1);
}

#[tokio::test]
async fn a_handover_to_nobody_is_refused_and_the_session_stays() {
    for to in ["nobody", "sales", "no:name"] {
        let (_server, user, sales, billing) = two().await;
        let session = user.session("sales", "ann");
        let turn = session.send("hello").await;
        sales.answer(0, handing_to(to));
        let ended = user.turn_ended(&turn).await;
        assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("I pass you on.")));
        let heard = session.events(0).await.until("turn.completed", &turn).await;
        let refused = heard.iter().find(|event| event.name == "session.handover_refused").expect("it is said");
        assert_eq!(refused.data["data"]["agent"], to);
        assert!(refused.data["data"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        let turn = session.send("are you there?").await;
        sales.say(1, "yes");
        assert_eq!(user.turn_ended(&turn).await["reply"]["text"], "yes");
        assert_eq!(billing.times(), 0);
    }
}

#[tokio::test]
async fn a_handover_is_whole_or_not_there_after_a_crash() {
    let (server, user, sales, billing) = two().await;
    let session = user.session("sales", "ann");
    let turn = session.send("hello").await;
    sales.asked(0).await;
    let server = server.crash(None).await;
    // It was not handed over; now it is, and the server dies again.
    let user = server.user().await;
    sales.answer(1, handing_to("billing"));
    user.turn_ended(&turn).await;
    let server = server.crash(None).await;
    let user = server.user().await;
    let asked = eventually("the other is asked", || async { billing.asked_of("turn").pop() }).await;
    (0..3).for_each(|nth| billing.say(nth, "Refunded."));
    user.turn_ended(asked.body["turn_id"].as_str().expect("a turn")).await;
    let turns = user.session("billing", "ann").turns().await;
    assert_eq!(turns.len(), 1, "it is told once");
    let turn = user.session("sales", "ann").send("thanks").await;
    let passed = user.turn_ended(&turn).await;
    assert_eq!(passed["reply"]["text"], "");
    eventually("it arrives", || async { (user.session("billing", "ann").turns().await.len() == 2).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_hand_over_to_the_same_one_at_once_are_each_asked_once() {
    let agent = Agent::start(|asked| async move {
        let answer = if asked.body["agent"] == "billing" { json!({ "text": "yes" }) } else { handing_to("billing") };
        axum::response::IntoResponse::into_response(axum::Json(answer))
    })
    .await;
    let names = ["sales", "support", "billing"];
    let setup = names.iter().fold(Setup::new(), |setup, name| setup.agent(name, http(agent.url())));
    let server = setup.start().await;
    let user = server.user().await;
    let mut handing = tokio::task::JoinSet::new();
    for nth in 0..40 {
        let session = user.session(names[nth % 2], &format!("person-{}", nth / 2));
        handing.spawn(async move {
            let turn = session.send("hello").await;
            let ended = session.user.turn_ended(&turn).await;
            assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("I pass you on.")));
        });
    }
    handing.join_all().await;
    let asked = agent.asked();
    let passing = asked.iter().filter(|asked| asked.body["agent"] != "billing").count();
    assert_eq!(passing, 40, "nobody is asked again because the other was first");
    for nth in 0..20 {
        let session = user.session("billing", &format!("person-{nth}"));
        eventually("both handovers have arrived", || async {
            let told: usize = session.turns().await.iter().map(|turn| texts_of(turn).len()).sum();
            (told == 2).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn agents_that_hand_a_session_to_each_other_are_stopped() {
    let (_server, user, sales, billing) = two().await;
    let session = user.session("sales", "ann");
    session.send("whose am I?").await;
    for nth in 0..3 {
        sales.answer(nth, handing_to("billing"));
        billing.answer(nth, handing_to("sales"));
    }
    // The person's turn, and five handovers in a row; the sixth is refused and the session stays.
    let mut events = user.session("billing", "ann").events(0).await;
    let refused = loop {
        let event = events.next().await.expect("the stream goes on");
        if event.name == "session.handover_refused" {
            break event;
        }
    };
    assert!(refused.data.to_string().contains("5 times"), "{refused:?}");
    assert_eq!((sales.times(), billing.times()), (3, 3));
}
