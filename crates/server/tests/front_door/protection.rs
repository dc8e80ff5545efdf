//! How much is taken in: exact limits, told to the sender, and nothing lost of what was accepted.

use mainspring_flows::{AgentSettings, Protection};
use serde_json::json;

use crate::harness::{
    Agent, Answer, Desk, Gate, Server, Setup, TENANT_B, User, answer, eventually, http, reply, texts_of,
};

/// No limit but what a test sets.
fn none() -> Protection {
    Protection { session_messages_per_minute: 0, ..Protection::default() }
}

async fn echo_with(protection: Protection) -> (Server, User) {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", AgentSettings { protection, ..http(agent.url()) }).start().await;
    let user = server.user().await;
    (server, user)
}

/// Sends so many messages at once, round and round over these channels of these people.
async fn send_at_once(user: &User, to: &[(&str, &str)], count: usize) -> Vec<Answer> {
    let mut sending = tokio::task::JoinSet::new();
    for nth in 0..count {
        let (who, channel) = to[nth % to.len()];
        let session = user.session_on("echo", who, channel);
        sending.spawn(async move { session.send_body(&json!({ "text": format!("m{nth}") })).await });
    }
    sending.join_all().await
}

fn accepted(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 202).count()
}

fn assert_refused(answers: &[Answer], code: &str) {
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        answer.problem(429, code);
        let after: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&after), "{after} s");
        assert!(answer.body["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0 && ms <= 60_000), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_messages_at_once_exactly_as_many_as_the_limit_are_taken() {
    let (server, user) = echo_with(Protection { session_messages_per_minute: 60, ..none() }).await;
    let answers = send_at_once(&user, &[("ann", "web")], 100).await;
    assert_eq!(accepted(&answers), 60);
    assert_refused(&answers, "rate_limited");
    // Others are not concerned, nor is the other tenant.
    assert_eq!(accepted(&send_at_once(&user, &[("ben", "web"), ("ann", "sms")], 4).await), 4);
    assert_eq!(accepted(&send_at_once(&server.user_of(TENANT_B).await, &[("ann", "web")], 4).await), 4);
    // What was taken is answered, each once.
    let turns = user.session("echo", "ann").turns().await;
    assert_eq!(turns.iter().flat_map(texts_of).count(), 60);
    assert!(turns.iter().all(|turn| turn["state"] == "completed"));
    // A restart is no new minute.
    let server = server.restart().await;
    let answers = send_at_once(&server.user().await, &[("ann", "web")], 3).await;
    assert_eq!(accepted(&answers), 0);
    assert_refused(&answers, "rate_limited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_person_an_agent_and_a_tenant_count_what_they_say() {
    let everywhere = [("ann", "web"), ("ann", "sms"), ("ben", "web"), ("cem", "web")];
    for (protection, expected) in [
        (Protection { interlocutor_messages_per_minute: 5, ..none() }, [5, 5, 5]),
        (Protection { agent_messages_per_minute: 7, ..none() }, [7, 7, 7]),
        (Protection { tenant_messages_per_minute: 6, ..none() }, [6, 6, 6]),
    ] {
        let (server, user) = echo_with(protection).await;
        let person_only = protection.interlocutor_messages_per_minute > 0;
        let to: &[(&str, &str)] = if person_only { &everywhere[..2] } else { &everywhere };
        let answers = send_at_once(&user, to, 20).await;
        assert_eq!(accepted(&answers), expected[0], "{protection:?}");
        assert_refused(&answers, "rate_limited");
        let others = accepted(&send_at_once(&user, &[("dan", "web")], 3).await);
        assert_eq!(others, if person_only { 3 } else { 0 }, "{protection:?}");
        let theirs = send_at_once(&server.user_of(TENANT_B).await, to, 20).await;
        assert_eq!(accepted(&theirs), expected[1], "each tenant has its own");
    }
}

#[tokio::test]
async fn a_repeat_takes_nothing_and_what_was_refused_may_come_again() {
    let (_server, user) = echo_with(Protection { session_messages_per_minute: 2, ..none() }).await;
    let session = user.session("echo", "ann");
    let body = |id: &str| json!({ "text": id, "message_id": id });
    for _ in 0..5 {
        assert_eq!(session.send_body(&body("a")).await.status, 202);
    }
    assert_eq!(session.send_with_key("k", &json!({ "text": "b" })).await.status, 202);
    for _ in 0..2 {
        session.send_body(&body("c")).await.problem(429, "rate_limited");
        assert_eq!(session.send_with_key("k", &json!({ "text": "b" })).await.ok()["duplicate"], true);
        assert_eq!(session.send_body(&body("a")).await.ok()["duplicate"], true);
    }
    assert_eq!(session.turns().await.iter().flat_map(texts_of).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn so_many_turns_are_in_flight_and_each_that_ends_makes_room() {
    for protection in [
        Protection { agent_turns: 2, ..none() },
        Protection { tenant_turns: 2, ..none() },
        Protection { interlocutor_turns: 2, ..none() },
    ] {
        let desk = Desk::start().await;
        let server = Setup::new().agent("desk", AgentSettings { protection, ..http(desk.url()) }).start().await;
        let user = server.user().await;
        let of_person = protection.interlocutor_turns > 0;
        let session = |nth: usize| {
            if of_person {
                user.session_on("desk", "ann", ["web", "sms", "voice"][nth])
            } else {
                user.session("desk", ["ann", "ben", "cem"][nth])
            }
        };
        let first = session(0).send("one").await;
        desk.asked(0).await;
        session(1).send("two").await;
        desk.asked(1).await;
        let refused = session(2).send_body(&json!({ "text": "three" })).await;
        refused.problem(429, "too_many_turns");
        assert!(!refused.header("retry-after").is_empty());
        // A session that is live takes more, and a person that is none of these is not concerned.
        assert_eq!(session(0).send_body(&json!({ "text": "more" })).await.status, 202);
        if of_person {
            assert_eq!(user.session("desk", "ben").send_body(&json!({ "text": "hello" })).await.status, 202);
            desk.asked(2).await;
        }
        let asked = desk.times();
        let by_text = |text: &str| (0..desk.times()).find(|nth| desk.asked_of("turn")[*nth].texts() == [text]);
        desk.say(by_text("one").expect("it was asked"), "done");
        user.turn_ended(&first).await;
        desk.asked(asked).await;
        desk.say(by_text("more").expect("it was asked"), "done");
        eventually("there is room", || async {
            (session(2).send_body(&json!({ "text": "three" })).await.status == 202).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn so_many_messages_wait_in_a_session() {
    let (agent, gate) = Agent::behind_a_gate().await;
    let protection = Protection { session_messages_waiting: 3, ..none() };
    let server = Setup::new().agent("slow", AgentSettings { protection, ..http(agent.url()) }).start().await;
    let session = server.user().await.session("slow", "ann");
    for nth in 0..3 {
        session.send(&format!("m{nth}")).await;
    }
    let refused = session.send_body(&json!({ "text": "m3" })).await;
    refused.problem(429, "limit_reached");
    assert!(!refused.header("retry-after").is_empty());
    gate.open();
    eventually("there is room", || async {
        (session.send_body(&json!({ "text": "m3" })).await.status == 202).then_some(())
    })
    .await;
    let turns = session.turns().await;
    assert_eq!(turns.iter().flat_map(texts_of).collect::<Vec<_>>(), ["m0", "m1", "m2", "m3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_to_one_session_at_once_are_each_answered_once_in_order() {
    let (agent, gate) = Agent::behind_a_gate().await;
    let server = Setup::new().agent("echo", AgentSettings { protection: none(), ..http(agent.url()) }).start().await;
    let user = server.user().await;
    let answers = send_at_once(&user, &[("ann", "web")], 1_000).await;
    assert_eq!(accepted(&answers), 1_000);
    gate.open();
    let session = user.session("echo", "ann");
    let turns = session.turns().await;
    let answered: Vec<String> = turns.iter().flat_map(texts_of).collect();
    for turn in &turns {
        assert_eq!(
            (&turn["state"], &turn["reply"]["text"]),
            (&json!("completed"), &json!(format!("you said: {}", texts_of(turn).join(" | "))))
        );
    }
    let last = turns.last().expect("turns")["id"].as_str().expect("an id").to_owned();
    let heard = session.events(0).await.until("turn.completed", &last).await;
    let in_order: Vec<String> = heard
        .iter()
        .filter(|event| event.name == "message.accepted")
        .map(|event| event.data["data"]["message"]["text"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(answered, in_order, "in the order in which they were accepted");
    let distinct: std::collections::HashSet<_> = answered.iter().collect();
    assert_eq!((answered.len(), distinct.len()), (1_000, 1_000));
    let replies: Vec<_> = heard.iter().filter(|event| event.name == "reply.sent").map(|event| event.turn()).collect();
    assert_eq!(replies, turns.iter().map(|turn| turn["id"].as_str().expect("an id")).collect::<Vec<_>>());
    assert_eq!(agent.asked().len(), turns.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_floods_keeps_nobody_of_another_waiting() {
    // H-37, without its numbers: those are measured.
    let gate = Gate::closed();
    let held = gate.clone();
    let agent = Agent::start(move |asked| {
        let held = held.clone();
        async move {
            if asked.body["session"]
                .as_str()
                .is_some_and(|session| session.starts_with(&crate::harness::TENANT_A.to_string()))
            {
                held.passed().await;
            }
            answer(&reply(&asked))
        }
    })
    .await;
    let server = Setup::new().agent("echo", AgentSettings { protection: none(), ..http(agent.url()) }).start().await;
    let (flooding, other) = (server.user().await, server.user_of(TENANT_B).await);
    let people: Vec<String> = (0..300).map(|nth| format!("person-{nth}")).collect();
    let to: Vec<(&str, &str)> = people.iter().map(|who| (who.as_str(), "web")).collect();
    assert_eq!(accepted(&send_at_once(&flooding, &to, 900).await), 900);
    for nth in 0..20 {
        let session = other.session("echo", &format!("person-{nth}"));
        let turn = session.send("hello").await;
        assert_eq!(other.turn_ended(&turn).await["state"], "completed", "while all of the others are at work");
    }
    gate.open();
    for who in people.iter().take(5) {
        let turns = flooding.session("echo", who).turns().await;
        assert_eq!(turns.iter().flat_map(texts_of).count(), 3);
    }
}
