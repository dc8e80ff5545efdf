//! Messages that interrupt the agent, and messages that race with its answer.

use std::collections::HashMap;
use std::time::Duration;

use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentSettings, OnMessage};
use serde_json::{Value, json};

use crate::harness::{Agent, Session, Setup, answer, http, reply, texts_of};

fn superseding(url: &str) -> AgentSettings {
    AgentSettings { on_message: OnMessage::Supersede, ..http(url) }
}

/// Answers only turns that have this message; all others are held for ever.
async fn answers_only_with(last: &'static str) -> Agent {
    Agent::start(move |asked| async move {
        if !asked.texts().iter().any(|text| text == last) {
            std::future::pending::<()>().await;
        }
        answer(&reply(&asked))
    })
    .await
}

#[tokio::test]
async fn a_message_during_the_work_cuts_the_request_and_the_next_turn_has_all_messages() {
    let agent = answers_only_with("two").await;
    let server = Setup::new().agent("slow", superseding(agent.url())).start().await;
    let session = server.user().await.session("slow", "ann");
    let mut events = session.events(0).await;
    let first = session.send("one").await;
    agent.asked_times(1).await;
    session.send("two").await;
    agent.cut_times(1).await;

    let superseded = session.user.turn_ended(&first).await;
    assert_eq!(superseded["state"], "superseded");
    assert!(superseded["reply"].is_null());
    assert_eq!(superseded["decisions"].as_array().map(Vec::len), Some(1));
    let decision = &superseded["decisions"][0];
    assert_eq!((&decision["action"], &decision["reason"]), (&json!("supersede"), &json!("policy: supersede")));
    let second = session.user.turn_ended(superseded["superseded_by"].as_str().expect("a successor")).await;
    assert_eq!(second["superseded_from"], first.as_str());
    assert_eq!((&second["state"], texts_of(&second)), (&json!("completed"), vec!["one".to_owned(), "two".into()]));

    let heard = events.until("turn.completed", second["id"].as_str().expect("an id")).await;
    let count = |name: &str| heard.iter().filter(|event| event.name == name).count();
    assert_eq!((count("reply.sent"), count("turn.superseded"), count("turn.started")), (1, 1, 2));
    let event = heard.iter().find(|event| event.name == "turn.superseded").expect("told");
    assert_eq!(event.data["data"]["superseded_by"], second["id"]);
    assert_eq!(event.turn(), first);
}

#[tokio::test]
async fn a_chain_of_interruptions_leads_to_one_answer_to_everything() {
    let agent = answers_only_with("m3").await;
    let server = Setup::new().agent("slow", superseding(agent.url())).start().await;
    let session = server.user().await.session("slow", "ann");
    let first = session.send("m0").await;
    for nth in 1..=3 {
        agent.asked_times(nth).await;
        session.send(&format!("m{nth}")).await;
    }
    let last = session.user.turn_after_all(&first).await;
    assert_eq!(texts_of(&last), ["m0", "m1", "m2", "m3"]);
    let turns = session.turns().await;
    let states: Vec<_> = turns.iter().map(|turn| turn["state"].as_str().expect("a state")).collect();
    assert_eq!(states, ["superseded", "superseded", "superseded", "completed"]);
    for pair in turns.windows(2) {
        assert_eq!((&pair[0]["superseded_by"], &pair[1]["superseded_from"]), (&pair[1]["id"], &pair[0]["id"]));
    }
    assert!(turns.iter().all(|turn| turn["turn_group_id"] == first.as_str()), "one chain, one group: {turns:#?}");
    agent.cut_times(3).await;
    assert_eq!(agent.asked().len(), 4);
}

#[tokio::test]
async fn a_chain_that_was_begun_anew_often_enough_is_completed_and_what_comes_is_queued() {
    let (agent, gate) = Agent::behind_a_gate().await;
    let server = Setup::new().agent("slow", superseding(agent.url())).start().await;
    let session = server.user().await.session("slow", "ann");
    let first = session.send("m0").await;
    for nth in 1..=4 {
        agent.asked_times(nth).await;
        session.send(&format!("m{nth}")).await;
    }
    // The fourth finds a turn that is completed in any case.
    let shown = session.show().await;
    assert_eq!(shown["pending_messages"], 1, "{shown:#}");
    assert_eq!(agent.asked_times(4).await[3].body["restart"]["count"], 3);
    gate.open();
    let last = session.user.turn_after_all(&first).await;
    assert_eq!(texts_of(&last), ["m0", "m1", "m2", "m3"]);
    let turns = session.turns().await;
    let states: Vec<_> = turns.iter().map(|turn| turn["state"].as_str().expect("a state")).collect();
    assert_eq!(states, ["superseded", "superseded", "superseded", "completed", "completed"]);
    assert_eq!(texts_of(&turns[4]), ["m4"]);
    assert_eq!((&turns[4]["turn_group_id"], &turns[4]["superseded_before"]), (&turns[4]["id"], &json!(0)));
    agent.cut_times(3).await;
    assert_eq!(agent.asked().len(), 5);
}

#[tokio::test]
async fn more_messages_than_fit_one_turn_are_still_answered_when_messages_interrupt() {
    let agent = Agent::echo().await;
    let window = WindowRules { messages_max: 3, max_wait_ms: 2_000, ..WindowRules::fixed(600_000) };
    let settings = AgentSettings { window, ..superseding(agent.url()) };
    let server = Setup::new().agent("echo", settings).start().await;
    let session = server.user().await.session("echo", "ann");
    for nth in 0..8 {
        session.send(&format!("m{nth}")).await;
    }
    assert_each_once_in_order(&session, &["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"]).await;
}

#[tokio::test]
async fn an_agent_that_is_a_workflow_is_cancelled_when_its_turn_is_superseded() {
    use mainspring_client::{Context, Failure, WorkflowDef};
    use mainspring_flows::{AgentAnswer, AgentRequest};
    let mut settings = crate::harness::workflow("thinker");
    settings.on_message = OnMessage::Supersede;
    let setup = Setup::new().agent("thinker", settings).offer(|worker| {
        worker.function(WorkflowDef::single("thinker", true), |ctx: Context, request: AgentRequest| async move {
            if request.messages.len() < 2 {
                ctx.wait_signal::<Value>("never", None).await?;
            }
            Ok::<_, Failure>(AgentAnswer::text(format!("{} messages", request.messages.len())))
        })
    });
    let server = setup.start().await;
    let session = server.user().await.session("thinker", "ann");
    let first = session.send("one").await;
    let agent_run = crate::harness::eventually("the agent works", || async {
        session.user.turn(&first).await["agent_run"].as_str().map(str::to_owned)
    })
    .await;
    session.send("two").await;
    let last = session.user.turn_after_all(&first).await;
    assert_eq!(last["reply"]["text"], "2 messages");
    session.user.run_in_state(&agent_run, "cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_racing_the_commit_is_in_exactly_one_completed_turn() {
    let agent = Agent::start(|asked| async move {
        tokio::time::sleep(Duration::from_micros(jitter(asked.nth as u64 * 7 + 1) % 6_000)).await;
        answer(&reply(&asked))
    })
    .await;
    let setup = Setup::new().agent("super", superseding(agent.url())).agent("queue", http(agent.url()));
    let server = setup.start().await;
    let user = server.user().await;
    let mut racing = tokio::task::JoinSet::new();
    for lane in 0..8_u64 {
        let user = user.clone();
        racing.spawn(async move {
            for nth in 0..20_u64 {
                let seed = lane * 1_000 + nth;
                let name = if nth % 4 == 0 { "queue" } else { "super" };
                let session = user.session(name, &format!("racer-{seed}"));
                session.send("m0").await;
                tokio::time::sleep(Duration::from_micros(jitter(seed) % 14_000)).await;
                session.send("m1").await;
                tokio::time::sleep(Duration::from_micros(jitter(seed + 500) % 3_000)).await;
                session.send("m2").await;
                assert_each_once_in_order(&session, &["m0", "m1", "m2"]).await;
            }
        });
    }
    while let Some(ended) = racing.join_next().await {
        ended.expect("every race ends well");
    }
}

/// Every message is in exactly one completed turn, in order, and every superseded turn leads on.
async fn assert_each_once_in_order(session: &Session, texts: &[&str]) {
    let turns = session.turns().await;
    let by_id: HashMap<&str, &Value> = turns.iter().map(|turn| (turn["id"].as_str().expect("an id"), turn)).collect();
    let mut answered = Vec::new();
    for turn in &turns {
        match turn["state"].as_str() {
            Some("completed") => {
                answered.extend(texts_of(turn));
                assert_eq!(turn["reply"]["text"], format!("you said: {}", texts_of(turn).join(" | ")));
            }
            Some("superseded") => {
                let next = turn["superseded_by"].as_str().expect("a successor");
                assert!(by_id.contains_key(next), "{turn:#}");
            }
            _ => panic!("neither completed nor superseded: {turn:#}"),
        }
    }
    assert_eq!(answered, texts, "{turns:#?}");
}

/// A number that looks like chance and is the same every time.
fn jitter(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 29)
}
