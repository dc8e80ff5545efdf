//! Messages become turns, and each turn is answered once.

use mainspring_client::{Context, Failure, WorkflowDef};
use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentAnswer, AgentRequest, AgentSettings, OnMessage};
use serde_json::json;

use crate::harness::{Agent, Desk, Gate, Setup, answer, http, reply, texts_of, workflow};

#[tokio::test]
async fn five_quick_messages_become_one_turn_in_order_answered_once() {
    let agent = Agent::echo().await;
    let settings = AgentSettings { window: WindowRules::fixed(1_500), ..http(agent.url()) };
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
    assert_eq!(turn["accumulation"]["ended_by"], "timeout");
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
async fn an_open_window_says_how_long_it_waits_and_why_and_so_does_a_closed_one() {
    let agent = Agent::echo().await;
    let rules = WindowRules { base_ms: Some(2_000), ..WindowRules::default() };
    let settings = AgentSettings { window: rules, ..http(agent.url()) };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    let mut events = session.events(0).await;

    let turn = session.send("hello").await;
    let heard = events.until("turn.window", &turn).await;
    let told = &heard.last().expect("told").data["data"];
    let shown = session.user.turn(&turn).await;
    let why = "waits 2500 ms: configured 2000, a greeting +500";
    assert_eq!((&shown["window"], &shown["window"]["explanation"]), (told, &json!(why)));
    assert_eq!(shown["window"]["until"], shown["messages"][0]["accepted_at"].as_u64().expect("a time") + 2_500);
    assert!(heard.last().expect("told").id.is_none(), "it is for those listening, and recorded nowhere");

    session.send_body(&json!({ "text": "that is all", "end": true })).await;
    let ended = session.user.turn_ended(&turn).await;
    assert!(ended["window"].is_null());
    assert_eq!(ended["accumulation"]["ended_by"], "explicit_signal");
    assert!(!ended["accumulation"]["explanation"].as_str().expect("why").is_empty());
}

#[tokio::test]
async fn a_message_during_the_work_goes_to_the_next_turn_whose_id_it_was_promised() {
    let (agent, gate) = Agent::behind_a_gate().await;
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
    let window = WindowRules { messages_max: 3, max_wait_ms: 600_000, ..WindowRules::fixed(600_000) };
    let settings = AgentSettings { window, ..http(agent.url()) };
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
    let settings =
        AgentSettings { window: WindowRules { max_wait_ms: 300, ..WindowRules::fixed(600_000) }, ..http("") };
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
            Ok::<_, Failure>(AgentAnswer::text(text))
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_messages_that_come_at_once_are_one_turn() {
    let agent = Agent::echo().await;
    let window = WindowRules { messages_max: 4, ..WindowRules::fixed(30_000) };
    let server = Setup::new().agent("echo", AgentSettings { window, ..http(agent.url()) }).start().await;
    let user = server.user().await;
    for nth in 0..10 {
        let session = user.session("echo", &format!("person-{nth}"));
        let mut sending = tokio::task::JoinSet::new();
        for text in ["a", "b", "c", "d"] {
            let session = session.clone();
            sending.spawn(async move { session.send(text).await });
        }
        let turns = sending.join_all().await;
        assert!(turns.iter().all(|turn| *turn == turns[0]), "{turns:?}");
        let mut texts = texts_of(&user.turn_ended(&turns[0]).await);
        texts.sort();
        assert_eq!(texts, ["a", "b", "c", "d"]);
        assert_eq!(session.turns().await.len(), 1);
    }
    assert_eq!(agent.asked().len(), 10);
}

#[tokio::test]
async fn a_turn_goes_on_as_it_began_when_the_configuration_changes_and_the_next_has_the_new_one() {
    let (old, new) = (Desk::start().await, Desk::start().await);
    let setup = |desk: &Desk, on_message| Setup::new().agent("desk", AgentSettings { on_message, ..http(desk.url()) });
    let server = setup(&old, OnMessage::Absorb).start().await;
    let turn = server.user().await.session("desk", "ann").send("one").await;
    old.asked(0).await;
    let server = server.restart_with(setup(&new, OnMessage::Queue)).await;
    let session = server.user().await.session("desk", "ann");
    old.asked(1).await;
    session.send("two").await;
    let absorbed = old.asked(2).await;
    assert_eq!((&absorbed.body["turn_id"], absorbed.texts()), (&json!(turn), vec!["one".to_owned(), "two".into()]));
    old.say(2, "as before");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "as before");
    new.say(0, "as configured");
    let turn = session.send("three").await;
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "as configured");
    // An agent that is gone fails its turns and says so.
    let server = server.restart_with(Setup::new().agent("another", http(new.url()))).await;
    let session = server.user().await.session("desk", "ann");
    session.send_body(&json!({ "text": "four" })).await.problem(404, "agent_unknown");
}

#[tokio::test]
async fn a_follow_up_that_was_outdated_when_its_turn_began_is_not_told_to_the_agent() {
    // H-74, in the very last moment: the person's message was decided about before the follow-up's.
    use mainspring_client::SendOptions;
    use mainspring_flows::{MessageBody, MessageKind, turn};
    let desk = Desk::start().await;
    let server = Setup::new().agent("desk", http(desk.url())).start().await;
    let session = server.user().await.session("desk", "ann");
    let first = session.send("I am here").await;
    let heard_at = desk.asked(0).await.body["messages"][0]["accepted_at"].as_u64().expect("a time");
    let client = server.state().client(crate::harness::TENANT_A);
    let key = session.show().await["session"].as_str().expect("a key").to_owned();
    let follow_up = async |since: u64| {
        let body = MessageBody {
            text: "are you still there?".to_owned(),
            kind: MessageKind::FollowUp,
            only_if_silent_since_ms: Some(since),
            ..MessageBody::default()
        };
        let sent = client.send(turn::WORKFLOW, &key, &body, SendOptions::default()).await;
        sent.expect("it is accepted").run.to_string()
    };
    // Alone in its turn: the turn ends and says nothing.
    let outdated = follow_up(heard_at - 1).await;
    desk.say(0, "hello");
    session.user.turn_ended(&first).await;
    let ended = session.user.turn_ended(&outdated).await;
    assert_eq!((&ended["state"], &ended["reply"]["text"]), (&json!("completed"), &json!("")));
    let heard = session.events(0).await.until("turn.completed", &outdated).await;
    let named = |name: &str| heard.iter().filter(|event| event.name == name).count();
    assert_eq!((named("turn.outdated"), named("reply.sent")), (1, 1));
    assert_eq!(desk.times(), 1);

    // With a message of the person: only that is told.
    let third = session.send("one more").await;
    desk.asked(1).await;
    follow_up(heard_at).await;
    session.send("and another").await;
    desk.say(1, "yes");
    desk.say(2, "yes");
    session.user.turn_ended(&third).await;
    assert_eq!(desk.asked(2).await.texts(), ["and another"]);

    // And one that is not outdated is.
    let now = server.state().engine().world().now_ms();
    desk.say(3, "Still there?");
    let due = follow_up(now + 60_000).await;
    assert_eq!(session.user.turn_ended(&due).await["reply"]["text"], "Still there?");
    assert_eq!(desk.asked(3).await.body["messages"][0]["kind"], "follow_up");
}
