//! What becomes of a message that comes while the agent works: by policy, by the agent's own choice, and as far as what
//! was done already allows it.

use mainspring_flows::{AgentSettings, OnMessage};
use serde_json::{Value, json};

use crate::harness::{Agent, Desk, Gate, Server, Session, Setup, eventually, http, status, stream_of, texts_of};

async fn deciding(desk: &Desk, on_message: OnMessage) -> (Server, Session) {
    let settings = AgentSettings { on_message, ..http(desk.url()) };
    let server = Setup::new().agent("desk", settings).start().await;
    let session = server.user().await.session("desk", "ann");
    (server, session)
}

/// The decisions told about a turn, up to its end.
async fn decisions(session: &Session, turn: &str, end: &str) -> Vec<Value> {
    let heard = session.events(0).await.until(end, turn).await;
    let told = heard.into_iter().filter(|event| event.name == "supersede.decision");
    told.map(|event| event.data["data"].clone()).filter(|data| data["turn_id"] == turn).collect()
}

#[tokio::test]
async fn what_is_absorbed_begins_the_work_anew_in_the_same_turn_with_all_messages() {
    let desk = Desk::start().await;
    let (_server, session) = deciding(&desk, OnMessage::Absorb).await;
    let turn = session.send("one").await;
    let first = desk.asked(0).await;
    assert_eq!((&first.body["type"], &first.body["attempt"]), (&json!("turn"), &json!(1)));
    assert!(first.body["restart"].is_null());
    session.send("two").await;
    let second = desk.asked(1).await;
    assert_eq!((&second.body["turn_id"], &second.body["turn_group_id"]), (&json!(turn), &json!(turn)));
    assert_eq!(second.body["attempt"], 2);
    assert_eq!(second.texts(), ["one", "two"]);
    assert_eq!(second.body["restart"], json!({ "reason": "absorbed", "count": 1 }));
    desk.say(1, "to both");

    let ended = session.user.turn_ended(&turn).await;
    assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("to both")));
    assert_eq!(texts_of(&ended), ["one", "two"]);
    let heard = session.events(0).await.until("turn.completed", &turn).await;
    let count = |name: &str| heard.iter().filter(|event| event.name == name).count();
    assert_eq!((count("turn.started"), count("turn.message_absorbed"), count("reply.sent")), (1, 1, 1));
    assert_eq!(decisions(&session, &turn, "turn.completed").await[0]["action"], "absorb");
    assert_eq!(session.turns().await.len(), 1);
}

#[tokio::test]
async fn messages_are_absorbed_so_often_and_then_queued() {
    let desk = Desk::start().await;
    let (_server, session) = deciding(&desk, OnMessage::Absorb).await;
    let turn = session.send("m0").await;
    for nth in 1..=3 {
        desk.asked(nth - 1).await;
        assert_eq!(session.send(&format!("m{nth}")).await, turn);
    }
    assert_eq!(desk.asked(3).await.body["restart"]["count"], 3);
    let next = session.send("m4").await;
    assert_ne!(next, turn, "this time it is completed, whatever comes");
    desk.say(3, "to four");
    desk.say(4, "to the last");
    let (ended, next) = (session.user.turn_ended(&turn).await, session.user.turn_ended(&next).await);
    assert_eq!(
        (texts_of(&ended), texts_of(&next)),
        (["m0", "m1", "m2", "m3"].map(str::to_owned).to_vec(), vec!["m4".into()])
    );
    assert_eq!(next["turn_group_id"], next["id"]);
    assert_eq!(desk.times(), 5);
}

/// One turn is at work, a message comes, and the agent is asked what should become of it.
async fn asked_to_decide() -> (Server, Session, Desk, String) {
    let desk = Desk::start().await;
    let (server, session) = deciding(&desk, OnMessage::Ask).await;
    let turn = session.send("one").await;
    desk.asked(0).await;
    session.send("two").await;
    let asked = desk.asked(1).await;
    assert_eq!((&asked.body["type"], &asked.body["interrupt_point"]), (&json!("decide"), &json!("processing")));
    assert_eq!((&asked.body["turn_id"], &asked.body["waiting"]), (&json!(turn), &json!(1)));
    assert_eq!(asked.texts(), ["one"]);
    assert_eq!(asked.body["allowed"], json!(["supersede", "absorb", "queue", "force_complete"]));
    assert!(asked.body["token"].is_null(), "a decision entitles to nothing");
    (server, session, desk, turn)
}

/// Waits until what comes belongs to the next turn.
async fn decided(server: &Server, desk: &Desk) {
    let calls = server.with_token(desk.asked(0).await.token());
    eventually("it is decided", || async { (calls.get("/v1/turn").await.ok()["committed"] == true).then_some(()) })
        .await;
}

#[tokio::test]
async fn an_agent_that_is_asked_may_absorb_and_say_where_to_go_on() {
    let (_server, session, desk, turn) = asked_to_decide().await;
    desk.answer(1, json!({ "action": "absorb", "reason": "it belongs to it", "restart_from": "plan" }));
    let again = desk.asked(2).await;
    assert_eq!((&again.body["turn_id"], again.texts()), (&json!(turn), vec!["one".to_owned(), "two".into()]));
    assert_eq!(again.body["restart"], json!({ "reason": "absorbed", "from_phase": "plan", "count": 1 }));
    desk.say(2, "both");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "both");
    let told = decisions(&session, &turn, "turn.completed").await;
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["action"], &told[0]["reason"]), (&json!("absorb"), &json!("it belongs to it")));
    assert_eq!(told[0]["restart_from"], "plan");
}

#[tokio::test]
async fn an_agent_that_is_asked_may_supersede() {
    let (_server, session, desk, turn) = asked_to_decide().await;
    desk.answer(1, json!({ "action": "supersede" }));
    let again = desk.asked(2).await;
    assert_ne!(again.body["turn_id"], turn.as_str());
    assert_eq!((&again.body["turn_group_id"], again.texts()), (&json!(turn), vec!["one".to_owned(), "two".into()]));
    assert_eq!(again.body["restart"], json!({ "reason": "superseded", "turn_id": turn, "count": 1 }));
    desk.say(2, "both");
    let last = session.user.turn_after_all(&turn).await;
    assert_eq!((&last["reply"]["text"], &last["superseded_from"]), (&json!("both"), &json!(turn)));
}

#[tokio::test]
async fn an_agent_that_is_asked_may_go_on_with_what_it_has() {
    for action in ["queue", "force_complete"] {
        let (server, session, desk, turn) = asked_to_decide().await;
        desk.answer(1, json!({ "action": action, "reason": "nearly done" }));
        decided(&server, &desk).await;
        let next = session.send("three").await;
        assert_ne!(next, turn, "from then on messages are promised to the next turn");
        desk.say(0, "the first");
        let ended = session.user.turn_ended(&turn).await;
        assert_eq!(
            (&ended["reply"]["text"], texts_of(&ended)),
            (&json!("the first"), vec!["one".to_owned()]),
            "{next}"
        );
        let told = decisions(&session, &turn, "turn.completed").await;
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!((&told[0]["action"], &told[0]["reason"]), (&json!(action), &json!("nearly done")));
        let next = desk.asked(2).await;
        assert_eq!((next.texts(), &next.body["type"]), (vec!["two".to_owned(), "three".into()], &json!("turn")));
        assert_eq!(next.body["turn_group_id"], next.body["turn_id"], "it is a request of its own");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_decide_goes_on_and_nothing_is_lost() {
    for nonsense in [json!({ "text": "what?" }), json!({ "action": "ignore" }), json!(null)] {
        let agent = Agent::start(move |asked| {
            let nonsense = nonsense.clone();
            async move {
                if asked.body["type"] == "decide" {
                    return if nonsense.is_null() {
                        status(500)
                    } else {
                        axum::response::IntoResponse::into_response(axum::Json(nonsense))
                    };
                }
                if asked.nth == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                }
                crate::harness::answer(&crate::harness::reply(&asked))
            }
        })
        .await;
        let settings = AgentSettings { on_message: OnMessage::Ask, ..http(agent.url()) };
        let server = Setup::new().agent("vague", settings).start().await;
        let session = server.user().await.session("vague", "ann");
        session.send("one").await;
        agent.asked_times(1).await;
        session.send("two").await;
        agent.asked_times(3).await;
        let turns = session.turns().await;
        let replies: Vec<_> = turns.iter().map(|turn| turn["reply"]["text"].clone()).collect();
        assert_eq!(replies, ["you said: one", "you said: two"]);
        let turn = turns[0]["id"].as_str().expect("an id");
        let told = decisions(&session, turn, "turn.completed").await;
        assert_eq!(told[0]["action"], "queue");
        assert!(told[0]["reason"].as_str().is_some_and(|reason| reason.contains("did not say")), "{told:#?}");
    }
}

/// The agent has answered before it said what should become of a message that waits, and is asked once more.
async fn asked_before_the_commit() -> (Server, Session, Desk, String) {
    let (server, session, desk, turn) = asked_to_decide().await;
    desk.say(0, "to one");
    let asked = desk.asked(2).await;
    assert_eq!((&asked.body["type"], &asked.body["interrupt_point"]), (&json!("decide"), &json!("pre_commit")));
    assert!(session.user.turn(&turn).await["reply"].is_null());
    (server, session, desk, turn)
}

#[tokio::test]
async fn an_answer_that_a_message_overtook_is_kept_or_begun_anew_as_the_agent_says() {
    let (_server, session, desk, turn) = asked_before_the_commit().await;
    desk.answer(2, json!({ "action": "absorb" }));
    assert_eq!(desk.asked(3).await.texts(), ["one", "two"]);
    desk.say(3, "to both");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "to both");
    let heard = session.events(0).await.until("turn.completed", &turn).await;
    assert_eq!(heard.iter().filter(|event| event.name == "reply.sent").count(), 1, "the first answer was never sent");

    let (_server, session, desk, turn) = asked_before_the_commit().await;
    desk.answer(2, json!({ "action": "queue" }));
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "to one");
    assert_eq!(desk.asked(3).await.texts(), ["two"]);
    assert_eq!(decisions(&session, &turn, "turn.completed").await[0]["action"], "queue");
}

#[tokio::test]
async fn an_answer_that_was_recorded_before_a_crash_is_used_and_the_agent_not_asked_again() {
    // H-19.
    let (server, _, desk, turn) = asked_before_the_commit().await;
    let server = server.crash(None).await;
    let session = server.user().await.session("desk", "ann");
    assert_eq!(desk.asked(3).await.body["interrupt_point"], "pre_commit", "it goes on where it was");
    desk.answer(3, json!({ "action": "force_complete" }));
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "to one");
    assert_eq!(desk.asked_of("turn")[0].texts(), ["one"]);
    let of_turn =
        |asked: &Vec<crate::harness::Asked>| asked.iter().filter(|one| one.body["turn_id"] == turn.as_str()).count();
    assert_eq!(of_turn(&desk.asked_of("turn")), 1);
}

#[tokio::test]
async fn what_was_decided_holds_over_a_try_that_fails() {
    let (server, session, desk, turn) = asked_to_decide().await;
    desk.answer(1, json!({ "action": "queue", "reason": "nearly done" }));
    decided(&server, &desk).await;
    session.send("three").await;
    desk.answer(0, json!({ "no": "answer" }));
    let again = eventually("it is tried again", || async { desk.asked_of("turn").get(1).cloned() }).await;
    assert_eq!((&again.body["turn_id"], again.texts()), (&json!(turn), vec!["one".to_owned()]));
    desk.say(again.nth, "to one");
    // Nothing is asked a second time: it is decided.
    (0..10)
        .filter(|nth| *nth != again.nth && *nth > 1)
        .for_each(|nth| desk.answer(nth, json!({ "action": "absorb", "text": "to the others" })));
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("to one")));
    let told = decisions(&session, &turn, "turn.completed").await;
    assert!(!told.is_empty() && told.iter().all(|told| told["action"] == "queue"), "{told:#?}");
}

#[tokio::test]
async fn an_agent_that_sees_a_message_may_yield_its_turn() {
    for (action, same) in [("absorb", true), ("supersede", false)] {
        let desk = Desk::start().await;
        let (server, session) = deciding(&desk, OnMessage::Ask).await;
        let turn = session.send("one").await;
        let calls = server.with_token(desk.asked(0).await.token());
        session.send("two").await;
        desk.asked(1).await;
        assert_eq!(calls.get("/v1/turn").await.ok()["has_pending"], true);
        // It says so with its answer, before it has answered the question.
        desk.answer(0, json!({ "yield": { "action": action, "reason": "better together", "restart_from": "plan" } }));
        let again = desk.asked(2).await;
        assert_eq!(again.texts(), ["one", "two"]);
        assert_eq!((again.body["turn_id"] == turn.as_str(), &again.body["turn_group_id"]), (same, &json!(turn)));
        desk.say(2, "both");
        let last = session.user.turn_after_all(&turn).await;
        assert_eq!((&last["reply"]["text"], texts_of(&last)), (&json!("both"), vec!["one".to_owned(), "two".into()]));
        let end = if same { "turn.completed" } else { "turn.superseded" };
        let told = decisions(&session, &turn, end).await;
        assert_eq!((&told[0]["action"], &told[0]["reason"]), (&json!(action), &json!("better together")));
    }
}

#[tokio::test]
async fn an_agent_that_yields_what_cannot_be_begun_anew_is_asked_again_and_in_the_end_the_turn_fails() {
    let desk = Desk::start().await;
    let (_server, session) = deciding(&desk, OnMessage::Queue).await;
    let yields = json!({ "yield": { "action": "supersede" } });
    let turn = session.send("one").await;
    desk.answer(0, yields.clone());
    let again = desk.asked(1).await;
    assert_eq!((&again.body["turn_id"], &again.body["restart"]["reason"]), (&json!(turn), &json!("queued")));
    desk.say(1, "then I answer");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "then I answer");

    let turn = session.send("two").await;
    (2..40).for_each(|nth| desk.answer(nth, yields.clone()));
    let failed = session.user.turn_ended(&turn).await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("yielded")), "{}", failed["error"]);
    let asked = desk.times();
    desk.say(asked, "and the session goes on");
    let turn = session.send("three").await;
    assert_eq!(session.user.turn_ended(&turn).await["state"], "completed");
}

#[tokio::test]
async fn an_agent_that_did_what_cannot_be_undone_may_not_yield_its_turn() {
    for action in ["absorb", "supersede"] {
        let desk = Desk::start().await;
        let (server, session) = deciding(&desk, OnMessage::Ask).await;
        let turn = session.send("one").await;
        let calls = server.with_token(desk.asked(0).await.token());
        let refund = json!({ "tool": "refund", "key": "1042", "policy": "irreversible" });
        assert_eq!(calls.post("/v1/turn/effects", &refund).await.ok()["verdict"], "go");
        session.send("two").await;
        assert_eq!(desk.asked_of("decide").len(), 0, "there is nothing to ask");
        desk.answer(0, json!({ "yield": { "action": action } }));
        let again = eventually("it is asked again", || async {
            let asked = desk.asked_of("turn");
            (asked.len() > 1).then(|| asked[1].clone())
        })
        .await;
        assert_eq!((&again.body["turn_id"], again.texts()), (&json!(turn), vec!["one".to_owned()]), "{action}");
        assert_eq!(again.body["restart"]["reason"], "queued");
        desk.say(again.nth, "refunded");
        let ended = session.user.turn_ended(&turn).await;
        assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("refunded")));
    }
}

#[tokio::test]
async fn that_a_message_waits_is_true_until_it_is_absorbed_also_over_a_restart() {
    let desk = Desk::start().await;
    let (server, session) = deciding(&desk, OnMessage::Ask).await;
    let turn = session.send("one").await;
    let old = desk.asked(0).await;
    let calls = server.with_token(old.token());
    let standing = calls.get("/v1/turn").await.ok();
    assert_eq!((&standing["has_pending"], &standing["committed"]), (&json!(false), &json!(false)));
    session.send("two").await;
    for _ in 0..3 {
        let standing = calls.get("/v1/turn").await.ok();
        assert_eq!((&standing["has_pending"], &standing["pending"]), (&json!(true), &json!(1)), "asking takes nothing");
    }

    let server = server.restart().await;
    let session = server.user().await.session("desk", "ann");
    let again = eventually("it is asked again", || async {
        let asked = desk.asked_of("turn");
        (asked.len() > 1).then(|| asked[1].clone())
    })
    .await;
    let calls = server.with_token(again.token());
    for _ in 0..3 {
        assert_eq!(calls.get("/v1/turn").await.ok()["has_pending"], true);
    }
    server.with_token(old.token()).get("/v1/turn").await.problem(409, "turn_attempt_over");
    let absorbed = eventually("it is begun anew", || async {
        for question in desk.asked_of("decide") {
            desk.answer(question.nth, json!({ "action": "absorb" }));
        }
        let asked = desk.asked_of("turn");
        (asked.len() > 2).then(|| asked[2].clone())
    })
    .await;
    assert_eq!(absorbed.texts(), ["one", "two"]);
    let calls = server.with_token(absorbed.token());
    assert_eq!(calls.get("/v1/turn").await.ok()["has_pending"], false);
    desk.say(absorbed.nth, "both");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "both");
}

/// An agent that says its first words when one gate opens, and the rest when the other does.
async fn hesitating(speaks: &Gate, gate: &Gate) -> Agent {
    let (speaks, gate) = (speaks.clone(), gate.clone());
    Agent::start(move |asked| {
        let (speaks, gate) = (speaks.clone(), gate.clone());
        async move {
            speaks.passed().await;
            let first = futures_util::stream::iter([json!({ "type": "delta", "text": "You said: " })]);
            let rest = futures_util::stream::once(async move {
                gate.passed().await;
                json!({ "type": "final", "text": crate::harness::reply(&asked) })
            });
            stream_of(futures_util::StreamExt::chain(first, rest))
        }
    })
    .await
}

#[tokio::test]
async fn a_turn_whose_answer_is_being_read_is_not_begun_anew() {
    let (speaks, gate) = (Gate::closed(), Gate::closed());
    let agent = hesitating(&speaks, &gate).await;
    let settings = AgentSettings { on_message: OnMessage::Supersede, ..http(agent.url()) };
    let server = Setup::new().agent("slow", settings).start().await;
    let session = server.user().await.session("slow", "ann");
    let turn = session.send("one").await;
    let calls = server.with_token(agent.asked_times(1).await[0].token());
    speaks.open();
    eventually("its first words are on record", || async {
        (calls.get("/v1/turn").await.ok()["committed"] == true).then_some(())
    })
    .await;
    let next = session.send("two").await;
    assert_ne!(next, turn);
    gate.open();
    let (ended, next) = (session.user.turn_ended(&turn).await, session.user.turn_ended(&next).await);
    assert_eq!((&ended["reply"]["text"], &next["reply"]["text"]), (&json!("you said: one"), &json!("you said: two")));
    assert_eq!(agent.asked().len(), 2);
}

#[tokio::test]
async fn where_words_may_be_taken_back_a_turn_is_begun_anew_behind_them() {
    let (speaks, gate) = (Gate::closed(), Gate::closed());
    let agent = hesitating(&speaks, &gate).await;
    let settings = AgentSettings { on_message: OnMessage::Supersede, streaming_commits: false, ..http(agent.url()) };
    let server = Setup::new().agent("slow", settings).start().await;
    let session = server.user().await.session("slow", "ann");
    let mut events = session.events(0).await;
    let turn = session.send("one").await;
    // Whoever heard that the work began is listening live.
    events.until("turn.processing", &turn).await;
    speaks.open();
    events.until("reply.delta", &turn).await;
    session.send("two").await;
    let again = agent.asked_times(2).await;
    assert_eq!(again[1].texts(), ["one", "two"]);
    gate.open();
    assert_eq!(session.user.turn_after_all(&turn).await["reply"]["text"], "you said: one | two");
}

#[tokio::test]
async fn an_agent_with_a_grace_is_told_to_stop_and_may_end_in_peace() {
    let gate = Gate::closed();
    let held = gate.clone();
    let agent = Agent::start(move |asked| {
        let held = held.clone();
        async move {
            if asked.body["type"] == "stop" {
                held.open();
                return status(204);
            }
            if asked.texts().len() < 2 {
                held.passed().await;
            }
            crate::harness::answer(&crate::harness::reply(&asked))
        }
    })
    .await;
    let grace = crate::harness::PATIENCE;
    let settings = AgentSettings { on_message: OnMessage::Supersede, grace, ..http(agent.url()) };
    let server = Setup::new().agent("polite", settings).start().await;
    let session = server.user().await.session("polite", "ann");
    let turn = session.send("one").await;
    agent.asked_times(1).await;
    session.send("two").await;
    let last = session.user.turn_after_all(&turn).await;
    assert_eq!(last["reply"]["text"], "you said: one | two", "what it said in the end is not the answer");
    let asked = agent.asked();
    assert_eq!((&asked[1].body["type"], &asked[1].body["turn_id"]), (&json!("stop"), &json!(turn)));
    assert!(asked[1].body["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_eq!(session.turns().await.len(), 2);
}

#[tokio::test]
async fn an_agent_that_is_a_workflow_decides_and_absorbs_as_well() {
    use mainspring_client::{Context, Failure, WorkflowDef};
    use mainspring_flows::{Action, AgentAnswer, AgentCall, Calls, Decision};
    let mut settings = crate::harness::workflow("thinker");
    settings.on_message = OnMessage::Ask;
    let setup = Setup::new().agent("thinker", settings).offer(|worker| {
        worker.function(WorkflowDef::single("thinker", true), |ctx: Context, call: AgentCall| async move {
            let request = match call {
                AgentCall::Decide(_) => {
                    let decision = Decision::new(Action::Absorb, "it belongs to it");
                    return Ok(serde_json::to_value(decision).expect("JSON"));
                }
                AgentCall::Stop(_) => return Ok(Value::Null),
                AgentCall::Turn(request) => request,
            };
            if request.messages.len() < 2 {
                ctx.wait_signal::<Value>("never", None).await?;
            }
            let standing = ctx
                .run("standing", || async {
                    let calls = Calls::of_request(ctx.client(), &request).expect("a token");
                    calls.standing().await.map_err(|error| Failure::Final(error.to_string()))
                })
                .await?;
            let text = format!("{} messages, pending {}", request.messages.len(), standing.has_pending);
            Ok::<_, Failure>(serde_json::to_value(AgentAnswer::text(text)).expect("JSON"))
        })
    });
    let server = setup.start().await;
    let session = server.user().await.session("thinker", "ann");
    let turn = session.send("one").await;
    let first = eventually("the agent works", || async {
        session.user.turn(&turn).await["agent_run"].as_str().map(str::to_owned)
    })
    .await;
    session.send("two").await;
    let ended = session.user.turn_ended(&turn).await;
    assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("2 messages, pending false")));
    session.user.run_in_state(&first, "cancelled").await;
    assert_eq!(decisions(&session, &turn, "turn.completed").await[0]["reason"], "it belongs to it");
}
