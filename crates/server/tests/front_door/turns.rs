//! Messages become turns, and each turn is answered once.

use std::time::Duration;

use mainspring_client::{Context, Failure, WorkflowDef};
use mainspring_flows::{AgentAnswer, AgentRequest, AgentSettings};
use serde_json::json;

use crate::harness::{Agent, Gate, Setup, answer, http, reply, texts_of, workflow};

#[tokio::test]
async fn five_quick_messages_become_one_turn_in_order_answered_once() {
    let agent = Agent::echo().await;
    let settings = AgentSettings { quiet: Duration::from_millis(1_500), ..http(agent.url()) };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let mut events = session.events(0).await;

    let texts = ["one", "two", "three", "four", "five"];
    let mut turns = Vec::new();
    for text in texts {
        turns.push(session.send(text).await);
    }
    assert!(turns.iter().all(|turn| *turn == turns[0]), "all are offered to one turn: {turns:?}");

    let turn = session.user.turn_ended(&turns[0]).await;
    assert_eq!(turn["state"], "completed");
    assert_eq!(texts_of(&turn), texts);
    assert_eq!(turn["accumulation"]["ended_by"], "quiet");
    assert!(turn["accumulation"]["waited_ms"].as_u64() >= Some(1_500), "{}", turn["accumulation"]);
    assert_eq!(turn["reply"]["text"], "you said: one | two | three | four | five");
    assert_eq!(agent.asked().len(), 1);

    let heard = events.until("turn.completed", &turns[0]).await;
    let names: Vec<&str> = heard.iter().filter(|event| event.id.is_some()).map(|event| event.name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "message.accepted").count(), 5, "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "reply.sent").count(), 1, "{names:?}");
    let sent = heard.iter().find(|event| event.name == "reply.sent").expect("a reply");
    assert_eq!(sent.data["data"]["text"], turn["reply"]["text"]);
    assert_eq!(sent.data["data"]["reply_id"], turn["reply"]["id"]);

    let shown = session.show().await;
    assert_eq!(shown["turns"].as_array().expect("turns").len(), 1);
    assert_eq!(shown["turns"][0]["message_count"], 5);
    assert_eq!(shown["pending_messages"], 0);
}

#[tokio::test]
async fn a_message_during_the_work_goes_to_the_next_turn_whose_id_it_was_promised() {
    let gate = Gate::closed();
    let held = gate.clone();
    let agent = Agent::start(move |asked| {
        let held = held.clone();
        async move {
            held.passed().await;
            answer(&reply(&asked))
        }
    })
    .await;
    let server = Setup::new().agent("slow", http(agent.url())).start().await;
    let session = server.user().await.session("slow", "ann");
    let user = &session.user;
    let mut events = session.events(0).await;

    let first = session.send("one").await;
    agent.asked_times(1).await;
    let second = session.send("two").await;
    assert_ne!(first, second);
    assert_eq!(session.send("three").await, second, "both wait for the same turn");
    assert_eq!(user.turn(&first).await["state"], "processing");
    let shown = session.show().await;
    assert_eq!((&shown["live_turn"], &shown["pending_messages"]), (&json!(first), &json!(2)));
    gate.open();

    let (first, second) = (user.turn_ended(&first).await, user.turn_ended(&second).await);
    assert_eq!((texts_of(&first), texts_of(&second)), (vec!["one".to_owned()], vec!["two".into(), "three".into()]));
    assert_eq!(second["reply"]["text"], "you said: two | three");
    let heard = events.until("turn.completed", second["id"].as_str().expect("an id")).await;
    let replies: Vec<&str> =
        heard.iter().filter(|event| event.name == "reply.sent").map(|event| event.turn()).collect();
    assert_eq!(replies, [first["id"].as_str().expect("an id"), second["id"].as_str().expect("an id")]);
    assert_eq!(agent.asked().len(), 2);
}

#[tokio::test]
async fn a_turn_is_complete_at_its_largest_number_and_the_rest_is_the_next() {
    let agent = Agent::echo().await;
    let settings = AgentSettings { quiet: Duration::from_secs(600), messages_max: 3, ..http(agent.url()) };
    let settings = AgentSettings { max_wait: Duration::from_secs(600), ..settings };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    for nth in 0..6 {
        session.send(&format!("m{nth}")).await;
    }
    let turns = session.turns().await;
    let texts: Vec<_> = turns.iter().map(texts_of).collect();
    assert_eq!(texts, [["m0", "m1", "m2"], ["m3", "m4", "m5"]]);
    assert!(turns.iter().all(|turn| turn["accumulation"]["ended_by"] == "max_messages"), "{turns:#?}");
}

#[tokio::test]
async fn a_turn_is_complete_after_its_longest_wait_however_busy_the_typing() {
    let agent = Agent::echo().await;
    let settings = AgentSettings { quiet: Duration::from_secs(600), max_wait: Duration::from_millis(300), ..http("") };
    let settings = AgentSettings { kind: http(agent.url()).kind, ..settings };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("one").await;
    let turn = session.user.turn_ended(&turn).await;
    assert_eq!(turn["accumulation"]["ended_by"], "max_wait");
    assert_eq!(turn["accumulation"]["waited_ms"], 300);
}

#[tokio::test]
async fn data_goes_to_the_agent_and_comes_back_and_ids_are_told() {
    let agent = Agent::start(|asked| async move {
        let body = json!({ "text": "hello", "data": { "got": asked.body["messages"][0]["data"] } });
        axum::response::IntoResponse::into_response(axum::Json(body))
    })
    .await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann@example.org");
    let body = json!({ "text": "", "data": { "picture": [1, null, "ü"] }, "message_id": "wa-7" });
    let accepted = session.send_body(&body).await.ok();
    let turn_id = accepted["turn_id"].as_str().expect("a turn");
    let turn = session.user.turn_ended(turn_id).await;
    assert_eq!(turn["messages"][0]["data"], body["data"]);
    assert_eq!(turn["messages"][0]["id"], accepted["message_id"]);
    assert_eq!(turn["reply"]["data"]["got"], body["data"]);
    let asked = &agent.asked()[0];
    assert_eq!(asked.header("mainspring-turn-id"), turn_id);
    assert_eq!(asked.header("idempotency-key"), turn_id);
    assert_eq!(asked.body["session"], accepted["session"]);
    assert_eq!(asked.body["correlation_id"], turn["correlation_id"]);
    assert_eq!(turn["interlocutor"], "ann@example.org");
    let message = session.user.get(&format!("/v1/messages/{}", accepted["message_id"].as_str().expect("an id"))).await;
    let message = message.ok();
    assert_eq!((&message["state"], &message["turn_id"]), (&json!("done"), &json!(turn_id)));
}

#[tokio::test]
async fn an_agent_that_is_a_durable_function_answers_and_shows_its_steps() {
    let setup = Setup::new().agent("steps", workflow("steps-agent")).offer(|worker| {
        worker.function(WorkflowDef::single("steps-agent", true), |ctx: Context, request: AgentRequest| async move {
            let found: String = ctx.run("look up", || async { Ok("found".to_owned()) }).await?;
            let text = format!("{found}: {}", request.messages[0].text);
            Ok::<_, Failure>(AgentAnswer { text, data: None })
        })
    });
    let server = setup.start().await;
    let session = server.user().await.session("steps", "ann");
    let turn = session.send("order 5").await;
    let turn = session.user.turn_ended(&turn).await;
    assert_eq!(turn["reply"]["text"], "found: order 5");
    let names: Vec<_> = turn["steps"].as_array().expect("steps").iter().map(|step| step["name"].clone()).collect();
    assert!(names.contains(&json!("look up")), "{names:?}");
    let run = session.user.run(turn["agent_run"].as_str().expect("the agent's run")).await;
    assert_eq!((&run["state"], &run["parent"]), (&json!("completed"), &turn["id"]));
    assert_eq!(run["tasks"][0]["journal"][0]["name"], "look up");
}

#[tokio::test]
async fn a_live_turn_that_is_cancelled_ends_so_and_the_session_goes_on() {
    let gate = Gate::closed();
    let held = gate.clone();
    let agent = Agent::start(move |asked| {
        let held = held.clone();
        async move {
            if asked.nth == 0 {
                held.passed().await;
            }
            answer(&reply(&asked))
        }
    })
    .await;
    let server = Setup::new().agent("slow", http(agent.url())).start().await;
    let session = server.user().await.session("slow", "ann");
    let first = session.send("one").await;
    agent.asked_times(1).await;
    let cancel = session.user.post(&format!("/v1/runs/{first}/cancel"), &json!({ "reason": "no more" })).await;
    assert_eq!(cancel.status, 202, "{}", cancel.text);
    agent.cut_times(1).await;
    let ended = session.user.turn_ended(&first).await;
    assert_eq!((&ended["state"], &ended["error"]), (&json!("cancelled"), &json!("no more")));
    let second = session.send("two").await;
    let second = session.user.turn_ended(&second).await;
    assert_eq!((&second["state"], texts_of(&second)), (&json!("completed"), vec!["two".to_owned()]));
}
