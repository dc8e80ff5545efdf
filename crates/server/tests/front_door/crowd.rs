//! Many sessions of two tenants at once: separate, ordered, each message answered once, nothing seen of each other.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, Answer, Server, Setup, TENANT_A, TENANT_B, User, answer, http, in_time, reply, texts_of};

/// Sends messages to many sessions of one tenant at once, and gives each session's texts.
async fn talk(user: &User, tag: &str, sessions: usize) -> HashMap<String, Vec<String>> {
    let mut talking = tokio::task::JoinSet::new();
    for nth in 0..sessions {
        let (session, tag) = (user.session("echo", &format!("person-{nth}")), tag.to_owned());
        talking.spawn(async move {
            let mut texts = Vec::new();
            for message in 0..2 + nth % 4 {
                let text = format!("{tag} {nth} {message}");
                session.send(&text).await;
                texts.push(text);
            }
            (format!("person-{nth}"), texts)
        });
    }
    let mut all = HashMap::new();
    while let Some(talked) = talking.join_next().await {
        all.extend([talked.expect("it went well")]);
    }
    all
}

async fn assert_answered(user: &User, sent: &HashMap<String, Vec<String>>) {
    for (person, texts) in sent {
        let turns = user.session("echo", person).turns().await;
        let mut answered = Vec::new();
        for turn in &turns {
            assert_eq!(turn["state"], "completed", "{turn:#}");
            assert_eq!(turn["reply"]["text"], format!("you said: {}", texts_of(turn).join(" | ")));
            answered.extend(texts_of(turn));
        }
        assert_eq!(&answered, texts, "{person}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_at_once_stay_separate_and_ordered() {
    let agent = Agent::start(|asked| async move {
        tokio::time::sleep(Duration::from_millis(asked.nth as u64 % 15)).await;
        answer(&reply(&asked))
    })
    .await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let (a, b) = (server.user_of(TENANT_A).await, server.user_of(TENANT_B).await);
    let (sent_a, sent_b) =
        in_time("everybody has spoken", async { tokio::join!(talk(&a, "a", 150), talk(&b, "b", 50)) }).await;
    assert_answered(&a, &sent_a).await;
    assert_answered(&b, &sent_b).await;

    let ids = |runs: Vec<Value>| -> HashSet<String> {
        runs.iter().map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
    };
    let (runs_a, runs_b) = (ids(a.runs("limit=200").await), ids(b.runs("limit=200").await));
    assert!(runs_a.len() >= 150 && runs_b.len() >= 50);
    assert!(runs_a.is_disjoint(&runs_b));
    // Nothing was answered that was not sent, and no turn of one session saw a message of another.
    for asked in agent.asked() {
        let session = asked.body["session"].as_str().expect("a session");
        let tag = if session.starts_with(&TENANT_A.to_string()) { "a" } else { "b" };
        let nth = asked.body["interlocutor"].as_str().expect("who").trim_start_matches("person-");
        assert!(asked.texts().iter().all(|text| text.starts_with(&format!("{tag} {nth} "))), "{:?}", asked.body);
    }
}

/// A server on which tenant A has talked, and what it got.
async fn talked() -> (Server, String, String) {
    let agent = Agent::echo().await;
    let server = Setup::new().agent("echo", http(agent.url())).start().await;
    let session = server.user().await.session("echo", "ann");
    let accepted = session.send_body(&json!({ "text": "a secret of A" })).await.ok();
    let id = |name: &str| accepted[name].as_str().expect("an id").to_owned();
    session.user.turn_ended(&id("turn_id")).await;
    (server, id("turn_id"), id("message_id"))
}

#[tokio::test]
async fn nothing_of_a_tenant_is_seen_or_changed_with_the_token_of_another() {
    let (server, turn, message) = talked().await;
    let (a, b) = (server.user_of(TENANT_A).await, server.user_of(TENANT_B).await);
    let paths = [format!("/v1/turns/{turn}"), format!("/v1/runs/{turn}"), format!("/v1/messages/{message}")];
    for path in &paths {
        assert_eq!(a.get(path).await.status, 200);
        b.get(path).await.problem(404, "not_found");
    }
    for verb in ["cancel", "resume", "signals/go"] {
        b.post(&format!("/v1/runs/{turn}/{verb}"), &json!({})).await.problem(404, "run_unknown");
    }
    for page in [format!("/turns/{turn}"), format!("/runs/{turn}")] {
        let shown = Answer::of(b.request(Method::GET, &page)).await;
        assert_eq!(shown.status, 404);
        assert!(!shown.text.contains("a secret of A"));
        assert_eq!(Answer::of(a.request(Method::GET, &page)).await.status, 200);
    }
    for page in ["/", "/runs", "/chat"] {
        let shown = Answer::of(b.request(Method::GET, page)).await;
        assert!(!shown.text.contains(&turn) && !shown.text.contains("secret"), "{page}");
    }
    assert_eq!(b.runs("").await, Vec::<Value>::new());
    assert_eq!(b.get(&format!("/v1/runs?cursor={turn}")).await.ok()["runs"], json!([]));
    let same_name = b.session("echo", "ann");
    assert_eq!(same_name.show().await["turns"], json!([]));

    // The stream of the session with the same name tells only what is B's, from the beginning and live.
    let mut events = same_name.events(0).await;
    a.session("echo", "ann").send("another secret").await;
    let own = same_name.send("hello from B").await;
    let heard = events.until("turn.completed", &own).await;
    assert!(heard.iter().all(|event| event.turn() == own), "{heard:#?}");

    let tokens = b.get("/v1/tokens").await.ok();
    let ids: Vec<_> = tokens["tokens"].as_array().expect("tokens").iter().map(|token| token["id"].clone()).collect();
    let of_a = a.get("/v1/tokens").await.ok()["tokens"][0]["id"].as_str().expect("a token").to_owned();
    assert!(!ids.contains(&json!(of_a)));
    b.delete(&format!("/v1/tokens/{of_a}")).await.problem(404, "token_unknown");
    assert_eq!(a.get("/v1/runs").await.status, 200, "and the token still holds");
}

#[tokio::test]
async fn an_event_of_one_tenant_wakes_nobody_in_another() {
    use mainspring_client::{Context, WorkflowDef};
    let setup = Setup::new().offer(|worker| {
        worker.function(WorkflowDef::single("listener", true), |ctx: Context, _: Value| async move {
            ctx.wait_for::<Value>("paid", Some("order 5"), None).await
        })
    });
    let server = setup.start().await;
    let (a, b) = (server.user_of(TENANT_A).await, server.user_of(TENANT_B).await);
    let (mine, theirs) = (a.start("listener", &Value::Null).await, b.start("listener", &Value::Null).await);
    let event = |who: &str| json!({ "name": "paid", "scope": "order 5", "data": who });
    for (user, run) in [(&a, &mine), (&b, &theirs)] {
        crate::harness::eventually("it waits", || async {
            user.run(run).await["tasks"][0]["journal"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
        })
        .await;
    }
    a.post("/v1/events", &event("a")).await.ok();
    assert_eq!(a.run_in_state(&mine, "completed").await["output"], "a");
    assert_eq!(b.run(&theirs).await["state"], "running");
    b.post("/v1/events", &event("b")).await.ok();
    assert_eq!(b.run_in_state(&theirs, "completed").await["output"], "b");
}
