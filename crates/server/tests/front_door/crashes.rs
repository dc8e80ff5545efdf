//! Restarts and crashes in the middle of things: what was accepted goes on, and is answered once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mainspring_client::{Context, Failure, WorkflowDef};
use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentSettings, OnMessage};
use serde_json::{Value, json};

use crate::harness::{
    Agent, Answer, Gate, Heard, Server, Setup, answer, eventually, http, in_time, reply, status, texts_of,
};

/// How a server comes to an end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// In order.
    ShutDown,
    /// Killed; the tables show everything that is in the log.
    Crash,
    /// Killed; the tables are as they were before anything happened, so everything is read from the log.
    CrashWithOldTables,
}

/// Holds its first requests until the gate opens.
async fn holding(gate: &Gate) -> Agent {
    let gate = gate.clone();
    Agent::start(move |asked| {
        let gate = gate.clone();
        async move {
            gate.passed().await;
            answer(&reply(&asked))
        }
    })
    .await
}

/// Does something on a server, ends it, and gives the next one.
async fn end<T>(server: Server, how: End, things: impl AsyncFnOnce(&Server) -> T) -> (Server, T) {
    let old_tables = server.tables_now().await;
    let done = things(&server).await;
    let next = match how {
        End::ShutDown => server.restart().await,
        End::Crash => server.crash(None).await,
        End::CrashWithOldTables => server.crash(Some(old_tables)).await,
    };
    (next, done)
}

async fn a_turn_in_the_middle_goes_on(how: End) {
    let gate = Gate::closed();
    let agent = holding(&gate).await;
    let server = Setup::new().agent("held", http(agent.url())).start().await;
    let (server, (first, second, key, mut heard)) = end(server, how, async |server| {
        let session = server.user().await.session("held", "ann");
        let mut events = session.events(0).await;
        let key = session.send_with_key("k1", &json!({ "text": "one" })).await.ok();
        let first = key["turn_id"].as_str().expect("a turn").to_owned();
        agent.asked_times(1).await;
        let second = session.send("two").await;
        let mut heard = Vec::new();
        while heard.iter().filter(|event: &&Heard| event.name == "message.accepted").count() < 2
            || !heard.iter().any(|event| event.name == "turn.processing")
        {
            heard.push(events.next().await.expect("the stream goes on"));
        }
        (first, second, key, heard)
    })
    .await;
    gate.open();

    let session = server.user().await.session("held", "ann");
    let last = heard.iter().filter_map(|event| event.id).max().expect("a durable event");
    heard.extend(session.events(last).await.until("turn.completed", &second).await);
    let ids: Vec<u64> = heard.iter().filter_map(|event| event.id).collect();
    let whole = session.events(0).await.until("turn.completed", &second).await;
    let all: Vec<u64> = whole.iter().filter_map(|event| event.id).collect();
    assert_eq!(ids, all, "no gap, no repeat ({how:?})");
    let replies: Vec<_> = whole.iter().filter(|event| event.name == "reply.sent").map(Heard::turn).collect();
    assert_eq!(replies, [first.as_str(), second.as_str()]);

    let (one, two) = (session.user.turn(&first).await, session.user.turn(&second).await);
    assert_eq!((texts_of(&one), texts_of(&two)), (vec!["one".to_owned()], vec!["two".to_owned()]));
    assert_eq!(session.turns().await.len(), 2);
    let asked: Vec<_> = agent.asked().iter().map(|asked| asked.header("mainspring-turn-id").to_owned()).collect();
    assert_eq!(asked, [&first, &first, &second].map(String::as_str), "asked again under the same id, once");
    let again = session.send_with_key("k1", &json!({ "text": "one" })).await.ok();
    assert_eq!((&again["duplicate"], &again["message_id"]), (&json!(true), &key["message_id"]));
}

#[tokio::test]
async fn a_turn_goes_on_after_a_restart_in_the_middle_of_it() {
    a_turn_in_the_middle_goes_on(End::ShutDown).await;
}

#[tokio::test]
async fn a_turn_goes_on_after_a_crash_in_the_middle_of_it() {
    a_turn_in_the_middle_goes_on(End::Crash).await;
}

#[tokio::test]
async fn a_turn_goes_on_after_a_crash_with_the_tables_far_behind() {
    a_turn_in_the_middle_goes_on(End::CrashWithOldTables).await;
}

#[tokio::test]
async fn a_turn_survives_one_crash_after_the_other() {
    let gate = Gate::closed();
    let agent = holding(&gate).await;
    let mut server = Setup::new().agent("held", http(agent.url())).start().await;
    let turn = server.user().await.session("held", "ann").send("one").await;
    for times in 1..=4 {
        agent.asked_times(times).await;
        let how = if times % 2 == 0 { End::Crash } else { End::ShutDown };
        (server, ()) = end(server, how, async |_| ()).await;
    }
    gate.open();
    let session = server.user().await.session("held", "ann");
    assert_eq!(session.user.turn_ended(&turn).await["reply"]["text"], "you said: one");
    assert_eq!(session.turns().await.len(), 1);
}

#[tokio::test]
async fn a_window_goes_on_after_a_crash_and_takes_what_comes_later() {
    for how in [End::Crash, End::CrashWithOldTables] {
        let agent = Agent::echo().await;
        let long = 600_000;
        let window = WindowRules { max_wait_ms: long, messages_max: 3, ..WindowRules::fixed(long) };
        let settings = AgentSettings { window, ..http(agent.url()) };
        let server = Setup::new().agent("echo", settings).start().await;
        let (server, turn) = end(server, how, async |server| {
            let session = server.user().await.session("echo", "ann");
            session.send("one").await;
            session.send("two").await
        })
        .await;
        let session = server.user().await.session("echo", "ann");
        assert_eq!(session.user.turn(&turn).await["state"], "accumulating");
        assert_eq!(session.send("three").await, turn);
        assert_eq!(texts_of(&session.user.turn_ended(&turn).await), ["one", "two", "three"]);
        assert_eq!(agent.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_window_that_ended_while_the_server_was_down_ends_at_once() {
    let agent = Agent::echo().await;
    let settings = AgentSettings { window: WindowRules::fixed(700), ..http(agent.url()) };
    let server = Setup::new().agent("echo", settings).start().await;
    let (server, turn) =
        end(server, End::Crash, async |server| server.user().await.session("echo", "ann").send("one").await).await;
    let turn = server.user().await.turn_ended(&turn).await;
    assert_eq!(
        (&turn["accumulation"]["ended_by"], &turn["reply"]["text"]),
        (&json!("timeout"), &json!("you said: one"))
    );
}

#[tokio::test]
async fn an_interruption_is_remembered_over_a_crash() {
    let gate = Gate::closed();
    let agent = holding(&gate).await;
    let settings = AgentSettings { on_message: OnMessage::Supersede, ..http(agent.url()) };
    let server = Setup::new().agent("held", settings).start().await;
    let (server, first) = end(server, End::CrashWithOldTables, async |server| {
        let session = server.user().await.session("held", "ann");
        let first = session.send("one").await;
        agent.asked_times(1).await;
        session.send("two").await;
        first
    })
    .await;
    gate.open();
    let session = server.user().await.session("held", "ann");
    let last = session.user.turn_after_all(&first).await;
    assert_eq!(texts_of(&last), ["one", "two"]);
    let completed = session.turns().await.iter().filter(|turn| turn["state"] == "completed").count();
    assert_eq!(completed, 1);
}

#[tokio::test]
async fn a_delivery_that_failed_before_a_crash_is_tried_again_under_the_same_id() {
    let agent = Agent::echo().await;
    let mended = Arc::new(AtomicBool::new(false));
    let works = mended.clone();
    let endpoint = Agent::start(move |_| {
        let works = works.load(Ordering::SeqCst);
        async move { status(if works { 200 } else { 500 }) }
    })
    .await;
    let settings = AgentSettings { deliver_url: Some(endpoint.url().to_owned()), ..http(agent.url()) };
    let server = Setup::new().agent("echo", settings).start().await;
    let (server, turn) = end(server, End::CrashWithOldTables, async |server| {
        let session = server.user().await.session("echo", "ann");
        let turn = session.send("one").await;
        session.user.turn_ended(&turn).await;
        endpoint.asked_times(1).await;
        turn
    })
    .await;
    mended.store(true, Ordering::SeqCst);
    let user = server.user().await;
    let run = user.runs("workflow=deliver-reply").await[0]["id"].as_str().expect("an id").to_owned();
    user.run_in_state(&run, "completed").await;
    let reply = user.turn(&turn).await["reply"]["id"].clone();
    assert!(endpoint.asked().iter().all(|post| post.header("mainspring-reply-id") == reply));
    assert_eq!(agent.asked().len(), 1, "the agent is not asked again for what it has answered");
}

#[tokio::test]
async fn a_recorded_step_is_not_repeated_after_a_crash_and_a_revoked_token_stays_revoked() {
    for how in [End::ShutDown, End::Crash, End::CrashWithOldTables] {
        let steps = Arc::new(AtomicU32::new(0));
        let counted = steps.clone();
        let setup = Setup::new().offer(move |worker| {
            let counted = counted.clone();
            worker.function(WorkflowDef::single("two steps", true), move |ctx: Context, name: String| {
                let counted = counted.clone();
                async move {
                    let first: u32 = ctx.run("first", || async { Ok(counted.fetch_add(1, Ordering::SeqCst)) }).await?;
                    let go: Value = ctx.wait_signal("go", None).await?.unwrap_or_default();
                    let second: u32 =
                        ctx.run("second", || async { Ok(counted.fetch_add(1, Ordering::SeqCst)) }).await?;
                    Ok::<_, Failure>(format!("{name} {first} {second} {go}"))
                }
            })
        });
        let (server, (run, gone)) = end(setup.start().await, how, async |server| {
            let user = server.user().await;
            let run = user.start("two%20steps", &json!("ann")).await;
            eventually("the first step is recorded", || async {
                let run = user.run(&run).await;
                (run["tasks"][0]["journal"][0]["state"] == "done").then_some(())
            })
            .await;
            let token = user.post("/v1/tokens", &json!({ "name": "gone" })).await.ok();
            let id = token["id"].as_str().expect("an id");
            assert_eq!(user.delete(&format!("/v1/tokens/{id}")).await.status, 204);
            (run, token["token"].as_str().expect("a token").to_owned())
        })
        .await;
        let user = server.user().await;
        user.post(&format!("/v1/runs/{run}/signals/go"), &json!("now")).await.ok();
        let ended = user.run_in_state(&run, "completed").await;
        assert_eq!(ended["output"], "ann 0 1 \"now\"", "{how:?}");
        assert_eq!(steps.load(Ordering::SeqCst), 2);
        Answer::of(user.bare(reqwest::Method::GET, "/v1/runs").bearer_auth(&gone)).await.problem(401, "token_invalid");
    }
}

#[tokio::test]
async fn an_open_stream_ends_when_the_server_does_so_that_its_reader_can_resume() {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    let mut events = session.events(0).await;
    let turn = session.send("one").await;
    events.until("turn.completed", &turn).await;
    let server = server.crash(None).await;
    assert!(in_time("the stream ends", events.next()).await.is_none());
    let session = server.user().await.session("echo", "ann");
    let turn = session.send("two").await;
    assert_eq!(session.user.turn_ended(&turn).await["state"], "completed");
}
