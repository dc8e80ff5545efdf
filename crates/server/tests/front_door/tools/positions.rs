//! A server that is killed at every position of its journal: what was written decides what happens next, for each policy.
//!
//! A call is carried out once. Then, for each record of the log, a server is started that finds the log up to it, and a
//! provider that has done, or has not done, whatever had left by then. Nothing that may not happen twice is sent again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::{Call, Provider, Then, begin, execute, execution, probe, put, server, tool};
use crate::harness::{User, eventually};

/// A provider that notes how many records the log had when it was called, and under which key.
struct Watched {
    provider: Provider,
    segment: Arc<OnceLock<crate::harness::Segment>>,
    left: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Watched {
    async fn start() -> Watched {
        let (segment, left) = (Arc::<OnceLock<crate::harness::Segment>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (log, noted) = (segment.clone(), left.clone());
        let provider = Provider::start(move |call: Call| {
            let (log, noted) = (log.clone(), noted.clone());
            async move {
                if call.path != "/probe"
                    && let Some(segment) = log.get()
                {
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    noted.push((segment.records(), call.key().to_owned()));
                }
                match call.path.as_str() {
                    "/probe" => call.probed(),
                    "/full" => Then::Answer(422, json!({})),
                    "/once" => Then::Answer(200, call.act_once()),
                    _ => Then::Answer(200, call.act()),
                }
            }
        })
        .await;
        Watched { provider, segment, left }
    }

    async fn define(&self, user: &User) {
        let provider = &self.provider;
        let at = |path: &str| json!({ "kind": "http", "url": provider.url(path) });
        put(user, "probe", &probe(provider)).await;
        put(user, "undo", &tool(provider, "idempotent", json!({ "provider": at("/once") }))).await;
        put(user, "full", &tool(provider, "idempotent", json!({ "provider": at("/full") }))).await;
        let probed = json!({ "tool": "probe", "arguments": { "key": "{{call.key}}" } });
        let undone = json!({ "tool": "undo" });
        let durable = |more: Value| {
            let mut tool = json!({ "path": "durable", "provider": at("/once") });
            tool.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            tool
        };
        put(user, "pure", &tool(provider, "pure", durable(json!({})))).await;
        put(user, "queued", &tool(provider, "idempotent", json!({ "provider": at("/once") }))).await;
        put(user, "idempotent", &tool(provider, "idempotent", durable(json!({})))).await;
        put(user, "compensatable", &tool(provider, "compensatable", json!({ "compensation": undone }))).await;
        put(user, "irreversible", &tool(provider, "irreversible", json!({}))).await;
        put(user, "probed", &tool(provider, "irreversible", json!({ "probe": probed }))).await;
        put(user, "book", &tool(provider, "compensatable", json!({ "compensation": undone, "probe": probed }))).await;
        let steps = ["book", "book", "full"].into_iter().enumerate();
        let steps: Vec<Value> = steps.map(|(nth, tool)| json!({ "name": format!("s{nth}"), "tool": tool })).collect();
        let plan = json!({ "policy": "compensatable", "provider": { "kind": "steps", "steps": steps } });
        put(user, "trip", &plan).await;
    }
}

/// An execution that does not go on by itself any more; `None` if nobody ever accepted it.
async fn stands(user: &User, id: &str) -> Option<Value> {
    eventually("it ends, or waits", || async {
        let found = user.get(&format!("/v1/tool-executions/{id}")).await;
        match found.status {
            404 => Some(None),
            _ => {
                Some(Some(found.ok())).filter(|found| found.as_ref().is_some_and(|found| found["status"] != "running"))
            }
        }
    })
    .await
}

/// Kills a server after each record of a call's history, and gives how it stood each time: after how many records,
/// whether the provider had acted, whether the call had left, how it ended, and how often the provider was called.
async fn killed_everywhere(name: &str) -> Vec<(usize, bool, bool, String, usize)> {
    let (server, user) = server().await;
    let watched = Watched::start().await;
    watched.define(&user).await;
    let mark = server.mark().await;
    assert!(watched.segment.set(server.segment()).is_ok(), "it is set once");
    let asked = json!({ "arguments": { "order": 5 }, "idempotency_key": "k", "wait_ms": 0 });
    let id = begin(&user, name, "k", json!({ "order": 5 })).await;
    execution(&user, &id, if name == "trip" { "compensated" } else { "done" }).await;
    let history = server.history(mark).await;
    // What left in this history; what the servers below send is noted as well, and not asked for.
    let all_left = watched.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(!all_left.is_empty(), "it was called");
    let mut found = Vec::new();
    for records in history.cuts() {
        let left: Vec<String> = all_left.iter().filter(|(at, _)| *at <= records).map(|(_, key)| key.clone()).collect();
        let mut variants = vec![left.clone()];
        if name != "trip" && !left.is_empty() {
            // It left, and never arrived.
            variants.push(Vec::new());
        }
        for done in variants {
            let mut done: Vec<String> = done.into_iter().filter(|key| !key.is_empty()).collect();
            done.dedup();
            // What was refused was not done.
            done.retain(|key| !key.ends_with(":s2"));
            watched.provider.reset(&done);
            let server = history.after(records).await;
            let user = server.user().await;
            let stood = match stands(&user, &id).await {
                Some(found) => found,
                // What nobody accepted is asked for again.
                None => {
                    assert!(left.is_empty(), "{name}: it left before it was on record, after {records} records");
                    let again = execute(&user, name, &asked).await.ok();
                    let again = again["execution_id"].as_str().expect("an execution").to_owned();
                    stands(&user, &again).await.expect("it was accepted")
                }
            };
            let calls = watched.provider.calls().iter().filter(|call| call.path != "/probe").count();
            let status = stood["status"].as_str().expect("a status").to_owned();
            for (key, times) in watched.provider.ledger() {
                assert_eq!(
                    times, 1,
                    "{name} after {records} records, {done:?} done before: {key} was done {times} times"
                );
            }
            if name == "trip" {
                for step in ["s0", "s1"] {
                    let of = |end: &str| watched.provider.ledger().keys().any(|key| key.ends_with(end));
                    assert_eq!(of(step), of(&format!("{step}:comp")), "{step} after {records} records");
                }
            }
            found.push((records, !done.is_empty(), !left.is_empty(), status, calls));
        }
    }
    found
}

#[tokio::test]
async fn what_may_happen_twice_is_done_wherever_the_server_is_killed() {
    for name in ["pure", "queued", "idempotent"] {
        for (records, _, _, status, _) in killed_everywhere(name).await {
            assert_eq!(status, "done", "{name} after {records} records");
        }
    }
}

#[tokio::test]
async fn what_may_not_happen_twice_is_done_once_or_unknown_wherever_the_server_is_killed() {
    for name in ["compensatable", "irreversible"] {
        let mut phases = std::collections::BTreeSet::new();
        for (records, done, left, status, calls) in killed_everywhere(name).await {
            let phase = match (left, status.as_str(), calls) {
                // Killed before it left: it is carried out as if nothing had been.
                (false, "done", 1) => "not begun",
                // The intent is on record, and nothing had left: nobody can know that.
                (false, "unknown", 0) => "begun",
                (true, "unknown", 0) => "in doubt",
                (true, "done", 0) => "known",
                other => panic!("{name} after {records} records, done {done}: {other:?}"),
            };
            phases.insert(phase);
        }
        assert!(["not begun", "in doubt", "known"].iter().all(|phase| phases.contains(phase)), "{name}: {phases:?}");
    }
}

#[tokio::test]
async fn what_can_be_asked_about_is_done_once_wherever_the_server_is_killed() {
    let mut asked = 0;
    for (records, done, left, status, calls) in killed_everywhere("probed").await {
        assert_eq!(status, "done", "after {records} records");
        if left && done {
            assert_eq!(calls, 0, "after {records} records");
            asked += 1;
        } else {
            assert!(calls <= 1, "after {records} records");
        }
    }
    assert!(asked > 0);
}

#[tokio::test]
async fn a_plan_that_fails_is_undone_once_wherever_the_server_is_killed() {
    for (records, _, _, status, _) in killed_everywhere("trip").await {
        assert_eq!(status, "compensated", "after {records} records");
    }
}
