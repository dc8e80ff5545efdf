//! Follow-ups: turns that begin without a message, what cancels and postpones them, and that each comes once.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Server, Session, Setup, TENANT_B, eventually, http};

/// Longer than any test takes.
const HOUR_MS: u64 = 60 * 60 * 1_000;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

async fn echo() -> (Server, Session, Agent) {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    (server, session, agent)
}

async fn ask(session: &Session, body: &Value) -> Answer {
    session.user.post(&format!("{}/follow-ups", session.path), body).await
}

/// Schedules one that must be accepted.
async fn schedule(session: &Session, body: &Value) -> Value {
    let answer = ask(session, body).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.body
}

async fn show(session: &Session, follow_up: &Value) -> Value {
    session.user.get(&format!("/v1/follow-ups/{}", id(follow_up))).await.ok()
}

async fn in_state(session: &Session, follow_up: &Value, state: &str) -> Value {
    eventually(&format!("the follow-up is {state}"), || async {
        let shown = show(session, follow_up).await;
        let over = ["fired", "cancelled", "failed"].contains(&shown["state"].as_str().expect("a state"));
        assert!(!over || shown["state"] == state, "it is not {state}, and will not be: {shown}");
        (shown["state"] == state).then_some(shown)
    })
    .await
}

/// Waits until it stands in its journal that it waits for what happens.
async fn waiting(session: &Session, follow_up: &Value) {
    eventually("the follow-up waits", || async {
        let run = session.user.run(id(follow_up)).await;
        let journal = run["tasks"][0]["journal"].as_array().cloned().unwrap_or_default();
        let waits = |entry: &Value| entry["kind"] == "wait_event" || entry["kind"] == "sleep";
        journal.last().filter(|entry| waits(entry) && entry["state"] == "pending").map(|_| ())
    })
    .await;
}

async fn listed(session: &Session) -> Vec<Value> {
    let list = session.user.get(&format!("{}/follow-ups", session.path)).await.ok();
    list["follow_ups"].as_array().expect("a list").clone()
}

fn id(follow_up: &Value) -> &str {
    follow_up["id"].as_str().expect("an id")
}

/// The names of what happened to one follow-up, up to and with `last`.
async fn told(session: &Session, follow_up: &Value, last: &str) -> Vec<String> {
    let mut events = session.events(0).await;
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != last) {
        let heard = events.next().await.expect("an event");
        if heard.data["follow_up_id"] == follow_up["id"] {
            assert!(heard.data["turn_id"].is_null(), "a follow-up is no turn: {heard:?}");
            names.push(heard.name);
        }
    }
    names
}

#[tokio::test]
async fn a_follow_up_begins_a_turn_at_its_time_and_the_agent_is_told_what_to_do() {
    let (_server, session, agent) = echo().await;
    let at_ms = now_ms() + 300;
    let body = json!({ "text": "ask whether it came", "data": { "order": 5 }, "at_ms": at_ms });
    let scheduled = schedule(&session, &body).await;
    assert_eq!((&scheduled["state"], scheduled["due_at"].as_u64()), (&json!("scheduled"), Some(at_ms)));

    let fired = in_state(&session, &scheduled, "fired").await;
    let turn = session.user.turn_ended(fired["turn_id"].as_str().expect("a turn")).await;
    assert_eq!(turn["reply"]["text"], "you said: ask whether it came");
    let asked = agent.asked_times(1).await;
    let message = &asked[0].body["messages"][0];
    assert_eq!((&message["id"], &message["data"]), (&fired["message_id"], &json!({ "order": 5 })));
    assert!(message["accepted_at"].as_u64().is_some_and(|accepted_at| accepted_at >= at_ms), "not early: {message}");
    assert_eq!(
        told(&session, &scheduled, "follow_up.completed").await,
        ["follow_up.started", "follow_up.scheduled", "follow_up.fired", "follow_up.completed"]
    );

    // What lies in the inbox says what it is, and since when there was silence.
    let mut events = session.events(0).await;
    let heard = events.until("turn.completed", turn["id"].as_str().expect("an id")).await;
    let accepted = heard.iter().find(|event| event.name == "message.accepted").expect("accepted");
    let sent = &accepted.data["data"]["message"];
    assert_eq!(sent["kind"], "follow_up");
    assert_eq!(sent["only_if_silent_since_ms"], scheduled["created_at"]);
}

#[tokio::test]
async fn a_persons_message_that_comes_first_cancels_it() {
    let (_server, session, agent) = echo().await;
    let scheduled = schedule(&session, &json!({ "text": "still there?", "at_ms": now_ms() + HOUR_MS })).await;
    waiting(&session, &scheduled).await;
    let accepted = session.send_body(&json!({ "text": "here I am" })).await.ok();
    let cancelled = in_state(&session, &scheduled, "cancelled").await;
    assert_eq!(cancelled["message_id"], accepted["message_id"]);
    assert!(cancelled["reason"].as_str().is_some_and(|reason| reason.contains("message")), "{cancelled}");
    session.turns().await;
    assert_eq!(agent.asked().len(), 1);
    let names = told(&session, &scheduled, "follow_up.completed").await;
    assert!(names.contains(&"follow_up.cancelled".to_owned()), "{names:?}");
}

#[tokio::test]
async fn a_large_message_of_a_person_cancels_it_as_well_and_a_large_follow_up_does_not() {
    let (_server, session, _agent) = echo().await;
    let waits = schedule(&session, &json!({ "text": "still there?", "at_ms": now_ms() + HOUR_MS })).await;
    waiting(&session, &waits).await;
    let large = json!({ "text": "x".repeat(20_000), "after_silence_ms": 1 });
    let large = schedule(&session, &large).await;
    in_state(&session, &large, "fired").await;
    session.turns().await;
    waiting(&session, &waits).await;
    assert_eq!(show(&session, &waits).await["state"], "scheduled", "what nobody said is no message of a person");
    session.send(&"y".repeat(20_000)).await;
    in_state(&session, &waits, "cancelled").await;
}

#[tokio::test]
async fn a_message_that_no_wait_was_there_for_is_found_by_the_look_when_it_is_due() {
    // H-74. The message comes at once, often before the follow-up waits at all; it is never sent after it.
    let (_server, session, agent) = echo().await;
    let mut all = Vec::new();
    for nth in 0..10 {
        let session = session.user.session("echo", &format!("ann-{nth}"));
        let scheduled = schedule(&session, &json!({ "text": "nag", "after_silence_ms": 3_000 })).await;
        session.send("a reply").await;
        all.push((session, scheduled));
    }
    for (session, scheduled) in all {
        in_state(&session, &scheduled, "cancelled").await;
        let turns = session.turns().await;
        assert_eq!(turns.len(), 1, "{turns:#?}");
    }
    assert!(agent.asked().iter().all(|asked| asked.texts() == ["a reply"]));
}

#[tokio::test]
async fn silence_begins_anew_with_each_message() {
    let (_server, session, _agent) = echo().await;
    let body = json!({ "text": "anything else?", "after_silence_ms": 1_500, "on_message": "reschedule" });
    let scheduled = schedule(&session, &body).await;
    waiting(&session, &scheduled).await;
    session.send("one").await;
    eventually("it is due later", || async {
        let shown = show(&session, &scheduled).await;
        (shown["due_at"].as_u64() > scheduled["due_at"].as_u64()).then_some(())
    })
    .await;
    waiting(&session, &scheduled).await;
    let accepted = session.send_body(&json!({ "text": "two" })).await.ok();
    let fired = in_state(&session, &scheduled, "fired").await;
    let last =
        session.user.get(&format!("/v1/messages/{}", accepted["message_id"].as_str().expect("an id"))).await.ok();
    let sent = session.user.get(&format!("/v1/messages/{}", fired["message_id"].as_str().expect("an id"))).await.ok();
    let silence = sent["accepted_at"].as_u64().expect("a time") - last["accepted_at"].as_u64().expect("a time");
    assert!(silence >= 1_500, "{silence} ms of silence");
    let names = told(&session, &scheduled, "follow_up.completed").await;
    assert_eq!(names.iter().filter(|name| *name == "follow_up.rescheduled").count(), 2, "{names:?}");
}

#[tokio::test]
async fn one_that_is_kept_comes_whatever_is_said() {
    let (_server, session, agent) = echo().await;
    let body = json!({ "text": "your report", "at_ms": now_ms() + 3_000, "on_message": "keep" });
    let scheduled = schedule(&session, &body).await;
    waiting(&session, &scheduled).await;
    session.send("hello").await;
    in_state(&session, &scheduled, "fired").await;
    let texts: Vec<String> = agent.asked_times(2).await.iter().flat_map(|asked| asked.texts()).collect();
    assert_eq!(texts, ["hello", "your report"]);
}

#[tokio::test]
async fn it_is_cancelled_by_request_and_says_so() {
    let (server, session, agent) = echo().await;
    let scheduled = schedule(&session, &json!({ "text": "never", "at_ms": now_ms() + HOUR_MS })).await;
    let path = format!("/v1/follow-ups/{}", id(&scheduled));
    server.user_of(TENANT_B).await.delete(&path).await.problem(404, "not_found");
    for _ in 0..2 {
        let cancelled = session.user.delete(&path).await;
        assert_eq!((cancelled.status, &cancelled.body["state"]), (202, &json!("cancelled")), "{}", cancelled.text);
        assert_eq!(cancelled.body["reason"], "cancelled by request");
    }
    let names = told(&session, &scheduled, "follow_up.cancelled").await;
    assert_eq!(names.first().map(String::as_str), Some("follow_up.started"));
    // A turn is no follow-up.
    let turn = session.send("hello").await;
    session.user.turn_ended(&turn).await;
    session.user.delete(&format!("/v1/follow-ups/{turn}")).await.problem(404, "not_found");
    assert_eq!(agent.asked().len(), 1);
}

#[tokio::test]
async fn what_would_come_after_its_time_expires() {
    let (_server, session, agent) = echo().await;
    let began_ms = now_ms();
    let body = json!({
        "text": "anything else?", "after_silence_ms": 30_000, "on_message": "reschedule", "expires_at_ms": began_ms + 31_000,
    });
    let scheduled = schedule(&session, &body).await;
    waiting(&session, &scheduled).await;
    eventually("a silence that begins now would end after it", || async {
        (now_ms() > began_ms + 1_000).then_some(())
    })
    .await;
    session.send("one").await;
    let expired = in_state(&session, &scheduled, "expired").await;
    assert!(expired["due_at"].as_u64() > expired["expires_at"].as_u64(), "{expired}");
    session.turns().await;
    assert_eq!(agent.asked().len(), 1);
}

#[tokio::test]
async fn two_asked_for_with_one_name_are_one() {
    // H-72: two schedulers see the same thing to do, at the same time and later.
    let (_server, session, agent) = echo().await;
    let body = json!({ "text": "remind", "after_silence_ms": 1_200, "name": "reminder" });
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (session, body) = (session.clone(), body.clone());
        racing.spawn(async move { schedule(&session, &body).await });
    }
    let ids: Vec<String> = racing.join_all().await.iter().map(|scheduled| id(scheduled).to_owned()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let scheduled = schedule(&session, &body).await;
    assert_eq!(id(&scheduled), ids[0]);
    let other = json!({ "text": "something else", "after_silence_ms": 1_200, "name": "reminder" });
    let (_, action) = ask(&session, &other).await.problem(409, "follow_up_name_taken");
    assert!(action.contains(&ids[0]), "{action}");

    in_state(&session, &scheduled, "fired").await;
    eventually("nothing is live", || async {
        let live = listed(&session).await.iter().any(|one| one["state"] == "scheduled");
        (!live).then_some(())
    })
    .await;
    session.turns().await;
    assert_eq!(agent.asked().len(), 1, "one follow-up, one turn");
    let again = schedule(&session, &body).await;
    assert_ne!(id(&again), ids[0], "a name is free again when its follow-up has ended");
}

#[tokio::test]
async fn two_with_one_name_that_agents_schedule_themselves_are_one() {
    use mainspring_client::{Context, Failure, WorkflowDef};
    use mainspring_flows::follow_up::{Due, FollowUp, OnMessage, Payload};
    use mainspring_flows::{AgentAnswer, AgentRequest};
    let setup = Setup::new().agent("planner", crate::harness::workflow("planner")).offer(|worker| {
        worker.function(WorkflowDef::single("planner", true), |ctx: Context, request: AgentRequest| async move {
            if request.messages[0].text == "hello" {
                let payload = Payload { text: "and?".to_owned(), data: None };
                let follow_up = FollowUp {
                    session: request.session.clone(),
                    due: Due::AfterSilence { ms: 300 },
                    payload,
                    on_message: OnMessage::Cancel,
                    expires_at_ms: None,
                    quiet_hours: None,
                    time_zone: None,
                    name: Some("and".to_owned()),
                };
                follow_up.schedule(&ctx).await?;
                follow_up.schedule(&ctx).await?;
            }
            Ok::<_, Failure>(AgentAnswer::text(request.messages[0].text.clone()))
        })
    });
    let server = setup.start().await;
    let session = server.user().await.session("planner", "ann");
    session.send("hello").await;
    let ended = eventually("both have ended", || async {
        let listed = listed(&session).await;
        (listed.len() == 2 && listed.iter().all(|one| !one["finished_at"].is_null())).then_some(listed)
    })
    .await;
    let mut states: Vec<&str> = ended.iter().map(|one| one["state"].as_str().expect("a state")).collect();
    states.sort_unstable();
    assert_eq!(states, ["cancelled", "fired"]);
    let replies: Vec<Value> = session.turns().await.iter().map(|turn| turn["reply"]["text"].clone()).collect();
    assert_eq!(replies, ["hello", "and?"]);
}

#[tokio::test]
async fn it_survives_a_restart_and_a_crash_and_comes_once() {
    // H-73: whoever had it in hand dies.
    let (mut server, session, agent) = echo().await;
    let scheduled = schedule(&session, &json!({ "text": "ask", "at_ms": now_ms() + 4_000 })).await;
    waiting(&session, &scheduled).await;
    server = server.restart().await;
    let session = server.user().await.session("echo", "ann");
    waiting(&session, &scheduled).await;
    server = server.crash(None).await;
    let session = server.user().await.session("echo", "ann");
    in_state(&session, &scheduled, "fired").await;
    assert_eq!(session.turns().await.len(), 1);
    assert_eq!(agent.asked().len(), 1);
    let run = session.user.run(id(&scheduled)).await;
    let journal = run["tasks"][0]["journal"].as_array().expect("a journal");
    assert_eq!(journal.iter().filter(|entry| entry["name"] == "send").count(), 1, "{journal:#?}");
}

#[tokio::test]
async fn what_was_sent_before_a_crash_is_not_sent_again_however_late() {
    // H-73. A process dies after the message was accepted and before that was recorded. What it sent is played here.
    use mainspring_client::{Admission, SendOptions};
    use mainspring_flows::{MessageBody, MessageKind, turn};
    let (server, session, agent) = echo().await;
    let scheduled = schedule(&session, &json!({ "text": "ask", "at_ms": now_ms() + 3_000 })).await;
    waiting(&session, &scheduled).await;
    let body = MessageBody {
        text: "ask".to_owned(),
        message_id: Some(format!("follow-up:{}", id(&scheduled))),
        kind: MessageKind::FollowUp,
        ..MessageBody::default()
    };
    let key = scheduled["session"].as_str().expect("a session");
    let client = server.state().client(crate::harness::TENANT_A);
    let once = body.message_id.clone().map(|mark| (mark, 30 * 24 * HOUR_MS));
    let options = SendOptions { admission: Admission { once, ..Admission::default() }, ..SendOptions::default() };
    let accepted = client.send(turn::WORKFLOW, key, &body, options).await.expect("accepted");
    let fired = in_state(&session, &scheduled, "fired").await;
    assert_eq!(fired["message_id"], accepted.message.to_string());
    assert_eq!(fired["turn_id"], accepted.run.to_string());
    assert_eq!((session.turns().await.len(), agent.asked().len()), (1, 1));
}

#[tokio::test]
async fn quiet_hours_move_it_to_their_end() {
    let (_server, session, _agent) = echo().await;
    // Kolkata is five and a half hours ahead, in summer and winter. Tomorrow at 17:30 UTC it is 23:00 there.
    let day_ms = 24 * HOUR_MS;
    let midnight = (now_ms() / day_ms + 1) * day_ms;
    let body = json!({
        "text": "ask", "at_ms": midnight + 17 * HOUR_MS + HOUR_MS / 2,
        "quiet_hours": { "from": "22:00", "to": "08:00" }, "time_zone": "Asia/Kolkata",
    });
    let scheduled = schedule(&session, &body).await;
    assert_eq!(scheduled["due_at"], midnight + day_ms + 2 * HOUR_MS + HOUR_MS / 2, "08:00 there");
    waiting(&session, &scheduled).await;
    assert_eq!(show(&session, &scheduled).await["due_at"], scheduled["due_at"]);
    let seconds = json!({ "text": "x", "at_ms": now_ms() / 1_000 });
    let (detail, _) = ask(&session, &seconds).await.problem(422, "follow_up_unusable");
    assert!(detail.contains("milliseconds"), "{detail}");
}

#[tokio::test]
async fn each_refusal_says_what_to_change() {
    let (server, session, _agent) = echo().await;
    let at_ms = now_ms() + HOUR_MS;
    for (body, status, code, says) in [
        (json!({ "text": "x" }), 400, "follow_up_malformed", "exactly one"),
        (json!({ "text": "x", "at_ms": at_ms, "after_silence_ms": 5 }), 400, "follow_up_malformed", "exactly one"),
        (json!({ "text": "x", "at_ms": at_ms, "on_message": "sing" }), 400, "follow_up_malformed", "keep"),
        (
            json!({ "text": "x", "at_ms": at_ms, "quiet_hours": { "from": "10pm", "to": "08:00" } }),
            400,
            "follow_up_malformed",
            "HH:MM",
        ),
        (json!({ "text": "x", "at_ms": at_ms + 400 * 24 * HOUR_MS }), 422, "follow_up_unusable", "400"),
        (json!({ "text": "x", "at_ms": at_ms, "on_message": "reschedule" }), 422, "follow_up_unusable", "silence"),
        (json!({ "text": "x", "at_ms": at_ms, "time_zone": "Mars/Olympus" }), 422, "follow_up_unusable", "IANA"),
        (json!({ "text": "x", "at_ms": at_ms, "expires_at_ms": at_ms - 1 }), 422, "follow_up_unusable", "expire"),
        (json!({ "text": "x".repeat(70_000), "at_ms": at_ms }), 413, "payload_too_large", "65536"),
        (json!({ "text": "x", "when": "soon" }), 400, "json_malformed", "when"),
    ] {
        let (detail, action) = ask(&session, &body).await.problem(status, code);
        assert!(detail.contains(says) || action.contains(says), "{detail} {action}");
    }
    let nobody = server.user().await.session("nobody", "ann");
    ask(&nobody, &json!({ "text": "x", "at_ms": at_ms })).await.problem(404, "agent_unknown");
    assert!(listed(&session).await.is_empty(), "what is refused is not scheduled");
}

#[tokio::test]
async fn a_session_has_a_hundred_at_most_and_the_list_shows_them() {
    let (_server, session, _agent) = echo().await;
    let at_ms = now_ms() + HOUR_MS;
    let mut racing = tokio::task::JoinSet::new();
    for nth in 0..100_u64 {
        let session = session.clone();
        racing.spawn(async move { schedule(&session, &json!({ "text": "x", "at_ms": at_ms + nth })).await });
    }
    let scheduled = racing.join_all().await;
    let body = json!({ "text": "one more", "at_ms": at_ms });
    ask(&session, &body).await.problem(429, "follow_ups_full");
    session.user.delete(&format!("/v1/follow-ups/{}", id(&scheduled[0]))).await.ok();
    let last = schedule(&session, &body).await;

    let listed = listed(&session).await;
    let live: Vec<&Value> = listed.iter().filter(|one| one["state"] == "scheduled").collect();
    assert_eq!(live.len(), 100);
    assert!(live.windows(2).all(|two| two[0]["due_at"].as_u64() <= two[1]["due_at"].as_u64()), "the next one first");
    assert!(live.iter().any(|one| one["id"] == last["id"]));
    assert!(listed[100..].iter().any(|one| one["id"] == scheduled[0]["id"]), "and those that ended lately");
    // One message reaches all that wait; one that does not yet would look when it is due.
    for one in scheduled[1..].iter().chain([&last]) {
        waiting(&session, one).await;
    }
    session.send("hello").await;
    eventually("all are cancelled", || async {
        let live = session.user.get(&format!("{}/follow-ups", session.path)).await.ok();
        let live = live["follow_ups"].as_array().expect("a list").iter().any(|one| one["state"] == "scheduled");
        (!live).then_some(())
    })
    .await;
}
